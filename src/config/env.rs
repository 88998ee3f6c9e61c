//! What the environment says: `COMMONTRIP_JITTER=10`, `COMMONTRIP_PAYMENTS_JITTER=10`.
//!
//! Owns the names of variables. Others' variables that begin in the same way are left alone.

use std::collections::BTreeMap;

use super::{
    ConfigError, Origin,
    error::nearest,
    settings::{Settings, Word, words},
    tree::{Node, Value},
};

const PREFIX: &str = "COMMONTRIP_";
/// Beginnings of what is not a policy's: connections, the admin server, the crate's own tests and benches.
const OTHERS: [&str; 4] = ["REDIS_", "ADMIN_", "TEST_", "BENCH_"];
/// What Kubernetes sets in every pod where a service is named `commontrip`.
const SERVICE_LINKS: [&str; 3] = ["SERVICE_HOST", "SERVICE_PORT", "PORT"];

/// Settings of the environment.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) enabled: Option<bool>,
    pub(super) default: Settings,
    /// By the circuit's name as variables have it.
    pub(super) circuits: BTreeMap<String, Settings>,
}

/// The variables of the process that concern this crate.
pub(super) fn of_process() -> Vec<(String, String)> {
    let ours = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let name = name.into_string().ok()?;
        // What is not UTF-8 is not a setting, and will be said to be none.
        let value = value.to_string_lossy().into_owned();
        name.starts_with(PREFIX).then_some((name, value))
    };
    std::env::vars_os().filter_map(ours).collect()
}

/// A circuit's name as variables have it: `payments-eu` is `PAYMENTS_EU`.
pub(super) fn upper(circuit: &str) -> String {
    let letter = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_uppercase(),
        false => '_',
    };
    circuit.chars().map(letter).collect()
}

impl Environment {
    pub(super) fn parse(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut environment = Self::default();
        let sorted: BTreeMap<_, _> = variables.into_iter().collect();
        for (variable, value) in &sorted {
            // An empty variable is one that is not set.
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
        let Some((circuit, setting, word)) = parts(name) else {
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
        let value = match (word, value.parse()) {
            (Word::Number(_), Ok(number)) => Value::Number(number),
            _ => Value::Text(value.to_owned()),
        };
        settings.take(setting, word, &Node { value, origin })
    }
}

/// The circuit that a variable is about, if not all, and the setting: the longest that its name ends in.
fn parts(name: &str) -> Option<(Option<&str>, &'static str, Word)> {
    let found = words().filter_map(|(setting, word)| {
        let before = name.strip_suffix(&setting.to_ascii_uppercase())?;
        let circuit = match before {
            "" => None,
            _ => Some(
                before
                    .strip_suffix('_')
                    .filter(|circuit| !circuit.is_empty())?,
            ),
        };
        Some((circuit, setting, word))
    });
    found.max_by_key(|(_, setting, _)| setting.len())
}

fn is_others(name: &str) -> bool {
    let links = SERVICE_LINKS.iter().any(|link| {
        let rest = name.strip_prefix(link);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    });
    links || OTHERS.iter().any(|other| name.starts_with(other))
}

fn unknown(name: &str) -> String {
    // Where the circuit's name ends nobody knows: the end that is most like a setting is one.
    let starts = name.match_indices('_').map(|(at, _)| at + 1);
    let ends = std::iter::once(0).chain(starts);
    let alike = ends.filter_map(|at| {
        let end = name[at..].to_ascii_lowercase();
        let (likeness, meant) = nearest(&end, words().map(|(setting, _)| setting))?;
        Some((likeness, at, meant))
    });
    match alike.max_by(|(one, ..), (other, ..)| one.total_cmp(other)) {
        Some((_, at, meant)) => {
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
