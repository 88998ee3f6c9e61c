//! One sliding window: running totals and their parts.
//!
//! Owns bucket rotation, the ring and rate comparison; knows nothing of states or Redis. Invariant:
//! the totals are the sum of the parts. Twin: `lua/lib/window.lua`, which stores the newest bucket
//! as the difference between the totals and the ended buckets.

use std::{collections::BTreeMap, fmt};

use super::{Counts, Reason, Rules};

/// Calls, failures, slow calls, and undecided calls, which were dropped and are not among the
/// calls.
///
/// A time window has the undecided calls of its time. A count window, in which they take no place,
/// has those since the last success.
pub(crate) type Sums = [u64; 4];

/// The parts of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `buckets` buckets of `width` ms each.
    Time { buckets: u64, width: u64 },
    /// This many calls.
    Count(u64),
}

impl Shape {
    pub(crate) fn of(rules: &Rules) -> Self {
        let (width, buckets) = grid(rules);
        match rules.window_calls {
            0 => Self::Time { buckets, width },
            calls => Self::Count(calls),
        }
    }
}

/// Writes the form that Redis stores: `10x6000ms`, `100 calls`.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time { buckets, width } => write!(f, "{buckets}x{width}ms"),
            Self::Count(calls) => write!(f, "{calls} calls"),
        }
    }
}

/// Returns the bucket width in ms and the number of buckets.
pub(super) fn grid(rules: &Rules) -> (u64, u64) {
    let n = rules.window_buckets.max(1);
    ((rules.window_ms / n).max(1), n)
}

/// The counts in the newest half of a time window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Half {
    pub(super) calls: u64,
    pub(super) failures: u64,
}

/// The newest half of a window is judged alone only with this many times the minimum number of
/// calls: with few calls, half of them fail by chance more often.
const HALF_MINIMUM: u64 = 10;

#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) shape: Shape,
    /// Time window: start of the newest bucket, Unix ms. Count window: where the ring is written
    /// next.
    pub(super) at: u64,
    pub(super) sums: Sums,
    /// Bucket start -> counts.
    buckets: BTreeMap<u64, Sums>,
    /// One character per outcome.
    ring: Vec<u8>,
}

fn plus(a: Sums, b: Sums) -> Sums {
    std::array::from_fn(|i| a[i] + b[i])
}

/// Never below 0: undecided calls that were counted as failures are still undecided in their
/// buckets.
fn minus(a: Sums, b: Sums) -> Sums {
    std::array::from_fn(|i| a[i].saturating_sub(b[i]))
}

/// Formats counts as Redis stores them.
fn text([calls, failures, slow, undecided]: &Sums) -> String {
    match (slow, undecided) {
        (0, 0) => format!("{calls} {failures}"),
        (_, 0) => format!("{calls} {failures} {slow}"),
        _ => format!("{calls} {failures} {slow} {undecided}"),
    }
}

/// Returns how many of `part` in `total` come before position `i`, if spread evenly.
pub(crate) fn before(i: u64, part: u64, total: u64) -> u64 {
    (u128::from(i) * u128::from(part) / u128::from(total)) as u64
}

fn sums_of(outcomes: &[u8]) -> Sums {
    let count = |set: &[u8]| outcomes.iter().filter(|c| set.contains(c)).count() as u64;
    [outcomes.len() as u64, count(b"fF"), count(b"SF"), 0]
}

impl Window {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            shape,
            at: 0,
            sums: [0; 4],
            buckets: BTreeMap::new(),
            ring: Vec::new(),
        }
    }

    /// Creates a window of another shape, with the part of `from` that it covers. An old bucket
    /// goes to the bucket of its last moment, because all its calls may have come then. Between a
    /// ring and a time window, the totals are copied as one batch.
    pub(super) fn continuing(from: &Self, shape: Shape, now: u64) -> Self {
        let mut new = Self::new(shape);
        match (from.shape, shape) {
            (Shape::Count(_), Shape::Count(n)) => {
                let (newest, oldest) = from.ring.split_at(from.at as usize);
                let outcomes = [oldest, newest].concat();
                for outcome in &outcomes[outcomes.len().saturating_sub(n as usize)..] {
                    new.push(n as usize, *outcome);
                }
                new.sums[3] = from.sums[3];
            }
            (Shape::Time { width: was, .. }, Shape::Time { buckets, width }) => {
                let newest = (now / width).max(from.at / width);
                new.at = newest * width;
                for (start, sums) in &from.buckets {
                    let b = now.min(start + was - 1).max(*start) / width;
                    if b + buckets > newest {
                        new.add(b * width, *sums);
                    }
                }
            }
            _ => new.seed(now, from.totals(now)),
        }
        new
    }

    /// Starts with totals from elsewhere, as one batch.
    pub(super) fn seed(&mut self, now: u64, [calls, failures, slow, undecided]: Sums) {
        let slow_failures = slow.min(failures);
        self.record(
            now,
            &Counts {
                abandoned: undecided,
                successes: calls - failures,
                failures,
                slow_successes: slow - slow_failures,
                slow_failures,
                ..Counts::default()
            },
        );
    }

    /// Returns the length of a time window, ms; 0 for a ring.
    pub(super) const fn span_ms(&self) -> u64 {
        match self.shape {
            Shape::Time { buckets, width } => buckets * width,
            Shape::Count(_) => 0,
        }
    }

    /// Returns the parts as Redis stores them: the ended buckets, or the ring.
    pub(super) fn held(&self) -> BTreeMap<String, String> {
        let ended = self.ended();
        let mut held: BTreeMap<_, _> = ended
            .map(|(start, sums)| (start.to_string(), text(sums)))
            .collect();
        if !self.ring.is_empty() {
            held.insert("ring".to_owned(), self.ring_text());
        }
        held
    }

    /// Returns the window as one text, as Redis stores one of several.
    pub(super) fn packed(&self) -> String {
        let parts = match self.shape {
            Shape::Count(_) => self.ring_text(),
            Shape::Time { .. } => {
                let buckets = self.buckets.iter();
                let buckets: Vec<_> = buckets
                    .map(|(start, sums)| format!("{start}={}", text(sums)))
                    .collect();
                buckets.join(",")
            }
        };
        format!("{}|{}|{parts}", self.at, text(&self.sums))
    }

    fn ring_text(&self) -> String {
        String::from_utf8_lossy(&self.ring).into_owned()
    }

    fn ended(&self) -> impl Iterator<Item = (&u64, &Sums)> {
        self.buckets.iter().filter(|(start, _)| **start != self.at)
    }

    /// Returns the sums of the ended buckets.
    pub(super) fn ended_sums(&self) -> Sums {
        self.ended().fold([0; 4], |sum, (_, b)| plus(sum, *b))
    }

    /// Returns the totals at `now`, without what has left the window.
    pub(super) fn totals(&self, now: u64) -> Sums {
        let Shape::Time { buckets, width } = self.shape else {
            return self.sums;
        };
        let b = now / width;
        if b.abs_diff(self.at / width) >= buckets {
            return [0; 4];
        }
        let expired = self.buckets.iter();
        let expired = expired.filter(|(start, _)| **start + buckets * width <= b * width);
        expired.fold(self.sums, |sums, (_, gone)| minus(sums, *gone))
    }

    /// Returns the calls and failures in the newest half of the buckets of a time window.
    pub(super) fn newest_half(&self) -> Option<Half> {
        let Shape::Time { buckets, width } = self.shape else {
            return None;
        };
        let since = (self.at / width + 1).saturating_sub(buckets / 2) * width;
        let newest = self.buckets.range(since..);
        let [calls, failures, ..] = newest.fold([0; 4], |sum, (_, b)| plus(sum, *b));
        (buckets > 1).then_some(Half { calls, failures })
    }

    fn add(&mut self, start: u64, sums: Sums) {
        let bucket = self.buckets.entry(start).or_default();
        *bucket = plus(*bucket, sums);
        self.sums = plus(self.sums, sums);
    }

    fn add_time(&mut self, buckets: u64, width: u64, now: u64, sums: Sums) {
        let b = now / width;
        if b.abs_diff(self.at / width) >= buckets {
            *self = Self::new(self.shape);
            self.at = b * width;
        } else if b > self.at / width {
            self.sums = self.totals(now);
            self.buckets
                .retain(|start, _| start + buckets * width > b * width);
            self.at = b * width;
        }
        if sums != [0; 4] {
            self.add(self.at, sums);
        }
    }

    /// Writes a batch into the ring. Its outcomes are spread evenly, because a batch has counts but
    /// no order.
    fn add_count(&mut self, n: u64, counts: &Counts) {
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

    /// Records a batch at `now`.
    pub(super) fn record(&mut self, now: u64, counts: &Counts) {
        match self.shape {
            Shape::Time { buckets, width } => {
                self.add_time(buckets, width, now, sums_of_batch(counts));
            }
            Shape::Count(n) => {
                self.add_count(n, counts);
                // A batch has no order: its undecided calls are taken to precede its successes.
                self.sums[3] = match counts.successes {
                    0 => self.sums[3] + counts.undecided(),
                    _ => 0,
                };
            }
        }
    }
}

/// Returns what a batch adds to a time window.
fn sums_of_batch(counts: &Counts) -> Sums {
    let undecided = counts.undecided();
    [counts.calls(), counts.failures, counts.slow(), undecided]
}

impl Rules {
    /// Whether nothing in the window shows that the service works. Then undecided calls are
    /// evidence too, because there is no other.
    pub(crate) fn is_silent(&self, [calls, failures, _, undecided]: Sums) -> bool {
        let replaced = self.window_calls > 0 && undecided >= self.window_calls;
        self.abandoned_calls > 0 && undecided > 0 && (calls == failures || replaced)
    }

    /// Whether the newest half of a window opens the circuit, so that a healthy past does not hide
    /// failures until it has left the window. The whole window must have half the threshold
    /// already.
    pub(crate) fn breaches_in_half(&self, [calls, failures, ..]: Sums, half: Option<Half>) -> bool {
        let rate = self.failure_rate_threshold;
        let least = self.minimum_number_of_calls.saturating_mul(HALF_MINIMUM);
        let may = rate > 0 && calls >= least && failures * 200 >= rate.saturating_mul(calls);
        may && half.is_some_and(|half| {
            half.calls >= least && half.failures * 100 >= rate.saturating_mul(half.calls)
        })
    }

    /// Returns the first trip condition that the sums and the longest run of failures meet.
    pub(crate) fn breach(&self, sums: Sums, run: u64) -> Option<Reason> {
        let [mut calls, mut failures, slow, undecided] = sums;
        let mut run = run;
        if self.is_silent(sums) {
            // Without a success between them, all of them are consecutive.
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
        let counts = enough || self.minimum_applies_to == 0;
        if counts && at_least(run, self.consecutive_failures_threshold) {
            Some(Reason::ConsecutiveFailures)
        } else if counts && at_least(failures, self.failure_count_threshold) {
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
