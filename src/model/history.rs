//! What a circuit has seen in the past hour of use, in slices of time.
//!
//! Owns the slices; each is kept as what had been counted before it began, so that differences are what
//! was counted in it. Knows no states and no windows. Twin: `begin_slice` in `lua/report.lua`.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

/// The width of a slice, ms.
pub(crate) const SLICE_MS: u64 = 10_000;
/// How many are kept; slices in which nothing was reported are none.
pub(crate) const SLICES: usize = 360;

/// How far the newest may lie ahead before the past starts over.
const MOST_AHEAD_MS: u64 = 60_000;

/// What was reported of a circuit within ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Interval {
    /// When it began, Unix ms by the store's clock; a multiple of 10,000.
    pub at_ms: u64,
    /// Successes.
    pub successes: u64,
    /// Failures.
    pub failures: u64,
    /// Slow calls among both.
    pub slow: u64,
    /// Ignored outcomes.
    pub ignored: u64,
    /// Rejected calls.
    pub not_permitted: u64,
    /// Calls that were dropped before they ended.
    pub abandoned: u64,
}

/// What had been counted when a slice began: successes, failures, slow, ignored, not permitted,
/// abandoned.
pub(crate) type Begin = (u64, [u64; 6]);

/// The intervals between beginnings, of which the last has lasted until `totals` were counted.
pub(crate) fn intervals(begins: &[Begin], totals: [u64; 6]) -> Vec<Interval> {
    let ends = begins.iter().skip(1).map(|(_, counted)| *counted);
    let ends = ends.chain(std::iter::once(totals));
    let interval = |((at_ms, before), after): (&Begin, [u64; 6])| {
        let counted = |i: usize| after[i].saturating_sub(before[i]);
        Interval {
            at_ms: *at_ms,
            successes: counted(0),
            failures: counted(1),
            slow: counted(2),
            ignored: counted(3),
            not_permitted: counted(4),
            abandoned: counted(5),
        }
    };
    begins.iter().zip(ends).map(interval).collect()
}

/// The slices of one circuit.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// The newest slice.
    pub(super) at: u64,
    begins: VecDeque<Begin>,
}

impl History {
    /// Begins a slice where `now` is in another than the last; where that lies far ahead the clock
    /// was set back, and the past starts over.
    pub(super) fn begin(&mut self, now: u64, totals: [u64; 6]) {
        let slice = now - now % SLICE_MS;
        let ahead = slice < self.at;
        // A stream has no entry 0.
        if slice == 0 || slice == self.at || ahead && self.at - slice <= MOST_AHEAD_MS {
            return;
        }
        if ahead {
            self.begins.clear();
        }
        self.at = slice;
        self.begins.push_back((slice, totals));
        if self.begins.len() > SLICES {
            self.begins.pop_front();
        }
    }

    /// The newest slices, oldest first.
    pub(super) fn newest(&self, most: usize, totals: [u64; 6]) -> Vec<Interval> {
        let skipped = self.begins.len().saturating_sub(most);
        let begins: Vec<_> = self.begins.iter().skip(skipped).copied().collect();
        intervals(&begins, totals)
    }

    /// As Redis holds them.
    pub(super) fn held(&self) -> BTreeMap<String, String> {
        let text = |(at, counted): &Begin| {
            let [a, b, c, d, e, f] = counted;
            (format!("{at}-0"), format!("{a}/{b}/{c}/{d}/{e}/{f}"))
        };
        self.begins.iter().map(text).collect()
    }
}
