//! Settings as people write them: `wait_duration_in_open_state=30s`, `failure_rate_threshold=30%`.
//!
//! Owns the words for keys, units and values. Ranges belong to the builder, and the names in other
//! libraries to `elsewhere`.

use std::{fmt, str::FromStr, time::Duration};

use super::{
    OnStoreFailure, Policy, PolicyBuilder, PolicyError, Rules, alike::is_same,
    elsewhere::nearest_elsewhere,
};
pub(crate) use super::{alike::nearest, elsewhere::elsewhere};

/// Larger numbers make no sense for any setting.
const LARGEST: u64 = 999_999_999_999_999;

/// Settings that 0 switches off.
const CAN_BE_OFF: [&str; 6] = [
    "failure_rate_threshold",
    "failure_count_threshold",
    "consecutive_failures_threshold",
    "slow_call_duration_threshold_ms",
    "ramp_duration_ms",
    "call_timeout_ms",
];

/// Values that have names.
const NAMED: [(&str, &[&str]); 6] = [
    ("latency_recording", &["off", "sampled", "every_call"]),
    ("abandoned_calls", &["ignored", "counted"]),
    ("abandoned_after_ms", &["automatic"]),
    ("history", &["off", "on"]),
    ("minimum_applies_to", &["rates", "every_condition"]),
    ("timed_out_calls", &["ignored", "counted"]),
];

/// Returns the key of the setting that a word names, as in [`Rules::KEYS`]. Durations can omit
/// `_ms`.
pub(crate) fn key(word: &str) -> Option<&'static str> {
    let keys = Rules::KEYS.iter().copied();
    let names = |key: &&str| *key == word || key.strip_suffix("_ms") == Some(word);
    keys.into_iter().find(names)
}

/// A suggestion for an unknown word.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Meant {
    /// A word of another library, and what it is here.
    Elsewhere(&'static str),
    /// A known word.
    Word(&'static str),
}

/// Returns the likely meaning of a word that is not one of the `known` ones, and how likely it is.
/// Names of other libraries are known too, so that a typo in one does not suggest an unrelated
/// setting.
pub(crate) fn guess(
    word: &str,
    known: impl IntoIterator<Item = &'static str> + Clone,
) -> Option<(f64, Meant)> {
    if let Some(here) = elsewhere(word) {
        return Some((1.0, Meant::Elsewhere(here)));
    }
    let mut same = known.clone().into_iter();
    if let Some(known) = same.find(|one| is_same(one, word)) {
        return Some((1.0, Meant::Word(known)));
    }
    let here = nearest(word, known).map(|(likeness, known)| (likeness, Meant::Word(known)));
    let there = nearest_elsewhere(word);
    let there = there.map(|(likeness, here)| (likeness, Meant::Elsewhere(here)));
    match (here, there) {
        (Some(here), Some(there)) if there.0 > here.0 => Some(there),
        (here, there) => here.or(there),
    }
}

/// Returns a hint for a word that names no setting, if there is one. The words in `more` are known
/// too.
pub(crate) fn meant(word: &str, more: &[&'static str]) -> Option<String> {
    let keys = Rules::KEYS.iter().copied();
    let short = keys.clone().filter_map(|key| key.strip_suffix("_ms"));
    let known = short.chain(keys).chain(more.iter().copied());
    if word == "enabled" {
        return Some(format!("here it is {}", super::elsewhere::SWITCH));
    }
    let (_, meant) = guess(word, known)?;
    Some(match meant {
        Meant::Elsewhere(here) => format!("here it is {here}"),
        Meant::Word(known) => format!("did you mean `{known}`?"),
    })
}

/// Parses the value of a setting: `30s`, `250`, `30%`, `sampled`, `off`.
///
/// # Errors
/// The valid values, in words.
pub(crate) fn number(key: &str, text: &str) -> Result<u64, String> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let number = text.parse().ok().filter(|number| *number <= LARGEST);
        return number.ok_or_else(|| "a smaller number".to_owned());
    }
    let named = NAMED.into_iter().find(|(named, _)| *named == key);
    if let Some((_, names)) = named
        && let Some(number) = names.iter().position(|name| *name == text)
    {
        return Ok(number as u64);
    }
    if text == "off" && CAN_BE_OFF.contains(&key) {
        return Ok(0);
    }
    if key.ends_with("_ms") {
        return match humantime::parse_duration(text) {
            Ok(time) if time.subsec_nanos() % 1_000_000 != 0 => {
                Err("whole milliseconds, such as 1ms".to_owned())
            }
            Ok(time) => u64::try_from(time.as_millis())
                .ok()
                .filter(|ms| *ms <= LARGEST)
                .ok_or_else(|| "a shorter time".to_owned()),
            Err(_) => Err("a time such as 30s, 1m30s or 250ms, or whole milliseconds".to_owned()),
        };
    }
    if is_percent(key) {
        let number = text
            .strip_suffix('%')
            .and_then(|n| n.trim_end().parse().ok());
        return number.ok_or_else(|| "whole percent, such as 30%".to_owned());
    }
    Err(match named {
        Some((_, names)) => names.join(" or "),
        None => "a whole number without a unit".to_owned(),
    })
}

/// Like [`number`], for a setting that was written as `word`: a time without a unit is ambiguous
/// unless the word ends in `_ms`.
///
/// # Errors
/// The valid values, in words.
pub(crate) fn value(word: &str, key: &str, text: &str) -> Result<u64, String> {
    let number = number(key, text)?;
    let bare = text.trim().bytes().all(|b| b.is_ascii_digit());
    match bare && number > 0 && is_short(word, key) {
        true => Err(unit_missing(word)),
        false => Ok(number),
    }
}

/// Whether a word names a duration without its `_ms`.
pub(crate) fn is_short(word: &str, key: &str) -> bool {
    key.ends_with("_ms") && !word.ends_with("_ms")
}

pub(crate) fn unit_missing(word: &str) -> String {
    format!("a time such as \"30s\" or \"1m 30s\"; `{word}_ms` takes milliseconds")
}

/// Whether a setting is in percent.
fn is_percent(key: &str) -> bool {
    key.ends_with("_percent")
        || key.ends_with("_rate_threshold")
        || key.starts_with("error_rate_")
        || matches!(key, "jitter" | "ramp_initial")
}

impl Rules {
    /// Returns the key that a word names: one of [`KEYS`](Self::KEYS). Durations can omit `_ms`.
    ///
    /// # Errors
    /// [`PolicyError::Unknown`], with a suggestion.
    pub fn key(word: &str) -> Result<&'static str, PolicyError> {
        let plain = word.trim().replace('-', "_");
        key(&plain).ok_or_else(|| PolicyError::Unknown {
            setting: word.trim().chars().take(100).collect(),
            hint: meant(&plain, &[])
                .unwrap_or_else(|| format!("there are {}", Self::KEYS.join(", "))),
        })
    }

    /// Reads `key=value` pairs: `window=1m failure_rate_threshold=30%`.
    ///
    /// Keys are those of [`KEYS`](Self::KEYS). Durations can omit `_ms`. Values are whole numbers,
    /// times such as `30s`, percentages such as `30%`, or words such as `off` and `sampled`.
    ///
    /// # Errors
    /// [`PolicyError::Pair`], [`PolicyError::Unknown`], [`PolicyError::Twice`] or
    /// [`PolicyError::Value`] for the first pair that is wrong. Ranges are not checked.
    pub fn parse_pairs(text: &str) -> Result<Vec<(&'static str, u64)>, PolicyError> {
        let mut pairs: Vec<(&'static str, u64)> = Vec::new();
        for pair in text.split_whitespace() {
            let Some((word, value)) = pair.split_once('=') else {
                return Err(PolicyError::Pair(pair.to_owned()));
            };
            let key = Rules::key(word)?;
            if pairs.iter().any(|(other, _)| *other == key) {
                return Err(PolicyError::Twice(key));
            }
            let number = self::value(word, key, value).map_err(|right| PolicyError::Value {
                setting: key,
                value: value.chars().take(100).collect(),
                right,
            })?;
            pairs.push((key, number));
        }
        Ok(pairs)
    }

    /// Formats the value of a setting in words: `30s`, `50%`, `off`, `sampled`, `20`.
    #[must_use]
    pub fn in_words(key: &str, value: u64) -> String {
        let named = NAMED.iter().find(|(named, _)| *named == key);
        let name = named.and_then(|(_, names)| names.get(usize::try_from(value).ok()?));
        if let Some(name) = name {
            return (*name).to_owned();
        }
        if value == 0 && CAN_BE_OFF.contains(&key) {
            return "off".to_owned();
        }
        if key.ends_with("_ms") {
            let time = humantime::format_duration(Duration::from_millis(value));
            return time.to_string().replace(' ', "");
        }
        match is_percent(key) {
            true => format!("{value}%"),
            false => value.to_string(),
        }
    }
}

impl fmt::Display for Policy {
    /// Writes the settings that are not at their default, in the form that [`FromStr`] reads;
    /// `default` if all are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let defaults = Rules::default();
        let changed = self.rules.pairs().zip(defaults.pairs());
        let changed = changed.filter(|(is, default)| is != default);
        let pair = |((key, n), _): ((&str, u64), _)| {
            let short = key.strip_suffix("_ms").unwrap_or(key);
            format!("{short}={}", Rules::in_words(key, n))
        };
        let mut words: Vec<_> = changed.map(pair).collect();
        match self.on_store_failure {
            OnStoreFailure::Local => {}
            OnStoreFailure::Allow => words.push("on_store_failure=allow".to_owned()),
            OnStoreFailure::Reject => words.push("on_store_failure=reject".to_owned()),
        }
        match words.is_empty() {
            true => f.write_str("default"),
            false => f.write_str(&words.join(" ")),
        }
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    /// Reads `key=value` pairs on top of the defaults: `failure_rate_threshold=30% window=1m`.
    ///
    /// Keys are those of [`Rules`]. Durations can omit `_ms`. Values are whole numbers, times such
    /// as `30s`, percentages such as `30%`, or words such as `off` and `sampled`.
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let mut builder = PolicyBuilder::default();
        let mut rest = Vec::new();
        for word in text.split_whitespace().filter(|word| *word != "default") {
            match word.strip_prefix("on_store_failure=") {
                None => rest.push(word),
                Some("local") => builder = builder.on_store_failure(OnStoreFailure::Local),
                Some("allow") => builder = builder.on_store_failure(OnStoreFailure::Allow),
                Some("reject") => builder = builder.on_store_failure(OnStoreFailure::Reject),
                Some(other) => {
                    return Err(PolicyError::Value {
                        setting: "on_store_failure",
                        value: other.chars().take(100).collect(),
                        right: "local, allow or reject".to_owned(),
                    });
                }
            }
        }
        for (key, number) in Rules::parse_pairs(&rest.join(" "))? {
            builder.rules.set(key, number);
        }
        builder.build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_in_words_comes_back() {
        assert_eq!(Policy::default().to_string(), "default");
        assert_eq!("default".parse(), Ok(Policy::default()));
        let policy = Policy::builder()
            .sliding_window_time(Duration::from_secs(90), 10)
            .failure_rate_threshold(30)
            .no_consecutive_failures_threshold()
            .latency_recording(crate::LatencyRecording::EveryCall)
            .abandoned_calls(crate::AbandonedCalls::After(Duration::from_secs(2)))
            .on_store_failure(OnStoreFailure::Reject)
            .build()
            .unwrap();
        let words = policy.to_string();
        assert_eq!(
            words,
            "window=1m30s failure_rate_threshold=30% consecutive_failures_threshold=off \
             latency_recording=every_call abandoned_after=2s on_store_failure=reject"
        );
        assert_eq!(words.parse(), Ok(policy));
    }

    #[test]
    fn every_setting_has_words_that_come_back() {
        for (key, default) in Rules::default().pairs() {
            for n in [default, 0, 1, 2, 90_061_001] {
                assert_eq!(number(key, &Rules::in_words(key, n)), Ok(n), "{key}");
            }
        }
    }

    #[test]
    fn units_are_taken_where_they_fit() {
        let given = "wait_duration_in_open_state_ms=1m30s window_ms=60000 failure_rate_threshold=30% jitter=5 quorum=2";
        let read = Rules::parse_pairs(given).unwrap();
        let plain: Vec<_> = read.iter().map(|(key, n)| format!("{key}={n}")).collect();
        assert_eq!(
            plain.join(" "),
            "wait_duration_in_open_state_ms=90000 window_ms=60000 failure_rate_threshold=30 jitter=5 quorum=2"
        );
    }

    #[test]
    fn what_is_wrong_says_what_is_right() {
        for (given, said) in [
            ("jitter", "key=value"),
            ("jiter=5", "did you mean `jitter`?"),
            ("zzz=1", "there are window_ms, "),
            ("jitter=", "such as 30%"),
            ("jitter=-5", "such as 30%"),
            ("jitter=5s", "such as 30%"),
            ("jitter=101", "from 0 to 100"),
            ("quorum=2%", "without a unit"),
            ("quorum=99999999999999999999", "a smaller number"),
            ("window_ms=30bananas", "such as 30s"),
            ("window=60000", "`window_ms` takes milliseconds"),
            ("window_ms=1us", "whole milliseconds"),
            ("window_ms=9%", "such as 30s"),
            ("jitter=1 jitter=2", "jitter is set twice"),
            ("window=1s window_ms=2", "window_ms is set twice"),
            ("latency_recording=some", "off or sampled or every_call"),
            ("on_store_failure=maybe", "local, allow or reject"),
            (
                "failure_threshold=5",
                "here it is `consecutive_failures_threshold`",
            ),
            ("sliding_window_time=5s", "here it is `window`"),
            (
                "errorThresholdPercentage=5",
                "here it is `failure_rate_threshold`",
            ),
            (
                "reset_timeout_ms=5",
                "here it is `wait_duration_in_open_state`",
            ),
        ] {
            let error = given.parse::<Policy>().unwrap_err().to_string();
            assert!(error.contains(said), "{given}: {error}");
        }
    }
}
