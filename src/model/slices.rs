//! The latencies of one circuit, in slices of time that leave one by one.
//!
//! Owns which slices are in the window; a time window has as many slices as buckets, for a count
//! window they are 10 of 6 s. Knows nothing of states: a transition leaves them alone.
//! Twin: `lua/lib/latency.lua`.

use std::collections::BTreeMap;

use super::{Latencies, Rules, window};

/// What a count window's latencies are kept in: slice width in ms, and how many.
const COUNT_WINDOW: (u64, u64) = (6000, 10);

/// Slice start, Unix ms -> what was seen in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Slices(BTreeMap<u64, Latencies>);

fn grid(rules: &Rules) -> (u64, u64) {
    match rules.window_calls {
        0 => window::grid(rules),
        _ => COUNT_WINDOW,
    }
}

impl Slices {
    /// Files a batch under `now`. A slice that begins lets those go that have left the window; one
    /// that lies as far ahead is of a clock that was set back.
    pub(super) fn add(&mut self, rules: &Rules, now: u64, latencies: &Latencies) {
        if latencies.is_empty() {
            return;
        }
        let (width, n) = grid(rules);
        let present = now / width;
        let slice = self.0.entry(present * width).or_default();
        if slice.is_empty() {
            slice.merge(latencies);
            self.0
                .retain(|start, _| (start / width).abs_diff(present) < n);
        } else {
            slice.merge(latencies);
        }
    }

    /// What was seen within the window, as of `now`.
    pub(super) fn seen(&self, rules: &Rules, now: u64) -> Latencies {
        let (width, n) = grid(rules);
        let mut seen = Latencies::default();
        for (start, latencies) in &self.0 {
            if (start / width).abs_diff(now / width) < n {
                seen.merge(latencies);
            }
        }
        seen
    }

    /// As Redis holds them.
    pub(super) fn held(&self) -> BTreeMap<String, String> {
        let text =
            |(start, latencies): (&u64, &Latencies)| (start.to_string(), latencies.to_string());
        self.0.iter().map(text).collect()
    }
}
