//! Serde for the numbers of a policy: a map in which every key is optional and unknown keys are
//! errors.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{Rules, words};

pub(super) fn serialize<S: Serializer>(rules: &Rules, to: S) -> Result<S::Ok, S::Error> {
    rules.serialize(to)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Rules, D::Error> {
    let mut rules = Rules::default();
    for (word, value) in BTreeMap::<String, Value>::deserialize(from)? {
        let Some(key) = words::key(&word) else {
            let known = || format!("known are on_store_failure, {}", Rules::KEYS.join(", "));
            let hint = words::meant(&word, &["on_store_failure"]).unwrap_or_else(known);
            let problem = format!("unknown setting `{word}`: {hint}");
            return Err(D::Error::custom(problem));
        };
        let number = match value {
            Value::Number(n) if n > 0 && words::is_short(&word, key) => {
                let right = words::unit_missing(&word);
                return Err(D::Error::custom(format!(
                    "`{word}` is {n}, but must be {right}"
                )));
            }
            Value::Number(number) => number,
            Value::Text(text) => words::value(&word, key, &text).map_err(|right| {
                D::Error::custom(format!("`{word}` is {text:?}, but must be {right}"))
            })?,
        };
        rules.set(key, number);
    }
    Ok(rules)
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a whole number, or a string such as \"30s\"")]
enum Value {
    Number(u64),
    Text(String),
}
