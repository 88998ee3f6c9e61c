//! Names of circuits.

use std::{fmt, sync::Arc};

/// What is wrong with a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} cannot name a circuit: a name has 1 to 200 bytes, no control characters and no braces"
)]
pub struct NameError {
    name: String,
}

/// The name of a circuit: 1 to 200 bytes, no control characters, no braces.
///
/// It is the hash tag of the circuit's keys, so that one circuit is one cluster slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// Checks a name.
    ///
    /// # Errors
    /// [`NameError`] when it is empty, longer than 200 bytes, or has control characters or braces.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let bad = |c: char| c.is_control() || c == '{' || c == '}';
        if name.is_empty() || name.len() > 200 || name.contains(bad) {
            let name = name.chars().take(200).collect();
            return Err(NameError { name });
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_a_hash_tag() {
        assert_eq!(
            Name::new("payments/eu ü").unwrap().as_str(),
            "payments/eu ü"
        );
        for bad in ["", "a{b", "a}b", "a\nb", &"x".repeat(201)] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        let error = Name::new("a\u{1b}[31m").unwrap_err().to_string();
        assert!(error.contains("no control characters") && !error.contains('\u{1b}'));
    }
}
