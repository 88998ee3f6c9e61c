//! State that every part of a registry can reach, and its lifetime.
//!
//! Owns the state that circuits and tasks share; starts nothing.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
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
    health::Outage,
    inner::{CircuitInner, Unavailable},
    unsent::{Ending, Unsent},
};
use crate::{
    model::{Event, Name},
    store::{Clock, Store, StoreError, answer_by},
};

/// The maximum number of circuits whose reports go in one batch.
const BATCH: usize = 64;

/// How many circuits' reports go in one batch: fewer where the store needs more than half of
/// `store_timeout` for as many, so that a slow store is not taken for one that does not answer.
pub(super) struct BatchSize(AtomicUsize);

impl Default for BatchSize {
    fn default() -> Self {
        Self(AtomicUsize::new(BATCH))
    }
}

impl BatchSize {
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Adapts the size to how long a batch took, of the time that it was given.
    pub(super) fn note(&self, circuits: usize, took: Duration, given: Duration) {
        let size = self.get();
        let next = if took * 2 > given && circuits > 1 {
            size.min(circuits / 2)
        } else if took * 4 < given && circuits >= size {
            (size * 2).min(BATCH)
        } else {
            size
        };
        self.0.store(next, Ordering::Relaxed);
    }
}

/// A callback for each transition.
pub(super) type Hook = Arc<dyn Fn(&str, &Event) + Send + Sync>;

/// State that every part of a registry can reach.
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    pub(super) replica: String,
    pub(super) store_timeout: Duration,
    pub(super) outage: Outage,
    /// Circuits that the reporter should look at, and the signal that there are some.
    pub(super) asked: Mutex<Vec<Arc<CircuitInner>>>,
    pub(super) wake: Notify,
    /// The turn to wait for the store although there is a stale decision.
    pub(super) renewing: tokio::sync::Mutex<()>,
    /// Limits for concurrent requests: about calls, and for reads that no call waits for.
    pub(super) asking: Semaphore,
    pub(super) reading: Semaphore,
    pub(super) stop: watch::Sender<bool>,
    pub(super) ending: Mutex<Ending>,
    /// How long the end may take, and what was not sent by then.
    pub(super) patience: Mutex<Duration>,
    pub(super) unsent: Mutex<Unsent>,
    /// How long a circuit that nobody holds or uses is kept.
    pub(super) idle_timeout: Duration,
    pub(super) circuits: Mutex<HashMap<Name, Arc<CircuitInner>>>,
    /// Notified when the set of circuits has changed.
    pub(super) others: Notify,
    pub(super) batch_size: BatchSize,
    /// The fastest pace of reports that this many circuits allow, ms.
    pub(super) least_pace_ms: AtomicU64,
    pub(super) flushes: mpsc::UnboundedSender<oneshot::Sender<()>>,
    /// Other modules' work that `shutdown` waits for.
    #[cfg(feature = "fallback")]
    pub(super) unfinished: Mutex<Vec<std::sync::Weak<dyn super::Unfinished>>>,
    /// Called with each transition of each circuit.
    pub(super) hooks: Mutex<Vec<Hook>>,
    pub(super) tokens: AtomicU64,
    /// Whether this process admits every call.
    pub(super) off: AtomicBool,
    pub(super) runtime: Handle,
}

impl Shared {
    pub(super) fn inners(&self) -> Vec<Arc<CircuitInner>> {
        self.circuits.lock().values().cloned().collect()
    }

    /// How long the end may take.
    pub(super) fn patience(&self) -> Duration {
        *self.patience.lock()
    }

    pub(super) fn inner(&self, name: &Name) -> Option<Arc<CircuitInner>> {
        self.circuits.lock().get(name).cloned()
    }

    /// Whether every call passes, whatever its circuit says. Gates are set accordingly under the
    /// view's lock; a call itself does not read this.
    pub(super) fn is_off(&self) -> bool {
        self.off.load(Ordering::SeqCst)
    }

    /// Whether the registry is being shut down, or was.
    pub(super) fn is_ending(&self) -> bool {
        *self.stop.borrow()
    }

    /// A unique token for a permit.
    pub(super) fn next_token(&self) -> String {
        let number = self.tokens.fetch_add(1, Ordering::Relaxed);
        format!("{}:{number}", self.replica)
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.runtime.spawn(task)
    }

    /// The store's answer, or an error if it took longer than `store_timeout`.
    pub(super) async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let timeout = self.store_timeout;
        let answer = answer_by(Instant::now() + timeout, timeout, answer).await;
        answer.unwrap_or(Err(StoreError::Timeout(timeout)))
    }

    /// Makes the reporter attend to a circuit that it has parked.
    #[cold]
    pub(super) fn activate(&self, inner: &Arc<CircuitInner>) {
        if inner.parked.load(Ordering::SeqCst) {
            self.attend(inner);
        }
    }

    /// Makes the reporter look at a circuit now; without a reporter, files its outcomes here.
    pub(super) fn attend(&self, inner: &Arc<CircuitInner>) {
        let mut asked = self.asked.lock();
        if inner.unavailable() == Unavailable::Ended {
            drop(asked);
            inner.report_locally();
            return;
        }
        inner.parked.store(false, Ordering::SeqCst);
        if !inner.asked.swap(true, Ordering::SeqCst) {
            asked.push(Arc::clone(inner));
            drop(asked);
            self.wake.notify_one();
        }
    }
}

/// Completes when the registry should stop.
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
