//! What an operator says with a command.

use std::time::Duration;

use super::ControlError;
use crate::model::{Command, Control, Head, millis};

/// An operator's override: how long, by whom (at most 200 bytes), why (at most 1000).
///
/// ```
/// # use std::time::Duration;
/// # use commontrip::Override;
/// let maintenance = Override::because("database upgrade").by("ana").lasting(Duration::from_secs(300));
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Override {
    lasting: Option<Duration>,
    author: Option<String>,
    reason: String,
}

impl Override {
    /// An override without an end, for this reason, by this replica.
    pub fn because(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            ..Self::default()
        }
    }

    /// Says who sets it.
    pub fn by(mut self, author: impl Into<String>) -> Self {
        self.author = Some(author.into());
        self
    }

    /// Ends it after this time; at least 1 ms.
    pub fn lasting(mut self, time: Duration) -> Self {
        self.lasting = Some(time);
        self
    }

    /// Whether its texts are short enough to be kept.
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

    /// The command with these words; without an author it is whoever sends the head.
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
            for_ms: self.lasting.map_or(0, |time| millis(time).max(1)),
            author,
            reason: self.reason,
            policy,
            expects: 0,
        })
    }
}
