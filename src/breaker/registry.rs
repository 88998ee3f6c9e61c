//! The registry: one per process and store.
//!
//! Owns the store, the tasks and the circuits of a process; decides nothing about calls.

use std::{
    fmt,
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
};

use super::{
    CircuitBreaker,
    ending::Reporting,
    events,
    health::{Outage, RegistryHealth},
    inner::{CircuitInner, Unavailable},
    listener, reporter,
    shared::{BatchSize, Hook, Life, Shared},
    unsent::Unsent,
};
use crate::{
    model::{Event, Name, NameError, Policy},
    store::{Clock, Store, StoreError},
};

/// Requests about calls that are in flight at once, in all circuits; a store answers this many well
/// within `store_timeout`.
const ASKING: usize = 32;
/// Reads that are in flight at once for readers of transitions.
const READING: usize = 16;

/// The circuits of one process on one store.
///
/// Create one at startup and take circuits from it by name. Replicas that use the same store and
/// the same name share the circuit. Clones are the same registry. Its tasks end with
/// [`shutdown`](Self::shutdown), or when the registry and all its circuits are dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
            #[cfg(feature = "fallback")]
            unfinished: Mutex::default(),
            hooks: Mutex::default(),
            outage: Outage::default(),
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
            batch_size: BatchSize::default(),
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

    /// The circuit with this name.
    ///
    /// The same name gives the same circuit, and the policy given last is in force. Taking a
    /// circuit with two policies is usually a mistake, so the first time it happens is logged with
    /// the settings that differ. A circuit that nobody holds or uses is removed after
    /// [`idle_timeout`](crate::CommontripBuilder::idle_timeout).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use commontrip::{Commontrip, Policy};
    ///
    /// let circuits = Commontrip::embedded()?;
    /// let payments = circuits.circuit("payments", Policy::default())?;
    /// assert!(circuits.circuit("", Policy::default()).is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`NameError`] when `name` is empty, longer than 200 bytes, or contains control characters or
    /// braces.
    pub fn circuit(&self, name: &str, policy: Policy) -> Result<CircuitBreaker, NameError> {
        self.take(name, policy, true)
    }

    /// The circuit with this name, which has this policy from now on.
    #[cfg(feature = "config")]
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
        if let Some(inner) = circuits.get(&name) {
            let inner = Arc::clone(inner);
            inner.note_use();
            drop(circuits);
            if warns {
                inner.warn_of_another(&policy);
            }
            inner.set_policy(policy);
            return Ok(CircuitBreaker::new(inner, Arc::clone(&self.life)));
        }
        let inner = Arc::new(CircuitInner::new(name.clone(), policy, Arc::clone(shared)));
        inner.warn_of(&inner.policy.load());
        circuits.insert(name, Arc::clone(&inner));
        for hook in shared.hooks.lock().iter() {
            events::call(Arc::clone(hook), &inner);
        }
        drop(circuits);
        shared.others.notify_one();
        if shared.ended().is_some() {
            inner.end();
        } else if shared.begins_unavailable(&inner.name) {
            inner.leave_store(Unavailable::Store);
        }
        if shared.is_off() {
            inner.switched();
        }
        if !inner.is_unavailable() {
            inner.renew();
            if shared.store.is_immediate() {
                inner.file_here();
            }
        }
        Ok(CircuitBreaker::new(inner, Arc::clone(&self.life)))
    }

    /// Switches circuit breaking off in this process, or on again. Takes effect at once and without
    /// the store. It starts switched on.
    ///
    /// While it is off, every call passes, whatever the state of its circuit; this includes
    /// circuits that are taken later. The shared circuits continue: outcomes are recorded and
    /// reported as before, so this process' calls still protect the other replicas, and when
    /// breaking is switched on again, the current state applies. `call_timeout` ends calls as
    /// before. Calls of other processes are not affected. [`CircuitBreaker::set_enabled`] switches
    /// one circuit; [`disable`](CircuitBreaker::disable) applies to the whole fleet.
    /// [`RegistryHealth::enabled`] shows the switch.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// payments.force_open(Default::default()).await?;
    /// circuits.set_enabled(false);
    /// assert!(payments.acquire().await.is_ok());
    /// # Ok(()) }
    /// ```
    pub fn set_enabled(&self, enabled: bool) {
        let (shared, off) = (&self.life.0, !enabled);
        if shared.off.swap(off, Ordering::SeqCst) == off {
            return;
        }
        // Whatever sets a gate after this sees the switch.
        for inner in shared.inners() {
            inner.switched();
        }
        tracing::warn!(enabled, replica = %shared.replica, "circuit breaking was switched on or off in this process");
    }

    /// This registry's name in the fleet, including the random part.
    #[must_use]
    pub fn replica(&self) -> &str {
        &self.life.0.replica
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.life.0
    }

    /// The names of this process' circuits.
    #[cfg(feature = "config")]
    pub(crate) fn names(&self) -> std::collections::BTreeSet<Name> {
        self.life.0.names()
    }

    /// Whether the registry was shut down.
    #[cfg(feature = "config")]
    pub(crate) fn has_ended(&self) -> bool {
        self.life.0.is_ending()
    }

    /// Becomes true once the registry is shut down.
    pub(crate) fn ending(&self) -> watch::Receiver<bool> {
        self.life.0.stop.subscribe()
    }

    /// Makes `shutdown` wait for this work, for as long as somebody holds it.
    #[cfg(feature = "fallback")]
    pub(crate) fn finish_at_end(&self, work: std::sync::Weak<dyn super::Unfinished>) {
        let mut unfinished = self.life.0.unfinished.lock();
        unfinished.retain(|work| work.strong_count() > 0);
        unfinished.push(work);
    }

    /// The store that holds the circuits.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.life.0.store)
    }

    /// Names of the circuits that the store knows, sorted.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// # payments.reset().await?;
    /// for name in circuits.circuits().await? {
    ///     println!("{name}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn circuits(&self) -> Result<Vec<String>, StoreError> {
        self.life.0.store.circuits().await
    }

    /// The health of this registry and its store.
    #[must_use]
    pub fn health(&self) -> RegistryHealth {
        self.life.0.health()
    }

    /// Sends everything recorded so far and waits for the answer.
    pub async fn flush(&self) {
        let (done, sent) = oneshot::channel();
        if self.life.0.flushes.send(done).is_ok() {
            // An error means that the registry was shut down, which flushes too.
            let _ = sent.await;
        }
    }

    /// Sends everything recorded so far and ends the registry's tasks; returns what was not sent.
    ///
    /// Takes at most three times `store_timeout`, which is enough for some thousands of circuits;
    /// [`shutdown_timeout`](Self::shutdown_timeout) allows more. This process alone decides about
    /// later calls, as while the store is unavailable: the store is not asked, and their outcomes
    /// are not sent. Within the same time, this waits for the values that a `LastGood` has not
    /// written yet.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// let unsent = circuits.shutdown().await;
    /// assert!(unsent.is_empty());
    /// # Ok(()) }
    /// ```
    pub async fn shutdown(&self) -> Unsent {
        self.end().await
    }

    /// [`shutdown`](Self::shutdown) within this time. Whatever is not sent by then is lost, counted
    /// and logged.
    pub async fn shutdown_timeout(&self, timeout: Duration) -> Unsent {
        *self.life.0.patience.lock() = timeout;
        self.end().await
    }

    async fn end(&self) -> Unsent {
        #[cfg(feature = "fallback")]
        let deadline =
            tokio::time::Instant::now() + self.life.0.patience().min(crate::model::FOREVER);
        self.life.0.stop.send_replace(true);
        let mut tasks = self.tasks.lock().await;
        while let Some(task) = tasks.last_mut() {
            // A task that panicked has nothing left to flush.
            let _ = task.await;
            tasks.pop();
        }
        #[cfg(feature = "fallback")]
        {
            let unfinished = std::mem::take(&mut *self.life.0.unfinished.lock());
            let unfinished = unfinished.iter().filter_map(std::sync::Weak::upgrade);
            let finish = unfinished.map(|work| async move { work.finish(deadline).await });
            futures_util::future::join_all(finish).await;
        }
        *self.life.0.unsent.lock()
    }
}

impl Commontrip {
    /// Calls `hook` with the name of the circuit and each transition of any circuit of this
    /// registry, each once and in order.
    ///
    /// Every transition after this method returns is delivered; for a circuit that is taken later,
    /// every transition after it was taken. A transition that happened before, but of which this
    /// process had not heard yet, may be delivered too. A circuit that was removed
    /// ([`idle_timeout`](crate::CommontripBuilder::idle_timeout)) is not followed until it is taken
    /// again.
    ///
    /// Every replica calls its hooks. For actions that must happen once in the fleet, use alerts
    /// (feature `alerts`). A hook runs in the registry's tasks and must not block; a hook that
    /// panics is not called again for that circuit.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// circuits.on_event(|circuit, event| println!("{circuit}: {} -> {}", event.from, event.to));
    /// # Ok(()) }
    /// ```
    pub fn on_event(&self, hook: impl Fn(&str, &Event) + Send + Sync + 'static) {
        let hook: Hook = Arc::new(hook);
        let shared = self.shared();
        // Circuits are taken under the same lock, so each one gets the hook exactly once.
        let circuits = shared.circuits.lock();
        shared.hooks.lock().push(Arc::clone(&hook));
        for inner in circuits.values() {
            events::call(Arc::clone(&hook), inner);
        }
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
        let inner = circuits.life.0.inner(&Name::new("c").unwrap()).unwrap();
        while !inner.parked.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Like a caller that has not seen that the circuit was parked.
        inner.tally.reject();
        for _ in 0..1000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if breaker.snapshot().await.unwrap().rejected_total == 1 {
                return;
            }
        }
        panic!("it is never reported");
    }
}
