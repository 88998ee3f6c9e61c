//! Backoff that follows the observed latency of calls.
//!
//! Owns the bounds and the growth; the circuit measures the latency, in this process.

use std::time::Duration;

use crate::CircuitBreaker;

/// The default shortest and longest waits.
const LEAST: Duration = Duration::from_millis(10);
const MOST: Duration = Duration::from_secs(5);

/// A backoff that follows the observed latency of a circuit's calls.
///
/// The first wait is the 99th percentile of this process' successful calls, and each further one is
/// twice as long; all are within the bounds. Up to half of a wait is added at random, so that
/// callers do not return together. Before the first success, the shortest wait is used. The
/// percentile is read before each wait; once there is a success, it is updated at most every
/// 100 ms.
///
/// For [`CircuitBreaker::retry`] and the stages of a failover chain. Replicas do not coordinate:
/// each caller waits on its own.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use commontrip::{Commontrip, Policy, retry::ObservedBackoff};
///
/// let users = Commontrip::embedded()?.circuit("users", Policy::default())?;
/// let backoff = ObservedBackoff::of(&users)
///     .with_min_delay(Duration::from_millis(50))
///     .with_max_delay(Duration::from_secs(2))
///     .with_max_times(3);
/// let id = users.retry(backoff).call(|| async { "7".parse::<u32>() }).await?;
/// assert_eq!(id, 7);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ObservedBackoff {
    breaker: CircuitBreaker,
    least: Duration,
    most: Duration,
    left: usize,
    doubled: u32,
}

impl ObservedBackoff {
    /// Follows the calls of this circuit: up to 3 retries, after waits of 10 ms to 5 s.
    pub fn of(breaker: &CircuitBreaker) -> Self {
        Self {
            breaker: breaker.clone(),
            least: LEAST,
            most: MOST,
            left: 3,
            doubled: 0,
        }
    }

    /// Sets the shortest wait. Default 10 ms.
    pub const fn with_min_delay(mut self, least: Duration) -> Self {
        self.least = least;
        self
    }

    /// Sets the longest wait, not counting the random part. Default 5 s; never below the shortest
    /// wait.
    pub const fn with_max_delay(mut self, most: Duration) -> Self {
        self.most = most;
        self
    }

    /// Sets the number of retries. Default 3.
    pub const fn with_max_times(mut self, times: usize) -> Self {
        self.left = times;
        self
    }
}

impl Iterator for ObservedBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let usual = self.breaker.usual_latency().unwrap_or_default();
        let factor = 1_u32.checked_shl(self.doubled).unwrap_or(u32::MAX);
        self.doubled = self.doubled.saturating_add(1);
        let wait = usual.saturating_mul(factor).min(self.most).max(self.least);
        let half = u64::try_from(wait.as_nanos() / 2).unwrap_or(u64::MAX);
        Some(wait.saturating_add(Duration::from_nanos(fastrand::u64(..=half))))
    }
}
