//! Failures of one circuit in this process, by kind.
//!
//! Owns how many kinds a process distinguishes: the first ones, so that each count only grows.
//! Invariant: each failure with a kind is in one report.

use crate::model::{FailureKind, KindNote, MOST_KINDS, OTHER, Word};

#[derive(Debug, Default)]
pub(super) struct Kinds(Vec<Seen>);

#[derive(Debug)]
struct Seen {
    /// The kind as in code, and as it is stored.
    word: Word,
    kind: String,
    count: u64,
    /// Failures that no report has taken yet, and their latest detail.
    untold: u64,
    detail: String,
}

impl Kinds {
    /// Counts one failure.
    pub(super) fn note(&mut self, kind: &FailureKind) {
        let word = kind.word();
        let place = self.0.iter().position(|seen| seen.word == word);
        let place = place.unwrap_or_else(|| self.place_of(word));
        let Some(seen) = self.0.get_mut(place) else {
            return;
        };
        seen.count += 1;
        seen.untold += 1;
        if let Some(detail) = kind.detail() {
            detail.clone_into(&mut seen.detail);
        }
    }

    /// The place of a kind that was not found by its word.
    fn place_of(&mut self, word: Word) -> usize {
        let text = word.text();
        let full = self.0.len() + 1 >= MOST_KINDS;
        let find = |kind: &str| self.0.iter().position(|seen| seen.kind == kind);
        let (word, kind) = match find(&text) {
            Some(place) => return place,
            None if full => match find(OTHER) {
                Some(place) => return place,
                None => (Word::Named(OTHER), OTHER.to_owned()),
            },
            None => (word, text.into_owned()),
        };
        self.0.push(Seen {
            word,
            kind,
            count: 0,
            untold: 0,
            detail: String::new(),
        });
        self.0.len() - 1
    }

    /// Whether there are failures that no report has taken.
    pub(super) fn are_untold(&self) -> bool {
        self.0.iter().any(|seen| seen.untold > 0)
    }

    /// Takes the failures that no report has taken yet.
    pub(super) fn take(&mut self) -> Vec<KindNote> {
        let untold = self.0.iter_mut().filter(|seen| seen.untold > 0);
        let notes = untold.map(|seen| KindNote {
            kind: seen.kind.clone(),
            count: std::mem::take(&mut seen.untold),
            detail: std::mem::take(&mut seen.detail),
        });
        notes.collect()
    }

    /// The number of failures of each kind.
    pub(super) fn counts(&self) -> impl Iterator<Item = (String, u64)> {
        self.0.iter().map(|seen| (seen.kind.clone(), seen.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_without_room_are_other_and_none_is_taken_twice() {
        let mut kinds = Kinds::default();
        for code in 500..600 {
            kinds.note(&FailureKind::status(code));
        }
        kinds.note(&FailureKind::of("STATUS 500").with_detail("late"));
        let notes = kinds.take();
        assert_eq!(notes.len(), MOST_KINDS);
        assert_eq!(notes.iter().map(|note| note.count).sum::<u64>(), 101);
        assert_eq!((notes[0].kind.as_str(), notes[0].count), ("status 500", 2));
        assert_eq!(notes[0].detail, "late");
        assert_eq!((notes[15].kind.as_str(), notes[15].count), ("other", 85));
        assert!(!kinds.are_untold() && kinds.take().is_empty());
        kinds.note(&FailureKind::status(500));
        let again = kinds.take();
        assert_eq!((again.len(), again[0].count), (1, 1));
        assert_eq!(kinds.counts().map(|(_, n)| n).sum::<u64>(), 102);
    }
}
