//! A call that becomes a job if it does not succeed.

use std::{future::Future, time::Duration};

use serde::Serialize;

use super::{Enqueue, JobId, NotCalled, Queue};
use crate::{CallError, CircuitBreaker, Outcome};

/// The result of a call.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{RedisStore, queue::{Called, Queue}};
///
/// let store = RedisStore::builder().open("redis://127.0.0.1:6379")?;
/// let ads = Queue::<String>::builder(&store, "ads").build()?;
/// # let payments = commontrip::Commontrip::embedded()?.circuit("ads", Default::default())?;
/// let publish = async |ad: String| Ok::<_, std::io::Error>(ad.len());
/// match ads.call(&payments, "a bicycle".to_owned(), publish).await? {
///     Called::Done(length) => println!("published {length} bytes"),
///     Called::Queued(id) => println!("will be published: job {id}"),
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Called<R> {
    /// The call was made, and this is what it returned.
    Done(R),
    /// The job is in the queue, under this ID.
    Queued(JobId),
}

/// How an error of a call is treated.
///
/// ```
/// use commontrip::queue::Failure;
///
/// let classify = |error: &std::io::Error| match error.kind() {
///     std::io::ErrorKind::InvalidInput => Failure::Fatal,
///     _ => Failure::retry(),
/// };
/// assert!(matches!(classify(&std::io::ErrorKind::InvalidInput.into()), Failure::Fatal));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The service failed: the failure counts against the circuit, and the job is worth another
    /// attempt.
    Retry {
        /// How long the service asked callers to wait (a `Retry-After`).
        retry_after: Option<Duration>,
    },
    /// The job itself is at fault: no attempt can succeed, and the error says nothing about the
    /// service.
    Fatal,
}

impl Failure {
    /// A failure that is worth another attempt, without a `retry_after`.
    #[must_use]
    pub const fn retry() -> Self {
        Self::Retry { retry_after: None }
    }

    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Retry { retry_after } => Outcome::failure().with_retry_after(retry_after),
            Self::Fatal => Outcome::Ignored,
        }
    }
}

impl<T: Serialize> Queue<T> {
    /// Makes a call through a circuit, and enqueues its job if the call is rejected, takes too long
    /// or fails.
    ///
    /// A call that took too long may have reached the service, and its job reaches it again: send
    /// the service something by which it recognizes duplicates. If the returned future is dropped,
    /// the job is not enqueued.
    ///
    /// # Errors
    /// [`NotCalled::NotQueued`] when the call did not succeed and the queue did not confirm its
    /// job.
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

    /// Same as [`call`](Self::call); `classify` decides whether an error is worth another attempt.
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
        // Encoded first, because the call consumes the job. If that fails, the call is still worth
        // making.
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
