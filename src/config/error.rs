//! What is wrong, where, and what would be right.

use std::{fmt, io, path::PathBuf, sync::Arc};

use crate::NameError;

/// Where a setting stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// In a file.
    File {
        /// The file.
        path: Arc<PathBuf>,
        /// The line, from 1 on.
        line: usize,
    },
    /// In a variable of the environment.
    Variable(String),
    /// In a preset that is built in.
    BuiltIn(&'static str),
}

impl Origin {
    pub(super) fn wrong(&self, problem: impl Into<String>) -> ConfigError {
        ConfigError::Wrong {
            origin: self.clone(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::BuiltIn(preset) => write!(f, "preset `{preset}`"),
        }
    }
}

/// Why there is no configuration, or no policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is of no known format.
    #[error("{} is no configuration: its name must end in .toml, .yaml or .yml", .0.display())]
    Format(PathBuf),
    /// Something in a file or a variable is wrong.
    #[error("{origin}: {problem}")]
    Wrong {
        /// Where.
        origin: Origin,
        /// What, and what would be right.
        problem: String,
    },
    /// A circuit cannot have that name.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// Words that are as alike as this are meant.
const ALIKE: f64 = 0.7;

/// The word that was meant, and how alike it is.
pub(super) fn nearest<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<(f64, &'a str)> {
    let alike = |other: &'a str| (strsim::normalized_damerau_levenshtein(word, other), other);
    let alike = known.into_iter().map(alike);
    let alike = alike.filter(|(likeness, _)| *likeness >= ALIKE);
    alike.max_by(|(one, _), (other, _)| one.total_cmp(other))
}

/// What to say of an unknown word: the one that was meant, or those that there are.
pub(super) fn suggestion<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
) -> String {
    match nearest(word, known.clone()) {
        Some((_, meant)) => format!(": did you mean `{meant}`?"),
        None => {
            let known: Vec<_> = known.into_iter().collect();
            format!(": there are {}", known.join(", "))
        }
    }
}
