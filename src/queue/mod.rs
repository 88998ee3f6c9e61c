//! A retry queue: durable work for when a circuit is open, in Redis Streams.
//!
//! Owns what a job is and when it may run; the moves of a job between its places are scripts (`lua/queue`), the leave to
//! run it is a circuit's. Invariants: a job is in one place at a time; it runs at most once at a time; it is taken only
//! with a permit of the circuit in hand.
//!
//! - [`Queue::call`]: makes a call through a circuit, and keeps it as a job where it did not go through
//! - [`Queue::enqueue`]: keeps a job
//! - [`Queue::worker`]: runs jobs as the circuit permits
//! - [`Queue::stats`], [`list`](Queue::list), [`show`](Queue::show), [`retry`](Queue::retry), [`drop_job`](Queue::drop_job):
//!   looking at a queue and steering it
//!
//! ```no_run
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use commontrip::{Commontrip, Policy, RedisStore, queue::{Called, Job, Queue}};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Ad { id: u64, title: String }
//! # async fn publish(_: Ad) -> Result<(), std::io::Error> { Ok(()) }
//!
//! let store = RedisStore::builder().open("redis://127.0.0.1:6379")?;
//! let circuits = Commontrip::builder().store(store.clone()).build()?;
//! let api = circuits.circuit("ad-api", Policy::default())?;
//! let ads = Queue::builder(&store, "ads").key_of(|ad: &Ad| format!("ad-{}", ad.id)).build()?;
//!
//! match ads.call(&api, Ad { id: 7, title: "a bike".to_owned() }, publish).await? {
//!     Called::Done(()) => println!("published"),
//!     Called::Queued(id) => println!("will be published: job {id}"),
//! }
//!
//! let worker = ads.worker(&api, |job: Job<Ad>| publish(job.body)).concurrency(4);
//! worker.run(async { let _ = tokio::signal::ctrl_c().await; }).await;
//! # Ok(()) }
//! ```

mod builder;
mod call;
mod error;
mod inspect;
mod job;
mod run;
mod scripts;
mod worker;

use std::{fmt, sync::Arc};

use serde::Serialize;
use tokio::sync::watch;

use self::scripts::Scripts;
pub use self::{
    builder::{Enqueue, QueueBuilder},
    call::{Called, Failure},
    error::{NotCalled, QueueError},
    inspect::queues,
    job::{Job, JobId, JobState, JobView, QueueStats},
    worker::Worker,
};
use crate::{RedisStore, model::Name};

/// A queue of jobs of one kind, shared by every process that uses its name on the same store.
///
/// Cheap to clone. Clones wake each other's workers at once; workers of other processes, and of a queue that was built a
/// second time, look once in [`poll`](Worker::poll). `T` is written as MessagePack with the names of its fields, so that
/// fields with a default may come and go between releases.
pub struct Queue<T>(Arc<Shared<T>>);

struct Shared<T> {
    store: RedisStore,
    name: Name,
    settings: builder::Settings,
    key_of: Option<builder::KeyOf<T>>,
    scripts: Scripts,
    /// How many jobs this process has enqueued, which wakes workers.
    enqueued: watch::Sender<u64>,
    /// When the queue was last entered in the index, Unix ms by Redis' clock.
    indexed_ms: std::sync::atomic::AtomicU64,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

impl<T> Queue<T> {
    /// Starts from the defaults: a queue of this name on the connection of this store.
    ///
    /// A name is as a circuit's: 1 to 200 bytes, no control characters, no braces.
    pub fn builder(store: &RedisStore, name: &str) -> QueueBuilder<T> {
        QueueBuilder::new(store.clone(), name)
    }

    /// The queue's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name.as_str()
    }
}

impl<T: Serialize> Queue<T> {
    /// Keeps a job until a worker has run it; its ID.
    ///
    /// Where a job with the same idempotency key is in the queue, or was done within [`keep`](QueueBuilder::keep), that one
    /// counts, and its ID is returned.
    ///
    /// # Errors
    /// [`QueueError::Full`], [`QueueError::TooLarge`], [`QueueError::Unencodable`], [`QueueError::Key`]; and
    /// [`QueueError::Store`] when the store did not confirm: the job may be in the queue all the same. With an idempotency
    /// key it can be enqueued again without harm.
    pub async fn enqueue(&self, job: &T) -> Result<JobId, QueueError> {
        self.enqueue_with(job, Enqueue::new()).await
    }

    /// [`enqueue`](Self::enqueue) with a key, a delay or a time to live of its own.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub async fn enqueue_with(&self, job: &T, options: Enqueue) -> Result<JobId, QueueError> {
        self.keep(self.encode(job, options)?).await
    }
}
