//! A model manager with a primary and a fallback provider: 3 consecutive failures or 60 % of 5
//! calls, open for 45 s, 2 probes; its metrics, and resets of one circuit and of all.

use std::time::Duration;

use commontrip::{
    CircuitBreaker, Clock, Commontrip, Reason, State,
    config::Config,
    failover::{Attempt, Failover, Stage},
    metrics::Exporter,
};
use metrics_exporter_prometheus::PrometheusBuilder;

use super::{letter, letters};
use crate::wait::until;

/// The manager's environment.
const VARIABLES: [(&str, &str); 6] = [
    ("COMMONTRIP_CONSECUTIVE_FAILURES_THRESHOLD", "3"),
    ("COMMONTRIP_FAILURE_RATE_THRESHOLD", "60%"),
    ("COMMONTRIP_MINIMUM_NUMBER_OF_CALLS", "5"),
    ("COMMONTRIP_WAIT_DURATION_IN_OPEN_STATE", "45s"),
    (
        "COMMONTRIP_PERMITTED_NUMBER_OF_CALLS_IN_HALF_OPEN_STATE",
        "2",
    ),
    ("COMMONTRIP_SUCCESS_THRESHOLD", "2"),
];

fn manager() -> (Clock, Commontrip, [CircuitBreaker; 2]) {
    let variables = VARIABLES.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::from_variables(variables).unwrap();
    let clock = Clock::manual();
    let circuits = Commontrip::builder().clock(clock.clone()).build().unwrap();
    let breakers = ["primary", "fallback"].map(|name| {
        let policy = config.policy(name).unwrap();
        circuits.circuit(name, policy).unwrap()
    });
    (clock, circuits, breakers)
}

#[tokio::test]
async fn three_in_a_row_or_three_of_five_open_it_for_45_s() {
    for (calls, came, reason) in [
        ("SFFFS", "SFFFR", Reason::ConsecutiveFailures),
        ("FSFSFS", "FSFSFR", Reason::FailureRate),
    ] {
        let (clock, _circuits, [primary, _]) = manager();
        assert_eq!(letters(&primary, calls).await, came);
        let seen = primary.snapshot().await.unwrap();
        assert_eq!((seen.state, seen.reason), (State::Open, reason));
        assert_eq!(seen.left_ms(), 45_000);
        clock.advance(Duration::from_millis(44_999));
        assert_eq!(letters(&primary, "S").await, "R");
        clock.advance(Duration::from_millis(1));
        // Two probes at once; two successes close.
        let permits = [primary.acquire().await, primary.acquire().await];
        assert!(
            permits
                .iter()
                .all(|p| p.as_ref().is_ok_and(|p| p.is_probe()))
        );
        assert_eq!(letter(&primary, Ok(())).await, 'R');
        for permit in permits {
            permit.unwrap().success();
        }
        until("closed", async || primary.state() == State::Closed).await;
    }
    // Two of four are too few calls, and two of five are too few failures.
    let (_clock, _circuits, [primary, _]) = manager();
    assert_eq!(letters(&primary, "FSFSS").await, "FSFSS");
    assert_eq!(primary.state(), State::Closed);
}

#[tokio::test]
async fn its_metrics_say_who_served_and_a_reset_closes_one_or_all() {
    let (_clock, circuits, [primary, fallback]) = manager();
    let recorder = PrometheusBuilder::new().build_recorder();
    let scrape = recorder.handle();
    let _exporter = Exporter::start_on(recorder, &circuits, Duration::from_millis(10));
    let chain = Failover::builder()
        .stage(Stage::new("primary", &primary))
        .stage(Stage::new("fallback", &fallback))
        .build()
        .unwrap();
    let ask = async |down: &[&str]| {
        let call = |attempt: Attempt| {
            let answers = !down.contains(&&*attempt.name);
            async move { answers.then_some(()).ok_or("503") }
        };
        let served = chain.call(call).await;
        served.map(|served| served.stage.to_string()).ok()
    };
    assert_eq!(ask(&[]).await.as_deref(), Some("primary"));
    for _ in 0..4 {
        assert_eq!(ask(&["primary"]).await.as_deref(), Some("fallback"));
    }
    for _ in 0..4 {
        assert_eq!(ask(&["primary", "fallback"]).await, None);
    }
    let shows = async |line: &str| {
        until(line, async || scrape.render().lines().any(|l| l == line)).await;
    };
    // One success, three failures, and five rejections.
    for (result, n) in [("success", 1), ("failure", 3), ("rejected", 5)] {
        let labels = format!(r#"name="primary",result="{result}""#);
        shows(&format!("circuit_breaker_requests_total{{{labels}}} {n}")).await;
    }
    for (result, n) in [("success", 4), ("failure", 3), ("rejected", 1)] {
        let labels = format!(r#"name="fallback",result="{result}""#);
        shows(&format!("circuit_breaker_requests_total{{{labels}}} {n}")).await;
    }
    shows(r#"circuit_breaker_fallbacks_total{name="primary",kind="stage"} 4"#).await;
    shows(r#"circuit_breaker_state{name="primary"} 1"#).await;
    shows(r#"circuit_breaker_state{name="fallback"} 1"#).await;
    primary.reset().await.unwrap();
    assert_eq!(
        (primary.state(), fallback.state()),
        (State::Closed, State::Open)
    );
    assert_eq!(ask(&[]).await.as_deref(), Some("primary"));
    for breaker in [&primary, &fallback] {
        breaker.reset().await.unwrap();
    }
    assert_eq!(fallback.state(), State::Closed);
    shows(r#"circuit_breaker_state{name="fallback"} 0"#).await;
    // A reset keeps the counts.
    assert_eq!((primary.stats().failures, primary.stats().rejected), (3, 5));
    assert_eq!(primary.stats().open_for(), None);
}
