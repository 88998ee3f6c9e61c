//! Sliding-window counts of one circuit, running totals beside their parts.
//!
//! Owns bucket rotation, the ring and rate comparison; knows nothing of states or Redis.
//! Invariant: the totals are the sum of the parts. Twin: `lua/lib/window.lua`, which keeps the newest
//! bucket as the difference between the totals and those that have ended.

use std::collections::BTreeMap;

use super::{Counts, Reason, Rules};

/// Calls, failures and slow calls; and undecided ones, which were dropped and are not among the
/// calls.
///
/// A time window has those of its time. A count window, whose places they do not take, has those
/// since the last success.
pub(crate) type Sums = [u64; 4];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    /// What the parts below are made for: `10x6000ms`, `100 calls`, or empty.
    pub(crate) geometry: String,
    /// Time: start of the newest bucket, Unix ms. Count: where the ring is written next.
    pub(crate) at: u64,
    pub(crate) sums: Sums,
    /// Bucket start -> counts.
    pub(crate) buckets: BTreeMap<u64, Sums>,
    /// One character an outcome.
    pub(crate) ring: Vec<u8>,
}

/// Bucket width in ms and number of buckets.
pub(super) fn grid(rules: &Rules) -> (u64, u64) {
    let n = rules.window_buckets.max(1);
    ((rules.window_ms / n).max(1), n)
}

pub(super) fn geometry(rules: &Rules) -> String {
    if rules.window_calls > 0 {
        return format!("{} calls", rules.window_calls);
    }
    let (width, n) = grid(rules);
    format!("{n}x{width}ms")
}

fn plus(a: Sums, b: Sums) -> Sums {
    std::array::from_fn(|i| a[i] + b[i])
}

/// Never below 0: where undecided calls were counted as failures, their buckets still have them
/// undecided.
fn minus(a: Sums, b: Sums) -> Sums {
    std::array::from_fn(|i| a[i].saturating_sub(b[i]))
}

/// Counts as Redis holds them; empty when there are none.
fn text([calls, failures, slow, undecided]: &Sums) -> String {
    match (calls, slow, undecided) {
        (0, _, 0) => String::new(),
        (_, 0, 0) => format!("{calls} {failures}"),
        (_, _, 0) => format!("{calls} {failures} {slow}"),
        _ => format!("{calls} {failures} {slow} {undecided}"),
    }
}

/// How many of `part` in `total` come before position `i`, when spread evenly.
pub(crate) fn before(i: u64, part: u64, total: u64) -> u64 {
    (u128::from(i) * u128::from(part) / u128::from(total)) as u64
}

fn sums_of(outcomes: &[u8]) -> Sums {
    let count = |set: &[u8]| outcomes.iter().filter(|c| set.contains(c)).count() as u64;
    [outcomes.len() as u64, count(b"fF"), count(b"SF"), 0]
}

impl Window {
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The parts as Redis holds them: buckets that have ended, or the ring.
    pub(crate) fn held(&self) -> BTreeMap<String, String> {
        let ended = self.ended();
        let mut held: BTreeMap<_, _> = ended
            .map(|(start, sums)| (start.to_string(), text(sums)))
            .collect();
        if !self.ring.is_empty() {
            let ring = String::from_utf8_lossy(&self.ring).into_owned();
            held.insert("ring".to_owned(), ring);
        }
        held
    }

    fn ended(&self) -> impl Iterator<Item = (&u64, &Sums)> {
        self.buckets.iter().filter(|(start, _)| **start != self.at)
    }

    /// Sums of the buckets that have ended, as Redis holds them.
    pub(crate) fn held_ended(&self) -> String {
        text(&self.ended().fold([0; 4], |sum, (_, b)| plus(sum, *b)))
    }

    /// Buckets that a grid seen from bucket `b` no longer shows.
    fn expired(&self, width: u64, n: u64, b: u64) -> Vec<u64> {
        (self.at / width + 1..=b)
            .filter_map(|k| k.checked_sub(n))
            .map(|k| k * width)
            .filter(|start| self.buckets.contains_key(start))
            .collect()
    }

    fn bucket_sums(&self, starts: &[u64]) -> Sums {
        starts
            .iter()
            .fold([0; 4], |sum, start| plus(sum, self.buckets[start]))
    }

    /// Totals as they are at `now`: what has left the window does not count.
    pub(crate) fn totals(&self, rules: &Rules, now: u64) -> Sums {
        if !self.geometry.ends_with("ms") || self.geometry != geometry(rules) {
            return self.sums;
        }
        let (width, n) = grid(rules);
        let b = now / width;
        if b.abs_diff(self.at / width) >= n {
            return [0; 4];
        }
        minus(self.sums, self.bucket_sums(&self.expired(width, n, b)))
    }

    fn add_time(&mut self, rules: &Rules, now: u64, sums: Sums) {
        let (width, n) = grid(rules);
        let b = now / width;
        if b.abs_diff(self.at / width) >= n {
            self.forget();
            self.geometry = geometry(rules);
            self.at = b * width;
        } else if b > self.at / width {
            for start in self.expired(width, n, b) {
                if let Some(gone) = self.buckets.remove(&start) {
                    self.sums = minus(self.sums, gone);
                }
            }
            self.at = b * width;
        }
        if sums != [0; 4] {
            let bucket = self.buckets.entry(self.at).or_default();
            *bucket = plus(*bucket, sums);
            self.sums = plus(self.sums, sums);
        }
    }

    /// Writes a batch into the ring, its outcomes spread evenly: a batch has counts but no order.
    fn add_count(&mut self, rules: &Rules, counts: &Counts) {
        let n = rules.window_calls;
        let (calls, failures, successes) = (counts.calls(), counts.failures, counts.successes);
        for i in calls.saturating_sub(n)..calls {
            let f = before(i, failures, calls);
            let failed = before(i + 1, failures, calls) > f;
            let (j, of, slow, chars) = if failed {
                (f, failures, counts.slow_failures, [b'f', b'F'])
            } else {
                (i - f, successes, counts.slow_successes, [b's', b'S'])
            };
            let is_slow = before(j + 1, slow, of) > before(j, slow, of);
            self.push(n as usize, chars[usize::from(is_slow)]);
        }
    }

    fn push(&mut self, n: usize, outcome: u8) {
        let at = self.at as usize;
        if at < self.ring.len() {
            self.sums = minus(self.sums, sums_of(&[self.ring[at]]));
            self.ring[at] = outcome;
        } else {
            self.ring.push(outcome);
        }
        self.sums = plus(self.sums, sums_of(&[outcome]));
        self.at = ((at + 1) % n) as u64;
    }

    /// Carries the counts over to another window: old buckets go to the bucket that holds their
    /// start; where one side is a ring, the totals go over as one batch.
    fn convert(&mut self, rules: &Rules, now: u64) {
        let is = geometry(rules);
        if self.geometry == is {
            return;
        }
        let was = std::mem::take(self);
        self.geometry = is;
        if rules.window_calls > 0 || !was.geometry.ends_with("ms") {
            self.seed(rules, now, was.sums);
            return;
        }
        let (width, n) = grid(rules);
        let newest = was.at / width;
        self.at = newest * width;
        for (start, sums) in was.buckets {
            let b = start / width;
            if b + n > newest {
                let bucket = self.buckets.entry(b * width).or_default();
                *bucket = plus(*bucket, sums);
                self.sums = plus(self.sums, sums);
            }
        }
    }

    /// Begins with totals seen elsewhere, as one batch.
    pub(crate) fn seed(&mut self, rules: &Rules, now: u64, sums: Sums) {
        let [calls, failures, slow, undecided] = sums;
        let slow_failures = slow.min(failures);
        let counts = Counts {
            abandoned: undecided,
            successes: calls - failures,
            failures,
            slow_successes: slow - slow_failures,
            slow_failures,
            ..Counts::default()
        };
        self.record(rules, now, &counts);
    }

    /// Files a batch under `now`.
    pub(crate) fn record(&mut self, rules: &Rules, now: u64, counts: &Counts) {
        self.convert(rules, now);
        if rules.window_calls == 0 {
            self.add_time(rules, now, sums_of_batch(counts));
        } else {
            self.add_count(rules, counts);
            let before = self.sums[3];
            // A batch has no order: its own are taken to have come before its successes.
            self.sums[3] = match counts.successes {
                0 => before + counts.undecided(),
                _ => 0,
            };
        }
    }

    /// Counts the undecided calls as failures: they are what opened the circuit.
    pub(crate) fn decide(&mut self, rules: &Rules) {
        if rules.is_silent(self.sums) {
            let [_, failures, slow, undecided] = self.sums;
            let failed = failures + undecided;
            self.sums = [failed, failed, slow.min(failed), 0];
        }
    }
}

/// What a batch adds to a time window.
fn sums_of_batch(counts: &Counts) -> Sums {
    let undecided = counts.undecided();
    [counts.calls(), counts.failures, counts.slow(), undecided]
}

impl Rules {
    /// Whether nothing in the window says that the service works, so that undecided calls are
    /// evidence too: they are all that there is.
    pub(crate) fn is_silent(&self, [calls, failures, _, undecided]: Sums) -> bool {
        let replaced = self.window_calls > 0 && undecided >= self.window_calls;
        self.abandoned_calls > 0 && undecided > 0 && (calls == failures || replaced)
    }

    /// The first trip condition that the sums and the longest run of failures meet.
    pub(crate) fn breach(&self, sums: Sums, run: u64) -> Option<Reason> {
        let [mut calls, mut failures, slow, undecided] = sums;
        let mut run = run;
        if self.is_silent(sums) {
            // With no success between them all of them are in a row.
            let in_a_row = if calls == failures { failures } else { 0 };
            run = run.max(in_a_row + undecided);
            failures += undecided;
            calls = failures;
        }
        let minimum = match self.window_calls {
            0 => self.minimum_number_of_calls,
            n => self.minimum_number_of_calls.min(n),
        };
        let enough = calls > 0 && calls >= minimum;
        let at_least = |value: u64, threshold: u64| threshold > 0 && value >= threshold;
        let rate =
            |part: u64, percent: u64| enough && at_least(part * 100, percent.saturating_mul(calls));
        if at_least(run, self.consecutive_failures_threshold) {
            Some(Reason::ConsecutiveFailures)
        } else if at_least(failures, self.failure_count_threshold) {
            Some(Reason::FailureCount)
        } else if rate(failures, self.failure_rate_threshold) {
            Some(Reason::FailureRate)
        } else if self.slow_call_duration_threshold_ms > 0
            && rate(slow, self.slow_call_rate_threshold)
        {
            Some(Reason::SlowCallRate)
        } else {
            None
        }
    }
}
