//! Checks as they appear outside: to an operator, in the HTTP API, in metrics, on the command line.

use std::io;
use std::time::Duration;

use commontrip::health::{Check, CheckReport, CheckStatus, HealthMonitor};
use commontrip::operator::Operator;
use commontrip::{Clock, Commontrip, MemoryStore, Store};

use super::{INTERVAL, replica};
use crate::support::unique_prefix;
use crate::wait::until;

/// A healthy check, one with a warning, a critical one.
fn three(circuits: &Commontrip) -> HealthMonitor {
    let ok = || async { Ok::<_, io::Error>(()) };
    let bad = || async { Err::<(), _>("no route") };
    HealthMonitor::builder(circuits)
        .check(Check::new("auth", ok).interval(INTERVAL))
        .check(
            Check::new("cache ü", bad)
                .interval(INTERVAL)
                .failure_threshold(u32::MAX),
        )
        .check(Check::new("postgres", bad).interval(INTERVAL))
        .start()
        .unwrap()
}

async fn until_listed(operator: &Operator) -> Vec<CheckReport> {
    let mut seen = Vec::new();
    until("all are listed", async || {
        seen = operator.checks().await.unwrap();
        seen.len() == 3 && seen[0].status == CheckStatus::Critical
    })
    .await;
    seen
}

#[tokio::test]
async fn an_operator_sees_every_check_of_the_store_worst_first() {
    let circuits = replica(&unique_prefix("health-shown"));
    let operator = Operator::of(&circuits);
    assert_eq!(operator.checks().await.unwrap(), []);
    let monitor = three(&circuits);
    let seen = until_listed(&operator).await;
    let names: Vec<_> = seen
        .iter()
        .map(|c| (c.name.as_str(), c.status.as_str()))
        .collect();
    assert_eq!(
        names,
        [
            ("postgres", "critical"),
            ("cache ü", "warning"),
            ("auth", "healthy")
        ]
    );
    assert_eq!(seen[0].last_error.as_deref(), Some("no route"));
    let one = operator.check("auth").await.unwrap().unwrap();
    assert_eq!((one.status, one.timeout_ms), (CheckStatus::Healthy, 5000));
    assert!(operator.check("other").await.unwrap().is_none());
    assert!(operator.check("a{b").await.is_err());
    drop(monitor);
}

#[tokio::test]
async fn a_check_that_nobody_runs_is_unknown_and_then_forgotten() {
    let clock = Clock::manual();
    let store = MemoryStore::new(clock.clone());
    let circuits = Commontrip::builder().store(store).build().unwrap();
    let operator = Operator::of(&circuits);
    let monitor = three(&circuits);
    until_listed(&operator).await;
    monitor.stop().await;
    let stale = 4 * 100 + 2 * 5000;
    clock.advance(Duration::from_millis(stale));
    assert_eq!(
        operator.checks().await.unwrap()[0].status,
        CheckStatus::Critical
    );
    clock.advance(Duration::from_secs(1));
    for check in operator.checks().await.unwrap() {
        assert_eq!(check.status, CheckStatus::Unknown);
        assert_eq!(check.why, "no replica has run it for 11 s");
        assert!(check.runs > 0, "what was known is still there");
    }
    clock.advance(Duration::from_secs(86_400));
    assert_eq!(operator.checks().await.unwrap(), []);
}

#[tokio::test]
async fn whatever_lies_in_the_store_the_rest_is_shown() {
    let store = MemoryStore::default();
    let circuits = Commontrip::builder().store(store.clone()).build().unwrap();
    let operator = Operator::of(&circuits);
    for junk in [&b""[..], b"\xc1", b"\x93\x01\x02", &[0x91; 10_000]] {
        store.keep("health:checks", junk, 60_000).await.unwrap();
        assert_eq!(operator.checks().await.unwrap(), []);
        store.keep("health:check:auth", junk, 60_000).await.unwrap();
        let _ = operator.check("auth").await.unwrap();
    }
    // Checks run on it.
    let _monitor = three(&circuits);
    until_listed(&operator).await;
    store
        .keep("health:check:postgres", b"\xc1", 60_000)
        .await
        .unwrap();
    let seen = operator.checks().await.unwrap();
    assert!(seen.iter().any(|check| check.name == "auth"), "{seen:?}");
}

#[cfg(feature = "admin")]
#[tokio::test]
async fn the_admin_api_and_its_metrics_show_checks() {
    use crate::admin::site::Site;

    let site = Site::start().await;
    assert_eq!(
        site.get("/checks").await.good()["checks"],
        serde_json::json!([])
    );
    let _monitor = three(&site.circuits);
    until_listed(&Operator::of(&site.circuits)).await;
    let all = site.get("/checks").await.good();
    assert!(all["now_ms"].as_u64().unwrap() > 0);
    let status = |i: usize| all["checks"][i]["status"].as_str().unwrap();
    assert_eq!([0, 1, 2].map(status), ["critical", "warning", "healthy"]);
    let one = site.get("/checks/cache%20%C3%BC").await.good();
    assert_eq!(
        (&one["name"], &one["last_error"]),
        (&"cache ü".into(), &"no route".into())
    );
    let words = site.get("/checks/other").await.problem(404);
    assert_eq!(words, "there is no check \"other\"");
    site.get("/checks/a%7Bb").await.problem(404);
    let metrics = site.get("/metrics").await.text;
    for line in [
        "health_check_fleet_status{check=\"auth\"} 1",
        "health_check_fleet_status{check=\"cache ü\"} 2",
        "health_check_fleet_status{check=\"postgres\"} 3",
        "health_check_fleet_up{check=\"auth\"} 1",
        "health_check_fleet_up{check=\"postgres\"} 0",
        "health_check_fleet_uptime_ratio{check=\"auth\"} 1",
        "health_check_fleet_latency_seconds{check=\"auth\"} ",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn the_exporter_has_the_checks_of_its_replica() {
    use commontrip::metrics::Exporter;
    use metrics_exporter_prometheus::PrometheusBuilder;

    let circuits = Commontrip::embedded().unwrap();
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let monitor = three(&circuits);
    let exporter = Exporter::start_on(recorder, &circuits, Duration::from_millis(20));
    let _exporter = exporter.with_checks(&monitor);
    for line in [
        "health_check_status{check=\"auth\"} 1",
        "health_check_status{check=\"postgres\"} 3",
        "health_check_up{check=\"auth\"} 1",
        "health_check_up{check=\"postgres\"} 0",
        "health_check_uptime_ratio{check=\"auth\"} 1",
        "health_check_latency_seconds{check=\"auth\"} ",
        "# HELP health_check_up Whether the last run passed",
    ] {
        until(line, async || shown.render().contains(line)).await;
    }
}

#[cfg(feature = "cli")]
#[tokio::test]
async fn the_command_line_lists_checks_and_its_status_says_whether_one_is_critical() {
    use crate::cli::run_at;
    use crate::support::redis_url;

    let prefix = unique_prefix("health-cli");
    let run = async |arguments: &[&str]| run_at(redis_url(), &prefix, arguments).await;
    let none = run(&["checks"]).await;
    assert_eq!((none.status, none.err.as_str()), (0, ""));
    assert!(none.out.contains("no replica has run a check"), "{none:?}");
    let circuits = replica(&prefix);
    let _monitor = three(&circuits);
    until_listed(&Operator::of(&circuits)).await;
    let text = run(&["checks"]).await;
    assert_eq!((text.status, text.err.as_str()), (1, ""), "{text:?}");
    let lines: Vec<_> = text.out.lines().collect();
    assert!(
        lines[0].starts_with("CHECK     STATUS    UPTIME"),
        "{text:?}"
    );
    assert!(
        lines[1].starts_with("postgres  critical    0.0%"),
        "{text:?}"
    );
    assert!(lines[1].contains("runs failed: no route"), "{text:?}");
    assert!(
        lines[3].starts_with("auth      healthy   100.0%"),
        "{text:?}"
    );
    let json = run(&["checks", "--json"]).await;
    assert_eq!(json.status, 1);
    assert_eq!(json.json()["checks"][0]["name"], "postgres");
}
