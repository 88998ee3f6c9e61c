//! What an operator says with a command.

use std::time::Duration;

use super::ControlError;
use crate::model::{Command, Control, Head, LARGEST, Snapshot, State, millis};

/// Who gives a command (at most 200 bytes), and why (at most 1000).
///
/// ```
/// # use commontrip::Note;
/// let note = Note::because("the upgrade is done").by("ana");
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Note {
    author: Option<String>,
    reason: String,
}

impl Note {
    /// A note with this reason; its author is this replica.
    pub fn because(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            author: None,
        }
    }

    /// Sets who gives the command.
    pub fn by(mut self, author: impl Into<String>) -> Self {
        self.author = Some(author.into());
        self
    }

    /// The command with this note; without an author, the author is the replica in the head.
    pub(crate) fn request(
        self,
        head: Head,
        command: Command,
        policy: String,
    ) -> Result<Control, ControlError> {
        self.check()?;
        let author = self.author.unwrap_or_else(|| head.replica.clone());
        Ok(Control {
            head,
            command,
            for_ms: 0,
            author,
            reason: self.reason,
            policy,
            expects: 0,
        })
    }

    /// Checks that the texts are short enough to be stored.
    pub(crate) fn check(&self) -> Result<(), ControlError> {
        let author = self.author.as_deref().unwrap_or_default();
        for (what, text, most) in [("author", author, 200), ("reason", &self.reason, 1000)] {
            let bytes = text.len();
            if bytes > most {
                return Err(ControlError::Text { what, bytes, most });
            }
        }
        Ok(())
    }
}

/// An operator's override: how long, by whom and why.
///
/// ```
/// # use std::time::Duration;
/// # use commontrip::Override;
/// let maintenance = Override::because("database upgrade").by("ana").lasting(Duration::from_secs(300));
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Override {
    note: Note,
    lasting: Option<Duration>,
    replaces: Option<u64>,
}

impl Override {
    /// An override without an end, for this reason, by this replica.
    pub fn because(reason: impl Into<String>) -> Self {
        Note::because(reason).into()
    }

    /// Sets who sets the override.
    pub fn by(mut self, author: impl Into<String>) -> Self {
        self.note = self.note.by(author);
        self
    }

    /// Ends the override after this time; at least 1 ms.
    pub fn lasting(mut self, time: Duration) -> Self {
        self.lasting = Some(time);
        self
    }

    /// Sets the override only if the one in force has this generation
    /// ([`Snapshot::generation`](crate::Snapshot::generation)), or for 0 only if none is in force;
    /// otherwise the command fails with [`ControlError::Overridden`]. By default, any override is
    /// replaced.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, ControlError, Override, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// let mine = Override::because("upgrade").by("ana").replacing(0);
    /// let seen = payments.force_open(mine.clone()).await?;
    /// assert!(matches!(payments.disable(mine).await, Err(ControlError::Overridden { .. })));
    /// payments.disable(Override::because("upgrade").replacing(seen.generation)).await?;
    /// # Ok(()) }
    /// ```
    pub const fn replacing(mut self, generation: u64) -> Self {
        self.replaces = Some(generation);
        self
    }

    /// The command that sets this override.
    pub(crate) fn request(self, head: Head, command: Command) -> Result<Control, ControlError> {
        let mut request = self.note.request(head, command, String::new())?;
        request.for_ms = self.lasting.map_or(0, |time| millis(time).max(1));
        // No generation reaches the largest number that is sent, so that number never matches.
        request.expects = self.replaces.map_or(0, |seen| seen.min(LARGEST - 1) + 1);
        Ok(request)
    }
}

impl From<Note> for Override {
    fn from(note: Note) -> Self {
        Self {
            note,
            lasting: None,
            replaces: None,
        }
    }
}

/// Checks whether an override was set, by the circuit's state after the command.
///
/// # Errors
/// [`ControlError::Overridden`] when it was not set, because the expected one was not in force.
pub(crate) fn confirm(request: &Control, after: &Snapshot) -> Result<(), ControlError> {
    let target = match request.command {
        Command::ForceOpen => State::ForcedOpen,
        Command::Disable => State::Disabled,
        Command::MetricsOnly => State::MetricsOnly,
        Command::Reset | Command::Policy => return Ok(()),
    };
    let is_ours = after.state == target
        && after.since_ms == after.now_ms
        && after.override_author == request.author
        && after.override_reason == request.reason;
    match request.expects == 0 || is_ours {
        true => Ok(()),
        false => Err(ControlError::Overridden {
            state: after.state,
            author: after.override_author.clone(),
            reason: after.override_reason.clone(),
            generation: after.generation,
        }),
    }
}

/// Keeps who and why, for commands without a duration. How long an override lasts and what it
/// [replaces](Override::replacing) have no meaning there.
impl From<Override> for Note {
    fn from(with: Override) -> Self {
        with.note
    }
}
