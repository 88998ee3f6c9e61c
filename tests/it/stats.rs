//! A process' statistics of its circuits: counts are exact to the call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use commontrip::{
    CircuitBreaker, CircuitStats, Commontrip, LatencyRecording, MemoryStore, Outcome, Permit,
    Policy, PolicyBuilder, State, Transition,
};

use crate::{
    support::{self, OwnServer},
    wait::until,
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A policy that trips only on demand.
fn fast_path() -> PolicyBuilder {
    Policy::builder()
        .minimum_number_of_calls(1_000_000)
        .report_interval(ms(10))
}

fn of(circuits: &Commontrip, breaker: &CircuitBreaker) -> CircuitStats {
    let mut stats = circuits.stats();
    let at = stats.iter().position(|s| s.name == breaker.name()).unwrap();
    stats.swap_remove(at)
}

/// Transitions with their counts, as text: `closed open tripped false 1`.
fn transitions(stats: &CircuitStats) -> Vec<String> {
    let words = |(t, n): (&Transition, &u64)| {
        let Transition {
            from,
            to,
            reason,
            local,
            ..
        } = t;
        format!("{from} {to} {reason} {local} {n}")
    };
    stats.transitions.iter().map(words).collect()
}

async fn record(breaker: &CircuitBreaker, outcome: Outcome, times: u64) {
    for _ in 0..times {
        breaker.acquire().await.unwrap().record(outcome.clone());
    }
}

#[tokio::test]
async fn counts_are_what_was_called_to_the_call() {
    let circuits = Commontrip::builder()
        .redis(support::redis_url())
        // Long enough for a slow machine, because the Redis is up.
        .store_timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    let policy = fast_path()
        .slow_calls(ms(20), 100)
        .call_timeout(ms(1000))
        .latency_recording(LatencyRecording::EveryCall);
    let breaker = circuits
        .circuit(&support::unique("counts"), policy.build().unwrap())
        .unwrap();
    record(&breaker, Outcome::Success, 7).await;
    record(&breaker, Outcome::failure(), 3).await;
    record(&breaker, Outcome::Ignored, 2).await;
    let slow = async || {
        tokio::time::sleep(ms(25)).await;
        Ok::<_, ()>(())
    };
    breaker.call(slow).await.unwrap();
    let hangs = || breaker.call(std::future::pending::<Result<(), ()>>);
    let (one, two) = tokio::join!(hangs(), hangs());
    assert!(one.is_err() && two.is_err());
    // Nothing had to be reported before.
    let stats = of(&circuits, &breaker);
    assert_eq!(
        (stats.successes, stats.failures, stats.timeouts),
        (8, 5, 2),
        "{stats:?}"
    );
    assert_eq!((stats.ignored, stats.rejected), (2, 0));
    // A slow machine makes other calls slow too; these three always are.
    assert!(stats.slow >= 3);
    assert_eq!(stats.failures_in_time(), 3);
    assert_eq!(stats.latencies.count(), 13);
    assert!(stats.latencies.percentile(100.0).unwrap() >= ms(970));
    circuits.flush().await;
    let after = of(&circuits, &breaker);
    assert_eq!((after.successes, after.failures), (8, 5));
    assert_eq!(after.latencies, stats.latencies, "taken ones are kept");
    assert!(after.reports > 0 && after.reports_failed == 0);
    assert!(after.report_time > Duration::ZERO);
    assert!(circuits.health().round_trips.count() > 0);
    assert!(after.stale_for.is_some());
    assert_eq!(after.failure_rate(), Some(500.0 / 13.0));
    breaker.force_open(Default::default()).await.unwrap();
    for _ in 0..4 {
        breaker.acquire().await.unwrap_err();
    }
    assert_eq!(of(&circuits, &breaker).rejected, 4);
    // Calls permitted before a transition count as well.
    breaker.reset().await.unwrap();
    let early = breaker.acquire().await.unwrap();
    breaker.reset().await.unwrap();
    early.failure();
    assert_eq!(of(&circuits, &breaker).failures, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn counts_of_many_threads_only_grow_and_lose_nothing() {
    const EACH: u64 = 20_000;
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuits
        .circuit("busy", fast_path().build().unwrap())
        .unwrap();
    record(&breaker, Outcome::Success, 1).await;
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let breaker = breaker.clone();
            std::thread::spawn(move || {
                for n in 0..EACH {
                    let result = if n % 10 == 0 { Err(()) } else { Ok(()) };
                    let _ = breaker.call_sync(|| result);
                }
            })
        })
        .collect();
    let mut before = 0;
    while threads.iter().any(|thread| !thread.is_finished()) {
        let stats = of(&circuits, &breaker);
        let all = stats.successes + stats.failures + stats.rejected;
        assert!(all >= before, "{all} after {before}");
        before = all;
        tokio::task::yield_now().await;
    }
    let stats = of(&circuits, &breaker);
    assert_eq!(
        (stats.successes, stats.failures, stats.rejected),
        (1 + 3 * EACH * 9 / 10, 3 * EACH / 10, 0)
    );
}

#[tokio::test]
async fn each_replica_counts_a_transition_once_and_its_own_probes() {
    let store = MemoryStore::default();
    let replica = || Commontrip::builder().store(store.clone()).build().unwrap();
    let (one, two) = (replica(), replica());
    let policy = fast_path()
        .wait_duration_in_open_state(ms(1))
        .permitted_number_of_calls_in_half_open_state(2)
        .success_threshold(1)
        .decision_ttl(ms(20));
    let policy = policy.build().unwrap();
    let a = one.circuit("c", policy.clone()).unwrap();
    let b = two.circuit("c", policy).unwrap();
    record(&a, Outcome::Success, 1).await;
    record(&b, Outcome::Success, 1).await;
    record(&a, Outcome::trip(), 1).await;
    let reached = async |state: State| {
        until("both know", async || {
            a.state() == state && b.state() == state
        })
        .await;
    };
    reached(State::Open).await;
    let mut permits = Vec::new();
    until("two probes", async || {
        permits.extend(a.acquire().await);
        permits.len() == 2
    })
    .await;
    reached(State::HalfOpen).await;
    assert!(permits.iter().all(Permit::is_probe));
    permits.pop().unwrap().record(Outcome::Ignored);
    permits.pop().unwrap().success();
    reached(State::Closed).await;
    for (circuits, breaker, probes) in [(&one, &a, (1, 0, 1)), (&two, &b, (0, 0, 0))] {
        let stats = of(circuits, breaker);
        assert_eq!(
            transitions(&stats),
            [
                "closed open tripped false 1",
                "open half_open wait_elapsed false 1",
                "half_open closed recovered false 1",
            ]
        );
        let seen = stats.probes;
        assert_eq!((seen.successes, seen.failures, seen.ignored), probes);
    }
    let stats = of(&one, &a);
    assert_eq!((stats.successes, stats.failures, stats.ignored), (2, 1, 1));
}

#[tokio::test]
async fn what_a_replica_does_alone_is_counted_apart_from_what_the_fleet_does() {
    let server = OwnServer::start();
    let circuits = Commontrip::redis(&server.url()).unwrap();
    let policy = Policy::builder().minimum_number_of_calls(4);
    let policy = policy.wait_duration_in_open_state(Duration::from_secs(3600));
    let breaker = circuits.circuit("alone", policy.build().unwrap()).unwrap();
    record(&breaker, Outcome::Success, 1).await;
    circuits.flush().await;
    server.kill();
    until("the store is unavailable", async || {
        let _ = breaker.acquire().await.map(Permit::success);
        circuits.health().unavailable_for.is_some()
    })
    .await;
    // The replica's own verdict, which is not reported to the fleet.
    record(&breaker, Outcome::trip(), 1).await;
    until("it opens for itself", async || {
        breaker.state() == State::Open
    })
    .await;
    until("it was asked for", async || {
        of(&circuits, &breaker).reports_failed > 1
    })
    .await;
    let opened = "closed open tripped true 1";
    assert_eq!(transitions(&of(&circuits, &breaker)), [opened]);
    server.restart();
    until("the fleet's circuit decides again", async || {
        circuits.flush().await;
        circuits.health().unavailable_for.is_none() && breaker.state() == State::Closed
    })
    .await;
    assert_eq!(
        transitions(&of(&circuits, &breaker)),
        [opened, "open closed created true 1"]
    );
}

#[tokio::test]
async fn an_observer_looks_until_it_is_dropped_or_the_registry_is() {
    let looks = || {
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let look = move |_: &commontrip::RegistryHealth, stats: &[CircuitStats]| {
            assert_eq!(stats.len(), 1);
            counted.fetch_add(1, Ordering::SeqCst);
        };
        (count, look)
    };
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuits.circuit("c", Policy::default()).unwrap();
    let (first, look) = looks();
    let observer = circuits.observe(ms(2), look);
    let (second, look) = looks();
    let kept = circuits.observe(ms(2), look);
    let several = async |count: &Arc<AtomicU64>| {
        let before = count.load(Ordering::SeqCst);
        until("it looks", async || {
            count.load(Ordering::SeqCst) > before + 2
        })
        .await;
    };
    several(&first).await;
    several(&second).await;
    drop(observer);
    // The closure is dropped with its task.
    until("the first has ended", async || {
        Arc::strong_count(&first) == 1
    })
    .await;
    several(&second).await;
    drop((circuits, breaker));
    until("the second has ended", async || {
        Arc::strong_count(&second) == 1
    })
    .await;
    drop(kept);
}
