//! The last good answer of each key, used when a call gives no new one.

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use super::values::Values;
use crate::{CallError, CircuitBreaker, FallbackKind, Outcome};

/// Keeps the last good values of calls, and answers with them when a call fails or is rejected.
///
/// Values are kept in this process and, with [`shared`](super::LastGoodBuilder::shared), also in
/// the store for all replicas. Both are bounded; a value that does not fit in this process is still
/// served from the store. Clones share their values.
///
/// Values are written to the store in the background.
/// [`Commontrip::shutdown`](crate::Commontrip::shutdown) waits for them within its own time limit,
/// and dropping the last clone gives them 5 s. Values not written by then are lost, counted and
/// logged.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::{io, time::Duration};
/// use commontrip::{Commontrip, Policy, fallback::{LastGood, Source}};
///
/// let circuits = Commontrip::embedded()?;
/// let weather = circuits.circuit("weather", Policy::default())?;
/// let last_good = LastGood::builder("weather")
///     .ttl(Duration::from_secs(3600))
///     .max_entries(1000)
///     .shared(&circuits)
///     .build()?;
///
/// let now = last_good.call(&weather, "Oslo", || async { Ok::<_, io::Error>(-4) }).await?;
/// assert!(!now.stale);
/// let later = last_good.call(&weather, "Oslo", || async { Err(io::Error::other("gone")) }).await?;
/// assert_eq!((later.value, later.stale, later.from), (-4, true, Source::Process));
/// println!("as of {:?} ago", later.age);
/// # Ok(()) }
/// ```
pub struct LastGood<T> {
    values: Arc<Values>,
    _values: PhantomData<fn(T) -> T>,
}

/// A value, and where it came from.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::fallback::LastGood;
///
/// let rates: LastGood<f64> = LastGood::builder("rates").build()?;
/// rates.call(&payments, "EUR", || async { Ok::<_, std::io::Error>(1.1) }).await?;
/// let down = || async { Err(std::io::Error::other("down")) };
/// let answer = rates.call(&payments, "EUR", down).await?;
/// assert!(answer.stale && answer.value == 1.1);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer<T> {
    /// The value.
    pub value: T,
    /// Whether the value is from an earlier call.
    pub stale: bool,
    /// The value's age, to the millisecond; 0 for the call's own value. The age of another
    /// replica's value is off by the difference between the two replicas' clocks, and 0 if the
    /// other clock is ahead.
    pub age: Duration,
    /// Where the value came from.
    pub from: Source,
}

/// Where an [`Answer`] came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The call.
    Call,
    /// The values kept in this process.
    Process,
    /// The store, which was asked just now.
    Fleet,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Call => "call",
            Self::Process => "process",
            Self::Fleet => "fleet",
        })
    }
}

impl<T: Serialize + DeserializeOwned> LastGood<T> {
    /// Makes a call like [`CircuitBreaker::call`]. If it fails, times out or is rejected, returns
    /// the key's last good value, and the circuit's statistics count a fallback.
    ///
    /// # Errors
    /// The call's error, when there is no good value that is young enough.
    pub async fn call<F, Fut, E>(
        &self,
        breaker: &CircuitBreaker,
        key: &str,
        call: F,
    ) -> Result<Answer<T>, CallError<E>>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.call_with(breaker, key, Outcome::of, call).await
    }

    /// Same as [`call`](Self::call); `classify` decides the outcome of a result.
    ///
    /// An `Ok` is kept if its outcome is [`Success`](Outcome::Success); otherwise it is only
    /// returned. An `Err` whose outcome is [`Success`](Outcome::Success) or
    /// [`Ignored`](Outcome::Ignored) is the caller's own error, and is returned.
    ///
    /// # Errors
    /// As [`call`](Self::call), and the caller's own.
    pub async fn call_with<C, F, Fut, E>(
        &self,
        breaker: &CircuitBreaker,
        key: &str,
        classify: C,
        call: F,
    ) -> Result<Answer<T>, CallError<E>>
    where
        C: FnOnce(&Result<T, E>) -> Outcome,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        // The outcome of a call that was not made, or did not finish.
        let mut outcome = Outcome::failure();
        let classify = |result: &Result<T, E>| {
            outcome = classify(result);
            outcome.clone()
        };
        match breaker.call_with(classify, call).await {
            Ok(value) => {
                if outcome == Outcome::Success {
                    self.keep(key, &value);
                }
                Ok(Answer {
                    value,
                    stale: false,
                    age: Duration::ZERO,
                    from: Source::Call,
                })
            }
            Err(error) if matches!(outcome, Outcome::Success | Outcome::Ignored) => Err(error),
            Err(error) => {
                let answer = self.recall(key).await.ok_or(error)?;
                breaker.count_fallback(FallbackKind::LastGood);
                Ok(answer)
            }
        }
    }

    /// Keeps a good value that was obtained by other means, such as a failover chain. Does not
    /// wait; outside a tokio runtime, the value is kept in this process only.
    ///
    /// Does nothing while the kept value is younger than `refresh`. A value that is too large is
    /// not kept, or only in this process; a warning is logged once per key.
    ///
    /// At most 16 values are written to the store at a time. For each other key, the newest value
    /// waits, up to [`max_waiting_bytes`](super::LastGoodBuilder::max_waiting_bytes).
    pub fn keep(&self, key: &str, value: &T) {
        self.values.keep(key, value);
    }

    /// Returns the last good value of a key, marked as stale; `None` when there is no value that is
    /// young enough.
    ///
    /// A value that this process obtained within `refresh` is returned as it is. Otherwise the
    /// store is asked, for no longer than its timeout, and the newer of the two values is returned.
    /// Concurrent calls for the same key share one question. If the store has nothing newer, the
    /// key is asked for again after `refresh`; after an error, the next call asks again.
    pub async fn recall(&self, key: &str) -> Option<Answer<T>> {
        let found = self.values.newest(key).await?;
        Some(Answer {
            value: found.value,
            stale: true,
            age: found.age,
            from: found.from,
        })
    }
}

impl<T> LastGood<T> {
    pub(super) fn of(values: Values) -> Self {
        Self {
            values: Arc::new(values),
            _values: PhantomData,
        }
    }

    /// How many values were not written to the store, because there was no room for them to wait,
    /// the store did not accept them, or the process ended. 0 if nothing is shared.
    #[must_use]
    pub fn lost_writes(&self) -> u64 {
        self.values.lost_writes()
    }
}

impl<T> Clone for LastGood<T> {
    fn clone(&self) -> Self {
        Self {
            values: Arc::clone(&self.values),
            _values: PhantomData,
        }
    }
}

impl<T> fmt::Debug for LastGood<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastGood")
            .field("name", &self.values.name)
            .field("ttl", &self.values.bounds.ttl)
            .finish_non_exhaustive()
    }
}
