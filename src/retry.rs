//! What may be tried again, and how: the circuit inside of each try.
//!
//! Owns when there is a next try and how long to wait for it; the waits themselves are backon's.
//! Invariant: each try asks the circuit, and after a rejection there is no other.
//!
//! The order matters: the retry outside, the circuit around each try, the try's own time limit
//! innermost. With the circuit outside, n tries that failed would count as one failure, a success at
//! the third try would hide two failures, and tries would go on after the circuit has opened.

use std::time::Duration;

pub use backon::{BackoffBuilder, ConstantBuilder, ExponentialBuilder, FibonacciBuilder};

use crate::{CallError, CircuitBreaker, Outcome};

/// The longest `retry_after` that is waited for, unless told otherwise.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5);

impl<E> CallError<E> {
    /// Whether the call may be tried again at all: not after a rejection, which another try would
    /// only meet again. Whether a failure or a timeout is worth it is yours to say.
    ///
    /// For retries that are made by other means than [`CircuitBreaker::retry`]:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use backon::{ExponentialBuilder, Retryable};
    /// use commontrip::{CallError, Commontrip, Policy};
    ///
    /// let users = Commontrip::embedded()?.circuit("users", Policy::default())?;
    /// let answer = (|| users.call(|| async { Ok::<_, std::io::Error>(42) }))
    ///     .retry(ExponentialBuilder::new().with_jitter())
    ///     .when(CallError::may_retry)
    ///     .await?;
    /// assert_eq!(answer, 42);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub const fn may_retry(&self) -> bool {
        !matches!(self, Self::Rejected(_))
    }
}

impl CircuitBreaker {
    /// Tries calls again as a backoff of the backon crate says: after its waits, as many times.
    ///
    /// backon's [`ExponentialBuilder`] without further words is 3 more tries after 1, 2 and 4 s, without jitter;
    /// give it `with_jitter` where many callers fail at once.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::{cell::Cell, io, time::Duration};
    /// use commontrip::{Commontrip, Policy, retry::ExponentialBuilder};
    ///
    /// let users = Commontrip::embedded()?.circuit("users", Policy::default())?;
    /// let backoff = ExponentialBuilder::new()
    ///     .with_min_delay(Duration::from_millis(10))
    ///     .with_max_times(2)
    ///     .with_jitter();
    /// let tries = Cell::new(0);
    /// let answer = users
    ///     .retry(backoff)
    ///     .call(|| async {
    ///         tries.set(tries.get() + 1);
    ///         if tries.get() < 3 { Err(io::Error::other("busy")) } else { Ok("ana") }
    ///     })
    ///     .await?;
    /// assert_eq!((answer, tries.get()), ("ana", 3));
    /// # Ok(()) }
    /// ```
    pub const fn retry<B: BackoffBuilder>(&self, backoff: B) -> Retry<'_, B> {
        Retry {
            breaker: self,
            backoff,
            longest_retry_after: LONGEST_RETRY_AFTER,
        }
    }
}

/// Calls through a circuit that are tried again; from [`CircuitBreaker::retry`].
#[derive(Clone, Debug)]
#[must_use = "it makes a call when `call` is awaited"]
pub struct Retry<'a, B> {
    breaker: &'a CircuitBreaker,
    backoff: B,
    longest_retry_after: Duration,
}

impl<B: BackoffBuilder> Retry<'_, B> {
    /// Sets the longest `retry_after` of a failure that is waited for. Default 5 s.
    ///
    /// A failure that asks for less is tried again after that time or the backoff's, whichever is longer; one
    /// that asks for more ends the tries.
    pub const fn longest_retry_after(mut self, longest: Duration) -> Self {
        self.longest_retry_after = longest;
        self
    }

    /// [`CircuitBreaker::call`], again after a failure or a timeout.
    ///
    /// # Errors
    /// [`CallError::Rejected`] when no try was made; otherwise that of the last try that was made, also where
    /// the tries ended because the circuit has opened.
    pub async fn call<F, Fut, T, E>(self, call: F) -> Result<T, CallError<E>>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.call_with(Outcome::of, call).await
    }

    /// [`CircuitBreaker::call_with`], again after an `Err` that is an [`Outcome::Failure`], or a timeout.
    ///
    /// Not tried again are an `Err` that is a [`Success`](Outcome::Success) or
    /// [`Ignored`](Outcome::Ignored), for it is the caller's own; a [`Trip`](Outcome::Trip), which opens
    /// the circuit; and an `Ok`, whatever it counts as.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_with<C, F, Fut, T, E>(
        self,
        mut classify: C,
        mut call: F,
    ) -> Result<T, CallError<E>>
    where
        C: FnMut(&Result<T, E>) -> Outcome,
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut waits = self.backoff.build();
        let mut last = None;
        loop {
            // What a call that was dropped after `call_timeout` counts as.
            let mut outcome = Outcome::failure();
            let classify = |result: &Result<T, E>| {
                outcome = classify(result);
                outcome
            };
            let error = match self.breaker.call_with(classify, &mut call).await {
                Ok(value) => return Ok(value),
                Err(rejected @ CallError::Rejected(_)) => return Err(last.unwrap_or(rejected)),
                Err(error) => error,
            };
            let next = next_wait(self.breaker, outcome, self.longest_retry_after, || {
                waits.next()
            });
            let Some(wait) = next else {
                return Err(error);
            };
            last = Some(error);
            tokio::time::sleep(wait).await;
        }
    }
}

/// How long to wait for the next try after one that ended so; `None` where there is to be none.
pub(crate) fn next_wait(
    breaker: &CircuitBreaker,
    outcome: Outcome,
    longest_retry_after: Duration,
    backoff: impl FnOnce() -> Option<Duration>,
) -> Option<Duration> {
    let Outcome::Failure { retry_after } = outcome else {
        return None;
    };
    let asked = retry_after.unwrap_or_default();
    let wait = backoff()?;
    if asked > wait.max(longest_retry_after) {
        return None;
    }
    let wait = wait.max(asked);
    // A circuit that will still be open then is not worth the wait.
    let shut = |rejection: crate::Rejection| rejection.retry_after.is_none_or(|left| left > wait);
    (!breaker.expected_rejection().is_some_and(shut)).then_some(wait)
}
