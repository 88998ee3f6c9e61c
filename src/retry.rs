//! Retries, with the circuit inside each attempt.
//!
//! Owns whether there is a next attempt and how long to wait for it; backon computes the backoff.
//! Invariant: each attempt asks the circuit, and no attempt follows a rejection.
//!
//! The order matters: the retry outside, the circuit around each attempt, the attempt's own time
//! limit innermost. With the circuit outside, n failed attempts would count as one failure, a
//! success at the third attempt would hide two failures, and attempts would continue after the
//! circuit has opened.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use commontrip::{Commontrip, Policy, retry::ExponentialBuilder};
//!
//! let users = Commontrip::embedded()?.circuit("users", Policy::default())?;
//! let backoff = ExponentialBuilder::new().with_max_times(3).with_jitter();
//! let id = users.retry(backoff).call(|| async { "7".parse::<u32>() }).await?;
//! assert_eq!(id, 7);
//! # Ok(()) }
//! ```

mod observed;

use std::time::Duration;

pub use self::observed::ObservedBackoff;
pub use backon::{BackoffBuilder, ConstantBuilder, ExponentialBuilder, FibonacciBuilder};

use crate::{CallError, CircuitBreaker, Outcome};

/// The default limit of a `retry_after` that is waited for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5);

impl<E> CallError<E> {
    /// Whether the call may be retried at all: not after a rejection, because a retry would be
    /// rejected as well. Whether to retry a failure or a timeout is your decision.
    ///
    /// For retries that do not use [`CircuitBreaker::retry`]:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
    /// Retries calls with a backoff of the backon crate, which gives the number of retries and the
    /// waits.
    ///
    /// backon's [`ExponentialBuilder`] has 3 retries by default, after 1, 2 and 4 s, without
    /// jitter. Add `with_jitter` where many callers fail at once.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
            #[cfg(feature = "otel")]
            traced: false,
        }
    }
}

/// Calls through a circuit, with retries; from [`CircuitBreaker::retry`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use std::time::Duration;
/// use commontrip::retry::ExponentialBuilder;
///
/// let backoff = ExponentialBuilder::new().with_max_times(3).with_jitter();
/// let answer = payments
///     .retry(backoff)
///     .longest_retry_after(Duration::from_secs(5))
///     .call(|| async { Ok::<_, std::io::Error>(42) })
///     .await?;
/// assert_eq!(answer, 42);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "no call is made until `call` is awaited"]
pub struct Retry<'a, B> {
    breaker: &'a CircuitBreaker,
    backoff: B,
    longest_retry_after: Duration,
    #[cfg(feature = "otel")]
    traced: bool,
}

impl<B: BackoffBuilder> Retry<'_, B> {
    /// Sets the longest `retry_after` of a failure that is waited for. Default 5 s.
    ///
    /// After a failure with a `retry_after` up to this limit, the wait is the backoff's wait if
    /// that is longer. Otherwise it is the `retry_after` and a random part, so that callers that
    /// were given the same time do not return together: up to the backoff's wait, or up to a tenth
    /// of the `retry_after` if that is more. A failure with a longer `retry_after` is not retried,
    /// unless the backoff's wait is at least as long.
    pub const fn longest_retry_after(mut self, longest: Duration) -> Self {
        self.longest_retry_after = longest;
        self
    }

    /// Makes each attempt in a span with its number; see [`CircuitBreaker::traced`].
    #[cfg(feature = "otel")]
    pub const fn traced(mut self) -> Self {
        self.traced = true;
        self
    }

    /// Makes a call like [`CircuitBreaker::call`], and retries it after a failure or a timeout.
    ///
    /// # Errors
    /// [`CallError::Rejected`] when no attempt was made; otherwise the error of the last attempt
    /// that was made, also if the retries ended because the circuit opened.
    pub async fn call<F, Fut, T, E>(self, call: F) -> Result<T, CallError<E>>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.call_with(Outcome::of, call).await
    }

    /// Makes a call like [`CircuitBreaker::call_with`], and retries it after a timeout, or after an
    /// `Err` whose outcome is [`Outcome::Failure`].
    ///
    /// An `Err` whose outcome is [`Success`](Outcome::Success) or [`Ignored`](Outcome::Ignored) is
    /// not retried, because it is the caller's own error; neither is a [`Trip`](Outcome::Trip),
    /// which opens the circuit, nor an `Ok`, whatever its outcome.
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
        #[cfg(feature = "otel")]
        let mut attempt = 0;
        loop {
            // The outcome of a call that was dropped after `call_timeout`.
            let mut outcome = Outcome::failure();
            let classify = |result: &Result<T, E>| {
                outcome = classify(result);
                outcome.clone()
            };
            #[cfg(feature = "otel")]
            let tried = if self.traced {
                attempt += 1;
                let traced = self.breaker.traced().attempt(attempt);
                traced.call_with(classify, &mut call).await
            } else {
                self.breaker.call_with(classify, &mut call).await
            };
            #[cfg(not(feature = "otel"))]
            let tried = self.breaker.call_with(classify, &mut call).await;
            let error = match tried {
                Ok(value) => return Ok(value),
                Err(rejected @ CallError::Rejected(_)) => return Err(last.unwrap_or(rejected)),
                Err(error) => error,
            };
            let next = next_wait(self.breaker, &outcome, self.longest_retry_after, || {
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

/// The bound of the random part added to a `retry_after` is at least the `retry_after` divided by
/// this.
const LEAST_SPREAD: u32 = 10;

/// Adds a random part to a wait that all callers were given: up to the backoff's wait, or up to a
/// tenth of `told` if that is more.
fn spread(told: Duration, backoff: Duration) -> Duration {
    let most = backoff.max(told / LEAST_SPREAD).as_nanos();
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    told.saturating_add(Duration::from_nanos(fastrand::u64(..=most)))
}

/// Returns how long to wait before the next attempt, after one with this outcome; `None` if there
/// is none.
pub(crate) fn next_wait(
    breaker: &CircuitBreaker,
    outcome: &Outcome,
    longest_retry_after: Duration,
    backoff: impl FnOnce() -> Option<Duration>,
) -> Option<Duration> {
    let Outcome::Failure { retry_after, .. } = outcome else {
        return None;
    };
    let asked = retry_after.unwrap_or_default();
    let wait = backoff()?;
    if asked > wait.max(longest_retry_after) {
        return None;
    }
    let wait = match asked > wait {
        true => spread(asked, wait),
        false => wait,
    };
    // Waiting is pointless if the circuit will still be open afterwards.
    let shut = |rejection: crate::Rejection| rejection.retry_after.is_none_or(|left| left > wait);
    (!breaker.expected_rejection().is_some_and(shut)).then_some(wait)
}
