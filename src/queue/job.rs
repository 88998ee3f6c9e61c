//! Jobs, as handlers and as operators see them.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de::Visitor};

use crate::model::text;

/// Names one job of a queue; 16 characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct JobId(String);

impl JobId {
    pub(super) fn new() -> Self {
        Self(format!("{:016x}", fastrand::u64(..)))
    }

    pub(super) const fn of(id: String) -> Self {
        Self(id)
    }

    /// The ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A job that a worker hands to its handler.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{RedisStore, queue::{Job, Queue}};
///
/// let store = RedisStore::builder().open("redis://127.0.0.1:6379")?;
/// let ads = Queue::<String>::builder(&store, "ads").build()?;
/// # let payments = commontrip::Commontrip::embedded()?.circuit("ads", Default::default())?;
/// let handler = async |job: Job<String>| {
///     println!("job {}, attempt {}, {:?} old: {}", job.id, job.attempt, job.age, job.body);
///     Ok::<_, std::io::Error>(())
/// };
/// ads.worker(&payments, handler).run(tokio::signal::ctrl_c()).await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Job<T> {
    /// The job's ID; the same in each attempt.
    pub id: JobId,
    /// The idempotency key, if any.
    pub key: Option<String>,
    /// The number of this attempt, starting at 1.
    pub attempt: u32,
    /// The time since the job was enqueued, by Redis' clock.
    pub age: Duration,
    /// The enqueued value.
    pub body: T,
}

/// Where a job is.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{RedisStore, queue::{JobState, Queue}};
///
/// let store = RedisStore::builder().open("redis://127.0.0.1:6379")?;
/// let ads = Queue::<String>::builder(&store, "ads").build()?;
/// let dead = ads.list(JobState::Dead, 100).await?;
/// println!("{} {}", dead.len(), JobState::Dead.as_str());
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum JobState {
    /// It waits for a worker.
    Ready,
    /// It waits until it is due: after an attempt, or because it was enqueued with a delay.
    Delayed,
    /// A worker runs it.
    Running,
    /// No worker takes it again, unless an operator retries it.
    Dead,
}

impl JobState {
    /// All states, in the order in which a job goes through them.
    pub const ALL: [Self; 4] = [Self::Ready, Self::Delayed, Self::Running, Self::Dead];

    /// The state in one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Delayed => "delayed",
            Self::Running => "running",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A job as operators see it.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{RedisStore, queue::{JobState, Queue}};
///
/// let store = RedisStore::builder().open("redis://127.0.0.1:6379")?;
/// let ads = Queue::<String>::builder(&store, "ads").build()?;
/// for job in ads.list(JobState::Dead, 100).await? {
///     println!("{}: {}", job.id, job.error);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JobView {
    /// The job's ID.
    pub id: JobId,
    /// The job's state.
    pub state: JobState,
    /// The idempotency key; empty without one.
    pub key: String,
    /// How many times a worker has started it.
    pub attempts: u32,
    /// When it was enqueued, Unix ms by Redis' clock.
    pub enqueued_ms: u64,
    /// Since when it has been in its state, Unix ms; for a delayed job, when it is due.
    pub at_ms: u64,
    /// When it expires, Unix ms; 0 = never.
    pub expires_ms: u64,
    /// The worker that runs it; empty while none does.
    pub worker: String,
    /// Why it is dead, `failed` or `expired`; empty unless it is dead.
    pub reason: String,
    /// The error of the last failed attempt; empty before the first failure.
    pub error: String,
    /// The enqueued value as MessagePack; empty in lists.
    #[serde(skip)]
    pub payload: Vec<u8>,
}

/// A job's record, as the scripts keep it. Twin: `job` in `lua/queue/enqueue.lua`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Record {
    pub(super) state: JobState,
    #[serde(deserialize_with = "text")]
    pub(super) key: String,
    pub(super) attempts: u32,
    pub(super) enqueued_ms: u64,
    pub(super) at_ms: u64,
    pub(super) expires_ms: u64,
    #[serde(deserialize_with = "text")]
    pub(super) worker: String,
    #[serde(deserialize_with = "text")]
    pub(super) reason: String,
    #[serde(deserialize_with = "text")]
    pub(super) error: String,
}

impl Record {
    /// The record of a newly enqueued job.
    pub(super) fn new(key: &str, now_ms: u64) -> Self {
        Self {
            state: JobState::Ready,
            key: key.to_owned(),
            attempts: 0,
            enqueued_ms: now_ms,
            at_ms: now_ms,
            expires_ms: 0,
            worker: String::new(),
            reason: String::new(),
            error: String::new(),
        }
    }
}

/// A job as a script returns it.
#[derive(Debug, Deserialize)]
pub(super) struct Told(
    #[serde(deserialize_with = "text")] pub(super) String,
    pub(super) Record,
    #[serde(deserialize_with = "bytes")] pub(super) Vec<u8>,
);

impl From<Told> for JobView {
    fn from(Told(id, record, payload): Told) -> Self {
        Self {
            id: JobId::of(id),
            state: record.state,
            key: record.key,
            attempts: record.attempts,
            enqueued_ms: record.enqueued_ms,
            at_ms: record.at_ms,
            expires_ms: record.expires_ms,
            worker: record.worker,
            reason: record.reason,
            error: record.error,
            payload,
        }
    }
}

/// Reads a Lua string of arbitrary bytes.
fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_str<E>(self, text: &str) -> Result<Vec<u8>, E> {
            Ok(text.as_bytes().to_vec())
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }
    }

    from.deserialize_bytes(Bytes)
}

/// How many jobs are in each state, and totals since the queue was first used.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{RedisStore, queue::Queue};
///
/// let store = RedisStore::builder().open("redis://127.0.0.1:6379")?;
/// let ads = Queue::<String>::builder(&store, "ads").build()?;
/// let stats = ads.stats().await?;
/// println!("{} ready, {} dead", stats.ready, stats.dead);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QueueStats {
    /// When these stats were read, Unix ms by Redis' clock.
    pub now_ms: u64,
    /// When the next job can be taken, Unix ms; 0 = now, -1 = there is no job.
    pub next_ms: i64,
    /// Jobs that wait for a worker.
    pub ready: u64,
    /// Jobs that wait until they are due.
    pub delayed: u64,
    /// Jobs that a worker holds.
    pub running: u64,
    /// Dead letters.
    pub dead: u64,
    /// Jobs that were enqueued, in total.
    pub enqueued: u64,
    /// Jobs that were done, in total.
    pub done: u64,
    /// Attempts after which a job was scheduled for another, in total.
    pub retried: u64,
    /// Jobs that became dead letters because they failed, in total.
    pub died: u64,
    /// Jobs that became dead letters because they were too old, in total.
    pub expired: u64,
    /// Dead letters discarded to make room for newer ones, in total.
    pub discarded: u64,
    /// Since when the longest-waiting due job has been due, Unix ms; 0 = none is due. A job becomes
    /// due again after each attempt.
    pub oldest_ms: u64,
}

impl QueueStats {
    /// How long the longest-waiting due job has waited for a worker; `None` when none is due.
    #[must_use]
    pub fn oldest_waits(&self) -> Option<Duration> {
        let waits = self.now_ms.saturating_sub(self.oldest_ms);
        (self.oldest_ms > 0).then(|| Duration::from_millis(waits))
    }

    /// How many jobs are in a state.
    #[must_use]
    pub const fn in_state(&self, state: JobState) -> u64 {
        match state {
            JobState::Ready => self.ready,
            JobState::Delayed => self.delayed,
            JobState::Running => self.running,
            JobState::Dead => self.dead,
        }
    }
}
