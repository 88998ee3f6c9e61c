//! All circuits and health checks as the fleet has them, for Prometheus.
//!
//! Owns the names; the text and its escaping are `prometheus`'. Made anew at each scrape, so that what
//! is gone leaves nothing behind. What a replica's own process knows is its exporter's.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus::{
    Gauge, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, TEXT_FORMAT, TextEncoder,
};

use super::{App, problem::Problem, read::missing};
use crate::{
    State as CircuitState,
    operator::{CheckReport, Survey, View},
};

/// Says that the store is away, or did not tell of its circuits, also by its status: no circuits
/// are not the same as none that could be read.
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let (store, survey) = app.look().await;
    let status = match survey {
        Some(_) => StatusCode::OK,
        None => StatusCode::SERVICE_UNAVAILABLE,
    };
    let checks = match store.ok {
        // A store without checks is no reason to be without circuits.
        true => app.operator.checks().await.unwrap_or_default(),
        false => Vec::new(),
    };
    match written(store.ok, survey.as_ref(), &checks) {
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
    abandoned: IntCounterVec,
    generation: IntGaugeVec,
    left: GaugeVec,
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
        let calls = IntCounterVec::new(
            Opts::new(
                "circuit_breaker_fleet_calls_total",
                "Calls of the whole fleet in the circuit's life, by what became of them.",
            ),
            &["name", "result"],
        )?;
        registry.register(Box::new(calls.clone()))?;
        let abandoned = IntCounterVec::new(
            Opts::new(
                "circuit_breaker_fleet_abandoned_calls_total",
                "Calls of the whole fleet that were dropped before they ended; those that had run too long are failures too.",
            ),
            &["name"],
        )?;
        registry.register(Box::new(abandoned.clone()))?;
        Ok(Self {
            state: whole(
                "circuit_breaker_state",
                "The state: 0 closed, 1 open, 2 half-open, 3 forced open, 4 disabled, 5 metrics only.",
            )?,
            failure_rate: real(
                "circuit_breaker_failure_rate",
                "Failures among the calls of the rolling window, 0 to 1; absent without calls.",
                &["name"],
            )?,
            slow_rate: real(
                "circuit_breaker_slow_rate",
                "Slow calls among the calls of the rolling window, 0 to 1; absent without calls.",
                &["name"],
            )?,
            window_calls: whole(
                "circuit_breaker_window_calls",
                "Recorded calls in the rolling window; while open, those that opened it.",
            )?,
            replicas: whole("circuit_breaker_replicas", "Replicas that reported lately.")?,
            calls,
            abandoned,
            generation: whole(
                "circuit_breaker_generation",
                "Grows by one at each transition.",
            )?,
            left: real(
                "circuit_breaker_open_seconds_left",
                "Until an open or forced-open circuit's state ends by itself; 0 where it does not, or is another.",
                &["name"],
            )?,
            latency: real(
                "circuit_breaker_latency_quantile_seconds",
                "How long the calls of the window took, by quantile; absent where none was measured.",
                &["name", "quantile"],
            )?,
        })
    }

    fn tell(&self, view: &View) {
        let (name, seen) = (view.name.as_str(), &view.snapshot);
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
        self.window_calls
            .with_label_values(of)
            .set(signed(seen.calls));
        self.replicas
            .with_label_values(of)
            .set(signed(seen.replicas));
        let generation = self.generation.with_label_values(of);
        generation.set(signed(seen.generation));
        for (result, total) in [
            ("success", seen.successes_total),
            ("failure", seen.failures_total),
            ("ignored", seen.ignored_total),
            ("rejected", seen.not_permitted_total),
        ] {
            self.calls.with_label_values(&[name, result]).inc_by(total);
        }
        let abandoned = self.abandoned.with_label_values(of);
        abandoned.inc_by(seen.abandoned_total);
        let rejects = matches!(seen.state, CircuitState::Open | CircuitState::ForcedOpen);
        let left_ms = if rejects { view.left_ms } else { 0 };
        self.left.with_label_values(of).set(left_ms as f64 / 1000.0);
        if let Some(latency) = &seen.latency {
            for (quantile, took) in [
                ("0.5", latency.p50),
                ("0.95", latency.p95),
                ("0.99", latency.p99),
            ] {
                let series = self.latency.with_label_values(&[name, quantile]);
                series.set(took.as_secs_f64());
            }
        }
    }
}

/// Health checks as the fleet has them.
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
                "health_check_status",
                "How the check stands: 0 unknown, 1 healthy, 2 warning, 3 critical.",
            )?,
            up: whole("health_check_up", "Whether the last run passed: 1 or 0.")?,
            latency: real(
                "health_check_latency_seconds",
                "How long the last run took.",
            )?,
            uptime: real(
                "health_check_uptime_ratio",
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
    store_up: bool,
    survey: Option<&Survey>,
    checks: &[CheckReport],
) -> prometheus::Result<String> {
    let registry = Registry::new();
    let up = Gauge::new(
        "circuit_breaker_store_up",
        "Whether the store answers this server: 1 or 0.",
    )?;
    up.set(if store_up { 1.0 } else { 0.0 });
    registry.register(Box::new(up))?;
    let incomplete = Gauge::new(
        "circuit_breaker_incomplete",
        "Whether circuits are missing here that the store has: 1 or 0.",
    )?;
    let whole = survey.is_some_and(|survey| missing(survey).is_none());
    incomplete.set(if whole { 0.0 } else { 1.0 });
    registry.register(Box::new(incomplete))?;
    let families = Families::new(&registry)?;
    for view in survey.iter().flat_map(|survey| &survey.circuits) {
        families.tell(view);
    }
    let families = Checks::new(&registry)?;
    for check in checks {
        families.tell(check);
    }
    TextEncoder::new().encode_to_string(&registry.gather())
}
