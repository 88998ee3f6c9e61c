//! The settings of one section, or of the variables of one circuit.
//!
//! Owns which settings a section may have; the policy owns their words, units and ranges.

use std::collections::BTreeMap;

use super::{
    ConfigError, Origin,
    tree::{Node, Value},
};
use crate::{
    OnStoreFailure, Rules,
    model::policy_words::{meant, value},
};

/// Settings of one section.
#[derive(Clone, Debug, Default)]
pub(super) struct PolicySettings {
    /// Where the section begins.
    pub(super) origin: Option<Origin>,
    pub(super) preset: Option<(String, Origin)>,
    pub(super) on_store_failure: Option<OnStoreFailure>,
    /// Whether the circuit is on; only in a circuit's section.
    pub(super) enabled: Option<bool>,
    pub(super) numbers: BTreeMap<&'static str, (u64, Origin)>,
}

/// What a section is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Default,
    Preset,
    Circuit,
}

/// What a word means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// A setting, by its key.
    Setting(&'static str),
    OnStoreFailure,
    Preset,
    Enabled,
}

/// All words: the keys of [`Rules`], durations also without `_ms`, and three more.
pub(super) fn words() -> impl Iterator<Item = (&'static str, Word)> + Clone {
    let settings = with_short(Rules::KEYS).map(|(word, key)| (word, Word::Setting(key)));
    settings.chain([
        ("on_store_failure", Word::OnStoreFailure),
        ("preset", Word::Preset),
        ("enabled", Word::Enabled),
    ])
}

impl PolicySettings {
    /// Reads a section.
    pub(super) fn read(node: &Node, section: &str, of: Section) -> Result<Self, ConfigError> {
        let mut settings = Self {
            origin: Some(node.origin.clone()),
            ..Self::default()
        };
        for (key, node) in node.table(section)? {
            let found = words().find(|(name, _)| *name == key.text);
            let Some((_, word)) = found else {
                let hint = meant(&key.text, &["on_store_failure", "preset", "enabled"])
                    .unwrap_or_else(|| "keys are those of a policy, such as `jitter`".to_owned());
                let problem = format!("unknown key `{}` in `{section}`: {hint}", key.text);
                return Err(key.origin.wrong(problem));
            };
            let problem = match (word, of) {
                (Word::Preset, Section::Preset) => {
                    format!("`{section}` is a preset, which cannot have a `preset` of its own")
                }
                (Word::Enabled, Section::Default | Section::Preset) => format!(
                    "`{section}` cannot have `enabled`: set it at the top level for all circuits, or in \
                     `circuits.NAME` for one"
                ),
                _ => {
                    settings.take(&key.text, word, node)?;
                    continue;
                }
            };
            return Err(key.origin.wrong(problem));
        }
        Ok(settings)
    }

    /// Takes one setting.
    pub(super) fn take(&mut self, name: &str, word: Word, node: &Node) -> Result<(), ConfigError> {
        match word {
            Word::Setting(key) => put(&mut self.numbers, name, key, node),
            Word::Preset => {
                let Value::Text(preset) = &node.value else {
                    return Err(node.is_not(name, "the name of a preset"));
                };
                self.preset = Some((preset.clone(), node.origin.clone()));
                Ok(())
            }
            Word::Enabled => {
                self.enabled = Some(node.flag(name)?);
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
}

/// Takes one number, which must not be set yet.
pub(super) fn put(
    numbers: &mut BTreeMap<&'static str, (u64, Origin)>,
    name: &str,
    key: &'static str,
    node: &Node,
) -> Result<(), ConfigError> {
    let number = number(name, key, node)?;
    match numbers.insert(key, (number, node.origin.clone())) {
        None => Ok(()),
        Some((_, there)) => {
            let problem = format!("`{key}` is set twice, also at {there}");
            Err(node.origin.wrong(problem))
        }
    }
}

/// Keys as users write them, durations also without `_ms`, each with the full key.
pub(super) fn with_short(
    keys: &'static [&'static str],
) -> impl Iterator<Item = (&'static str, &'static str)> + Clone {
    let short = keys
        .iter()
        .filter_map(|key| Some((key.strip_suffix("_ms")?, *key)));
    short.chain(keys.iter().map(|key| (*key, *key)))
}

fn number(name: &str, key: &str, node: &Node) -> Result<u64, ConfigError> {
    let in_ms = name.strip_suffix("_ms");
    let text = match (&node.value, in_ms) {
        (Value::Number(number), _) => number.to_string(),
        (Value::Text(text), None) => text.clone(),
        (Value::Text(text), Some(_)) if text.bytes().all(|b| b.is_ascii_digit()) => text.clone(),
        (Value::Text(_), Some(short)) => {
            let right = format!("whole milliseconds; write `{short}` for a time in words");
            return Err(node.is_not(name, &right));
        }
        (_, Some(_)) => return Err(node.is_not(name, "whole milliseconds")),
        (_, None) => return Err(node.is_not(name, "a whole number")),
    };
    value(name, key, &text).map_err(|right| node.is_not(name, &right))
}
