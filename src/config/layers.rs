//! What is said of one circuit, one thing over the other.
//!
//! Owns the precedence, and where each number that is in force comes from.

use std::collections::BTreeMap;

use super::{Config, ConfigError, Origin, env, error::suggestion, presets, settings::Settings};
use crate::{OnStoreFailure, Policy, PolicyError};

/// What is in force for a circuit, and from where.
#[derive(Debug, Default)]
pub(super) struct Layers {
    numbers: BTreeMap<&'static str, (u64, Origin)>,
    on_store_failure: Option<OnStoreFailure>,
    /// Of the last section that says anything.
    origin: Option<Origin>,
}

impl Config {
    /// Checks everything that is said, also what no circuit uses yet.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let mut all = Layers::default();
        all.scope(self, &self.default, &self.environment.default)?;
        all.check()?;
        for settings in self.presets.values() {
            let mut alone = Layers::default();
            alone.put(settings);
            alone.check()?;
        }
        for circuit in self.circuits.keys() {
            self.layers(circuit)?.check()?;
        }
        for circuit in self.environment.circuits.keys() {
            // The same as of a circuit of that name, as far as variables can tell.
            self.layers(circuit)?.check()?;
        }
        Ok(())
    }

    pub(super) fn layers(&self, circuit: &str) -> Result<Layers, ConfigError> {
        let none = Settings::default();
        let file = self.circuits.get(circuit).unwrap_or(&none);
        let variables = &self.environment.circuits;
        let variables = variables.get(&env::upper(circuit)).unwrap_or(&none);
        let mut layers = Layers::default();
        layers.scope(self, &self.default, &self.environment.default)?;
        layers.scope(self, file, variables)?;
        Ok(layers)
    }
}

impl Layers {
    /// Puts on top what file and environment say of one circuit, or of all.
    fn scope(
        &mut self,
        config: &Config,
        file: &Settings,
        variables: &Settings,
    ) -> Result<(), ConfigError> {
        if let Some((name, origin)) = variables.preset.as_ref().or(file.preset.as_ref()) {
            self.preset(config, name, origin)?;
        }
        self.put(file);
        self.put(variables);
        Ok(())
    }

    fn preset(&mut self, config: &Config, name: &str, origin: &Origin) -> Result<(), ConfigError> {
        if let Some(preset) = config.presets.get(name) {
            self.put(preset);
            return Ok(());
        }
        let Some((name, preset)) = presets::built_in(name) else {
            let built_in = presets::ALL.iter().map(|(name, _)| *name);
            let known = built_in.chain(config.presets.keys().map(String::as_str));
            let problem = format!("there is no preset `{name}`{}", suggestion(name, known));
            return Err(origin.wrong(problem));
        };
        for (key, number) in preset {
            self.numbers.insert(key, (*number, Origin::BuiltIn(name)));
        }
        Ok(())
    }

    fn put(&mut self, settings: &Settings) {
        let numbers = settings.numbers.iter();
        self.numbers
            .extend(numbers.map(|(key, number)| (*key, number.clone())));
        self.on_store_failure = settings.on_store_failure.or(self.on_store_failure);
        if settings.origin.is_some() {
            self.origin.clone_from(&settings.origin);
        }
    }

    /// Checks what is said, as far as that does not depend on the policy in code.
    fn check(&self) -> Result<(), ConfigError> {
        match Policy::default().check_stored(&self.pairs()) {
            // The code may say something else of the one that is not set here.
            Err(PolicyError::Contradiction { setting, other, .. })
                if [setting, other]
                    .iter()
                    .any(|key| !self.numbers.contains_key(key)) =>
            {
                Ok(())
            }
            checked => checked.map(drop).map_err(|error| self.wrong(&error)),
        }
    }

    fn pairs(&self) -> String {
        let pairs = self.numbers.iter();
        let pairs = pairs.map(|(key, (number, _))| format!("{key}={number}"));
        pairs.collect::<Vec<_>>().join(" ")
    }

    /// The error, at the place that it comes from.
    fn wrong(&self, error: &PolicyError) -> ConfigError {
        let keys = match error {
            PolicyError::OutOfRange { setting, .. } => [*setting; 2],
            PolicyError::Contradiction { setting, other, .. } => [*setting, *other],
            _ => ["failure_rate_threshold"; 2],
        };
        let set = keys.iter().filter_map(|key| self.numbers.get(key));
        let mut set = set.map(|(_, origin)| origin);
        // What somebody wrote, rather than what a preset has.
        let written = set
            .clone()
            .find(|origin| !matches!(origin, Origin::BuiltIn(_)));
        match written.or(set.next()).or(self.origin.as_ref()) {
            Some(origin) => origin.wrong(error.to_string()),
            // Nothing was said, and a policy in code is valid.
            None => Origin::BuiltIn("default").wrong(error.to_string()),
        }
    }

    /// The policy that results.
    pub(super) fn over(&self, code: &Policy) -> Result<Policy, ConfigError> {
        let checked = code.check_stored(&self.pairs());
        let policy = code.with_stored(&checked.map_err(|error| self.wrong(&error))?);
        Ok(match self.on_store_failure {
            None => policy,
            Some(on_store_failure) => Policy {
                on_store_failure,
                ..policy
            },
        })
    }
}
