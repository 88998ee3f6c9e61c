//! Where good values are kept: in the process and, for the fleet, in the store.
//!
//! Owns the encoding, and which of two values is newer; knows nothing of calls. Invariant: only
//! [`Values::newest`] waits for the store, and no longer than the store's own timeout.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Source,
    copies::{Bounds, Copies, Entry, Reply, age},
    warned::Warned,
    writes::Writes,
};
use crate::{
    Clock, Commontrip,
    breaker::Unfinished,
    model::millis,
    store::{LARGEST_VALUE, in_words, size_in_group},
};

/// A value that was found.
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) age: Duration,
    pub(super) from: Source,
}

/// Checks that bytes decode as a value of a type, and returns when the value was obtained.
type Read = fn(&[u8]) -> Result<u64, rmp_serde::decode::Error>;

pub(super) struct Values {
    pub(super) name: String,
    pub(super) bounds: Bounds,
    clock: Clock,
    copies: Arc<Mutex<Copies>>,
    warned: Arc<Warned>,
    fleet: Option<Fleet>,
}

struct Fleet {
    circuits: Commontrip,
    group: String,
    most: u64,
    most_waiting: u64,
    writes: Arc<Writes>,
}

impl Values {
    pub(super) fn new(
        name: String,
        bounds: Bounds,
        (most_kept, most_waiting): (u64, u64),
        clock: Clock,
        circuits: Option<Commontrip>,
    ) -> Self {
        let warned = Arc::<Warned>::default();
        let group = format!("last-good:{name}");
        let fleet = circuits.map(|circuits| {
            let writes = Arc::new(Writes::new(
                (name.clone(), group.clone()),
                circuits.store(),
                millis(bounds.ttl),
                (most_waiting, most_kept),
                Arc::clone(&warned),
            ));
            let unfinished: Arc<dyn Unfinished> = Arc::clone(&writes) as _;
            circuits.finish_at_end(Arc::downgrade(&unfinished));
            Fleet {
                circuits,
                group,
                most: most_kept,
                most_waiting,
                writes,
            }
        });
        Self {
            name,
            bounds,
            clock,
            copies: Arc::new(Mutex::new(Copies::new(bounds))),
            warned,
            fleet,
        }
    }

    /// How many values could not be written for the fleet.
    pub(super) fn lost_writes(&self) -> u64 {
        self.fleet.as_ref().map_or(0, |fleet| fleet.writes.lost())
    }

    /// Keeps a value, unless the key has one that is younger than `refresh`.
    pub(super) fn keep<T: Serialize>(&self, key: &str, value: &T) {
        let now = self.clock.unix_ms();
        if self.copies.lock().is_fresh(key, now) {
            return;
        }
        // With field names, so that a value of a changed type is not decoded as something else.
        let bytes = match rmp_serde::to_vec_named(&(now, value)) {
            Ok(bytes) => Arc::<[u8]>::from(bytes),
            Err(error) => {
                tracing::warn!(name = self.name, key, %error, "a good value cannot be encoded");
                return;
            }
        };
        let mut copies = self.copies.lock();
        let fits = copies.takes(key, bytes.len());
        if fits {
            let bytes = Arc::clone(&bytes);
            copies.keep(
                key,
                Entry {
                    at_ms: now,
                    bytes,
                    asked_ms: None,
                },
            );
        }
        drop(copies);
        if fits {
            self.share(key, bytes);
        } else if self.warned.is_first(key) {
            let (name, bytes) = (&self.name, bytes.len());
            tracing::warn!(name, key, bytes, "a good value is too large to be kept");
        }
    }

    /// Writes a value for the fleet, in the background.
    fn share(&self, key: &str, bytes: Arc<[u8]>) {
        let Some(fleet) = &self.fleet else { return };
        let fits = bytes.len() <= LARGEST_VALUE
            && size_in_group(key, bytes.len()) <= fleet.most
            && (key.len() + bytes.len()) as u64 <= fleet.most_waiting;
        if fits {
            fleet.writes.put(key, bytes);
        } else if self.warned.is_first(key) {
            let (name, bytes) = (&self.name, bytes.len());
            tracing::warn!(
                name,
                key,
                bytes,
                "a good value is too large for the store: it is kept in this process only"
            );
        }
    }

    /// The newest value that this process has or, if that is not fresh, that the fleet has.
    pub(super) async fn newest<T: DeserializeOwned>(&self, key: &str) -> Option<Found<T>> {
        let now = self.clock.unix_ms();
        let (mut own, due) = self.copies.lock().look(key, now);
        let mut theirs = None;
        if due && let Some(fleet) = self.fleet() {
            let ask = || self.ask(fleet, key, read::<T>);
            match Copies::question(&self.copies, key, &self.clock, ask) {
                Ok(question) => theirs = Some(question.await),
                Err(answered) => own = answered,
            }
        }
        let newer = |theirs: &Entry| own.as_ref().is_none_or(|own| own.at_ms < theirs.at_ms);
        let (entry, from) = match theirs {
            Some(Reply::Entry(theirs))
                if newer(&theirs) && age(theirs.at_ms, now) <= self.bounds.ttl =>
            {
                (theirs, Source::Fleet)
            }
            _ => (own?, Source::Process),
        };
        match rmp_serde::from_slice::<(u64, T)>(&entry.bytes) {
            Ok((at_ms, value)) => Some(Found {
                value,
                age: age(at_ms, now),
                from,
            }),
            Err(error) => {
                tracing::warn!(name = self.name, key, %error, "a kept value cannot be read");
                None
            }
        }
    }

    /// The fleet, unless its store is known to be unavailable.
    fn fleet(&self) -> Option<&Fleet> {
        let fleet = self.fleet.as_ref()?;
        (fleet.circuits.health().unavailable_for.is_none()).then_some(fleet)
    }

    /// Asks the fleet for its value.
    fn ask(&self, fleet: &Fleet, key: &str, read: Read) -> BoxFuture<'static, Reply> {
        let (store, group) = (fleet.circuits.store(), fleet.group.clone());
        let (name, key) = (self.name.clone(), key.to_owned());
        async move {
            let bytes = match store.kept_in(&group, &key).await {
                Ok(Some(bytes)) => Arc::<[u8]>::from(bytes),
                Ok(None) => return Reply::Nothing,
                Err(error) => {
                    let error = in_words(&error);
                    tracing::debug!(name, key, error, "the fleet cannot be asked");
                    return Reply::Unknown;
                }
            };
            match read(&bytes) {
                Ok(at_ms) => Reply::Entry(Entry {
                    at_ms,
                    bytes,
                    asked_ms: None,
                }),
                Err(error) => {
                    tracing::warn!(name, key, %error, "a kept value cannot be read");
                    Reply::Nothing
                }
            }
        }
        .boxed()
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        if let Some(fleet) = &self.fleet {
            fleet.writes.leave();
        }
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<u64, rmp_serde::decode::Error> {
    rmp_serde::from_slice::<(u64, T)>(bytes).map(|(at_ms, _)| at_ms)
}
