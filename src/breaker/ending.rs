//! The end of a registry, and how its circuits go on after it.
//!
//! Invariant: once nobody reports any more nothing is asked of the store for a call: what it gave
//! could not be settled. Circuits then decide by themselves, and each call files its own outcome.

use std::sync::{Arc, atomic::Ordering};

use super::{
    cell::{Away, Cell},
    registry::Shared,
};

const RUNTIME_GONE: &str =
    "the runtime on which the registry was made is gone: its circuits go on without the store";
const SHUT_DOWN: &str = "the registry was shut down: its circuits go on without the store";

/// What a registry that was shut down could not send, or was not confirmed in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unsent {
    /// Circuits with something that was not sent.
    pub circuits: usize,
    /// Outcomes of their calls, rejections included.
    pub outcomes: u64,
}

impl Unsent {
    /// Whether everything was sent.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.circuits == 0
    }
}

/// How far a registry has come to its end.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// Why nobody reports any more, once that is so.
    why: Option<&'static str>,
    /// Nobody holds the registry, a circuit of it or a permit.
    left: bool,
}

impl Shared {
    /// Why nobody reports any more, if so.
    pub(super) fn ended(&self) -> Option<&'static str> {
        self.ending.lock().why
    }

    /// The last user is gone.
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

    /// Nobody reports any more, now or ever.
    fn end(&self) {
        let asked_to = self.is_ending();
        let why = if asked_to { SHUT_DOWN } else { RUNTIME_GONE };
        let mut ending = self.ending.lock();
        ending.why = Some(why);
        let left = ending.left;
        drop(ending);
        let cells = self.cells();
        for cell in &cells {
            cell.end();
        }
        let mut asked = self.asked.lock();
        asked.clear();
        for cell in &cells {
            cell.parked.store(true, Ordering::SeqCst);
        }
        drop(asked);
        if !asked_to {
            self.link.note_trouble();
            tracing::warn!(replica = %self.replica, "{why}");
        } else if !left {
            tracing::info!(replica = %self.replica, "{why}");
        }
        *self.unsent.lock() = self.lose();
        if left {
            self.forget();
        }
    }

    /// Gives up what the store was not told, or has not confirmed.
    fn give_up(&self) -> Unsent {
        let mut unsent = Unsent::default();
        for cell in self.cells() {
            let mut outbox = cell.outbox.lock();
            let pending = outbox.is_pending();
            let counts = outbox.give_up();
            drop(outbox);
            if pending || !counts.is_empty() {
                unsent.circuits += 1;
                unsent.outcomes += counts.calls() + counts.ignored;
                unsent.outcomes += counts.undecided() + counts.not_permitted;
            }
        }
        unsent
    }

    /// Says what the store will never be told.
    fn lose(&self) -> Unsent {
        let unsent = self.give_up();
        if !unsent.is_empty() {
            let Unsent { circuits, outcomes } = unsent;
            tracing::warn!(circuits, outcomes, replica = %self.replica, "outcomes are lost: the store was not told of them");
        }
        unsent
    }

    /// Lets go of the circuits, which hold on to this.
    fn forget(&self) {
        // What calls after the end have filed.
        self.lose();
        let circuits = std::mem::take(&mut *self.circuits.lock());
        drop(circuits);
    }
}

impl Cell {
    /// Goes on without the store for good.
    pub(super) fn end(self: &Arc<Self>) {
        self.leave_store(Away::Ended);
        self.followed.store(false, Ordering::SeqCst);
        self.put_back_spare();
        self.report_locally();
    }

    /// Gives back a probe's permit that was fetched ahead: soon nobody could settle it.
    pub(super) fn put_back_spare(&self) {
        let fetched = self.spare.lock().take();
        drop(fetched);
    }
}

/// Held by the task that reports; its end, by whatever cause, is the end of reports.
pub(super) struct Reporting(pub(super) Arc<Shared>);

impl Drop for Reporting {
    fn drop(&mut self) {
        self.0.end();
    }
}
