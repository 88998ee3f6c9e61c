//! A store that answers when a test permits it, and the warnings in the meantime.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use commontrip::model::Report;
use commontrip::store::{Answer, MemoryStore, Store, StoreError};
use commontrip::{Commontrip, Name, Snapshot};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::delegate::to_inner;

#[derive(Clone, Debug)]
pub struct Gated {
    inner: MemoryStore,
    pub seen: Arc<Seen>,
}

#[derive(Debug)]
pub struct Seen {
    /// Each permit lets one write or read through.
    pub gate: Semaphore,
    pub writes: AtomicU64,
    pub at_once: AtomicU64,
    pub most_at_once: AtomicU64,
    pub asked: AtomicU64,
    /// Whether the next read fails or panics once it is let through.
    pub fails: AtomicBool,
    pub panics: AtomicBool,
}

impl Gated {
    pub const OPEN: usize = Semaphore::MAX_PERMITS / 2;

    pub fn new(permits: usize) -> Self {
        let seen = Seen {
            gate: Semaphore::new(permits),
            writes: AtomicU64::new(0),
            at_once: AtomicU64::new(0),
            most_at_once: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            fails: AtomicBool::new(false),
            panics: AtomicBool::new(false),
        };
        Self {
            inner: MemoryStore::default(),
            seen: Arc::new(seen),
        }
    }

    pub fn replica(&self) -> Commontrip {
        Commontrip::builder().store(self.clone()).build().unwrap()
    }
}

impl Store for Gated {
    to_inner! { acquire release control snapshot events circuits ping listen }

    fn report<'a>(
        &'a self,
        batch: &'a [(Name, Report)],
    ) -> Answer<'a, Vec<Result<Snapshot, StoreError>>> {
        self.inner.report(batch)
    }

    fn keep<'a>(&'a self, key: &'a str, value: &'a [u8], for_ms: u64) -> Answer<'a, ()> {
        Box::pin(async move {
            let seen = &self.seen;
            let at_once = seen.at_once.fetch_add(1, SeqCst) + 1;
            seen.most_at_once.fetch_max(at_once, SeqCst);
            seen.gate.acquire().await.unwrap().forget();
            seen.at_once.fetch_sub(1, SeqCst);
            assert!(!seen.panics.swap(false, SeqCst), "as it was told to");
            seen.writes.fetch_add(1, SeqCst);
            self.inner.keep(key, value, for_ms).await
        })
    }

    fn kept<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            let seen = &self.seen;
            seen.asked.fetch_add(1, SeqCst);
            seen.gate.acquire().await.unwrap().forget();
            assert!(!seen.panics.swap(false, SeqCst), "as it was told to");
            if seen.fails.swap(false, SeqCst) {
                return Err(StoreError::Timeout(std::time::Duration::from_millis(1)));
            }
            self.inner.kept(key).await
        })
    }
}

/// The texts of warnings.
#[derive(Clone, Default)]
pub struct Warned(Arc<Mutex<Vec<String>>>);

impl Warned {
    /// Collects the warnings of this thread.
    pub fn listen(&self) -> DefaultGuard {
        // With a single subscriber, tracing would cache a warning that another thread emits first
        // as uninteresting.
        static OTHER: OnceLock<tracing::Dispatch> = OnceLock::new();
        OTHER.get_or_init(|| tracing::Dispatch::new(tracing_subscriber::registry()));
        let subscriber = tracing_subscriber::registry().with(self.clone());
        tracing::subscriber::set_default(subscriber)
    }

    pub fn count(&self, words: &str) -> usize {
        let all = self.0.lock();
        all.iter().filter(|said| said.contains(words)).count()
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Warned {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == tracing::Level::WARN {
            event.record(&mut self.clone());
        }
    }
}

impl Visit for Warned {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0.lock().push(format!("{value:?}"));
        }
    }
}
