//! Replays a recorded past through the model.
//!
//! A slice has counts but no order. So its calls are spread evenly over the time in which the real
//! circuit admitted calls, and failures, abandoned and slow calls evenly among them. A slice does
//! not say which abandoned calls were failures too. The replay assumes as many as the slice has
//! failures, so that no call is counted twice. Events say more: the window's counts at a real trip,
//! a trip by consecutive failures or by a call, how the real probes ended, and a reset by an
//! operator. Invariant: the same past under the same rules gives the same course.

use super::{course::Course, record::Record};
use crate::{
    Event, Reason, Rules, State,
    model::{
        Acquire, Circuit, Command, Control, Counts, Head, Interval, Kind, Permission, Report,
        Settled, Slice, before,
    },
};

/// Steps in which a slice is replayed.
const STEPS: u64 = 10;
/// The maximum calls of a kind that are replayed of a slice, so that sums stay exact.
const MOST: u64 = 1 << 40;

/// What events say about the replayed policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// Whether the window's counts in events apply: the policy has the same window.
    pub(super) window: bool,
    /// How many consecutive failures open the real circuit.
    pub(super) run: u64,
}

/// A circuit during a replay.
struct Replay<'a> {
    circuit: Circuit,
    head: Head,
    known: Known,
    reports: u64,
    probes: u64,
    /// Real events that are still ahead.
    coming: &'a [Event],
    /// Events of the replayed circuit, oldest first.
    events: Vec<Event>,
    rejected: u64,
    rejected_failures: u64,
}

/// Replays the record on a circuit that begins closed, and returns its course.
pub(super) fn course(rules: &Rules, known: Known, record: &Record) -> Course {
    let mut replay = Replay::new(rules, known, &record.events);
    for slice in &record.slices {
        replay.take(slice, record);
    }
    replay.meet(record.to_ms);
    Course {
        rejected: replay.rejected,
        rejected_failures: Some(replay.rejected_failures),
        ..Course::of(State::Closed, record.from_ms, &replay.events, record.to_ms)
    }
}

/// The calls of a slice, numbered from 0. A call's number decides whether it failed, was abandoned
/// or was slow.
struct Calls(Interval);

/// Outcomes of a range of calls.
struct Part {
    successes: u64,
    failures: u64,
    /// Calls dropped before they ended that are not failures.
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

    /// Outcomes of the calls `from..to`.
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

/// The time ranges of a slice in which the real circuit admitted calls, without empty ones.
fn passing(slice: &Slice, record: &Record) -> Vec<(u64, u64)> {
    let from = slice.counts.at_ms;
    // The newest slice has not ended yet.
    let to = from
        .saturating_add(slice.lasted_ms)
        .min(record.to_ms)
        .max(from + STEPS);
    let rejects = |state| matches!(state, State::Open | State::ForcedOpen);
    let spans = record.spans.iter().filter(|span| !rejects(span.state));
    let common = spans.map(|span| (span.from_ms.max(from), span.to_ms.min(to)));
    let passing: Vec<_> = common.filter(|(from, to)| from < to).collect();
    match passing.is_empty() {
        // The circuit admitted these calls earlier, and they ended in this slice.
        true => vec![(from, to)],
        false => passing,
    }
}

/// The moment at which `after` ms of these time ranges have passed.
fn moment(times: &[(u64, u64)], mut after: u64) -> u64 {
    for (from, to) in times {
        if after < to - from {
            return from + after;
        }
        after -= to - from;
    }
    times.last().map_or(0, |(_, to)| *to)
}

impl<'a> Replay<'a> {
    fn new(rules: &Rules, known: Known, coming: &'a [Event]) -> Self {
        let policy = Rules {
            quorum: 1,
            history: 0,
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
            known,
            reports: 0,
            probes: 0,
            coming,
            events: Vec::new(),
            rejected: 0,
            rejected_failures: 0,
        }
    }

    fn take(&mut self, slice: &Slice, record: &Record) {
        let calls = Calls(Interval {
            successes: slice.counts.successes.min(MOST),
            failures: slice.counts.failures.min(MOST),
            abandoned: slice.counts.abandoned.min(MOST),
            ..slice.counts
        });
        let times = passing(slice, record);
        let lasted: u64 = times.iter().map(|(from, to)| to - from).sum();
        for step in 0..STEPS {
            let now = moment(&times, lasted * step / STEPS);
            let from = before(step, calls.all(), STEPS);
            let to = before(step + 1, calls.all(), STEPS);
            if from < to {
                self.meet(now);
                self.step(&calls, from, to, now);
            }
        }
    }

    /// Replays the calls of one step, which come all at once.
    fn step(&mut self, calls: &Calls, mut from: u64, to: u64, now: u64) {
        while from < to {
            self.probes += 1;
            let token = self.probes.to_string();
            let head = self.head.clone();
            let grant = self.circuit.acquire(&Acquire { head, token }, now);
            let generation = grant.snapshot.generation;
            match grant.permission {
                Permission::Permitted => {
                    let report = Report {
                        counts: counts(calls, from, to),
                        ..Report::default()
                    };
                    self.report(report, generation, now);
                    from = to;
                }
                Permission::Probe => {
                    let settled = Settled {
                        token: self.probes.to_string(),
                        generation,
                        kind: self.outcome_of_probe(calls, from),
                        retry_after_ms: 0,
                    };
                    let report = Report {
                        settled: vec![settled],
                        ..Report::default()
                    };
                    self.report(report, generation, now);
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

    /// What became of a probe: what became of the real ones if the real circuit is half-open too,
    /// otherwise what its number says.
    fn outcome_of_probe(&self, calls: &Calls, number: u64) -> Kind {
        let ahead = self.coming.first();
        match ahead.map(|event| (event.from, event.to, event.reason)) {
            Some((State::HalfOpen, State::Closed, Reason::Recovered)) => return Kind::Success,
            Some((State::HalfOpen, State::Open, Reason::ProbeFailed)) => return Kind::Failure,
            _ => {}
        }
        let one = calls.among(number, number + 1);
        let slow = one.slow * self.head.policy.slow_call_duration_threshold_ms.min(1);
        match (one.undecided, one.failures + slow) {
            (0, 0) => Kind::Success,
            (0, _) => Kind::Failure,
            _ if self.head.policy.abandoned_calls == 0 => Kind::Ignored,
            _ => Kind::Abandoned,
        }
    }

    fn report(&mut self, report: Report, generation: u64, now: u64) {
        self.reports += 1;
        let report = Report {
            head: self.head.clone(),
            seq: self.reports,
            generation,
            ..report
        };
        self.circuit.report(&report, now);
    }

    /// Applies real events up to a moment, as far as they affect this policy too.
    fn meet(&mut self, now: u64) {
        while let Some((event, rest)) = self.coming.split_first() {
            if event.at_ms > now {
                return;
            }
            self.coming = rest;
            match event.reason {
                Reason::Reset | Reason::OverrideExpired => {
                    let request = Control {
                        head: self.head.clone(),
                        command: Command::Reset,
                        ..Control::default()
                    };
                    self.circuit.control(&request, event.at_ms);
                    self.note();
                }
                _ if event.from == State::Closed && event.to == State::Open => {
                    self.meet_trip(event)
                }
                _ => {}
            }
        }
    }

    /// Opens this circuit when the real one opens, if what is known of that moment opens it too.
    fn meet_trip(&mut self, event: &Event) {
        let run = self.head.policy.consecutive_failures_threshold;
        let sums = [event.calls, event.failures, event.slow, 0];
        let opens = match event.reason {
            Reason::Tripped => true,
            Reason::ConsecutiveFailures => (1..=self.known.run).contains(&run),
            Reason::FailureRate | Reason::FailureCount | Reason::SlowCallRate => {
                self.known.window && self.head.policy.breach(sums, 0).is_some()
            }
            _ => false,
        };
        let now = self.circuit.snapshot(&self.head, event.at_ms);
        if !opens || now.state != State::Closed {
            return;
        }
        let report = Report {
            trips: 1,
            ..Report::default()
        };
        self.report(report, now.generation, event.at_ms);
        let before = self.events.len();
        self.note();
        if let Some(trip) = self.events.get_mut(before) {
            trip.reason = event.reason;
            (trip.calls, trip.failures, trip.slow) = (event.calls, event.failures, event.slow);
        }
    }

    /// Keeps the circuit's new events; the circuit itself discards old ones.
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
