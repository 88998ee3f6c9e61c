//! One stage of a chain.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    CircuitBreaker,
    model::FOREVER,
    retry::{BackoffBuilder, ConstantBuilder},
};

/// The default limit for one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

type Waits = Box<dyn Iterator<Item = Duration> + Send + Sync>;

/// One stage: a circuit, and the time limit, pause and retries for its upstream.
///
/// Several stages may share a circuit, for example to try the same upstream again with a longer
/// limit.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use std::time::Duration;
/// use commontrip::{failover::Stage, retry::ExponentialBuilder};
///
/// let stage = Stage::new("cloud", &payments)
///     .attempt_timeout(Duration::from_secs(10))
///     .backoff(ExponentialBuilder::new().with_max_times(2));
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Stage {
    pub(super) name: Arc<str>,
    pub(super) breaker: CircuitBreaker,
    attempt_timeout: Option<Duration>,
    pub(super) pause_before: Duration,
    waits: Arc<dyn Fn() -> Waits + Send + Sync>,
}

impl Stage {
    /// Makes a stage with this name, which results report, behind this circuit.
    pub fn new(name: &str, breaker: &CircuitBreaker) -> Self {
        Self {
            name: Arc::from(name),
            breaker: breaker.clone(),
            attempt_timeout: None,
            pause_before: Duration::ZERO,
            waits: Arc::new(|| Box::new(std::iter::empty())),
        }
    }

    /// Sets how long one attempt may take. A longer one is dropped and counts as a failure, also
    /// for the circuit. Above 0 and at most the total timeout; default 30 s, or the total timeout
    /// if that is shorter.
    ///
    /// The circuit's own `call_timeout` applies, too.
    pub const fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// Sets how long to wait before the stage, once. Default 0.
    ///
    /// There is no wait if no earlier stage was tried (all were skipped), or if this stage is about
    /// to be skipped.
    pub const fn pause_before(mut self, pause: Duration) -> Self {
        self.pause_before = pause;
        self
    }

    /// Sets how many times a failed attempt is retried immediately. Default 0.
    pub fn retries(self, retries: usize) -> Self {
        let at_once = ConstantBuilder::new().with_delay(Duration::ZERO);
        self.backoff(at_once.with_max_times(retries))
    }

    /// Sets a backoff for retries, in place of [`retries`](Self::retries): it gives the number of
    /// retries and the wait before each.
    ///
    /// A failure whose `retry_after` exceeds the wait ends the stage, because the next stage is
    /// available immediately.
    pub fn backoff<B>(mut self, backoff: B) -> Self
    where
        B: BackoffBuilder<Backoff: 'static> + Clone + 'static,
    {
        self.waits = Arc::new(move || Box::new(backoff.clone().build()));
        self
    }

    /// The limit for one attempt in a chain with this total timeout.
    pub(super) fn limit(&self, total: Duration) -> Duration {
        self.attempt_timeout
            .map_or(ATTEMPT_TIMEOUT.min(total), |limit| limit.min(FOREVER))
    }

    pub(super) fn waits(&self) -> Waits {
        (self.waits)()
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("name", &self.name)
            .field("breaker", &self.breaker)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("pause_before", &self.pause_before)
            .finish_non_exhaustive()
    }
}
