//! A file that is followed as it changes.
//!
//! Owns when it is read again, and which circuits hear of it. Invariant: a file that is wrong changes
//! nothing.
//!
//! Polls the file's content: a ConfigMap is a chain of symbolic links of which one is replaced, a network
//! file system tells nobody of changes, and an editor may replace the file. Watching for each of these
//! asks more of a program than reading a small file once a second does.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{Config, ConfigError, read};
use crate::{CircuitBreaker, Commontrip, Policy, store::in_words};

/// How often the file is read.
const EVERY: Duration = Duration::from_secs(1);

/// A configuration whose file is followed, and the circuits that were taken from it.
///
/// Ends when it is dropped, or when its registry is shut down; circuits then keep the policies that they
/// have. Made by [`Config::watch`].
#[derive(Debug)]
#[must_use = "the file is followed until this is dropped"]
pub struct Live {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    circuits: Commontrip,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Config,
    /// Circuits that were taken, with their policies in code.
    taken: BTreeMap<String, Policy>,
}

impl Config {
    /// Follows the file: reads it once a second, and when it has changed gives its policies to the circuits
    /// that were taken from here, in place and without losing counts.
    ///
    /// A file that was written while it is read is taken when it has been the same twice. One that is wrong
    /// changes nothing and is said once in the log (`tracing`, a warning). Variables of the environment
    /// stay as they were. Must be called in a tokio runtime.
    pub fn watch(self, circuits: &Commontrip) -> Live {
        self.watch_every(EVERY, circuits)
    }

    /// [`watch`](Self::watch), reading every so often; at least each millisecond.
    pub fn watch_every(self, every: Duration, circuits: &Commontrip) -> Live {
        circuits.set_enabled(self.enabled());
        let shared = Arc::new(Shared {
            circuits: circuits.clone(),
            current: Mutex::new(Current {
                config: self,
                taken: BTreeMap::new(),
            }),
        });
        let every = every.max(Duration::from_millis(1));
        let task = tokio::spawn(follow(Arc::clone(&shared), every));
        Live { shared, task }
    }
}

impl Live {
    /// Takes a circuit with its policy, now and whenever the file changes.
    ///
    /// # Errors
    /// As [`Config::circuit`].
    pub fn circuit(&self, name: &str) -> Result<CircuitBreaker, ConfigError> {
        self.circuit_over(name, Policy::default())
    }

    /// [`circuit`](Self::circuit); what is said nowhere is as in `code`.
    ///
    /// # Errors
    /// As [`Config::policy_over`], and as [`Config::circuit`].
    pub fn circuit_over(&self, name: &str, code: Policy) -> Result<CircuitBreaker, ConfigError> {
        let mut current = self.shared.current.lock();
        let policy = current.config.policy_over(name, &code)?;
        let circuit = self.shared.circuits.circuit(name, policy)?;
        current.taken.insert(name.to_owned(), code);
        Ok(circuit)
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Config {
        self.shared.current.lock().config.clone()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    /// Puts another configuration in force, if all of it is right.
    fn apply(&self, config: Config) -> Result<(), ConfigError> {
        let mut current = self.current.lock();
        let policies: Result<Vec<_>, ConfigError> = current
            .taken
            .iter()
            .map(|(name, code)| Ok((name, config.policy_over(name, code)?)))
            .collect();
        for (name, policy) in policies? {
            self.circuits.circuit_with(name, policy)?;
        }
        self.circuits.set_enabled(config.enabled());
        current.config = config;
        Ok(())
    }

    fn take(&self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let environment = Arc::clone(&self.current.lock().config.environment);
        self.apply(Config::parse(path, text, environment)?)
    }
}

async fn follow(shared: Arc<Shared>, every: Duration) {
    let Some((path, text)) = shared.current.lock().config.file.clone() else {
        return;
    };
    // What was read last, what was done about, and what was complained about.
    let (mut seen, mut done, mut said) = (None, Some(text.to_string()), None);
    while !shared.circuits.has_ended() {
        tokio::time::sleep(every).await;
        let file = path.clone();
        // An error means that the runtime ends.
        let Ok(text) = spawn_blocking(move || read(&file)).await else {
            return;
        };
        let wrong = match text {
            Ok(text) if seen.as_ref() != Some(&text) => {
                seen = Some(text);
                continue;
            }
            Ok(text) if done.as_ref() == Some(&text) => continue,
            Ok(text) => {
                let taken = shared.take(&path, &text);
                done = Some(text);
                taken.err()
            }
            Err(error) => Some(error),
        };
        let Some(error) = wrong else {
            said = None;
            tracing::info!(file = %path.display(), "the configuration was read again");
            continue;
        };
        let words = in_words(&error);
        if said.as_ref() != Some(&words) {
            tracing::warn!(error = %words, "the configuration stays as it was");
            said = Some(words);
        }
    }
}
