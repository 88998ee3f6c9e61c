//! A call that becomes a job where it does not go through.

use std::{future::Future, time::Duration};

use serde::Serialize;

use super::{Enqueue, JobId, NotCalled, Queue};
use crate::{CallError, CircuitBreaker, Outcome};

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Called<R> {
    /// It was made, and this is what it returned.
    Done(R),
    /// It is in the queue, under this ID.
    Queued(JobId),
}

/// What an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The service failed: it counts against the circuit, and is worth another attempt.
    Retry {
        /// How long the service asked to be left alone (a `Retry-After`).
        retry_after: Option<Duration>,
    },
    /// The job itself is at fault: no attempt will mend it, and it says nothing about the service.
    Fatal,
}

impl Failure {
    /// Worth another attempt, without a `retry_after`.
    #[must_use]
    pub const fn retry() -> Self {
        Self::Retry { retry_after: None }
    }

    pub(super) const fn outcome(self) -> Outcome {
        match self {
            Self::Retry { retry_after } => Outcome::Failure { retry_after },
            Self::Fatal => Outcome::Ignored,
        }
    }
}

impl<T: Serialize> Queue<T> {
    /// Makes a call through a circuit; where it is rejected, takes too long or fails, its job is enqueued.
    ///
    /// A call that took too long may have reached the service, and its job reaches it again: give the service something to
    /// tell them apart by. When the future that this returns is dropped the job is not enqueued.
    ///
    /// # Errors
    /// [`NotCalled::NotQueued`] when the call did not go through and its job was not confirmed to be in the queue.
    pub async fn call<F, Fut, R, E>(
        &self,
        breaker: &CircuitBreaker,
        job: T,
        call: F,
    ) -> Result<Called<R>, NotCalled<E>>
    where
        F: FnOnce(T) -> Fut,
        Fut: Future<Output = Result<R, E>>,
    {
        self.call_with(breaker, |_: &E| Failure::retry(), job, call)
            .await
    }

    /// [`call`](Self::call); `classify` says of an error whether the job is worth another attempt.
    ///
    /// # Errors
    /// As [`call`](Self::call), and [`NotCalled::Failed`] with an error that is [`Failure::Fatal`].
    pub async fn call_with<C, F, Fut, R, E>(
        &self,
        breaker: &CircuitBreaker,
        classify: C,
        job: T,
        call: F,
    ) -> Result<Called<R>, NotCalled<E>>
    where
        C: Fn(&E) -> Failure,
        F: FnOnce(T) -> Fut,
        Fut: Future<Output = Result<R, E>>,
    {
        // First, for the call takes the job away. Where it cannot be kept, the call is still worth making.
        let encoded = self.encode(&job, Enqueue::new());
        let outcome = |result: &Result<R, E>| match result {
            Ok(_) => Outcome::Success,
            Err(error) => classify(error).outcome(),
        };
        let error = match breaker.call_with(outcome, || call(job)).await {
            Ok(value) => return Ok(Called::Done(value)),
            Err(CallError::Failed(error)) if classify(&error) == Failure::Fatal => {
                return Err(NotCalled::Failed(error));
            }
            Err(error) => error,
        };
        let kept = match encoded {
            Ok(encoded) => self.keep(encoded).await,
            Err(error) => Err(error),
        };
        match kept {
            Ok(id) => Ok(Called::Queued(id)),
            Err(queue) => Err(NotCalled::NotQueued { call: error, queue }),
        }
    }
}
