//! `/metrics` for scrapers: promtool accepts it, OpenMetrics, and only names of the fleet.

use std::collections::BTreeSet;

use commontrip::Policy;
use reqwest::Method;

use super::site::{Answer, Site, tripping};

/// The names of the metric families in a text.
fn families(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = lines.map(|line| line.split(' ').next().unwrap().to_owned());
    names.collect()
}

async fn with_accept(site: &Site, accept: &str) -> Answer {
    let asked = site.ask(Method::GET, "/metrics").header("accept", accept);
    Answer::of(asked.send().await.unwrap()).await
}

/// A closed circuit with measured calls, and an open one.
async fn busy() -> Site {
    let site = Site::start().await;
    let calm = site.circuit("calm", Policy::default()).await;
    for _ in 0..5 {
        calm.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
    }
    let failed = commontrip::FailureKind::status(503).with_detail("not in metrics");
    calm.acquire().await.unwrap().failure_of(failed);
    calm.acquire().await.unwrap().failure_of("timeout");
    let payments = site.circuit("payments", tripping()).await;
    site.trip(&payments).await;
    site.circuits.flush().await;
    site
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn promtool_finds_no_fault_with_the_fleets_metrics() {
    let site = busy().await;
    let text = site.get("/metrics").await.text;
    assert!(
        text.contains("circuit_breaker_fleet_latency_seconds{"),
        "{text}"
    );
    crate::metrics::promtool(&["check", "metrics"], &text);
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn no_series_of_the_fleet_is_called_like_one_of_a_process() {
    use commontrip::metrics::Exporter;
    use metrics_exporter_prometheus::PrometheusBuilder;

    use crate::wait::until;

    let site = busy().await;
    let fleet = families(&site.get("/metrics").await.text);
    assert!(fleet.len() > 10, "{fleet:?}");
    for name in &fleet {
        assert!(name.contains("_fleet_"), "{name}");
    }
    let recorder = PrometheusBuilder::new().build_recorder();
    let scrape = recorder.handle();
    let every = std::time::Duration::from_millis(10);
    let _exporter = Exporter::start_on(recorder, &site.circuits, every);
    until("the process has exported", async || {
        scrape.render().contains("circuit_breaker_state{")
    })
    .await;
    for name in families(&scrape.render()) {
        assert!(!name.contains("fleet") && !fleet.contains(&name), "{name}");
    }
}

#[tokio::test]
async fn transitions_and_circuits_are_counted() {
    let site = busy().await;
    let text = site.get("/metrics").await.text;
    let has = |line: &str| assert!(text.lines().any(|l| l == line), "no {line} in {text}");
    has("# TYPE circuit_breaker_fleet_transitions_total counter");
    has("circuit_breaker_fleet_transitions_total{name=\"payments\"} 1");
    has("circuit_breaker_fleet_transitions_total{name=\"calm\"} 0");
    has("circuit_breaker_fleet_slow_calls_total{name=\"calm\"} 0");
    for kind in ["status 503", "timeout"] {
        has(&format!(
            "circuit_breaker_fleet_failures_by_kind_total{{kind=\"{kind}\",name=\"calm\"}} 1"
        ));
    }
    has("circuit_breaker_fleet_circuits 2");
}

#[tokio::test]
async fn who_asks_for_openmetrics_gets_it() {
    let site = busy().await;
    let plain = "text/plain; version=0.0.4";
    let open = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    for (accept, kind) in [
        ("application/openmetrics-text", open),
        // Prometheus.
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            open,
        ),
        ("application/openmetrics-text;q=0, text/plain", plain),
        ("text/plain;version=0.0.4", plain),
        ("*/*", plain),
    ] {
        assert_eq!(with_accept(&site, accept).await.kind(), kind, "{accept}");
    }
    let text = with_accept(&site, "application/openmetrics-text")
        .await
        .text;
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    assert_eq!(text.matches("# EOF").count(), 1);
    // The name of a counter's family has no `_total`, its series does.
    assert!(text.contains("# TYPE circuit_breaker_fleet_calls counter\n"));
    assert!(
        text.contains("\ncircuit_breaker_fleet_calls_total{name=\"calm\",result=\"success\"} ")
    );
    assert!(families(&text).iter().all(|name| !name.ends_with("_total")));
}
