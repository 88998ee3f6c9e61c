//! Settings as people write them: `wait_duration_in_open_state_ms=30s`, `jitter=10%`.
//!
//! Owns the units; ranges are the library's.

use std::collections::BTreeSet;

use commontrip::Rules;

use crate::{
    known::nearest,
    out::{Failure, shown},
    words,
};

/// The pairs with plain numbers, as the library takes them.
pub fn checked(pairs: &[String]) -> Result<String, Failure> {
    let mut seen = BTreeSet::new();
    let mut plain = Vec::new();
    for pair in pairs {
        let Some((word, value)) = pair.split_once('=') else {
            let words = format!(
                "`{}` has no value: write key=value, such as failure_rate_threshold=30%",
                shown(pair)
            );
            return Err(Failure::Usage(words));
        };
        let key = key(word)?;
        if !seen.insert(key) {
            return Err(Failure::Usage(format!("{key} is set twice")));
        }
        plain.push(format!("{key}={}", number(key, value.trim())?));
    }
    Ok(plain.join(" "))
}

/// The setting that a word names.
pub fn key(word: &str) -> Result<&'static str, Failure> {
    let plain = word.trim().replace('-', "_");
    let keys = || Rules::KEYS.iter().copied();
    if let Some(key) = keys().find(|key| *key == plain) {
        return Ok(key);
    }
    let hint = match nearest(&plain, keys()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("there are {}", Rules::KEYS.join(", ")),
    };
    Err(Failure::Usage(format!(
        "no setting `{}`; {hint}",
        shown(word)
    )))
}

fn number(key: &str, value: &str) -> Result<u64, Failure> {
    let wrong = |right: &str| {
        let value = shown(value);
        Failure::Usage(format!("{key}=`{value}` is not valid: give {right}"))
    };
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return value.parse().map_err(|_| wrong("a smaller number"));
    }
    if key.ends_with("_ms") {
        let right = "a time such as 30s, 1m30s or 250ms, or whole milliseconds";
        let time = humantime::parse_duration(value).map_err(|_| wrong(right))?;
        if time.subsec_nanos() % 1_000_000 != 0 {
            return Err(wrong("whole milliseconds, such as 1ms"));
        }
        return u64::try_from(time.as_millis()).map_err(|_| wrong("a shorter time"));
    }
    if words::is_share(key) {
        let right = "whole percent, such as 30%";
        let number = value.strip_suffix('%').map(str::trim_end);
        return number
            .and_then(|n| n.parse().ok())
            .ok_or_else(|| wrong(right));
    }
    Err(wrong("a whole number without a unit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(words: &str) -> Result<String, String> {
        let words: Vec<_> = words.split(' ').map(str::to_owned).collect();
        checked(&words).map_err(|failure| match failure {
            Failure::Usage(words) => words,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn units_are_taken_where_they_fit() {
        let given = "wait_duration_in_open_state_ms=1m30s window-ms=60000 failure_rate_threshold=30% jitter=5 quorum=2";
        let plain = "wait_duration_in_open_state_ms=90000 window_ms=60000 failure_rate_threshold=30 jitter=5 quorum=2";
        assert_eq!(pairs(given).unwrap(), plain);
    }

    #[test]
    fn what_is_wrong_says_what_is_right() {
        for (given, said) in [
            ("jitter", "`jitter` has no value"),
            ("jiter=5", "did you mean jitter?"),
            (
                "wait_duration_in_open_state=30s",
                "did you mean wait_duration_in_open_state_ms?",
            ),
            ("zzz=1", "there are window_ms, "),
            ("jitter=", "such as 30%"),
            ("jitter=-5", "such as 30%"),
            ("jitter=5s", "such as 30%"),
            ("quorum=2%", "without a unit"),
            ("quorum=99999999999999999999", "a smaller number"),
            ("window_ms=30bananas", "such as 30s"),
            ("window_ms=1us", "whole milliseconds"),
            ("window_ms=9%", "such as 30s"),
            ("jitter=1 jitter=2", "jitter is set twice"),
        ] {
            let error = pairs(given).unwrap_err();
            assert!(error.contains(said), "{given}: {error}");
        }
        let hostile = checked(&["\u{1b}[2J=1".to_owned()]);
        assert!(matches!(hostile, Err(Failure::Usage(words)) if !words.contains('\u{1b}')));
    }
}
