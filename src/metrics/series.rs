//! The series of one exporter.
//!
//! Owns their names and labels; [`crate::series`] defines which counts exist.

use ::metrics::{
    Label, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

#[cfg(feature = "health")]
use super::Checks;
#[cfg(feature = "queue")]
use super::Queues;
use crate::{CircuitStats, RegistryHealth, series::Exported};

/// The maximum number of latencies of one circuit recorded at a time, because exporters keep each
/// one until they are read. Beyond it, each bucket gets its share.
const MOST_AT_ONCE: u64 = 10_000;

/// What was already exported, as far as that matters.
pub(super) struct Series {
    registry: Option<String>,
    described: bool,
    exported: Exported,
    #[cfg(feature = "health")]
    pub(super) checks: Checks,
    #[cfg(feature = "queue")]
    pub(super) queues: Queues,
}

impl Series {
    /// Series that leave out the latencies recorded until now.
    pub(super) fn after(
        registry: Option<String>,
        stats: &[CircuitStats],
        health: &RegistryHealth,
    ) -> Self {
        Self {
            registry,
            described: false,
            exported: Exported::until_now(MOST_AT_ONCE, health, stats),
            #[cfg(feature = "health")]
            checks: Checks::default(),
            #[cfg(feature = "queue")]
            queues: Queues::default(),
        }
    }

    pub(super) fn set(&mut self, health: &RegistryHealth, stats: &[CircuitStats]) {
        if !std::mem::replace(&mut self.described, true) {
            describe();
        }
        for circuit in stats {
            self.set_circuit(circuit);
        }
        #[cfg(feature = "health")]
        if let Some(board) = self.checks.get() {
            let reports = board.reports();
            reports.iter().for_each(|check| self.set_check(check));
        }
        #[cfg(feature = "queue")]
        for queue in self.queues.lock().iter() {
            self.set_queue(queue);
        }
        let unavailable = health.unavailable_for;
        gauge!("circuit_breaker_store_up", self.labels([])).set(f64::from(unavailable.is_none()));
        gauge!("circuit_breaker_store_unavailable_seconds", self.labels([]))
            .set(unavailable.unwrap_or_default());
        for (result, n) in self.exported.reports(stats) {
            let labels = self.labels([("result", result.to_owned())]);
            counter!("circuit_breaker_reports_total", labels).increment(n.fresh);
        }
        let report_seconds = histogram!("circuit_breaker_report_seconds", self.labels([]));
        for (latency, n) in self.exported.round_trips(health) {
            report_seconds.record_many(latency, n);
        }
    }

    fn set_circuit(&mut self, stats: &CircuitStats) {
        let name = || stats.name.clone();
        gauge!("circuit_breaker_state", self.labels([("name", name())]))
            .set(f64::from(stats.cached.state.number()));
        gauge!(
            "circuit_breaker_generation",
            self.labels([("name", name())])
        )
        .set(stats.cached.generation as f64);
        let calls = stats.window_calls() as f64;
        let rate = stats.failure_share().unwrap_or(0.0);
        gauge!(
            "circuit_breaker_failure_rate",
            self.labels([("name", name())])
        )
        .set(rate);
        gauge!(
            "circuit_breaker_window_calls",
            self.labels([("name", name())])
        )
        .set(calls);
        let open_for = stats.open_for().unwrap_or_default();
        gauge!(
            "circuit_breaker_open_for_seconds",
            self.labels([("name", name())])
        )
        .set(open_for);
        // Counters of this facade are whole numbers.
        let open_total = stats.open_total().as_secs();
        let labels = self.labels([("name", name())]);
        counter!("circuit_breaker_open_seconds_total", labels).absolute(open_total);
        if let Some(age) = stats.stale_for {
            gauge!(
                "circuit_breaker_staleness_seconds",
                self.labels([("name", name())])
            )
            .set(age);
        }
        let counted = self.exported.circuit(stats);
        for (result, n) in counted.calls {
            let labels = self.labels([("name", name()), ("result", result.to_owned())]);
            counter!("circuit_breaker_requests_total", labels).increment(n.fresh);
        }
        let labels = self.labels([("name", name())]);
        counter!("circuit_breaker_slow_calls_total", labels).increment(counted.slow.fresh);
        for (kind, n) in counted.kinds {
            let labels = self.labels([("name", name()), ("kind", kind)]);
            counter!("circuit_breaker_failures_by_kind_total", labels).increment(n.fresh);
        }
        for (result, n) in counted.probes {
            let labels = self.labels([("name", name()), ("result", result.to_owned())]);
            counter!("circuit_breaker_probes_total", labels).increment(n.fresh);
        }
        for (kind, n) in counted.fallbacks {
            let labels = self.labels([("name", name()), ("kind", kind.to_owned())]);
            counter!("circuit_breaker_fallbacks_total", labels).increment(n.fresh);
        }
        for (transition, n) in counted.transitions {
            let labels = self.labels([
                ("name", name()),
                ("from", transition.from.to_string()),
                ("to", transition.to.to_string()),
                ("reason", transition.reason.to_string()),
                ("local", transition.local.to_string()),
            ]);
            counter!("circuit_breaker_transitions_total", labels).increment(n.fresh);
        }
        let latency_seconds = histogram!(
            "circuit_breaker_latency_seconds",
            self.labels([("name", name())])
        );
        for (latency, n) in counted.latencies {
            latency_seconds.record_many(latency, n);
        }
    }

    #[cfg(feature = "queue")]
    fn set_queue(&self, queue: &crate::queue::Depth) {
        if !queue.is_known() {
            return;
        }
        // A recorder repeats the last value, and cannot remove a series.
        let stats = queue.stats();
        for state in crate::queue::JobState::ALL {
            let jobs = stats.map_or(f64::NAN, |stats| stats.in_state(state) as f64);
            let labels = [("queue", queue.name.clone()), ("state", state.to_string())];
            gauge!("queue_jobs", self.labels(labels)).set(jobs);
        }
        let oldest = stats.map(|stats| stats.oldest_waits().unwrap_or_default());
        let labels = self.labels([("queue", queue.name.clone())]);
        gauge!("queue_oldest_seconds", labels).set(oldest.map_or(f64::NAN, |of| of.as_secs_f64()));
    }

    #[cfg(feature = "health")]
    fn set_check(&self, check: &crate::health::CheckReport) {
        let name = || check.name.clone();
        gauge!("health_check_status", self.labels([("check", name())]))
            .set(f64::from(check.status.number()));
        if let (Some(latency_us), Some(uptime)) = (check.latency_us, check.uptime) {
            let up = f64::from(check.consecutive_failures == 0);
            gauge!("health_check_up", self.labels([("check", name())])).set(up);
            gauge!(
                "health_check_latency_seconds",
                self.labels([("check", name())])
            )
            .set(latency_us as f64 / 1e6);
            gauge!(
                "health_check_uptime_ratio",
                self.labels([("check", name())])
            )
            .set(uptime / 100.0);
        }
    }

    /// The labels of a series: its own, and `registry` if it has one.
    fn labels<const N: usize>(&self, own: [(&'static str, String); N]) -> Vec<Label> {
        let own = own.into_iter().map(|(key, value)| Label::new(key, value));
        let registry = self.registry.iter();
        own.chain(registry.map(|of| Label::new("registry", of.clone())))
            .collect()
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
        "circuit_breaker_open_for_seconds",
        Unit::Seconds,
        "Since the circuit opened, failed probes included; 0 where it is neither open nor half-open"
    );
    describe_counter!(
        "circuit_breaker_open_seconds_total",
        Unit::Seconds,
        "How long the fleet's circuit was open in its life"
    );
    describe_counter!(
        "circuit_breaker_fallbacks_total",
        Unit::Count,
        "Calls of this process that fallbacks have answered, by kind"
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
        "circuit_breaker_store_unavailable_seconds",
        Unit::Seconds,
        "How long the store has been unavailable"
    );
    describe_counter!(
        "circuit_breaker_requests_total",
        Unit::Count,
        "Calls of this process, by result"
    );
    describe_counter!(
        "circuit_breaker_slow_calls_total",
        Unit::Count,
        "Recorded calls of this process that were slow"
    );
    describe_counter!(
        "circuit_breaker_failures_by_kind_total",
        Unit::Count,
        "Failures of this process that have a kind, by kind"
    );
    describe_counter!(
        "circuit_breaker_probes_total",
        Unit::Count,
        "Probes of half-open circuits that this process made, by result"
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
    #[cfg(feature = "queue")]
    describe_queues();
}

#[cfg(feature = "queue")]
fn describe_queues() {
    describe_gauge!(
        "queue_jobs",
        Unit::Count,
        "Jobs of the fleet's queue, by state"
    );
    describe_gauge!(
        "queue_oldest_seconds",
        Unit::Seconds,
        "How long the oldest due job has waited for a worker"
    );
}

#[cfg(feature = "health")]
fn describe_checks() {
    describe_gauge!(
        "health_check_status",
        "Status of the check: 0 unknown, 1 healthy, 2 warning, 3 critical"
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
