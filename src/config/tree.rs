//! A file as a tree with line numbers, whatever its format.
//!
//! Owns the formats; knows no setting.

use std::{fmt, ops::Range, path::Path, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Origin};

/// A key, or the name of a section.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// A value.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    Number(u64),
    Flag(bool),
    Table(Vec<(Key, Node)>),
    /// A value that no setting takes, in words.
    Other(String),
    Nothing,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Table(_) => f.write_str("a table"),
            Self::Other(words) => f.write_str(words),
            Self::Nothing => f.write_str("empty"),
        }
    }
}

impl Node {
    pub(super) fn is_not(&self, name: &str, right: &str) -> ConfigError {
        let problem = format!("`{name}` is {}, but must be {right}", self.value);
        self.origin.wrong(problem)
    }

    const fn is_variable(&self) -> bool {
        matches!(self.origin, Origin::Variable(_))
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, ConfigError> {
        match &self.value {
            Value::Flag(flag) => Ok(*flag),
            // The value of a variable is text.
            Value::Text(text) if self.is_variable() => {
                let flag = text.parse();
                flag.map_err(|_| self.is_not(name, "true or false"))
            }
            _ => Err(self.is_not(name, "true or false")),
        }
    }

    /// The keys of a table; none if it is empty.
    pub(super) fn table(&self, name: &str) -> Result<&[(Key, Node)], ConfigError> {
        match &self.value {
            Value::Table(pairs) => Ok(pairs),
            Value::Nothing => Ok(&[]),
            _ => Err(self.is_not(name, "a table of settings")),
        }
    }
}

/// Reads a file's text, in the format of its extension.
pub(super) fn read(path: &Path, text: &str) -> Result<Node, ConfigError> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    let shared = Arc::new(path.to_owned());
    let at = |line| Origin::File {
        path: Arc::clone(&shared),
        line,
    };
    match ending {
        Some("toml") => toml(text, &at),
        Some("yaml" | "yml") => yaml(text, &at),
        _ => Err(ConfigError::Format(path.to_owned())),
    }
}

fn toml(text: &str, at: &dyn Fn(usize) -> Origin) -> Result<Node, ConfigError> {
    let line = |span: Range<usize>| {
        let before = text.as_bytes().iter().take(span.start);
        at(1 + before.filter(|byte| **byte == b'\n').count())
    };
    let table = DeTable::parse(text).map_err(|error| {
        let origin = line(error.span().unwrap_or_default());
        origin.wrong(error.message())
    })?;
    Ok(Node {
        value: of_table(table.get_ref(), &line),
        origin: at(1),
    })
}

fn of_table(table: &DeTable<'_>, line: &dyn Fn(Range<usize>) -> Origin) -> Value {
    let pair = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
        let text: &toml::de::DeString<'_> = key.get_ref();
        let key = Key {
            text: text.to_string(),
            origin: line(key.span()),
        };
        let node = Node {
            value: of_toml(value.get_ref(), line),
            // A table's own span may be elsewhere.
            origin: match value.get_ref() {
                DeValue::Table(_) => key.origin.clone(),
                _ => line(value.span()),
            },
        };
        (key, node)
    };
    // In the order of the file, so that the first error is the first in the file.
    let mut pairs: Vec<_> = table.iter().collect();
    pairs.sort_by_key(|(key, _)| key.span().start);
    Value::Table(pairs.into_iter().map(pair).collect())
}

fn of_toml(value: &DeValue<'_>, line: &dyn Fn(Range<usize>) -> Origin) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            let parsed = u64::from_str_radix(number.as_str(), number.radix());
            parsed.map_or_else(|_| Value::Other(number.to_string()), Value::Number)
        }
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Table(table) => of_table(table, line),
        DeValue::Float(number) => Value::Other(number.to_string()),
        DeValue::Datetime(time) => Value::Other(time.to_string()),
        DeValue::Array(_) => Value::Other("a list".to_owned()),
    }
}

/// The tree of a part of another configuration.
pub(super) fn embedded(value: toml::Value) -> Node {
    let value = match value {
        toml::Value::String(text) => Value::Text(text),
        toml::Value::Integer(number) => {
            let other = |_| Value::Other(number.to_string());
            u64::try_from(number).map_or_else(other, Value::Number)
        }
        toml::Value::Boolean(flag) => Value::Flag(flag),
        toml::Value::Float(number) => Value::Other(number.to_string()),
        toml::Value::Datetime(time) => Value::Other(time.to_string()),
        toml::Value::Array(_) => Value::Other("a list".to_owned()),
        toml::Value::Table(table) => {
            let pair = |(text, value)| {
                let origin = Origin::Embedded;
                (Key { text, origin }, embedded(value))
            };
            Value::Table(table.into_iter().map(pair).collect())
        }
    };
    Node {
        value,
        origin: Origin::Embedded,
    }
}

fn yaml(text: &str, at: &dyn Fn(usize) -> Origin) -> Result<Node, ConfigError> {
    let raw = serde_saphyr::from_str::<Option<Spanned<Raw>>>(text).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let error = error.without_snippet().to_string();
        at(line.max(1) as usize).wrong(error.lines().next().unwrap_or_default())
    })?;
    Ok(match raw {
        Some(raw) => of_yaml(raw, at),
        None => Node {
            value: Value::Nothing,
            origin: at(1),
        },
    })
}

fn of_yaml(node: Spanned<Raw>, at: &dyn Fn(usize) -> Origin) -> Node {
    let line = |location: serde_saphyr::Location| at(location.line().max(1) as usize);
    let value = match node.value {
        Raw::Plain(value) => value,
        Raw::Table(pairs) => {
            let pair = |(key, node): (Spanned<String>, _)| {
                let key = Key {
                    text: key.value,
                    origin: line(key.referenced),
                };
                (key, of_yaml(node, at))
            };
            Value::Table(pairs.into_iter().map(pair).collect())
        }
    };
    Node {
        value,
        origin: line(node.referenced),
    }
}

/// A YAML value, before its locations are lines of a file.
enum Raw {
    Plain(Value),
    Table(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Raw, E> {
        Ok(Raw::Plain(Value::Flag(flag)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Raw, E> {
        Ok(Raw::Plain(Value::Number(number)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Raw, E> {
        let other = |_| Value::Other(number.to_string());
        let value = u64::try_from(number).map_or_else(other, Value::Number);
        Ok(Raw::Plain(value))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Raw, E> {
        Ok(Raw::Plain(Value::Other(number.to_string())))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Plain(Value::Text(text.to_owned())))
    }

    fn visit_unit<E: Error>(self) -> Result<Raw, E> {
        Ok(Raw::Plain(Value::Nothing))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Raw, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Raw::Plain(Value::Other("a list".to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Raw::Table(pairs))
    }
}
