//! The kind of a failure, as its classifier names it.
//!
//! Owns the form of kinds and details: short texts, of characters that need no escaping.
//! Twin: `check` in `lua/lib/kinds.lua`.

use std::{borrow::Cow, fmt};

/// The longest kind, bytes.
pub(crate) const LONGEST_KIND: usize = 32;
/// The longest detail, bytes.
pub(crate) const LONGEST_DETAIL: usize = 120;
/// How many kinds are distinguished: for a circuit, and in one process.
pub(crate) const MOST_KINDS: usize = 16;
/// The kind under which a process counts the kinds beyond this limit.
pub(crate) const OTHER: &str = "other";

/// The kind of a failure: `timeout`, `status 503`, `connect`.
///
/// Operators see for each circuit which kinds of failures occurred recently, how often, and when:
/// [`Snapshot::failure_kinds`](crate::Snapshot::failure_kinds). A failure without a kind counts
/// like any other, but is not listed there.
///
/// A kind is a word from the code, not from a response, so that there are few kinds and none
/// contains a secret. It has up to 32 characters of `a-z`, `0-9`, `_`, `.`, `-` and space. Upper
/// case becomes lower case, other characters become `_`, and a longer kind is cut. A process
/// distinguishes 15 kinds for a circuit, and counts further ones as `other`.
///
/// ```
/// use commontrip::{FailureKind, Outcome};
///
/// let outcome = Outcome::failure_of("timeout");
/// assert_eq!(outcome.kind().unwrap().to_string(), "timeout");
/// assert_eq!(FailureKind::status(503).to_string(), "status 503");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailureKind {
    word: Word,
    detail: Option<Box<str>>,
}

/// A kind as the code wrote it; empty = no kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Named(&'static str),
    Status(u16),
}

impl Default for Word {
    fn default() -> Self {
        Self::Named("")
    }
}

impl FailureKind {
    /// Creates a kind with this name.
    #[must_use]
    pub const fn of(name: &'static str) -> Self {
        Self {
            word: Word::Named(name),
            detail: None,
        }
    }

    /// Creates the kind of a response with this status code: `status 503`.
    #[must_use]
    pub const fn status(code: u16) -> Self {
        Self {
            word: Word::Status(code),
            detail: None,
        }
    }

    /// No kind.
    pub(crate) const fn none() -> Self {
        Self::of("")
    }

    /// Adds a text about this failure. Operators see the latest text of each kind.
    ///
    /// The text is stored in Redis, and everybody who can see the circuit can read it. The
    /// integrations add none, because error messages often contain URLs, keys or personal data:
    /// pass only what you know to be harmless. At most 120 bytes are kept. Control characters are
    /// escaped.
    ///
    /// ```
    /// use commontrip::{FailureKind, Outcome};
    ///
    /// let deadlock = FailureKind::of("database").with_detail("SQLSTATE 40P01");
    /// assert_eq!(deadlock.detail(), Some("SQLSTATE 40P01"));
    /// let outcome = Outcome::failure_of(deadlock);
    /// # let _ = outcome;
    /// ```
    #[must_use]
    pub fn with_detail(mut self, detail: &str) -> Self {
        let mut text = String::new();
        for c in detail.trim().chars() {
            let from = text.len();
            match c.is_control() {
                true => text.extend(c.escape_default()),
                false => text.push(c),
            }
            if text.len() > LONGEST_DETAIL {
                text.truncate(from);
                break;
            }
        }
        self.detail = (!text.is_empty()).then(|| text.into());
        self
    }

    /// Returns the text about this failure.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    pub(crate) const fn word(&self) -> Word {
        self.word
    }

    /// Whether there is a kind.
    pub(crate) const fn is_named(&self) -> bool {
        match self.word {
            Word::Named(name) => !name.is_empty(),
            Word::Status(_) => true,
        }
    }
}

impl Word {
    /// Returns the kind as it is stored.
    pub(crate) fn text(self) -> Cow<'static, str> {
        match self {
            Self::Named(name) if is_clean(name) => Cow::Borrowed(name),
            Self::Named(name) => name.chars().take(LONGEST_KIND).map(clean).collect(),
            Self::Status(code) => format!("status {code}").into(),
        }
    }
}

/// Replaces a character that a kind cannot have.
fn clean(c: char) -> char {
    match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '_' | '.' | '-' | ' ') => c,
        _ => '_',
    }
}

/// Whether a text is a kind in its stored form.
pub(crate) fn is_clean(kind: &str) -> bool {
    (1..=LONGEST_KIND).contains(&kind.len()) && kind.chars().all(|c| clean(c) == c)
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.word.text())
    }
}

impl From<&'static str> for FailureKind {
    fn from(name: &'static str) -> Self {
        Self::of(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_short_and_of_plain_characters_whatever_the_code_wrote() {
        for (name, kept) in [
            ("timeout", "timeout"),
            ("HTTP/2 GoAway", "http_2 goaway"),
            ("größe\n", "gr__e_"),
            ("a-b_c.d 1", "a-b_c.d 1"),
            (
                "0123456789012345678901234567890123456789",
                "01234567890123456789012345678901",
            ),
        ] {
            assert_eq!(FailureKind::of(name).to_string(), kept);
            assert!(is_clean(kept));
        }
        assert!(!FailureKind::of("").is_named());
        assert!(!is_clean("") && !is_clean("A"));
        assert_eq!(FailureKind::status(u16::MAX).to_string(), "status 65535");
    }

    #[test]
    fn a_detail_is_short_and_has_no_control_characters() {
        let detail = |text: &str| FailureKind::of("x").with_detail(text).detail.clone();
        assert_eq!(
            detail(" a\n\u{1b}[31mb ").as_deref(),
            Some("a\\n\\u{1b}[31mb")
        );
        assert_eq!(detail(" \n"), None);
        assert_eq!(detail(&"ü".repeat(100)).unwrap().len(), LONGEST_DETAIL);
        assert_eq!(
            detail(&format!("{}\n", "a".repeat(119))).unwrap().len(),
            119
        );
    }
}
