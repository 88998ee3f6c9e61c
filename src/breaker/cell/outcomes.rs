//! What becomes of permitted calls: into the tally, or by token into the outbox.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Cell, Pass, Ticket, View};
use crate::{
    breaker::{gate::spread_ms, outbox::Outbox, tally::Count},
    model::{Counts, Kind, LARGEST, Outcome, Settled, State, Sums},
};

/// How far apart reports leave at once that did not open the circuit.
const AT_LEAST_APART: Duration = Duration::from_millis(10);

impl Cell {
    /// Files the quick success of a call that is no probe; `false` when it is not one, or the
    /// circuit has moved on.
    #[inline]
    pub(in crate::breaker) fn settle_plainly(
        self: &Arc<Self>,
        pass: Pass,
        outcome: &Outcome,
        took_ns: u64,
    ) -> bool {
        let plain = matches!(outcome, Outcome::Success) && !self.gate.is_slow(took_ns);
        let filed = plain && self.tally.record(pass.tag(), Count::Success);
        if filed {
            if self.gate.glance().reports_at_once() {
                self.hurry();
            }
            self.time(pass, took_ns);
            self.wake_if_parked();
        }
        filed
    }

    #[inline]
    fn time(&self, pass: Pass, took_ns: u64) {
        if pass.weight() == 0 {
            return;
        }
        match self.gate.glance().is_timed() {
            true => self.tally.time(took_ns),
            false => self.tally.time_sampled(took_ns, pass.weight()),
        }
    }

    /// Files what became of a permitted call.
    #[inline(never)]
    pub(in crate::breaker) fn settle(
        self: &Arc<Self>,
        ticket: Ticket,
        outcome: Outcome,
        took_ns: u64,
    ) {
        let slow = self.gate.is_slow(took_ns);
        if outcome != Outcome::Ignored {
            self.time(ticket.pass, took_ns);
        }
        if ticket.probe.is_some() {
            return self.settle_probe(ticket, outcome, slow);
        }
        let count = match (outcome, slow) {
            (Outcome::Success, false) => Count::Success,
            (Outcome::Success, true) => Count::SlowSuccess,
            (Outcome::Ignored, _) => Count::Ignored,
            (_, false) => Count::Failure,
            (_, true) => Count::SlowFailure,
        };
        if let Outcome::Failure {
            retry_after: Some(wait),
        } = outcome
        {
            self.record_words(&ticket, count, Some(wait), false);
        } else if let Outcome::Trip { retry_after } = outcome {
            self.record_words(&ticket, count, retry_after, true);
        } else if !self.tally.record(ticket.pass.tag(), count) {
            self.count_aside(&mut self.outbox.lock(), count);
        }
        if self.gate.glance().reports_at_once() {
            self.hurry();
        } else if count != Count::Success {
            self.heed_urgency();
        }
        self.wake_if_parked();
    }

    /// Records an outcome that says more than that it happened, in one piece with what it says.
    fn record_words(
        self: &Arc<Self>,
        ticket: &Ticket,
        count: Count,
        retry_after: Option<Duration>,
        trip: bool,
    ) {
        let _no_transition_between = self.view.lock();
        let counted = self.tally.record(ticket.pass.tag(), count);
        let mut outbox = self.outbox.lock();
        if counted {
            outbox.heed(retry_after);
            outbox.trips += u64::from(trip);
            if trip {
                self.hurry();
            }
        } else {
            self.count_aside(&mut outbox, count);
        }
    }

    /// Counts an outcome that is not the present generation's, for the lifetime totals.
    fn count_aside(&self, outbox: &mut Outbox, count: Count) {
        outbox.late += one(count);
        self.noted.lock().aside += one(count);
    }

    /// How long the call has taken by now; 0 when its beginning was not noted.
    #[inline]
    pub(in crate::breaker) fn elapsed_ns(&self, pass: Pass) -> u64 {
        let clock = &self.shared.clock;
        match pass.started {
            0 => 0,
            started => clock.ns_between(started, clock.ticks()),
        }
    }

    /// A probe settles by its token, in the circuit that gave it.
    fn settle_probe(self: &Arc<Self>, ticket: Ticket, outcome: Outcome, slow: bool) {
        let Some(probe) = ticket.probe else { return };
        let (kind, retry_after, count) = match outcome {
            Outcome::Success if slow => (Kind::Failure, None, Count::SlowSuccess),
            Outcome::Success => (Kind::Success, None, Count::Success),
            Outcome::Failure { retry_after } => (Kind::Failure, retry_after, Count::Failure),
            Outcome::Trip { retry_after } => (Kind::Trip, retry_after, Count::Failure),
            Outcome::Ignored => (Kind::Ignored, None, Count::Ignored),
        };
        let settled = Settled {
            token: probe.token,
            generation: probe.generation,
            kind,
        };
        let mut outbox = self.outbox.lock();
        self.count_aside(&mut outbox, count);
        self.note_settled(&mut outbox, settled, probe.local);
        outbox.heed(retry_after);
        drop(outbox);
        self.hurry();
    }

    /// Has the next report settle a probe.
    pub(super) fn note_settled(&self, outbox: &mut Outbox, settled: Settled, local: bool) {
        self.noted.lock().note_probe(settled.kind);
        match (settled.kind, local) {
            (Kind::Ignored, false) => outbox.releases.push(settled.token),
            (_, false) => outbox.settled.push(settled),
            (_, true) => outbox.settled_locally.push(settled),
        }
    }

    /// Files a call that ended without an outcome: it was dropped, or panicked.
    #[cold]
    pub(in crate::breaker) fn abandon(self: &Arc<Self>, ticket: Ticket) {
        let rules = self.policy.load().rules;
        let limits = [rules.call_timeout_ms, rules.slow_call_duration_threshold_ms];
        let limit = limits.into_iter().filter(|ms| *ms > 0).min();
        let took_ns = self.elapsed_ns(ticket.pass);
        let overdue = limit.is_some_and(|ms| took_ns / 1_000_000 >= ms);
        let failed = std::thread::panicking() || overdue;
        let outcome = match failed {
            true => Outcome::failure(),
            false => Outcome::Ignored,
        };
        self.settle(ticket, outcome, took_ns);
    }

    /// Has a report leave earlier when what is known of the window, with what was not reported yet,
    /// meets a trip condition: at once, as far as this replica sees; a little later, if it were so
    /// should the others have seen the same.
    fn heed_urgency(self: &Arc<Self>) {
        let view = self.view.lock();
        if view.seen.state != State::Closed {
            return;
        }
        let replicas = view.seen.replicas.max(1);
        let spread = Duration::from_millis(spread_ms(replicas));
        let mut outbox = self.outbox.lock();
        let now = Instant::now();
        if self.would_trip(&view, 1) {
            if outbox.urge(now, spread.max(AT_LEAST_APART)) {
                return self.hurry();
            }
        } else if outbox.alarm.is_none() && self.would_trip(&view, replicas) {
            outbox.set_alarm(now + spread.mul_f64(fastrand::f64()));
        } else {
            return;
        }
        drop(outbox);
        self.shared.activate(self);
        self.shared.wake.notify_one();
    }

    /// Whether the window would meet a trip condition, if so many replicas had to report the same.
    fn would_trip(&self, view: &View, replicas: u64) -> bool {
        let fresh = self.tally.fresh();
        // Whatever number of replicas somebody wrote into the circuit.
        let plus = |before: u64, fresh: u64| {
            before
                .saturating_add(fresh.saturating_mul(replicas))
                .min(LARGEST)
        };
        let run_after = |before: u64| match fresh.run_began_here {
            true => fresh.run,
            false => plus(before, fresh.run),
        };
        let with = |[calls, failures, slow]: Sums| {
            let counts = &fresh.counts;
            [
                plus(calls, counts.calls()),
                plus(failures, counts.failures),
                plus(slow, counts.slow()),
            ]
        };
        let (seen, rules) = (&view.seen, self.policy.load().rules);
        let fleet = with([seen.calls, seen.failures, seen.slow]);
        let breach = |sums, run| rules.breach(sums, run).is_some();
        breach(fleet, run_after(seen.consecutive_failures))
            || rules.quorum > 1 && breach(with(view.own), run_after(view.own_run))
    }
}

fn one(count: Count) -> Counts {
    let mut counts = Counts::default();
    match count {
        Count::Success => counts.successes = 1,
        Count::Failure => counts.failures = 1,
        Count::SlowSuccess => (counts.successes, counts.slow_successes) = (1, 1),
        Count::SlowFailure => (counts.failures, counts.slow_failures) = (1, 1),
        Count::Ignored => counts.ignored = 1,
    }
    counts
}
