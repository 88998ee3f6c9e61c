//! Leave to make one call, and its end.
//!
//! Invariant: every ticket is settled exactly once; one that is dropped is filed as ignored, or as
//! a failure when it was overdue or its thread panics.

use std::{borrow::Borrow, fmt, sync::Arc};

use super::{
    cell::{Cell, Ticket},
    registry::Life,
};
use crate::model::Outcome;

/// A ticket with the circuit that it is for, owned or borrowed; settles on drop.
pub(super) struct Held<C: Borrow<Arc<Cell>>> {
    cell: C,
    ticket: Option<Ticket>,
}

impl<C: Borrow<Arc<Cell>>> Held<C> {
    #[inline]
    pub(super) const fn new(cell: C, ticket: Ticket) -> Self {
        Self {
            cell,
            ticket: Some(ticket),
        }
    }

    #[inline]
    pub(super) fn settle(mut self, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            self.cell.borrow().settle(ticket, outcome);
        }
    }

    /// The ticket alone, for another holder.
    pub(super) fn into_ticket(mut self) -> Option<Ticket> {
        self.ticket.take()
    }
}

impl<C: Borrow<Arc<Cell>>> Drop for Held<C> {
    #[inline]
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.cell.borrow().abandon(ticket);
        }
    }
}

/// Leave to make one call.
///
/// Say what became of the call with [`success`](Self::success), [`failure`](Self::failure) or
/// [`record`](Self::record). A permit that is dropped counts as ignored; as a failure when its
/// thread panics, or when it was held past `call_timeout` or the slow-call threshold.
#[must_use = "a permit that is dropped at once counts as an ignored call"]
pub struct Permit {
    held: Held<Arc<Cell>>,
    _life: Arc<Life>,
}

impl Permit {
    pub(super) const fn new(held: Held<Arc<Cell>>, life: Arc<Life>) -> Self {
        Self { held, _life: life }
    }

    /// Whether the call is a probe of a half-open circuit.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.held.ticket.as_ref().is_some_and(Ticket::is_probe)
    }

    /// The call succeeded.
    pub fn success(self) {
        self.record(Outcome::Success);
    }

    /// The call failed.
    pub fn failure(self) {
        self.record(Outcome::failure());
    }

    /// The call ended so.
    pub fn record(self, outcome: Outcome) {
        self.held.settle(outcome);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("circuit", &self.held.cell.name)
            .finish_non_exhaustive()
    }
}
