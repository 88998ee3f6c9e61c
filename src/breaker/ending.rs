//! The end of a registry, and how its circuits continue after it.
//!
//! Invariant: once reporting has ended, no call asks the store, because a permit from it could not
//! be settled. Circuits then decide by themselves, and each call files its own outcome.

use std::sync::{Arc, atomic::Ordering};

use super::{
    inner::{CircuitInner, Unavailable},
    shared::Shared,
    unsent::Unsent,
};

const RUNTIME_GONE: &str = "the runtime on which the registry was created is gone: its circuits continue without the store";
const SHUT_DOWN: &str = "the registry was shut down: its circuits continue without the store";

impl Shared {
    /// Why reporting has ended, if it has.
    pub(super) fn ended(&self) -> Option<&'static str> {
        self.ending.lock().why
    }

    /// Called when the last user is gone.
    pub(super) fn leave(&self) {
        self.stop.send_replace(true);
        let mut ending = self.ending.lock();
        ending.left = true;
        let ended = ending.why.is_some();
        drop(ending);
        if ended {
            self.forget();
        }
    }

    /// Called when reporting has ended for good.
    fn end(&self) {
        let asked_to = self.is_ending();
        let why = if asked_to { SHUT_DOWN } else { RUNTIME_GONE };
        let mut ending = self.ending.lock();
        ending.why = Some(why);
        let left = ending.left;
        drop(ending);
        let inners = self.inners();
        for inner in &inners {
            inner.end();
        }
        let mut asked = self.asked.lock();
        asked.clear();
        for inner in &inners {
            inner.parked.store(true, Ordering::SeqCst);
        }
        drop(asked);
        if !asked_to {
            self.outage.note_trouble();
            tracing::warn!(target: "commontrip::store", replica = %self.replica, "{why}");
        } else if !left {
            tracing::info!(target: "commontrip::store", replica = %self.replica, "{why}");
        }
        *self.unsent.lock() = self.lose();
        if left {
            self.forget();
        }
    }

    /// Gives up everything that the store was not sent, or has not confirmed.
    fn give_up(&self) -> Unsent {
        let mut unsent = Unsent::default();
        for inner in self.inners() {
            let mut outbox = inner.outbox.lock();
            let pending = outbox.is_pending();
            let counts = outbox.give_up();
            drop(outbox);
            if pending || !counts.is_empty() {
                unsent.circuits += 1;
                unsent.outcomes += counts.calls() + counts.ignored;
                unsent.outcomes += counts.undecided() + counts.rejected;
            }
        }
        unsent
    }

    /// Gives up what the store will never receive, and logs it.
    fn lose(&self) -> Unsent {
        let unsent = self.give_up();
        if !unsent.is_empty() {
            let Unsent { circuits, outcomes } = unsent;
            tracing::warn!(target: "commontrip::store", circuits, outcomes, replica = %self.replica, "outcomes are lost: they were not sent to the store");
        }
        unsent
    }

    /// Releases the circuits, which hold references to this.
    fn forget(&self) {
        // Outcomes that calls have filed after the end.
        self.lose();
        let circuits = std::mem::take(&mut *self.circuits.lock());
        drop(circuits);
    }
}

impl CircuitInner {
    /// Continues without the store for good.
    pub(super) fn end(self: &Arc<Self>) {
        self.leave_store(Unavailable::Ended);
        self.followed.store(false, Ordering::SeqCst);
        self.put_back_spare();
        self.report_locally();
    }

    /// Gives back a probe permit that was fetched ahead: soon nothing could settle it.
    pub(super) fn put_back_spare(&self) {
        let fetched = self.spare.lock().take();
        drop(fetched);
    }
}

/// Held by the reporter task; when that task ends, for whatever reason, reporting ends.
pub(super) struct Reporting(pub(super) Arc<Shared>);

impl Drop for Reporting {
    fn drop(&mut self) {
        self.0.end();
    }
}
