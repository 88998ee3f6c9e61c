//! What became of a call, and sums of that.

use std::{ops::AddAssign, time::Duration};

use serde::{Deserialize, Serialize};

/// What became of one permitted call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The protected service did its work.
    Success,
    /// It failed.
    Failure {
        /// How long it asked to be left alone (a 429's or 503's `Retry-After`). When the circuit
        /// opens, the whole fleet waits at least that long, up to the longest wait of the policy.
        retry_after: Option<Duration>,
    },
    /// The call says nothing about the service (the caller's own mistake).
    Ignored,
    /// A failure that opens the circuit at once, whatever the thresholds.
    Trip {
        /// As in [`Outcome::Failure`].
        retry_after: Option<Duration>,
    },
}

impl Outcome {
    /// What a result means unless told otherwise: `Ok` is a success, `Err` a failure.
    #[inline]
    #[must_use]
    pub const fn of<T, E>(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Success,
            Err(_) => Self::failure(),
        }
    }

    /// A failure without a `retry_after`.
    #[must_use]
    pub const fn failure() -> Self {
        Self::Failure { retry_after: None }
    }

    /// A trip without a `retry_after`.
    #[must_use]
    pub const fn trip() -> Self {
        Self::Trip { retry_after: None }
    }
}

/// Numbers of outcomes, as a report carries them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Successes, slow ones included.
    pub successes: u64,
    /// Failures, slow ones included.
    pub failures: u64,
    /// Successes that took at least `slow_call_duration_threshold`.
    pub slow_successes: u64,
    /// Failures that took at least `slow_call_duration_threshold`.
    pub slow_failures: u64,
    /// Permitted calls that said nothing about the service.
    pub ignored: u64,
    /// Calls that were rejected.
    pub not_permitted: u64,
    /// Permitted calls that were dropped before they ended.
    pub abandoned: u64,
    /// Those of them that had run so long that they are failures too, counted in `failures`.
    pub abandoned_failures: u64,
}

impl Counts {
    /// Recorded calls: successes and failures.
    #[must_use]
    pub const fn calls(&self) -> u64 {
        self.successes + self.failures
    }

    /// Recorded calls that were slow.
    #[must_use]
    pub const fn slow(&self) -> u64 {
        self.slow_successes + self.slow_failures
    }

    /// Calls that were dropped and are no failures of their own: evidence only where nothing else
    /// is.
    #[must_use]
    pub const fn undecided(&self) -> u64 {
        self.abandoned.saturating_sub(self.abandoned_failures)
    }

    /// Whether every number is zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.successes += other.successes;
        self.failures += other.failures;
        self.slow_successes += other.slow_successes;
        self.slow_failures += other.slow_failures;
        self.ignored += other.ignored;
        self.not_permitted += other.not_permitted;
        self.abandoned += other.abandoned;
        self.abandoned_failures += other.abandoned_failures;
    }
}

/// Runs of consecutive failures within a batch, in calls.
///
/// Read only when the batch has a success; without one the whole batch is one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runs {
    /// Failures before the first success.
    pub first: u64,
    /// The longest run anywhere.
    pub longest: u64,
    /// Failures after the last success.
    pub last: u64,
}
