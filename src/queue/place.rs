//! Where a queue's jobs are: in Redis, or in this process.
//!
//! Owns one operation for each move of a job; `lua/queue` and [`memory`](super::memory), which are
//! twins, define what a move does.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    JobState, QueueStats,
    inspect::unanswered,
    job::Told,
    memory::{Jobs, New},
    scripts::Redis,
};
use crate::{Clock, StoreError, model::millis};

pub(super) enum Place {
    Redis(Box<Redis>),
    Memory(Box<Memory>),
}

/// The jobs and their clock, which nobody can set.
pub(super) struct Memory {
    jobs: Mutex<Jobs>,
    began: Instant,
    began_ms: u64,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self {
            jobs: Mutex::default(),
            began: Instant::now(),
            began_ms: Clock::system().unix_ms(),
        }
    }

    fn now(&self) -> u64 {
        self.began_ms.saturating_add(millis(self.began.elapsed()))
    }
}

impl Place {
    /// Returns the ID under which the job is kept (empty if the queue is full), the number of jobs
    /// before it, and the current time.
    pub(super) async fn enqueue(
        &self,
        new: New<'_>,
        most: u64,
        most_dead: u64,
    ) -> Result<(String, u64, u64), StoreError> {
        match self {
            Self::Redis(redis) => {
                let request = (new.id, new.key, new.delay_ms, new.ttl_ms, most, most_dead);
                let answer = redis.ask_with(&redis.scripts.enqueue, &request, new.payload);
                answer.await?.ok_or_else(unanswered)
            }
            Self::Memory(memory) => {
                let now = memory.now();
                let (id, size) = memory.jobs.lock().enqueue(now, new, most, most_dead);
                Ok((id, size, now))
            }
        }
    }

    /// Takes a job, and returns how many more are ready; `None` when none is due.
    pub(super) async fn take(
        &self,
        worker: &str,
        token: &str,
        lease: Duration,
        most_attempts: u32,
        most_dead: u64,
    ) -> Result<Option<(Told, u64)>, StoreError> {
        let lease_ms = millis(lease);
        match self {
            Self::Redis(redis) => {
                let request = (worker, token, lease_ms, most_attempts, most_dead);
                redis.ask(&redis.scripts.take, &request).await
            }
            Self::Memory(memory) => {
                let by = (worker, token);
                let mut jobs = memory.jobs.lock();
                Ok(jobs.take(memory.now(), by, lease_ms, most_attempts, most_dead))
            }
        }
    }

    /// Whether this run still holds the job.
    pub(super) async fn renew(
        &self,
        id: &str,
        token: &str,
        lease: Duration,
    ) -> Result<bool, StoreError> {
        let lease_ms = millis(lease);
        match self {
            Self::Redis(redis) => {
                let request = (id, token, lease_ms);
                redis.tell(&redis.scripts.renew, &request).await
            }
            Self::Memory(memory) => {
                let mut jobs = memory.jobs.lock();
                Ok(jobs.renew(memory.now(), id, token, lease_ms))
            }
        }
    }

    /// Whether this run still held the job.
    pub(super) async fn settle(
        &self,
        (id, token, how): (&str, &str, &str),
        delay: Duration,
        error: &str,
        keep: Duration,
        most_dead: u64,
    ) -> Result<bool, StoreError> {
        let (delay_ms, keep_ms) = (millis(delay), millis(keep));
        match self {
            Self::Redis(redis) => {
                let request = (id, token, how, delay_ms, error, keep_ms, most_dead);
                redis.tell(&redis.scripts.settle, &request).await
            }
            Self::Memory(memory) => {
                let (now, run) = (memory.now(), (id, token, how));
                let mut jobs = memory.jobs.lock();
                Ok(jobs.settle(now, run, delay_ms, error, keep_ms, most_dead))
            }
        }
    }

    /// `done`, `unknown`, `running` or `known`.
    pub(super) async fn steer(&self, id: &str, how: &str) -> Result<String, StoreError> {
        match self {
            Self::Redis(redis) => redis.tell(&redis.scripts.steer, &(id, how)).await,
            Self::Memory(memory) => {
                let mut jobs = memory.jobs.lock();
                Ok(jobs.steer(memory.now(), id, how).to_owned())
            }
        }
    }

    pub(super) async fn stats(&self) -> Result<QueueStats, StoreError> {
        match self {
            Self::Redis(redis) => {
                let request: [u8; 0] = [];
                let answer = redis.ask(&redis.scripts.stats, &request);
                answer.await?.ok_or_else(unanswered)
            }
            Self::Memory(memory) => Ok(memory.jobs.lock().stats(memory.now())),
        }
    }

    /// Returns the jobs in a state; or, given an ID, that job in any state, with its payload.
    pub(super) async fn list(
        &self,
        state: JobState,
        id: &str,
        most: usize,
    ) -> Result<Vec<Told>, StoreError> {
        match self {
            Self::Redis(redis) => {
                let request = (state.as_str(), id, most);
                let answer = redis.ask(&redis.scripts.list, &request);
                answer.await?.ok_or_else(unanswered)
            }
            Self::Memory(memory) => {
                let jobs = memory.jobs.lock();
                Ok(match id {
                    "" => jobs.list(state, most),
                    id => jobs.show(id).into_iter().collect(),
                })
            }
        }
    }
}
