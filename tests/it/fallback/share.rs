//! The fleet's values of one name are bounded, and do not affect circuits in the same Redis.

use std::time::Duration;

use commontrip::fallback::{LastGood, LastGoodBuilder};
use commontrip::{CircuitBreaker, Commontrip, Policy, RedisStore};
use redis::Connection;

use super::fleet::replica;
use crate::scripts::connect;
use crate::support::{OwnServer, redis_url, unique_prefix};
use crate::topology::cluster_servers::Cluster;
use crate::wait::until;

fn speech(name: &str, circuits: &Commontrip) -> LastGoodBuilder<String> {
    let speech = LastGood::builder(name).refresh(Duration::ZERO);
    speech.shared(circuits)
}

/// Which of the first `keys` keys the fleet has.
async fn there(name: &str, circuits: &Commontrip, keys: usize) -> Vec<usize> {
    let newcomer = speech(name, circuits).build().unwrap();
    let mut there = Vec::new();
    for key in 0..keys {
        if newcomer.recall(&key.to_string()).await.is_some() {
            there.push(key);
        }
    }
    there
}

/// Keeps this many values one after the other, so that their order is known.
async fn keep(
    one: &LastGood<String>,
    name: &str,
    circuits: &Commontrip,
    keys: usize,
    length: usize,
) {
    for key in 0..keys {
        one.keep(&key.to_string(), &"x".repeat(length));
        let newcomer = speech(name, circuits).build().unwrap();
        until("it is there", async || {
            newcomer.recall(&key.to_string()).await.is_some()
        })
        .await;
        // The order has a resolution of one millisecond.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn the_fleet_keeps_the_newest_within_its_bound() {
    let prefix = unique_prefix("share");
    for circuits in [
        replica(redis_url(), &prefix),
        Commontrip::embedded().unwrap(),
    ] {
        // Each value counts as about 1130 bytes.
        let one = speech("one", &circuits).max_shared_bytes(12_000);
        let one = one.build().unwrap();
        keep(&one, "one", &circuits, 25, 1000).await;
        assert_eq!(there("one", &circuits, 25).await, Vec::from_iter(15..25));
        // A replaced value is the newest.
        one.keep("15", &"y".repeat(1000));
        tokio::time::sleep(Duration::from_millis(20)).await;
        one.keep("25", &"y".repeat(1000));
        until("it is there", async || {
            there("one", &circuits, 26).await.contains(&25)
        })
        .await;
        let left = there("one", &circuits, 26).await;
        assert_eq!((left.len(), left[0], left[1]), (10, 15, 17));
        // One large value takes the space of many; another name has its own space.
        let other = speech("other", &circuits).build().unwrap();
        other.keep("0", &"z".repeat(1000));
        one.keep("26", &"z".repeat(11_000));
        until("it is there", async || {
            there("one", &circuits, 27).await == [26]
        })
        .await;
        assert_eq!(there("other", &circuits, 1).await, [0]);
        assert_eq!(one.lost_writes(), 0);
    }
}

fn number(redis: &mut Connection, section: &str, of: &str) -> u64 {
    let info: String = redis::cmd("INFO").arg(section).query(redis).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix(of));
    line.unwrap().trim_start_matches(':').parse().unwrap()
}

/// Circuits in use, and one that is unused except for its override.
async fn circuits_of(circuits: &Commontrip) -> Vec<CircuitBreaker> {
    let policy = Policy::builder().report_interval(Duration::from_millis(20));
    let policy = policy.build().unwrap();
    let of = |i| circuits.circuit(&format!("c{i}"), policy.clone()).unwrap();
    let all: Vec<_> = (0..50).map(of).collect();
    for breaker in &all {
        breaker.call(async || Ok::<_, ()>(())).await.unwrap();
    }
    circuits.flush().await;
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_do_not_suffer_from_values_in_a_small_redis() {
    for eviction in ["allkeys-lru", "volatile-lru", "noeviction"] {
        let args = ["--maxmemory", "20mb", "--maxmemory-policy", eviction];
        let server = OwnServer::start_with(&args);
        let circuits = Commontrip::builder().redis(&server.url());
        let circuits = circuits.prefix(&unique_prefix("small"));
        let circuits = circuits.store_timeout(Duration::from_secs(2));
        let circuits = circuits.build().unwrap();
        let breakers = circuits_of(&circuits).await;
        let speech = speech("speech", &circuits).build().unwrap();
        for key in 0..1000 {
            speech.keep(&key.to_string(), &"x".repeat(60_000));
            if key % 100 == 99 {
                for breaker in &breakers {
                    breaker.call(async || Ok::<_, ()>(())).await.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        until("the last one is there", async || {
            !there_of(&circuits, 990..1000).await.is_empty()
        })
        .await;
        circuits.flush().await;
        let mut redis = connect(&server.admin_url());
        assert_eq!(number(&mut redis, "stats", "evicted_keys"), 0, "{eviction}");
        let used = number(&mut redis, "memory", "used_memory");
        assert!(used < 15 << 20, "{eviction}: {used}");
        let known = circuits.circuits().await.unwrap();
        assert_eq!(known.len(), 50, "{eviction}");
        for breaker in &breakers {
            let snapshot = breaker.snapshot().await.unwrap();
            assert_eq!(snapshot.successes_total, 11, "{eviction}");
        }
        assert!(circuits.health().unavailable_for.is_none(), "{eviction}");
    }
}

async fn there_of(circuits: &Commontrip, keys: std::ops::Range<usize>) -> Vec<usize> {
    let newcomer = speech("speech", circuits).build().unwrap();
    let mut there = Vec::new();
    for key in keys {
        if newcomer.recall(&key.to_string()).await.is_some() {
            there.push(key);
        }
    }
    there
}

#[tokio::test]
async fn in_a_cluster_each_name_has_its_bound() {
    let cluster = Cluster::start(3, false).await;
    let store = RedisStore::builder().prefix(&unique_prefix("cluster"));
    let store = store.timeout(Duration::from_secs(5)).open(&cluster.url());
    let circuits = Commontrip::builder().store(store.unwrap()).build().unwrap();
    for name in ["a", "b", "c", "d"] {
        let one = speech(name, &circuits).max_shared_bytes(12_000);
        let one = one.build().unwrap();
        keep(&one, name, &circuits, 15, 1000).await;
        assert_eq!(there(name, &circuits, 15).await, Vec::from_iter(5..15));
        assert_eq!(one.lost_writes(), 0);
    }
}
