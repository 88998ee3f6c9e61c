//! What becomes of permitted calls: into the tally, or by token into the outbox.

use std::{sync::Arc, time::Duration};

use super::{Cell, Ticket};
use crate::{
    breaker::tally::Count,
    model::{Counts, Kind, Outcome, Settled, State},
};

impl Cell {
    /// Files what became of a permitted call.
    #[inline]
    pub(in crate::breaker) fn settle(self: &Arc<Self>, ticket: Ticket, outcome: Outcome) {
        let plain = ticket.probe.is_none() && outcome == Outcome::Success && !self.gate.is_timed();
        if plain && self.tally.record(ticket.tag, Count::Success) {
            if self.gate.reports_at_once() {
                self.hurry();
            }
            return self.wake_if_parked();
        }
        self.settle_with_care(ticket, outcome);
    }

    /// The same for all but the success of a plain call in the present generation.
    #[inline(never)]
    fn settle_with_care(self: &Arc<Self>, ticket: Ticket, outcome: Outcome) {
        let slow = self.gate.is_timed() && self.is_slow(&ticket);
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
        } else if !self.tally.record(ticket.tag, count) {
            self.outbox.lock().late += one(count);
        }
        if count != Count::Success && self.would_trip() || self.gate.reports_at_once() {
            self.hurry();
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
        let counted = self.tally.record(ticket.tag, count);
        let mut outbox = self.outbox.lock();
        if counted {
            outbox.heed(retry_after);
            outbox.trips += u64::from(trip);
            if trip {
                self.hurry();
            }
        } else {
            outbox.late += one(count);
        }
    }

    fn is_slow(&self, ticket: &Ticket) -> bool {
        let threshold = self.policy.load().rules.slow_call_duration_threshold_ms;
        threshold > 0 && self.elapsed_ms(ticket) >= threshold
    }

    fn elapsed_ms(&self, ticket: &Ticket) -> u64 {
        let now = self.shared.clock.precise_ns();
        now.saturating_sub(ticket.started_ns) / 1_000_000
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
        outbox.late += one(count);
        match (kind, probe.local) {
            (Kind::Ignored, false) => outbox.releases.push(settled.token),
            (_, false) => outbox.settled.push(settled),
            (_, true) => outbox.settled_locally.push(settled),
        }
        outbox.heed(retry_after);
        drop(outbox);
        self.hurry();
    }

    /// Files a call that ended without an outcome: it was dropped, or panicked.
    #[cold]
    pub(in crate::breaker) fn abandon(self: &Arc<Self>, ticket: Ticket) {
        let rules = self.policy.load().rules;
        let limits = [rules.call_timeout_ms, rules.slow_call_duration_threshold_ms];
        let limit = limits.into_iter().filter(|ms| *ms > 0).min();
        let overdue = limit.is_some_and(|ms| self.elapsed_ms(&ticket) >= ms);
        let failed = std::thread::panicking() || overdue && ticket.started_ns > 0;
        self.settle(
            ticket,
            if failed {
                Outcome::failure()
            } else {
                Outcome::Ignored
            },
        );
    }

    /// Whether what is known of the window, with what was not reported yet, meets a trip condition.
    fn would_trip(&self) -> bool {
        let view = self.view.lock();
        if view.seen.state != State::Closed {
            return false;
        }
        let seen = &view.seen;
        let fresh = self.tally.counts();
        let (fresh_run, broken) = self.tally.present_run();
        let run = if broken {
            fresh_run
        } else {
            fresh_run + seen.consecutive_failures
        };
        let sums = [
            seen.calls + fresh.calls(),
            seen.failures + fresh.failures,
            seen.slow + fresh.slow(),
        ];
        let rules = self.policy.load().rules;
        let own = || {
            let [calls, failures, slow] = view.own;
            let sums = [
                calls + fresh.calls(),
                failures + fresh.failures,
                slow + fresh.slow(),
            ];
            let run = if broken {
                fresh_run
            } else {
                fresh_run + view.own_run
            };
            rules.breach(sums, run).is_some()
        };
        rules.breach(sums, run).is_some() || rules.quorum > 1 && own()
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
