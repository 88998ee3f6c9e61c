//! A past that goes through the model again.
//!
//! A slice has counts but no order, so its calls are spread evenly over its time, failures,
//! abandoned and slow calls evenly among them. A slice does not say which abandoned calls were
//! failures too: as many of them as it has failures are taken to be, so none is counted twice.
//! Invariant: the same past under the same rules takes the same course.

use crate::{
    Event, Rules,
    model::{
        Acquire, Circuit, Counts, Head, Interval, Kind, Permission, Report, SLICE_MS, Settled,
        before,
    },
};

/// In how many steps a slice is replayed.
const STEPS: u64 = 10;
/// The most calls of a kind in a slice that are believed: sums of them stay exact.
const MOST: u64 = 1 << 40;

/// A circuit that goes through a past.
pub(super) struct Replay {
    circuit: Circuit,
    head: Head,
    reports: u64,
    probes: u64,
    /// What has happened, oldest first.
    pub(super) events: Vec<Event>,
    pub(super) rejected: u64,
    pub(super) rejected_failures: u64,
}

/// Calls of a slice, numbered from 0: which of them failed, which were abandoned, which were slow.
struct Calls(Interval);

/// What became of some of them.
struct Part {
    successes: u64,
    failures: u64,
    /// Dropped before they ended, and no failures.
    undecided: u64,
    slow: u64,
}

impl Calls {
    fn undecided(&self) -> u64 {
        self.0.abandoned.saturating_sub(self.0.failures)
    }

    fn all(&self) -> u64 {
        self.0.successes + self.0.failures + self.undecided()
    }

    /// What became of those from one number up to another.
    fn among(&self, from: u64, to: u64) -> Part {
        let all = self.all().max(1);
        let unsuccessful = self.0.failures + self.undecided();
        let [before_from, before_to] = [from, to].map(|i| before(i, unsuccessful, all));
        let failures_before = |i| match unsuccessful {
            0 => 0,
            of => before(i, self.0.failures, of),
        };
        let failures = failures_before(before_to) - failures_before(before_from);
        let slow = self.0.slow.min(self.0.successes + self.0.failures);
        Part {
            successes: to - from - (before_to - before_from),
            failures,
            undecided: before_to - before_from - failures,
            slow: before(to, slow, all) - before(from, slow, all),
        }
    }
}

impl Replay {
    pub(super) fn new(rules: &Rules) -> Self {
        let policy = Rules {
            quorum: 1,
            ..*rules
        };
        let head = Head {
            entropy: 500,
            replica: "simulation".to_owned(),
            policy,
            ..Head::default()
        };
        Self {
            circuit: Circuit::default(),
            head,
            reports: 0,
            probes: 0,
            events: Vec::new(),
            rejected: 0,
            rejected_failures: 0,
        }
    }

    pub(super) fn take(&mut self, slice: &Interval, to_ms: u64) {
        let calls = Calls(Interval {
            successes: slice.successes.min(MOST),
            failures: slice.failures.min(MOST),
            abandoned: slice.abandoned.min(MOST),
            ..*slice
        });
        // The newest slice is not over.
        let lasted = to_ms.saturating_sub(slice.at_ms).clamp(STEPS, SLICE_MS);
        for step in 0..STEPS {
            let now = slice.at_ms.saturating_add(lasted * step / STEPS);
            let from = before(step, calls.all(), STEPS);
            let to = before(step + 1, calls.all(), STEPS);
            self.step(&calls, from, to, now);
        }
    }

    /// The calls of one step, which come all at once.
    fn step(&mut self, calls: &Calls, mut from: u64, to: u64, now: u64) {
        while from < to {
            self.probes += 1;
            let token = self.probes.to_string();
            let head = self.head.clone();
            let grant = self.circuit.acquire(&Acquire { head, token }, now);
            let generation = grant.snapshot.generation;
            match grant.permission {
                Permission::Permitted => {
                    self.report(counts(calls, from, to), None, generation, now);
                    from = to;
                }
                Permission::Probe => {
                    let one = calls.among(from, from + 1);
                    let slow = one.slow * self.head.policy.slow_call_duration_threshold_ms.min(1);
                    let kind = match (one.undecided, one.failures + slow) {
                        (0, 0) => Kind::Success,
                        (0, _) => Kind::Failure,
                        _ if self.head.policy.abandoned_calls == 0 => Kind::Ignored,
                        _ => Kind::Abandoned,
                    };
                    self.report(Counts::default(), Some(kind), generation, now);
                    from += 1;
                }
                Permission::Rejected => {
                    self.rejected += to - from;
                    self.rejected_failures += calls.among(from, to).failures;
                    from = to;
                }
            }
            self.note();
        }
    }

    fn report(&mut self, counts: Counts, probe: Option<Kind>, generation: u64, now: u64) {
        self.reports += 1;
        let settled = probe.map(|kind| Settled {
            token: self.probes.to_string(),
            generation,
            kind,
            retry_after_ms: 0,
        });
        let report = Report {
            head: self.head.clone(),
            seq: self.reports,
            generation,
            counts,
            settled: settled.into_iter().collect(),
            ..Report::default()
        };
        self.circuit.report(&report, now);
    }

    /// Keeps what has happened; the circuit forgets.
    fn note(&mut self) {
        let newest = self.events.last().map_or(0, |event| event.generation);
        self.events.extend(self.circuit.events_after(newest));
        self.circuit.take_published();
    }
}

fn counts(calls: &Calls, from: u64, to: u64) -> Counts {
    let part = calls.among(from, to);
    let slow_failures = part.slow.min(part.failures);
    Counts {
        successes: part.successes,
        failures: part.failures,
        slow_successes: (part.slow - slow_failures).min(part.successes),
        slow_failures,
        abandoned: part.undecided,
        ..Counts::default()
    }
}
