//! Names of circuits.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The error for an invalid circuit name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is not a valid circuit name: it must have 1 to 200 bytes, and no control characters or braces"
)]
pub struct NameError {
    name: String,
}

/// The name of a circuit: 1 to 200 bytes, no control characters, no braces.
///
/// The name is the hash tag of the circuit's keys, so that all keys of a circuit are in one slot of
/// a Cluster.
///
/// ```
/// use commontrip::Name;
///
/// assert_eq!(Name::new("payments/eu")?.as_str(), "payments/eu");
/// assert!(Name::new("").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// Checks a name.
    ///
    /// # Errors
    /// [`NameError`] if the name is empty, longer than 200 bytes, or has control characters or
    /// braces.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let bad = |c: char| c.is_control() || c == '{' || c == '}';
        if name.is_empty() || name.len() > 200 || name.contains(bad) {
            let name = name.chars().take(200).collect();
            return Err(NameError { name });
        }
        Ok(Self(name.into()))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(&name)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.as_str()
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
        let name: Name = serde_json::from_str("\"payments\"").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"payments\"");
        assert_eq!("payments".parse(), Ok(name));
        assert!(serde_json::from_str::<Name>("\"a{b\"").is_err());
        let error = Name::new("a\u{1b}[31m").unwrap_err().to_string();
        assert!(error.contains("no control characters") && !error.contains('\u{1b}'));
    }
}
