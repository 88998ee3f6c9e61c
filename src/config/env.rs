//! Settings from the environment: `COMMONTRIP_JITTER=10`, `COMMONTRIP_PAYMENTS_JITTER=10`.
//!
//! Owns which variables there are. Ignores other programs' variables with the same prefix.

use std::collections::BTreeMap;

use super::{
    ConfigError, Origin,
    names::{longest, starts},
    settings::{PolicySettings, Word, words},
    tree::{Node, Value},
    values::{CHECKS, FALLBACKS, Said},
};

use crate::model::policy_words::{Meant, elsewhere, guess};

const PREFIX: &str = "COMMONTRIP_";
/// Prefixes of variables that are not a policy's: connections, the admin server, the crate's own
/// tests and benches.
const OTHERS: [&str; 4] = ["REDIS_", "ADMIN_", "TEST_", "BENCH_"];
/// Variables that Kubernetes sets in every pod if a service is named `commontrip`.
const SERVICE_LINKS: [&str; 3] = ["SERVICE_HOST", "SERVICE_PORT", "PORT"];

/// Settings from the environment.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) enabled: Option<bool>,
    pub(super) default: PolicySettings,
    /// By the circuit's name, as [`upper`](super::names::upper) writes it.
    pub(super) circuits: BTreeMap<String, PolicySettings>,
    pub(super) checks: Said,
    pub(super) fallbacks: Said,
}

/// The variables of the process that concern this crate.
pub(super) fn of_process() -> Vec<(String, String)> {
    let ours = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let name = name.into_string().ok()?;
        // A value that is not UTF-8 cannot be valid, and is rejected when it is parsed.
        let value = value.to_string_lossy().into_owned();
        name.starts_with(PREFIX).then_some((name, value))
    };
    std::env::vars_os().filter_map(ours).collect()
}

impl Environment {
    pub(super) fn parse(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut environment = Self::default();
        let sorted: BTreeMap<_, _> = variables.into_iter().collect();
        for (variable, value) in &sorted {
            // An empty variable counts as not set.
            if let Some(name) = variable.strip_prefix(PREFIX)
                && !value.is_empty()
            {
                environment.take(variable, name, value)?;
            }
        }
        Ok(environment)
    }

    fn take(&mut self, variable: &str, name: &str, value: &str) -> Result<(), ConfigError> {
        let origin = Origin::Variable(variable.to_owned());
        if name == "ENABLED" {
            let enabled = value
                .parse()
                .map_err(|_| origin.wrong(format!("it is {value:?}, but must be true or false")))?;
            self.enabled = Some(enabled);
            return Ok(());
        }
        if let Some(rest) = name.strip_prefix(CHECKS.prefix) {
            return self.checks.take(&CHECKS, rest, value, origin);
        }
        if let Some(rest) = name.strip_prefix(FALLBACKS.prefix) {
            return self.fallbacks.take(&FALLBACKS, rest, value, origin);
        }
        let parts = longest(name, words())
            .filter(|(_, _, word)| *word != Word::Enabled || !is_elsewhere(name));
        let Some((circuit, setting, word)) = parts else {
            return match is_others(name) {
                true => Ok(()),
                false => Err(origin.wrong(unknown(name))),
            };
        };
        let settings = match circuit {
            None => &mut self.default,
            Some(circuit) => self.circuits.entry(circuit.to_owned()).or_default(),
        };
        settings.origin.get_or_insert_with(|| origin.clone());
        let value = Value::Text(value.to_owned());
        settings.take(setting, word, &Node { value, origin })
    }
}

/// Whether the name ends in another library's name for a setting, such as
/// `CIRCUIT_BREAKER_ENABLED`.
fn is_elsewhere(name: &str) -> bool {
    starts(name).any(|at| elsewhere(&name[at..]).is_some())
}

fn is_others(name: &str) -> bool {
    let links = SERVICE_LINKS.iter().any(|link| {
        let rest = name.strip_prefix(link);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    });
    links || OTHERS.iter().any(|other| name.starts_with(other))
}

fn unknown(name: &str) -> String {
    // Where the circuit's name ends is unknown: take the place after which the rest is most like a
    // setting.
    let guesses = starts(name).filter_map(|at| {
        let (likeness, meant) = guess(
            &name[at..].to_ascii_lowercase(),
            words().map(|(word, _)| word),
        )?;
        Some(((2.0 * likeness - 1.0) * (name.len() - at) as f64, at, meant))
    });
    let best = guesses.max_by(|(one, ..), (other, ..)| one.total_cmp(other));
    match best {
        Some((_, _, Meant::Elsewhere(here))) => {
            let capitals = if here.starts_with('`') {
                ", in capitals"
            } else {
                ""
            };
            format!("it names no setting: here it is {here}{capitals}")
        }
        Some((_, at, Meant::Word(meant))) => {
            let meant = meant.to_ascii_uppercase();
            let circuit = &name[..at];
            format!("it names no setting: did you mean {PREFIX}{circuit}{meant}?")
        }
        None => format!(
            "it names no setting: write {PREFIX}FAILURE_RATE_THRESHOLD for all circuits, \
             {PREFIX}PAYMENTS_FAILURE_RATE_THRESHOLD for the circuit `payments`"
        ),
    }
}
