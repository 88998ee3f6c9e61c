//! A process' own copies of good values, and its pending questions to the fleet.
//!
//! Owns the bounds, and that a key has one question at a time; knows nothing of encodings or
//! writes. Invariant: a question ends for all who wait for it, and is removed when it ends, whether
//! it was answered, failed, panicked or was dropped by all of them.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;

use super::lru::Lru;
use crate::{Clock, model::millis};

/// One good value.
#[derive(Clone)]
pub(super) struct Entry {
    /// When it was obtained, Unix ms by the clock of the replica that obtained it.
    pub(super) at_ms: u64,
    /// The time and the value, as `MessagePack`.
    pub(super) bytes: Arc<[u8]>,
    /// When the fleet was last asked and had no newer value, Unix ms by this process' clock.
    pub(super) asked_ms: Option<u64>,
}

/// The answer to a question.
#[derive(Clone)]
pub(super) enum Reply {
    Entry(Entry),
    /// The fleet has no value.
    Nothing,
    /// The fleet could not be asked.
    Unknown,
}

/// A pending question. Every waiter drives it, so that dropping one does not stop the others.
pub(super) type Question = Shared<BoxFuture<'static, Reply>>;

/// What is kept, and for how long.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) ttl: Duration,
    pub(super) refresh: Duration,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) entry_bytes: u64,
}

pub(super) struct Copies {
    bounds: Bounds,
    entries: Lru<Entry>,
    /// Keys for which the fleet had no value, and when it was asked.
    nothing: Lru<u64>,
    questions: HashMap<Arc<str>, (u64, WeakShared<BoxFuture<'static, Reply>>)>,
    asked: u64,
}

/// A value's age; 0 if the clock that dated it is ahead.
pub(super) const fn age(at_ms: u64, now: u64) -> Duration {
    Duration::from_millis(now.saturating_sub(at_ms))
}

impl Copies {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            entries: Lru::new(bounds.entries, bounds.bytes),
            // These entries have no bytes besides their keys.
            nothing: Lru::new(bounds.entries, bounds.bytes),
            questions: HashMap::new(),
            asked: 0,
        }
    }

    /// Whether a value of this many bytes can be kept under this key.
    pub(super) const fn takes(&self, key: &str, length: usize) -> bool {
        let length = length as u64;
        length <= self.bounds.entry_bytes && length + key.len() as u64 <= self.bounds.bytes
    }

    /// Whether the kept value was obtained within `refresh`.
    pub(super) fn is_fresh(&mut self, key: &str, now: u64) -> bool {
        let refresh_ms = millis(self.bounds.refresh);
        let known = self.entries.get(key);
        known.is_some_and(|entry| now.abs_diff(entry.at_ms) < refresh_ms)
    }

    /// Keeps a value.
    pub(super) fn keep(&mut self, key: &str, entry: Entry) {
        let bytes = (key.len() + entry.bytes.len()) as u64;
        self.nothing.remove(key);
        self.entries.insert(key, entry, bytes);
    }

    /// Returns this process' value unless it is too old, and whether to ask the fleet for a newer
    /// one.
    pub(super) fn look(&mut self, key: &str, now: u64) -> (Option<Entry>, bool) {
        let Bounds { ttl, refresh, .. } = self.bounds;
        let lately = |asked: u64| now.abs_diff(asked) < millis(refresh);
        let own = self.entries.get(key).cloned();
        let own = own.filter(|entry| age(entry.at_ms, now) <= ttl);
        let due = match &own {
            Some(own) => age(own.at_ms, now) > refresh && !own.asked_ms.is_some_and(lately),
            None => !self.nothing.get(key).is_some_and(|asked| lately(*asked)),
        };
        (own, due)
    }

    /// Records the fleet's answer.
    fn learn(&mut self, key: &str, reply: &Reply, now: u64) {
        if matches!(reply, Reply::Unknown) {
            return;
        }
        let own = self.entries.get(key).map(|own| {
            own.asked_ms = Some(now);
            own.at_ms
        });
        match reply {
            Reply::Entry(entry) if own.is_none_or(|at_ms| at_ms < entry.at_ms) => {
                if age(entry.at_ms, now) > self.bounds.ttl {
                    self.nothing.insert(key, now, key.len() as u64);
                } else if self.takes(key, entry.bytes.len()) {
                    let asked_ms = Some(now);
                    let entry = entry.clone();
                    self.keep(key, Entry { asked_ms, ..entry });
                }
            }
            Reply::Nothing if own.is_none() => self.nothing.insert(key, now, key.len() as u64),
            _ => {}
        }
    }

    /// Returns the key's pending question, or starts one; the process' own value if it is fresh by
    /// now.
    pub(super) fn question(
        copies: &Arc<Mutex<Self>>,
        key: &str,
        clock: &Clock,
        ask: impl FnOnce() -> BoxFuture<'static, Reply>,
    ) -> Result<Question, Option<Entry>> {
        let mut locked = copies.lock();
        // Another question may just have been answered.
        let (own, due) = locked.look(key, clock.unix_ms());
        if !due {
            return Err(own);
        }
        let under_way = locked.questions.get(key);
        if let Some(question) = under_way.and_then(|(_, question)| question.upgrade()) {
            return Ok(question);
        }
        locked.asked += 1;
        let (key, number) = (Arc::<str>::from(key), locked.asked);
        let asking = Asking {
            copies: Arc::clone(copies),
            key: Arc::clone(&key),
            number,
        };
        let (asked, clock) = (ask(), clock.clone());
        let question = async move {
            let reply = AssertUnwindSafe(asked).catch_unwind().await;
            let reply = reply.unwrap_or(Reply::Unknown);
            asking.end(|copies| copies.learn(&asking.key, &reply, clock.unix_ms()));
            reply
        };
        let question = question.boxed().shared();
        if let Some(weak) = question.downgrade() {
            locked.questions.insert(key, (number, weak));
        }
        Ok(question)
    }
}

/// A pending question's entry, which is removed however the question ends.
struct Asking {
    copies: Arc<Mutex<Copies>>,
    key: Arc<str>,
    number: u64,
}

impl Asking {
    fn end(&self, and: impl FnOnce(&mut Copies)) {
        let mut copies = self.copies.lock();
        and(&mut copies);
        if copies
            .questions
            .get(&self.key)
            .is_some_and(|(number, _)| *number == self.number)
        {
            copies.questions.remove(&self.key);
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.end(|_| {});
    }
}
