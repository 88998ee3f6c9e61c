//! `on_event`: reports each transition after its return exactly once, on every store.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use commontrip::{
    CircuitBreaker, Clock, Commontrip, MemoryStore, Override, Policy, test_util::Fleet,
};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::support::{redis_url, unique_prefix};

/// For each circuit and generation, how often a hook was called.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<BTreeMap<(String, u64), u32>>>);

impl Calls {
    fn hook(&self, circuits: &Commontrip) {
        let calls = Arc::clone(&self.0);
        circuits.on_event(move |name, event| {
            let key = (name.to_owned(), event.generation);
            *calls.lock().entry(key).or_default() += 1;
        });
    }

    fn of(&self, breaker: &CircuitBreaker, generation: u64) -> u32 {
        let key = (breaker.name().to_owned(), generation);
        self.0.lock().get(&key).copied().unwrap_or(0)
    }

    async fn heard(&self, breaker: &CircuitBreaker, generation: u64) {
        let heard = async {
            while self.of(breaker, generation) == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let name = breaker.name();
        tokio::time::timeout(Duration::from_secs(20), heard)
            .await
            .unwrap_or_else(|_| panic!("{name}: generation {generation} was not heard"));
    }

    /// Checks that each of these was reported once, and no transition twice.
    async fn heard_once(&self, expected: &[(CircuitBreaker, u64)]) {
        for (breaker, generation) in expected {
            self.heard(breaker, *generation).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let twice: Vec<_> = self
            .0
            .lock()
            .iter()
            .filter(|(_, n)| **n != 1)
            .map(|(k, _)| k.clone())
            .collect();
        assert!(twice.is_empty(), "heard more than once: {twice:?}");
    }
}

fn registries() -> Vec<(&'static str, Commontrip)> {
    let redis = Commontrip::builder()
        .redis(redis_url())
        .prefix(&unique_prefix("hooks"))
        .store_timeout(Duration::from_secs(2));
    let shared = Commontrip::builder().store(MemoryStore::new(Clock::system()));
    vec![
        ("embedded", Commontrip::embedded().unwrap()),
        ("redis", redis.build().unwrap()),
        ("memory", shared.build().unwrap()),
    ]
}

async fn open(breaker: &CircuitBreaker) -> u64 {
    let opened = breaker.force_open(Override::because("test")).await;
    opened.unwrap().generation
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transition_right_after_on_event_is_heard_on_every_store() {
    for (store, circuits) in registries() {
        let mut expected = Vec::new();
        let calls = Calls::default();
        for n in 0..40 {
            // Half of the circuits are created just before, so the store has not answered yet.
            let fresh = circuits
                .circuit(&format!("{store}-fresh-{n}"), Policy::default())
                .unwrap();
            let known = circuits
                .circuit(&format!("{store}-known-{n}"), Policy::default())
                .unwrap();
            open(&known).await;
            known.reset().await.unwrap();
            let mine = Calls::default();
            mine.hook(&circuits);
            let generation = open(if n % 2 == 0 { &fresh } else { &known }).await;
            let breaker = if n % 2 == 0 { fresh } else { known };
            mine.heard(&breaker, generation).await;
            if n == 0 {
                calls.hook(&circuits);
            } else {
                expected.push((breaker, generation));
            }
        }
        calls.heard_once(&expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transition_of_another_replica_right_after_on_event_is_heard() {
    let prefix = unique_prefix("hooks");
    let replica = || {
        let builder = Commontrip::builder().redis(redis_url()).prefix(&prefix);
        builder
            .store_timeout(Duration::from_secs(2))
            .build()
            .unwrap()
    };
    let other = replica();
    for n in 0..20 {
        let name = format!("payments-{n}");
        let theirs = other.circuit(&name, Policy::default()).unwrap();
        // Earlier transitions are not replayed to a new hook.
        let before = open(&theirs).await;
        theirs.reset().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let circuits = replica();
        let ours = circuits.circuit(&name, Policy::default()).unwrap();
        let calls = Calls::default();
        calls.hook(&circuits);
        let generation = open(&theirs).await;
        calls.heard(&ours, generation).await;
        assert_eq!(calls.of(&ours, before), 0, "an old transition is not news");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_test_fleet_every_replica_hears_what_follows_on_event() {
    for n in 0..20 {
        let fleet = Fleet::new(3).unwrap();
        let breakers = fleet
            .circuit(&format!("payments-{n}"), Policy::default())
            .unwrap();
        let calls: Vec<_> = (0..3).map(|_| Calls::default()).collect();
        for (calls, circuits) in calls.iter().zip(fleet.replicas()) {
            calls.hook(circuits);
        }
        let generation = open(&breakers[0]).await;
        for (calls, breaker) in calls.iter().zip(&breakers) {
            calls.heard_once(&[(breaker.clone(), generation)]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_races_with_taking_a_circuit_follows_it_once() {
    for (store, circuits) in registries() {
        let mut expected = Vec::new();
        let mut hooked = Vec::new();
        for n in 0..100 {
            let name = format!("{store}-{n}");
            let calls = Calls::default();
            let mut racers = JoinSet::new();
            let (taker, hooker, mine) = (circuits.clone(), circuits.clone(), calls.clone());
            racers.spawn(async move { Some(taker.circuit(&name, Policy::default()).unwrap()) });
            racers.spawn(async move {
                mine.hook(&hooker);
                None
            });
            let breaker = racers
                .join_all()
                .await
                .into_iter()
                .flatten()
                .next()
                .unwrap();
            let generation = open(&breaker).await;
            calls.heard(&breaker, generation).await;
            expected.push((breaker, generation));
            hooked.push(calls);
        }
        for (n, calls) in hooked.iter().enumerate() {
            calls.heard_once(&expected[n..]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_keeps_no_circuit_and_follows_it_again_when_it_is_taken_again() {
    let circuits = Commontrip::builder()
        .idle_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let calls = Calls::default();
    calls.hook(&circuits);
    let take = |n: u32| {
        circuits
            .circuit(&format!("idle-{n}"), Policy::default())
            .unwrap()
    };
    for n in 0..20 {
        let first = take(n);
        let generation = open(&first).await;
        calls.heard(&first, generation).await;
        let closed = first.reset().await.unwrap().generation;
        calls.heard(&first, closed).await;
    }
    let gone = async {
        while !circuits.stats().is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(20), gone).await;
    gone.expect("the circuits are let go, whatever listens");
    let mut expected = Vec::new();
    for n in 0..20 {
        let again = take(n);
        let generation = open(&again).await;
        expected.push((again, generation));
    }
    calls.heard_once(&expected).await;
}
