//! Policies, and settings of checks and fallbacks, from files and the environment.
//!
//! Owns the sources of settings and their precedence; the policy owns the ranges. An error names
//! the file and the line, or the variable.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use commontrip::{Commontrip, config::Config};
//!
//! let circuits = Commontrip::embedded()?;
//! let config = Config::load("commontrip.toml")?.watch(&circuits);
//! let payments = config.circuit("payments")?;
//! # Ok(()) }
//! ```

mod env;
mod error;
mod layers;
mod live;
mod made;
mod names;
mod settings;
mod tree;
mod values;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, de::Error};

use self::{
    env::Environment,
    error::suggestion,
    settings::{PolicySettings, Section},
    tree::Node,
    values::{CHECKS, FALLBACKS, Said},
};
pub use self::{
    error::{ConfigError, Origin},
    live::Live,
};
use crate::{CircuitBreaker, Commontrip, Policy, model::PRESETS};

/// Policies of circuits by name, and whether circuit breaking is on.
///
/// Settings of one circuit win over settings of all. Within each level, a setting wins over the
/// preset, and the environment over the file: code < `[default]`'s preset < `[default]` <
/// `COMMONTRIP_…` < the circuit's preset < `[circuits.name]` < `COMMONTRIP_NAME_…`.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::config::Config;
///
/// let file = std::env::temp_dir().join("commontrip-doc-config.toml");
/// std::fs::write(&file, "
///     [default]
///     failure_rate_threshold = 40
///
///     [circuits.payments]
///     preset = 'database'
///     wait_duration_in_open_state = '20s'
/// ")?;
/// let config = Config::load(&file)?;
/// let rules = *config.policy("payments")?.rules();
/// assert_eq!((rules.failure_rate_threshold, rules.wait_duration_in_open_state_ms), (40, 20_000));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// The file and its content.
    file: Option<(PathBuf, Arc<str>)>,
    /// The table of the file to read; the whole file if `None`.
    table: Option<String>,
    enabled: Option<bool>,
    default: PolicySettings,
    presets: BTreeMap<String, PolicySettings>,
    circuits: BTreeMap<String, PolicySettings>,
    checks: Said,
    fallbacks: Said,
    environment: Arc<Environment>,
}

impl Config {
    /// Reads a TOML or YAML file, by its extension, and the process' environment.
    ///
    /// # Errors
    /// [`ConfigError::Read`] when the file cannot be read, [`ConfigError::Format`] when its name
    /// does not end in `.toml`, `.yaml` or `.yml`, [`ConfigError::Wrong`] with the first thing that
    /// is wrong in it or in a variable.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::load_with(path, env::of_process())
    }

    /// [`load`](Self::load) with these variables in place of the process' environment.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(
        path: impl AsRef<Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let environment = Arc::new(Environment::parse(variables)?);
        let text = read(path.as_ref())?;
        Self::parse(path.as_ref(), &text, None, environment)
    }

    /// [`load`](Self::load) from one table of a file that has others: with
    /// `load_table("service.toml", "commontrip")`, `[circuits]` is `[commontrip.circuits]` there. A
    /// file without the table has no settings.
    ///
    /// ```no_run
    /// use commontrip::config::Config;
    ///
    /// // `[commontrip.circuits.payments]` in the service's own file.
    /// let policy = Config::load_table("service.toml", "commontrip")?.policy("payments")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_table(path: impl AsRef<Path>, table: &str) -> Result<Self, ConfigError> {
        let environment = Arc::new(Environment::parse(env::of_process())?);
        let text = read(path.as_ref())?;
        Self::parse(path.as_ref(), &text, Some(table), environment)
    }

    /// Reads only the process' environment.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`] with the first variable that is wrong.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(env::of_process())
    }

    /// [`from_env`](Self::from_env) with these variables in place of the process' environment.
    ///
    /// ```
    /// use commontrip::config::Config;
    ///
    /// let off = ("COMMONTRIP_ENABLED".to_owned(), "false".to_owned());
    /// assert!(!Config::from_variables([off])?.enabled());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub fn from_variables(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let environment = Arc::new(Environment::parse(variables)?);
        let config = Self::empty(environment);
        config.check()?;
        Ok(config)
    }

    fn empty(environment: Arc<Environment>) -> Self {
        Self {
            file: None,
            table: None,
            enabled: None,
            default: PolicySettings::default(),
            presets: BTreeMap::new(),
            circuits: BTreeMap::new(),
            checks: Said::default(),
            fallbacks: Said::default(),
            environment,
        }
    }

    fn parse(
        path: &Path,
        text: &str,
        table: Option<&str>,
        environment: Arc<Environment>,
    ) -> Result<Self, ConfigError> {
        let root = tree::read(path, text)?;
        let mut config = Self::empty(environment);
        config.file = Some((path.to_owned(), Arc::from(text)));
        config.table = table.map(str::to_owned);
        match table {
            None => config.take(&root, "the file")?,
            Some(table) => {
                let tables = root.table("the file")?.iter();
                for (_, node) in tables.filter(|(key, _)| key.text == table) {
                    config.take(node, table)?;
                }
            }
        }
        config.check()?;
        Ok(config)
    }

    /// Takes the settings of a file, or of a table of it.
    fn take(&mut self, node: &Node, name: &str) -> Result<(), ConfigError> {
        for (key, node) in node.table(name)? {
            match key.text.as_str() {
                "enabled" => self.enabled = Some(node.flag(&key.text)?),
                "default" => {
                    self.default = PolicySettings::read(node, &key.text, Section::Default)?
                }
                "presets" => self.presets = sections(node, &key.text, Section::Preset)?,
                "circuits" => self.circuits = sections(node, &key.text, Section::Circuit)?,
                key if key == CHECKS.default => self.checks.read_default(&CHECKS, node)?,
                key if key == CHECKS.table => self.checks.read_named(&CHECKS, node)?,
                key if key == FALLBACKS.default => self.fallbacks.read_default(&FALLBACKS, node)?,
                key if key == FALLBACKS.table => self.fallbacks.read_named(&FALLBACKS, node)?,
                other => {
                    let known = [
                        "enabled",
                        "default",
                        "presets",
                        "circuits",
                        CHECKS.default,
                        CHECKS.table,
                        FALLBACKS.default,
                        FALLBACKS.table,
                    ];
                    let problem = format!("unknown key `{other}`{}", suggestion(other, known));
                    return Err(key.origin.wrong(problem));
                }
            }
        }
        Ok(())
    }

    /// Whether circuit breaking is on: `COMMONTRIP_ENABLED`, else `enabled` of the file, else
    /// `true`.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.environment.enabled.or(self.enabled).unwrap_or(true)
    }

    /// Whether a circuit is on: `COMMONTRIP_NAME_ENABLED`, else `enabled` of `[circuits.name]`,
    /// else `true`. [`enabled`](Self::enabled) switches all of them.
    ///
    /// ```
    /// use commontrip::config::Config;
    ///
    /// let off = ("COMMONTRIP_PAYMENTS_ENABLED".to_owned(), "false".to_owned());
    /// let config = Config::from_variables([off])?;
    /// assert!(!config.circuit_enabled("payments") && config.circuit_enabled("orders"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn circuit_enabled(&self, circuit: &str) -> bool {
        self.said_enabled(circuit).unwrap_or(true)
    }

    fn said_enabled(&self, circuit: &str) -> Option<bool> {
        let variables = self.environment.circuits.get(&names::upper(circuit));
        let said = [variables, self.circuits.get(circuit)];
        said.into_iter().flatten().find_map(|from| from.enabled)
    }

    /// Switches a circuit on or off if that is configured; otherwise it is the code's.
    fn switch(&self, circuit: &CircuitBreaker) {
        if let Some(enabled) = self.said_enabled(circuit.name()) {
            circuit.set_enabled(enabled);
        }
    }

    /// The policy of a circuit, which need not be configured.
    ///
    /// # Errors
    /// As [`policy_over`](Self::policy_over).
    pub fn policy(&self, circuit: &str) -> Result<Policy, ConfigError> {
        self.policy_over(circuit, &Policy::default())
    }

    /// The policy of a circuit, with settings that are not configured as in `code`.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`] when settings that are valid by themselves are not valid together
    /// with those in code.
    pub fn policy_over(&self, circuit: &str, code: &Policy) -> Result<Policy, ConfigError> {
        self.layers(circuit)?.over(code)
    }

    /// Circuits that the file or the environment configures and that the registry does not have:
    /// most likely their names are misspelt. Names from the environment are in capitals.
    ///
    /// Ask once the service has made its circuits. A [`Live`] logs them after a minute.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use commontrip::{Commontrip, config::Config};
    ///
    /// let circuits = Commontrip::embedded()?;
    /// let jitter = ("COMMONTRIP_PAYMETS_JITTER".to_owned(), "20".to_owned());
    /// let config = Config::from_variables([jitter])?;
    /// let payments = config.circuit(&circuits, "payments")?;
    /// assert_eq!(config.unused_circuits(&circuits), ["PAYMETS"]);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn unused_circuits(&self, circuits: &Commontrip) -> Vec<String> {
        let used = circuits.names();
        let in_file = self.circuits.keys();
        let in_file = in_file.filter(|name| !used.iter().any(|used| used.as_str() == *name));
        let variables = self.environment.circuits.keys();
        let variables = variables.filter(|name| {
            !used
                .iter()
                .any(|used| names::upper(used.as_str()) == **name)
        });
        // A circuit that both configure is named as in the file.
        let variables =
            variables.filter(|name| !self.circuits.keys().any(|key| names::upper(key) == **name));
        in_file.chain(variables).cloned().collect()
    }

    /// Returns a circuit with its policy. Switches circuit breaking in this process as
    /// [`enabled`](Self::enabled) says, and the circuit if its own switch is configured.
    ///
    /// # Errors
    /// [`ConfigError::Name`] when a circuit cannot have that name, otherwise as
    /// [`policy`](Self::policy).
    pub fn circuit(
        &self,
        circuits: &Commontrip,
        name: &str,
    ) -> Result<CircuitBreaker, ConfigError> {
        let policy = self.policy(name)?;
        circuits.set_enabled(self.enabled());
        let circuit = circuits.circuit(name, policy)?;
        self.switch(&circuit);
        Ok(circuit)
    }
}

/// As a part of your own configuration, in any self-describing format. The process' environment
/// overrides it, as it does a file.
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct Service {
///     port: u16,
///     commontrip: commontrip::config::Config,
/// }
///
/// let text = r#"{"port": 8080, "commontrip": {"circuits": {"payments": {"window": "30s"}}}}"#;
/// let service: Service = serde_json::from_str(text)?;
/// assert_eq!(service.commontrip.policy("payments")?.rules().window_ms, 30_000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let root = tree::embedded(toml::Value::deserialize(from)?);
        let read = || {
            let mut config = Self::empty(Arc::new(Environment::parse(env::of_process())?));
            config.take(&root, "the configuration")?;
            config.check()?;
            Ok(config)
        };
        read().map_err(|error: ConfigError| D::Error::custom(error))
    }
}

/// Sections by name.
fn sections(
    node: &Node,
    of: &str,
    kind: Section,
) -> Result<BTreeMap<String, PolicySettings>, ConfigError> {
    let mut sections = BTreeMap::new();
    for (key, node) in node.table(of)? {
        if kind == Section::Preset && PRESETS.iter().any(|(name, _)| *name == key.text) {
            let problem = format!("preset `{}` is built in: choose another name", key.text);
            return Err(key.origin.wrong(problem));
        }
        let name = format!("{of}.{}", key.text);
        let mut settings = PolicySettings::read(node, &name, kind)?;
        settings.origin = Some(key.origin.clone());
        sections.insert(key.text.clone(), settings);
    }
    Ok(sections)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}
