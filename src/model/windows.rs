//! The windows of one circuit: one for each shape that the fleet's policies ask for.
//!
//! Owns which windows there are, and that each outcome is recorded in all of them, so that replicas
//! with different policies do not lose each other's counts. Nearly always there is one window.
//! Twin: `lua/lib/windows.lua`.

use std::collections::BTreeMap;

use super::{
    Counts, Rules,
    window::{Shape, Sums, Window},
};

/// The largest number of windows of a circuit.
const MOST: usize = 8;

#[derive(Clone, Debug, Default)]
pub(crate) struct Windows {
    /// In the order of their first use.
    all: Vec<Window>,
    /// Totals of the window of the replica that reported last.
    pub(super) sums: Sums,
}

impl Windows {
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    fn own(&self, rules: &Rules) -> Option<&Window> {
        let shape = Shape::of(rules);
        self.all.iter().find(|window| window.shape == shape)
    }

    /// Adds the window of these rules if it is missing, with the contents of the longest one.
    fn join(&mut self, rules: &Rules, now: u64) {
        if self.own(rules).is_some() {
            return;
        }
        let shape = Shape::of(rules);
        let longest = self.all.iter().rev().max_by_key(|window| window.span_ms());
        let new = match longest {
            Some(longest) => Window::continuing(longest, shape, now),
            None => Window::new(shape),
        };
        if self.all.len() == MOST {
            self.all.remove(0);
        }
        self.all.push(new);
    }

    /// Records a batch at `now`.
    pub(super) fn record(&mut self, rules: &Rules, now: u64, counts: &Counts) {
        self.join(rules, now);
        for window in &mut self.all {
            window.record(now, counts);
        }
        self.sums = self.own(rules).map_or([0; 4], |window| window.sums);
    }

    /// Removes the windows that no policy in use asks for; the window of these rules is always in
    /// use.
    pub(super) fn keep(&mut self, rules: &Rules, now: u64, in_use: &[Shape]) {
        if self.all.is_empty() {
            return;
        }
        self.join(rules, now);
        self.all.retain(|window| in_use.contains(&window.shape));
        if let [window] = &self.all[..] {
            self.sums = window.sums;
        }
    }

    /// Starts with totals from elsewhere, as one batch.
    pub(super) fn seed(&mut self, rules: &Rules, now: u64, sums: Sums) {
        let mut window = Window::new(Shape::of(rules));
        window.seed(now, sums);
        self.sums = window.sums;
        self.all = vec![window];
    }

    /// Returns the totals at `now`, without what has left the window.
    pub(super) fn totals(&self, rules: &Rules, now: u64) -> Sums {
        self.own(rules)
            .map_or(self.sums, |window| window.totals(now))
    }

    /// Whether the newest half of these rules' window opens the circuit.
    pub(super) fn breaches_in_half(&self, rules: &Rules) -> bool {
        let half = self.own(rules).and_then(Window::newest_half);
        rules.breaches_in_half(self.sums, half)
    }

    /// Makes the counts show what opened the circuit: undecided calls count as failures, or only
    /// the newest half of the window counts if that half opened it.
    pub(super) fn decide(&mut self, rules: &Rules, by_half: bool) {
        let half = self.own(rules).and_then(Window::newest_half);
        if let Some(half) = half.filter(|_| by_half) {
            self.show([half.calls, half.failures, self.sums[2].min(half.calls), 0]);
        } else if rules.is_silent(self.sums) {
            let [_, failures, slow, undecided] = self.sums;
            let failed = failures + undecided;
            self.show([failed, failed, slow.min(failed), 0]);
        }
    }

    fn show(&mut self, sums: Sums) {
        self.sums = sums;
        if let [window] = &mut self.all[..] {
            window.sums = sums;
        }
    }

    /// Returns the shapes of the windows, as in the circuit's hash.
    pub(super) fn shapes(&self) -> String {
        let names: Vec<_> = self.all.iter().map(|w| w.shape.to_string()).collect();
        names.join(" + ")
    }

    /// Returns the only window; `None` if there are several.
    pub(super) fn only(&self) -> Option<&Window> {
        match &self.all[..] {
            [window] => Some(window),
            _ => None,
        }
    }

    /// Returns what Redis stores besides the circuit's hash.
    pub(super) fn held(&self) -> BTreeMap<String, String> {
        match &self.all[..] {
            [window] => window.held(),
            several => several
                .iter()
                .map(|window| (window.shape.to_string(), window.packed()))
                .collect(),
        }
    }
}
