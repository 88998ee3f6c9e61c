//! `simulate` compared with a real circuit.

use std::time::{Duration, Instant};

use commontrip::{CircuitBreaker, Commontrip, Policy, RedisStore, State};

use super::Service;
use crate::{support::redis_url, wait::until};

#[tokio::test]
async fn the_policy_in_force_trips_as_it_did_and_others_do_not() {
    let service = Service::new("cli-simulate");
    let breaker = service.circuit("payments", 10, 0).await;
    service.call(&breaker, 0, 30).await;
    // Rejected calls have no outcome.
    service.call(&breaker, 0, 25).await;
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!(seen.state.as_str(), "open");
    let before = service.run(&["events", "--json"]).await.out;

    let same = service.json(&["simulate", "payments"]).await;
    assert_eq!(same["name"], "payments");
    assert_eq!(same["calls"], seen.successes_total + seen.failures_total);
    assert_eq!(same["failures"], seen.failures_total);
    assert_eq!(same["changed"], serde_json::json!({}));
    assert_eq!(same["real"]["rejected"], seen.rejected_total);
    assert_eq!(same["real"]["rejected_failures"], serde_json::Value::Null);
    assert_eq!(same["measure"]["verdict"], "agrees", "{same:#}");
    assert_eq!(same["measure"]["replayed"], same["simulated"]);
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
        &["minimum_number_of_calls=1000", "window=2m"],
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
        // After the real trip there were no calls to replay.
        assert_eq!(other["possible"]["after_real_trips"], 1);
        assert_eq!(other["changed"].as_object().unwrap().len(), pairs.len());
    }
    let text = service
        .run(&["simulate", "payments", "failure_rate_threshold=100%"])
        .await;
    assert_eq!(text.status, 0);
    for words in [
        "tried: failure_rate_threshold 100%",
        "measure: replayed, the policy in force finds 1 of 1 real trips",
        "0 to 1",
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
    let ran = service
        .run(&["metrics-only", "payments", "--until-reset"])
        .await;
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
    assert_eq!(told["measure"]["verdict"], "untested", "{told:#}");
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
        limits.contains("metrics_only is taken as closed"),
        "{limits}"
    );
    // The order of calls is not recorded, so such a run is possible.
    let short = [off[0], "consecutive_failures_threshold=100"];
    let ran = service
        .run(&["simulate", "payments", short[0], short[1]])
        .await;
    assert_eq!(ran.status, 4, "{ran:?}");
    let said = "consecutive_failures_threshold is 100, but the order of calls within slices of 1s is not recorded";
    assert!(ran.err.contains(said), "{ran:?}");
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

/// Makes a call every few milliseconds; `failing` in ten fail.
async fn traffic(breaker: &CircuitBreaker, lasts: Duration, failing: usize) {
    let began = Instant::now();
    for i in 0.. {
        if began.elapsed() >= lasts {
            return;
        }
        let outcome = if i % 10 < failing { Err(()) } else { Ok(()) };
        let _ = breaker.call(|| async { outcome }).await;
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
}

/// The demo's circuit: a short window, short waits, an outage that trips it repeatedly.
#[tokio::test]
async fn a_short_window_and_short_waits_are_repeated_trip_by_trip() {
    let service = Service::new("cli-simulate-demo");
    let policy = Policy::builder()
        .sliding_window_time(Duration::from_secs(1), 10)
        .minimum_number_of_calls(10)
        .no_consecutive_failures_threshold()
        .wait_duration_in_open_state(Duration::from_millis(600))
        .probe_lease(Duration::from_millis(600))
        // More than the calls of `traffic` that succeed in a row while it fails.
        .success_threshold(4);
    let policy = policy.build().unwrap();
    let breaker = service.circuits.circuit("payments", policy).unwrap();
    for _ in 0..4 {
        traffic(&breaker, Duration::from_millis(1700), 0).await;
        traffic(&breaker, Duration::from_millis(1600), 7).await;
        traffic(&breaker, Duration::from_millis(900), 0).await;
    }
    service.circuits.flush().await;

    let same = service.json(&["simulate", "payments"]).await;
    let trips = |course: &serde_json::Value| course["trips"].as_array().unwrap().len();
    let real = trips(&same["real"]);
    assert!(real >= 4, "{same:#}");
    assert_eq!(same["slice_ms"], 1000);
    assert_eq!(same["measure"]["verdict"], "agrees", "{same:#}");
    assert_eq!(same["measure"]["found"], real);
    assert_eq!(trips(&same["simulated"]), real, "{same:#}");

    let stricter = service
        .json(&["simulate", "payments", "failure_rate_threshold=30%"])
        .await;
    let would = trips(&stricter["simulated"]);
    assert!(would.abs_diff(real) <= 1, "{stricter:#}");
    let looser = service
        .json(&["simulate", "payments", "failure_rate_threshold=95%"])
        .await;
    assert_eq!(trips(&looser["simulated"]), 0, "{looser:#}");
    assert_eq!(looser["possible"]["after_real_trips"], real);
    let text = service
        .run(&["simulate", "payments", "failure_rate_threshold=95%"])
        .await;
    assert!(text.out.contains(&format!("0 to {real}")), "{text:?}");

    // The window is shorter than a slice.
    let refused = service.run(&["simulate", "payments", "window=100ms"]).await;
    assert_eq!((refused.status, refused.out.as_str()), (4, ""));
    let said = "window_ms is 100ms, but the past is recorded in slices of 1s, which cannot tell shorter windows";
    assert!(refused.err.contains(said), "{refused:?}");
    // As far back as requested.
    let newest = service
        .json(&["simulate", "payments", "--over", "3s"])
        .await;
    let lasted = newest["to_ms"].as_u64().unwrap() - newest["from_ms"].as_u64().unwrap();
    assert!(lasted <= 3000 && newest["calls"].as_u64() < same["calls"].as_u64());
    let wrong = service.run(&["simulate", "payments", "--over", "0s"]).await;
    assert_eq!(wrong.status, 2, "{wrong:?}");
}

#[tokio::test]
async fn what_the_replay_does_not_repeat_is_not_told() {
    let service = Service::new("cli-simulate-differs");
    let policy = |rate| {
        let builder = Policy::builder()
            .sliding_window_time(Duration::from_secs(1), 10)
            .no_consecutive_failures_threshold()
            .failure_rate_threshold(rate);
        builder.build().unwrap()
    };
    let before = service.circuits.circuit("payments", policy(100)).unwrap();
    traffic(&before, Duration::from_millis(800), 7).await;
    service.circuits.flush().await;
    // A deploy: the policy now in force would have opened the circuit then.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let store = RedisStore::builder()
        .prefix(&service.prefix)
        .open(redis_url());
    let deployed = Commontrip::builder().store(store.unwrap()).build().unwrap();
    let after = deployed.circuit("payments", policy(50)).unwrap();
    after.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
    deployed.flush().await;
    for pairs in [&[][..], &["failure_rate_threshold=40%"]] {
        let arguments = [&["simulate", "payments"], pairs].concat();
        let text = service.run(&arguments).await;
        assert_eq!((text.status, text.err.as_str()), (4, ""), "{text:?}");
        let said = "cannot tell: replayed, the policy in force finds 0 of 0 real trips and has 1 that did not happen";
        assert!(text.out.contains(said), "{text:?}");
        let json = service.run(&[&arguments[..], &["--json"]].concat()).await;
        assert_eq!(json.status, 4);
        let told = json.json();
        assert_eq!(told["simulated"], serde_json::Value::Null, "{told:#}");
        assert_eq!(told["measure"]["verdict"], "differs");
        assert_eq!(told["measure"]["invented"], 1);
    }
}

#[tokio::test]
async fn without_a_history_there_is_no_answer() {
    let service = Service::new("cli-simulate-off");
    let policy = Policy::builder().no_history().build().unwrap();
    let breaker = service.circuits.circuit("payments", policy).unwrap();
    service.call(&breaker, 20, 0).await;
    let ran = service.run(&["simulate", "payments"]).await;
    assert_eq!(ran.status, 4, "{ran:?}");
    let said = "history is off, but without it nothing is on record";
    assert!(ran.err.contains(said), "{ran:?}");
    // A stored setting applies to every replica.
    let on = service
        .run(&["policy", "set", "payments", "history=on"])
        .await;
    assert_eq!(on.status, 0, "{on:?}");
    until("the past is kept", async || {
        service.call(&breaker, 20, 0).await;
        service.run(&["simulate", "payments"]).await.status == 0
    })
    .await;
}
