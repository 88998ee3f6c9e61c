//! Builds and checks a policy: ranges.

use super::{Policy, PolicyBuilder, PolicyError};

/// The longest duration in a policy: a year.
const YEAR_MS: u64 = 365 * 86_400_000;

impl PolicyBuilder {
    /// Checks the settings and makes the policy.
    ///
    /// ```
    /// use commontrip::{Policy, PolicyError};
    ///
    /// assert!(matches!(
    ///     Policy::builder().failure_rate_threshold(101).build(),
    ///     Err(PolicyError::OutOfRange { .. })
    /// ));
    /// ```
    ///
    /// # Errors
    /// [`PolicyError::OutOfRange`] for the first setting that is out of its range;
    /// [`PolicyError::BackoffFactor`] for a backoff factor that is out of range;
    /// [`PolicyError::NoTripCondition`] if nothing could open the circuit;
    /// [`PolicyError::Contradiction`] if one setting makes another one meaningless.
    pub fn build(self) -> Result<Policy, PolicyError> {
        const MS: &str = "ms";
        let r = &self.rules;
        let check = |setting, value, min: u64, max, unit| {
            let min = min.max(u64::from(self.zeros.contains(setting)));
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(PolicyError::OutOfRange {
                    setting,
                    value,
                    min,
                    max,
                    unit,
                })
            }
        };
        macro_rules! within {
            ($($name:ident in $min:expr, $max:expr, $unit:expr;)+) => {
                $(check(stringify!($name), r.$name, $min, $max, $unit)?;)+
            };
        }
        within! {
            window_ms in 1, YEAR_MS, MS;
            window_buckets in 1, r.window_ms.min(100), "buckets (at most one per millisecond of window_ms)";
            window_calls in 0, 10_000, "calls (1 or more for a count window)";
            minimum_number_of_calls in 1, 1_000_000_000, "calls";
            failure_rate_threshold in 0, 100, "percent (1 or more, or no_failure_rate_threshold)";
            failure_count_threshold in 0, 1_000_000_000, "failures";
            consecutive_failures_threshold in 0, 1_000_000, "failures (1 or more, or no_consecutive_failures_threshold)";
            slow_call_rate_threshold in 1, 100, "percent";
            wait_duration_in_open_state_ms in 1, YEAR_MS, MS;
            backoff_multiplier_percent in 100, 10_000, "percent (a factor from 1 to 100)";
            max_wait_duration_in_open_state_ms in 1, YEAR_MS, MS;
            jitter in 0, 100, "percent";
            backoff_reset_after_ms in 0, YEAR_MS, MS;
            permitted_number_of_calls_in_half_open_state in 1, 1000, "probes";
            success_threshold in 1, 1_000_000, "probes";
            half_open_failure_threshold in 1, 1_000_000, "probes";
            max_wait_duration_in_half_open_state_ms in 1, YEAR_MS, MS;
            probe_lease_ms in 1, YEAR_MS, MS;
            ramp_duration_ms in 0, YEAR_MS, MS;
            report_interval_ms in 0, 3_600_000, MS;
            slow_call_duration_threshold_ms in 0, YEAR_MS, MS;
            ramp_initial in 1, 100, "percent";
            call_timeout_ms in 0, YEAR_MS, MS;
            decision_ttl_ms in 0, 3_600_000, MS;
            quorum in 1, 1000, "replicas";
            latency_recording in 0, 2, "(0 off, 1 sampled, 2 every call)";
            abandoned_calls in 0, 1, "(0 ignored, 1 counted)";
            abandoned_after_ms in 0, YEAR_MS, "ms (0 = automatic)";
            history in 0, 1, "(0 off, 1 on)";
            minimum_applies_to in 0, 1, "(0 rates, 1 every condition)";
            timed_out_calls in 0, 1, "(0 ignored, 1 counted)";
        }
        let conditions = [
            r.failure_rate_threshold,
            r.failure_count_threshold,
            r.consecutive_failures_threshold,
            r.slow_call_duration_threshold_ms,
        ];
        if conditions == [0; 4] {
            return Err(PolicyError::NoTripCondition);
        }
        if let Some(factor) = self.bad_factor {
            return Err(PolicyError::BackoffFactor(factor));
        }
        r.contradictions()?;
        Ok(Policy {
            rules: self.rules,
            on_store_failure: self.on_store_failure,
        })
    }
}

impl TryFrom<PolicyBuilder> for Policy {
    type Error = PolicyError;

    fn try_from(builder: PolicyBuilder) -> Result<Self, PolicyError> {
        builder.build()
    }
}

impl From<Policy> for PolicyBuilder {
    fn from(policy: Policy) -> Self {
        Self {
            rules: policy.rules,
            on_store_failure: policy.on_store_failure,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{LatencyRecording, OnStoreFailure};

    #[test]
    fn an_error_names_the_setting_and_its_range() {
        let refused = |builder: PolicyBuilder| builder.build().unwrap_err().to_string();
        assert_eq!(
            refused(Policy::builder().failure_rate_threshold(101)),
            "failure_rate_threshold is 101, but must be from 0 to 100 percent (1 or more, or no_failure_rate_threshold)"
        );
        assert!(refused(Policy::builder().failure_rate_threshold(0)).starts_with("failure_rate"));
        assert!(refused(Policy::builder().sliding_window_count(0)).starts_with("window_calls"));
        assert!(
            refused(
                Policy::builder()
                    .no_failure_rate_threshold()
                    .no_consecutive_failures_threshold()
            )
            .starts_with("no trip condition")
        );
        assert!(
            refused(Policy::builder().sliding_window_time(Duration::ZERO, 10))
                .starts_with("window_ms is 0")
        );
    }

    #[test]
    fn a_file_names_any_part_and_nothing_else() {
        let policy: Policy =
            serde_json::from_str(r#"{"failure_rate_threshold": 30, "on_store_failure": "reject"}"#)
                .unwrap();
        assert_eq!(policy.rules().failure_rate_threshold, 30);
        assert_eq!(policy.on_store_failure(), OnStoreFailure::Reject);
        let back: Policy = serde_json::from_str(&serde_json::to_string(&policy).unwrap()).unwrap();
        assert_eq!(back, policy);
        let wrong = serde_json::from_str::<Policy>(r#"{"failure_rate": 30}"#).unwrap_err();
        assert!(wrong.to_string().contains("unknown setting `failure_rate`"));
        let wrong = serde_json::from_str::<Policy>(r#"{"jitter": 101}"#).unwrap_err();
        assert!(wrong.to_string().contains("jitter is 101"));
    }

    #[test]
    fn what_latencies_are_recorded_is_said_by_a_word_in_code_and_a_number_elsewhere() {
        use LatencyRecording::{EveryCall, Off, Sampled};

        let policy = Policy::default();
        assert_eq!(policy.latency_recording(), Sampled);
        for (number, choice) in [(0, Off), (1, Sampled), (2, EveryCall)] {
            let built = Policy::builder().latency_recording(choice).build().unwrap();
            assert_eq!(built.latency_recording(), choice);
            let file = format!(r#"{{"latency_recording": {number}}}"#);
            assert_eq!(serde_json::from_str::<Policy>(&file).unwrap(), built);
            let stored = policy.check_stored(&format!("latency_recording={number}"));
            assert_eq!(policy.with_stored(&stored.unwrap()), built);
        }
        let wrong = policy.check_stored("latency_recording=3").unwrap_err();
        assert_eq!(
            wrong.to_string(),
            "latency_recording is 3, but must be from 0 to 2 (0 off, 1 sampled, 2 every call)"
        );
        // A value that was written without the check.
        assert_eq!(policy.with_stored("latency_recording=3"), policy);
    }

    #[test]
    fn a_stored_policy_is_checked_as_a_whole() {
        let policy = Policy::default();
        let stored = policy.check_stored(" jitter=5  window_ms=1000 ").unwrap();
        assert_eq!(stored, "jitter=5 window_ms=1000");
        assert_eq!(policy.with_stored(&stored).rules().jitter, 5);
        assert!(policy.check_stored("jitter=500").is_err());
        assert!(policy.check_stored("jitters=5").is_err());
        assert!(policy.check_stored("jitter=-5").is_err());
        let none = "failure_rate_threshold=0 consecutive_failures_threshold=0";
        assert!(policy.check_stored(none).is_err());
    }
}
