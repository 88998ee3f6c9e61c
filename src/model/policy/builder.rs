//! Building a policy: setters and ranges.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    AbandonedCalls, LatencyRecording, MinimumAppliesTo, OnStoreFailure, Rules, TimedOutCalls, pairs,
};
use crate::model::millis;

/// Builds a [`Policy`](crate::Policy).
///
/// Every setter takes any value; [`build`](Self::build) returns an error for values that are out of
/// range. Durations are kept in whole milliseconds, rounded up.
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
    pub(super) on_store_failure: OnStoreFailure,
    /// Settings that were set to 0 although 0 would switch them off.
    #[serde(skip)]
    pub(super) zeros: BTreeSet<&'static str>,
    /// A backoff factor that is out of range.
    #[serde(skip)]
    pub(super) bad_factor: Option<String>,
}

impl PolicyBuilder {
    /// Sets a number that 0 would switch off, so that `build` rejects a 0.
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

    /// Uses a time window: the calls of the last `length`, in `buckets` parts that expire one by
    /// one.
    ///
    /// Length `1 ms..=1 year`, default 10 s. Buckets `1..=100`, default 10, at most one per
    /// millisecond.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// use std::time::Duration;
    /// let policy = Policy::builder().sliding_window_time(Duration::from_secs(60), 6).build()?;
    /// assert_eq!(policy.rules().window_ms, 60_000);
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn sliding_window_time(mut self, length: Duration, buckets: u64) -> Self {
        self.rules.window_ms = millis(length);
        self.rules.window_buckets = buckets;
        self.off("window_calls")
    }

    /// Uses a count window: exactly the last `calls` calls of the fleet. Range `1..=10_000`.
    ///
    /// A report is a batch without an order, so its outcomes are spread evenly in the window.
    /// `minimum_number_of_calls` is capped at the length of the window (resilience4j).
    ///
    /// ```
    /// # use commontrip::Policy;
    /// let policy = Policy::builder().sliding_window_count(100).build()?;
    /// assert_eq!(policy.rules().window_calls, 100);
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn sliding_window_count(self, calls: u64) -> Self {
        self.on("window_calls", calls)
    }

    /// Sets the failure rate at which the circuit opens.
    ///
    /// Unit: percent of recorded calls, `1..=100`, compared with `>=`. Default 50 (Hystrix).
    /// Ignored until `minimum_number_of_calls` calls are in the window. The newest half of a time
    /// window is also compared alone, if it has ten times `minimum_number_of_calls` and the whole
    /// window has at least half the threshold. So a healthy past hides a failing majority only half
    /// as long.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// let policy = Policy::builder().failure_rate_threshold(25).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn failure_rate_threshold(self, percent: u64) -> Self {
        self.on("failure_rate_threshold", percent)
    }

    /// Switches off the failure rate. Another trip condition must be on.
    pub fn no_failure_rate_threshold(self) -> Self {
        self.off("failure_rate_threshold")
    }

    /// Sets how many calls of the fleet must be in the window before a rate can open the circuit.
    ///
    /// Range `1..=1_000_000_000`. Default 20.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// let policy = Policy::builder().minimum_number_of_calls(20).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn minimum_number_of_calls(mut self, calls: u64) -> Self {
        self.rules.minimum_number_of_calls = calls;
        self
    }

    /// Sets which conditions [`minimum_number_of_calls`](Self::minimum_number_of_calls) applies to.
    /// Default [`MinimumAppliesTo::Rates`].
    ///
    /// ```
    /// use commontrip::{MinimumAppliesTo, Policy};
    /// let policy = Policy::builder()
    ///     .consecutive_failures_threshold(5)
    ///     .minimum_number_of_calls(10)
    ///     .minimum_applies_to(MinimumAppliesTo::EveryCondition)
    ///     .build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn minimum_applies_to(mut self, choice: MinimumAppliesTo) -> Self {
        self.rules.minimum_applies_to = choice as u64;
        self
    }

    /// Opens the circuit at this many failures in the window. Range `1..=1_000_000_000`, and at
    /// most the length of a count window. Default off.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// let policy = Policy::builder().failure_count_threshold(10).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn failure_count_threshold(self, failures: u64) -> Self {
        self.on("failure_count_threshold", failures)
    }

    /// Opens the circuit at this many failures in a row, across the fleet. Range `1..=1_000_000`.
    /// Default 20.
    ///
    /// A run has no time limit: it lasts until a call succeeds, even after its failures have left
    /// the window. Each replica counts its own runs, and they are joined in the order in which
    /// reports arrive. So a replica whose own calls all fail opens the circuit for every replica
    /// once it reports this many failures together; see [`quorum`](Self::quorum).
    ///
    /// ```
    /// # use commontrip::Policy;
    /// let policy = Policy::builder().consecutive_failures_threshold(5).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn consecutive_failures_threshold(self, failures: u64) -> Self {
        self.on("consecutive_failures_threshold", failures)
    }

    /// Switches off consecutive failures. Another trip condition must be on.
    pub fn no_consecutive_failures_threshold(self) -> Self {
        self.off("consecutive_failures_threshold")
    }

    /// Counts calls that take at least `threshold` as slow, and opens the circuit at `percent` slow
    /// calls.
    ///
    /// Threshold `1 ms..=1 year`, and at most `call_timeout`; percent `1..=100`. Default off. If
    /// on, every call reads a precise clock twice. A slow probe counts as a failed one.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// use std::time::Duration;
    /// let policy = Policy::builder().slow_calls(Duration::from_secs(2), 80).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn slow_calls(mut self, threshold: Duration, percent: u64) -> Self {
        self.rules.slow_call_rate_threshold = percent;
        self.on("slow_call_duration_threshold_ms", millis(threshold))
    }

    /// Sets how many replicas must have failed within the window before the circuit opens for all.
    ///
    /// Unit: distinct replicas that reported a failure (or, with `slow_calls`, a slow call) within
    /// the window's length. With a count window, this is the length of a time window: 10 s unless
    /// `window_ms` says otherwise. Range `1..=1000`. Default 1. Replicas are distinguished by their
    /// [name](crate::CommontripBuilder::replica) without its random part, so that a replica that
    /// crashes and restarts repeatedly counts once.
    ///
    /// The quorum is capped at the number of replicas that reported within that time (at least 15
    /// s, plus up to 5 s), so that a small fleet can still open its circuit. When a fleet shrinks
    /// below its quorum, its shared circuit can open only after that time; until then each replica
    /// whose own calls fail opens its local circuit. Below the quorum, no condition opens the
    /// shared circuit, and neither does [`Outcome::Trip`](crate::Outcome::Trip): a replica whose
    /// own calls meet a condition opens only its local circuit. In half-open, probes decide without
    /// a quorum.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// let policy = Policy::builder().quorum(3).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn quorum(mut self, replicas: u64) -> Self {
        self.rules.quorum = replicas;
        self
    }

    /// Sets how long the circuit stays open before it permits probes.
    ///
    /// Range `1 ms..=1 year`. Default 30 s. A wait shorter than `probe_lease` is accepted. Then, if
    /// the store loses everything and the circuit trips again within an old probe's lease, more
    /// probes than permitted may be in flight.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// use std::time::Duration;
    /// let policy = Policy::builder().wait_duration_in_open_state(Duration::from_secs(30)).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn wait_duration_in_open_state(mut self, wait: Duration) -> Self {
        self.rules.wait_duration_in_open_state_ms = millis(wait);
        self
    }

    /// Makes each consecutive wait `factor` times as long as the previous one, up to `longest`.
    ///
    /// Factor `1.0..=100.0`, kept in hundredths; default 1 (off). `longest` `1 ms..=1 year`,
    /// default 10 min; with a factor above 1 it must be at least the first wait. It also limits a
    /// `retry_after`.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// use std::time::Duration;
    /// let policy = Policy::builder().backoff(2.0, Duration::from_secs(300)).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
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
    /// Waits are only lengthened, so a wait of at least `probe_lease` stays at least that long.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// let policy = Policy::builder().jitter(20).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn jitter(mut self, percent: u64) -> Self {
        self.rules.jitter = percent;
        self
    }

    /// Sets how long the circuit must be closed before the backoff starts again.
    ///
    /// Range `0..=1 year`. Default 60 s. 0 = each time it opens, the circuit waits the first wait,
    /// except during the ramp.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// use std::time::Duration;
    /// let policy = Policy::builder().backoff_reset_after(Duration::from_secs(600)).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn backoff_reset_after(mut self, calm: Duration) -> Self {
        self.rules.backoff_reset_after_ms = millis(calm);
        self
    }

    /// Sets how many probes may be in flight at once, across the fleet. Range `1..=1000`. Default
    /// 3.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// let policy = Policy::builder().permitted_number_of_calls_in_half_open_state(5).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn permitted_number_of_calls_in_half_open_state(mut self, probes: u64) -> Self {
        self.rules.permitted_number_of_calls_in_half_open_state = probes;
        self
    }

    /// Sets how many probes must succeed to close the circuit. Range `1..=1_000_000`. Default 2.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// let policy = Policy::builder().success_threshold(3).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn success_threshold(mut self, successes: u64) -> Self {
        self.rules.success_threshold = successes;
        self
    }

    /// Sets how many probes must fail to open the circuit again. Range `1..=1_000_000`. Default 1.
    pub fn half_open_failure_threshold(mut self, failures: u64) -> Self {
        self.rules.half_open_failure_threshold = failures;
        self
    }

    /// Opens the circuit again when half-open has lasted this long with probes in flight or lost.
    ///
    /// Range `1 ms..=1 year`, and at least `call_timeout`. Default 60 s. A half-open circuit that
    /// only lacks calls waits longer.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// use std::time::Duration;
    /// let policy = Policy::builder().max_wait_duration_in_half_open_state(Duration::from_secs(60)).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn max_wait_duration_in_half_open_state(mut self, wait: Duration) -> Self {
        self.rules.max_wait_duration_in_half_open_state_ms = millis(wait);
        self
    }

    /// Sets how long a probe may be in flight before its permit goes to another call.
    ///
    /// Range `1 ms..=1 year`, and at least `call_timeout`. Default 30 s. Choose it above the
    /// longest call.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// use std::time::Duration;
    /// let policy = Policy::builder().probe_lease(Duration::from_secs(90)).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn probe_lease(mut self, lease: Duration) -> Self {
        self.rules.probe_lease_ms = millis(lease);
        self
    }

    /// Admits a growing share of calls after recovery: from `initial` percent to all, over
    /// `duration`.
    ///
    /// Duration `1 ms..=1 year`, default off; initial `1..=100`, default 10.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// use std::time::Duration;
    /// let policy = Policy::builder().ramp(Duration::from_secs(30), 10).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn ramp(mut self, duration: Duration, initial: u64) -> Self {
        self.rules.ramp_initial = initial;
        self.on("ramp_duration_ms", millis(duration))
    }

    /// Sets how long one call may take. A call that takes longer is dropped and is a failure.
    ///
    /// Range `1 ms..=1 year`. Default off. A `call_timeout` above 30 s needs a
    /// [`probe_lease`](Self::probe_lease) of at least the same length (default 30 s). Above 60 s it
    /// also needs a longer
    /// [`max_wait_duration_in_half_open_state`](Self::max_wait_duration_in_half_open_state).
    ///
    /// ```
    /// # use commontrip::Policy;
    /// use std::time::Duration;
    /// let policy = Policy::builder().call_timeout(Duration::from_secs(2)).build()?;
    /// assert_eq!(policy.call_timeout(), Some(Duration::from_secs(2)));
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn call_timeout(self, timeout: Duration) -> Self {
        self.on("call_timeout_ms", millis(timeout))
    }

    /// Sets how long a cached decision is valid without an update.
    ///
    /// Range `0..=1 hour`. Default 250 ms. 0 = strict: every call asks the store.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// use std::time::Duration;
    /// let policy = Policy::builder().decision_ttl(Duration::from_millis(500)).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn decision_ttl(mut self, ttl: Duration) -> Self {
        self.rules.decision_ttl_ms = millis(ttl);
        self
    }

    /// Sets the shortest time between two reports of one replica.
    ///
    /// Range `0..=1 hour`. Default 100 ms. 0 = reports are sent at once, and coalesced while one is
    /// under way.
    ///
    /// ```
    /// # use commontrip::Policy;
    /// use std::time::Duration;
    /// let policy = Policy::builder().report_interval(Duration::from_millis(200)).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn report_interval(mut self, interval: Duration) -> Self {
        self.rules.report_interval_ms = millis(interval);
        self
    }

    /// Sets which calls' latencies are recorded. Default [`LatencyRecording::Sampled`].
    ///
    /// ```
    /// # use commontrip::Policy;
    /// use commontrip::LatencyRecording;
    /// let policy = Policy::builder().latency_recording(LatencyRecording::EveryCall).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn latency_recording(mut self, choice: LatencyRecording) -> Self {
        self.rules.latency_recording = choice as u64;
        self
    }

    /// Sets when a call that is dropped before it ends counts as a failure. Default
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

    /// Sets how a call that exceeds `call_timeout` counts. Default [`TimedOutCalls::Counted`].
    ///
    /// ```
    /// # use commontrip::Policy;
    /// use commontrip::TimedOutCalls;
    /// let policy = Policy::builder().timed_out_calls(TimedOutCalls::Ignored).build()?;
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn timed_out_calls(mut self, choice: TimedOutCalls) -> Self {
        self.rules.timed_out_calls = choice as u64;
        self
    }

    /// Keeps no history of the circuit: no graphs, and nothing to simulate. By default history is
    /// kept, in at most 64 kB of the store.
    ///
    /// In files and stored policies: `history = "off"`.
    pub fn no_history(mut self) -> Self {
        self.rules.history = 0;
        self
    }

    /// Sets what a replica does while the store is unavailable. Default [`OnStoreFailure::Local`].
    ///
    /// ```
    /// # use commontrip::Policy;
    /// use commontrip::OnStoreFailure;
    /// let policy = Policy::builder().on_store_failure(OnStoreFailure::Reject).build()?;
    /// assert_eq!(policy.on_store_failure(), OnStoreFailure::Reject);
    /// # Ok::<(), commontrip::PolicyError>(())
    /// ```
    pub fn on_store_failure(mut self, choice: OnStoreFailure) -> Self {
        self.on_store_failure = choice;
        self
    }
}
