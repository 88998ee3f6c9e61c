//! Where outcomes of permitted calls go: into the tally, or by token into the outbox.

use std::{sync::Arc, time::Duration};

use super::{CircuitInner, PlainTicket, Probe, Ticket};
use crate::{
    breaker::{outbox::Outbox, tally::Count},
    model::{Counts, FailureKind, Kind, Outcome, Settled, millis},
};

impl CircuitInner {
    /// Files the success of a call that is not a probe; `false` if the call was slow or the circuit
    /// has changed.
    #[inline]
    pub(in crate::breaker) fn settle_plainly(
        self: &Arc<Self>,
        plain: PlainTicket,
        took_ns: u64,
    ) -> bool {
        let filed = !self.gate.is_slow(took_ns) && self.tally.record(plain.tag(), Count::Success);
        if filed {
            if self.gate.word().reports_at_once() {
                self.report_soon();
            }
            self.time(plain, took_ns);
            self.wake_if_parked();
        }
        filed
    }

    /// Records the latency of a successful call.
    #[inline]
    fn time(&self, plain: PlainTicket, took_ns: u64) {
        let word = self.gate.word();
        if word.is_timed() {
            self.tally.end(plain.weight());
            if word.is_recorded() && plain.is_timed() {
                self.tally.time(took_ns);
            }
        } else if plain.weight() > 0 {
            self.tally.time_sampled(took_ns, plain.weight());
        }
    }

    /// Records the latency of a failed call.
    fn time_failed(&self, plain: PlainTicket, took_ns: u64) {
        let word = self.gate.word();
        let calls = match word.is_timed() {
            true => u32::from(word.is_recorded() && plain.is_timed()),
            false => plain.weight(),
        };
        self.tally.end(plain.weight());
        self.tally.time_failed(took_ns, calls);
    }

    /// Files the outcome of a permitted call.
    #[inline(never)]
    pub(in crate::breaker) fn settle(
        self: &Arc<Self>,
        ticket: Ticket,
        outcome: Outcome,
        took_ns: u64,
    ) {
        // Before it is counted, so that the report that opens the circuit says why.
        if let Some(kind) = outcome.kind() {
            self.note_kind(kind);
        }
        let slow = self.gate.is_slow(took_ns);
        match outcome {
            Outcome::Success => self.time(ticket.plain, took_ns),
            Outcome::Ignored => self.tally.end(ticket.plain.weight()),
            _ => self.time_failed(ticket.plain, took_ns),
        }
        if let Some(probe) = ticket.probe {
            let (kind, retry_after, count) = match outcome {
                Outcome::Success if slow => (Kind::Failure, None, Count::SlowSuccess),
                Outcome::Success => (Kind::Success, None, Count::Success),
                Outcome::Failure { retry_after, .. } => {
                    (Kind::Failure, retry_after, Count::Failure)
                }
                Outcome::Trip { retry_after, .. } => (Kind::Trip, retry_after, Count::Failure),
                Outcome::Ignored => (Kind::Ignored, None, Count::Ignored),
            };
            return self.settle_probe(*probe, kind, retry_after, count);
        }
        let count = match (&outcome, slow) {
            (Outcome::Success, false) => Count::Success,
            (Outcome::Success, true) => Count::SlowSuccess,
            (Outcome::Ignored, _) => Count::Ignored,
            (_, false) => Count::Failure,
            (_, true) => Count::SlowFailure,
        };
        if let Outcome::Failure {
            retry_after: Some(wait),
            ..
        } = outcome
        {
            self.record_words(&ticket, count, Some(wait), false);
        } else if let Outcome::Trip { retry_after, .. } = outcome {
            self.record_words(&ticket, count, retry_after, true);
        } else if !self.tally.record(ticket.plain.tag(), count) {
            self.count_aside(&mut self.outbox.lock(), count);
        }
        self.counted(count);
    }

    /// Records an outcome that carries a `retry_after` or a trip, atomically with what it carries.
    fn record_words(
        self: &Arc<Self>,
        ticket: &Ticket,
        count: Count,
        retry_after: Option<Duration>,
        trip: bool,
    ) {
        let _no_transition_between = self.view.lock();
        let counted = self.tally.record(ticket.plain.tag(), count);
        let mut outbox = self.outbox.lock();
        if counted {
            outbox.honor(retry_after);
            outbox.trips += u64::from(trip);
        } else {
            self.count_aside(&mut outbox, count);
        }
    }

    /// Notes the kind of a failure.
    pub(super) fn note_kind(&self, kind: &FailureKind) {
        self.outbox.lock().kinds.note(kind);
    }

    /// Counts an outcome of another generation, or of a probe, for the lifetime totals only.
    pub(super) fn count_aside(&self, outbox: &mut Outbox, count: Count) {
        outbox.late += one(count);
        self.noted.lock().aside += one(count);
    }

    /// How long the call has taken so far; 0 if it is not timed.
    #[inline]
    pub(in crate::breaker) fn elapsed_ns(&self, plain: PlainTicket) -> u64 {
        let clock = &self.shared.clock;
        match plain.is_timed() {
            true => clock.ns_between(plain.started, clock.ticks()),
            false => 0,
        }
    }

    /// Settles a probe by its token, in the circuit that granted it.
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

    /// Makes the next report settle a probe.
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
