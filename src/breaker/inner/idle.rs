//! Circuits that nobody holds or uses.
//!
//! Owns when such a circuit is removed: all its counts are sent, and this process knows nothing
//! about it that another process would need. Invariant: taking it again gives the circuit as the
//! store has it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::CircuitInner;
use crate::{
    breaker::shared::Shared,
    model::{State, millis},
};

pub(in crate::breaker) const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
pub(in crate::breaker) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl Shared {
    /// How often to look for idle circuits.
    pub(in crate::breaker) fn sweep_every(&self) -> Duration {
        self.idle_timeout / 4
    }

    /// Removes the circuits that have been idle for long enough.
    pub(in crate::breaker) fn let_go(&self) {
        let idle_ms = millis(self.idle_timeout);
        let mut circuits = self.circuits.lock();
        let before = circuits.len();
        // Nobody can take one in the meantime, because that needs the map.
        circuits.retain(|_, inner| {
            let held = Arc::strong_count(inner) > 1;
            if held || !inner.parked.load(Ordering::SeqCst) {
                inner.note_use();
                return true;
            }
            let used_at = inner.used_at.load(Ordering::SeqCst);
            inner.now().saturating_sub(used_at) < idle_ms || !inner.may_go()
        });
        let gone = before - circuits.len();
        if circuits.capacity() > 4 * circuits.len() {
            circuits.shrink_to_fit();
        }
        drop(circuits);
        if gone > 0 {
            tracing::debug!(target: "commontrip::circuit", circuits = gone, replica = %self.replica, "idle circuits were removed");
            self.others.notify_one();
        }
    }
}

impl CircuitInner {
    /// Notes that somebody holds this circuit, or has held it.
    pub(in crate::breaker) fn note_use(&self) {
        self.used_at.store(self.now(), Ordering::SeqCst);
    }

    /// Whether the store has everything about this circuit; sends what it does not have.
    fn may_go(self: &Arc<Self>) -> bool {
        // If it were taken again, it would be switched on.
        if self.is_unavailable() || self.off.load(Ordering::SeqCst) {
            return false;
        }
        let mut outbox = self.outbox.lock();
        let withheld = outbox.undecided.end();
        outbox.late += withheld;
        let unsent = !outbox.is_done();
        drop(outbox);
        if unsent || !self.is_quiet() {
            self.shared.attend(self);
            return false;
        }
        let view = self.view.lock();
        let seen = &view.shared;
        let age_ms = view.confirmed.map_or(0, |at| self.now().saturating_sub(at));
        // If the store is emptied, this process restores these in it.
        let waits = seen.state != State::Closed && seen.left_ms() > age_ms;
        !waits && !seen.state.is_override() && self.spare.lock().is_none()
    }
}
