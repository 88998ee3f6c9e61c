//! `simulate` beside what a real circuit did.

use commontrip::State;

use super::Service;
use crate::wait::until;

#[tokio::test]
async fn the_policy_in_force_trips_as_it_did_and_others_do_not() {
    let service = Service::new("cli-simulate");
    let breaker = service.circuit("payments", 10, 0).await;
    service.call(&breaker, 0, 30).await;
    // Rejected: they have no outcome.
    service.call(&breaker, 0, 25).await;
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!(seen.state.as_str(), "open");
    let before = service.run(&["events", "--json"]).await.out;

    let same = service.json(&["simulate", "payments"]).await;
    assert_eq!(same["name"], "payments");
    assert_eq!(same["calls"], seen.successes_total + seen.failures_total);
    assert_eq!(same["failures"], seen.failures_total);
    assert_eq!(same["changed"], serde_json::json!({}));
    assert_eq!(same["real"]["rejected"], seen.not_permitted_total);
    assert_eq!(same["real"]["rejected_failures"], serde_json::Value::Null);
    for course in ["real", "simulated"] {
        let trips = same[course]["trips"].as_array().unwrap();
        assert_eq!(trips.len(), 1, "{same:#}");
        assert_eq!(trips[0]["reason"], "failure_rate");
        assert_eq!(trips[0]["ended_ms"], 0);
        assert!(trips[0]["failures"].as_u64().unwrap() * 2 >= trips[0]["calls"].as_u64().unwrap());
    }
    let at = |course: &str| same[course]["trips"][0]["at_ms"].as_u64().unwrap();
    assert_eq!(at("real"), seen.since_ms);
    let off = at("real").abs_diff(at("simulated"));
    let lasted = same["to_ms"].as_u64().unwrap() - same["from_ms"].as_u64().unwrap();
    assert!(off <= lasted.max(10_000), "{same:#}");

    for pairs in [
        &["failure_rate_threshold=100%"][..],
        &["minimum_number_of_calls=1000", "window_ms=2m"],
    ] {
        let other = service
            .json(&[&["simulate", "payments"], pairs].concat())
            .await;
        assert_eq!(
            other["simulated"]["trips"],
            serde_json::json!([]),
            "{other:#}"
        );
        assert_eq!(other["simulated"]["rejected"], 0);
        assert_eq!(other["real"]["trips"], same["real"]["trips"]);
        assert_eq!(other["changed"].as_object().unwrap().len(), pairs.len());
    }
    let text = service
        .run(&["simulate", "payments", "failure_rate_threshold=100%"])
        .await;
    assert_eq!(text.status, 0);
    for words in [
        "tried: failure_rate_threshold 100%",
        "not known",
        "really tripped",
        "spread evenly",
    ] {
        assert!(text.out.contains(words), "{words}: {text:?}");
    }
    // Nothing was written.
    assert_eq!(service.run(&["events", "--json"]).await.out, before);
    assert_eq!(breaker.snapshot().await.unwrap().policy_version, 0);
}

#[tokio::test]
async fn what_a_dry_run_recorded_shows_what_a_threshold_would_have_done() {
    let service = Service::new("cli-dry-run");
    let breaker = service.circuit("payments", 1, 0).await;
    let ran = service.run(&["metrics-only", "payments"]).await;
    assert_eq!(ran.status, 0, "{ran:?}");
    until("the replica has heard of it", async || {
        breaker.state() == State::MetricsOnly
    })
    .await;
    service.call(&breaker, 40, 160).await;
    let told = service
        .json(&["simulate", "payments", "failure_rate_threshold=60%"])
        .await;
    assert_eq!(told["real"]["trips"], serde_json::json!([]));
    assert_eq!(
        told["simulated"]["trips"].as_array().unwrap().len(),
        1,
        "{told:#}"
    );
    let rejected = told["simulated"]["rejected"].as_u64().unwrap();
    let failures = told["simulated"]["rejected_failures"].as_u64().unwrap();
    assert!(
        rejected > 0 && failures > 0 && failures <= rejected,
        "{told:#}"
    );
    let off = [
        "failure_rate_threshold=0",
        "consecutive_failures_threshold=500",
    ];
    let told = service
        .json(&["simulate", "payments", off[0], off[1]])
        .await;
    assert_eq!(told["simulated"]["trips"], serde_json::json!([]));
    let limits = told["limits"].to_string();
    assert!(
        limits.contains("consecutive_failures_threshold may have opened it earlier"),
        "{limits}"
    );
}

#[tokio::test]
async fn without_a_past_there_is_nothing_to_replay() {
    let service = Service::new("cli-no-past");
    let breaker = service
        .circuits
        .circuit("payments", commontrip::Policy::default())
        .unwrap();
    breaker.reset().await.unwrap();
    let told = service.json(&["simulate", "payments"]).await;
    assert_eq!(
        (&told["calls"], &told["simulated"]["trips"]),
        (&0.into(), &serde_json::json!([]))
    );
    let text = service.run(&["simulate", "payments"]).await;
    assert_eq!(text.status, 0);
    assert!(text.out.contains("make some calls first"), "{text:?}");
}
