//! Where good values are kept: in the process, and for the fleet in the store.
//!
//! Owns the bounds, the pace and the bytes; knows nothing of calls. Invariant: the store is never waited
//! for but by [`Kept::newest`], and then no longer than the store's own timeout.

use std::{sync::Arc, time::Duration};

use moka::{policy::EvictionPolicy, sync::Cache};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

use super::Source;
use crate::{Clock, Commontrip, model::millis, store::in_words};

/// Writes under way at the most: of more, some keys' turn comes a little later.
const WRITES: usize = 16;

/// One good value.
#[derive(Clone)]
struct Entry {
    /// When it was learnt, Unix ms by the clock of who learnt it.
    at_ms: u64,
    /// The time and the value as `MessagePack`.
    bytes: Arc<[u8]>,
}

/// A value that was found.
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) age: Duration,
    pub(super) from: Source,
}

pub(super) struct Kept {
    pub(super) name: String,
    pub(super) ttl: Duration,
    pub(super) refresh: Duration,
    pub(super) max_entry_bytes: usize,
    pub(super) clock: Clock,
    entries: Cache<String, Entry>,
    /// Keys that the fleet was asked for within `refresh`.
    asked: Cache<String, ()>,
    fleet: Option<Fleet>,
}

struct Fleet {
    circuits: Commontrip,
    writes: Arc<Semaphore>,
}

impl Kept {
    pub(super) fn new(
        name: String,
        (ttl, refresh): (Duration, Duration),
        (max_entries, max_entry_bytes): (u64, usize),
        clock: Clock,
        circuits: Option<Commontrip>,
    ) -> Self {
        let cache = |most, lives| {
            let cache = Cache::builder().max_capacity(most).time_to_live(lives);
            cache.eviction_policy(EvictionPolicy::lru())
        };
        Self {
            name,
            ttl,
            refresh,
            max_entry_bytes,
            clock,
            entries: cache(max_entries, ttl).build(),
            asked: Cache::builder()
                .max_capacity(max_entries)
                .time_to_live(refresh)
                .build(),
            fleet: circuits.map(|circuits| Fleet {
                circuits,
                writes: Arc::new(Semaphore::new(WRITES)),
            }),
        }
    }

    /// Keeps a value, unless one of this key that is younger than `refresh` is kept.
    pub(super) fn keep<T: Serialize>(&self, key: &str, value: &T) {
        let now = self.clock.unix_ms();
        let refresh_ms = millis(self.refresh);
        let known = self.entries.get(key);
        if known.is_some_and(|entry| now.abs_diff(entry.at_ms) < refresh_ms) {
            return;
        }
        // With the names of fields, so that a type that has changed is not taken for another.
        let bytes = match rmp_serde::to_vec_named(&(now, value)) {
            Ok(bytes) if bytes.len() <= self.max_entry_bytes => Arc::<[u8]>::from(bytes),
            Ok(bytes) => {
                let (name, bytes) = (&self.name, bytes.len());
                tracing::debug!(name, key, bytes, "a good value is too large to be kept");
                return;
            }
            Err(error) => {
                tracing::warn!(name = self.name, key, %error, "a good value cannot be encoded");
                return;
            }
        };
        let entry = Entry {
            at_ms: now,
            bytes: Arc::clone(&bytes),
        };
        self.entries.insert(key.to_owned(), entry);
        self.share(key, bytes);
    }

    /// Has the fleet keep a value, in the background.
    fn share(&self, key: &str, bytes: Arc<[u8]>) {
        let Some(fleet) = &self.fleet else { return };
        let Ok(turn) = Arc::clone(&fleet.writes).try_acquire_owned() else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (store, ttl_ms) = (fleet.circuits.store(), millis(self.ttl));
        let key = self.fleets_key(key);
        runtime.spawn(async move {
            if let Err(error) = store.keep(&key, &bytes, ttl_ms).await {
                let error = in_words(&error);
                tracing::debug!(key, error, "a good value is not kept for the fleet");
            }
            drop(turn);
        });
    }

    /// The newest value that is known here or, where there is no young one, to the fleet.
    pub(super) async fn newest<T: DeserializeOwned>(&self, key: &str) -> Option<Found<T>> {
        let now = self.clock.unix_ms();
        let own = self.entries.get(key);
        let own = own.filter(|entry| self.age(entry.at_ms, now) <= self.ttl);
        let young = |entry: &Entry| self.age(entry.at_ms, now) <= self.refresh;
        if !own.as_ref().is_some_and(young)
            && let Some((entry, value)) = self.ask_fleet::<T>(key).await
            && self.age(entry.at_ms, now) <= self.ttl
            && own.as_ref().is_none_or(|own| own.at_ms < entry.at_ms)
        {
            let age = self.age(entry.at_ms, now);
            if entry.bytes.len() <= self.max_entry_bytes {
                self.entries.insert(key.to_owned(), entry);
            }
            let from = Source::Fleet;
            return Some(Found { value, age, from });
        }
        let own = own?;
        let (_, value) = self.decode(key, &own.bytes)?;
        Some(Found {
            value,
            age: self.age(own.at_ms, now),
            from: Source::Process,
        })
    }

    /// What the fleet has, unless it was asked within `refresh` or its store is known to be away.
    async fn ask_fleet<T: DeserializeOwned>(&self, key: &str) -> Option<(Entry, T)> {
        let circuits = &self.fleet.as_ref()?.circuits;
        if self.asked.contains_key(key) || circuits.health().away_for.is_some() {
            return None;
        }
        let answer = circuits.store().kept(&self.fleets_key(key)).await;
        // Not before: who asks at the same time is to have the answer too.
        self.asked.insert(key.to_owned(), ());
        let bytes = match answer {
            Ok(bytes) => Arc::<[u8]>::from(bytes?),
            Err(error) => {
                let error = in_words(&error);
                tracing::debug!(name = self.name, key, error, "the fleet cannot be asked");
                return None;
            }
        };
        let (at_ms, value) = self.decode(key, &bytes)?;
        Some((Entry { at_ms, bytes }, value))
    }

    fn decode<T: DeserializeOwned>(&self, key: &str, bytes: &[u8]) -> Option<(u64, T)> {
        match rmp_serde::from_slice(bytes) {
            Ok(decoded) => Some(decoded),
            Err(error) => {
                tracing::warn!(name = self.name, key, %error, "a kept value cannot be read");
                None
            }
        }
    }

    /// How old a value is; 0 where whose clock it was is ahead.
    fn age(&self, at_ms: u64, now: u64) -> Duration {
        Duration::from_millis(now.saturating_sub(at_ms))
    }

    fn fleets_key(&self, key: &str) -> String {
        format!("last-good:{}:{key}", self.name)
    }
}
