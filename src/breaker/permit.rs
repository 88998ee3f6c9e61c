//! Permission to make one call, and how it ends.
//!
//! Invariant: every ticket is settled exactly once. A dropped ticket is filed as abandoned, or as a
//! failure if its thread is panicking.

use std::{borrow::Borrow, fmt, sync::Arc, time::Duration};

use super::{
    inner::{CircuitInner, PlainTicket, Probe, Ticket},
    shared::Life,
};
use crate::model::{FailureKind, Outcome};

/// A ticket with its circuit, owned or borrowed; settles on drop.
pub(super) struct TicketGuard<C: Borrow<Arc<CircuitInner>>> {
    inner: C,
    plain: PlainTicket,
    probe: Option<Box<Probe>>,
    settled: bool,
}

impl<C: Borrow<Arc<CircuitInner>>> TicketGuard<C> {
    #[inline]
    pub(super) fn new(inner: C, ticket: Ticket) -> Self {
        let Ticket { plain, probe } = ticket;
        Self {
            inner,
            plain,
            probe,
            settled: false,
        }
    }

    /// Files the outcome of the call. To be called once.
    // By reference: the guard is in use right here, and moving it would take longer than the rest.
    #[inline(always)]
    pub(super) fn settle(&mut self, outcome: Outcome) {
        let inner: &Arc<CircuitInner> = self.inner.borrow();
        let took_ns = inner.elapsed_ns(self.plain);
        // A success has nothing to drop, so the common path skips that code.
        if matches!(outcome, Outcome::Success)
            && self.probe.is_none()
            && inner.settle_plainly(self.plain, took_ns)
        {
            self.settled = true;
            return;
        }
        self.settle_fully(outcome, took_ns);
    }

    #[inline(never)]
    fn settle_fully(&mut self, outcome: Outcome, took_ns: u64) {
        if let Some(ticket) = self.take() {
            self.inner.borrow().settle(ticket, outcome, took_ns);
        }
    }

    /// How long the call has taken so far; accurate to a tick of the coarse clock if it is not
    /// timed.
    #[cfg(feature = "stream")]
    fn age(&self) -> Duration {
        Duration::from_nanos(self.inner.borrow().age_ns(self.plain))
    }

    #[inline(never)]
    fn take(&mut self) -> Option<Ticket> {
        let settled = std::mem::replace(&mut self.settled, true);
        (!settled).then(|| match self.probe.take() {
            Some(probe) if probe.is_settled() => {
                self.inner.borrow().after_probe(&probe, self.plain)
            }
            probe => Ticket {
                plain: self.plain,
                probe,
            },
        })
    }
}

impl TicketGuard<&Arc<CircuitInner>> {
    /// [`settle`](Self::settle) that consumes the guard. A settled guard owns nothing, so
    /// forgetting it saves the check that dropping it would make.
    #[inline(always)]
    pub(super) fn finish(mut self, outcome: Outcome) {
        self.settle(outcome);
        if self.settled {
            std::mem::forget(self);
        }
    }
}

impl<C: Borrow<Arc<CircuitInner>>> Drop for TicketGuard<C> {
    #[inline]
    fn drop(&mut self) {
        if !self.settled
            && let Some(ticket) = self.take()
        {
            self.inner.borrow().abandon(ticket);
        }
    }
}

/// Permission to make one call.
///
/// Report the outcome of the call with [`success`](Self::success), [`failure`](Self::failure) or
/// [`record`](Self::record). A dropped permit counts as abandoned, and also as a failure if it was
/// held too long ([`AbandonedCalls`](crate::AbandonedCalls)). If its thread panics, it counts as a
/// failure.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// let permit = payments.acquire().await?;
/// match "42".parse::<u32>() {
///     Ok(_) => permit.success(),
///     Err(_) => permit.failure(),
/// }
/// # Ok(()) }
/// ```
#[must_use = "a permit that is dropped at once counts as an abandoned call"]
pub struct Permit {
    guard: TicketGuard<Arc<CircuitInner>>,
    _life: Arc<Life>,
}

impl Permit {
    pub(super) const fn new(guard: TicketGuard<Arc<CircuitInner>>, life: Arc<Life>) -> Self {
        Self { guard, _life: life }
    }

    /// Whether the call is a probe of a half-open circuit.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// assert!(!payments.acquire().await?.is_probe()); // the circuit is closed
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn is_probe(&self) -> bool {
        let probe = self.guard.probe.as_ref();
        probe.is_some_and(|probe| !probe.is_settled())
    }

    /// Settles a probe of a half-open circuit as a success while its call continues, and frees its
    /// slot.
    ///
    /// For calls whose result is followed by more, such as streams. They would otherwise hold their
    /// slot, which is leased for `probe_lease`, until they end. The final outcome of the call
    /// counts in the window if those probes closed the circuit and it is still closed; otherwise
    /// only in the lifetime totals. If the call was slow so far, the probe fails. Does nothing for
    /// other calls.
    pub fn settle_probe(&mut self) {
        let TicketGuard {
            inner,
            plain,
            probe,
            ..
        } = &mut self.guard;
        if let Some(probe) = probe {
            inner.settle_probe_early(probe, *plain);
        }
    }

    /// How long the call may take: the policy's `call_timeout`, `None` if it is off.
    ///
    /// A permit does not end the call: its holder does, and then calls
    /// [`timed_out`](Self::timed_out).
    #[inline]
    #[must_use]
    pub fn call_timeout(&self) -> Option<Duration> {
        self.guard.inner.call_timeout()
    }

    /// Records that the call succeeded.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// payments.acquire().await?.success();
    /// # Ok(()) }
    /// ```
    pub fn success(self) {
        self.record(Outcome::Success);
    }

    /// Records that the call failed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// payments.acquire().await?.failure();
    /// # Ok(()) }
    /// ```
    pub fn failure(self) {
        self.record(Outcome::failure());
    }

    /// Records that the call failed, with a kind that operators can see.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// payments.acquire().await?.failure_of("connect");
    /// circuits.flush().await;
    /// let snapshot = payments.snapshot().await?;
    /// assert_eq!(snapshot.failure_kinds[0].kind, "connect");
    /// # Ok(()) }
    /// ```
    pub fn failure_of(self, kind: impl Into<FailureKind>) {
        self.record(Outcome::failure_of(kind));
    }

    /// Records that the call was dropped after [`call_timeout`](Self::call_timeout): a failure,
    /// counted as a timeout, unless the policy ignores such calls.
    pub fn timed_out(self) {
        let outcome = self.guard.inner.timed_out();
        self.record(outcome);
    }

    /// [`timed_out`](Self::timed_out) with the caller's own outcome.
    pub(super) fn timed_out_as(self, outcome: Outcome) {
        self.guard.inner.note_timeout(&outcome);
        self.record(outcome);
    }

    /// Records the outcome of the call.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::Outcome;
    ///
    /// payments.acquire().await?.record(Outcome::Ignored);
    /// # Ok(()) }
    /// ```
    pub fn record(mut self, outcome: Outcome) {
        self.guard.settle(outcome);
    }
}

#[cfg(any(feature = "health", feature = "queue"))]
impl Permit {
    /// Takes the permit back as if it had never been given: nothing is counted, and a probe's slot
    /// is free again.
    pub(crate) fn put_back(mut self) {
        if let Some(ticket) = self.guard.take() {
            self.guard.inner.put_back(ticket);
        }
    }
}

/// For calls whose result is followed by more.
#[cfg(any(feature = "reqwest", feature = "stream", feature = "tower"))]
impl Permit {
    /// How long the call has taken so far; accurate to a tick of the coarse clock if it is not
    /// timed.
    #[cfg(feature = "stream")]
    pub(crate) fn age(&self) -> Duration {
        self.guard.age()
    }

    /// Sets the age of the call, which decides its latency and whether it was slow or overdue.
    #[cfg(feature = "stream")]
    pub(crate) fn set_age(&mut self, age: Duration) {
        let guard = &mut self.guard;
        guard.plain = guard.inner.aged(guard.plain, age);
    }

    /// Drops the permit after the reader of the response has left. A panic of the reader is not a
    /// fault of the service, so the call is ignored then.
    pub(crate) fn leave(self) {
        if std::thread::panicking() {
            self.record(Outcome::Ignored);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("circuit", &self.guard.inner.name)
            .finish_non_exhaustive()
    }
}
