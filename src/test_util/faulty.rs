//! A store that fails on command.
//!
//! Owns which operation meets which fault; the inner store does the rest. Invariant: an operation
//! meets at most one fault, the oldest active one that applies to it.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::{
    Event, Name, Snapshot, Store, StoreError,
    model::{
        Acquire, Claim, Claimed, Control, Grant, Head, Interval, Members, Release, Report, Slice,
    },
    store::{Answer, Notice},
};

/// One of a store's operations, named after the methods of [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// [`Store::acquire`].
    Acquire,
    /// [`Store::report`]; a batch of reports is one operation.
    Report,
    /// [`Store::release`].
    Release,
    /// [`Store::control`].
    Control,
    /// [`Store::snapshot`] and [`Store::snapshots`].
    Snapshot,
    /// [`Store::history`] and [`Store::past`].
    History,
    /// [`Store::members`].
    Members,
    /// [`Store::claim`].
    Claim,
    /// [`Store::events`].
    Events,
    /// [`Store::circuits`].
    Circuits,
    /// [`Store::ping`].
    Ping,
    /// [`Store::listen`]: the connection on which changes are pushed. Errors and lost answers break
    /// it; the other faults hold back its notices.
    Listen,
}

/// What goes wrong, with which operations, how often. By default all operations, until it is ended.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{Clock, Commontrip, MemoryStore, test_util::{Fault, FaultyStore}};
///
/// let store = FaultyStore::new(MemoryStore::new(Clock::system()));
/// let circuits = Commontrip::builder().store(store.clone()).build()?;
/// let outage = store.inject(Fault::unavailable());
/// // Calls go on, by this replica's own circuit.
/// circuits.circuit("payments", Default::default())?.acquire().await?.success();
/// outage.end();
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a fault is injected by FaultyStore::inject"]
pub struct Fault {
    kind: Kind,
    on: Option<Vec<Operation>>,
    times: u64,
}

#[derive(Clone, Debug)]
enum Kind {
    Fail(StoreError),
    Hang,
    Delay(Duration),
    LoseAnswer,
    HoldAnswer,
}

impl Fault {
    const fn new(kind: Kind) -> Self {
        Self {
            kind,
            on: None,
            times: u64::MAX,
        }
    }

    /// The store cannot be reached and executes nothing.
    pub fn unavailable() -> Self {
        Self::fail(StoreError::unreachable("an injected fault"))
    }

    /// The store answers with this error and executes nothing.
    pub const fn fail(error: StoreError) -> Self {
        Self::new(Kind::Fail(error))
    }

    /// The store does nothing until the fault ends, and then executes what callers still wait for.
    pub const fn hang() -> Self {
        Self::new(Kind::Hang)
    }

    /// The store executes each operation this much later.
    pub const fn delay(by: Duration) -> Self {
        Self::new(Kind::Delay(by))
    }

    /// The store executes the operation, but the connection breaks before the answer arrives.
    pub const fn lose_answer() -> Self {
        Self::new(Kind::LoseAnswer)
    }

    /// The store executes the operation, and its answer arrives when the fault ends.
    pub const fn hold_answer() -> Self {
        Self::new(Kind::HoldAnswer)
    }

    /// Affects only these operations.
    pub fn on(mut self, operations: impl IntoIterator<Item = Operation>) -> Self {
        self.on = Some(operations.into_iter().collect());
        self
    }

    /// Affects only the next `times` operations. Those that hang or are held back stay so until the
    /// fault ends.
    pub const fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    fn is_for(&self, operation: Operation) -> bool {
        self.on.as_ref().is_none_or(|on| on.contains(&operation))
    }
}

/// An active fault. It lasts until [`end`](Self::end) or [`FaultyStore::heal`]; dropping this does
/// not end it.
#[derive(Clone, Debug)]
pub struct Injected {
    fault: Arc<Armed>,
    faults: Arc<Faults>,
}

impl Injected {
    /// Returns how many operations the fault has affected.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.fault.hits.load(Ordering::SeqCst)
    }

    /// Ends the fault. Operations that hang or are held back by it continue.
    pub fn end(&self) {
        self.faults.retain(|other| !Arc::ptr_eq(other, &self.fault));
    }
}

#[derive(Debug)]
struct Armed {
    fault: Fault,
    hits: AtomicU64,
    ended: watch::Sender<bool>,
}

impl Armed {
    /// Whether the fault affects one more operation, which is then counted.
    fn hit(&self) -> bool {
        let more = |hits: u64| (hits < self.fault.times).then_some(hits + 1);
        let (set, get) = (Ordering::SeqCst, Ordering::SeqCst);
        self.hits.fetch_update(set, get, more).is_ok()
    }

    async fn ended(&self) {
        // An error would mean that the sender is gone, so the fault has ended, too.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

#[derive(Debug, Default)]
struct Faults {
    armed: Mutex<Vec<Arc<Armed>>>,
    /// Counts changes of `armed`.
    changed: watch::Sender<u64>,
}

impl Faults {
    fn retain(&self, keeps: impl Fn(&Arc<Armed>) -> bool) {
        for ended in self.armed.lock().extract_if(.., |armed| !keeps(armed)) {
            ended.ended.send_replace(true);
        }
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// The fault that an operation meets now.
    fn meet(&self, operation: Operation) -> Option<Arc<Armed>> {
        let armed = self.armed.lock();
        let mut meant = armed.iter().filter(|one| one.fault.is_for(operation));
        meant.find(|one| one.hit()).cloned()
    }
}

/// Wraps another store, with faults that can be switched at run time.
///
/// Clones are the same store. Each replica of a [`Fleet`](super::Fleet) has its own wrapper around
/// the shared store, so that a single replica can be cut off.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{Commontrip, MemoryStore, Policy};
/// use commontrip::test_util::{Fault, FaultyStore, Operation};
///
/// let store = FaultyStore::new(MemoryStore::default());
/// let circuits = Commontrip::builder().store(store.clone()).build()?;
/// let payments = circuits.circuit("payments", Policy::default())?;
/// let outage = store.inject(Fault::unavailable());
/// payments.call(|| async { Ok::<_, ()>(()) }).await.expect("calls go on without the store");
/// assert!(circuits.health().unavailable_for.is_some());
/// outage.end();
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    faults: Arc<Faults>,
}

impl FaultyStore {
    /// Wraps a store, without a fault.
    pub fn new(inner: impl Store) -> Self {
        Self {
            inner: Arc::new(inner),
            faults: Arc::default(),
        }
    }

    /// Activates a fault.
    pub fn inject(&self, fault: Fault) -> Injected {
        let fault = Arc::new(Armed {
            fault,
            hits: AtomicU64::new(0),
            ended: watch::Sender::new(false),
        });
        self.faults.armed.lock().push(Arc::clone(&fault));
        self.faults.changed.send_modify(|changes| *changes += 1);
        Injected {
            fault,
            faults: Arc::clone(&self.faults),
        }
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.faults.retain(|_| false);
    }

    /// Returns whether a fault is active, even if it has already affected all its
    /// [`times`](Fault::times).
    #[must_use]
    pub fn has_faults(&self) -> bool {
        !self.faults.armed.lock().is_empty()
    }

    fn through<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        inner: impl Future<Output = Result<T, StoreError>> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            let Some(armed) = self.faults.meet(operation) else {
                return inner.await;
            };
            match &armed.fault.kind {
                Kind::Fail(error) => Err(error.clone()),
                Kind::Hang => {
                    armed.ended().await;
                    inner.await
                }
                Kind::Delay(by) => {
                    tokio::time::sleep(*by).await;
                    inner.await
                }
                Kind::LoseAnswer => {
                    // The caller never learns this answer.
                    let _ = inner.await;
                    Err(StoreError::unreachable("an injected fault: no answer"))
                }
                Kind::HoldAnswer => {
                    let answer = inner.await;
                    armed.ended().await;
                    answer
                }
            }
        })
    }
}

impl Store for FaultyStore {
    fn acquire<'a>(&'a self, circuit: &'a Name, request: &'a Acquire) -> Answer<'a, Grant> {
        self.through(
            Operation::Acquire,
            lazily(|| self.inner.acquire(circuit, request)),
        )
    }

    fn report<'a>(
        &'a self,
        batch: &'a [(Name, Report)],
    ) -> Answer<'a, Vec<Result<Snapshot, StoreError>>> {
        self.through(Operation::Report, lazily(|| self.inner.report(batch)))
    }

    fn release<'a>(&'a self, circuit: &'a Name, request: &'a Release) -> Answer<'a, Snapshot> {
        self.through(
            Operation::Release,
            lazily(|| self.inner.release(circuit, request)),
        )
    }

    fn control<'a>(&'a self, circuit: &'a Name, request: &'a Control) -> Answer<'a, Snapshot> {
        self.through(
            Operation::Control,
            lazily(|| self.inner.control(circuit, request)),
        )
    }

    fn remove<'a>(&'a self, circuit: &'a Name) -> Answer<'a, ()> {
        self.through(Operation::Control, lazily(|| self.inner.remove(circuit)))
    }

    fn snapshot<'a>(&'a self, circuit: &'a Name, head: &'a Head) -> Answer<'a, Snapshot> {
        self.through(
            Operation::Snapshot,
            lazily(|| self.inner.snapshot(circuit, head)),
        )
    }

    fn snapshots<'a>(
        &'a self,
        circuits: &'a [Name],
        head: &'a Head,
    ) -> Answer<'a, Vec<Result<Snapshot, StoreError>>> {
        self.through(
            Operation::Snapshot,
            lazily(|| self.inner.snapshots(circuits, head)),
        )
    }

    fn history<'a>(&'a self, circuits: &'a [Name], most: usize) -> Answer<'a, Vec<Vec<Interval>>> {
        self.through(
            Operation::History,
            lazily(move || self.inner.history(circuits, most)),
        )
    }

    fn past<'a>(&'a self, circuit: &'a Name) -> Answer<'a, Vec<Slice>> {
        self.through(Operation::History, lazily(|| self.inner.past(circuit)))
    }

    fn members<'a>(&'a self, circuit: &'a Name, now_ms: u64) -> Answer<'a, Members> {
        self.through(
            Operation::Members,
            lazily(move || self.inner.members(circuit, now_ms)),
        )
    }

    fn claim<'a>(&'a self, circuit: &'a Name, claim: &'a Claim) -> Answer<'a, Claimed> {
        self.through(
            Operation::Claim,
            lazily(|| self.inner.claim(circuit, claim)),
        )
    }

    fn namespace(&self) -> &str {
        self.inner.namespace()
    }

    fn events<'a>(&'a self, circuit: &'a Name, after: u64) -> Answer<'a, Vec<Event>> {
        self.through(
            Operation::Events,
            lazily(move || self.inner.events(circuit, after)),
        )
    }

    fn circuits(&self) -> Answer<'_, Vec<String>> {
        self.through(Operation::Circuits, lazily(|| self.inner.circuits()))
    }

    fn shard(&self, circuit: &Name) -> u16 {
        self.inner.shard(circuit)
    }

    fn ping(&self) -> Answer<'_, ()> {
        self.through(Operation::Ping, lazily(|| self.inner.ping()))
    }

    fn listen(
        &self,
        followed: watch::Receiver<BTreeSet<Name>>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Answer<'_, ()> {
        let mut changed = self.faults.changed.subscribe();
        Box::pin(async move {
            let (sender, mut heard) = mpsc::unbounded_channel();
            let mut listening = self.inner.listen(followed, sender);
            loop {
                changed.mark_unchanged();
                if let Some(armed) = self.faults.meet(Operation::Listen) {
                    match &armed.fault.kind {
                        Kind::Fail(error) => return Err(error.clone()),
                        Kind::LoseAnswer => {
                            return Err(StoreError::unreachable("an injected fault: cut off"));
                        }
                        Kind::Delay(by) => tokio::time::sleep(*by).await,
                        Kind::Hang | Kind::HoldAnswer => tokio::select! {
                            () = armed.ended() => {}
                            () = notices.closed() => return Ok(()),
                        },
                    }
                }
                tokio::select! {
                    biased;
                    _ = changed.changed() => {}
                    () = notices.closed() => return Ok(()),
                    ended = &mut listening => return ended,
                    Some(notice) = heard.recv() => {
                        let _ = notices.send(notice);
                    }
                }
            }
        })
    }
}

/// Calls the inner store when this is polled, because some stores act as soon as they are called.
async fn lazily<'a, T>(ask: impl FnOnce() -> Answer<'a, T>) -> Result<T, StoreError> {
    ask().await
}
