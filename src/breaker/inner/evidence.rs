//! This process' own evidence, added to what it last heard of the fleet: whether that opens the
//! circuit.
//!
//! Owns the judgement ahead of the store's. If the evidence opens the circuit, the process admits
//! no more calls while its report is on the way; the answer decides. Invariant: unreported
//! outcomes, the unanswered report and the fleet's counts are each counted once.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{CircuitInner, View};
use crate::{
    breaker::{
        gate::{Source, spread_ms},
        outbox::Outbox,
        tally::Count,
    },
    model::{Counts, LARGEST, Reason, Rules, Runs, Snapshot, State, Sums, millis},
};

/// The minimum time between reports that leave at once without opening the circuit.
const AT_LEAST_APART: Duration = Duration::from_millis(10);

/// The circuit is open by this process' own evidence.
#[derive(Clone, Debug)]
pub(in crate::breaker) struct Foreseen {
    reason: Reason,
    /// Until when to wait for the store's answer, coarse ms.
    until: u64,
}

impl View {
    /// The foreseen open circuit; `now` is the coarse time.
    pub(super) fn foreseen(&self, now: u64) -> Option<Snapshot> {
        let foreseen = self.foreseen.as_ref()?;
        Some(Snapshot {
            state: State::Open,
            reason: foreseen.reason,
            until_ms: self.seen.now_ms + foreseen.until.saturating_sub(now).max(1),
            ..self.seen.clone()
        })
    }
}

/// A window to which unreported outcomes are added.
#[derive(Clone, Copy)]
struct Sum {
    sums: Sums,
    run: u64,
    longest: u64,
    /// Whether the oldest calls, which a full ring loses, are assumed to be failures rather than
    /// successes: nothing here knows.
    loses_failures: bool,
}

impl Sum {
    const fn of(sums: Sums, run: u64, loses_failures: bool) -> Self {
        Self {
            sums,
            run,
            longest: run,
            loses_failures,
        }
    }

    /// Adds a batch `times` over. Saturates, because anybody can write any number of replicas.
    fn add(&mut self, rules: &Rules, counts: &Counts, runs: Runs, times: u64) {
        let plus = |a: u64, b: u64| a.saturating_add(b.saturating_mul(times)).min(LARGEST);
        let [calls, failures, slow, undecided] = self.sums;
        let added = [
            counts.calls(),
            counts.failures,
            counts.slow(),
            counts.undecided(),
        ];
        let undecided = match (rules.window_calls, counts.successes) {
            (1.., 1..) => 0,
            _ => plus(undecided, added[3]),
        };
        let mut sums = [
            plus(calls, added[0]),
            plus(failures, added[1]),
            plus(slow, added[2]),
            undecided,
        ];
        if rules.window_calls > 0 {
            let lost = sums[0].saturating_sub(rules.window_calls);
            // The oldest calls go first, and the newest failures are those of the current run.
            let old_failures = failures.saturating_sub(self.run);
            for (part, before, old) in [(1, failures, old_failures), (2, slow, slow)] {
                let of_them = match self.loses_failures {
                    true => lost.min(old),
                    false => (lost + before).saturating_sub(calls).min(before),
                };
                sums[part] = (sums[part] - of_them).min(rules.window_calls);
            }
            sums[0] = sums[0].min(rules.window_calls);
        }
        self.sums = sums;
        if counts.successes == 0 && rules.is_silent(sums) {
            self.run = plus(self.run, added[3]);
        }
        match counts.successes {
            0 => {
                self.run = plus(self.run, counts.failures);
                self.longest = self.longest.max(self.run);
            }
            _ => {
                let joined = if runs.first > 0 {
                    plus(self.run, runs.first)
                } else {
                    0
                };
                self.longest = self.longest.max(joined).max(runs.longest);
                self.run = runs.last;
            }
        }
    }

    fn breach(&self, rules: &Rules) -> Option<Reason> {
        rules.breach(self.sums, self.longest)
    }
}

/// All that this process knows of the window, each part once.
struct Evidence {
    rules: Rules,
    /// The fleet's window and run of failures as last received, and those of the local circuit.
    fleet: (Sums, u64),
    own: (Sums, u64),
    /// The unanswered report, which is not in the window as received.
    unanswered: Option<(Counts, Runs)>,
    /// Unreported outcomes, as they would be reported.
    fresh: (Counts, Runs),
    /// Whether an outcome asks for an open circuit: among the unreported ones, and among all.
    asks: bool,
    asked: bool,
}

impl Evidence {
    /// The fleet's window, if this many replicas had to report the same.
    fn of_fleet(&self, replicas: u64, sure: bool) -> Sum {
        let mut sum = Sum::of(self.fleet.0, self.fleet.1, sure);
        for (counts, runs) in self.unanswered.iter().chain([&self.fresh]) {
            sum.add(&self.rules, counts, *runs, replicas);
        }
        sum
    }

    /// What this replica alone has seen: its local circuit sees each report when it is made.
    fn of_own(&self, sure: bool) -> Sum {
        let mut sum = Sum::of(self.own.0, self.own.1, sure);
        sum.add(&self.rules, &self.fresh.0, self.fresh.1, 1);
        sum
    }

    /// Why the evidence opens the circuit for this process.
    fn opens(&self) -> Option<Reason> {
        match self.rules.quorum {
            0 | 1 if self.asked => Some(Reason::Tripped),
            0 | 1 => self.of_fleet(1, true).breach(&self.rules),
            _ => self.of_own(true).breach(&self.rules),
        }
    }

    /// Whether the window may meet a trip condition, if this many replicas had to report the same.
    fn may_open(&self, replicas: u64) -> bool {
        let breach = |sum: Sum| sum.breach(&self.rules).is_some();
        self.asks
            || breach(self.of_fleet(replicas, false))
            || self.rules.quorum > 1 && breach(self.of_own(false))
    }
}

/// The time over which the fleet's replicas take turns.
pub(super) fn spread_of(view: &View) -> Duration {
    Duration::from_millis(spread_ms(view.seen.replicas))
}

impl CircuitInner {
    /// Weighs the counts: makes a report leave earlier if it may open the circuit, and admits no
    /// more calls if it does.
    ///
    /// The report leaves at once if this replica's own evidence may open the circuit, and a little
    /// later if that takes the other replicas having seen the same.
    pub(super) fn weigh(self: &Arc<Self>) {
        let mut view = self.view.lock();
        if view.foreseen.is_some() || view.seen.state != State::Closed {
            return;
        }
        let replicas = view.seen.replicas.max(1);
        let mut outbox = self.outbox.lock();
        let evidence = self.evidence(&view, &outbox);
        if evidence.may_open(1) {
            let decides_here = self.decides_at_once();
            let leaves = decides_here || self.may_urge(&view, &mut outbox);
            let reason = evidence.opens().filter(|_| !decides_here);
            drop(outbox);
            if let Some(reason) = reason {
                self.foresee(&mut view, reason);
            }
            drop(view);
            if leaves {
                return self.hurry();
            }
        } else if outbox.alarm.is_none() && evidence.may_open(replicas) {
            let spread = spread_of(&view);
            outbox.set_alarm(Instant::now() + spread.mul_f64(fastrand::f64()));
            drop(outbox);
            drop(view);
        } else {
            return;
        }
        self.shared.attend(self);
    }

    /// Whether a report may leave at once; otherwise it leaves at this replica's turn.
    pub(super) fn may_urge(&self, view: &View, outbox: &mut Outbox) -> bool {
        outbox.urge(Instant::now(), spread_of(view).max(AT_LEAST_APART))
    }

    /// Admits no more calls until the store has judged the evidence.
    fn foresee(&self, view: &mut View, reason: Reason) {
        view.foreseen = Some(self.foreseen(view, reason));
        self.set_gate(view);
    }

    fn foreseen(&self, view: &View, reason: Reason) -> Foreseen {
        // Time for the report's turn, and for its answer.
        let wait = self.shared.store_timeout.saturating_add(spread_of(view));
        let until = self.now().saturating_add(millis(wait).max(1));
        Foreseen { reason, until }
    }

    /// After the store's answer: continues to admit no calls if evidence that the store did not
    /// have yet opens the circuit. The evidence that it had is for the store to judge.
    pub(super) fn foresee_on(&self, view: &mut View) {
        if view.foreseen.take().is_none() {
            return;
        }
        let outbox = self.outbox.lock();
        let closed = view.source == Source::Shared && view.seen.state == State::Closed;
        let more = outbox.pending.is_some() || outbox.trips > 0 || !self.tally.is_empty();
        let evidence = self.evidence(view, &outbox);
        let reason = evidence.opens().filter(|_| closed && more);
        view.foreseen = reason.map(|reason| self.foreseen(view, reason));
    }

    fn evidence(&self, view: &View, outbox: &Outbox) -> Evidence {
        let (mut counts, runs) = self.tally.fresh();
        let mut silence = outbox.undecided;
        silence.sift(&mut counts, self.tally.in_flight());
        let pending = outbox.pending.as_ref();
        let pending = pending.filter(|report| report.generation == view.generation());
        // If the local circuit decides, it has already seen that report.
        let unanswered = pending.filter(|_| view.source == Source::Shared);
        let asks = outbox.trips > 0;
        Evidence {
            rules: self.policy.load().rules,
            fleet: (view.seen.sums(), view.seen.consecutive_failures),
            own: (view.own, view.own_run),
            unanswered: unanswered.map(|report| (report.counts, report.runs)),
            fresh: (counts, runs),
            asks,
            asked: asks || pending.is_some_and(|report| report.trips > 0),
        }
    }

    /// Follows up on an outcome that was not filed as a plain success.
    pub(super) fn counted(self: &Arc<Self>, count: Count) {
        if !matches!(count, Count::Success | Count::Ignored) {
            self.weigh();
        }
        if self.gate.word().reports_at_once() {
            self.report_soon();
        }
        self.wake_if_parked();
    }
}
