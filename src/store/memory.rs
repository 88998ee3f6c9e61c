//! A store in the process: the model behind a mutex.
//!
//! The embedded default, the fleet of a test (several registries on one `MemoryStore`), and what
//! a replica goes on with while Redis is away.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc, watch};

use super::{Answer, Clock, Notice, Store, StoreError, keeping};
use crate::model::{
    Acquire, Circuit, Claim, Claims, Control, Event, Grant, Head, Interval, Members, Name, Release,
    Report, Snapshot,
};

/// A store in the process.
///
/// Clones share the circuits.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    clock: Clock,
    circuits: Arc<Mutex<HashMap<Name, Circuit>>>,
    claims: Arc<Mutex<HashMap<Name, Claims>>>,
    shelf: Arc<Mutex<keeping::Shelf>>,
    changes: broadcast::Sender<(Name, Snapshot)>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Clock::system())
    }
}

impl MemoryStore {
    /// An empty store on a clock.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            circuits: Arc::default(),
            claims: Arc::default(),
            shelf: Arc::default(),
            changes: broadcast::channel(1024).0,
        }
    }

    /// The store's clock.
    #[must_use]
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Forgets every circuit and whatever else it keeps, as `FLUSHALL` does.
    pub fn clear(&self) {
        self.circuits.lock().clear();
        self.claims.lock().clear();
        *self.shelf.lock() = keeping::Shelf::default();
    }

    /// Runs one operation on a circuit and publishes what it published.
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
            // Nobody listening is not an error.
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

    fn claim<'a>(&'a self, circuit: &'a Name, claim: &'a Claim) -> Answer<'a, u64> {
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
            let (key, value) = (keeping::key(key)?, keeping::value(value)?);
            let mut shelf = self.shelf.lock();
            shelf.keep(key, value, keeping::bounded(for_ms), self.clock.unix_ms());
            Ok(())
        };
        answer(keep())
    }

    fn kept<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        let now = || self.clock.unix_ms();
        answer(keeping::key(key).map(|key| self.shelf.lock().kept(key, now())))
    }

    fn lease<'a>(&'a self, key: &'a str, owner: &'a str, for_ms: u64) -> Answer<'a, bool> {
        let lease = || {
            let (key, owner) = (keeping::key(key)?, keeping::owner(owner)?);
            let mut shelf = self.shelf.lock();
            Ok(shelf.lease(key, owner, keeping::bounded(for_ms), self.clock.unix_ms()))
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
