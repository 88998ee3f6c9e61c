//! What one section, or the variables of one circuit, say.
//!
//! Owns the words for settings and the units of their values; ranges are the policy's.

use std::collections::BTreeMap;

use super::{
    ConfigError, Origin,
    error::nearest,
    tree::{Node, Value},
};
use crate::{OnStoreFailure, Rules};

/// Numbers beyond have no meaning for any setting.
const LARGEST: u64 = 999_999_999_999_999;

/// Settings of one section.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// Where the section begins.
    pub(super) origin: Option<Origin>,
    pub(super) preset: Option<(String, Origin)>,
    pub(super) on_store_failure: Option<OnStoreFailure>,
    pub(super) numbers: BTreeMap<&'static str, (u64, Origin)>,
}

/// What a word means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// A number by its key.
    Number(&'static str),
    /// A duration in words, by the key without `_ms`.
    Duration(&'static str),
    OnStoreFailure,
    Preset,
}

/// All words: the keys of [`Rules`], durations without `_ms`, and two more.
pub(super) fn words() -> impl Iterator<Item = (&'static str, Word)> {
    let keys = Rules::KEYS.iter().copied();
    let durations = keys.clone().filter_map(|key| {
        let word = key.strip_suffix("_ms")?;
        Some((word, Word::Duration(key)))
    });
    keys.map(|key| (key, Word::Number(key)))
        .chain(durations)
        .chain([
            ("on_store_failure", Word::OnStoreFailure),
            ("preset", Word::Preset),
        ])
}

impl Settings {
    /// Reads a section; `presets` says whether it may name one.
    pub(super) fn read(node: &Node, section: &str, presets: bool) -> Result<Self, ConfigError> {
        let mut settings = Self {
            origin: Some(node.origin.clone()),
            ..Self::default()
        };
        for (key, node) in node.table(section)? {
            let found = words().find(|(name, _)| *name == key.text);
            let Some((_, word)) = found else {
                let meant = match nearest(&key.text, words().map(|(name, _)| name)) {
                    Some((_, meant)) => format!("did you mean `{meant}`?"),
                    None => "keys are those of a policy, such as `jitter`".to_owned(),
                };
                let problem = format!("unknown key `{}` in `{section}`: {meant}", key.text);
                return Err(key.origin.wrong(problem));
            };
            if word == Word::Preset && !presets {
                let problem = format!("`{section}` is a preset: it has settings, and no preset");
                return Err(key.origin.wrong(problem));
            }
            settings.take(&key.text, word, node)?;
        }
        Ok(settings)
    }

    /// Takes one setting.
    pub(super) fn take(&mut self, name: &str, word: Word, node: &Node) -> Result<(), ConfigError> {
        match word {
            Word::Number(key) => self.number(name, key, number(name, node)?, node),
            Word::Duration(key) => self.number(name, key, duration(name, node)?, node),
            Word::Preset => {
                let Value::Text(preset) = &node.value else {
                    return Err(node.is_not(name, "the name of a preset"));
                };
                self.preset = Some((preset.clone(), node.origin.clone()));
                Ok(())
            }
            Word::OnStoreFailure => {
                let choice = match &node.value {
                    Value::Text(word) if word == "local" => OnStoreFailure::Local,
                    Value::Text(word) if word == "allow" => OnStoreFailure::Allow,
                    Value::Text(word) if word == "reject" => OnStoreFailure::Reject,
                    _ => return Err(node.is_not(name, "\"local\", \"allow\" or \"reject\"")),
                };
                self.on_store_failure = Some(choice);
                Ok(())
            }
        }
    }

    fn number(
        &mut self,
        name: &str,
        key: &'static str,
        number: u64,
        node: &Node,
    ) -> Result<(), ConfigError> {
        if number > LARGEST {
            return Err(node.is_not(name, "a smaller number"));
        }
        let before = self.numbers.insert(key, (number, node.origin.clone()));
        match before {
            None => Ok(()),
            Some((_, there)) => {
                let problem = format!("`{key}` is set twice, also at {there}");
                Err(node.origin.wrong(problem))
            }
        }
    }
}

fn number(name: &str, node: &Node) -> Result<u64, ConfigError> {
    match (&node.value, name.strip_suffix("_ms")) {
        (Value::Number(number), _) => Ok(*number),
        (Value::Text(_), Some(short)) => {
            let right = format!("whole milliseconds; write `{short}` for a time in words");
            Err(node.is_not(name, &right))
        }
        (_, Some(_)) => Err(node.is_not(name, "whole milliseconds")),
        (_, None) => Err(node.is_not(name, "a whole number")),
    }
}

/// Milliseconds of a time in words.
fn duration(name: &str, node: &Node) -> Result<u64, ConfigError> {
    let right = || format!("a time such as \"30s\" or \"1m 30s\"; `{name}_ms` takes milliseconds");
    let Value::Text(text) = &node.value else {
        return Err(node.is_not(name, &right()));
    };
    let time = humantime::parse_duration(text).map_err(|_| node.is_not(name, &right()))?;
    if time.subsec_nanos() % 1_000_000 != 0 {
        return Err(node.is_not(name, "whole milliseconds"));
    }
    u64::try_from(time.as_millis()).map_err(|_| node.is_not(name, "a shorter time"))
}
