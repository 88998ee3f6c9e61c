//! Errors of policies.

/// The error for an invalid policy.
///
/// ```
/// use commontrip::{Policy, PolicyError};
///
/// let error = Policy::builder().failure_rate_threshold(101).build().unwrap_err();
/// assert!(matches!(error, PolicyError::OutOfRange { value: 101, .. }));
/// println!("{error}");
/// ```
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
        /// The smallest allowed value.
        min: u64,
        /// The largest allowed value.
        max: u64,
        /// The unit of the numbers.
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
        /// The value of the other setting.
        limit: u64,
        /// Why the settings contradict each other, and how to fix it.
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
    /// A word is not a `key=value` pair.
    #[error("{0:?} has no value: write key=value, such as failure_rate_threshold=30%")]
    Pair(String),
    /// There is no such setting.
    #[error("there is no setting {setting:?}: {hint}")]
    Unknown {
        /// What was written.
        setting: String,
        /// A suggestion.
        hint: String,
    },
    /// A setting is given more than once.
    #[error("{0} is set twice")]
    Twice(&'static str),
    /// A value is not valid for its setting.
    #[error("{setting} is {value:?}, but must be {right}")]
    Value {
        /// The setting's key.
        setting: &'static str,
        /// What was written.
        value: String,
        /// The valid values.
        right: String,
    },
}
