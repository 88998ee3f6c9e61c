//! Settings of health checks and of fallbacks: `[checks.orders-db]`, `[fallbacks.speech]`.
//!
//! Owns which settings these have and their precedence; the builders own the ranges.

use std::collections::BTreeMap;

use super::{
    ConfigError, Origin,
    error::suggestion,
    names::{longest, starts, upper},
    settings::{put, with_short},
    tree::{Node, Value},
};
use crate::model::policy_words::nearest;

/// A kind of thing whose builder has settings.
pub(super) struct Kind {
    /// The word for one of them.
    pub(super) one: &'static str,
    /// The table of named ones; `default` is the section for all.
    pub(super) table: &'static str,
    pub(super) default: &'static str,
    /// The prefix of its variables, after the crate's own.
    pub(super) prefix: &'static str,
    keys: &'static [&'static str],
    /// A name and a setting, for an example of a valid variable.
    example: (&'static str, &'static str),
}

pub(super) const CHECKS: Kind = Kind {
    one: "check",
    table: "checks",
    default: "default_check",
    prefix: "CHECKS_",
    keys: &[
        "interval_ms",
        "timeout_ms",
        "history",
        "failure_threshold",
        "latency_warning_ms",
        "latency_critical_ms",
        "error_rate_warning",
        "error_rate_critical",
    ],
    example: ("orders-db", "interval"),
};

pub(super) const FALLBACKS: Kind = Kind {
    one: "fallback",
    table: "fallbacks",
    default: "default_fallback",
    prefix: "FALLBACKS_",
    keys: &[
        "ttl_ms",
        "refresh_ms",
        "max_entries",
        "max_bytes",
        "max_entry_bytes",
        "max_waiting_bytes",
        "max_shared_bytes",
    ],
    example: ("speech", "ttl"),
};

impl Kind {
    /// All words: the keys, durations also without `_ms`.
    fn words(&self) -> impl Iterator<Item = (&'static str, &'static str)> + Clone {
        with_short(self.keys)
    }
}

/// Settings by key, each with its origin.
pub(super) type Values = BTreeMap<&'static str, (u64, Origin)>;

/// The settings of a kind from one source: for all, and by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    pub(super) default: Values,
    pub(super) named: BTreeMap<String, Values>,
}

impl Said {
    /// Takes a file's section for all.
    pub(super) fn read_default(&mut self, kind: &Kind, node: &Node) -> Result<(), ConfigError> {
        self.default = section(kind, node, kind.default)?;
        Ok(())
    }

    /// Takes a file's sections by name.
    pub(super) fn read_named(&mut self, kind: &Kind, node: &Node) -> Result<(), ConfigError> {
        for (key, node) in node.table(kind.table)? {
            let name = format!("{}.{}", kind.table, key.text);
            self.named
                .insert(key.text.clone(), section(kind, node, &name)?);
        }
        Ok(())
    }

    /// Takes a variable; `name` is what follows the kind's prefix.
    pub(super) fn take(
        &mut self,
        kind: &Kind,
        name: &str,
        value: &str,
        origin: Origin,
    ) -> Result<(), ConfigError> {
        let Some((of, word, key)) = longest(name, kind.words()) else {
            return Err(origin.wrong(unknown(kind, name)));
        };
        let values = match of {
            None => &mut self.default,
            Some(of) => self.named.entry(of.to_owned()).or_default(),
        };
        let value = Value::Text(value.to_owned());
        put(values, word, key, &Node { value, origin })
    }

    /// The settings of one name: its own win over those for all, and within each level the
    /// environment wins over the file.
    #[cfg(any(feature = "health", feature = "fallback"))]
    pub(super) fn under(&self, environment: &Self, name: &str) -> Values {
        let own = [self.named.get(name), environment.named.get(&upper(name))];
        let all = [Some(&self.default), Some(&environment.default)];
        let said = all.into_iter().chain(own).flatten();
        said.flatten()
            .map(|(key, value)| (*key, value.clone()))
            .collect()
    }
}

fn section(kind: &Kind, node: &Node, section: &str) -> Result<Values, ConfigError> {
    let mut values = Values::new();
    for (key, node) in node.table(section)? {
        let found = kind.words().find(|(word, _)| *word == key.text);
        let Some((word, name)) = found else {
            let known = kind.words().map(|(word, _)| word);
            let hint = suggestion(&key.text, known);
            let problem = format!("unknown key `{}` in `{section}`{hint}", key.text);
            return Err(key.origin.wrong(problem));
        };
        put(&mut values, word, name, node)?;
    }
    Ok(values)
}

fn unknown(kind: &Kind, name: &str) -> String {
    let (one, prefix) = (kind.one, format!("COMMONTRIP_{}", kind.prefix));
    let alike = starts(name).filter_map(|at| {
        let end = name[at..].to_ascii_lowercase();
        let (likeness, meant) = nearest(&end, kind.words().map(|(word, _)| word))?;
        Some((likeness, at, meant))
    });
    match alike.max_by(|(one, ..), (other, ..)| one.total_cmp(other)) {
        Some((_, at, meant)) => {
            let (of, meant) = (&name[..at], meant.to_ascii_uppercase());
            format!("it names no setting of a {one}: did you mean {prefix}{of}{meant}?")
        }
        None => {
            let (of, word) = kind.example;
            let word = word.to_ascii_uppercase();
            format!(
                "it names no setting of a {one}: write {prefix}{word} for all, \
                 {prefix}{}_{word} for `{of}`",
                upper(of)
            )
        }
    }
}
