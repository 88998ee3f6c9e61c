//! Statistics for the exporters of the `metrics` crate: Prometheus, StatsD, OpenTelemetry, ...
//!
//! Owns the names and labels; knows no exporter, and nothing but the public API. Nothing happens on
//! the way of a call: once a second, or as told, [`Commontrip::stats`] and [`Commontrip::health`] are
//! read. Invariant: one circuit has one series of each gauge, and labels but `name` have few values.
//!
//! | name | kind | labels | says |
//! |---|---|---|---|
//! | `circuit_breaker_state` | gauge | `name` | what this replica decides by: 0 closed, 1 open, 2 half-open, 3 forced open, 4 disabled, 5 metrics only |
//! | `circuit_breaker_generation` | gauge | `name` | grows by one at each transition |
//! | `circuit_breaker_requests_total` | counter | `name`, `result` | this process' calls; `result`: `success`, `failure`, `ignored`, `rejected`, `timeout`, `abandoned`, each call under one; `abandoned`: dropped before it ended, and no failure |
//! | `circuit_breaker_slow_calls_total` | counter | `name` | of the successes, failures and timeouts those that were slow |
//! | `circuit_breaker_latency_seconds` | histogram | `name` | how long recorded calls took |
//! | `circuit_breaker_failure_rate` | gauge | `name` | of the fleet's window, 0 to 1; 0 without calls |
//! | `circuit_breaker_window_calls` | gauge | `name` | recorded calls in the fleet's window |
//! | `circuit_breaker_transitions_total` | counter | `name`, `from`, `to`, `reason`, `local` | transitions as this process saw them; `local="true"`: its own alone |
//! | `circuit_breaker_probes_total` | counter | `name`, `result` | this process' probes; `result`: `success`, `failure`, `ignored`, `abandoned` |
//! | `circuit_breaker_staleness_seconds` | gauge | `name` | since the store last confirmed the circuit; grows while there are no calls |
//! | `circuit_breaker_reports_total` | counter | `result` | reports of this process: `filed`, `failed` |
//! | `circuit_breaker_report_seconds` | histogram | | how long the store took to answer them |
//! | `circuit_breaker_store_up` | gauge | | 0 while the store is away from one circuit or more |
//! | `circuit_breaker_store_away_seconds` | gauge | | for how long; 0 while it answers |
//! | `health_check_status` | gauge | `check` | [`Exporter::with_checks`]: 0 unknown, 1 healthy, 2 warning, 3 critical |
//! | `health_check_up` | gauge | `check` | whether the last run passed |
//! | `health_check_latency_seconds` | gauge | `check` | how long the last run took |
//! | `health_check_uptime_ratio` | gauge | `check` | runs among the remembered ones that passed, 0 to 1 |
//!
//! What is served in place of a call is not a call of the circuit, so there is no result `fallback`. Chains of the
//! feature `failover` count theirs in `circuit_breaker_failover_total`.

#[cfg(feature = "health")]
use std::sync::{Arc, OnceLock};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::Duration,
};

use ::metrics::{
    Recorder, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram, with_local_recorder,
};

use crate::{CircuitStats, Commontrip, Health, Latencies, Observer};

/// Upper bounds of buckets that fit the two histograms, in seconds: 1, 2.5 and 5 of each power of ten
/// from 100 µs to 50 s.
///
/// For exporters that must be told, such as `metrics-exporter-prometheus`, which makes summaries of
/// histograms otherwise; those cannot be added up over replicas.
pub const BUCKETS: [f64; 18] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 25.0, 50.0,
];

/// How many latencies of one circuit are recorded at a time, at the most: exporters keep each one
/// until they are asked. Of more, each bucket gets its share.
const MOST_AT_ONCE: u64 = 10_000;

/// Gives the statistics of a registry to the `metrics` crate's recorder, every so often.
///
/// Ends when it is dropped, and when the registry is shut down or dropped, which it does not keep
/// alive; gauges then keep their last values. One registry needs one; circuits of the same name in
/// two registries of a process would be the same series, unless each has a recorder of its own.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use commontrip::{Commontrip, metrics::{BUCKETS, Exporter}};
/// use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
///
/// let prometheus = PrometheusBuilder::new()
///     .set_buckets_for_metric(Matcher::Prefix("circuit_breaker_".to_owned()), &BUCKETS)?
///     .install_recorder()?; // or install(), which serves /metrics
///
/// let circuits = Commontrip::embedded()?;
/// let _exporter = Exporter::start(&circuits, Duration::from_secs(1));
/// # for _ in 0..3000 {
/// #     if prometheus.render().contains("store_up 1") { break }
/// #     tokio::time::sleep(Duration::from_millis(10)).await;
/// # }
/// # assert!(prometheus.render().contains("circuit_breaker_store_up 1"));
/// # Ok(()) }
/// ```
#[must_use = "dropping it ends the export"]
pub struct Exporter {
    _observer: Observer,
    #[cfg(feature = "health")]
    checks: Checks,
}

/// The checks to export, once they are known.
#[cfg(feature = "health")]
type Checks = Arc<OnceLock<Arc<crate::health::Board>>>;

impl Exporter {
    /// Exports to the global recorder, which should be installed before; at once and then `every` so
    /// often (1 s is good; at least 1 ms).
    ///
    /// Latencies from before are left out; counters have all.
    pub fn start(circuits: &Commontrip, every: Duration) -> Self {
        let mut series = Series::after(&circuits.stats(), &circuits.health());
        #[cfg(feature = "health")]
        let checks = Arc::clone(&series.checks);
        Self {
            _observer: circuits.observe(every, move |health, stats| series.set(health, stats)),
            #[cfg(feature = "health")]
            checks,
        }
    }

    /// Exports to this recorder and not to the global one; otherwise as [`start`](Self::start).
    pub fn start_on<R>(recorder: R, circuits: &Commontrip, every: Duration) -> Self
    where
        R: Recorder + Send + 'static,
    {
        let mut series = Series::after(&circuits.stats(), &circuits.health());
        #[cfg(feature = "health")]
        let checks = Arc::clone(&series.checks);
        let look = move |health: &Health, stats: &[CircuitStats]| {
            with_local_recorder(&recorder, || series.set(health, stats));
        };
        Self {
            _observer: circuits.observe(every, look),
            #[cfg(feature = "health")]
            checks,
        }
    }

    /// Exports the checks of a monitor, too, as this replica sees them; of the first that is given.
    #[cfg(feature = "health")]
    pub fn with_checks(self, monitor: &crate::health::HealthMonitor) -> Self {
        let _ = self.checks.set(monitor.board());
        self
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter")
    }
}

/// What was exported before, where that matters.
#[derive(Default)]
struct Series {
    described: bool,
    latencies: HashMap<String, Recorded>,
    /// By circuit and what is counted.
    counters: HashMap<(String, String), Counter>,
    round_trips: Recorded,
    #[cfg(feature = "health")]
    checks: Checks,
}

impl Series {
    /// Series of what comes after this.
    fn after(stats: &[CircuitStats], health: &Health) -> Self {
        let recorded = |stats: &CircuitStats| {
            let mut recorded = Recorded::default();
            recorded.fresh(&stats.latencies);
            (stats.name.clone(), recorded)
        };
        let mut series = Self {
            latencies: stats.iter().map(recorded).collect(),
            ..Self::default()
        };
        series.round_trips.fresh(&health.round_trips);
        series
    }

    fn set(&mut self, health: &Health, stats: &[CircuitStats]) {
        if !std::mem::replace(&mut self.described, true) {
            describe();
        }
        for circuit in stats {
            self.set_circuit(circuit);
        }
        #[cfg(feature = "health")]
        if let Some(board) = self.checks.get() {
            board.reports().iter().for_each(set_check);
        }
        let away = health.away_for;
        gauge!("circuit_breaker_store_up").set(f64::from(away.is_none()));
        gauge!("circuit_breaker_store_away_seconds").set(away.unwrap_or_default());
        for circuit in stats {
            self.total(circuit, "filed", circuit.reports);
            self.total(circuit, "failed", circuit.reports_failed);
        }
        for result in ["filed", "failed"] {
            let all = self.counters.iter();
            let all = all.filter(|((_, counted), _)| counted == result);
            let sum: u64 = all.map(|(_, counter)| counter.before + counter.now).sum();
            counter!("circuit_breaker_reports_total", "result" => result).absolute(sum);
        }
        let report_seconds = histogram!("circuit_breaker_report_seconds");
        for (latency, n) in self.round_trips.fresh(&health.round_trips) {
            report_seconds.record_many(latency, n);
        }
    }

    /// What was counted of a circuit in all: one that was let go and is taken again counts from 0.
    fn total(&mut self, stats: &CircuitStats, counted: &str, now: u64) -> u64 {
        let key = (stats.name.clone(), counted.to_owned());
        let counter = self.counters.entry(key).or_default();
        if now < counter.now {
            counter.before += counter.now;
        }
        counter.now = now;
        counter.before + now
    }

    fn set_circuit(&mut self, stats: &CircuitStats) {
        let name = || stats.name.clone();
        gauge!("circuit_breaker_state", "name" => name())
            .set(f64::from(stats.cached.state.number()));
        gauge!("circuit_breaker_generation", "name" => name()).set(stats.cached.generation as f64);
        let rate = stats.failure_rate().unwrap_or(0.0);
        gauge!("circuit_breaker_failure_rate", "name" => name()).set(rate);
        let calls = stats.window_calls() as f64;
        gauge!("circuit_breaker_window_calls", "name" => name()).set(calls);
        if let Some(age) = stats.stale_for {
            gauge!("circuit_breaker_staleness_seconds", "name" => name()).set(age);
        }
        for (result, n) in [
            ("success", stats.successes),
            ("failure", stats.failures_in_time()),
            ("ignored", stats.ignored),
            ("rejected", stats.rejected),
            ("timeout", stats.timeouts),
            ("abandoned", stats.undecided()),
        ] {
            let total = self.total(stats, result, n);
            counter!("circuit_breaker_requests_total", "name" => name(), "result" => result)
                .absolute(total);
        }
        let slow = self.total(stats, "slow", stats.slow);
        counter!("circuit_breaker_slow_calls_total", "name" => name()).absolute(slow);
        for (result, n) in [
            ("success", stats.probes.successes),
            ("failure", stats.probes.failures),
            ("ignored", stats.probes.ignored),
            ("abandoned", stats.probes.abandoned),
        ] {
            let total = self.total(stats, &format!("probe {result}"), n);
            counter!("circuit_breaker_probes_total", "name" => name(), "result" => result)
                .absolute(total);
        }
        for (transition, n) in &stats.transitions {
            let total = self.total(stats, &format!("{transition:?}"), *n);
            counter!(
                "circuit_breaker_transitions_total",
                "name" => name(),
                "from" => transition.from.as_str(),
                "to" => transition.to.as_str(),
                "reason" => transition.reason.as_str(),
                "local" => if transition.local { "true" } else { "false" },
            )
            .absolute(total);
        }
        let latency_seconds = histogram!("circuit_breaker_latency_seconds", "name" => name());
        let recorded = self.latencies.entry(name()).or_default();
        for (latency, n) in recorded.fresh(&stats.latencies) {
            latency_seconds.record_many(latency, n);
        }
    }
}

#[cfg(feature = "health")]
fn set_check(check: &crate::health::CheckReport) {
    let name = || check.name.clone();
    gauge!("health_check_status", "check" => name()).set(f64::from(check.status.number()));
    if let (Some(latency_us), Some(uptime)) = (check.latency_us, check.uptime) {
        let up = f64::from(check.consecutive_failures == 0);
        gauge!("health_check_up", "check" => name()).set(up);
        gauge!("health_check_latency_seconds", "check" => name()).set(latency_us as f64 / 1e6);
        gauge!("health_check_uptime_ratio", "check" => name()).set(uptime / 100.0);
    }
}

/// What was counted of a circuit before it was let go, and since it was taken again.
#[derive(Default)]
struct Counter {
    before: u64,
    now: u64,
}

/// How often which latency was recorded.
#[derive(Default)]
struct Recorded(BTreeMap<Duration, u64>);

impl Recorded {
    /// What is to be recorded now, so that `all` is.
    fn fresh(&mut self, all: &Latencies) -> Vec<(Duration, usize)> {
        let mut fresh = Vec::new();
        for (latency, n) in all.iter() {
            let before = self.0.insert(latency, n).unwrap_or(0);
            match n.checked_sub(before) {
                Some(0) => {}
                Some(more) => fresh.push((latency, more)),
                // The circuit was let go and is taken again.
                None => fresh.push((latency, n)),
            }
        }
        let total: u64 = fresh.iter().map(|(_, n)| n).sum();
        let share = |n: u64| match total {
            0..=MOST_AT_ONCE => n as usize,
            _ => (u128::from(n) * u128::from(MOST_AT_ONCE)).div_ceil(u128::from(total)) as usize,
        };
        let shares = fresh.into_iter().map(|(latency, n)| (latency, share(n)));
        shares.collect()
    }
}

fn describe() {
    describe_gauge!(
        "circuit_breaker_state",
        "What this replica decides by: 0 closed, 1 open, 2 half-open, 3 forced open, 4 disabled, 5 metrics only"
    );
    describe_gauge!(
        "circuit_breaker_generation",
        Unit::Count,
        "Grows by one at each transition of the circuit"
    );
    describe_gauge!(
        "circuit_breaker_failure_rate",
        "Failures among the recorded calls of the fleet's window, 0 to 1"
    );
    describe_gauge!(
        "circuit_breaker_window_calls",
        Unit::Count,
        "Recorded calls in the fleet's window"
    );
    describe_gauge!(
        "circuit_breaker_staleness_seconds",
        Unit::Seconds,
        "Since the store last confirmed the circuit"
    );
    describe_gauge!(
        "circuit_breaker_store_up",
        "Whether the store answers for every circuit of this process"
    );
    describe_gauge!(
        "circuit_breaker_store_away_seconds",
        Unit::Seconds,
        "How long the store has been away"
    );
    describe_counter!(
        "circuit_breaker_requests_total",
        Unit::Count,
        "Calls of this process, by what became of them"
    );
    describe_counter!(
        "circuit_breaker_slow_calls_total",
        Unit::Count,
        "Recorded calls of this process that were slow"
    );
    describe_counter!(
        "circuit_breaker_probes_total",
        Unit::Count,
        "Probes of half-open circuits that this process made, by what they said"
    );
    describe_counter!(
        "circuit_breaker_transitions_total",
        Unit::Count,
        "Transitions as this process saw them"
    );
    describe_counter!(
        "circuit_breaker_reports_total",
        Unit::Count,
        "Reports of this process to the store"
    );
    describe_histogram!(
        "circuit_breaker_latency_seconds",
        Unit::Seconds,
        "How long recorded calls of this process took"
    );
    describe_histogram!(
        "circuit_breaker_report_seconds",
        Unit::Seconds,
        "How long the store took to answer reports"
    );
    #[cfg(feature = "health")]
    describe_checks();
}

#[cfg(feature = "health")]
fn describe_checks() {
    describe_gauge!(
        "health_check_status",
        "How the check stands: 0 unknown, 1 healthy, 2 warning, 3 critical"
    );
    describe_gauge!("health_check_up", "Whether the last run passed");
    describe_gauge!(
        "health_check_latency_seconds",
        Unit::Seconds,
        "How long the last run took"
    );
    describe_gauge!(
        "health_check_uptime_ratio",
        "Runs among the remembered ones that passed, 0 to 1"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latencies(counts: &[(u64, u64)]) -> Latencies {
        let mut latencies = Latencies::default();
        for (ms, n) in counts {
            latencies.record(Duration::from_millis(*ms), *n);
        }
        latencies
    }

    #[test]
    fn each_latency_is_recorded_once() {
        let mut recorded = Recorded::default();
        let mut counts = |all: &[(u64, u64)]| -> Vec<usize> {
            let fresh = recorded.fresh(&latencies(all));
            fresh.into_iter().map(|(_, n)| n).collect()
        };
        assert_eq!(counts(&[(1, 3), (9, 1)]), [3, 1]);
        assert_eq!(counts(&[(1, 3), (9, 1)]), [0_usize; 0]);
        assert_eq!(counts(&[(1, 5), (3, 1), (9, 1)]), [2, 1]);
    }

    #[test]
    fn of_very_many_latencies_each_bucket_gets_its_share() {
        let mut recorded = Recorded::default();
        let fresh = recorded.fresh(&latencies(&[
            (1, 9_000_000_000),
            (9, 1_000_000_000),
            (50, 1),
        ]));
        let counts: Vec<_> = fresh.into_iter().map(|(_, n)| n).collect();
        assert_eq!(counts, [9000, 1000, 1]);
        assert!(recorded.fresh(&latencies(&[(1, 9_000_000_000)])).is_empty());
    }
}
