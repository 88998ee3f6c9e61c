//! Inspecting and controlling a queue; the type of its jobs does not matter here.

use super::{JobState, JobView, Queue, QueueError, QueueStats};
use crate::{RedisStore, StoreError};

/// Returns the names of all queues ever used under the store's prefix, sorted.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{RedisStore, queue::queues};
///
/// let store = RedisStore::builder().open("redis://127.0.0.1:6379")?;
/// println!("{:?}", queues(&store).await?);
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`StoreError`] when the store does not answer.
pub async fn queues(store: &RedisStore) -> Result<Vec<String>, StoreError> {
    let names = store.queues().await?;
    Ok(names.into_iter().map(|name| name.to_string()).collect())
}

/// The error for a script that returned nil where it must answer.
pub(super) fn unanswered() -> StoreError {
    StoreError::Unreadable("no answer".to_owned())
}

impl<T> Queue<T> {
    /// Returns how many jobs are in each state, and totals since the queue was first used.
    ///
    /// # Errors
    /// [`QueueError::Store`] when the store does not answer.
    pub async fn stats(&self) -> Result<QueueStats, QueueError> {
        Ok(self.0.place.stats().await?)
    }

    /// Returns up to `most` jobs in a state: the next ones first, dead ones in the order in which
    /// they died.
    ///
    /// Payloads are omitted.
    ///
    /// # Errors
    /// [`QueueError::Store`] when the store does not answer.
    pub async fn list(&self, state: JobState, most: usize) -> Result<Vec<JobView>, QueueError> {
        self.read(state, "", most).await
    }

    /// Returns one job, with its payload.
    ///
    /// # Errors
    /// [`QueueError::Unknown`] when there is no such job (done jobs are removed),
    /// [`QueueError::Store`] when the store does not answer.
    pub async fn show(&self, id: &str) -> Result<JobView, QueueError> {
        let found = match id {
            "" => None,
            id => self.read(JobState::Dead, id, 1).await?.pop(),
        };
        found.ok_or_else(|| QueueError::Unknown(id.to_owned()))
    }

    async fn read(
        &self,
        state: JobState,
        id: &str,
        most: usize,
    ) -> Result<Vec<JobView>, QueueError> {
        let told = self.0.place.list(state, id, most).await?;
        Ok(told.into_iter().map(JobView::from).collect())
    }

    /// Makes a dead or delayed job ready now; a dead one gets all its attempts and its full time to
    /// live again.
    ///
    /// # Errors
    /// [`QueueError::Unknown`] when there is no such job, [`QueueError::Running`] while it is
    /// running, [`QueueError::KeyTaken`] when a job with the same idempotency key was enqueued
    /// since, [`QueueError::Store`] when the store did not confirm.
    pub async fn retry(&self, id: &str) -> Result<(), QueueError> {
        self.steer(id, "retry").await?;
        self.0.enqueued.send_modify(|n| *n = n.wrapping_add(1));
        Ok(())
    }

    /// Removes a job that is not running.
    ///
    /// # Errors
    /// [`QueueError::Unknown`] when there is no such job, [`QueueError::Running`] while it is
    /// running, [`QueueError::Store`] when the store did not confirm.
    pub async fn drop_job(&self, id: &str) -> Result<(), QueueError> {
        self.steer(id, "drop").await
    }

    /// Calls [`retry`](Self::retry) for every dead letter, and returns how many were retried. Dead
    /// letters whose key another job has stay.
    ///
    /// # Errors
    /// [`QueueError::Store`] when the store did not confirm; some may have been retried.
    pub async fn retry_all(&self) -> Result<u64, QueueError> {
        let mut retried = 0;
        for job in self.list(JobState::Dead, MOST_DEAD).await? {
            match self.retry(job.id.as_str()).await {
                Ok(()) => retried += 1,
                // Another process was quicker, or the job has to stay.
                Err(QueueError::Unknown(_) | QueueError::Running(_) | QueueError::KeyTaken(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(retried)
    }

    async fn steer(&self, id: &str, how: &str) -> Result<(), QueueError> {
        let answer = self.0.place.steer(id, how).await?;
        let id = || id.to_owned();
        match answer.as_str() {
            "done" => Ok(()),
            "unknown" => Err(QueueError::Unknown(id())),
            "running" => Err(QueueError::Running(id())),
            "known" => Err(QueueError::KeyTaken(id())),
            _ => Err(StoreError::Unreadable(answer).into()),
        }
    }
}

/// The most dead letters that one command retries.
const MOST_DEAD: usize = 100_000;
