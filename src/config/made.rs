//! Health checks and fallbacks with settings from files and variables.
//!
//! Owns how settings reach the builders, and the origin of a setting that is out of range.

use super::{Config, ConfigError};
#[cfg(any(feature = "health", feature = "fallback"))]
use super::{
    names::upper,
    values::{Said, Values},
};

impl Config {
    /// Applies the configured settings to a health check; the others stay as in code.
    ///
    /// Settings of one check win over settings of all. Within each level, the environment wins over
    /// the file: code < `[default_check]` < `COMMONTRIP_CHECKS_…` < `[checks.name]` <
    /// `COMMONTRIP_CHECKS_NAME_…`. A running monitor does not follow the file.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use commontrip::{Commontrip, config::Config, health::{Check, HealthMonitor}};
    ///
    /// let circuits = Commontrip::embedded()?;
    /// let config = Config::from_env()?;
    /// let disk = Check::new("disk", || async { std::fs::metadata("/").map(|_| ()) });
    /// let monitor = HealthMonitor::builder(&circuits).check(config.health_check(disk)?).start()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ConfigError::Wrong`] when a setting is out of range, or not valid together with those in
    /// code.
    #[cfg(feature = "health")]
    pub fn health_check(
        &self,
        mut check: crate::health::Check,
    ) -> Result<crate::health::Check, ConfigError> {
        let said = self.checks.under(&self.environment.checks, check.name());
        for (key, (number, _)) in &said {
            check.set(key, *number);
        }
        if let Some((setting, must)) = check.out_of_range() {
            wrong(&said, setting, &format!("`{setting}` must {must}"))?;
        }
        Ok(check)
    }

    /// Applies the configured settings to a builder of last good values; the others stay as in
    /// code.
    ///
    /// The precedence is as in [`health_check`](Self::health_check): `[default_fallback]`,
    /// `COMMONTRIP_FALLBACKS_…`, `[fallbacks.name]`, `COMMONTRIP_FALLBACKS_NAME_…`.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use commontrip::{config::Config, fallback::LastGood};
    ///
    /// let ttl = ("COMMONTRIP_FALLBACKS_RATES_TTL".to_owned(), "2h".to_owned());
    /// let config = Config::from_variables([ttl])?;
    /// let rates: LastGood<f64> = config.last_good(LastGood::builder("rates"))?.build()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ConfigError::Wrong`] when a setting is out of range.
    #[cfg(feature = "fallback")]
    pub fn last_good<T>(
        &self,
        mut builder: crate::fallback::LastGoodBuilder<T>,
    ) -> Result<crate::fallback::LastGoodBuilder<T>, ConfigError> {
        let fallbacks = &self.environment.fallbacks;
        let said = self.fallbacks.under(fallbacks, builder.name());
        for (key, (number, _)) in &said {
            builder.set(key, *number);
        }
        if let Some((setting, error)) = builder.out_of_range() {
            wrong(&said, setting, &error.to_string())?;
        }
        Ok(builder)
    }

    /// Checks the settings of checks and fallbacks, including those that nobody builds.
    pub(super) fn check_values(&self) -> Result<(), ConfigError> {
        #[cfg(feature = "health")]
        for name in names(&self.checks, &self.environment.checks) {
            let nothing = || async { Ok::<(), std::io::Error>(()) };
            let _ = self.health_check(crate::health::Check::new(name, nothing))?;
        }
        #[cfg(feature = "fallback")]
        for name in names(&self.fallbacks, &self.environment.fallbacks) {
            let _ = self.last_good(crate::fallback::LastGood::<()>::builder(name))?;
        }
        Ok(())
    }
}

/// The names that have settings; an empty one stands for all. A name in variables that matches one
/// in the file is left out.
#[cfg(any(feature = "health", feature = "fallback"))]
fn names<'a>(file: &'a Said, environment: &'a Said) -> impl Iterator<Item = &'a str> {
    let of_file = |name: &&String| file.named.keys().any(|known| upper(known) == **name);
    let others = environment.named.keys().filter(move |name| !of_file(name));
    let named = file.named.keys().chain(others);
    std::iter::once("").chain(named.map(String::as_str))
}

/// An error at the origin of a setting that is out of range. If the setting is not configured, it
/// is the code's, and its builder rejects it.
#[cfg(any(feature = "health", feature = "fallback"))]
fn wrong(said: &Values, setting: &str, problem: &str) -> Result<(), ConfigError> {
    let of_setting = said.iter().find(|(key, _)| key.starts_with(setting));
    of_setting.map_or(Ok(()), |(_, (_, origin))| Err(origin.wrong(problem)))
}
