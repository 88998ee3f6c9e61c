//! Calls that were dropped before they ended, and which of them are failures.
//!
//! Owns the age from which a dropped call is evidence of a service that hangs. A caller that gives
//! up within the usual time says nothing about the service; one that waited much longer does.

use std::sync::Arc;

use super::{CircuitInner, PlainTicket, Ticket};
use crate::{
    breaker::tally::Count,
    model::{FailureKind, Kind, Outcome, Rules},
};

/// The multiple of the successful calls' 99th percentile at which a dropped call is a failure.
const TIMES_USUAL: u64 = 2;
/// The minimum age at which a dropped call is a failure, ns.
const LEAST_NS: u64 = 10_000_000;
/// How long a computed usual duration is reused, ms.
const USUAL_KEEPS_MS: u64 = 100;

/// How long calls usually take, and until when that is reused, coarse ms.
#[derive(Debug, Default)]
pub(super) struct Usual {
    until: u64,
    known: Option<Percentiles>,
}

/// The 50th and 99th percentiles of successful calls, ns.
#[derive(Clone, Copy, Debug)]
struct Percentiles {
    p50: u64,
    p99: u64,
}

/// What a dropped call says about the service.
enum Evidence {
    /// It failed.
    Failed,
    /// It may have failed: the circuit decides, by its other evidence.
    Undecided,
    /// Nothing.
    None,
}

impl CircuitInner {
    /// Files a call that ended without an outcome: it was dropped, or it panicked.
    #[cold]
    pub(in crate::breaker) fn abandon(self: &Arc<Self>, ticket: Ticket) {
        if std::thread::panicking() {
            let took_ns = self.elapsed_ns(ticket.plain);
            return self.settle(ticket, Outcome::failure_of("panic"), took_ns);
        }
        self.tally.end(ticket.plain.weight());
        let age_ns = self.age_ns(ticket.plain);
        let rules = self.policy.load().rules;
        let evidence = self.evidence_of(age_ns, &rules);
        let count = match evidence {
            Evidence::Failed if self.gate.is_slow(age_ns) => Count::AbandonedSlowFailure,
            Evidence::Failed => Count::AbandonedFailure,
            _ => Count::Abandoned,
        };
        if matches!(evidence, Evidence::Failed) {
            self.note_kind(&FailureKind::of("abandoned"));
        }
        if let Some(probe) = ticket.probe {
            let kind = match evidence {
                Evidence::Failed => Kind::Failure,
                Evidence::Undecided if !self.is_quick(age_ns) => Kind::Abandoned,
                _ => Kind::Ignored,
            };
            return self.settle_probe(*probe, kind, None, count);
        }
        if !self.tally.record(ticket.plain.tag(), count) {
            self.count_aside(&mut self.outbox.lock(), count);
        }
        self.counted(count);
    }

    fn evidence_of(&self, age_ns: u64, rules: &Rules) -> Evidence {
        let ns = |ms: u64| ms.saturating_mul(1_000_000);
        let limits = [rules.call_timeout_ms, rules.slow_call_duration_threshold_ms];
        let limit = limits.into_iter().filter(|ms| *ms > 0).min().map(ns);
        let failed = match (rules.abandoned_calls, rules.abandoned_after_ms) {
            (0, _) if limit.is_none_or(|limit| age_ns < limit) => return Evidence::None,
            (0, _) => true,
            (_, 0) => {
                let usual = || Some(self.usual()?.p99.saturating_mul(TIMES_USUAL).max(LEAST_NS));
                limit.or_else(usual).is_some_and(|limit| age_ns >= limit)
            }
            (_, ms) => age_ns >= limit.map_or(ns(ms), |limit| limit.min(ns(ms))),
        };
        match failed {
            true => Evidence::Failed,
            false => Evidence::Undecided,
        }
    }

    /// Whether half of the successful calls take longer.
    fn is_quick(&self, age_ns: u64) -> bool {
        self.usual().is_some_and(|usual| age_ns < usual.p50)
    }

    /// The 99th percentile of successful calls; `None` before the first success.
    #[cfg(feature = "retry")]
    pub(in crate::breaker) fn usual_latency(&self) -> Option<std::time::Duration> {
        Some(std::time::Duration::from_nanos(self.usual()?.p99))
    }

    /// How long calls usually take; `None` before the first success.
    fn usual(&self) -> Option<Percentiles> {
        let now = self.now();
        let mut usual = self.usual.lock();
        if now >= usual.until {
            let latencies = self.tally.usual();
            let ns = |percent| {
                let time = latencies.percentile(percent)?;
                Some(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
            };
            let known = ns(50.0).zip(ns(99.0));
            usual.known = known.map(|(p50, p99)| Percentiles { p50, p99 });
            // The first success must be seen at once.
            usual.until = now + usual.known.map_or(0, |_| USUAL_KEEPS_MS);
        }
        usual.known
    }

    /// How long ago the call began: exact if it is timed, otherwise up to a tick of the coarse
    /// clock too long. Never too short, because a call that is dropped at a limit has reached it.
    pub(in crate::breaker) fn age_ns(&self, plain: PlainTicket) -> u64 {
        match plain.is_timed() {
            true => self.elapsed_ns(plain),
            false => {
                let started_ns = plain.started.saturating_mul(1_000_000);
                self.shared.clock.fine_ns().saturating_sub(started_ns)
            }
        }
    }
}

#[cfg(feature = "retry")]
impl crate::CircuitBreaker {
    /// The 99th percentile of this process' successful calls.
    pub(crate) fn usual_latency(&self) -> Option<std::time::Duration> {
        self.inner.usual_latency()
    }
}
