//! The kinds of failures of one circuit: how often and when each last occurred, and a detail.
//!
//! Owns how long a kind is kept, and which one is dropped when there are too many; knows no states:
//! transitions do not change kinds. Twin: `lua/lib/kinds.lua`.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{
    failure_kind::{LONGEST_DETAIL, MOST_KINDS, is_clean},
    snapshot::LARGEST,
};

/// How long a kind is kept after its last failure.
const KEPT_MS: u64 = 86_400_000;
/// The unit of time in which recent failures are counted, ms.
const MINUTE_MS: u64 = 60_000;

/// Failures of one kind, as a report carries them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindNote {
    /// The kind.
    pub kind: String,
    /// How many.
    pub count: u64,
    /// The latest detail; empty when none was given.
    pub detail: String,
}

/// One kind of failure, as the fleet has seen it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// payments.acquire().await?.failure_of("timeout");
/// circuits.flush().await;
/// for seen in payments.snapshot().await?.failure_kinds {
///     assert_eq!((seen.kind.as_str(), seen.count), ("timeout", 1));
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KindCount {
    /// The kind: `timeout`, `status 503`.
    pub kind: String,
    /// How many failures there were. Starts again at 0 after a day without one.
    pub count: u64,
    /// How many of them in the current minute and the one before.
    pub recent: u64,
    /// When one was last reported, Unix ms.
    pub last_ms: u64,
    /// The latest detail that a classifier gave; empty when none did.
    pub detail: String,
}

/// Kind -> its stored counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kinds(BTreeMap<String, Kept>);

/// The value of a kind in Redis: `count=20 last=1790000000000 minute=12 before=3 detail`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kept {
    count: u64,
    last: u64,
    /// Failures in the minute of `last`, and in the minute before that.
    minute: u64,
    before: u64,
    detail: String,
}

impl Kept {
    /// Reads what [`Display`](fmt::Display) writes; `None` for any other text.
    fn read(text: &str) -> Option<Self> {
        let mut words = text.splitn(5, ' ');
        let mut number = |name: &str| {
            let digits = words.next()?.strip_prefix(name)?.strip_prefix('=')?;
            let digits = Some(digits).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
            digits?.parse().ok().filter(|n| *n <= LARGEST)
        };
        Some(Self {
            count: number("count")?,
            last: number("last")?,
            minute: number("minute")?,
            before: number("before")?,
            detail: words.next().unwrap_or_default().to_owned(),
        })
        .filter(|kept| kept.detail.len() <= LONGEST_DETAIL)
    }

    /// Returns the failures in the minute of `now`, and in the one before.
    fn minutes(&self, now: u64) -> (u64, u64) {
        match (now / MINUTE_MS).checked_sub(self.last.min(now) / MINUTE_MS) {
            Some(0) => (self.minute, self.before),
            Some(1) => (0, self.minute),
            _ => (0, 0),
        }
    }

    fn recent(&self, now: u64) -> u64 {
        let (minute, before) = self.minutes(now);
        minute + before
    }

    const fn is_over(&self, now: u64) -> bool {
        now.saturating_sub(self.last) >= KEPT_MS
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            count,
            last,
            minute,
            before,
            detail,
        } = self;
        let space = if detail.is_empty() { "" } else { " " };
        write!(
            f,
            "count={count} last={last} minute={minute} before={before}{space}{detail}"
        )
    }
}

impl Kinds {
    /// Reads pairs of a kind and its value. Invalid pairs are ignored.
    pub(crate) fn read<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let kept = pairs.filter_map(|(kind, text)| {
            let kept = Kept::read(text).filter(|_| is_clean(kind))?;
            Some((kind.to_owned(), kept))
        });
        Self(kept.collect())
    }

    /// Records failures at `now`. Kinds without a failure for too long are removed, and then, if
    /// there are too many, those whose last failure is the oldest.
    pub(super) fn note(&mut self, now: u64, notes: &[KindNote]) {
        if notes.is_empty() {
            return;
        }
        self.0.retain(|_, kept| !kept.is_over(now));
        for note in notes {
            let kept = self.0.entry(note.kind.clone()).or_default();
            let (minute, before) = kept.minutes(now);
            kept.count = (kept.count + note.count).min(LARGEST);
            kept.minute = (minute + note.count).min(LARGEST);
            (kept.before, kept.last) = (before, now);
            if !note.detail.is_empty() {
                kept.detail.clone_from(&note.detail);
            }
        }
        while self.0.len() > MOST_KINDS {
            let oldest = self.0.iter().min_by_key(|(_, kept)| kept.last.min(now));
            let Some(oldest) = oldest.map(|(kind, _)| kind.clone()) else {
                return;
            };
            self.0.remove(&oldest);
        }
    }

    /// Returns the most frequent recent kind, and its share: `timeout 12 of 20`; empty without one.
    pub(super) fn leading(&self, now: u64) -> String {
        let recent = self.0.iter().map(|(kind, kept)| (kept.recent(now), kind));
        let all: u64 = recent.clone().map(|(n, _)| n).sum();
        // If several are equally frequent, the first by name.
        let most = recent.reduce(|most, next| if next.0 > most.0 { next } else { most });
        match most {
            Some((n, kind)) if n > 0 => format!("{kind} {n} of {all}"),
            _ => String::new(),
        }
    }

    /// Returns the kinds for operators, sorted by recent count, then last failure, then count,
    /// descending.
    pub(crate) fn seen(&self, now: u64) -> Vec<KindCount> {
        let kept = self.0.iter().filter(|(_, kept)| !kept.is_over(now));
        let mut seen: Vec<_> = kept
            .map(|(kind, kept)| KindCount {
                kind: kind.clone(),
                count: kept.count,
                recent: kept.recent(now),
                last_ms: kept.last.min(now),
                detail: kept.detail.clone(),
            })
            .collect();
        seen.sort_by_key(|seen| std::cmp::Reverse((seen.recent, seen.last_ms, seen.count)));
        seen.truncate(MOST_KINDS);
        seen
    }

    /// Returns the kinds as Redis stores them.
    pub(super) fn held(&self) -> BTreeMap<String, String> {
        let text = |(kind, kept): (&String, &Kept)| (kind.clone(), kept.to_string());
        self.0.iter().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_and_nothing_else_is(
            numbers in [0..=LARGEST, 0..=LARGEST, 0..=LARGEST, 0..=LARGEST],
            detail in "[a-z =]{0,12}",
            text in "(count=[0-9]{0,2} last=)?[0-9a-z= -]{0,20}",
        ) {
            let [count, last, minute, before] = numbers;
            let kept = Kept { count, last, minute, before, detail };
            let read = Kept::read(&kept.to_string()).unwrap();
            prop_assert_eq!(read.to_string(), kept.to_string());
            if let Some(read) = Kept::read(&text) {
                prop_assert!(read.count <= LARGEST);
            }
        }
    }
}
