//! Background writes of values for the fleet.
//!
//! Owns the waiting values, their limit and the pace; a newer value replaces the waiting one of its
//! key. Invariant: a key has one write at a time, so that an older value never overtakes a newer
//! one.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use super::warned::Warned;
use crate::{
    breaker::Unfinished,
    store::{Store, StoreError, in_words},
};

/// Concurrent writes.
const AT_ONCE: usize = 16;
/// How long one write may take; no caller waits for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a write is tried while the store is unavailable, and the first pause between tries;
/// each pause is twice the one before.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How long writing continues after the last handle to the values is dropped.
pub(super) const AFTER_DROP: Duration = Duration::from_secs(5);

pub(super) struct Writes {
    name: String,
    group: String,
    store: Arc<dyn Store>,
    ttl_ms: u64,
    /// Limits in bytes: of waiting values, and of values that the fleet keeps.
    most_waiting: u64,
    most_kept: u64,
    warned: Arc<Warned>,
    state: Mutex<State>,
    idle: Notify,
    lost: AtomicU64,
    said: AtomicBool,
}

#[derive(Default)]
struct State {
    waiting: HashMap<Arc<str>, Arc<[u8]>>,
    bytes: u64,
    /// Keys to be written next; a key that is being written rejoins only after its write ends.
    turns: VecDeque<Arc<str>>,
    writing: HashSet<Arc<str>>,
    writers: usize,
    /// Writes that ended without an answer, because their writer was dropped.
    broken: u64,
    /// Until when writing continues.
    until: Option<Instant>,
}

fn size(key: &str, bytes: &[u8]) -> u64 {
    (key.len() + bytes.len()) as u64
}

impl State {
    fn put(&mut self, key: &str, bytes: Arc<[u8]>) {
        let key = Arc::<str>::from(key);
        self.bytes += size(&key, &bytes);
        match self.waiting.insert(Arc::clone(&key), bytes) {
            Some(older) => self.bytes -= size(&key, &older),
            None if self.writing.contains(&key) => {}
            None => self.turns.push_back(key),
        }
    }

    /// Drops the value that has waited longest.
    fn drop_one(&mut self) {
        let next = self.turns.pop_front();
        let key = next.or_else(|| self.waiting.keys().next().cloned());
        if let Some(key) = key {
            self.take(&key);
        }
    }

    fn take(&mut self, key: &str) -> Option<Arc<[u8]>> {
        let bytes = self.waiting.remove(key)?;
        self.bytes -= size(key, &bytes);
        Some(bytes)
    }

    fn next(&mut self) -> Option<(Arc<str>, Arc<[u8]>)> {
        let key = self.turns.pop_front()?;
        let bytes = self.take(&key)?;
        self.writing.insert(Arc::clone(&key));
        Some((key, bytes))
    }

    fn written(&mut self, key: &Arc<str>) {
        self.writing.remove(key);
        if self.waiting.contains_key(key) {
            self.turns.push_back(Arc::clone(key));
        }
    }

    /// Drops all waiting values. Returns how many there were, and how many were lost before by
    /// writers that did not finish.
    fn give_up(&mut self) -> (u64, u64) {
        self.turns.clear();
        self.bytes = 0;
        let waited = self.waiting.len() as u64;
        self.waiting.clear();
        (waited, std::mem::take(&mut self.broken))
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.writing.is_empty()
    }
}

impl Writes {
    pub(super) fn new(
        (name, group): (String, String),
        store: Arc<dyn Store>,
        ttl_ms: u64,
        (most_waiting, most_kept): (u64, u64),
        warned: Arc<Warned>,
    ) -> Self {
        Self {
            name,
            group,
            store: store.patient(PATIENCE).unwrap_or(store),
            ttl_ms,
            most_waiting,
            most_kept,
            warned,
            state: Mutex::default(),
            idle: Notify::new(),
            lost: AtomicU64::new(0),
            said: AtomicBool::new(false),
        }
    }

    /// How many values were not written.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Writes a value in the background; outside a runtime, does nothing.
    pub(super) fn put(self: &Arc<Self>, key: &str, bytes: Arc<[u8]>) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut dropped = 0;
        let mut state = self.state.lock();
        state.put(key, bytes);
        while state.bytes > self.most_waiting {
            state.drop_one();
            dropped += 1;
        }
        let more = state.writers < AT_ONCE && !state.turns.is_empty();
        state.writers += usize::from(more);
        drop(state);
        if more {
            runtime.spawn(Writer::new(Arc::clone(self)).run());
        }
        if dropped > 0 {
            self.lost.fetch_add(dropped, Ordering::Relaxed);
            if !self.said.swap(true, Ordering::Relaxed) {
                let (name, most) = (&self.name, self.most_waiting);
                tracing::warn!(
                    name,
                    most,
                    "more bytes of good values wait for the store than may; the ones that waited longest are dropped \
                     and not kept for the fleet (this is logged once)"
                );
            }
        }
    }

    /// Called when the last handle to the values is dropped.
    pub(super) fn leave(&self) {
        self.state.lock().until = Some(Instant::now() + AFTER_DROP);
    }

    /// Writes a value, and retries while the store is unavailable and no newer value waits.
    async fn write(&self, key: &Arc<str>, bytes: &[u8]) {
        let mut pause = FIRST_PAUSE;
        for tries in 1.. {
            let (group, ttl_ms, most) = (&self.group, self.ttl_ms, self.most_kept);
            let Err(error) = self.store.keep_in(group, key, bytes, ttl_ms, most).await else {
                return;
            };
            if tries == TRIES || !error.is_unavailable() || self.is_over() {
                return self.failed(key, &error);
            }
            sleep(pause).await;
            pause *= 2;
            if self.state.lock().waiting.contains_key(key) {
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        let until = self.state.lock().until;
        until.is_some_and(|until| Instant::now() >= until)
    }

    fn failed(&self, key: &str, error: &StoreError) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        let (name, error_words) = (&self.name, in_words(error));
        if matches!(error, StoreError::Invalid(_)) && self.warned.is_first(key) {
            tracing::warn!(
                name,
                key,
                error = error_words,
                "a good value is kept in this process only"
            );
        } else {
            tracing::debug!(
                name,
                key,
                error = error_words,
                "a good value is not kept for the fleet"
            );
        }
    }

    fn say_lost(&self, (waited, broken): (u64, u64)) {
        self.lost.fetch_add(waited, Ordering::Relaxed);
        let values = waited + broken;
        if values > 0 {
            tracing::warn!(
                name = self.name,
                values,
                "good values were not written for the fleet before the end"
            );
        }
    }
}

impl Unfinished for Writes {
    fn finish(&self, deadline: Instant) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let idle = async {
                loop {
                    let idle = self.idle.notified();
                    if self.state.lock().is_idle() {
                        return;
                    }
                    idle.await;
                }
            };
            if timeout_at(deadline, idle).await.is_err() {
                let mut state = self.state.lock();
                let values = state.give_up();
                drop(state);
                self.say_lost(values);
            }
        })
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        let values = self.state.get_mut().give_up();
        self.say_lost(values);
    }
}

/// A task that writes values one after the other.
struct Writer {
    writes: Arc<Writes>,
    /// The key being written.
    key: Option<Arc<str>>,
    retired: bool,
}

impl Writer {
    const fn new(writes: Arc<Writes>) -> Self {
        Self {
            writes,
            key: None,
            retired: false,
        }
    }

    async fn run(mut self) {
        while let Some((key, bytes)) = self.next() {
            self.key = Some(Arc::clone(&key));
            self.writes.write(&key, &bytes).await;
            self.key = None;
            self.writes.state.lock().written(&key);
        }
    }

    fn next(&mut self) -> Option<(Arc<str>, Arc<[u8]>)> {
        let mut state = self.writes.state.lock();
        let over = state.until.is_some_and(|until| Instant::now() >= until);
        let lost = if over { state.give_up() } else { (0, 0) };
        let next = state.next();
        if next.is_none() {
            // Under the same lock, so that the next `put` starts another writer.
            self.retired = true;
            state.writers -= 1;
        }
        let idle = state.is_idle();
        drop(state);
        self.writes.say_lost(lost);
        if idle {
            self.writes.idle.notify_waiters();
        }
        next
    }
}

/// Also runs when the store panics or the runtime shuts down.
impl Drop for Writer {
    fn drop(&mut self) {
        if self.retired {
            return;
        }
        let mut state = self.writes.state.lock();
        state.writers -= 1;
        if let Some(key) = self.key.take() {
            state.written(&key);
            state.broken += 1;
            self.writes.lost.fetch_add(1, Ordering::Relaxed);
        }
        let idle = state.is_idle();
        drop(state);
        if idle {
            self.writes.idle.notify_waiters();
        }
    }
}
