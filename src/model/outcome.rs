//! Outcomes of calls, and their counts.

use std::{ops::AddAssign, time::Duration};

use serde::{Deserialize, Serialize};

use super::FailureKind;

/// The outcome of one permitted call.
///
/// ```
/// use std::time::Duration;
/// use commontrip::{FailureKind, Outcome};
///
/// // What a call's result means, for `CircuitBreaker::call_with` and its kind.
/// fn classify<T>(result: &Result<T, u16>) -> Outcome {
///     match result {
///         Ok(_) => Outcome::Success,
///         Err(429) => Outcome::failure_of("busy").with_retry_after(Duration::from_secs(5)),
///         Err(400..500) => Outcome::Ignored,
///         Err(status) => Outcome::failure_of(FailureKind::status(*status)),
///     }
/// }
/// assert_eq!(classify(&Err::<(), _>(404)), Outcome::Ignored);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The protected service did its work.
    Success,
    /// The protected service failed.
    #[non_exhaustive]
    Failure {
        /// How long the service asked to be left alone (`Retry-After` of a 429 or 503). When the
        /// circuit opens, the whole fleet waits at least that long, up to the longest wait of the
        /// policy.
        retry_after: Option<Duration>,
        /// The kind of the failure, which operators see. Default: none.
        kind: FailureKind,
    },
    /// The call says nothing about the service (the caller's own mistake).
    Ignored,
    /// A failure that opens the circuit at once, whatever the thresholds.
    #[non_exhaustive]
    Trip {
        /// As in [`Outcome::Failure`].
        retry_after: Option<Duration>,
        /// As in [`Outcome::Failure`].
        kind: FailureKind,
    },
}

impl Outcome {
    /// Returns the default outcome of a result: `Ok` is a success, `Err` a failure.
    ///
    /// ```
    /// use commontrip::Outcome;
    ///
    /// assert_eq!(Outcome::of(&Ok::<_, ()>(1)), Outcome::Success);
    /// assert_eq!(Outcome::of(&Err::<(), _>(1)), Outcome::failure());
    /// ```
    #[inline]
    #[must_use]
    pub const fn of<T, E>(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Success,
            Err(_) => Self::failure(),
        }
    }

    /// Creates a failure without `retry_after` and without a kind.
    #[must_use]
    pub const fn failure() -> Self {
        Self::Failure {
            retry_after: None,
            kind: FailureKind::none(),
        }
    }

    /// Creates a failure of a kind.
    ///
    /// ```
    /// use commontrip::{FailureKind, Outcome};
    ///
    /// let outcome = Outcome::failure_of("connect");
    /// assert_eq!(outcome.kind(), Some(&FailureKind::of("connect")));
    /// ```
    #[must_use]
    pub fn failure_of(kind: impl Into<FailureKind>) -> Self {
        Self::Failure {
            retry_after: None,
            kind: kind.into(),
        }
    }

    /// Creates a trip without `retry_after` and without a kind.
    #[must_use]
    pub const fn trip() -> Self {
        Self::Trip {
            retry_after: None,
            kind: FailureKind::none(),
        }
    }

    /// Creates a trip of a kind.
    #[must_use]
    pub fn trip_of(kind: impl Into<FailureKind>) -> Self {
        Self::Trip {
            retry_after: None,
            kind: kind.into(),
        }
    }

    /// Sets how long the service asked to be left alone. Changes only failures and trips.
    ///
    /// ```
    /// use std::time::Duration;
    /// use commontrip::Outcome;
    ///
    /// let wait = Duration::from_secs(5);
    /// assert_eq!(Outcome::trip().with_retry_after(wait).retry_after(), Some(wait));
    /// assert_eq!(Outcome::Success.with_retry_after(wait).retry_after(), None);
    /// ```
    #[must_use]
    pub fn with_retry_after(mut self, wait: impl Into<Option<Duration>>) -> Self {
        if let Self::Failure { retry_after, .. } | Self::Trip { retry_after, .. } = &mut self {
            *retry_after = wait.into();
        }
        self
    }

    /// Returns how long the service asked to be left alone.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Failure { retry_after, .. } | Self::Trip { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Returns the kind of the failure; `None` without one.
    #[must_use]
    pub const fn kind(&self) -> Option<&FailureKind> {
        match self {
            Self::Failure { kind, .. } | Self::Trip { kind, .. } if kind.is_named() => Some(kind),
            _ => None,
        }
    }
}

/// Counts of outcomes, as a report carries them.
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
    pub rejected: u64,
    /// Permitted calls that were dropped before they ended.
    pub abandoned: u64,
    /// Abandoned calls that ran so long that they are failures too, and are counted in `failures`.
    pub abandoned_failures: u64,
}

impl Counts {
    /// Returns the recorded calls: successes and failures.
    #[must_use]
    pub const fn calls(&self) -> u64 {
        self.successes + self.failures
    }

    /// Returns the recorded calls that were slow.
    #[must_use]
    pub const fn slow(&self) -> u64 {
        self.slow_successes + self.slow_failures
    }

    /// Returns the abandoned calls that are not failures. They are evidence only if there is no
    /// other.
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
        let Self {
            successes,
            failures,
            slow_successes,
            slow_failures,
            ignored,
            rejected,
            abandoned,
            abandoned_failures,
        } = other;
        self.successes += successes;
        self.failures += failures;
        self.slow_successes += slow_successes;
        self.slow_failures += slow_failures;
        self.ignored += ignored;
        self.rejected += rejected;
        self.abandoned += abandoned;
        self.abandoned_failures += abandoned_failures;
    }
}

/// Runs of consecutive failures within a batch, in calls.
///
/// Read only if the batch has a success. Without one, the whole batch is one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runs {
    /// Failures before the first success.
    pub first: u64,
    /// The longest run anywhere.
    pub longest: u64,
    /// Failures after the last success.
    pub last: u64,
}
