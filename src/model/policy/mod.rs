//! When a circuit opens, how long it stays open, and how it closes.
//!
//! Owns the settings, their defaults and their ranges. Invariant: a [`Policy`] that exists is
//! valid. Twin: `policy_keys` in `lua/lib/prelude.lua`.

mod builder;
mod checks;
mod error;
mod rules;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use builder::PolicyBuilder;
pub use error::PolicyError;
pub use rules::Rules;

/// What a replica does while the store is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnStoreFailure {
    /// Goes on with a circuit of its own, begun from what it last saw of the shared one.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LatencyRecording {
    /// 0: none.
    Off,
    /// 1: a random sample. Of each thread and circuit the first 512 calls in every 5 seconds; after
    /// them one call at random out of 2, then of 4, of 8 and so on, which counts for all of them.
    /// So every call of a quiet circuit, and several hundred to 2,000 a second of a busy thread.
    /// The duration and the order of the calls have no influence on the choice. A p99 of a minute
    /// of one busy thread lies, in 95 of 100 cases, between the exact p98.8 and p99.2.
    #[default]
    Sampled,
    /// 2: every call's; each then reads a precise clock twice.
    EveryCall,
}

/// When a call that was dropped before it ended is a failure.
///
/// A future is dropped by its caller's timeout, by `select!`, by a hedged call that lost, by a
/// client that hung up, and at shutdown. Such a call is abandoned: it has a count of its own, and
/// it is a failure too where it ran for so long that the service must have hung. While the window
/// has no success at all, every abandoned call counts as a failure, since nothing else is known of
/// the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AbandonedCalls {
    /// Never a failure, unless it ran past `call_timeout` or the slow-call threshold.
    Ignored,
    /// A failure from `call_timeout` or the slow-call threshold on, where one is set, the shorter
    /// of them; otherwise from twice the 99th percentile of this process' successful calls on, and
    /// 10 ms at least. The percentile needs [`LatencyRecording`] to be on.
    #[default]
    Automatic,
    /// A failure when it ran for at least this long (`1 ms..=1 year`), or past `call_timeout` or
    /// the slow-call threshold.
    After(Duration),
}

/// The settings of a circuit.
///
/// Made by [`Policy::builder`], a preset, or serde (keys as in [`Rules`], all optional, unknown
/// ones refused); always valid. Trip conditions are or-ed. Cheap to copy around: plain numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PolicyBuilder", into = "PolicyBuilder")]
pub struct Policy {
    pub(crate) rules: Rules,
    pub(crate) on_store_failure: OnStoreFailure,
}

impl Policy {
    /// Starts from the defaults: 50 % failures of at least 20 calls in 10 s, or 20 failures in a
    /// row, open for 30 s.
    ///
    /// The rate's numbers are Hystrix's. The run opens on a total outage within 20 calls, at any
    /// traffic.
    pub fn builder() -> PolicyBuilder {
        PolicyBuilder::default()
    }

    /// Opens after `failures` failures in a row, and on nothing else.
    ///
    /// With several callers in one circuit prefer a rate: one caller that always succeeds hides
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

    /// The numbers of the policy.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What a replica does while the store is away.
    #[must_use]
    pub const fn on_store_failure(&self) -> OnStoreFailure {
        self.on_store_failure
    }

    /// Which calls' latencies are recorded.
    #[must_use]
    pub const fn latency_recording(&self) -> LatencyRecording {
        match self.rules.latency_recording {
            0 => LatencyRecording::Off,
            1 => LatencyRecording::Sampled,
            _ => LatencyRecording::EveryCall,
        }
    }

    /// When a call that was dropped is a failure.
    #[must_use]
    pub const fn abandoned_calls(&self) -> AbandonedCalls {
        match (self.rules.abandoned_calls, self.rules.abandoned_after_ms) {
            (0, _) => AbandonedCalls::Ignored,
            (_, 0) => AbandonedCalls::Automatic,
            (_, ms) => AbandonedCalls::After(Duration::from_millis(ms)),
        }
    }

    /// How long one call may take, `None` for ever.
    #[must_use]
    pub const fn call_timeout(&self) -> Option<Duration> {
        match self.rules.call_timeout_ms {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        }
    }

    /// This policy with the integers of a stored one; pairs that are not understood are left out.
    #[must_use]
    pub(crate) fn with_stored(&self, stored: &str) -> Self {
        let mut policy = self.clone();
        policy.rules.apply(stored);
        policy
    }

    /// The policy of these numbers, which somebody else has checked.
    pub(crate) fn of(rules: Rules) -> Self {
        Self {
            rules,
            on_store_failure: OnStoreFailure::default(),
        }
    }

    /// Checks `key=integer` pairs against this policy and returns them in their stored form.
    ///
    /// # Errors
    /// [`PolicyError::Pair`] for a pair that is not `key=integer` with a key of [`Rules`], else
    /// what [`PolicyBuilder::build`] finds wrong with the policy that would result.
    pub fn check_stored(&self, pairs: &str) -> Result<String, PolicyError> {
        let mut builder = PolicyBuilder::from(self.clone());
        let mut stored = Vec::new();
        for pair in pairs.split_whitespace() {
            let wrong = || PolicyError::Pair(pair.to_owned());
            let (key, value) = pair.split_once('=').ok_or_else(wrong)?;
            let number: u64 = value.parse().map_err(|_| wrong())?;
            if value.len() > 15 || !builder.rules.set(key, number) {
                return Err(wrong());
            }
            stored.push(format!("{key}={number}"));
        }
        // Without pairs the code's policy holds, whatever it is.
        if stored.is_empty() {
            return Ok(String::new());
        }
        builder.build()?;
        Ok(stored.join(" "))
    }
}
