//! The settings of one circuit, layer over layer.
//!
//! Owns the precedence of settings, and the origin of each number in force.

use std::collections::BTreeMap;

use super::{Config, ConfigError, Origin, error::suggestion, names, settings::PolicySettings};
use crate::{OnStoreFailure, Policy, PolicyError, model::PRESETS};

/// The settings in force for a circuit, and their origins.
#[derive(Debug, Default)]
pub(super) struct Layers {
    numbers: BTreeMap<&'static str, (u64, Origin)>,
    on_store_failure: Option<OnStoreFailure>,
    /// The origin of the last section that was applied.
    origin: Option<Origin>,
}

impl Config {
    /// Checks all settings, including those that no circuit uses yet.
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
            // Circuits of the file were checked above. For the others, variables have the name only
            // in upper case, which is enough for this check.
            let of_file = |name: &String| names::upper(name) == *circuit;
            if !self.circuits.keys().any(of_file) {
                self.layers(circuit)?.check()?;
            }
        }
        self.check_values()
    }

    pub(super) fn layers(&self, circuit: &str) -> Result<Layers, ConfigError> {
        let none = PolicySettings::default();
        let file = self.circuits.get(circuit).unwrap_or(&none);
        let variables = &self.environment.circuits;
        let variables = variables.get(&names::upper(circuit)).unwrap_or(&none);
        let mut layers = Layers::default();
        layers.scope(self, &self.default, &self.environment.default)?;
        layers.scope(self, file, variables)?;
        Ok(layers)
    }
}

impl Layers {
    /// Applies what the file and the environment say about one circuit, or about all.
    fn scope(
        &mut self,
        config: &Config,
        file: &PolicySettings,
        variables: &PolicySettings,
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
        let found = PRESETS.into_iter().find(|(built_in, _)| *built_in == name);
        let Some((name, preset)) = found else {
            let built_in = PRESETS.iter().map(|(name, _)| *name);
            let known = built_in.chain(config.presets.keys().map(String::as_str));
            let problem = format!("there is no preset `{name}`{}", suggestion(name, known));
            return Err(origin.wrong(problem));
        };
        for (key, number) in preset {
            self.numbers.insert(key, (*number, Origin::BuiltIn(name)));
        }
        Ok(())
    }

    fn put(&mut self, settings: &PolicySettings) {
        let numbers = settings.numbers.iter();
        self.numbers
            .extend(numbers.map(|(key, number)| (*key, number.clone())));
        self.on_store_failure = settings.on_store_failure.or(self.on_store_failure);
        if settings.origin.is_some() {
            self.origin.clone_from(&settings.origin);
        }
    }

    /// Checks the settings, as far as they do not depend on the policy in code.
    fn check(&self) -> Result<(), ConfigError> {
        match Policy::default().check_stored(&self.pairs()) {
            // The code may set the one that is not set here.
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

    /// The error, with the origin of the setting that causes it.
    fn wrong(&self, error: &PolicyError) -> ConfigError {
        let keys = match error {
            PolicyError::OutOfRange { setting, .. } => [*setting; 2],
            PolicyError::Contradiction { setting, other, .. } => [*setting, *other],
            _ => ["failure_rate_threshold"; 2],
        };
        let set = keys.iter().filter_map(|key| self.numbers.get(key));
        let mut set = set.map(|(_, origin)| origin);
        // Prefer a setting that somebody wrote to one from a preset.
        let written = set
            .clone()
            .find(|origin| !matches!(origin, Origin::BuiltIn(_)));
        match written.or(set.next()).or(self.origin.as_ref()) {
            Some(origin) => origin.wrong(error.to_string()),
            // Nothing is configured, and a policy in code is valid.
            None => Origin::BuiltIn("default").wrong(error.to_string()),
        }
    }

    /// The resulting policy.
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
