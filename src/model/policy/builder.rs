//! Building a policy: setters and ranges.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use super::{AbandonedCalls, LatencyRecording, OnStoreFailure, Policy, PolicyError, Rules};
use crate::model::millis;

/// The longest duration that a policy takes: a year.
const YEAR_MS: u64 = 365 * 86_400_000;

/// Builds a [`Policy`].
///
/// Every setter takes any value; [`build`](Self::build) says what is out of range. Durations are
/// kept in whole milliseconds, rounded up.
///
/// ```
/// use std::time::Duration;
/// use commontrip::Policy;
///
/// let policy = Policy::builder()
///     .sliding_window_time(Duration::from_secs(30), 10)
///     .failure_rate_threshold(25)
///     .wait_duration_in_open_state(Duration::from_secs(30))
///     .build()?;
/// # Ok::<(), commontrip::PolicyError>(())
/// ```
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[must_use]
pub struct PolicyBuilder {
    #[serde(flatten, with = "pairs")]
    pub(super) rules: Rules,
    on_store_failure: OnStoreFailure,
    /// What setters were given a 0 for that would switch it off.
    #[serde(skip)]
    zeros: BTreeSet<&'static str>,
    /// A backoff factor that is out of range.
    #[serde(skip)]
    bad_factor: Option<String>,
}

/// Rules as a map of which any part may be missing, and nothing else may be there.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use super::Rules;

    pub(super) fn serialize<S: Serializer>(rules: &Rules, to: S) -> Result<S::Ok, S::Error> {
        rules.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Rules, D::Error> {
        let mut rules = Rules::default();
        for (key, value) in BTreeMap::<String, u64>::deserialize(from)? {
            if !rules.set(&key, value) {
                let known = Rules::KEYS.join(", ");
                return Err(D::Error::custom(format!(
                    "unknown setting `{key}`; known are on_store_failure, {known}"
                )));
            }
        }
        Ok(rules)
    }
}

impl PolicyBuilder {
    /// Sets a number of which 0 means "off", so that `build` refuses a 0.
    fn on(mut self, setting: &'static str, value: u64) -> Self {
        self = self.off(setting);
        self.rules.set(setting, value);
        if value == 0 {
            self.zeros.insert(setting);
        }
        self
    }

    fn off(mut self, setting: &'static str) -> Self {
        self.rules.set(setting, 0);
        self.zeros.remove(setting);
        self
    }

    /// Counts the calls of the last `length`, in `buckets` parts that leave one by one.
    ///
    /// Length `1 ms..=1 year`, default 10 s; buckets `1..=100`, default 10 and at most one a
    /// millisecond.
    pub fn sliding_window_time(mut self, length: Duration, buckets: u64) -> Self {
        self.rules.window_ms = millis(length);
        self.rules.window_buckets = buckets;
        self.off("window_calls")
    }

    /// Counts the last `calls` calls of the fleet, exactly. Range `1..=10_000`.
    ///
    /// A report brings a batch without an order; its outcomes are spread evenly in the ring.
    /// `minimum_number_of_calls` is at most the length (resilience4j).
    pub fn sliding_window_count(self, calls: u64) -> Self {
        self.on("window_calls", calls)
    }

    /// Sets the failure rate at which the circuit opens.
    ///
    /// Unit: percent of recorded calls, `1..=100`, compared with `>=`. Default 50 (Hystrix). The
    /// newest half of a time window is judged alone once it has ten times
    /// `minimum_number_of_calls`, and the whole window half the threshold: a healthy past then
    /// hides a failing majority half as long. Ignored until `minimum_number_of_calls` are in the
    /// window.
    pub fn failure_rate_threshold(self, percent: u64) -> Self {
        self.on("failure_rate_threshold", percent)
    }

    /// Switches the failure rate off; another trip condition must be on.
    pub fn no_failure_rate_threshold(self) -> Self {
        self.off("failure_rate_threshold")
    }

    /// Sets how many calls of the fleet must be in the window before a rate opens.
    ///
    /// Range `1..=1_000_000_000`. Default 20.
    pub fn minimum_number_of_calls(mut self, calls: u64) -> Self {
        self.rules.minimum_number_of_calls = calls;
        self
    }

    /// Opens at this many failures in the window. Range `1..=1_000_000_000`, and at most the length
    /// of a count window. Default off.
    pub fn failure_count_threshold(self, failures: u64) -> Self {
        self.on("failure_count_threshold", failures)
    }

    /// Opens at this many failures in a row, over the fleet. Range `1..=1_000_000`. Default 20.
    ///
    /// A run has no time limit: it lasts until a call succeeds, also when its failures have left
    /// the window. Runs are counted in each replica and joined in the order in which reports
    /// arrive. A replica whose own calls all fail therefore opens the circuit for every replica
    /// once it reports this many failures together; see [`quorum`](Self::quorum).
    pub fn consecutive_failures_threshold(self, failures: u64) -> Self {
        self.on("consecutive_failures_threshold", failures)
    }

    /// Switches consecutive failures off; another trip condition must be on.
    pub fn no_consecutive_failures_threshold(self) -> Self {
        self.off("consecutive_failures_threshold")
    }

    /// Calls that take at least `threshold` are slow, and open the circuit at `percent` of calls.
    ///
    /// Threshold `1 ms..=1 year`, and at most `call_timeout`; percent `1..=100`. Default off. Every
    /// call then reads a precise clock twice. A slow probe counts as a failed one.
    pub fn slow_calls(mut self, threshold: Duration, percent: u64) -> Self {
        self.rules.slow_call_rate_threshold = percent;
        self.on("slow_call_duration_threshold_ms", millis(threshold))
    }

    /// Sets how many replicas must have failed within the window before the circuit opens for all.
    ///
    /// Unit: distinct replicas that reported a failure (or, with `slow_calls`, a slow call) within
    /// the window's length; with a count window that length is the one of a time window, 10 s
    /// unless `window_ms` says otherwise. Range `1..=1000`. Default 1. It is capped by the number
    /// of replicas that reported within that time (15 s at least), so that a small fleet can still
    /// open. Below it no condition opens the shared circuit, nor does
    /// [`Outcome::Trip`](crate::Outcome::Trip); a replica whose own calls meet one opens for
    /// itself alone. Probes decide in half-open without it.
    pub fn quorum(mut self, replicas: u64) -> Self {
        self.rules.quorum = replicas;
        self
    }

    /// Sets how long the circuit stays open before probes go out.
    ///
    /// Range `1 ms..=1 year`. Default 30 s. Less than `probe_lease` is accepted; what is then not
    /// promised: that a store which lost everything keeps the probe limit when the circuit trips
    /// again within an old probe's lease.
    pub fn wait_duration_in_open_state(mut self, wait: Duration) -> Self {
        self.rules.wait_duration_in_open_state_ms = millis(wait);
        self
    }

    /// Makes each consecutive wait `factor` times the one before, up to `longest`.
    ///
    /// Factor `1.0..=100.0`, kept in hundredths; default 1 (off). `longest` `1 ms..=1 year`,
    /// default 10 min; with a factor above 1 at least the first wait. It also limits what a
    /// `retry_after` can ask for.
    pub fn backoff(mut self, factor: f64, longest: Duration) -> Self {
        self.bad_factor = None;
        if (1.0..=100.0).contains(&factor) {
            self.rules.backoff_multiplier_percent = (factor * 100.0).round() as u64;
        } else {
            self.bad_factor = Some(factor.to_string());
        }
        self.rules.max_wait_duration_in_open_state_ms = millis(longest);
        self
    }

    /// Lengthens each wait at random by up to `percent`. Range `0..=100`. Default 0.
    ///
    /// Waits are only ever lengthened, so that a wait of at least `probe_lease` stays one.
    pub fn jitter(mut self, percent: u64) -> Self {
        self.rules.jitter = percent;
        self
    }

    /// Sets how long the circuit must have been closed for the backoff to start anew.
    ///
    /// Range `0..=1 year`. Default 60 s. 0 = every open waits the first wait, except in the ramp.
    pub fn backoff_reset_after(mut self, calm: Duration) -> Self {
        self.rules.backoff_reset_after_ms = millis(calm);
        self
    }

    /// Sets how many probes may be out at once, over the whole fleet. Range `1..=1000`. Default 3.
    pub fn permitted_number_of_calls_in_half_open_state(mut self, probes: u64) -> Self {
        self.rules.permitted_number_of_calls_in_half_open_state = probes;
        self
    }

    /// Sets how many probes must succeed to close. Range `1..=1_000_000`. Default 2.
    pub fn success_threshold(mut self, successes: u64) -> Self {
        self.rules.success_threshold = successes;
        self
    }

    /// Sets how many probes must fail to open again. Range `1..=1_000_000`. Default 1.
    pub fn half_open_failure_threshold(mut self, failures: u64) -> Self {
        self.rules.half_open_failure_threshold = failures;
        self
    }

    /// Opens again when half-open has lasted this long with probes out or lost.
    ///
    /// Range `1 ms..=1 year`, and at least `call_timeout`. Default 60 s. A half-open that only
    /// lacked calls waits on.
    pub fn max_wait_duration_in_half_open_state(mut self, wait: Duration) -> Self {
        self.rules.max_wait_duration_in_half_open_state_ms = millis(wait);
        self
    }

    /// Sets how long a probe may be out before its permit goes to another.
    ///
    /// Range `1 ms..=1 year`, and at least `call_timeout`. Default 30 s. Choose it above the
    /// longest call.
    pub fn probe_lease(mut self, lease: Duration) -> Self {
        self.rules.probe_lease_ms = millis(lease);
        self
    }

    /// After recovery admits a share that grows from `initial` percent to all over `duration`.
    ///
    /// Duration `1 ms..=1 year`, default off; initial `1..=100`, default 10.
    pub fn ramp(mut self, duration: Duration, initial: u64) -> Self {
        self.rules.ramp_initial = initial;
        self.on("ramp_duration_ms", millis(duration))
    }

    /// Sets how long one call may take; a call that takes longer is dropped and has failed.
    ///
    /// Range `1 ms..=1 year`. Default off. Above 30 s, the default of
    /// [`probe_lease`](Self::probe_lease), set that too, to at least this; above 60 s also
    /// [`max_wait_duration_in_half_open_state`](Self::max_wait_duration_in_half_open_state).
    pub fn call_timeout(self, timeout: Duration) -> Self {
        self.on("call_timeout_ms", millis(timeout))
    }

    /// Sets how long a decision is good without news of the circuit.
    ///
    /// Range `0..=1 hour`. Default 250 ms. 0 = strict: ask the store at every call.
    pub fn decision_ttl(mut self, ttl: Duration) -> Self {
        self.rules.decision_ttl_ms = millis(ttl);
        self
    }

    /// Sets the shortest time between two reports of one replica.
    ///
    /// Range `0..=1 hour`. Default 100 ms. 0 = at once, coalesced while one is under way.
    pub fn report_interval(mut self, interval: Duration) -> Self {
        self.rules.report_interval_ms = millis(interval);
        self
    }

    /// Sets which calls' latencies are recorded. Default [`LatencyRecording::Sampled`].
    pub fn latency_recording(mut self, choice: LatencyRecording) -> Self {
        self.rules.latency_recording = choice as u64;
        self
    }

    /// Sets when a call that was dropped before it ended is a failure. Default
    /// [`AbandonedCalls::Automatic`].
    ///
    /// In files and stored policies `abandoned_calls` is 0 for `Ignored` and 1 for the others, and
    /// `abandoned_after_ms` is 0 for `Automatic`.
    pub fn abandoned_calls(mut self, choice: AbandonedCalls) -> Self {
        let (counted, after_ms) = match choice {
            AbandonedCalls::Ignored => (0, 0),
            AbandonedCalls::Automatic => (1, 0),
            AbandonedCalls::After(time) => (1, millis(time).max(1)),
        };
        self.rules.abandoned_calls = counted;
        self.rules.abandoned_after_ms = after_ms;
        self
    }

    /// Sets what a replica does while the store is away. Default [`OnStoreFailure::Local`].
    pub fn on_store_failure(mut self, choice: OnStoreFailure) -> Self {
        self.on_store_failure = choice;
        self
    }

    /// Checks the settings and makes the policy.
    ///
    /// # Errors
    /// [`PolicyError::OutOfRange`] names the first setting that is out of its range,
    /// [`PolicyError::BackoffFactor`] a factor that is;
    /// [`PolicyError::NoTripCondition`] when nothing could open the circuit;
    /// [`PolicyError::Contradiction`] when a setting means nothing beside another.
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
            window_buckets in 1, r.window_ms.min(100), "buckets (at most one a millisecond of window_ms)";
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
    use super::*;

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
        // What somebody wrote past the check.
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
