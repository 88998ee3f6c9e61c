//! What callers hold: one circuit, and the ways to make a call through it.

use std::{
    fmt,
    future::Future,
    pin::pin,
    sync::{Arc, atomic::Ordering},
};

use tokio::time::Instant;

use super::{
    CallError, ControlError, Events, Override, Permit, Rejection, cell::Cell, permit::Held,
    registry::Life,
};
use crate::{
    model::{Command, Outcome, Policy, Snapshot, State},
    store::StoreError,
};

/// One circuit, shared by every replica that uses its name on the same store.
///
/// Cheap to clone, `Send` and `Sync`. Made by [`Commontrip::circuit`](crate::Commontrip::circuit).
#[derive(Clone)]
pub struct CircuitBreaker {
    pub(super) cell: Arc<Cell>,
    life: Arc<Life>,
}

impl CircuitBreaker {
    pub(super) const fn new(cell: Arc<Cell>, life: Arc<Life>) -> Self {
        Self { cell, life }
    }

    /// The circuit's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.cell.name.as_str()
    }

    /// Makes a call when the circuit permits; `Ok` counts as a success, `Err` as a failure.
    ///
    /// A panic counts as a failure. A dropped future counts as abandoned, and as a failure too
    /// when it ran too long ([`AbandonedCalls`](crate::AbandonedCalls)).
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

    /// Makes a call when the circuit permits; `classify` says what its result means.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
    /// As [`call`](Self::call).
    #[inline]
    pub async fn call_with<C, F, Fut, T, E>(&self, classify: C, call: F) -> Result<T, CallError<E>>
    where
        C: FnOnce(&Result<T, E>) -> Outcome,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let ticket = match self.cell.pass() {
            Some(pass) => pass.into(),
            None => {
                if let Some(rejection) = self.cell.refuse() {
                    return Err(rejection.into());
                }
                // In a box, for else every call's future would be as large.
                Box::pin(self.cell.enter_or_ask()).await?
            }
        };
        // Settled where it is: moved out of the future it would go through memory in other pieces.
        let mut held = Held::new(&self.cell, ticket);
        let Some(limit) = self.cell.call_timeout() else {
            let result = call().await;
            held.settle(classify(&result));
            return result.map_err(CallError::Failed);
        };
        let call = pin!(call());
        let Ok(result) = tokio::time::timeout(limit, call).await else {
            self.cell.timeouts.fetch_add(1, Ordering::SeqCst);
            held.settle(Outcome::failure());
            return Err(CallError::TimedOut(limit));
        };
        held.settle(classify(&result));
        result.map_err(CallError::Failed)
    }

    /// Makes a call that is not a future, when the circuit permits; otherwise as
    /// [`call`](Self::call).
    ///
    /// Never waits for the store: decides as [`try_acquire`](Self::try_acquire).
    /// [`call_blocking`](Self::call_blocking) waits. `call_timeout` cannot end such a call.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use commontrip::{Commontrip, Policy};
    ///
    /// let numbers = Commontrip::embedded()?.circuit("numbers", Policy::default())?;
    /// assert_eq!(numbers.call_sync(|| "42".parse::<u32>())?, 42);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`CallError::Rejected`] when the call was not made, [`CallError::Failed`] with its own error.
    #[inline]
    pub fn call_sync<F, T, E>(&self, call: F) -> Result<T, CallError<E>>
    where
        F: FnOnce() -> Result<T, E>,
    {
        self.call_sync_with(Outcome::of, call)
    }

    /// [`call_sync`](Self::call_sync); `classify` says what the result means.
    ///
    /// # Errors
    /// As [`call_sync`](Self::call_sync).
    #[inline]
    pub fn call_sync_with<C, F, T, E>(&self, classify: C, call: F) -> Result<T, CallError<E>>
    where
        C: FnOnce(&Result<T, E>) -> Outcome,
        F: FnOnce() -> Result<T, E>,
    {
        let ticket = match self.cell.pass() {
            Some(pass) => pass.into(),
            None => {
                if let Some(rejection) = self.cell.refuse() {
                    return Err(rejection.into());
                }
                self.cell.enter_at_once()?
            }
        };
        let held = Held::new(&self.cell, ticket);
        let result = call();
        held.finish(classify(&result));
        result.map_err(CallError::Failed)
    }

    /// [`call`](Self::call) for code that is not async: blocks the thread for the call, and for at
    /// most `store_timeout` before it where the cache does not know.
    ///
    /// For threads outside of a runtime, and `spawn_blocking`. On a thread that runs the runtime's
    /// tasks use [`call_sync`](Self::call_sync), which never waits.
    ///
    /// # Errors
    /// As [`call_sync`](Self::call_sync).
    pub fn call_blocking<F, T, E>(&self, call: F) -> Result<T, CallError<E>>
    where
        F: FnOnce() -> Result<T, E>,
    {
        let permit = self.acquire_blocking()?;
        let result = call();
        permit.record(Outcome::of(&result));
        result.map_err(CallError::Failed)
    }

    /// [`acquire`](Self::acquire), blocking the thread for at most `store_timeout`.
    ///
    /// For threads outside of a runtime, and `spawn_blocking`.
    ///
    /// # Errors
    /// [`Rejection`] when the call must not be made.
    pub fn acquire_blocking(&self) -> Result<Permit, Rejection> {
        let ticket = self.cell.enter_blocking()?;
        Ok(self.permit(ticket))
    }

    /// Asks for leave to make one call; waits only where the cache does not know, and then for at
    /// most `store_timeout`.
    ///
    /// # Errors
    /// [`Rejection`] when the call must not be made.
    pub async fn acquire(&self) -> Result<Permit, Rejection> {
        let ticket = self.cell.enter_or_ask().await?;
        Ok(self.permit(ticket))
    }

    /// Asks for leave to make one call without waiting.
    ///
    /// What the cache holds decides, though it is stale, and is renewed in the background. Before
    /// the store's first answer the call is permitted, unless the policy says
    /// [`Reject`](crate::OnStoreFailure::Reject). When a probe is due its permit is fetched in the
    /// background, and kept for the next caller for half of `probe_lease`; this caller is rejected
    /// with [`Reason::ProbeRequested`](crate::Reason::ProbeRequested). The embedded store is asked
    /// at once.
    ///
    /// # Errors
    /// [`Rejection`] when the call must not be made, or not yet.
    pub fn try_acquire(&self) -> Result<Permit, Rejection> {
        let ticket = self.cell.enter_at_once()?;
        Ok(self.permit(ticket))
    }

    /// What the cache alone decides; `None` where [`acquire`](Self::acquire) is to be awaited.
    #[cfg(feature = "tower")]
    #[inline]
    pub(crate) fn decide(&self) -> Option<Result<Permit, Rejection>> {
        match self.cell.pass() {
            Some(pass) => Some(Ok(self.permit(pass.into()))),
            None => self.cell.refuse().map(Err),
        }
    }

    #[inline]
    fn permit(&self, ticket: super::cell::Ticket) -> Permit {
        Permit::new(
            Held::new(Arc::clone(&self.cell), ticket),
            Arc::clone(&self.life),
        )
    }

    /// The rejection that a call would meet now as far as the cache knows; counts nothing and asks nobody.
    #[cfg(feature = "retry")]
    pub(crate) fn expected_rejection(&self) -> Option<Rejection> {
        let gate = &self.cell.gate;
        let now = self.cell.now();
        let shut = gate.glance().rejects() && gate.is_shut(now);
        shut.then(|| gate.rejection(now))
    }

    /// The state that this replica decides by; no I/O.
    ///
    /// When this process' own failures open the circuit it rejects calls at once, and is `Open`
    /// here when the store has confirmed it.
    #[must_use]
    pub fn state(&self) -> State {
        self.cell.view.lock().seen.state
    }

    /// What this replica decides by; no I/O.
    #[must_use]
    pub fn cached(&self) -> Snapshot {
        self.cell.view.lock().seen.clone()
    }

    /// The policy in force: the code's, with what is stored with the circuit.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy::clone(&self.cell.policy.load())
    }

    /// The shared circuit as the store has it now.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.cell
            .shared
            .store
            .snapshot(&self.cell.name, &self.cell.head())
            .await
    }

    /// Rejects every call of the fleet, until the override ends or [`reset`](Self::reset).
    ///
    /// # Errors
    /// [`ControlError::Store`] when the store did not confirm, [`ControlError::Text`] when the author
    /// or the reason is too long.
    pub async fn force_open(&self, with: Override) -> Result<Snapshot, ControlError> {
        self.control(Command::ForceOpen, with, String::new()).await
    }

    /// Admits every call of the fleet and trips on nothing; only lifetime totals are kept.
    ///
    /// # Errors
    /// [`ControlError::Store`] when the store did not confirm, [`ControlError::Text`] when the author
    /// or the reason is too long.
    pub async fn disable(&self, with: Override) -> Result<Snapshot, ControlError> {
        self.control(Command::Disable, with, String::new()).await
    }

    /// Admits every call of the fleet and records it, but trips on nothing: a dry run.
    ///
    /// # Errors
    /// [`ControlError::Store`] when the store did not confirm, [`ControlError::Text`] when the author
    /// or the reason is too long.
    pub async fn metrics_only(&self, with: Override) -> Result<Snapshot, ControlError> {
        self.control(Command::MetricsOnly, with, String::new())
            .await
    }

    /// Closes the circuit for the fleet, with an empty window and no backoff; ends overrides.
    ///
    /// # Errors
    /// [`ControlError::Store`] when the store did not confirm, [`ControlError::Text`] when the author
    /// or the reason is too long.
    pub async fn reset(&self) -> Result<Snapshot, ControlError> {
        self.reset_with(Override::default()).await
    }

    /// [`reset`](Self::reset), saying who and why; the override's time is not looked at.
    ///
    /// # Errors
    /// [`ControlError::Store`] when the store did not confirm, [`ControlError::Text`] when the author
    /// or the reason is too long.
    pub async fn reset_with(&self, with: Override) -> Result<Snapshot, ControlError> {
        self.control(Command::Reset, with, String::new()).await
    }

    /// Stores settings with the circuit, which win over those in code in every replica; counts
    /// are kept. `key=integer` pairs with the keys of [`Rules`](crate::Rules); what was stored
    /// before is replaced.
    ///
    /// # Errors
    /// [`ControlError::Policy`] when a pair or the whole is not valid, [`ControlError::Store`]
    /// when the store did not confirm.
    pub async fn store_policy(&self, pairs: &str) -> Result<Snapshot, ControlError> {
        let code = self.cell.view.lock().code.clone();
        let stored = code.check_stored(pairs)?;
        self.control(Command::Policy, Override::default(), stored)
            .await
    }

    async fn control(
        &self,
        command: Command,
        with: Override,
        policy: String,
    ) -> Result<Snapshot, ControlError> {
        let cell = &self.cell;
        let request = with.request(cell.head(), command, policy)?;
        let asked = Instant::now();
        let snapshot = cell.shared.store.control(&cell.name, &request).await?;
        cell.take_shared(&snapshot, asked);
        Ok(snapshot)
    }

    /// The circuit's transitions from now on: each once, in order, none missed across
    /// reconnects (as long as fewer than 256 pile up).
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer now.
    pub async fn events(&self) -> Result<Events, StoreError> {
        let now = self.snapshot().await?;
        Ok(self.events_after(now.generation))
    }

    /// The circuit's transitions after a generation, kept ones first.
    pub fn events_after(&self, generation: u64) -> Events {
        Events::follow(Arc::clone(&self.cell), generation, Arc::clone(&self.life))
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

/// Reads a future through a circuit: `future.protect(&breaker).await`.
pub trait Protect<T, E>: Future<Output = Result<T, E>> + Sized {
    /// [`CircuitBreaker::call`] with this future as the call; it is dropped unpolled when the
    /// circuit rejects.
    ///
    /// # Errors
    /// As [`CircuitBreaker::call`].
    fn protect(self, breaker: &CircuitBreaker) -> impl Future<Output = Result<T, CallError<E>>> {
        breaker.call(|| self)
    }
}

impl<T, E, F: Future<Output = Result<T, E>>> Protect<T, E> for F {}
