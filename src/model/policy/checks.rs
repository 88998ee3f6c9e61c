//! Settings that are within their ranges but do not fit together.
//!
//! Owns which combinations are meaningless, and which are unwise. Ranges belong to the builder.

use super::{Policy, PolicyBuilder, PolicyError, Rules};

impl Rules {
    /// Returns an error for a setting that another one makes meaningless.
    pub(super) fn contradictions(&self) -> Result<(), PolicyError> {
        macro_rules! refuse {
            ($($setting:ident, $to:literal $other:ident, if $holds:expr => $why:literal;)+) => {
                $(if $holds {
                    return Err(PolicyError::Contradiction {
                        setting: stringify!($setting),
                        value: self.$setting,
                        other: stringify!($other),
                        limit: self.$other,
                        right: concat!($why, "; set ", stringify!($setting), " to at ", $to, " ", stringify!($other)),
                    });
                })+
            };
        }
        let timeout = self.call_timeout_ms;
        refuse! {
            failure_count_threshold, "most" window_calls,
                if self.window_calls > 0 && self.failure_count_threshold > self.window_calls
                => "the window can never hold that many failures";
            slow_call_duration_threshold_ms, "most" call_timeout_ms,
                if timeout > 0 && self.slow_call_duration_threshold_ms > timeout
                => "no call can take that long";
            probe_lease_ms, "least" call_timeout_ms,
                if self.probe_lease_ms < timeout
                => "a probe that outlives its lease decides nothing, and other probes start while it still runs";
            max_wait_duration_in_half_open_state_ms, "least" call_timeout_ms,
                if self.max_wait_duration_in_half_open_state_ms < timeout
                => "the circuit opens again while a probe may still succeed";
            max_wait_duration_in_open_state_ms, "least" wait_duration_in_open_state_ms,
                if self.backoff_multiplier_percent > 100
                    && self.max_wait_duration_in_open_state_ms < self.wait_duration_in_open_state_ms
                => "no wait can be longer than the first";
        }
        Ok(())
    }

    fn unwise(&self) -> Vec<String> {
        let mut said = Vec::new();
        let (lease, timeout) = (self.probe_lease_ms, self.call_timeout_ms);
        let (half_open, slow) = (
            self.max_wait_duration_in_half_open_state_ms,
            self.slow_call_duration_threshold_ms,
        );
        if timeout == 0 && half_open < lease {
            said.push(format!(
                "max_wait_duration_in_half_open_state_ms ({half_open}) is below probe_lease_ms ({lease}): \
                 a probe that takes longer than {half_open} ms opens the circuit again"
            ));
        }
        let at_once = self.permitted_number_of_calls_in_half_open_state.max(1);
        let rounds = self.success_threshold.div_ceil(at_once);
        if half_open >= timeout && half_open < rounds.saturating_mul(timeout) {
            said.push(format!(
                "max_wait_duration_in_half_open_state_ms ({half_open}) is below what {} probes, {at_once} at a time, \
                 may take at a call_timeout_ms of {timeout}",
                self.success_threshold
            ));
        }
        if slow > lease {
            said.push(format!(
                "slow_call_duration_threshold_ms ({slow}) is above probe_lease_ms ({lease}): \
                 a probe can lose its permit before it counts as slow"
            ));
        }
        if slow == 0 && self.slow_call_rate_threshold != Self::default().slow_call_rate_threshold {
            said.push(format!(
                "slow_call_rate_threshold is {}, but no call counts as slow without slow_call_duration_threshold_ms",
                self.slow_call_rate_threshold
            ));
        }
        if self.ramp_duration_ms > 0 && self.ramp_initial == 100 {
            said.push("ramp_initial is 100: the ramp admits every call from the start".to_owned());
        }
        if self.window_calls == 0 && self.report_interval_ms > self.window_ms {
            said.push(format!(
                "report_interval_ms ({}) is above window_ms ({}): a report covers more than the window",
                self.report_interval_ms, self.window_ms
            ));
        }
        said
    }
}

impl Policy {
    /// Returns a sentence for each thing that is unwise in this policy; none for most policies.
    ///
    /// A replica logs them when it takes the policy. [`PolicyBuilder::build`] rejects settings that
    /// are meaningless. A stored policy was checked against the code of the caller who stored it.
    /// If it contradicts the code of this replica, the only sentence is the error that `build`
    /// would return.
    ///
    /// ```
    /// use std::time::Duration;
    /// use commontrip::Policy;
    ///
    /// assert!(Policy::default().warnings().is_empty());
    /// let ramp = Policy::builder().ramp(Duration::from_secs(30), 100).build()?;
    /// assert_eq!(ramp.warnings().len(), 1);
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        match PolicyBuilder::from(self.clone()).build() {
            Ok(policy) => policy.rules.unwise(),
            Err(error) => vec![error.to_string()],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Settings from a file or an operator, and the error.
    const CONTRADICTIONS: [(&str, &str); 7] = [
        (
            "window_calls=10 failure_count_threshold=20",
            "failure_count_threshold is 20, but window_calls is 10: the window can never hold that many \
             failures; set failure_count_threshold to at most window_calls",
        ),
        (
            "slow_call_duration_threshold_ms=100 call_timeout_ms=5",
            "slow_call_duration_threshold_ms is 100, but call_timeout_ms is 5: no call can take that long; set \
             slow_call_duration_threshold_ms to at most call_timeout_ms",
        ),
        (
            "call_timeout_ms=45000",
            "probe_lease_ms is 30000, but call_timeout_ms is 45000: a probe that outlives its lease decides \
             nothing, and other probes start while it still runs; set probe_lease_ms to at least call_timeout_ms",
        ),
        (
            "call_timeout_ms=90000 probe_lease_ms=90000",
            "max_wait_duration_in_half_open_state_ms is 60000, but call_timeout_ms is 90000: the circuit opens again \
             while a probe may still succeed; set max_wait_duration_in_half_open_state_ms to at least call_timeout_ms",
        ),
        (
            "call_timeout_ms=5000 max_wait_duration_in_half_open_state_ms=4999",
            "max_wait_duration_in_half_open_state_ms is 4999, but call_timeout_ms is 5000: the circuit opens again \
             while a probe may still succeed; set max_wait_duration_in_half_open_state_ms to at least call_timeout_ms",
        ),
        (
            "backoff_multiplier_percent=200 max_wait_duration_in_open_state_ms=10000",
            "max_wait_duration_in_open_state_ms is 10000, but wait_duration_in_open_state_ms is 30000: no wait can be \
             longer than the first; set max_wait_duration_in_open_state_ms to at least wait_duration_in_open_state_ms",
        ),
        (
            "failure_rate_threshold=0 consecutive_failures_threshold=0 slow_call_duration_threshold_ms=9 call_timeout_ms=8",
            "slow_call_duration_threshold_ms is 9, but call_timeout_ms is 8: no call can take that long; set \
             slow_call_duration_threshold_ms to at most call_timeout_ms",
        ),
    ];

    #[test]
    fn settings_that_mean_nothing_together_are_refused_whichever_way_they_come() {
        for (pairs, said) in CONTRADICTIONS {
            let code = Policy::default();
            let stored = code.check_stored(pairs).map_err(|error| error.to_string());
            assert_eq!(stored, Err(said.to_owned()), "{pairs}");
            let settings: Vec<_> = pairs
                .split(' ')
                .map(|pair| format!("\"{}", pair.replace('=', "\": ")))
                .collect();
            let file = format!("{{{}}}", settings.join(", "));
            let file = serde_json::from_str::<Policy>(&file).map_err(|error| error.to_string());
            assert_eq!(file, Err(said.to_owned()), "{pairs}");
            // A policy that arrives without the check, or with other code, has a warning and is
            // used.
            assert_eq!(code.with_stored(pairs).warnings(), [said], "{pairs}");
        }
    }

    #[test]
    fn a_stored_setting_is_checked_with_those_in_code() {
        let code = Policy::builder().call_timeout(ms(20_000)).build().unwrap();
        let refused = code.check_stored("probe_lease_ms=19999").unwrap_err();
        assert!(
            refused
                .to_string()
                .starts_with("probe_lease_ms is 19999, but call_timeout_ms is 20000")
        );
        assert!(code.check_stored("probe_lease_ms=20000").is_ok());
        assert!(
            Policy::default()
                .check_stored("probe_lease_ms=19999")
                .is_ok()
        );
    }

    #[test]
    fn settings_that_only_just_fit_are_taken() {
        for builder in [
            Policy::builder()
                .sliding_window_count(10)
                .failure_count_threshold(10),
            // The window does not limit a run, and it caps the minimum.
            Policy::builder()
                .sliding_window_count(10)
                .consecutive_failures_threshold(50),
            Policy::builder()
                .sliding_window_count(10)
                .minimum_number_of_calls(50),
            Policy::builder()
                .slow_calls(ms(100), 50)
                .call_timeout(ms(100)),
            Policy::builder().call_timeout(ms(30_000)),
            Policy::builder().backoff(2.0, ms(30_000)),
            // Without backoff the longest wait only limits a `retry_after`.
            Policy::builder().wait_duration_in_open_state(ms(3_600_000)),
        ] {
            let policy = builder.clone().build();
            assert_eq!(
                policy.map(|policy| policy.warnings()),
                Ok(Vec::new()),
                "{builder:?}"
            );
        }
    }

    #[test]
    fn a_zero_that_would_switch_off_is_refused_and_no_sentinel_is_shown() {
        let wait = ms(30_000);
        for (builder, said) in [
            (
                Policy::builder().failure_rate_threshold(0),
                "failure_rate_threshold is 0, but must be from 1 to 100 percent",
            ),
            (
                Policy::builder().failure_count_threshold(0),
                "failure_count_threshold is 0, but must be from 1 to 1000000000 failures",
            ),
            (
                Policy::builder().consecutive_failures_threshold(0),
                "consecutive_failures_threshold is 0, but must be from 1 to 1000000 failures",
            ),
            (
                Policy::builder().sliding_window_count(0),
                "window_calls is 0, but must be from 1 to 10000 calls",
            ),
            (
                Policy::builder().slow_calls(Duration::ZERO, 50),
                "slow_call_duration_threshold_ms is 0, but must be from 1",
            ),
            (
                Policy::builder().call_timeout(Duration::ZERO),
                "call_timeout_ms is 0, but must be from 1",
            ),
            (
                Policy::builder().ramp(Duration::ZERO, 10),
                "ramp_duration_ms is 0, but must be from 1",
            ),
            (
                Policy::builder().backoff(f64::NAN, wait),
                "the backoff factor is NaN, but must be from 1 to 100",
            ),
            (
                Policy::builder().backoff(-1.0, wait),
                "the backoff factor is -1, but must be from 1 to 100",
            ),
            (
                Policy::builder().backoff(f64::INFINITY, wait),
                "the backoff factor is inf, but must be from 1 to 100",
            ),
            (
                Policy::builder().backoff(0.999, wait),
                "the backoff factor is 0.999, but must be from 1 to 100",
            ),
            (
                Policy::builder().backoff(100.001, wait),
                "the backoff factor is 100.001, but must be from 1 to 100",
            ),
            (
                Policy::builder().failure_rate_threshold(101),
                "failure_rate_threshold is 101, but must be from 0 to 100 percent",
            ),
        ] {
            let refused = builder.build().unwrap_err().to_string();
            assert!(refused.starts_with(said), "{refused}");
        }
        // The last setter counts.
        let mended = Policy::builder()
            .failure_rate_threshold(0)
            .failure_rate_threshold(40)
            .consecutive_failures_threshold(0)
            .no_consecutive_failures_threshold()
            .sliding_window_count(0)
            .sliding_window_time(ms(1000), 10)
            .backoff(f64::NAN, wait)
            .backoff(1.5, wait);
        let rules = *mended.build().unwrap().rules();
        assert_eq!(
            (
                rules.failure_rate_threshold,
                rules.backoff_multiplier_percent
            ),
            (40, 150)
        );
    }

    #[test]
    fn what_is_unwise_is_said() {
        for (builder, said) in [
            (
                Policy::builder().probe_lease(ms(90_000)),
                "max_wait_duration_in_half_open_state_ms (60000) is below probe_lease_ms (90000): a probe that takes \
                 longer than 60000 ms opens the circuit again",
            ),
            (
                Policy::builder().slow_calls(ms(40_000), 100),
                "slow_call_duration_threshold_ms (40000) is above probe_lease_ms (30000): a probe can lose its permit \
                 before it counts as slow",
            ),
            (
                Policy::builder().ramp(ms(1000), 100),
                "ramp_initial is 100: the ramp admits every call from the start",
            ),
            (
                Policy::builder().report_interval(ms(20_000)),
                "report_interval_ms (20000) is above window_ms (10000): a report covers more than the window",
            ),
            (
                Policy::builder()
                    .call_timeout(ms(25_000))
                    .success_threshold(3)
                    .permitted_number_of_calls_in_half_open_state(1),
                "max_wait_duration_in_half_open_state_ms (60000) is below what 3 probes, 1 at a time, may take at a \
                 call_timeout_ms of 25000",
            ),
        ] {
            assert_eq!(builder.build().unwrap().warnings(), [said]);
        }
        let stored = Policy::default().with_stored("slow_call_rate_threshold=50");
        let said = "slow_call_rate_threshold is 50, but no call counts as slow without slow_call_duration_threshold_ms";
        assert_eq!(stored.warnings(), [said]);
    }
}
