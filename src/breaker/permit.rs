//! Leave to make one call, and its end.
//!
//! Invariant: every ticket is settled exactly once; one that is dropped is filed as abandoned, or
//! as a failure when its thread panics.

use std::{
    borrow::Borrow,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    cell::{Cell, Pass, Probe, Ticket},
    registry::Life,
};
use crate::model::Outcome;

/// A ticket with the circuit that it is for, owned or borrowed; settles on drop.
pub(super) struct Held<C: Borrow<Arc<Cell>>> {
    cell: C,
    pass: Pass,
    probe: Option<Box<Probe>>,
    settled: bool,
}

impl<C: Borrow<Arc<Cell>>> Held<C> {
    #[inline]
    pub(super) fn new(cell: C, ticket: Ticket) -> Self {
        let Ticket { pass, probe } = ticket;
        Self {
            cell,
            pass,
            probe,
            settled: false,
        }
    }

    /// Files what became of the call; the first time only.
    // By reference: it is in use just here, and moving it would take longer than the rest.
    #[inline(always)]
    pub(super) fn settle(&mut self, outcome: Outcome) {
        let cell: &Arc<Cell> = self.cell.borrow();
        let took_ns = cell.elapsed_ns(self.pass);
        if self.probe.is_none() && cell.settle_plainly(self.pass, &outcome, took_ns) {
            self.settled = true;
        } else if let Some(ticket) = self.take() {
            self.cell.borrow().settle(ticket, outcome, took_ns);
        }
    }

    /// How long the call has taken by now; to within the coarse clock's tick where it is not timed.
    #[cfg(feature = "stream")]
    fn age(&self) -> Duration {
        Duration::from_nanos(self.cell.borrow().age_ns(self.pass))
    }

    #[inline(never)]
    fn take(&mut self) -> Option<Ticket> {
        let settled = std::mem::replace(&mut self.settled, true);
        (!settled).then(|| match self.probe.take() {
            Some(probe) if probe.is_settled() => self.cell.borrow().after_probe(&probe, self.pass),
            probe => Ticket {
                pass: self.pass,
                probe,
            },
        })
    }
}

impl Held<&Arc<Cell>> {
    /// [`settle`](Self::settle), and the end of it. A settled one owns nothing: to forget it saves the
    /// look at it that dropping takes.
    #[inline(always)]
    pub(super) fn finish(mut self, outcome: Outcome) {
        self.settle(outcome);
        if self.settled {
            std::mem::forget(self);
        }
    }
}

impl<C: Borrow<Arc<Cell>>> Drop for Held<C> {
    #[inline]
    fn drop(&mut self) {
        if !self.settled
            && let Some(ticket) = self.take()
        {
            self.cell.borrow().abandon(ticket);
        }
    }
}

/// Leave to make one call.
///
/// Say what became of the call with [`success`](Self::success), [`failure`](Self::failure) or
/// [`record`](Self::record). A permit that is dropped counts as abandoned, and as a failure
/// too when it was held too long ([`AbandonedCalls`](crate::AbandonedCalls)); as a failure when its
/// thread panics.
#[must_use = "a permit that is dropped at once counts as an abandoned call"]
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
        let probe = self.held.probe.as_ref();
        probe.is_some_and(|probe| !probe.is_settled())
    }

    /// Settles a probe of a half-open circuit as a success while its call goes on, and gives its
    /// slot back.
    ///
    /// For calls whose result is followed by more, such as streams: they would hold their slot,
    /// which is leased for `probe_lease`, to the end. What becomes of the call then counts in the
    /// window if the circuit was closed by those probes, and still is; otherwise in the lifetime
    /// totals only. A call that was slow so far has failed as a probe. Does nothing for other
    /// calls.
    pub fn settle_probe(&mut self) {
        let Held {
            cell, pass, probe, ..
        } = &mut self.held;
        if let Some(probe) = probe {
            cell.settle_probe_early(probe, *pass);
        }
    }

    /// How long the call may take: the policy's `call_timeout`, `None` where it is off.
    ///
    /// A permit does not end the call; who holds it does, and then says [`timed_out`](Self::timed_out).
    #[inline]
    #[must_use]
    pub fn call_timeout(&self) -> Option<Duration> {
        self.held.cell.call_timeout()
    }

    /// The call succeeded.
    pub fn success(self) {
        self.record(Outcome::Success);
    }

    /// The call failed.
    pub fn failure(self) {
        self.record(Outcome::failure());
    }

    /// The call was dropped after [`call_timeout`](Self::call_timeout): a failure, counted as a timeout.
    pub fn timed_out(self) {
        self.held.cell.timeouts.fetch_add(1, Ordering::SeqCst);
        self.failure();
    }

    /// The call ended so.
    pub fn record(mut self, outcome: Outcome) {
        self.held.settle(outcome);
    }
}

/// For calls whose result is followed by more.
#[cfg(any(feature = "reqwest", feature = "stream", feature = "tower"))]
impl Permit {
    /// How long the call has taken by now; to within the coarse clock's tick where it is not timed.
    #[cfg(feature = "stream")]
    pub(crate) fn age(&self) -> Duration {
        self.held.age()
    }

    /// Has the call be so old by now: for its latency, and for whether it was slow or overdue.
    #[cfg(feature = "stream")]
    pub(crate) fn set_age(&mut self, age: Duration) {
        let held = &mut self.held;
        held.pass = held.cell.aged(held.pass, age);
    }

    /// The reader of the answer has left. When it panics, that is no fault of the service.
    pub(crate) fn leave(self) {
        if std::thread::panicking() {
            self.record(Outcome::Ignored);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("circuit", &self.held.cell.name)
            .finish_non_exhaustive()
    }
}
