//! Circuits that somebody asked for by a name that there is none of.

use commontrip::{ControlError, operator::Operator};

use crate::out::{Failure, shown};

/// How alike two names must be for one to be offered for the other, 0 to 1.
const ALIKE: f64 = 0.75;

/// What an error of one circuit means; where it is not known, what the user may have meant.
pub async fn failure(operator: &Operator, error: ControlError) -> Failure {
    let ControlError::Unknown(name) = error else {
        return error.into();
    };
    let Ok(names) = operator.names().await else {
        return ControlError::Unknown(name).into();
    };
    let names = names.iter().map(commontrip::Name::as_str);
    Failure::Not(unknown(&name, names.collect()))
}

fn unknown(name: &str, names: Vec<&str>) -> String {
    let none = format!("no circuit `{}`", shown(name));
    match nearest(name, names.iter().copied()) {
        Some(near) => format!("{none}; did you mean `{}`?", shown(near)),
        None if names.is_empty() => {
            format!("{none}: the store has none at all; are --redis and --prefix the service's?")
        }
        None => format!("{none}; `commontrip list` shows those that there are"),
    }
}

/// The word that is most like this one, if any is.
pub fn nearest<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let alike = |other: &str| {
        let other = other.to_lowercase();
        match word.len() > 2 && other.contains(&word) {
            true => 1.0,
            false => strsim::normalized_damerau_levenshtein(&word, &other)
                .max(strsim::jaro_winkler(&word, &other) - 0.1),
        }
    };
    let alike = words.map(|other| (alike(other), other));
    let alike = alike.filter(|(likeness, _)| *likeness >= ALIKE);
    let nearest = alike.max_by(|(one, _), (other, _)| one.total_cmp(other));
    nearest.map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_offered() {
        let names = vec!["inventory", "payments", "payments-eu"];
        let offered = |name| unknown(name, names.clone());
        assert_eq!(
            offered("paymnets"),
            "no circuit `paymnets`; did you mean `payments`?"
        );
        assert_eq!(
            offered("PAYMENTS"),
            "no circuit `PAYMENTS`; did you mean `payments`?"
        );
        assert_eq!(
            offered("invent"),
            "no circuit `invent`; did you mean `inventory`?"
        );
        assert!(offered("zzz").contains("commontrip list"));
        assert!(unknown("payments", Vec::new()).contains("--prefix"));
        assert!(offered("a\u{202e}").contains("\\u{202e}"));
    }
}
