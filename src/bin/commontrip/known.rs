//! Unknown circuit names, and circuits that cannot be read.

use commontrip::{
    ControlError, Name,
    operator::{Ask, Operator, View},
};

use crate::{
    out::{Done, Failure, in_words, say, shown},
    words,
};

/// How many circuits are read at once.
pub const AT_ONCE: usize = 16;
/// The minimum similarity of a name that is suggested, 0 to 1.
const ALIKE: f64 = 0.75;

/// Turns one circuit's error into a failure. For an unknown name, suggests what the user may have
/// meant.
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

/// Circuits that exist but cannot be read, because their keys hold something else.
#[derive(Default)]
pub struct Unreadable {
    left_out: u64,
    /// Why more circuits are missing.
    pub incomplete: Option<String>,
}

impl Unreadable {
    /// Reports a circuit that cannot be read and continues. An error that concerns more than this
    /// circuit ends the command.
    pub fn pass_over(&mut self, name: &Name, error: ControlError) -> Done {
        match error {
            // Removed in the meantime.
            ControlError::Unknown(_) => Ok(()),
            ControlError::Store(error) if !error.is_unavailable() => {
                self.left_out += 1;
                say(&format!(
                    "circuit `{name}` cannot be read: {}",
                    in_words(&error)
                ));
                Ok(())
            }
            error => Err(error.into()),
        }
    }

    /// Whether every circuit was read.
    pub const fn is_empty(&self) -> bool {
        self.left_out == 0 && self.incomplete.is_none()
    }

    /// The end of a command that may have skipped circuits.
    pub fn end(&self) -> Done {
        match self.left_out {
            0 if self.incomplete.is_some() => Err(Failure::Not(String::new())),
            0 => Ok(()),
            n => Err(Failure::Not(format!(
                "{} left out",
                words::count(n, "circuit")
            ))),
        }
    }
}

/// Reads all circuits, worst first. A circuit that cannot be read does not hide the others.
pub async fn circuits(operator: &Operator, unread: &mut Unreadable) -> Result<Vec<View>, Failure> {
    let survey = operator.survey(&Ask::default()).await?;
    for (name, error) in survey.unreadable {
        unread.pass_over(&name, error.into())?;
    }
    if let Some(why) = survey.incomplete {
        say(&format!("this is not all: {why}"));
        unread.incomplete = Some(why);
    }
    Ok(survey.circuits)
}

/// The given circuit's name, or the names of all circuits.
pub async fn names(operator: &Operator, only: Option<&str>) -> Result<Vec<Name>, Failure> {
    let Some(only) = only else {
        return Ok(operator.names().await?);
    };
    match operator.circuit(only).await {
        Ok(view) => Ok(vec![view.name]),
        Err(error) => Err(failure(operator, error).await),
    }
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

/// The most similar word, if one is similar enough.
pub fn nearest<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let alike = |other: &str| {
        let other = other.to_lowercase();
        match word.len() > 2 && other.contains(&word) {
            // Of the names that contain the word, the shortest is the most similar.
            true => 1.0 + word.len() as f64 / other.len() as f64,
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
