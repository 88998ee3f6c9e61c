//! A queue's settings, and how a job gets in.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde::Serialize;
use tokio::sync::watch;

use super::{JobId, Queue, QueueError, Shared, scripts::Scripts};
use crate::{
    RedisStore,
    model::{Name, millis},
};

/// The longest idempotency key, bytes.
const LONGEST_KEY: usize = 500;
/// The largest limit that the scripts read.
const MOST: u64 = 1_000_000_000_000;
/// How often a queue is entered in the index again.
const INDEX_EVERY_MS: u64 = 60_000;

/// What derives an idempotency key from a job.
pub(super) type KeyOf<T> = Arc<dyn Fn(&T) -> String + Send + Sync>;

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    most: u64,
    most_bytes: usize,
    ttl: Option<Duration>,
    pub(super) keep: Duration,
    pub(super) most_dead: u64,
    pub(super) patience: Duration,
}

/// Says what a queue keeps.
#[must_use]
pub struct QueueBuilder<T> {
    store: RedisStore,
    name: String,
    settings: Settings,
    key_of: Option<KeyOf<T>>,
}

impl<T> fmt::Debug for QueueBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueBuilder")
            .field("name", &self.name)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<T> QueueBuilder<T> {
    pub(super) fn new(store: RedisStore, name: &str) -> Self {
        let settings = Settings {
            most: 10_000,
            most_bytes: 64 * 1024,
            ttl: None,
            keep: Duration::from_secs(3600),
            most_dead: 1000,
            patience: Duration::from_secs(1),
        };
        Self {
            store,
            name: name.to_owned(),
            settings,
            key_of: None,
        }
    }

    /// How many jobs there may be at once, dead ones aside; more are refused.
    ///
    /// At least 1, default 10,000.
    pub const fn max_size(mut self, jobs: u64) -> Self {
        self.settings.most = jobs;
        self
    }

    /// How large a job may be, in bytes of MessagePack; a larger one is refused.
    ///
    /// At least 1, default 64 KiB.
    pub const fn max_job_bytes(mut self, bytes: usize) -> Self {
        self.settings.most_bytes = bytes;
        self
    }

    /// How many dead letters are kept; of more the oldest is lost.
    ///
    /// At least 1, default 1000.
    pub const fn max_dead(mut self, jobs: u64) -> Self {
        self.settings.most_dead = jobs;
        self
    }

    /// For how long a job is worth running; one that is older becomes a dead letter. Default: for ever.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = Some(ttl);
        self
    }

    /// How long the idempotency key of a job that is done is remembered. Default one hour.
    pub const fn keep(mut self, keep: Duration) -> Self {
        self.settings.keep = keep;
        self
    }

    /// Gives each job the idempotency key that this derives from it; 1 to 500 bytes. By default a job has none.
    pub fn key_of(mut self, key_of: impl Fn(&T) -> String + Send + Sync + 'static) -> Self {
        self.key_of = Some(Arc::new(key_of));
        self
    }

    /// How long to wait for Redis at one operation, at most a year. Default one second; the store's
    /// own timeout, where that is longer.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.patience = timeout;
        self
    }

    /// Makes the queue. Connects to nothing.
    ///
    /// # Errors
    /// [`QueueError::Name`] when no queue can have that name, [`QueueError::Setting`] when a limit is 0.
    pub fn build(self) -> Result<Queue<T>, QueueError> {
        let Settings {
            most,
            most_bytes,
            most_dead,
            ..
        } = self.settings;
        for (setting, zero) in [
            ("max_size", most == 0),
            ("max_job_bytes", most_bytes == 0),
            ("max_dead", most_dead == 0),
        ] {
            if zero {
                let range = "at least 1";
                return Err(QueueError::Setting { setting, range });
            }
        }
        let settings = Settings {
            most: most.min(MOST),
            most_dead: most_dead.min(MOST),
            ..self.settings
        };
        Ok(Queue(Arc::new(Shared {
            store: self.store,
            name: Name::new(&self.name)?,
            settings,
            key_of: self.key_of,
            scripts: Scripts::new(),
            enqueued: watch::channel(0).0,
            indexed_ms: 0.into(),
        })))
    }
}

/// How one job is to be kept.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Enqueue {
    key: Option<String>,
    delay: Duration,
    ttl: Option<Duration>,
}

impl Enqueue {
    /// As the queue says.
    pub fn new() -> Self {
        Self::default()
    }

    /// With this idempotency key, 1 to 500 bytes: while a job with the same key is in the queue (dead ones aside), and for
    /// [`keep`](QueueBuilder::keep) after it is done, no other is taken in.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Not to be run before so long from now.
    pub const fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Worth running for so long from now; then it becomes a dead letter.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// A job as the script takes it: ID, payload, key, delay, time to live.
#[derive(Debug)]
pub(super) struct Encoded {
    payload: Vec<u8>,
    key: String,
    delay_ms: u64,
    ttl_ms: u64,
}

impl<T: Serialize> Queue<T> {
    pub(super) fn encode(&self, job: &T, options: Enqueue) -> Result<Encoded, QueueError> {
        let settings = &self.0.settings;
        let payload = rmp_serde::to_vec_named(job)?;
        if payload.len() > settings.most_bytes {
            return Err(QueueError::TooLarge {
                bytes: payload.len(),
                most: settings.most_bytes,
            });
        }
        let derived = || self.0.key_of.as_ref().map(|key_of| key_of(job));
        let key = options.key.or_else(derived);
        if let Some(length) = key.as_ref().map(String::len)
            && (length == 0 || length > LONGEST_KEY)
        {
            return Err(QueueError::Key(length));
        }
        Ok(Encoded {
            payload,
            key: key.unwrap_or_default(),
            delay_ms: millis(options.delay),
            ttl_ms: options
                .ttl
                .or(settings.ttl)
                .map_or(0, |ttl| millis(ttl).max(1)),
        })
    }
}

impl<T> Queue<T> {
    pub(super) async fn keep(&self, job: Encoded) -> Result<JobId, QueueError> {
        let shared = &self.0;
        let Settings {
            most, most_dead, ..
        } = shared.settings;
        let id = JobId::new();
        let request = (
            id.as_str(),
            &job.key,
            job.delay_ms,
            job.ttl_ms,
            most,
            most_dead,
        );
        let script = &shared.scripts.enqueue;
        let answer = shared.ask_with(script, &request, job.payload);
        let (id, size, now_ms): (String, u64, u64) =
            answer.await?.ok_or_else(super::inspect::unanswered)?;
        if id.is_empty() {
            return Err(QueueError::Full { size, most });
        }
        shared.enqueued.send_modify(|n| *n = n.wrapping_add(1));
        self.index(now_ms);
        Ok(JobId::of(id))
    }

    /// Enters the queue in the index of queues now and then; nobody waits for it.
    fn index(&self, now_ms: u64) {
        let before = self.0.indexed_ms.load(Ordering::Relaxed);
        if now_ms.abs_diff(before) < INDEX_EVERY_MS {
            return;
        }
        self.0.indexed_ms.store(now_ms, Ordering::Relaxed);
        let (store, name) = (self.0.store.clone(), self.0.name.clone());
        tokio::spawn(async move {
            if let Err(error) = store.enter_queue(&name, now_ms).await {
                tracing::debug!(%error, queue = %name, "the queue was not entered in the index");
            }
        });
    }
}
