//! Overrides that a command ends or replaces.
//!
//! Owns their description, and the question whether to replace one. Reading and commanding are two
//! requests. So an override replaces only the one that was read, unless `--replace` is given. Other
//! changes between the two requests are found in the circuit's events afterwards and reported.

use std::io::{self, BufRead, IsTerminal, Write};

use commontrip::{
    Event, Name, Reason, State,
    operator::{Operator, View},
};
use serde::Serialize;

use crate::{
    out::{Done, Failure, shown},
    words,
};

/// An override in force.
#[derive(Debug, Serialize)]
pub struct ActiveOverride {
    state: State,
    author: String,
    reason: String,
    since_ms: u64,
    /// 0 = until a reset.
    until_ms: u64,
    left_ms: u64,
}

impl ActiveOverride {
    /// The override of a circuit; `None` without one, or once it has expired.
    pub fn of(view: &View) -> Option<Self> {
        let seen = &view.snapshot;
        let is_over = seen.until_ms > 0 && view.left_ms == 0;
        (seen.state.is_override() && !is_over).then(|| Self {
            state: seen.state,
            author: seen.override_author.clone(),
            reason: seen.override_reason.clone(),
            since_ms: seen.since_ms,
            until_ms: seen.until_ms,
            left_ms: view.left_ms,
        })
    }

    /// Describes the override: what, by whom, why, and how much time it had left.
    pub fn in_words(&self) -> String {
        let by = shown(&self.author);
        let reason = match self.reason.as_str() {
            "" => String::new(),
            reason => format!(" ({})", shown(reason)),
        };
        let left = match self.until_ms {
            0 => "until a reset".to_owned(),
            _ => format!("{} left", words::span(self.left_ms)),
        };
        format!("{} by {by}{reason}, {left}", self.state)
    }
}

/// Describes a circuit's override in a line.
pub fn line(view: &View) -> Option<String> {
    let standing = ActiveOverride::of(view)?.in_words();
    Some(format!("  {}: {standing}", shown(view.name.as_str())))
}

/// Asks whether an override may be replaced.
///
/// # Errors
/// When the answer is no, or nobody can be asked.
pub fn may_replace(name: &Name, standing: &ActiveOverride) -> Done {
    let (name, standing) = (shown(name.as_str()), standing.in_words());
    let said = format!("`{name}` is {standing}");
    if !can_ask() {
        let words = format!("{said}; nothing was changed, --replace replaces it");
        return Err(Failure::Not(words));
    }
    match ask(&format!("{said}.\nReplace it?"))? {
        true => Ok(()),
        false => Err(Failure::Not("nothing was changed".to_owned())),
    }
}

/// Whether a terminal is there to answer a question.
pub fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks a question; only `yes` confirms.
pub fn ask(question: &str) -> Result<bool, Failure> {
    let mut err = io::stderr().lock();
    write!(err, "{question} Type yes: ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

/// What a command on one circuit ended.
#[derive(Debug, Serialize)]
pub struct Ended {
    /// The override in force when the command began.
    ended: Option<ActiveOverride>,
    /// Commands of others between the read and this command, whose overrides it ended too.
    meanwhile: Vec<Event>,
}

impl Ended {
    /// What a command ended, from the views before and after it.
    pub async fn by(operator: &Operator, before: &View, now: &View) -> Self {
        let (was, is) = (before.snapshot.generation, now.snapshot.generation);
        let events = match is == was + 1 {
            // Each override and reset increments the generation, so nothing came between.
            true => Vec::new(),
            // The command has succeeded, whether or not the events can be read.
            false => operator.events(now.name.as_str()).await.unwrap_or_default(),
        };
        let commands = events.into_iter().filter(|event| {
            let is_command = matches!(event.reason, Reason::Override | Reason::Reset);
            is_command && event.is_transition() && event.generation > was
        });
        let mut meanwhile: Vec<_> = commands.collect();
        let ours = |event: &Event| {
            let seen = &now.snapshot;
            event.generation == is || (event.to == seen.state && event.at_ms == seen.since_ms)
        };
        if let Some(at) = meanwhile.iter().position(ours) {
            meanwhile.truncate(at);
        }
        Self {
            ended: ActiveOverride::of(before),
            meanwhile,
        }
    }

    /// The same as rows of labels and text.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let ended = self.ended.iter().map(ActiveOverride::in_words);
        let ended = ended.map(|words| ("ended", words));
        let meanwhile = self.meanwhile.iter().map(|event| {
            let (change, story) = (words::change(event), words::story(event));
            (
                "meanwhile",
                format!("{change}, {story}; this came before the command and is over"),
            )
        });
        ended.chain(meanwhile).collect()
    }
}
