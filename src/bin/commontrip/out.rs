//! What the program writes, and how it ends.
//!
//! Owns `--json` and `--color`, and the exit status. A reader that went away is no error.

use std::{
    env,
    error::Error,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use commontrip::{ControlError, StoreError};
use serde::Serialize;

use crate::foreign::in_json;
pub use crate::foreign::shown;

/// What the exit status says, for the help of each command.
pub const STATUS: &str = "\
Exit status: 0 done, 1 what was asked about is not well or not there, 2 the command line is wrong,
3 the store does not answer.";

pub const RED: &str = "31";
pub const GREEN: &str = "32";
pub const YELLOW: &str = "33";
pub const MAGENTA: &str = "35";
pub const CYAN: &str = "36";
pub const DIM: &str = "2";
pub const BOLD: &str = "1";

/// How to write.
#[derive(Args, Debug, Clone, Copy)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Write JSON
    #[arg(long)]
    pub json: bool,

    /// When to colour; `auto` is on a terminal that NO_COLOR does not forbid
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: When,
}

/// When to colour.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// On a terminal, unless NO_COLOR or TERM=dumb is set
    Auto,
    /// Also into files and pipes
    Always,
    /// Not at all
    Never,
}

impl Output {
    /// Whether to colour.
    pub fn colour(&self) -> bool {
        match self.color {
            When::Always => true,
            When::Never => false,
            When::Auto => io::stdout().is_terminal() && !is_plain(),
        }
    }

    /// Text in a colour, where there are colours.
    pub fn paint(&self, code: &str, text: &str) -> String {
        paint(self.colour(), code, text)
    }

    /// Writes one JSON document, or the text.
    pub fn tell(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Done {
        let written = match self.json {
            true => format!("{}\n", in_json(&serde_json::to_string_pretty(value)?)),
            false => text(),
        };
        tell(&written)
    }
}

/// Whether the environment asks for no colours.
pub fn is_plain() -> bool {
    let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    set("NO_COLOR") || env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Text in a colour, if there are to be any.
pub fn paint(colour: bool, code: &str, text: &str) -> String {
    match colour {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

/// How a command ended.
pub type Done = Result<(), Failure>;

/// Why a command did not end well.
#[derive(Debug)]
pub enum Failure {
    /// Status 1: not well, or not there. Without words where they were written already.
    Not(String),
    /// Status 2: the command line is wrong.
    Usage(String),
    /// Status 3: the store does not answer.
    Store(String),
    /// Status 0: nobody reads any more.
    Unread,
}

impl Failure {
    /// Settings with which no store can be opened.
    pub fn of_settings(error: &StoreError) -> Self {
        let words = in_words(error);
        let words = words.strip_prefix("the store refused: ").unwrap_or(&words);
        Self::Usage(words.to_owned())
    }

    /// Says what is wrong, and ends with what that means.
    pub fn end(self) -> ExitCode {
        let (words, status) = match self {
            Self::Not(words) => (words, 1),
            Self::Usage(words) => (words, 2),
            Self::Store(words) => (words, 3),
            Self::Unread => return ExitCode::SUCCESS,
        };
        if !words.is_empty() {
            say(&words);
        }
        ExitCode::from(status)
    }
}

/// Says something to people, beside what the command writes.
pub fn say(words: &str) {
    let mut err = io::stderr().lock();
    for line in words.lines() {
        let _ = writeln!(err, "commontrip: {}", shown(line));
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(format!(
            "{}; `commontrip doctor` looks closer",
            in_words(&error)
        ))
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Store(error) => error.into(),
            ControlError::Unknown(_) | ControlError::Conflict { .. } => Self::Not(in_words(&error)),
            _ => Self::Usage(in_words(&error)),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::Not(format!("cannot write: {error}")),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Not(format!("cannot write as JSON: {error}"))
    }
}

/// An error with its causes, in one line.
pub fn in_words(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !words.contains(&said) {
            words = format!("{words}: {said}");
        }
        cause = error.source();
    }
    words
}

/// Writes text.
pub fn tell(text: &str) -> Done {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes one line of JSON.
pub fn tell_line(value: &impl Serialize) -> Done {
    tell(&format!("{}\n", in_json(&serde_json::to_string(value)?)))
}
