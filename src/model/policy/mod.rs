//! When a circuit opens, how long it stays open, and how it closes.
//!
//! Owns the settings, their defaults and their ranges. Invariant: a [`Policy`] that exists is
//! valid. Twin: `policy_keys` in `lua/lib/prelude.lua`.

mod alike;
mod build;
mod builder;
mod checks;
mod elsewhere;
mod error;
mod pairs;
mod presets;
mod rules;
pub(crate) mod words;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use builder::PolicyBuilder;
pub use error::PolicyError;
#[cfg(feature = "config")]
pub(crate) use presets::PRESETS;
pub use rules::Rules;

/// What a replica does while the store is unavailable.
///
/// ```
/// use commontrip::{OnStoreFailure, Policy};
///
/// let policy = Policy::builder().on_store_failure(OnStoreFailure::Reject).build()?;
/// # Ok::<(), commontrip::PolicyError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnStoreFailure {
    /// Continues with a local circuit, which starts from the shared circuit as last seen.
    #[default]
    Local,
    /// Admits every call.
    Allow,
    /// Rejects every call.
    Reject,
}

/// Which calls' latencies are recorded, for [`Snapshot::latency`](crate::Snapshot::latency).
///
/// The number of each is its value in files and in stored policies.
///
/// ```
/// use commontrip::{LatencyRecording, Policy};
///
/// let policy = Policy::builder().latency_recording(LatencyRecording::EveryCall).build()?;
/// # Ok::<(), commontrip::PolicyError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LatencyRecording {
    /// 0: none.
    Off,
    /// 1: a random sample. In each thread and circuit, the first 512 calls in every 5 seconds;
    /// after them one random call out of 2, then of 4, of 8 and so on, which counts for all of
    /// them. This is every call of a quiet circuit, and several hundred to 2,000 calls per second
    /// of a busy thread. The duration and order of calls do not affect the choice. For one minute
    /// of one busy thread, the p99 is between the exact p98.8 and p99.2 in 95 of 100 cases.
    #[default]
    Sampled,
    /// 2: every call's; each call then reads a precise clock twice.
    EveryCall,
}

/// Which conditions wait for [`minimum_number_of_calls`](PolicyBuilder::minimum_number_of_calls).
///
/// The number of each is its value in files and in stored policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MinimumAppliesTo {
    /// 0: the failure rate and the slow-call rate. Failures in a row and failures in the window do
    /// not wait.
    #[default]
    Rates,
    /// 1: every condition, as with `volumeThreshold` of opossum: fewer calls in the window never
    /// open the circuit. [`Outcome::Trip`](crate::Outcome::Trip) does not wait.
    EveryCondition,
}

/// When a call that is dropped before it ends counts as a failure.
///
/// A future is dropped by its caller's timeout, by `select!`, when a hedged call loses, when a
/// client disconnects, and at shutdown. Such a call is abandoned: it is counted as abandoned, and
/// also as a failure if it ran so long that the service must have hung. While the window has no
/// success at all, every abandoned call counts as a failure, because there is no other evidence
/// about the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AbandonedCalls {
    /// Never, unless it ran past `call_timeout` or the slow-call threshold.
    Ignored,
    /// If it ran for at least `call_timeout` or the slow-call threshold (the shorter one, if both
    /// are set). If neither is set: if it ran for at least twice the 99th percentile of this
    /// process' successful calls, and at least 10 ms. The percentile needs [`LatencyRecording`] to
    /// be on.
    #[default]
    Automatic,
    /// If it ran for at least this long (`1 ms..=1 year`), or past `call_timeout` or the slow-call
    /// threshold.
    After(Duration),
}

/// How a call that exceeds `call_timeout` counts.
///
/// The number of each is its value in files and in stored policies. To decide for one call, use
/// [`CircuitBreaker::call_judged`](crate::CircuitBreaker::call_judged).
///
/// ```
/// use std::time::Duration;
/// use commontrip::{Policy, TimedOutCalls};
///
/// let policy = Policy::builder()
///     .call_timeout(Duration::from_secs(2))
///     .timed_out_calls(TimedOutCalls::Ignored)
///     .build()?;
/// assert_eq!(policy.timed_out_calls(), TimedOutCalls::Ignored);
/// # Ok::<(), commontrip::PolicyError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimedOutCalls {
    /// 0: as ignored, like a call whose caller gave up.
    Ignored,
    /// 1: as a failure, and also as a timeout.
    #[default]
    Counted,
}

/// The settings of a circuit.
///
/// Created by [`Policy::builder`], a preset, or serde (keys as in [`Rules`], all optional, unknown
/// keys rejected). Always valid. The circuit opens as soon as one trip condition holds. A policy is
/// plain numbers, so it is cheap to copy.
///
/// ```
/// use commontrip::Policy;
///
/// let policy = Policy::builder().failure_rate_threshold(20).build()?;
/// assert_ne!(policy, Policy::default());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PolicyBuilder", into = "PolicyBuilder")]
pub struct Policy {
    pub(crate) rules: Rules,
    pub(crate) on_store_failure: OnStoreFailure,
}

impl Policy {
    /// Starts from the defaults: the circuit opens at 50 % failures of at least 20 calls in 10 s,
    /// or at 20 failures in a row, and stays open for 30 s.
    ///
    /// The numbers of the rate come from Hystrix. In a total outage, the run opens the circuit
    /// within 20 calls at any traffic.
    pub fn builder() -> PolicyBuilder {
        PolicyBuilder::default()
    }

    /// Opens the circuit after `failures` failures in a row, and on nothing else.
    ///
    /// If several callers share the circuit, prefer a rate: one caller that always succeeds hides
    /// another that always fails.
    ///
    /// # Errors
    /// [`PolicyError::OutOfRange`] when `failures` is not in `1..=1_000_000`.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// let policy = Policy::consecutive(5)?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn consecutive(failures: u64) -> Result<Self, PolicyError> {
        Self::builder()
            .no_failure_rate_threshold()
            .consecutive_failures_threshold(failures)
            .build()
    }

    /// Returns the numbers of the policy.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Returns what a replica does while the store is unavailable.
    #[must_use]
    pub const fn on_store_failure(&self) -> OnStoreFailure {
        self.on_store_failure
    }

    /// Returns which calls' latencies are recorded.
    #[must_use]
    pub const fn latency_recording(&self) -> LatencyRecording {
        match self.rules.latency_recording {
            0 => LatencyRecording::Off,
            1 => LatencyRecording::Sampled,
            _ => LatencyRecording::EveryCall,
        }
    }

    /// Returns which conditions wait for the minimum number of calls.
    #[must_use]
    pub const fn minimum_applies_to(&self) -> MinimumAppliesTo {
        match self.rules.minimum_applies_to {
            0 => MinimumAppliesTo::Rates,
            _ => MinimumAppliesTo::EveryCondition,
        }
    }

    /// Returns when a dropped call counts as a failure.
    #[must_use]
    pub const fn abandoned_calls(&self) -> AbandonedCalls {
        match (self.rules.abandoned_calls, self.rules.abandoned_after_ms) {
            (0, _) => AbandonedCalls::Ignored,
            (_, 0) => AbandonedCalls::Automatic,
            (_, ms) => AbandonedCalls::After(Duration::from_millis(ms)),
        }
    }

    /// Returns how a call that exceeds `call_timeout` counts.
    #[must_use]
    pub const fn timed_out_calls(&self) -> TimedOutCalls {
        match self.rules.timed_out_calls {
            0 => TimedOutCalls::Ignored,
            _ => TimedOutCalls::Counted,
        }
    }

    /// Returns how long one call may take; `None` without a limit.
    #[must_use]
    pub const fn call_timeout(&self) -> Option<Duration> {
        match self.rules.call_timeout_ms {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        }
    }

    /// Returns this policy with the numbers of a stored one. Invalid pairs are ignored.
    #[must_use]
    pub(crate) fn with_stored(&self, stored: &str) -> Self {
        let mut policy = self.clone();
        policy.rules.apply(stored);
        policy
    }

    /// Creates a policy of numbers that are already checked.
    pub(crate) fn of(rules: Rules) -> Self {
        Self {
            rules,
            on_store_failure: OnStoreFailure::default(),
        }
    }

    /// Checks `key=value` pairs against this policy, and returns them in stored form, with whole
    /// numbers.
    ///
    /// ```
    /// use commontrip::Policy;
    ///
    /// assert!(Policy::default().check_stored("failure_rate_threshold=20").is_ok());
    /// assert!(Policy::default().check_stored("failure_rate_threshold=200").is_err());
    /// ```
    ///
    /// # Errors
    /// The errors of [`Rules::parse_pairs`], and those of [`PolicyBuilder::build`] for the
    /// resulting policy.
    pub fn check_stored(&self, pairs: &str) -> Result<String, PolicyError> {
        let mut builder = PolicyBuilder::from(self.clone());
        let mut stored = Vec::new();
        for (key, number) in Rules::parse_pairs(pairs)? {
            builder.rules.set(key, number);
            stored.push(format!("{key}={number}"));
        }
        // Without pairs the policy in code applies, whatever it is.
        if stored.is_empty() {
            return Ok(String::new());
        }
        builder.build()?;
        Ok(stored.join(" "))
    }
}
