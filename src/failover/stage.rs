//! One stage of a chain, as it is described.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    CircuitBreaker,
    model::FOREVER,
    retry::{BackoffBuilder, ConstantBuilder},
};

/// How long an attempt may take, unless the stage says.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

type Waits = Box<dyn Iterator<Item = Duration> + Send + Sync>;

/// One stage: a circuit, and how patient the chain is with what is behind it.
///
/// Several stages may share a circuit: a second, more patient try of the same upstream, say.
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
    /// A stage of that name, which is told with what it serves, behind that circuit.
    pub fn new(name: &str, breaker: &CircuitBreaker) -> Self {
        Self {
            name: Arc::from(name),
            breaker: breaker.clone(),
            attempt_timeout: None,
            pause_before: Duration::ZERO,
            waits: Arc::new(|| Box::new(std::iter::empty())),
        }
    }

    /// Sets how long one attempt may take. One that takes longer is dropped, and has failed, also for the
    /// circuit. Above 0 and at most the total timeout; default 30 s, or the total timeout where that is less.
    ///
    /// The circuit's own `call_timeout` holds, too.
    pub const fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// Sets how long to wait before the stage, once. Default 0.
    ///
    /// Nothing is waited for where no earlier stage was tried (all were skipped), nor where this one is
    /// about to be skipped.
    pub const fn pause_before(mut self, pause: Duration) -> Self {
        self.pause_before = pause;
        self
    }

    /// Sets how many more attempts there are, at once after a failed one. Default 0.
    pub fn retries(self, retries: usize) -> Self {
        let at_once = ConstantBuilder::new().with_delay(Duration::ZERO);
        self.backoff(at_once.with_max_times(retries))
    }

    /// Sets when there are more attempts, in place of [`retries`](Self::retries): after a backoff's waits,
    /// as many times as it says.
    ///
    /// A failure with a `retry_after` above the wait ends the stage: the next one is there at once.
    pub fn backoff<B>(mut self, backoff: B) -> Self
    where
        B: BackoffBuilder<Backoff: 'static> + Clone + 'static,
    {
        self.waits = Arc::new(move || Box::new(backoff.clone().build()));
        self
    }

    /// How long an attempt may take in a chain that may take so long.
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
