//! A queue's settings, and how a job is enqueued.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde::Serialize;
use tokio::sync::watch;

use super::{
    JobId, Queue, QueueError, Shared,
    memory::New,
    place::{Memory, Place},
    scripts::{Redis, Scripts},
};
use crate::{
    RedisStore,
    model::{Name, millis},
};

/// The longest idempotency key, bytes.
const LONGEST_KEY: usize = 500;
/// The largest limit that the scripts read.
const MOST: u64 = 1_000_000_000_000;
/// How often a queue is added to the index again.
const INDEX_EVERY_MS: u64 = 60_000;

/// Derives an idempotency key from a job.
pub(super) type KeyOf<T> = Arc<dyn Fn(&T) -> String + Send + Sync>;

#[derive(Clone, Copy, Debug)]
pub(super) struct QueueSettings {
    most: u64,
    most_bytes: usize,
    ttl: Option<Duration>,
    pub(super) keep: Duration,
    pub(super) most_dead: u64,
    pub(super) patience: Duration,
}

/// Configures a queue.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use commontrip::{RedisStore, queue::Queue};
///
/// let store = RedisStore::builder().open("redis://127.0.0.1:6379")?;
/// let ads = Queue::<String>::builder(&store, "ads")
///     .max_size(10_000)
///     .ttl(Duration::from_secs(86_400))
///     .key_of(|ad| ad.clone())
///     .build()?;
/// # Ok(()) }
/// ```
#[must_use]
pub struct QueueBuilder<T> {
    /// `None`: the jobs are in this process.
    store: Option<RedisStore>,
    name: String,
    settings: QueueSettings,
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
    pub(super) fn new(store: Option<RedisStore>, name: &str) -> Self {
        let settings = QueueSettings {
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

    /// Sets how many jobs the queue may have at once, not counting dead letters; further ones are
    /// rejected.
    ///
    /// At least 1, default 10,000.
    pub const fn max_size(mut self, jobs: u64) -> Self {
        self.settings.most = jobs;
        self
    }

    /// Sets how large a job may be, in bytes of MessagePack; larger ones are rejected.
    ///
    /// At least 1, default 64 KiB.
    pub const fn max_job_bytes(mut self, bytes: usize) -> Self {
        self.settings.most_bytes = bytes;
        self
    }

    /// Sets how many dead letters are kept; beyond that, the oldest is discarded.
    ///
    /// At least 1, default 1000.
    pub const fn max_dead(mut self, jobs: u64) -> Self {
        self.settings.most_dead = jobs;
        self
    }

    /// Sets for how long a job is worth running; an older one becomes a dead letter. By default a
    /// job never expires.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = Some(ttl);
        self
    }

    /// Sets how long the idempotency key of a done job is remembered. Default one hour.
    pub const fn keep(mut self, keep: Duration) -> Self {
        self.settings.keep = keep;
        self
    }

    /// Derives each job's idempotency key from the job; 1 to 500 bytes. By default a job has none.
    pub fn key_of(mut self, key_of: impl Fn(&T) -> String + Send + Sync + 'static) -> Self {
        self.key_of = Some(Arc::new(key_of));
        self
    }

    /// Sets how long one operation waits for Redis, at most a year. Default one second, or the
    /// store's own timeout where that is longer.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.patience = timeout;
        self
    }

    /// Builds the queue. Connects to nothing.
    ///
    /// # Errors
    /// [`QueueError::Name`] when the name is invalid, [`QueueError::Setting`] when a limit is 0.
    pub fn build(self) -> Result<Queue<T>, QueueError> {
        let QueueSettings {
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
        let settings = QueueSettings {
            most: most.min(MOST),
            most_dead: most_dead.min(MOST),
            ..self.settings
        };
        let name = Name::new(&self.name)?;
        let place = match self.store {
            Some(store) => Place::Redis(Box::new(Redis {
                store,
                name: name.clone(),
                patience: settings.patience,
                scripts: Scripts::new(),
            })),
            None => {
                tracing::warn!(queue = %name, "the queue is in this process' memory: its jobs are lost when the process ends");
                Place::Memory(Box::new(Memory::new()))
            }
        };
        Ok(Queue(Arc::new(Shared {
            place,
            name,
            settings,
            key_of: self.key_of,
            enqueued: watch::channel(0).0,
            indexed_ms: 0.into(),
        })))
    }
}

/// Options of one job.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use commontrip::{RedisStore, queue::{Enqueue, Queue}};
///
/// let store = RedisStore::builder().open("redis://127.0.0.1:6379")?;
/// let ads = Queue::<String>::builder(&store, "ads").build()?;
/// let later = Enqueue::new().key("ad-7").delay(Duration::from_secs(60));
/// ads.enqueue_with(&"a bicycle".to_owned(), later).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Enqueue {
    key: Option<String>,
    delay: Duration,
    ttl: Option<Duration>,
}

impl Enqueue {
    /// Starts from the queue's settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the idempotency key, 1 to 500 bytes. While a job with the same key is in the queue
    /// (except as a dead letter), and for [`keep`](QueueBuilder::keep) after it is done, no other
    /// job with that key is added.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets a delay, from now, before which the job does not run.
    pub const fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Sets for how long, from now, the job is worth running; after that it becomes a dead letter.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// An encoded job: payload, key, delay, time to live.
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
        let QueueSettings {
            most, most_dead, ..
        } = shared.settings;
        let id = JobId::new();
        let new = New {
            id: id.as_str(),
            key: &job.key,
            delay_ms: job.delay_ms,
            ttl_ms: job.ttl_ms,
            payload: job.payload,
        };
        let (id, size, now_ms) = shared.place.enqueue(new, most, most_dead).await?;
        if id.is_empty() {
            return Err(QueueError::Full { size, most });
        }
        shared.enqueued.send_modify(|n| *n = n.wrapping_add(1));
        self.index(now_ms);
        Ok(JobId::of(id))
    }

    /// Adds the queue to the index of queues from time to time, in the background.
    fn index(&self, now_ms: u64) {
        let Place::Redis(redis) = &self.0.place else {
            return;
        };
        let before = self.0.indexed_ms.load(Ordering::Relaxed);
        if now_ms.abs_diff(before) < INDEX_EVERY_MS {
            return;
        }
        self.0.indexed_ms.store(now_ms, Ordering::Relaxed);
        let (store, name) = (redis.store.clone(), self.0.name.clone());
        tokio::spawn(async move {
            if let Err(error) = store.enter_queue(&name, now_ms).await {
                tracing::debug!(%error, queue = %name, "the queue could not be added to the index");
            }
        });
    }
}
