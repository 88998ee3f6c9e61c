//! The latencies of one circuit, in slices of time that expire one by one.
//!
//! Owns which slices are in the window: a time window has as many slices as buckets, a count window
//! 10 slices of 6 s. Knows nothing of states: transitions do not change latencies.
//! Twin: `lua/lib/latency.lua`.

use std::collections::BTreeMap;

use super::{Latencies, Rules, window};

/// The slices of a count window: width in ms, and number.
const COUNT_WINDOW: (u64, u64) = (6000, 10);

/// Slice start, Unix ms -> its latencies.
#[derive(Clone, Debug, Default)]
pub(super) struct Slices(BTreeMap<u64, Latencies>);

fn grid(rules: &Rules) -> (u64, u64) {
    match rules.window_calls {
        0 => window::grid(rules),
        _ => COUNT_WINDOW,
    }
}

impl Slices {
    /// Adds a batch to the current slice. When a slice begins, those that have left the window are
    /// removed, and also those as far in the future: they are from before the clock was set back.
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

    /// Returns the latencies in the window, as of `now`.
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

    /// Returns the slices as Redis stores them.
    pub(super) fn held(&self) -> BTreeMap<String, String> {
        let text =
            |(start, latencies): (&u64, &Latencies)| (start.to_string(), latencies.to_string());
        self.0.iter().map(text).collect()
    }
}
