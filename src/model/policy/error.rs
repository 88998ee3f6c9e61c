//! What can be wrong with a policy.

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A setting is out of its range.
    #[error("{setting} is {value}, but must be from {min} to {max} {unit}")]
    OutOfRange {
        /// The setting's key.
        setting: &'static str,
        /// What it was set to.
        value: u64,
        /// The least that it may be.
        min: u64,
        /// The most that it may be.
        max: u64,
        /// What the numbers mean.
        unit: &'static str,
    },
    /// A setting that another one makes meaningless.
    #[error("{setting} is {value}, but {other} is {limit}: {right}")]
    Contradiction {
        /// The setting's key.
        setting: &'static str,
        /// What it was set to.
        value: u64,
        /// The other setting's key.
        other: &'static str,
        /// What that is.
        limit: u64,
        /// Why both mean nothing, and what would be right.
        right: &'static str,
    },
    /// The factor of [`PolicyBuilder::backoff`](super::PolicyBuilder::backoff), as it was given.
    #[error("the backoff factor is {0}, but must be from 1 to 100")]
    BackoffFactor(String),
    /// Nothing could ever open the circuit.
    #[error(
        "no trip condition: set failure_rate_threshold, failure_count_threshold, \
         consecutive_failures_threshold or slow_call_duration_threshold"
    )]
    NoTripCondition,
    /// A stored pair is not one.
    #[error(
        "{0:?} is not a setting: write key=integer with one of the keys of a policy, such as failure_rate_threshold=30"
    )]
    Pair(String),
}
