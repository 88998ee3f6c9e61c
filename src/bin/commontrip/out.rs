//! The program's output and exit status.
//!
//! Owns `--json` and `--color`, and the exit status. A reader that goes away is not an error.

use std::{
    env,
    error::Error,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use commontrip::{ControlError, StoreError};
use serde::Serialize;

pub use crate::foreign::shown;
use crate::{
    asked::{Asked, asked},
    foreign::in_json,
    zone::Zone,
};

/// The meaning of the exit status, for the help of each command.
pub const STATUS: &str = "\
Exit status: 0 done, 1 unhealthy or not found, 2 the command line is wrong,
3 the store does not answer, 4 `simulate` cannot give an answer.";

pub const RED: &str = "31";
pub const GREEN: &str = "32";
pub const YELLOW: &str = "33";
pub const MAGENTA: &str = "35";
pub const CYAN: &str = "36";
pub const DIM: &str = "2";
pub const BOLD: &str = "1";

/// Output options.
#[derive(Args, Debug, Clone, Copy)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Write JSON
    #[arg(long)]
    pub json: bool,

    /// When to colour; `auto` is on a terminal that NO_COLOR does not forbid
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: When,

    /// Write times in UTC, not in the local time zone (TZ)
    #[arg(long)]
    pub utc: bool,
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
    /// Whether to use colour.
    pub fn colour(&self) -> bool {
        match self.color {
            When::Always => true,
            When::Never => false,
            When::Auto => io::stdout().is_terminal() && !is_plain(),
        }
    }

    /// Colours text, if colour is in use.
    pub fn paint(&self, code: &str, text: &str) -> String {
        paint(self.colour(), code, text)
    }

    /// Writes a value as one JSON document, or as text.
    pub fn tell(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Done {
        let written = match self.json {
            true => format!("{}\n", in_json(&serde_json::to_string_pretty(value)?)),
            false => text(),
        };
        tell(&written)
    }

    /// Writes what a command changed and in which store, as one JSON document or as text.
    pub fn tell_changed(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Done {
        let store = asked();
        let changed = Changed { value, store };
        self.tell(&changed, || {
            let place = store.map(Asked::place).unwrap_or_default();
            let label = self.paint(DIM, &format!("{:12}", "store"));
            format!("{}{label}{}\n", text(), shown(&place))
        })
    }

    /// The time zone of the output.
    pub fn zone(&self) -> Zone {
        match self.utc {
            true => Zone::utc(),
            false => Zone::local(),
        }
    }
}

/// What a command changed, and the store.
#[derive(Serialize)]
struct Changed<'a, T> {
    #[serde(flatten)]
    value: &'a T,
    store: Option<&'static Asked>,
}

/// Whether the environment asks for output without colour.
pub fn is_plain() -> bool {
    let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    set("NO_COLOR") || env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Colours text if `colour` is true.
pub fn paint(colour: bool, code: &str, text: &str) -> String {
    match colour {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

/// The result of a command.
pub type Done = Result<(), Failure>;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// Status 1: unhealthy or not found. Without a text if it was written already.
    Not(String),
    /// Status 2: the command line is wrong.
    Usage(String),
    /// Status 3: the store does not answer.
    Store(String),
    /// Status 4: the record does not answer the question. Without a text if it was written already.
    CannotTell(String),
    /// Status 0: the reader is gone.
    Unread,
}

impl Failure {
    /// The failure for settings with which no store can be opened.
    pub fn of_settings(error: &StoreError) -> Self {
        let words = in_words(error);
        let words = words
            .strip_prefix("the store's settings are wrong: ")
            .unwrap_or(&words);
        Self::Usage(words.to_owned())
    }

    /// Reports the failure and returns its exit status.
    pub fn end(self) -> ExitCode {
        let (words, status) = match self {
            Self::Not(words) => (words, 1),
            Self::Usage(words) => (words, 2),
            Self::Store(words) => match asked() {
                Some(asked) => (format!("{words}\n{}", asked.origin()), 3),
                None => (words, 3),
            },
            Self::CannotTell(words) => (words, 4),
            Self::Unread => return ExitCode::SUCCESS,
        };
        if !words.is_empty() {
            say(&words);
        }
        ExitCode::from(status)
    }
}

/// Writes a message for people to standard error.
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
            ControlError::Unknown(_)
            | ControlError::Conflict { .. }
            | ControlError::Overridden { .. } => Self::Not(in_words(&error)),
            ControlError::Unrecorded { .. } => Self::CannotTell(in_words(&error)),
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

/// Formats an error and its causes as one line.
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

/// Writes text to standard output.
pub fn tell(text: &str) -> Done {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes one line of JSON.
pub fn tell_line(value: &impl Serialize) -> Done {
    tell(&format!("{}\n", in_json(&serde_json::to_string(value)?)))
}
