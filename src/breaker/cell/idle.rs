//! Circuits that nobody holds and nobody uses.
//!
//! Owns when one is let go: everything counted in it was sent, and this process knows nothing of it
//! that another one would need. Invariant: taking it again gives the circuit as the store has it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::Cell;
use crate::{
    breaker::registry::Shared,
    model::{State, millis},
};

pub(in crate::breaker) const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
pub(in crate::breaker) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl Shared {
    /// How often idle circuits are looked for.
    pub(in crate::breaker) fn sweep_every(&self) -> Duration {
        self.idle_timeout / 4
    }

    /// Lets go of the circuits that have been idle for long enough.
    pub(in crate::breaker) fn let_go(&self) {
        let idle_ms = millis(self.idle_timeout);
        let mut circuits = self.circuits.lock();
        let before = circuits.len();
        // Nobody takes one meanwhile, for the way to it is through the map.
        circuits.retain(|_, cell| {
            let held = Arc::strong_count(cell) > 1;
            if held || !cell.parked.load(Ordering::SeqCst) {
                cell.note_use();
                return true;
            }
            let used_at = cell.used_at.load(Ordering::SeqCst);
            cell.now().saturating_sub(used_at) < idle_ms || !cell.may_go()
        });
        let gone = before - circuits.len();
        if circuits.capacity() > 4 * circuits.len() {
            circuits.shrink_to_fit();
        }
        drop(circuits);
        if gone > 0 {
            tracing::debug!(circuits = gone, replica = %self.replica, "idle circuits are let go");
            self.others.notify_one();
        }
    }
}

impl Cell {
    /// Somebody has this circuit, or has had it.
    pub(in crate::breaker) fn note_use(&self) {
        self.used_at.store(self.now(), Ordering::SeqCst);
    }

    /// Whether all of it is in the store; what is not is sent.
    fn may_go(self: &Arc<Self>) -> bool {
        if self.is_away() {
            return false;
        }
        let mut outbox = self.outbox.lock();
        let withheld = outbox.silence.end();
        outbox.late += withheld;
        let unsent = outbox.is_pending();
        drop(outbox);
        if unsent || !self.is_quiet() {
            self.shared.attend(self);
            return false;
        }
        let view = self.view.lock();
        let seen = &view.shared;
        let age_ms = view.confirmed.map_or(0, |at| self.now().saturating_sub(at));
        // An emptied store is told of these.
        let waits = seen.state != State::Closed && seen.left_ms() > age_ms;
        !waits && !seen.state.is_override() && self.spare.lock().is_none()
    }
}
