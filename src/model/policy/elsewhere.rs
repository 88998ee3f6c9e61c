//! Names of settings in other libraries and in builders, and the keys here.
//!
//! Owns the table. For an unknown word, [`elsewhere`] is asked before similar words.
//! `docs/coming-from.md` explains the names. Within a library they are in alphabetical order.

use super::alike::{is_same, nearest};

const WINDOW: &str = "`window_calls` for a count window, `window` for a time window";
const FAILURES: &str = "`consecutive_failures_threshold` for failures in a row, `failure_count_threshold` for failures in the window";
const WAIT: &str = "`wait_duration_in_open_state`";
const MINIMUM: &str = "`minimum_number_of_calls`";
const RATE: &str = "`failure_rate_threshold`";
const PROBES: &str = "`permitted_number_of_calls_in_half_open_state`";
const RUN: &str = "`consecutive_failures_threshold`";
const CLASSIFIER: &str = "in code: a classifier for `call_with`";
const EXCLUDED: &str = "in code: a classifier for `call_with`; for timeouts `timed_out_calls`";
const LONGEST: &str = "`max_wait_duration_in_open_state`";
const PERCENT: &str = "`failure_rate_threshold`, in percent";
pub(super) const SWITCH: &str = "no setting of a policy: `enabled` of the circuit in a file or a variable, `set_enabled` in code, `commontrip disable` for the fleet";
const TIMES: &str = "`call_timeout` for how long a call may take, `wait_duration_in_open_state` for how long the circuit stays open";

/// A name elsewhere, and the setting here. Text that is not a setting does not begin with a
/// backtick.
const ELSEWHERE: &[(&str, &str)] = &[
    // Setters of this crate's builder.
    (
        "backoff",
        "`backoff_multiplier_percent` and `max_wait_duration_in_open_state`",
    ),
    ("ramp", "`ramp_duration` and `ramp_initial`"),
    ("sliding_window_count", "`window_calls`"),
    ("sliding_window_time", "`window`"),
    (
        "slow_calls",
        "`slow_call_duration_threshold` and `slow_call_rate_threshold`",
    ),
    // resilience4j
    (
        "enable_exponential_backoff",
        "`backoff_multiplier_percent`, above 100",
    ),
    ("enable_randomized_wait", "`jitter`"),
    (
        "exponential_backoff_multiplier",
        "`backoff_multiplier_percent`, in percent",
    ),
    ("exponential_max_wait_duration_in_open_state", LONGEST),
    ("ignore_exceptions", EXCLUDED),
    ("ignore_unknown_exceptions", CLASSIFIER),
    ("minimum_calls", MINIMUM),
    ("permitted_calls_in_half_open_state", PROBES),
    ("randomized_wait_factor", "`jitter`, in percent"),
    ("record_exceptions", CLASSIFIER),
    ("record_result", CLASSIFIER),
    ("ring_buffer_size_in_closed_state", "`window_calls`"),
    ("ring_buffer_size_in_half_open_state", PROBES),
    ("sliding_window_size", WINDOW),
    ("sliding_window_type", WINDOW),
    ("transition_on_result", CLASSIFIER),
    (
        "wait_interval_function_in_open_state",
        "`backoff_multiplier_percent` and `jitter`",
    ),
    // Polly
    ("break_duration", WAIT),
    (
        "break_duration_generator",
        "`backoff_multiplier_percent` and `jitter`",
    ),
    ("duration_of_break", WAIT),
    ("exceptions_allowed_before_breaking", RUN),
    ("failure_ratio", PERCENT),
    ("handled_events_allowed_before_breaking", RUN),
    ("min_throughput", MINIMUM),
    ("minimum_throughput", MINIMUM),
    ("sampling_duration", "`window`"),
    ("should_handle", CLASSIFIER),
    // opossum
    ("allow_warm_up", MINIMUM),
    ("error_filter", CLASSIFIER),
    ("error_threshold_percentage", RATE),
    ("rolling_count_buckets", "`window_buckets`"),
    ("rolling_count_timeout", "`window`"),
    ("rolling_percentiles_enabled", "`latency_recording`"),
    ("timeout", TIMES),
    ("volume_threshold", MINIMUM),
    // Hystrix
    ("circuit_breaker.enabled", SWITCH),
    ("circuit_breaker.error_threshold_percentage", RATE),
    (
        "circuit_breaker.force_closed",
        "no setting of a policy: `commontrip disable`, for a time",
    ),
    (
        "circuit_breaker.force_open",
        "no setting of a policy: `commontrip force-open`, for a time",
    ),
    ("circuit_breaker.request_volume_threshold", MINIMUM),
    ("circuit_breaker.sleep_window_in_milliseconds", WAIT),
    (
        "execution.isolation.thread.timeout_in_milliseconds",
        "`call_timeout`",
    ),
    (
        "execution.timeout.enabled",
        "`call_timeout`: without it, calls have no limit",
    ),
    ("execution_timeout_in_milliseconds", "`call_timeout`"),
    (
        "metrics.health_snapshot.interval_in_milliseconds",
        "`report_interval`",
    ),
    ("metrics.rolling_percentile.enabled", "`latency_recording`"),
    ("metrics.rolling_stats.num_buckets", "`window_buckets`"),
    ("metrics.rolling_stats.time_in_milliseconds", "`window`"),
    ("request_volume_threshold", MINIMUM),
    ("sleep_window", WAIT),
    ("sleep_window_in_milliseconds", WAIT),
    // failsafe-rs
    ("min_request_threshold", MINIMUM),
    ("num_failures", RUN),
    (
        "required_success_rate",
        "`failure_rate_threshold`: 100 minus the success rate, in percent",
    ),
    (
        "success_rate_over_time_window",
        "`failure_rate_threshold`: 100 minus the success rate, in percent",
    ),
    // tower-resilience
    ("classify_response", CLASSIFIER),
    ("consecutive_failures", RUN),
    ("failure_classifier", CLASSIFIER),
    ("permitted_calls_in_half_open", PROBES),
    ("sliding_window_duration", "`window`"),
    ("wait_duration_in_open", WAIT),
    // pybreaker, purgatory, gobreaker, MicroProfile and breakers that count failures
    (
        "backoff_multiplier",
        "`backoff_multiplier_percent`, in percent",
    ),
    ("break_time", WAIT),
    ("cooldown", WAIT),
    ("cooldown_period", WAIT),
    ("delay", WAIT),
    ("error_rate", PERCENT),
    ("error_rate_threshold", PERCENT),
    ("error_threshold", FAILURES),
    ("exclude", EXCLUDED),
    ("exclude_exceptions", EXCLUDED),
    ("excluded_exceptions", EXCLUDED),
    ("expected_exception", CLASSIFIER),
    ("expected_exceptions", CLASSIFIER),
    ("fail_max", RUN),
    ("fail_on", CLASSIFIER),
    ("failure_count", FAILURES),
    ("failure_limit", FAILURES),
    (
        "failure_model",
        "`consecutive_failures_threshold` for failures in a row, `failure_rate_threshold` for a rate",
    ),
    ("failure_rate", PERCENT),
    ("failure_threshold", FAILURES),
    ("failure_window", "`window`"),
    (
        "fallback_function",
        "in code: `.fallback(...)` of a call's result",
    ),
    ("half_open_max_calls", PROBES),
    ("half_open_max_requests", PROBES),
    ("half_open_requests", PROBES),
    ("half_open_success_threshold", "`success_threshold`"),
    (
        "half_open_timeout",
        "`max_wait_duration_in_half_open_state`",
    ),
    ("interval", "`window`"),
    ("jitter_factor", "`jitter`, in percent"),
    ("max_backoff", LONGEST),
    ("max_errors", FAILURES),
    ("max_failures", FAILURES),
    ("max_half_open_calls", PROBES),
    ("max_recovery_timeout", LONGEST),
    (
        "max_requests",
        "`permitted_number_of_calls_in_half_open_state` and `success_threshold`",
    ),
    ("min_calls", MINIMUM),
    ("min_requests", MINIMUM),
    ("minimum_requests", MINIMUM),
    ("monitoring_period", "`window`"),
    ("open_duration", WAIT),
    ("open_timeout", WAIT),
    ("recovery_timeout", WAIT),
    ("reset_timeout", WAIT),
    ("retry_timeout", WAIT),
    ("rolling_window", WINDOW),
    ("skip_on", EXCLUDED),
    ("slow_call_duration", "`slow_call_duration_threshold`"),
    (
        "slow_call_threshold",
        "`slow_call_duration_threshold` and `slow_call_rate_threshold`",
    ),
    ("success_count", "`success_threshold`"),
    ("threshold", FAILURES),
    ("time_window", "`window`"),
    ("timeout_duration", WAIT),
    ("ttl", WAIT),
    ("window_size", WINDOW),
];

/// Returns what a setting of another library, or of a builder, is here.
pub(crate) fn elsewhere(word: &str) -> Option<&'static str> {
    let found = ELSEWHERE.iter().find(|(one, _)| is_same(one, word));
    found.map(|(_, here)| *here)
}

/// Returns the similarity of the most similar name elsewhere, and the setting here.
pub(crate) fn nearest_elsewhere(word: &str) -> Option<(f64, &'static str)> {
    let names = ELSEWHERE.iter().map(|(one, _)| *one);
    let (likeness, name) = nearest(word, names)?;
    let (_, here) = ELSEWHERE.iter().find(|(one, _)| *one == name)?;
    Some((likeness, here))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Policy, Rules};

    #[test]
    fn names_of_every_library_are_answered_with_the_key_here() {
        for (given, said) in [
            ("ringBufferSizeInClosedState=5", "here it is `window_calls`"),
            ("randomized-wait-factor=5", "here it is `jitter`"),
            (
                "BreakDurationGenerator=5",
                "here it is `backoff_multiplier_percent`",
            ),
            ("rollingCountBuckets=5", "here it is `window_buckets`"),
            (
                "circuitBreaker.sleepWindowInMilliseconds=5",
                "here it is `wait_duration_in_open_state`",
            ),
            (
                "metrics.rollingStats.timeInMilliseconds=5",
                "here it is `window`",
            ),
            (
                "required_success_rate=5",
                "here it is `failure_rate_threshold`: 100 minus",
            ),
            (
                "wait_duration_in_open=5s",
                "here it is `wait_duration_in_open_state`",
            ),
            (
                "permitted_calls_in_half_open=5",
                "here it is `permitted_number_of_calls_in_half_open_state`",
            ),
            (
                "exclude=5",
                "here it is in code: a classifier for `call_with`; for timeouts `timed_out_calls`",
            ),
            (
                "half_open_timeout=5s",
                "here it is `max_wait_duration_in_half_open_state`",
            ),
            (
                "max_recovery_timeout=5m",
                "here it is `max_wait_duration_in_open_state`",
            ),
            (
                "backoffMultiplier=2",
                "here it is `backoff_multiplier_percent`, in percent",
            ),
            (
                "circuitBreaker.forceOpen=true",
                "`commontrip force-open`, for a time",
            ),
        ] {
            let error = given.parse::<Policy>().unwrap_err().to_string();
            assert!(error.contains(said), "{given}: {error}");
        }
    }

    #[test]
    fn what_is_named_here_exists_here_and_no_key_is_in_the_table() {
        for (name, here) in ELSEWHERE {
            assert!(Rules::key(name).is_err(), "{name}");
            if here.starts_with('`') {
                let key = here.split('`').nth(1).unwrap();
                assert!(Rules::key(key).is_ok(), "{name}: {key}");
            }
        }
    }

    #[test]
    fn a_number_of_failures_is_never_taken_for_percent() {
        for name in [
            "failure_threshold",
            "failureThreshold",
            "FAILURE_THRESHOLD",
            "failure-threshold",
            "failure_treshold",
            "failures_threshold",
            "failure_thresholds",
            "fail_max",
            "failmax",
            "max_failures",
            "max_failure",
            "max_errors",
            "error_threshold",
            "errors_threshold",
            "threshold",
            "failure_limit",
            "failure_count",
            "num_failures",
            "consecutive_failures",
            "exceptionsAllowedBeforeBreaking",
        ] {
            let error = Rules::key(name).unwrap_err().to_string();
            assert!(
                error.contains("`consecutive_failures_threshold`"),
                "{error}"
            );
            assert!(!error.contains("rate"), "{error}");
        }
    }

    #[test]
    fn a_time_says_which_of_two_it_may_be_and_a_unit_or_capitals_do_not_hide_a_name() {
        for (name, said) in [
            (
                "timeout",
                "`call_timeout` for how long a call may take, `wait_duration_in_open_state`",
            ),
            (
                "timeout_seconds",
                "`call_timeout` for how long a call may take",
            ),
            (
                "recovery_timeout",
                "here it is `wait_duration_in_open_state`",
            ),
            (
                "recoveryTimeoutSeconds",
                "here it is `wait_duration_in_open_state`",
            ),
            (
                "recovery_timout",
                "here it is `wait_duration_in_open_state`",
            ),
            ("reset_timeout", "here it is `wait_duration_in_open_state`"),
            (
                "expected_exception",
                "here it is in code: a classifier for `call_with`",
            ),
            ("min_throughput", "here it is `minimum_number_of_calls`"),
            ("successThreshold", "did you mean `success_threshold`?"),
            ("call_timeout_seconds", "did you mean `call_timeout`?"),
            (
                "permittedNumberOfCallsInHalfOpenState",
                "did you mean `permitted_number_of_calls_in_half_open_state`?",
            ),
            (
                "enabled",
                "no setting of a policy: `enabled` of the circuit",
            ),
        ] {
            let error = Rules::key(name).unwrap_err().to_string();
            assert!(error.contains(said), "{name}: {error}");
        }
        assert_eq!(Rules::key("success_threshold"), Ok("success_threshold"));
    }
}
