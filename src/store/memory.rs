//! An in-process store: the model behind a mutex.
//!
//! It is the embedded default and the shared store of a test's fleet (several registries on one
//! `MemoryStore`).

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc, watch};

use super::{Answer, Clock, Notice, Store, StoreError, group, key_value};
use crate::model::{
    Acquire, Circuit, Claim, Claimed, Claims, Control, Event, Grant, Head, Interval, Members, Name,
    Release, Report, Slice, Snapshot,
};

/// An in-process store.
///
/// Clones share the circuits.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{Clock, Commontrip, MemoryStore, Policy};
///
/// // Two replicas in one process.
/// let store = MemoryStore::new(Clock::system());
/// let one = Commontrip::builder().store(store.clone()).build()?;
/// let other = Commontrip::builder().store(store).build()?;
/// one.circuit("payments", Policy::default())?.force_open(Default::default()).await?;
/// assert!(other.circuit("payments", Policy::default())?.acquire().await.is_err());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct MemoryStore {
    clock: Clock,
    circuits: Arc<Mutex<HashMap<Name, Circuit>>>,
    claims: Arc<Mutex<HashMap<Name, Claims>>>,
    key_values: Arc<Mutex<key_value::KeyValues>>,
    groups: Arc<Mutex<HashMap<String, group::Group>>>,
    changes: broadcast::Sender<(Name, Snapshot)>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Clock::system())
    }
}

impl MemoryStore {
    /// Creates an empty store that uses this clock.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            circuits: Arc::default(),
            claims: Arc::default(),
            key_values: Arc::default(),
            groups: Arc::default(),
            changes: broadcast::channel(1024).0,
        }
    }

    /// Returns the store's clock.
    #[must_use]
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Forgets every circuit and everything else in the store, as `FLUSHALL` does.
    pub fn clear(&self) {
        self.circuits.lock().clear();
        self.claims.lock().clear();
        *self.key_values.lock() = key_value::KeyValues::default();
        self.groups.lock().clear();
    }

    /// Runs one operation on a circuit and sends the snapshots that it published to listeners.
    pub(crate) fn with<T>(
        &self,
        name: &Name,
        now_ms: u64,
        operation: impl FnOnce(&mut Circuit, u64) -> T,
    ) -> T {
        let mut circuits = self.circuits.lock();
        // Read under the lock, so that a circuit's time never goes back.
        let now = if now_ms == 0 {
            self.clock.unix_ms()
        } else {
            now_ms
        };
        let circuit = circuits.entry(name.clone()).or_default();
        let answer = operation(circuit, now);
        for snapshot in circuit.take_published() {
            // It is not an error if nobody listens.
            let _ = self.changes.send((name.clone(), snapshot));
        }
        answer
    }
}

fn ready<'a, T: Send + 'a>(value: T) -> Answer<'a, T> {
    answer(Ok(value))
}

fn answer<'a, T: Send + 'a>(result: Result<T, StoreError>) -> Answer<'a, T> {
    Box::pin(std::future::ready(result))
}

impl Store for MemoryStore {
    fn acquire<'a>(&'a self, circuit: &'a Name, request: &'a Acquire) -> Answer<'a, Grant> {
        ready(self.with(circuit, request.head.now_ms, |c, now| {
            c.acquire(request, now)
        }))
    }

    fn report<'a>(
        &'a self,
        batch: &'a [(Name, Report)],
    ) -> Answer<'a, Vec<Result<Snapshot, StoreError>>> {
        let file = |(name, report): &(Name, Report)| {
            Ok(self.with(name, report.head.now_ms, |c, now| c.report(report, now)))
        };
        ready(batch.iter().map(file).collect())
    }

    fn release<'a>(&'a self, circuit: &'a Name, request: &'a Release) -> Answer<'a, Snapshot> {
        ready(self.with(circuit, request.head.now_ms, |c, now| {
            c.release(request, now)
        }))
    }

    fn control<'a>(&'a self, circuit: &'a Name, request: &'a Control) -> Answer<'a, Snapshot> {
        ready(self.with(circuit, request.head.now_ms, |c, now| {
            c.control(request, now)
        }))
    }

    fn remove<'a>(&'a self, circuit: &'a Name) -> Answer<'a, ()> {
        self.circuits.lock().remove(circuit);
        self.claims.lock().remove(circuit);
        ready(())
    }

    fn snapshot<'a>(&'a self, circuit: &'a Name, head: &'a Head) -> Answer<'a, Snapshot> {
        let now = if head.now_ms == 0 {
            self.clock.unix_ms()
        } else {
            head.now_ms
        };
        let circuits = self.circuits.lock();
        ready(match circuits.get(circuit) {
            Some(found) => found.snapshot(head, now),
            None => Circuit::default().snapshot(head, now),
        })
    }

    fn history<'a>(&'a self, circuits: &'a [Name], most: usize) -> Answer<'a, Vec<Vec<Interval>>> {
        let known = self.circuits.lock();
        let history = |name: &Name| known.get(name).map_or_else(Vec::new, |c| c.history(most));
        ready(circuits.iter().map(history).collect())
    }

    fn past<'a>(&'a self, circuit: &'a Name) -> Answer<'a, Vec<Slice>> {
        let known = self.circuits.lock();
        ready(known.get(circuit).map_or_else(Vec::new, Circuit::past))
    }

    fn claim<'a>(&'a self, circuit: &'a Name, claim: &'a Claim) -> Answer<'a, Claimed> {
        let mut claims = self.claims.lock();
        let now = match claim.now_ms {
            0 => self.clock.unix_ms(),
            now => now,
        };
        let claims = claims.entry(circuit.clone()).or_default();
        ready(claims.claim(claim, now))
    }

    fn keep<'a>(&'a self, key: &'a str, value: &'a [u8], for_ms: u64) -> Answer<'a, ()> {
        let keep = || {
            let (key, value) = (key_value::key(key)?, key_value::value(value)?);
            let mut key_values = self.key_values.lock();
            key_values.keep(key, value, key_value::bounded(for_ms), self.clock.unix_ms());
            Ok(())
        };
        answer(keep())
    }

    fn keep_leased<'a>(
        &'a self,
        key: &'a str,
        owner: &'a str,
        value: &'a [u8],
        for_ms: u64,
    ) -> Answer<'a, bool> {
        let keep = || {
            let (key, owner) = (key_value::key(key)?, key_value::owner(owner)?);
            let (value, for_ms) = (key_value::value(value)?, key_value::bounded_leased(for_ms)?);
            let mut key_values = self.key_values.lock();
            Ok(key_values.keep_leased(key, owner, value, for_ms, self.clock.unix_ms()))
        };
        answer(keep())
    }

    fn kept<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        let now = || self.clock.unix_ms();
        answer(key_value::key(key).map(|key| self.key_values.lock().kept(key, now())))
    }

    fn keep_in<'a>(
        &'a self,
        group: &'a str,
        key: &'a str,
        value: &'a [u8],
        for_ms: u64,
        most_bytes: u64,
    ) -> Answer<'a, ()> {
        let keep = || {
            let (name, key) = (group::name(group)?, key_value::key(key)?);
            let (value, for_ms) = (key_value::value(value)?, key_value::bounded(for_ms));
            let most = match for_ms {
                0 => most_bytes,
                _ => group::bound(key, value, most_bytes)?,
            };
            let mut groups = self.groups.lock();
            let group = groups.entry(name.to_owned()).or_default();
            group.keep(key, value, for_ms, most, self.clock.unix_ms());
            Ok(())
        };
        answer(keep())
    }

    fn kept_in<'a>(&'a self, group: &'a str, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        let kept = || {
            let (name, key) = (group::name(group)?, key_value::key(key)?);
            let groups = self.groups.lock();
            let group = groups.get(name);
            Ok(group.and_then(|group| group.kept(key, self.clock.unix_ms())))
        };
        answer(kept())
    }

    fn lease<'a>(&'a self, key: &'a str, owner: &'a str, for_ms: u64) -> Answer<'a, bool> {
        let lease = || {
            let (key, owner) = (key_value::key(key)?, key_value::owner(owner)?);
            let mut key_values = self.key_values.lock();
            Ok(key_values.lease(key, owner, key_value::bounded(for_ms), self.clock.unix_ms()))
        };
        answer(lease())
    }

    fn members<'a>(&'a self, circuit: &'a Name, now_ms: u64) -> Answer<'a, Members> {
        let circuits = self.circuits.lock();
        let members = circuits.get(circuit).map(|c| c.members(now_ms));
        ready(members.unwrap_or_default())
    }

    fn events<'a>(&'a self, circuit: &'a Name, after: u64) -> Answer<'a, Vec<Event>> {
        let circuits = self.circuits.lock();
        ready(
            circuits
                .get(circuit)
                .map_or_else(Vec::new, |c| c.events_after(after)),
        )
    }

    fn circuits(&self) -> Answer<'_, Vec<String>> {
        let mut names: Vec<_> = self
            .circuits
            .lock()
            .keys()
            .map(|n| n.as_str().to_owned())
            .collect();
        names.sort();
        ready(names)
    }

    fn is_immediate(&self) -> bool {
        true
    }

    fn ping(&self) -> Answer<'_, ()> {
        ready(())
    }

    fn listen(
        &self,
        mut followed: watch::Receiver<BTreeSet<Name>>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Answer<'_, ()> {
        let mut changes = self.changes.subscribe();
        Box::pin(async move {
            loop {
                let names = followed.borrow_and_update().clone();
                if notices.send(Notice::Listening(names.clone())).is_err() {
                    return Ok(());
                }
                loop {
                    tokio::select! {
                        changed = followed.changed() => match changed {
                            Ok(()) => break,
                            Err(_) => return Ok(()),
                        },
                        () = notices.closed() => return Ok(()),
                        change = changes.recv() => match change {
                            Ok((name, snapshot)) if names.contains(&name) => {
                                let _ = notices.send(Notice::Changed(name, Box::new(snapshot)));
                            }
                            Ok(_) => {}
                            Err(broadcast::error::RecvError::Lagged(_)) => break,
                            Err(broadcast::error::RecvError::Closed) => return Ok(()),
                        },
                    }
                }
            }
        })
    }
}
