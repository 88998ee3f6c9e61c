//! `stats()` right after a call includes that call, on every store and from any thread.

use std::{thread, time::Duration};

use commontrip::{
    CircuitBreaker, CircuitStats, Commontrip, MemoryStore, Policy, RedisStore, Store,
};

use crate::support::{redis_url, unique, unique_prefix};

/// A policy that no call here trips.
fn policy() -> Policy {
    let policy = Policy::builder()
        .minimum_number_of_calls(1_000_000)
        .no_consecutive_failures_threshold();
    policy.build().unwrap()
}

fn stores() -> Vec<(&'static str, Commontrip)> {
    fn with(store: impl Store) -> Commontrip {
        Commontrip::builder().store(store).build().unwrap()
    }
    let redis = RedisStore::builder()
        .prefix(&unique_prefix("right-after"))
        .timeout(Duration::from_secs(5))
        .open(redis_url())
        .unwrap();
    vec![
        ("embedded", Commontrip::embedded().unwrap()),
        ("memory", with(MemoryStore::default())),
        ("redis", with(redis)),
        (
            "a Redis that is not there",
            Commontrip::redis("redis://127.0.0.1:1").unwrap(),
        ),
    ]
}

fn of(circuits: &Commontrip, breaker: &CircuitBreaker) -> CircuitStats {
    let stats = circuits.stats();
    let mut found = stats.into_iter().filter(|s| s.name == breaker.name());
    found.next().unwrap()
}

fn counts(circuits: &Commontrip, breaker: &CircuitBreaker) -> (u64, u64, u64) {
    let stats = of(circuits, breaker);
    (stats.successes, stats.failures, stats.rejected)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_call_is_counted_when_it_returns() {
    for (store, circuits) in stores() {
        let breaker = circuits.circuit(&unique("each"), policy()).unwrap();
        for n in 0..5 {
            let _ = breaker.call(async || Ok::<_, ()>(())).await;
            assert_eq!(
                counts(&circuits, &breaker),
                (4 * n + 1, 3 * n, 0),
                "{store}"
            );
            let _ = breaker.call(async || Err::<(), _>(())).await;
            assert_eq!(
                counts(&circuits, &breaker),
                (4 * n + 1, 3 * n + 1, 0),
                "{store}"
            );
            let _ = breaker.call_sync(|| Ok::<_, ()>(()));
            let _ = breaker.call_sync(|| Err::<(), _>(()));
            assert_eq!(
                counts(&circuits, &breaker),
                (4 * n + 2, 3 * n + 2, 0),
                "{store}"
            );
            let blocking = breaker.clone();
            let call = move || {
                blocking.call_blocking(|| Ok::<_, ()>(())).unwrap();
                blocking.call_blocking(|| Err::<(), _>(())).unwrap_err();
            };
            tokio::task::spawn_blocking(call).await.unwrap();
            assert_eq!(
                counts(&circuits, &breaker),
                (4 * n + 3, 3 * n + 3, 0),
                "{store}"
            );
            breaker.acquire().await.unwrap().success();
            assert_eq!(
                counts(&circuits, &breaker),
                (4 * n + 4, 3 * n + 3, 0),
                "{store}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_thread_finds_its_own_calls_at_once() {
    const THREADS: u64 = 4;
    const CALLS: u64 = 300;
    for (store, circuits) in stores() {
        let breaker = circuits.circuit(&unique("threads"), policy()).unwrap();
        let _ = breaker.call(async || Ok::<_, ()>(())).await;
        let work = || {
            let (circuits, breaker) = (circuits.clone(), breaker.clone());
            thread::spawn(move || {
                for own in 1..=CALLS {
                    let _ = breaker.call_sync(|| Err::<(), _>(()));
                    let seen = of(&circuits, &breaker).failures;
                    assert!(seen >= own && seen <= THREADS * CALLS, "{seen} after {own}");
                }
            })
        };
        let threads: Vec<_> = (0..THREADS).map(|_| work()).collect();
        for thread in threads {
            let joined = tokio::task::spawn_blocking(|| thread.join());
            joined.await.unwrap().unwrap_or_else(|_| panic!("{store}"));
        }
        assert_eq!(
            counts(&circuits, &breaker),
            (1, THREADS * CALLS, 0),
            "{store}"
        );
    }
}

#[tokio::test]
async fn a_rejected_call_is_counted_when_it_returns() {
    for (store, circuits) in stores() {
        if store.starts_with("a Redis") {
            continue;
        }
        let breaker = circuits.circuit(&unique("rejected"), policy()).unwrap();
        breaker.force_open(Default::default()).await.unwrap();
        for n in 1..=10 {
            assert!(breaker.call(async || Ok::<_, ()>(())).await.is_err());
            assert!(breaker.call_sync(|| Ok::<_, ()>(())).is_err());
            assert_eq!(counts(&circuits, &breaker), (0, 0, 2 * n), "{store}");
        }
    }
}
