//! The registry: one per process and store.
//!
//! Owns the store, the tasks and the circuits of a process; tells nobody what to do with a call.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{
    BuildError, CircuitBreaker,
    builder::CommontripBuilder,
    cell::{Away, Cell},
    ending::{Ending, Reporting, Unsent},
    events,
    link::{Health, Link},
    listener, reporter,
};
use crate::{
    model::{Name, NameError, Policy},
    store::{Clock, Store, StoreError, answer_by},
};

/// Questions that calls have out at once, in all circuits; a store answers so many well within
/// `store_timeout`.
const ASKING: usize = 32;
/// Reads that are out at once for those who follow transitions.
const READING: usize = 16;

/// What every part of a registry can reach.
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    pub(super) replica: String,
    pub(super) store_timeout: Duration,
    pub(super) link: Link,
    /// Circuits that the reporter is to look at, and that there are some.
    pub(super) asked: Mutex<Vec<Arc<Cell>>>,
    pub(super) wake: Notify,
    /// The turn to wait for the store though there is a decision, only a stale one.
    pub(super) renewing: tokio::sync::Mutex<()>,
    /// Turns to ask the store for one call, and turns to read what nobody waits for.
    pub(super) asking: Semaphore,
    pub(super) reading: Semaphore,
    pub(super) stop: watch::Sender<bool>,
    pub(super) ending: Mutex<Ending>,
    /// How long the end may take, and what was not sent by then.
    patience: Mutex<Duration>,
    pub(super) unsent: Mutex<Unsent>,
    /// How long a circuit is kept that nobody holds or uses.
    pub(super) idle_timeout: Duration,
    pub(super) circuits: Mutex<HashMap<Name, Arc<Cell>>>,
    /// Other circuits are there than before.
    pub(super) others: Notify,
    /// The shortest pace of reports that so many circuits allow, ms.
    pub(super) least_pace_ms: AtomicU64,
    flushes: mpsc::UnboundedSender<oneshot::Sender<()>>,
    /// Called with each transition of each circuit.
    pub(super) hooks: Mutex<Vec<events::Hook>>,
    tokens: AtomicU64,
    /// This process' breakers admit every call.
    off: AtomicBool,
    runtime: Handle,
}

impl Shared {
    pub(super) fn cells(&self) -> Vec<Arc<Cell>> {
        self.circuits.lock().values().cloned().collect()
    }

    /// How long the end may take.
    pub(super) fn patience(&self) -> Duration {
        *self.patience.lock()
    }

    pub(super) fn cell(&self, name: &Name) -> Option<Arc<Cell>> {
        self.circuits.lock().get(name).cloned()
    }

    /// Whether every call is to pass, whatever its circuit says. Gates are set by it, under the view's
    /// lock; a call itself does not look.
    pub(super) fn is_off(&self) -> bool {
        self.off.load(Ordering::SeqCst)
    }

    /// Whether the registry is being shut down, or was.
    pub(super) fn is_ending(&self) -> bool {
        *self.stop.borrow()
    }

    /// A name for a permit that no other has.
    pub(super) fn next_token(&self) -> String {
        let number = self.tokens.fetch_add(1, Ordering::Relaxed);
        format!("{}:{number}", self.replica)
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.runtime.spawn(task)
    }

    /// The store's answer, or that it took longer than `store_timeout`.
    pub(super) async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let timeout = self.store_timeout;
        let answer = answer_by(Instant::now() + timeout, timeout, answer).await;
        answer.unwrap_or(Err(StoreError::Timeout(timeout)))
    }

    /// Has the reporter look after a circuit that it has parked.
    #[cold]
    pub(super) fn activate(&self, cell: &Arc<Cell>) {
        if cell.parked.load(Ordering::SeqCst) {
            self.attend(cell);
        }
    }

    /// Has the reporter look at a circuit now; without one its outcomes are filed here.
    pub(super) fn attend(&self, cell: &Arc<Cell>) {
        let mut asked = self.asked.lock();
        if cell.away() == Away::Ended {
            drop(asked);
            cell.report_locally();
            return;
        }
        cell.parked.store(false, Ordering::SeqCst);
        if !cell.asked.swap(true, Ordering::SeqCst) {
            asked.push(Arc::clone(cell));
            drop(asked);
            self.wake.notify_one();
        }
    }
}

/// Ends when the registry is to stop.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the registry is gone, which is as good a reason.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Ends the registry's tasks when its last user is gone.
pub(super) struct Life(pub(super) Arc<Shared>);

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Life")
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// The circuits of one process on one store.
///
/// Make one at start and take circuits from it by name; replicas that use the same store and the
/// same name share the circuit. Clones are the same registry. Its tasks end with
/// [`shutdown`](Self::shutdown), or when the registry and all its circuits are dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{Commontrip, Policy};
///
/// let circuits = Commontrip::embedded()?; // or Commontrip::redis("redis://127.0.0.1")?
/// let payments = circuits.circuit("payments", Policy::default())?;
/// let answer = payments.call(|| async { Ok::<_, std::io::Error>(42) }).await?;
/// assert_eq!(answer, 42);
/// circuits.shutdown().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Commontrip {
    life: Arc<Life>,
    tasks: Arc<tokio::sync::Mutex<Vec<JoinHandle<()>>>>,
}

impl Commontrip {
    /// Starts from the defaults: the embedded store.
    pub fn builder() -> CommontripBuilder {
        CommontripBuilder::new()
    }

    /// A registry whose tasks run on this runtime.
    pub(super) fn start(
        store: Arc<dyn Store>,
        clock: Clock,
        replica: String,
        store_timeout: Duration,
        idle_timeout: Duration,
        runtime: Handle,
    ) -> Self {
        let (flushes, flush_requests) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            store,
            clock,
            replica,
            store_timeout,
            hooks: Mutex::default(),
            link: Link::default(),
            asked: Mutex::default(),
            wake: Notify::new(),
            renewing: tokio::sync::Mutex::default(),
            asking: Semaphore::new(ASKING),
            reading: Semaphore::new(READING),
            stop,
            ending: Mutex::default(),
            patience: Mutex::new(store_timeout.saturating_mul(3)),
            unsent: Mutex::default(),
            idle_timeout,
            circuits: Mutex::default(),
            others: Notify::new(),
            least_pace_ms: AtomicU64::new(0),
            flushes,
            tokens: AtomicU64::new(1),
            off: AtomicBool::new(false),
            runtime,
        });
        let tasks = vec![
            shared.spawn(reporter::run(
                Reporting(Arc::clone(&shared)),
                flush_requests,
                stopped.clone(),
            )),
            shared.spawn(listener::run(Arc::clone(&shared), stopped)),
        ];
        Self {
            life: Arc::new(Life(shared)),
            tasks: Arc::new(tokio::sync::Mutex::new(tasks)),
        }
    }

    /// A registry on the Redis of a URL, everything else at its default.
    ///
    /// Connects in the background: a Redis that is not there yet is no error.
    ///
    /// # Errors
    /// As [`CommontripBuilder::build`].
    pub fn redis(url: &str) -> Result<Self, BuildError> {
        Self::builder().redis(url).build()
    }

    /// A registry of this process alone, everything at its default.
    ///
    /// # Errors
    /// As [`CommontripBuilder::build`].
    pub fn embedded() -> Result<Self, BuildError> {
        Self::builder().build()
    }

    /// The circuit of that name.
    ///
    /// The same name is the same circuit; the policy given last is the one in force. Taking a
    /// circuit with two policies is usually a mistake, so the first time it happens is logged, with
    /// the settings that differ. A circuit that nobody holds or uses is let go after
    /// [`idle_timeout`](CommontripBuilder::idle_timeout).
    ///
    /// # Errors
    /// [`NameError`] when `name` is empty, longer than 200 bytes, or has control characters or
    /// braces.
    pub fn circuit(&self, name: &str, policy: Policy) -> Result<CircuitBreaker, NameError> {
        self.take(name, policy, true)
    }

    /// The circuit of that name, which has this policy from now on.
    pub(crate) fn circuit_with(
        &self,
        name: &str,
        policy: Policy,
    ) -> Result<CircuitBreaker, NameError> {
        self.take(name, policy, false)
    }

    fn take(&self, name: &str, policy: Policy, warns: bool) -> Result<CircuitBreaker, NameError> {
        let name = Name::new(name)?;
        let shared = &self.life.0;
        let mut circuits = shared.circuits.lock();
        if let Some(cell) = circuits.get(&name) {
            let cell = Arc::clone(cell);
            cell.note_use();
            drop(circuits);
            if warns {
                cell.warn_of_another(&policy);
            }
            cell.set_policy(policy);
            return Ok(CircuitBreaker::new(cell, Arc::clone(&self.life)));
        }
        let cell = Arc::new(Cell::new(name.clone(), policy, Arc::clone(shared)));
        cell.warn_of(&cell.policy.load());
        circuits.insert(name, Arc::clone(&cell));
        drop(circuits);
        shared.others.notify_one();
        if shared.ended().is_some() {
            cell.end();
        } else if shared.begins_away(&cell.name) {
            cell.leave_store(Away::Store);
        }
        for hook in shared.hooks.lock().iter() {
            events::call(Arc::clone(hook), Arc::clone(&cell));
        }
        if shared.is_off() {
            cell.switched();
        }
        if !cell.is_away() {
            cell.renew();
            if shared.store.is_immediate() {
                cell.file_here();
            }
        }
        Ok(CircuitBreaker::new(cell, Arc::clone(&self.life)))
    }

    /// Switches breaking off in this process, or on again; at once, and without the store. On at first.
    ///
    /// While it is off every call passes, whatever the state of its circuit, also of circuits that are
    /// taken later. The shared circuits go on: outcomes are recorded and reported as before, so what
    /// this process' calls tell still protects the other replicas, and switched on again it goes by
    /// what is true by then. `call_timeout` ends calls as before. Nobody else's calls are affected; for
    /// the whole fleet there is [`disable`](CircuitBreaker::disable), for one circuit.
    /// [`Health::enabled`] shows it.
    pub fn set_enabled(&self, enabled: bool) {
        let (shared, off) = (&self.life.0, !enabled);
        if shared.off.swap(off, Ordering::SeqCst) == off {
            return;
        }
        // Whatever sets a gate after this sees the switch.
        for cell in shared.cells() {
            cell.switched();
        }
        tracing::warn!(enabled, replica = %shared.replica, "circuit breaking was switched in this process");
    }

    /// This registry's name among the fleet's, with the random part.
    #[must_use]
    pub fn replica(&self) -> &str {
        &self.life.0.replica
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.life.0
    }

    /// Whether it was shut down.
    #[cfg(feature = "config")]
    pub(crate) fn has_ended(&self) -> bool {
        self.life.0.is_ending()
    }

    /// True once it is shut down.
    pub(crate) fn ending(&self) -> watch::Receiver<bool> {
        self.life.0.stop.subscribe()
    }

    /// The store that circuits live in.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.life.0.store)
    }

    /// Names of the circuits that the store knows, sorted.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn circuits(&self) -> Result<Vec<String>, StoreError> {
        self.life.0.store.circuits().await
    }

    /// How this registry and its store get on.
    #[must_use]
    pub fn health(&self) -> Health {
        self.life.0.health()
    }

    /// Sends what was recorded so far and waits for the answer.
    pub async fn flush(&self) {
        let (done, sent) = oneshot::channel();
        if self.life.0.flushes.send(done).is_ok() {
            // An error means that the registry was shut down, which flushes too.
            let _ = sent.await;
        }
    }

    /// Sends what was recorded so far and ends the registry's tasks; says what was not sent.
    ///
    /// Takes at most three times `store_timeout`, which is enough for some thousands of circuits;
    /// [`shutdown_timeout`](Self::shutdown_timeout) gives it more. Calls after it are decided by
    /// this process alone, as while the store is away: nothing is asked of the store, and their
    /// outcomes are not sent.
    pub async fn shutdown(&self) -> Unsent {
        self.end().await
    }

    /// [`shutdown`](Self::shutdown) within this time. What is not sent by then is lost, counted and
    /// logged.
    pub async fn shutdown_timeout(&self, timeout: Duration) -> Unsent {
        *self.life.0.patience.lock() = timeout;
        self.end().await
    }

    async fn end(&self) -> Unsent {
        self.life.0.stop.send_replace(true);
        let mut tasks = self.tasks.lock().await;
        while let Some(task) = tasks.last_mut() {
            // A task that panicked has nothing left to flush.
            let _ = task.await;
            tasks.pop();
        }
        *self.life.0.unsent.lock()
    }
}

impl fmt::Debug for Commontrip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = &self.life.0;
        f.debug_struct("Commontrip")
            .field("replica", &shared.replica)
            .field("store", &shared.store)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_counted_as_a_circuit_is_parked_is_found_a_little_later() {
        let circuits = Commontrip::embedded().unwrap();
        let breaker = circuits.circuit("c", Policy::default()).unwrap();
        breaker.acquire().await.unwrap().success();
        let cell = circuits.life.0.cell(&Name::new("c").unwrap()).unwrap();
        while !cell.parked.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // As by a caller who has not seen that it was parked.
        cell.tally.reject();
        for _ in 0..1000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if breaker.snapshot().await.unwrap().not_permitted_total == 1 {
                return;
            }
        }
        panic!("it is never reported");
    }
}
