//! Policies from files and the environment.
//!
//! Owns what is said where and which of it wins; ranges are the policy's own. What is wrong is an error
//! that names the file and the line, or the variable.

mod env;
mod error;
mod layers;
mod live;
mod presets;
mod settings;
mod tree;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::{env::Environment, error::suggestion, settings::Settings, tree::Node};
pub use self::{
    error::{ConfigError, Origin},
    live::Live,
};
use crate::{CircuitBreaker, Commontrip, Policy};

/// Policies of circuits by name, and whether breaking is on.
///
/// What is said of one circuit wins over what is said of all; of either, what is set wins over the preset,
/// and the environment over the file: code < `[default]`'s preset < `[default]` < `COMMONTRIP_…` < the
/// circuit's preset < `[circuits.name]` < `COMMONTRIP_NAME_…`.
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
    /// The file, and what it said.
    file: Option<(PathBuf, Arc<str>)>,
    enabled: Option<bool>,
    default: Settings,
    presets: BTreeMap<String, Settings>,
    circuits: BTreeMap<String, Settings>,
    environment: Arc<Environment>,
}

impl Config {
    /// Reads a file, TOML or YAML by its name's end, and the process' environment.
    ///
    /// # Errors
    /// [`ConfigError::Read`] when the file cannot be read, [`ConfigError::Format`] when its name does not end
    /// in `.toml`, `.yaml` or `.yml`, [`ConfigError::Wrong`] with the first thing that is wrong in it or in
    /// a variable.
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
        Self::parse(path.as_ref(), &text, environment)
    }

    /// Reads the process' environment alone.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`] with the first variable that is wrong.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(env::of_process())
    }

    /// [`from_env`](Self::from_env) with these variables in place of the process' environment.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub fn from_variables(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let config = Self {
            file: None,
            enabled: None,
            default: Settings::default(),
            presets: BTreeMap::new(),
            circuits: BTreeMap::new(),
            environment: Arc::new(Environment::parse(variables)?),
        };
        config.check()?;
        Ok(config)
    }

    fn parse(path: &Path, text: &str, environment: Arc<Environment>) -> Result<Self, ConfigError> {
        let mut config = Self {
            file: Some((path.to_owned(), Arc::from(text))),
            enabled: None,
            default: Settings::default(),
            presets: BTreeMap::new(),
            circuits: BTreeMap::new(),
            environment,
        };
        let root = tree::read(path, text)?;
        for (key, node) in root.table("the file")? {
            match key.text.as_str() {
                "enabled" => config.enabled = Some(node.flag(&key.text)?),
                "default" => config.default = Settings::read(node, &key.text, true)?,
                "presets" => config.presets = sections(node, &key.text, false)?,
                "circuits" => config.circuits = sections(node, &key.text, true)?,
                other => {
                    let known = ["enabled", "default", "presets", "circuits"];
                    let problem = format!("unknown key `{other}`{}", suggestion(other, known));
                    return Err(key.origin.wrong(problem));
                }
            }
        }
        config.check()?;
        Ok(config)
    }

    /// Whether breaking is on: `COMMONTRIP_ENABLED`, else `enabled` of the file, else `true`.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.environment.enabled.or(self.enabled).unwrap_or(true)
    }

    /// The policy of a circuit, also of one that is not named anywhere.
    ///
    /// # Errors
    /// As [`policy_over`](Self::policy_over).
    pub fn policy(&self, circuit: &str) -> Result<Policy, ConfigError> {
        self.policy_over(circuit, &Policy::default())
    }

    /// The policy of a circuit; what is said nowhere is as in `code`.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`] when settings that are right by themselves make no policy together with
    /// those in code.
    pub fn policy_over(&self, circuit: &str, code: &Policy) -> Result<Policy, ConfigError> {
        self.layers(circuit)?.over(code)
    }

    /// Takes a circuit with its policy, and switches breaking in this process as
    /// [`enabled`](Self::enabled) says.
    ///
    /// # Errors
    /// [`ConfigError::Name`] when a circuit cannot have that name, else as [`policy`](Self::policy).
    pub fn circuit(
        &self,
        circuits: &Commontrip,
        name: &str,
    ) -> Result<CircuitBreaker, ConfigError> {
        let policy = self.policy(name)?;
        circuits.set_enabled(self.enabled());
        Ok(circuits.circuit(name, policy)?)
    }
}

/// Sections by name.
fn sections(
    node: &Node,
    of: &str,
    presets: bool,
) -> Result<BTreeMap<String, Settings>, ConfigError> {
    let mut sections = BTreeMap::new();
    for (key, node) in node.table(of)? {
        if !presets && presets::built_in(&key.text).is_some() {
            let problem = format!("preset `{}` is built in: choose another name", key.text);
            return Err(key.origin.wrong(problem));
        }
        let name = format!("{of}.{}", key.text);
        let mut settings = Settings::read(node, &name, presets)?;
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
