//! The built-in presets.
//!
//! Owns their numbers. Each preset says what it is for and why it differs from the default.

use super::{Policy, Rules};

/// Settings that fit a kind of upstream.
type Preset = &'static [(&'static str, u64)];

/// For upstreams that are called thousands of times a second and respond within milliseconds: a
/// cache, a nearby service. It needs more evidence, which arrives quickly, and waits only briefly.
const FAST: Preset = &[
    ("window_ms", 10_000),
    ("minimum_number_of_calls", 50),
    ("consecutive_failures_threshold", 50),
    ("wait_duration_in_open_state_ms", 5_000),
    ("probe_lease_ms", 5_000),
    ("max_wait_duration_in_half_open_state_ms", 15_000),
];

/// For upstreams that take seconds to minutes and are called rarely: a model, a report, a batch.
/// Few calls must be enough to judge by, probes may be in flight for long, and each further wait is
/// twice as long, because such services recover slowly.
const SLOW_UPSTREAM: Preset = &[
    ("window_ms", 300_000),
    ("minimum_number_of_calls", 10),
    ("consecutive_failures_threshold", 10),
    ("wait_duration_in_open_state_ms", 60_000),
    ("backoff_multiplier_percent", 200),
    ("backoff_reset_after_ms", 300_000),
    ("jitter", 10),
    ("permitted_number_of_calls_in_half_open_state", 2),
    ("probe_lease_ms", 300_000),
    ("max_wait_duration_in_half_open_state_ms", 600_000),
];

/// For upstreams that fail again when all callers come back at once. One probe at a time, three
/// must succeed, and a ramp of 30 s follows, because the caches are cold.
const DATABASE: Preset = &[
    ("window_ms", 30_000),
    ("wait_duration_in_open_state_ms", 10_000),
    ("jitter", 20),
    ("permitted_number_of_calls_in_half_open_state", 1),
    ("success_threshold", 3),
    ("ramp_duration_ms", 30_000),
    ("ramp_initial", 10),
];

/// The defaults of opossum, for services that migrate from it: its rate is the only condition,
/// which waits for `volumeThreshold`, and there is one probe.
const OPOSSUM: Preset = &[
    ("minimum_number_of_calls", 1),
    ("minimum_applies_to", 1),
    ("consecutive_failures_threshold", 0),
    ("permitted_number_of_calls_in_half_open_state", 1),
    ("success_threshold", 1),
    ("call_timeout_ms", 10_000),
];

/// The defaults of Polly, for services that migrate from it: as above, with `MinimumThroughput`.
const POLLY: Preset = &[
    ("window_ms", 30_000),
    ("minimum_number_of_calls", 100),
    ("minimum_applies_to", 1),
    ("failure_rate_threshold", 10),
    ("consecutive_failures_threshold", 0),
    ("wait_duration_in_open_state_ms", 5_000),
    ("permitted_number_of_calls_in_half_open_state", 1),
    ("success_threshold", 1),
];

/// Presets by name. `default` changes nothing.
#[cfg(any(test, feature = "config"))]
pub(crate) const PRESETS: [(&str, Preset); 6] = [
    ("default", &[]),
    ("fast", FAST),
    ("slow_upstream", SLOW_UPSTREAM),
    ("database", DATABASE),
    ("opossum", OPOSSUM),
    ("polly", POLLY),
];

impl Policy {
    /// For upstreams that are called thousands of times a second and respond within milliseconds: a
    /// cache, a nearby service.
    ///
    /// It needs more evidence, which arrives quickly, and waits only 5 s: the rate needs 50 calls,
    /// and failures in a row open the circuit at 50.
    ///
    /// ```
    /// use commontrip::Policy;
    ///
    /// let policy = Policy::fast();
    /// assert!(policy.warnings().is_empty());
    /// ```
    #[must_use]
    pub fn fast() -> Self {
        Self::preset(FAST)
    }

    /// For upstreams that take seconds to minutes and are called rarely: a model, a report, a
    /// batch.
    ///
    /// 10 calls in 5 minutes are enough to judge by, a probe may be in flight for 5 minutes, and
    /// each further wait is twice as long, because such services recover slowly.
    ///
    /// ```
    /// use commontrip::Policy;
    ///
    /// let policy = Policy::slow_upstream();
    /// assert!(policy.warnings().is_empty());
    /// ```
    #[must_use]
    pub fn slow_upstream() -> Self {
        Self::preset(SLOW_UPSTREAM)
    }

    /// For upstreams that fail again when all callers come back at once.
    ///
    /// One probe at a time, three must succeed, and a ramp of 30 s follows, because the caches are
    /// cold.
    ///
    /// ```
    /// use commontrip::Policy;
    ///
    /// let policy = Policy::database();
    /// assert!(policy.warnings().is_empty());
    /// ```
    #[must_use]
    pub fn database() -> Self {
        Self::preset(DATABASE)
    }

    /// The defaults of opossum, for services that migrate from it.
    ///
    /// 50 % of at least 1 call in 10 s, 30 s open, one probe, calls of at most 10 s. Further
    /// conditions also wait for `minimum_number_of_calls`, which is its `volumeThreshold`.
    ///
    /// ```
    /// use commontrip::{MinimumAppliesTo, Policy};
    ///
    /// let policy = Policy::opossum();
    /// assert_eq!(policy.minimum_applies_to(), MinimumAppliesTo::EveryCondition);
    /// ```
    #[must_use]
    pub fn opossum() -> Self {
        Self::preset(OPOSSUM)
    }

    /// The defaults of Polly, for services that migrate from it.
    ///
    /// 10 % of at least 100 calls in 30 s, 5 s open, one probe. Further conditions also wait for
    /// `minimum_number_of_calls`, which is its `MinimumThroughput`.
    ///
    /// ```
    /// use commontrip::Policy;
    ///
    /// assert_eq!(Policy::polly().rules().minimum_number_of_calls, 100);
    /// ```
    #[must_use]
    pub fn polly() -> Self {
        Self::preset(POLLY)
    }

    fn preset(settings: Preset) -> Self {
        let mut rules = Rules::default();
        for (key, number) in settings {
            rules.set(key, *number);
        }
        Self::of(rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::PolicyBuilder;

    #[test]
    fn every_preset_is_a_policy_without_warnings() {
        for (name, settings) in PRESETS {
            let policy = Policy::preset(settings);
            let built = PolicyBuilder::from(policy.clone()).build();
            assert_eq!(built.as_ref(), Ok(&policy), "{name}");
            assert_eq!(policy.warnings(), Vec::<String>::new(), "{name}");
        }
    }
}
