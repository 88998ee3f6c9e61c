//! Fleet-wide metrics of all circuits and health checks, for Prometheus.
//!
//! Owns the metric names; `prometheus` owns the text format and escaping. Metrics are rebuilt at
//! each scrape, so removed circuits leave no series behind. Invariant: every name contains `fleet`,
//! and no name of a process' own exporter (`crate::metrics`) does.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus::{
    CounterVec, Gauge, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, TEXT_FORMAT,
    TextEncoder,
};

#[cfg(feature = "queue")]
use super::queues;
use super::{App, open_metrics, problem::Problem, read::missing, stored::StoreHealth};
use crate::{
    Snapshot, State as CircuitState,
    operator::{CheckReport, Survey, View},
};

/// Answers 503 if no circuit could be read: that is not the same as having no circuits.
pub(super) async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let (store, survey) = app.look().await;
    let status = match survey {
        Some(_) => StatusCode::OK,
        None => StatusCode::SERVICE_UNAVAILABLE,
    };
    let checks = match store.ok {
        // Circuits are exported even if checks cannot be read.
        true => app.operator.checks().await.unwrap_or_default(),
        false => Vec::new(),
    };
    #[cfg(feature = "queue")]
    let queues = match app.options.queues.as_ref().filter(|_| store.ok) {
        Some(queues) => queues::read(queues).await,
        None => Vec::new(),
    };
    let written = written(&store, survey.as_ref(), &checks, |registry| {
        #[cfg(feature = "queue")]
        queues::tell(registry, &queues)?;
        let _ = registry;
        Ok(())
    });
    match written {
        Ok(text) if open_metrics::is_accepted(&headers) => {
            let kind = [(header::CONTENT_TYPE, open_metrics::KIND)];
            (status, kind, open_metrics::of(&text)).into_response()
        }
        Ok(text) => (status, [(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            let words = format!("the metrics cannot be written: {error}");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, words).into_response()
        }
    }
}

struct Families {
    state: IntGaugeVec,
    failure_rate: GaugeVec,
    slow_rate: GaugeVec,
    window_calls: IntGaugeVec,
    replicas: IntGaugeVec,
    calls: IntCounterVec,
    slow: IntCounterVec,
    abandoned: IntCounterVec,
    kinds: IntCounterVec,
    transitions: IntCounterVec,
    left: GaugeVec,
    open: GaugeVec,
    open_total: CounterVec,
    mean: GaugeVec,
    latency: GaugeVec,
}

impl Families {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let whole = |name: &str, help: &str| {
            let family = IntGaugeVec::new(Opts::new(name, help), &["name"])?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let real = |name: &str, help: &str, labels: &[&str]| {
            let family = GaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        Ok(Self {
            state: whole(
                "circuit_breaker_fleet_state",
                "The state: 0 closed, 1 open, 2 half-open, 3 forced open, 4 disabled, 5 metrics only.",
            )?,
            failure_rate: real(
                "circuit_breaker_fleet_failure_rate",
                "Failures among the calls of the rolling window, 0 to 1; absent without calls.",
                &["name"],
            )?,
            slow_rate: real(
                "circuit_breaker_fleet_slow_rate",
                "Slow calls among the calls of the rolling window, 0 to 1; absent without calls.",
                &["name"],
            )?,
            window_calls: whole(
                "circuit_breaker_fleet_window_calls",
                "Recorded calls in the rolling window; while open, those that opened it.",
            )?,
            replicas: whole(
                "circuit_breaker_fleet_replicas",
                "Replicas that reported lately.",
            )?,
            calls: counter(
                "circuit_breaker_fleet_calls_total",
                "Calls of the whole fleet in the circuit's life, by result.",
                &["name", "result"],
            )?,
            slow: counter(
                "circuit_breaker_fleet_slow_calls_total",
                "Slow calls of the whole fleet in the circuit's life.",
                &["name"],
            )?,
            abandoned: counter(
                "circuit_breaker_fleet_abandoned_calls_total",
                "Calls of the whole fleet that were dropped before they ended; those that had run too long are failures too.",
                &["name"],
            )?,
            kinds: counter(
                "circuit_breaker_fleet_failures_by_kind_total",
                "Failures of the whole fleet that have a kind, by kind; at most 16 kinds of a circuit, each until a day after its last failure.",
                &["name", "kind"],
            )?,
            transitions: counter(
                "circuit_breaker_fleet_transitions_total",
                "Transitions in the circuit's life: its generation.",
                &["name"],
            )?,
            left: real(
                "circuit_breaker_fleet_open_seconds_left",
                "Until an open or forced-open circuit's state ends by itself; 0 where it does not, or is another.",
                &["name"],
            )?,
            open: real(
                "circuit_breaker_fleet_open_for_seconds",
                "Since the circuit opened, failed probes included; 0 where it is neither open nor half-open.",
                &["name"],
            )?,
            open_total: {
                let name = "circuit_breaker_fleet_open_seconds_total";
                let help = "How long the circuit was open in its life, half-open included.";
                let family = CounterVec::new(Opts::new(name, help), &["name"])?;
                registry.register(Box::new(family.clone()))?;
                family
            },
            mean: real(
                "circuit_breaker_fleet_latency_mean_seconds",
                "How long a call of the window took on average; absent where none was measured.",
                &["name"],
            )?,
            latency: real(
                "circuit_breaker_fleet_latency_seconds",
                "How long the calls of the window took: percentiles 50, 95 and 99; absent where none was measured.",
                &["name", "percentile"],
            )?,
        })
    }

    fn tell(&self, view: &View) {
        let (name, seen) = (view.name.as_str(), &view.snapshot);
        let Snapshot {
            state: _, // a number, below
            calls,
            successes_total,
            failures_total,
            slow_total,
            ignored_total,
            rejected_total,
            abandoned_total,
            open_total_ms,
            replicas,
            generation,
            latency,
            failure_kinds,
            // Part of the view's rates or of its time left.
            failures: _,
            slow: _,
            until_ms: _,
            opened_ms: _,
            now_ms: _,
            // Not exported: texts, and what a graph over time does not need.
            since_ms: _,
            reason: _,
            consecutive_opens: _,
            consecutive_failures: _,
            probes: _,
            probe_successes: _,
            probe_failures: _,
            ramp_until_ms: _,
            override_author: _,
            override_reason: _,
            policy: _,
            policy_version: _,
            policies_differ: _,
            code_policy: _,
            last_success_ms: _,
            last_failure_ms: _,
            pace_ms: _,
            failing: _,
            alone: _,
            undecided: _,
        } = seen;
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let of = &[name];
        let state = self.state.with_label_values(of);
        state.set(i64::from(seen.state.number()));
        if let Some(percent) = view.failure_rate {
            self.failure_rate.with_label_values(of).set(percent / 100.0);
        }
        if let Some(percent) = view.slow_rate {
            self.slow_rate.with_label_values(of).set(percent / 100.0);
        }
        self.window_calls.with_label_values(of).set(signed(*calls));
        self.replicas.with_label_values(of).set(signed(*replicas));
        let transitions = self.transitions.with_label_values(of);
        transitions.inc_by(*generation);
        for (result, total) in [
            ("success", successes_total),
            ("failure", failures_total),
            ("ignored", ignored_total),
            ("rejected", rejected_total),
        ] {
            self.calls.with_label_values(&[name, result]).inc_by(*total);
        }
        self.slow.with_label_values(of).inc_by(*slow_total);
        let abandoned = self.abandoned.with_label_values(of);
        abandoned.inc_by(*abandoned_total);
        for of_kind in failure_kinds {
            let series = self.kinds.with_label_values(&[name, &of_kind.kind]);
            series.inc_by(of_kind.count);
        }
        let rejects = matches!(seen.state, CircuitState::Open | CircuitState::ForcedOpen);
        let left_ms = if rejects { view.left_ms } else { 0 };
        self.left.with_label_values(of).set(left_ms as f64 / 1000.0);
        let open_ms = seen.open_ms().unwrap_or(0);
        self.open.with_label_values(of).set(open_ms as f64 / 1000.0);
        let open_total = self.open_total.with_label_values(of);
        open_total.inc_by(*open_total_ms as f64 / 1000.0);
        if let Some(latency) = latency {
            let mean = self.mean.with_label_values(of);
            mean.set(latency.mean.as_secs_f64());
            for (percentile, took) in [
                ("50", latency.p50),
                ("95", latency.p95),
                ("99", latency.p99),
            ] {
                let series = self.latency.with_label_values(&[name, percentile]);
                series.set(took.as_secs_f64());
            }
        }
    }
}

/// Metrics of health checks.
struct Checks {
    status: IntGaugeVec,
    up: IntGaugeVec,
    latency: GaugeVec,
    uptime: GaugeVec,
}

impl Checks {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let whole = |name: &str, help: &str| {
            let family = IntGaugeVec::new(Opts::new(name, help), &["check"])?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let real = |name: &str, help: &str| {
            let family = GaugeVec::new(Opts::new(name, help), &["check"])?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        Ok(Self {
            status: whole(
                "health_check_fleet_status",
                "Status of the check: 0 unknown, 1 healthy, 2 warning, 3 critical.",
            )?,
            up: whole(
                "health_check_fleet_up",
                "Whether the last run passed: 1 or 0.",
            )?,
            latency: real(
                "health_check_fleet_latency_seconds",
                "How long the last run took.",
            )?,
            uptime: real(
                "health_check_fleet_uptime_ratio",
                "Runs among the remembered ones that passed, 0 to 1.",
            )?,
        })
    }

    fn tell(&self, check: &CheckReport) {
        let of = &[check.name.as_str()];
        let status = self.status.with_label_values(of);
        status.set(i64::from(check.status.number()));
        if let (Some(latency_us), Some(uptime)) = (check.latency_us, check.uptime) {
            let up = self.up.with_label_values(of);
            up.set(i64::from(check.consecutive_failures == 0));
            let latency = self.latency.with_label_values(of);
            latency.set(latency_us as f64 / 1e6);
            self.uptime.with_label_values(of).set(uptime / 100.0);
        }
    }
}

fn written(
    store: &StoreHealth,
    survey: Option<&Survey>,
    checks: &[CheckReport],
    more: impl FnOnce(&Registry) -> prometheus::Result<()>,
) -> prometheus::Result<String> {
    let registry = Registry::new();
    let set = |name: &str, help: &str, value: f64| {
        let gauge = Gauge::new(name, help)?;
        gauge.set(value);
        registry.register(Box::new(gauge))
    };
    set(
        "circuit_breaker_fleet_store_up",
        "Whether Redis answers this server: 1 or 0.",
        f64::from(store.ok),
    )?;
    if let Some(us) = store.answered_in_us {
        set(
            "circuit_breaker_fleet_store_latency_seconds",
            "How long Redis took to answer this server.",
            us as f64 / 1e6,
        )?;
    }
    let whole = survey.is_some_and(|survey| missing(survey).is_none());
    set(
        "circuit_breaker_fleet_incomplete",
        "Whether circuits are missing here that Redis has: 1 or 0.",
        f64::from(!whole),
    )?;
    if let Some(survey) = survey {
        set(
            "circuit_breaker_fleet_circuits",
            "Circuits that could be read.",
            survey.circuits.len() as f64,
        )?;
    }
    let families = Families::new(&registry)?;
    for view in survey.iter().flat_map(|survey| &survey.circuits) {
        families.tell(view);
    }
    let families = Checks::new(&registry)?;
    for check in checks {
        families.tell(check);
    }
    more(&registry)?;
    TextEncoder::new().encode_to_string(&registry.gather())
}
