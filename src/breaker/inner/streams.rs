//! Calls that continue after their first result.

use std::sync::Arc;

use super::{CircuitInner, PlainTicket, Probe, Ticket};
use crate::model::{Kind, Settled, State};

impl CircuitInner {
    /// Settles a probe whose call continues; as a failure if it was slow so far.
    pub(in crate::breaker) fn settle_probe_early(
        self: &Arc<Self>,
        probe: &mut Probe,
        plain: PlainTicket,
    ) {
        if probe.is_settled() {
            return;
        }
        let kind = match self.gate.is_slow(self.elapsed_ns(plain)) {
            true => Kind::Failure,
            false => Kind::Success,
        };
        let settled = Settled {
            token: std::mem::take(&mut probe.token),
            generation: probe.generation,
            kind,
            retry_after_ms: 0,
        };
        self.note_settled(&mut self.outbox.lock(), settled, probe.local);
        self.hurry();
    }

    /// The ticket of a call that continues after its probe was settled: under the generation that
    /// the probe's success began, if that is the current one.
    pub(in crate::breaker) fn after_probe(&self, probe: &Probe, plain: PlainTicket) -> Ticket {
        let view = self.view.lock();
        let seen = &view.seen;
        let begun = seen.state == State::Closed
            && seen.generation == probe.generation + 1
            && view.source.is_own() == probe.local;
        match begun {
            true => plain.under(view.tag).into(),
            false => plain.into(),
        }
    }

    /// The same call with this age.
    #[cfg(feature = "stream")]
    pub(in crate::breaker) fn aged(
        &self,
        plain: PlainTicket,
        age: std::time::Duration,
    ) -> PlainTicket {
        let started = match plain.is_timed() {
            true => self.shared.clock.ticks_ago(age),
            false => self.now().saturating_sub(age.as_millis() as u64),
        };
        PlainTicket { started, ..plain }
    }
}

impl Probe {
    /// Whether the probe was settled while its call continues.
    pub(in crate::breaker) const fn is_settled(&self) -> bool {
        self.token.is_empty()
    }
}
