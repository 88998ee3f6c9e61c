//! Following a file as it changes.
//!
//! Owns when the file is read again, and which circuits are updated. Invariant: an invalid file
//! changes nothing.
//!
//! Why poll the content? A ConfigMap is a chain of symbolic links in which one is replaced, a
//! network file system does not announce changes, and an editor may replace the file. Reading a
//! small file once a second is simpler than watching for each of these.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::Instant,
};

use super::{Config, ConfigError, read};
use crate::{CircuitBreaker, Commontrip, Policy, store::in_words};
#[cfg(feature = "keyed")]
use {
    super::names::upper,
    crate::{NameError, keyed::KeyedCircuits},
};

/// How often the file is read.
const EVERY: Duration = Duration::from_secs(1);
/// When the log names the circuits that were not taken until then.
const SETTLED: Duration = Duration::from_secs(60);

/// A configuration that follows its file, and the circuits that were taken from it.
///
/// Ends when it is dropped, or when its registry is shut down; circuits then keep their policies.
/// Made by [`Config::watch`].
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::config::Config;
///
/// let config = Config::load("commontrip.toml")?.watch(&circuits);
/// let payments = config.circuit("payments")?; // follows the file
/// # Ok(()) }
/// ```
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
    /// Circuits that were taken, by name.
    taken: BTreeMap<String, Taken>,
    /// Prefixes of circuits by keys. Which keys will be used is not known.
    #[cfg(feature = "keyed")]
    prefixes: Vec<String>,
}

impl Config {
    /// Follows the file: reads it once a second and, when it has changed, updates the policies of
    /// the circuits that were taken from the returned [`Live`], in place and without losing counts.
    ///
    /// A change is applied once two reads in a row have the same content, so a half-written file is
    /// not used. An invalid file changes nothing and is logged once (`tracing`, a warning).
    /// Environment variables are not read again. After a minute the log names the circuits that are
    /// configured and that the process does not use. Must be called in a tokio runtime.
    pub fn watch(self, circuits: &Commontrip) -> Live {
        self.watch_every(EVERY, circuits)
    }

    /// [`watch`](Self::watch) with another interval, at least 1 ms.
    pub fn watch_every(self, every: Duration, circuits: &Commontrip) -> Live {
        circuits.set_enabled(self.enabled());
        let shared = Arc::new(Shared {
            circuits: circuits.clone(),
            current: Mutex::new(Current {
                config: self,
                taken: BTreeMap::new(),
                #[cfg(feature = "keyed")]
                prefixes: Vec::new(),
            }),
        });
        let every = every.max(Duration::from_millis(1));
        let task = tokio::spawn(follow(Arc::clone(&shared), every));
        Live { shared, task }
    }
}

impl Live {
    /// Returns a circuit that gets its policy now and whenever the file changes.
    ///
    /// # Errors
    /// As [`Config::circuit`].
    pub fn circuit(&self, name: &str) -> Result<CircuitBreaker, ConfigError> {
        self.circuit_over(name, Policy::default())
    }

    /// [`circuit`](Self::circuit), with settings that are not configured as in `code`.
    ///
    /// # Errors
    /// As [`Config::policy_over`], and as [`Config::circuit`].
    pub fn circuit_over(&self, name: &str, code: Policy) -> Result<CircuitBreaker, ConfigError> {
        let mut current = self.shared.current.lock();
        let policy = current.config.policy_over(name, &code)?;
        let circuit = self.shared.circuits.circuit(name, policy)?;
        current.config.switch(&circuit);
        let taken = Taken {
            code,
            by_key: false,
        };
        current.taken.insert(name.to_owned(), taken);
        Ok(circuit)
    }

    /// Circuits by keys that come from requests, as [`KeyedCircuits::new`] makes them. A circuit
    /// gets its policy when its key is first seen, and whenever the file changes. It is configured
    /// by its name, prefix included; settings that are not configured are as in `code`.
    ///
    /// If the settings of a circuit contradict those in code, it keeps the policy in code, and the
    /// log has the error (`tracing`, a warning).
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy, config::Config};
    /// # let circuits = Commontrip::embedded()?;
    /// let config = Config::load("commontrip.toml")?.watch(&circuits);
    /// let models = config.keyed("model:", |_key| Policy::default())?;
    /// let gpt = models.circuit("gpt-5"); // follows [circuits."model:gpt-5"]
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`KeyedCircuits::new`].
    #[cfg(feature = "keyed")]
    pub fn keyed(
        &self,
        prefix: &str,
        code: impl Fn(&str) -> Policy + Send + Sync + 'static,
    ) -> Result<KeyedCircuits, NameError> {
        let shared = Arc::clone(&self.shared);
        let take = move |name: &str, code: Policy| shared.take_by_key(name, code);
        let keyed = KeyedCircuits::taken_by(prefix, code, Box::new(take))?;
        self.shared.current.lock().prefixes.push(prefix.to_owned());
        Ok(keyed)
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

/// A circuit that was taken.
#[derive(Debug)]
struct Taken {
    code: Policy,
    /// Taken by a key, which cannot fail.
    by_key: bool,
}

impl Taken {
    /// Its policy: for a circuit by key the one in code, where the configured one is not valid.
    fn policy(&self, name: &str, config: &Config) -> Result<Policy, ConfigError> {
        match config.policy_over(name, &self.code) {
            Err(error) if self.by_key => {
                let error = in_words(&error);
                tracing::warn!(circuit = name, %error, "the circuit has the policy in code");
                Ok(self.code.clone())
            }
            policy => policy,
        }
    }
}

impl Shared {
    #[cfg(feature = "keyed")]
    fn take_by_key(&self, name: &str, code: Policy) -> Result<CircuitBreaker, NameError> {
        let mut current = self.current.lock();
        let taken = Taken { code, by_key: true };
        let policy = taken.policy(name, &current.config);
        let policy = policy.unwrap_or_else(|_| taken.code.clone());
        let circuit = self.circuits.circuit(name, policy)?;
        current.config.switch(&circuit);
        current.taken.insert(name.to_owned(), taken);
        Ok(circuit)
    }

    /// Logs the circuits that are configured and not used.
    fn say_unused(&self) {
        let current = self.current.lock();
        let mut unused = current.config.unused_circuits(&self.circuits);
        unused.retain(|name| !current.taken.contains_key(name));
        #[cfg(feature = "keyed")]
        unused.retain(|name| {
            let mut prefixes = current.prefixes.iter();
            !prefixes.any(|prefix| name.starts_with(prefix) || name.starts_with(&upper(prefix)))
        });
        if !unused.is_empty() {
            tracing::warn!(
                circuits = ?unused,
                "the configuration names circuits that this process does not use"
            );
        }
    }

    /// Puts another configuration in force, if all of it is valid.
    fn apply(&self, config: Config) -> Result<(), ConfigError> {
        let mut current = self.current.lock();
        let taken = current.taken.iter();
        let policies: Result<Vec<_>, ConfigError> = taken
            .map(|(name, taken)| Ok((name, taken.policy(name, &config)?)))
            .collect();
        for (name, policy) in policies? {
            let circuit = self.circuits.circuit_with(name, policy.clone())?;
            let before = current.config.policy_over(name, &current.taken[name].code);
            if let Ok(before) = before
                && before != policy
            {
                let differ = before.rules().differences(policy.rules());
                tracing::info!(circuit = name, %differ, "the circuit has another policy");
            }
            let said = [config.said_enabled(name), current.config.said_enabled(name)];
            // A switch that is no longer configured is on again; one that never was is the code's.
            if said != [None; 2] {
                circuit.set_enabled(said[0].unwrap_or(true));
            }
        }
        self.circuits.set_enabled(config.enabled());
        current.config = config;
        Ok(())
    }

    fn take(&self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let (table, environment) = {
            let config = &self.current.lock().config;
            (config.table.clone(), Arc::clone(&config.environment))
        };
        self.apply(Config::parse(path, text, table.as_deref(), environment)?)
    }
}

async fn follow(shared: Arc<Shared>, every: Duration) {
    let file = shared.current.lock().config.file.clone();
    let Some((path, text)) = file else {
        tokio::time::sleep(SETTLED).await;
        if !shared.circuits.has_ended() {
            shared.say_unused();
        }
        return;
    };
    // The content read last, the content applied last, and the error logged last.
    let (mut seen, mut done, mut said) = (None, Some(text.to_string()), None);
    let mut settled = Some(Instant::now() + SETTLED);
    while !shared.circuits.has_ended() {
        tokio::time::sleep(every).await;
        if settled.take_if(|at| *at <= Instant::now()).is_some() {
            shared.say_unused();
        }
        let file = path.clone();
        // An error means that the runtime is shutting down.
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
