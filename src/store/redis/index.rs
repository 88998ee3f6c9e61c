//! This process' places in the index of circuits.
//!
//! Owns when a place is renewed. The index is in another slot than the circuits, so the scripts
//! cannot write to it.

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

use super::{Inner, StoreError};
use crate::model::{Name, Snapshot};

/// How often a circuit's place in the index is renewed.
const INDEX_EVERY_MS: u64 = 60_000;
/// How long the index remembers a circuit that is not used.
const INDEX_KEEPS_MS: u64 = 30 * 86_400_000;

/// The places in the index that this process has renewed.
#[derive(Default)]
pub(super) struct Indexed {
    places: HashMap<Name, Place>,
    /// When places that are no longer renewed were last dropped, by Redis' clock.
    pruned_at: u64,
}

/// A circuit's place in the index, as this process last renewed it.
#[derive(Clone, Copy)]
struct Place {
    /// When the place was renewed, by Redis' clock.
    at: u64,
    /// When the circuit entered its state. A change means a transition, or that the circuit was
    /// lost and started again, perhaps along with the index.
    since: u64,
}

impl Place {
    const fn of(seen: &Snapshot) -> Self {
        Self {
            at: seen.now_ms,
            since: seen.since_ms,
        }
    }

    const fn holds(self, now: Self) -> bool {
        self.since == now.since && now.at.abs_diff(self.at) < INDEX_EVERY_MS
    }
}

impl Inner {
    /// Renews places in the index. No caller waits for that, because the index may be on another
    /// server.
    pub(super) fn index<'a>(
        self: &Arc<Self>,
        seen: impl Iterator<Item = (&'a Name, &'a Snapshot)>,
    ) {
        let due: Vec<(Name, Place)> = {
            let indexed = self.indexed.lock();
            let known = |name, now: Place| indexed.places.get(name).is_some_and(|p| p.holds(now));
            let places = seen.map(|(name, snapshot)| (name, Place::of(snapshot)));
            let due = places.filter(|(name, now)| !known(*name, *now));
            due.map(|(name, now)| (name.clone(), now)).collect()
        };
        if !due.is_empty() {
            let inner = Arc::clone(self);
            tokio::spawn(async move { inner.write_index(due).await });
        }
    }

    /// Removes a circuit: first all its keys, in one step, then its place in the index. Between the
    /// two steps it is listed but missing, like a circuit that Redis has lost.
    pub(super) async fn remove(&self, name: &Name) -> Result<(), StoreError> {
        let mut delete = redis::cmd("DEL");
        delete
            .arg(&self.prefix.all(name))
            .arg(self.prefix.alerts(name));
        self.command::<u64>(delete).await?;
        let mut forget = redis::cmd("ZREM");
        forget.arg(self.prefix.index()).arg(name.as_str());
        self.command::<u64>(forget).await?;
        self.indexed.lock().places.remove(name);
        Ok(())
    }

    async fn write_index(&self, due: Vec<(Name, Place)>) {
        let key = self.prefix.index();
        let mut add = redis::cmd("ZADD");
        add.arg(&key);
        let mut newest = 0;
        for (name, now) in &due {
            add.arg(now.at).arg(name.as_str());
            newest = newest.max(now.at);
        }
        let mut forget = redis::cmd("ZREMRANGEBYSCORE");
        let forgotten = newest.saturating_sub(INDEX_KEEPS_MS);
        forget.arg(&key).arg("-inf").arg(forgotten);
        let mut keep = redis::cmd("PEXPIRE");
        keep.arg(&key).arg(INDEX_KEEPS_MS);
        let deadline = Instant::now() + self.timeout;
        let answers = self.send(&[add, forget, keep], true, deadline).await;
        if answers.is_ok_and(|answers| answers.iter().all(Result::is_ok)) {
            let Indexed { places, pruned_at } = &mut *self.indexed.lock();
            places.extend(due);
            if newest.abs_diff(*pruned_at) >= INDEX_EVERY_MS {
                *pruned_at = newest;
                places.retain(|_, place| newest.abs_diff(place.at) < 2 * INDEX_EVERY_MS);
            }
        }
    }
}
