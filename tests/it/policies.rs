//! Replicas of one fleet with different policies for one circuit, as in every rolling deploy.

use std::time::Duration;

use commontrip::{Commontrip, Policy, PolicyBuilder, State};

use crate::{
    support::{admin_url, redis_url, unique, unique_prefix},
    traces::listen,
    wait::until,
};

const MIXED: &str = "replicas run this circuit with different policies; the number of replicas with each value is in brackets";
const ANOTHER: &str =
    "the circuit was taken with a different policy than before; the latest one is in force";

fn replica(prefix: &str) -> Commontrip {
    let built = Commontrip::builder()
        .redis(redis_url())
        .prefix(prefix)
        .store_timeout(Duration::from_secs(5));
    built.build().unwrap()
}

fn built(policy: PolicyBuilder) -> Policy {
    policy.build().unwrap()
}

fn window(seconds: u64) -> PolicyBuilder {
    Policy::builder().sliding_window_time(Duration::from_secs(seconds), 10)
}

async fn record(replica: &Commontrip, name: &str, policy: &Policy, failed: bool) -> State {
    let circuit = replica.circuit(name, policy.clone()).unwrap();
    let Ok(permit) = circuit.acquire().await else {
        return State::Open;
    };
    match failed {
        true => permit.failure(),
        false => permit.success(),
    }
    replica.flush().await;
    circuit.state()
}

#[tokio::test]
async fn twenty_failures_open_it_whatever_windows_their_replicas_have() {
    let pairs = [
        (built(window(300)), built(window(10))),
        (
            built(window(60)),
            built(Policy::builder().sliding_window_count(20)),
        ),
        (
            built(Policy::builder().sliding_window_count(100)),
            built(Policy::builder().sliding_window_count(20)),
        ),
    ];
    for (n, (one, other)) in pairs.into_iter().enumerate() {
        // Only the rate may open it, because runs of failures do not depend on the window.
        let without_run = |policy: &Policy| {
            let rules = serde_json::to_value(policy).unwrap();
            let mut rules = rules.as_object().unwrap().clone();
            rules.insert("consecutive_failures_threshold".into(), 0.into());
            serde_json::from_value::<Policy>(rules.into()).unwrap()
        };
        let (one, other) = (without_run(&one), without_run(&other));
        let (prefix, name) = (unique_prefix("policies"), unique("payments"));
        let (a, b) = (replica(&prefix), replica(&prefix));
        let mut failed = 0;
        while failed < 40 {
            let (who, policy) = match failed % 2 {
                0 => (&a, &one),
                _ => (&b, &other),
            };
            failed += 1;
            if record(who, &name, policy, true).await != State::Closed {
                break;
            }
        }
        assert_eq!(failed, 20, "pair {n}");
    }
}

#[tokio::test]
async fn the_fewest_probes_that_a_replica_permits_are_out() {
    let (prefix, name) = (unique_prefix("policies"), unique("payments"));
    let policy = |probes| {
        let policy = Policy::builder()
            .consecutive_failures_threshold(2)
            .wait_duration_in_open_state(Duration::from_millis(50))
            .permitted_number_of_calls_in_half_open_state(probes);
        built(policy)
    };
    let (one, five) = (policy(1), policy(5));
    let (a, b) = (replica(&prefix), replica(&prefix));
    record(&a, &name, &one, true).await;
    record(&b, &name, &five, true).await;
    let circuits = [
        a.circuit(&name, one).unwrap(),
        b.circuit(&name, five).unwrap(),
    ];
    let mut out = Vec::new();
    until("a probe is out", async || {
        out.extend(circuits[1].acquire().await.ok());
        !out.is_empty()
    })
    .await;
    for circuit in circuits.iter().cycle().take(20) {
        out.extend(circuit.acquire().await.ok());
    }
    assert_eq!(out.len(), 1);
}

#[tokio::test]
async fn each_replica_says_once_that_the_fleet_has_two_policies() {
    let (log, _guard) = listen();
    let (prefix, name) = (unique_prefix("policies"), unique("payments"));
    let (a, b) = (replica(&prefix), replica(&prefix));
    let (one, other) = (built(window(60)), built(window(5)));
    for _ in 0..5 {
        record(&a, &name, &one, false).await;
        record(&b, &name, &other, false).await;
    }
    let lines = log.of(MIXED);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in &lines {
        assert_eq!(line.get("differ"), "window_ms=60000 (1), 5000 (1)");
        assert_eq!(line.get("circuit"), name);
    }
    let seen = a.circuit(&name, one).unwrap().snapshot().await.unwrap();
    assert_eq!(seen.policies_differ, "window_ms=60000 (1), 5000 (1)");
    assert_eq!(log.of(ANOTHER).len(), 0);
}

#[cfg(feature = "cli")]
#[tokio::test]
async fn operators_are_told_which_settings_differ() {
    let (prefix, name) = (unique_prefix("policies"), unique("payments"));
    let (a, b) = (replica(&prefix), replica(&prefix));
    record(&a, &name, &built(window(60)), false).await;
    record(&b, &name, &built(window(5)), false).await;
    for command in [&["show", &name][..], &["doctor", "--timeout", "4000"]] {
        let mut told = std::process::Command::new(env!("CARGO_BIN_EXE_commontrip"));
        told.args(command)
            .args(["--redis", admin_url(), "--prefix", &prefix]);
        let told = told.output().unwrap();
        let text = String::from_utf8_lossy(&told.stdout);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.contains("window_ms=60000 (1), 5000 (1)"),
            "{command:?}: {told:?}"
        );
    }
}

#[tokio::test]
async fn a_circuit_taken_with_two_policies_in_one_process_is_told_once() {
    let (log, _guard) = listen();
    let circuits = Commontrip::embedded().unwrap();
    for seconds in [60, 5, 60, 5] {
        circuits
            .circuit("payments", built(window(seconds)))
            .unwrap();
    }
    let lines = log.of(ANOTHER);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].get("differ"), "window_ms=5000, not 60000");
}
