//! Jobs, as handlers get them and as operators see them.

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

/// A job in the hands of a worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Job<T> {
    /// Its ID; the same in each attempt.
    pub id: JobId,
    /// The idempotency key, where it has one.
    pub key: Option<String>,
    /// Which attempt this is, beginning with 1.
    pub attempt: u32,
    /// How long ago it was enqueued, by Redis' clock.
    pub age: Duration,
    /// What was enqueued.
    pub body: T,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum JobState {
    /// It waits for a worker.
    Ready,
    /// It waits for its time: after an attempt, or because it was enqueued so.
    Delayed,
    /// A worker runs it.
    Running,
    /// No worker takes it again, unless an operator has it retried.
    Dead,
}

impl JobState {
    /// All of them, in the order in which a job goes through them.
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JobView {
    /// Its ID.
    pub id: JobId,
    /// Where it is.
    pub state: JobState,
    /// The idempotency key; empty without one.
    pub key: String,
    /// How often a worker has begun with it.
    pub attempts: u32,
    /// When it was enqueued, Unix ms by Redis' clock.
    pub enqueued_ms: u64,
    /// Since when it is in its state, Unix ms; of a delayed one when it is due.
    pub at_ms: u64,
    /// When it expires, Unix ms; 0 = never.
    pub expires_ms: u64,
    /// The worker that runs it; empty while none does.
    pub worker: String,
    /// Of a dead one: `failed` or `expired`; otherwise empty.
    pub reason: String,
    /// What the last failed attempt said; empty before one failed.
    pub error: String,
    /// What was enqueued, MessagePack; empty in lists.
    #[serde(skip)]
    pub payload: Vec<u8>,
}

/// A job's record, as the scripts keep it. Twin: `job` in `lua/queue/enqueue.lua`.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    state: JobState,
    #[serde(deserialize_with = "text")]
    pub(super) key: String,
    pub(super) attempts: u32,
    pub(super) enqueued_ms: u64,
    pub(super) at_ms: u64,
    expires_ms: u64,
    #[serde(deserialize_with = "text")]
    worker: String,
    #[serde(deserialize_with = "text")]
    reason: String,
    #[serde(deserialize_with = "text")]
    error: String,
}

/// A job as a script tells of it.
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

/// A string of Lua's, whatever is in it.
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

/// How many jobs are where, and what has become of others.
///
/// The totals count from when the queue was first used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QueueStats {
    /// When that was so, Unix ms by Redis' clock.
    pub now_ms: u64,
    /// When the next job can be taken, Unix ms: 0 = now, -1 = there is none.
    pub next_ms: i64,
    /// Jobs that wait for a worker.
    pub ready: u64,
    /// Jobs that wait for their time.
    pub delayed: u64,
    /// Jobs that a worker has.
    pub running: u64,
    /// Dead letters.
    pub dead: u64,
    /// Jobs that were enqueued, in total.
    pub enqueued: u64,
    /// Jobs that were done, in total.
    pub done: u64,
    /// Attempts after which a job waits for another, in total.
    pub retried: u64,
    /// Jobs that became dead letters because they failed, in total.
    pub died: u64,
    /// Jobs that became dead letters because they were too old, in total.
    pub expired: u64,
    /// Dead letters that made way for newer ones, in total.
    pub discarded: u64,
}
