//! A retry queue: durable work for when a circuit is open, in Redis Streams.
//!
//! Owns what a job is and when it may run. Scripts (`lua/queue`) move jobs between places, or
//! `memory` does for a queue in the process; a circuit permits each run. Invariants: a job is in
//! one place at a time; it runs at most once at a time; a worker takes it only while it holds a
//! permit of the circuit.
//!
//! - [`Queue::call`]: makes a call through a circuit, and keeps it as a job if it does not succeed
//! - [`Queue::enqueue`]: keeps a job
//! - [`Queue::worker`]: runs jobs as the circuit permits
//! - [`Queue::stats`], [`list`](Queue::list), [`show`](Queue::show), [`retry`](Queue::retry),
//!   [`drop_job`](Queue::drop_job): inspect and control a queue
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

mod backoff;
mod builder;
mod call;
#[cfg(any(feature = "metrics", feature = "otel"))]
mod depth;
mod error;
mod inspect;
mod job;
mod memory;
mod place;
mod run;
mod scripts;
mod worker;

use std::{fmt, sync::Arc};

use serde::Serialize;
use tokio::sync::watch;

#[cfg(any(feature = "metrics", feature = "otel"))]
pub(crate) use self::depth::Depth;
use self::place::Place;
pub use self::{
    backoff::Backoff,
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
/// Cheap to clone. Clones wake each other's workers immediately. Workers of other processes, and of
/// a queue that was built a second time, look for jobs once every [`poll`](Worker::poll). `T` is
/// encoded as MessagePack with its field names, so that fields with a default can be added and
/// removed between releases.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{RedisStore, queue::Queue};
///
/// let store = RedisStore::builder().open("redis://127.0.0.1:6379")?;
/// let ads = Queue::<String>::builder(&store, "ads").build()?;
/// let id = ads.enqueue(&"a bicycle".to_owned()).await?;
/// println!("{id}");
/// # Ok(()) }
/// ```
pub struct Queue<T>(Arc<Shared<T>>);

struct Shared<T> {
    place: Place,
    name: Name,
    settings: builder::QueueSettings,
    key_of: Option<builder::KeyOf<T>>,
    /// How many jobs this process has enqueued; a change wakes workers.
    enqueued: watch::Sender<u64>,
    /// When the queue was last added to the index, Unix ms by Redis' clock.
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
    /// Starts a queue of this name on this store's connection, with the defaults.
    ///
    /// A name follows the rules of circuit names: 1 to 200 bytes, no control characters, no braces.
    pub fn builder(store: &RedisStore, name: &str) -> QueueBuilder<T> {
        QueueBuilder::new(Some(store.clone()), name)
    }

    /// Starts a queue in this process, for programs without Redis, with the defaults.
    ///
    /// It behaves like a queue in Redis, but only clones of this queue share its jobs: a second
    /// queue of the same name has its own. **Jobs are lost when the process ends** or the last
    /// clone is dropped; a log line warns of this when the queue is built.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use commontrip::queue::Queue;
    ///
    /// let ads = Queue::<String>::embedded("ads").build()?;
    /// ads.enqueue(&"a bicycle".to_owned()).await?;
    /// assert_eq!(ads.stats().await?.ready, 1);
    /// # Ok(()) }
    /// ```
    pub fn embedded(name: &str) -> QueueBuilder<T> {
        QueueBuilder::new(None, name)
    }

    /// The queue's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name.as_str()
    }
}

impl<T: Serialize> Queue<T> {
    /// Keeps a job until a worker has run it, and returns its ID.
    ///
    /// If a job with the same idempotency key is in the queue, or was done within
    /// [`keep`](QueueBuilder::keep), no job is added and the existing job's ID is returned.
    ///
    /// # Errors
    /// [`QueueError::Full`], [`QueueError::TooLarge`], [`QueueError::Unencodable`],
    /// [`QueueError::Key`]; and [`QueueError::Store`] when the store did not confirm: the job may
    /// be in the queue nevertheless. A job with an idempotency key can safely be enqueued again.
    pub async fn enqueue(&self, job: &T) -> Result<JobId, QueueError> {
        self.enqueue_with(job, Enqueue::new()).await
    }

    /// Same as [`enqueue`](Self::enqueue), with the job's own key, delay or time to live.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub async fn enqueue_with(&self, job: &T, options: Enqueue) -> Result<JobId, QueueError> {
        self.keep(self.encode(job, options)?).await
    }
}
