//! Looking at a queue and steering it; what a job is made of does not matter here.

use super::{JobState, JobView, Queue, QueueError, QueueStats, job::Told};
use crate::{RedisStore, StoreError};

/// The names of the queues under the store's prefix that were ever used, sorted.
///
/// # Errors
/// [`StoreError`] when the store does not answer.
pub async fn queues(store: &RedisStore) -> Result<Vec<String>, StoreError> {
    let names = store.queues().await?;
    Ok(names.into_iter().map(|name| name.to_string()).collect())
}

/// A script that must answer has not.
pub(super) fn unanswered() -> StoreError {
    StoreError::Unreadable("no answer".to_owned())
}

impl<T> Queue<T> {
    /// How many jobs are where, and what has become of others.
    ///
    /// # Errors
    /// [`QueueError::Store`] when the store does not answer.
    pub async fn stats(&self) -> Result<QueueStats, QueueError> {
        let shared = &self.0;
        let script = &shared.scripts.stats;
        let request: [u8; 0] = [];
        let answer = shared.ask(script, &request);
        Ok(answer.await?.ok_or_else(unanswered)?)
    }

    /// The jobs in a state, at most so many: the next ones first; of dead ones those that died first.
    ///
    /// Their payloads are left out.
    ///
    /// # Errors
    /// [`QueueError::Store`] when the store does not answer.
    pub async fn list(&self, state: JobState, most: usize) -> Result<Vec<JobView>, QueueError> {
        self.read(state, "", most).await
    }

    /// One job, with its payload.
    ///
    /// # Errors
    /// [`QueueError::Unknown`] when there is none (done jobs are removed), [`QueueError::Store`] when the store does not
    /// answer.
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
        let shared = &self.0;
        let request = (state.as_str(), id, most);
        let script = &shared.scripts.list;
        let answer = shared.ask(script, &request);
        let told: Vec<Told> = answer.await?.ok_or_else(unanswered)?;
        Ok(told.into_iter().map(JobView::from).collect())
    }

    /// Has a dead or delayed job be ready now; a dead one with all its attempts and its time to live anew.
    ///
    /// # Errors
    /// [`QueueError::Unknown`] when there is none, [`QueueError::Running`] when it runs, [`QueueError::KeyTaken`] when a
    /// job with the same idempotency key has come since, [`QueueError::Store`] when the store did not confirm.
    pub async fn retry(&self, id: &str) -> Result<(), QueueError> {
        self.steer(id, "retry").await?;
        self.0.enqueued.send_modify(|n| *n = n.wrapping_add(1));
        Ok(())
    }

    /// Removes a job that does not run.
    ///
    /// # Errors
    /// [`QueueError::Unknown`] when there is none, [`QueueError::Running`] when it runs, [`QueueError::Store`] when the
    /// store did not confirm.
    pub async fn drop_job(&self, id: &str) -> Result<(), QueueError> {
        self.steer(id, "drop").await
    }

    /// [`retry`](Self::retry) of every dead letter; how many there were. Those whose key is another job's stay.
    ///
    /// # Errors
    /// [`QueueError::Store`] when the store did not confirm; some may have been retried.
    pub async fn retry_all(&self) -> Result<u64, QueueError> {
        let mut retried = 0;
        for job in self.list(JobState::Dead, MOST_DEAD).await? {
            match self.retry(job.id.as_str()).await {
                Ok(()) => retried += 1,
                // Somebody else was quicker, or it has to stay.
                Err(QueueError::Unknown(_) | QueueError::Running(_) | QueueError::KeyTaken(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(retried)
    }

    async fn steer(&self, id: &str, how: &str) -> Result<(), QueueError> {
        let shared = &self.0;
        let script = &shared.scripts.steer;
        let request = (id, how);
        let answer = shared.tell(script, &request);
        let answer: String = answer.await?;
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

/// How many dead letters are retried by one command, at most.
const MOST_DEAD: usize = 100_000;
