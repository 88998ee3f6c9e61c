//! What becomes of permitted calls: into the tally, or by token into the outbox.

use std::{sync::Arc, time::Duration};

use super::{Cell, Pass, Probe, Ticket};
use crate::{
    breaker::{outbox::Outbox, tally::Count},
    model::{Counts, Kind, Outcome, Settled, millis},
};

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
                self.report_soon();
            }
            self.time(pass, took_ns);
            self.wake_if_parked();
        }
        filed
    }

    /// Records how long a call took that succeeded.
    #[inline]
    fn time(&self, pass: Pass, took_ns: u64) {
        let glance = self.gate.glance();
        if glance.is_timed() {
            self.tally.end(pass.weight());
            if glance.is_recorded() && pass.is_timed() {
                self.tally.time(took_ns);
            }
        } else if pass.weight() > 0 {
            self.tally.time_sampled(took_ns, pass.weight());
        }
    }

    /// Records how long a call took that failed.
    fn time_failed(&self, pass: Pass, took_ns: u64) {
        let glance = self.gate.glance();
        let calls = match glance.is_timed() {
            true => u32::from(glance.is_recorded() && pass.is_timed()),
            false => pass.weight(),
        };
        self.tally.end(pass.weight());
        self.tally.time_failed(took_ns, calls);
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
        match outcome {
            Outcome::Success => self.time(ticket.pass, took_ns),
            Outcome::Ignored => self.tally.end(ticket.pass.weight()),
            _ => self.time_failed(ticket.pass, took_ns),
        }
        if let Some(probe) = ticket.probe {
            let (kind, retry_after, count) = match outcome {
                Outcome::Success if slow => (Kind::Failure, None, Count::SlowSuccess),
                Outcome::Success => (Kind::Success, None, Count::Success),
                Outcome::Failure { retry_after } => (Kind::Failure, retry_after, Count::Failure),
                Outcome::Trip { retry_after } => (Kind::Trip, retry_after, Count::Failure),
                Outcome::Ignored => (Kind::Ignored, None, Count::Ignored),
            };
            return self.settle_probe(*probe, kind, retry_after, count);
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
        self.counted(count);
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
        } else {
            self.count_aside(&mut outbox, count);
        }
    }

    /// Counts an outcome that is not the present generation's, for the lifetime totals.
    pub(super) fn count_aside(&self, outbox: &mut Outbox, count: Count) {
        outbox.late += one(count);
        self.noted.lock().aside += one(count);
    }

    /// How long the call has taken by now; 0 when its beginning was not noted.
    #[inline]
    pub(in crate::breaker) fn elapsed_ns(&self, pass: Pass) -> u64 {
        let clock = &self.shared.clock;
        match pass.is_timed() {
            true => clock.ns_between(pass.started, clock.ticks()),
            false => 0,
        }
    }

    /// A probe settles by its token, in the circuit that gave it.
    pub(super) fn settle_probe(
        self: &Arc<Self>,
        probe: Probe,
        kind: Kind,
        retry_after: Option<Duration>,
        count: Count,
    ) {
        let settled = Settled {
            token: probe.token,
            generation: probe.generation,
            kind,
            retry_after_ms: retry_after.map_or(0, millis),
        };
        let mut outbox = self.outbox.lock();
        self.count_aside(&mut outbox, count);
        self.note_settled(&mut outbox, settled, probe.local);
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
}

fn one(count: Count) -> Counts {
    let mut counts = Counts::default();
    match count {
        Count::Success => counts.successes = 1,
        Count::Failure => counts.failures = 1,
        Count::SlowSuccess => (counts.successes, counts.slow_successes) = (1, 1),
        Count::SlowFailure => (counts.failures, counts.slow_failures) = (1, 1),
        Count::Ignored => counts.ignored = 1,
        Count::Abandoned => counts.abandoned = 1,
        Count::AbandonedFailure | Count::AbandonedSlowFailure => {
            (counts.failures, counts.abandoned, counts.abandoned_failures) = (1, 1, 1);
            counts.slow_failures = u64::from(count == Count::AbandonedSlowFailure);
        }
    }
    counts
}
