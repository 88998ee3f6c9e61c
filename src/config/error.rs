//! Errors that say what is wrong, where, and what would be right.

use std::{fmt, io, path::PathBuf, sync::Arc};

use crate::{NameError, model::policy_words::nearest};

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A file.
    File {
        /// The file.
        path: Arc<PathBuf>,
        /// The line, from 1.
        line: usize,
    },
    /// A part of another configuration that serde has read.
    Embedded,
    /// An environment variable.
    Variable(String),
    /// A built-in preset.
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
            Self::Embedded => f.write_str("the configuration"),
            Self::Variable(name) => f.write_str(name),
            Self::BuiltIn(preset) => write!(f, "preset `{preset}`"),
        }
    }
}

/// Why a configuration or a policy is not valid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// The format of the file is not known.
    #[error("{} is not a configuration file: its name must end in .toml, .yaml or .yml", .0.display())]
    Format(PathBuf),
    /// Something in a file or a variable is wrong.
    #[error("{origin}: {problem}")]
    Wrong {
        /// Where the problem is.
        origin: Origin,
        /// What the problem is, and what would be right.
        problem: String,
    },
    /// A circuit cannot have that name.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// The hint for an unknown word: the word that was meant, or all known words.
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
