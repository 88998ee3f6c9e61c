//! Calls that go on after their first result.

use std::sync::Arc;

use super::{Cell, Pass, Probe, Ticket};
use crate::model::{Kind, Settled, State};

impl Cell {
    /// Settles a probe whose call goes on; as a failure where it was slow so far.
    pub(in crate::breaker) fn settle_probe_early(self: &Arc<Self>, probe: &mut Probe, pass: Pass) {
        if probe.is_settled() {
            return;
        }
        let kind = match self.gate.is_slow(self.elapsed_ns(pass)) {
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

    /// The ticket of a call that goes on after its probe was settled: under the generation that the
    /// probe's success has begun, if that is the present one.
    pub(in crate::breaker) fn after_probe(&self, probe: &Probe, pass: Pass) -> Ticket {
        let view = self.view.lock();
        let seen = &view.seen;
        let begun = seen.state == State::Closed
            && seen.generation == probe.generation + 1
            && view.source.is_own() == probe.local;
        match begun {
            true => pass.under(view.tag).into(),
            false => pass.into(),
        }
    }

    /// What a call carries that is so old by now.
    #[cfg(feature = "stream")]
    pub(in crate::breaker) fn aged(&self, pass: Pass, age: std::time::Duration) -> Pass {
        let started = match pass.is_timed() {
            true => self.shared.clock.ticks_ago(age),
            false => self.now().saturating_sub(age.as_millis() as u64),
        };
        Pass { started, ..pass }
    }
}

impl Probe {
    /// Whether the call goes on after the probe was settled.
    pub(in crate::breaker) const fn is_settled(&self) -> bool {
        self.token.is_empty()
    }
}
