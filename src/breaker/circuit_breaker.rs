//! The handle that callers hold: one circuit, and the ways to make a call through it.

use std::{fmt, future::Future, pin::pin, sync::Arc};

use super::{
    CallError, Events, Permit, Rejection, inner::CircuitInner, permit::TicketGuard, shared::Life,
};
use crate::{
    model::{Outcome, Policy, Snapshot, State},
    store::StoreError,
};

/// One circuit, shared by every replica that uses its name on the same store.
///
/// Cheap to clone, `Send` and `Sync`. Returned by
/// [`Commontrip::circuit`](crate::Commontrip::circuit).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// // Clones are the same circuit.
/// let same = payments.clone();
/// assert_eq!(same.call(|| async { Ok::<_, std::io::Error>(42) }).await?, 42);
/// assert_eq!(payments.name(), "payments");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct CircuitBreaker {
    pub(super) inner: Arc<CircuitInner>,
    life: Arc<Life>,
}

impl CircuitBreaker {
    pub(super) const fn new(inner: Arc<CircuitInner>, life: Arc<Life>) -> Self {
        Self { inner, life }
    }

    /// The circuit's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.name.as_str()
    }

    /// Makes a call if the circuit permits it. `Ok` counts as a success, `Err` as a failure.
    ///
    /// A panic counts as a failure. A dropped future counts as abandoned, and also as a failure if
    /// it ran too long ([`AbandonedCalls`](crate::AbandonedCalls)).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::CallError;
    ///
    /// match payments.call(|| async { "42".parse::<u32>() }).await {
    ///     Ok(number) => assert_eq!(number, 42),
    ///     Err(CallError::Rejected(rejection)) => println!("not now: {rejection}"),
    ///     Err(error) => println!("failed: {error}"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`CallError::Rejected`] when the call was not made, [`CallError::TimedOut`] when it took
    /// longer than `call_timeout`, [`CallError::Failed`] with the call's own error.
    #[inline]
    pub fn call<F, Fut, T, E>(&self, call: F) -> impl Future<Output = Result<T, CallError<E>>>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.call_with(Outcome::of, call)
    }

    /// Makes a call if the circuit permits it; `classify` decides what its result means.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::io::{Error, ErrorKind};
    /// use commontrip::{Commontrip, Outcome, Policy};
    ///
    /// let users = Commontrip::embedded()?.circuit("users", Policy::default())?;
    /// let not_found_is_fine = |result: &Result<String, Error>| match result {
    ///     Err(error) if error.kind() == ErrorKind::NotFound => Outcome::Success,
    ///     Err(_) => Outcome::failure(),
    ///     Ok(_) => Outcome::Success,
    /// };
    /// let answer = users
    ///     .call_with(not_found_is_fine, || async { Err(Error::from(ErrorKind::NotFound)) })
    ///     .await;
    /// assert!(answer.is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Same as [`call`](Self::call).
    #[inline]
    pub async fn call_with<C, F, Fut, T, E>(&self, classify: C, call: F) -> Result<T, CallError<E>>
    where
        C: FnOnce(&Result<T, E>) -> Outcome,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let ticket = match self.inner.admit() {
            Some(plain) => plain.into(),
            None => {
                if let Some(rejection) = self.inner.refuse() {
                    return Err(rejection.into());
                }
                // Boxed to keep the common future small.
                Box::pin(self.inner.enter_or_ask()).await?
            }
        };
        // Settled in place: moving the guard out of the future would copy it through memory in
        // other pieces.
        let mut guard = TicketGuard::new(&self.inner, ticket);
        let Some(limit) = self.inner.call_timeout() else {
            let result = call().await;
            guard.settle(classify(&result));
            return result.map_err(CallError::Failed);
        };
        let call = pin!(call());
        let Ok(result) = tokio::time::timeout(limit, call).await else {
            guard.settle(self.inner.timed_out());
            return Err(CallError::TimedOut(limit));
        };
        guard.settle(classify(&result));
        result.map_err(CallError::Failed)
    }

    /// [`call_with`](Self::call_with), except that `classify` also decides what a call that took
    /// longer than `call_timeout` means, whatever the policy says: it receives
    /// [`CallError::TimedOut`] or [`CallError::Failed`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// use commontrip::{CallError, Commontrip, Outcome, Policy};
    ///
    /// let policy = Policy::builder().call_timeout(Duration::from_millis(1)).build()?;
    /// let circuits = Commontrip::embedded()?;
    /// let reports = circuits.circuit("reports", policy)?;
    /// // A long report says nothing about the service.
    /// let classify = |result: &Result<(), CallError<()>>| match result {
    ///     Ok(()) => Outcome::Success,
    ///     Err(CallError::TimedOut(_)) => Outcome::Ignored,
    ///     Err(_) => Outcome::failure(),
    /// };
    /// assert!(reports.call_judged(classify, std::future::pending).await.is_err());
    /// assert_eq!(circuits.stats()[0].ignored, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Same as [`call`](Self::call).
    pub async fn call_judged<C, F, Fut, T, E>(
        &self,
        classify: C,
        call: F,
    ) -> Result<T, CallError<E>>
    where
        C: FnOnce(&Result<T, CallError<E>>) -> Outcome,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let permit = self.acquire().await?;
        let result = match permit.call_timeout() {
            None => call().await.map_err(CallError::Failed),
            Some(limit) => match tokio::time::timeout(limit, call()).await {
                Ok(result) => result.map_err(CallError::Failed),
                Err(_) => Err(CallError::TimedOut(limit)),
            },
        };
        let outcome = classify(&result);
        match &result {
            Err(CallError::TimedOut(_)) => permit.timed_out_as(outcome),
            _ => permit.record(outcome),
        }
        result
    }

    /// Makes a call that is not a future, if the circuit permits it; otherwise like
    /// [`call`](Self::call).
    ///
    /// Never waits for the store: decides like [`try_acquire`](Self::try_acquire).
    /// [`call_blocking`](Self::call_blocking) waits. `call_timeout` cannot end such a call.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use commontrip::{Commontrip, Policy};
    ///
    /// let numbers = Commontrip::embedded()?.circuit("numbers", Policy::default())?;
    /// assert_eq!(numbers.call_sync(|| "42".parse::<u32>())?, 42);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`CallError::Rejected`] when the call was not made, [`CallError::Failed`] with the call's
    /// own error.
    #[inline]
    pub fn call_sync<F, T, E>(&self, call: F) -> Result<T, CallError<E>>
    where
        F: FnOnce() -> Result<T, E>,
    {
        self.call_sync_with(Outcome::of, call)
    }

    /// [`call_sync`](Self::call_sync) with a `classify` that decides what the result means.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::Outcome;
    ///
    /// let parsed = payments.call_sync_with(|_| Outcome::Ignored, || "x".parse::<u32>());
    /// assert!(parsed.is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Same as [`call_sync`](Self::call_sync).
    #[inline]
    pub fn call_sync_with<C, F, T, E>(&self, classify: C, call: F) -> Result<T, CallError<E>>
    where
        C: FnOnce(&Result<T, E>) -> Outcome,
        F: FnOnce() -> Result<T, E>,
    {
        let ticket = match self.inner.admit() {
            Some(plain) => plain.into(),
            None => {
                if let Some(rejection) = self.inner.refuse() {
                    return Err(rejection.into());
                }
                self.inner.enter_at_once()?
            }
        };
        let guard = TicketGuard::new(&self.inner, ticket);
        let result = call();
        guard.finish(classify(&result));
        result.map_err(CallError::Failed)
    }

    /// [`call`](Self::call) for code that is not async: blocks the thread during the call, and
    /// before it for at most `store_timeout` if the cache has no decision.
    ///
    /// For threads outside of a runtime, and for `spawn_blocking`. On a thread that runs the
    /// runtime's tasks, use [`call_sync`](Self::call_sync), which never waits.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// let number = tokio::task::spawn_blocking(move || payments.call_blocking(|| "42".parse::<u32>()));
    /// assert_eq!(number.await??, 42);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Same as [`call_sync`](Self::call_sync).
    pub fn call_blocking<F, T, E>(&self, call: F) -> Result<T, CallError<E>>
    where
        F: FnOnce() -> Result<T, E>,
    {
        let permit = self.acquire_blocking()?;
        let result = call();
        permit.record(Outcome::of(&result));
        result.map_err(CallError::Failed)
    }

    /// [`acquire`](Self::acquire) that blocks the thread, for at most `store_timeout`.
    ///
    /// For threads outside of a runtime, and for `spawn_blocking`.
    ///
    /// # Errors
    /// [`Rejection`] when the call must not be made.
    pub fn acquire_blocking(&self) -> Result<Permit, Rejection> {
        let ticket = self.inner.enter_blocking()?;
        Ok(self.permit(ticket))
    }

    /// Requests a permit for one call. Waits only if the cache has no decision, and then at most
    /// `store_timeout`.
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
    ///
    /// # Errors
    /// [`Rejection`] when the call must not be made.
    pub async fn acquire(&self) -> Result<Permit, Rejection> {
        let ticket = self.inner.enter_or_ask().await?;
        Ok(self.permit(ticket))
    }

    /// [`acquire`](Self::acquire) for a call that no user made: a rejection is not counted.
    #[cfg(any(feature = "health", feature = "queue"))]
    pub(crate) async fn acquire_uncounted(&self) -> Result<Permit, Rejection> {
        let ticket = self.inner.enter_or_ask_uncounted().await?;
        Ok(self.permit(ticket))
    }

    /// Requests a permit for one call without waiting.
    ///
    /// Uses the cached decision even if it is stale, and renews it in the background. Before the
    /// store's first answer the call is permitted, unless the policy says
    /// [`Reject`](crate::OnStoreFailure::Reject). When a probe is due, its permit is fetched in the
    /// background and kept for the next caller for half of `probe_lease`; this caller is rejected
    /// with [`Reason::ProbeRequested`](crate::Reason::ProbeRequested). The embedded store is asked
    /// at once.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// match payments.try_acquire() {
    ///     Ok(permit) => permit.success(),
    ///     Err(rejection) => println!("not now: {rejection}"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Rejection`] when the call must not be made, or not yet.
    pub fn try_acquire(&self) -> Result<Permit, Rejection> {
        let ticket = self.inner.enter_at_once()?;
        Ok(self.permit(ticket))
    }

    /// The cache's decision; `None` if the caller must await [`acquire`](Self::acquire).
    #[cfg(feature = "tower")]
    #[inline]
    pub(crate) fn decide(&self) -> Option<Result<Permit, Rejection>> {
        match self.inner.admit() {
            Some(plain) => Some(Ok(self.permit(plain.into()))),
            None => self.inner.refuse().map(Err),
        }
    }

    #[inline]
    fn permit(&self, ticket: super::inner::Ticket) -> Permit {
        Permit::new(
            TicketGuard::new(Arc::clone(&self.inner), ticket),
            Arc::clone(&self.life),
        )
    }

    /// The rejection that a call would receive now, as far as the cache knows. Counts nothing and
    /// does no I/O.
    #[cfg(feature = "retry")]
    pub(crate) fn expected_rejection(&self) -> Option<Rejection> {
        let gate = &self.inner.gate;
        let now = self.inner.now();
        let shut = gate.word().rejects() && gate.is_shut(now);
        shut.then(|| gate.rejection(now))
    }

    /// The state on which this replica bases its decisions; no I/O.
    ///
    /// When this process' own failures open the circuit, it rejects calls at once, but is `Open`
    /// here only after the store has confirmed that.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// assert_eq!(payments.state(), commontrip::State::Closed);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn state(&self) -> State {
        self.inner.view.lock().seen.state
    }

    /// The snapshot on which this replica bases its decisions; no I/O.
    #[must_use]
    pub fn cached(&self) -> Snapshot {
        self.inner.view.lock().seen.clone()
    }

    /// The policy in force: the one in code, overridden by the settings stored with the circuit.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy::clone(&self.inner.policy.load())
    }

    /// The shared circuit as the store has it now.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// let snapshot = payments.snapshot().await?;
    /// println!("{} since {}", snapshot.state, snapshot.since_ms);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.inner
            .shared
            .store
            .snapshot(&self.inner.name, &self.inner.head())
            .await
    }

    /// The circuit's transitions from now on: each once, in order, and without gaps across
    /// reconnects (as long as fewer than 256 pile up).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// let mut events = payments.events().await?;
    /// payments.reset().await?;
    /// # payments.force_open(Default::default()).await?;
    /// let event = events.next().await.expect("the registry is in use");
    /// println!("{} -> {}", event.from, event.to);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer now.
    pub async fn events(&self) -> Result<Events, StoreError> {
        let now = self.snapshot().await?;
        Ok(self.events_after(now.generation))
    }

    /// The circuit's transitions after a generation, starting with those that the store has kept.
    pub fn events_after(&self, generation: u64) -> Events {
        Events::after(generation, Arc::clone(&self.inner), Arc::clone(&self.life))
    }
}

impl fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("name", &self.name())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Runs a future through a circuit: `future.protect(&breaker).await`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::Protect;
///
/// let answer = async { "42".parse::<u32>() }.protect(&payments).await?;
/// assert_eq!(answer, 42);
/// # Ok(()) }
/// ```
pub trait Protect<T, E>: Future<Output = Result<T, E>> + Sized {
    /// [`CircuitBreaker::call`] with this future as the call. The future is dropped unpolled if the
    /// circuit rejects the call.
    ///
    /// # Errors
    /// Same as [`CircuitBreaker::call`].
    fn protect(self, breaker: &CircuitBreaker) -> impl Future<Output = Result<T, CallError<E>>> {
        breaker.call(|| self)
    }
}

impl<T, E, F: Future<Output = Result<T, E>>> Protect<T, E> for F {}
