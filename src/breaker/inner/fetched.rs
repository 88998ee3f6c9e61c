//! A permit that is fetched ahead of the call that will use it.
//!
//! Invariant: one caller takes it, or it is given back when dropped.

use std::sync::Arc;

use tokio::time::Instant;

use super::{CircuitInner, Ticket};

/// A ticket that nobody has taken yet; on drop it is put back, because no call was made.
pub(in crate::breaker) struct Fetched {
    inner: Arc<CircuitInner>,
    ticket: Option<Ticket>,
    pub(in crate::breaker) asked_at: Instant,
}

impl Fetched {
    pub(in crate::breaker) const fn new(
        inner: Arc<CircuitInner>,
        ticket: Ticket,
        asked_at: Instant,
    ) -> Self {
        Self {
            inner,
            ticket: Some(ticket),
            asked_at,
        }
    }

    /// The ticket, unless it has waited too long or the circuit has changed.
    pub(in crate::breaker) fn claim(mut self) -> Option<Ticket> {
        let in_time = self.asked_at.elapsed() < self.inner.spare_keeps();
        let current = |ticket: &mut Ticket| in_time && self.inner.is_current(ticket);
        self.ticket.take_if(current)
    }

    pub(in crate::breaker) const fn is_probe(&self) -> bool {
        matches!(&self.ticket, Some(ticket) if ticket.probe.is_some())
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.inner.put_back(ticket);
        }
    }
}
