//! Bytes and leases beside the circuits: one suite on each store, the script's errors, and many
//! owners that want the same lease.

use std::sync::Arc;
use std::time::Duration;

use commontrip::Clock;
use commontrip::store::{MemoryStore, RedisStore, Store, StoreError};
use redis::Script;
use tokio::task::JoinSet;

use crate::scripts::{connect, invoke, packed, read};
use crate::stores::on_each_store;
use crate::support::{admin_url, redis_url, unique_prefix};
use crate::wait::until;

const LONG_MS: u64 = 600_000;

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::default())
}

fn redis() -> Arc<dyn Store> {
    redis_under(&unique_prefix("key-value"))
}

fn redis_under(prefix: &str) -> Arc<dyn Store> {
    let builder = RedisStore::builder().prefix(prefix);
    let builder = builder.timeout(Duration::from_secs(20));
    Arc::new(builder.open(redis_url()).unwrap())
}

on_each_store! {
    bytes_are_kept_as_they_are_until_replaced_or_forgotten
    what_is_kept_ends_by_itself
    a_lease_has_one_owner_until_it_is_given_back
    a_lease_ends_by_itself_and_renewing_prolongs_it
    a_lease_lasts_no_longer_than_that_of_who_asks_would
    of_many_who_want_a_lease_one_gets_it
    what_is_kept_under_a_lease_is_kept_by_its_owner_alone
    what_cannot_be_kept_is_refused_and_says_why
}

async fn bytes_are_kept_as_they_are_until_replaced_or_forgotten(store: Arc<dyn Store>) {
    let every_byte: Vec<u8> = (0..=255).collect();
    assert_eq!(store.kept("rates").await.unwrap(), None);
    for value in [every_byte.as_slice(), b"", &vec![7; 1 << 20]] {
        store.keep("rates", value, LONG_MS).await.unwrap();
        assert!(store.kept("rates").await.unwrap().unwrap() == value);
    }
    // Leases have their own keys, and other keys are separate.
    assert!(store.lease("rates", "ana", LONG_MS).await.unwrap());
    assert_eq!(store.kept("other ü").await.unwrap(), None);
    store.keep("rates", b"", 0).await.unwrap();
    assert_eq!(store.kept("rates").await.unwrap(), None);
    assert!(store.circuits().await.unwrap().is_empty());
}

async fn what_is_kept_ends_by_itself(store: Arc<dyn Store>) {
    store.keep("brief", b"1", 100).await.unwrap();
    store.keep("replaced", b"1", 100).await.unwrap();
    store.keep("replaced", b"2", u64::MAX).await.unwrap();
    until("it has ended", async || {
        store.kept("brief").await.unwrap().is_none()
    })
    .await;
    assert_eq!(store.kept("replaced").await.unwrap().unwrap(), b"2");
}

async fn a_lease_has_one_owner_until_it_is_given_back(store: Arc<dyn Store>) {
    let lease = async |owner, for_ms| store.lease("check", owner, for_ms).await.unwrap();
    assert!(lease("ana", u64::MAX).await);
    assert!(!lease("ben", LONG_MS).await);
    // Only the owner can give it back.
    assert!(!lease("ben", 0).await);
    assert!(lease("ana", LONG_MS).await);
    assert!(lease("ana", 0).await);
    assert!(lease("ana", 0).await, "nobody has it");
    assert!(lease("ben", LONG_MS).await);
    assert!(!lease("ana", LONG_MS).await);
}

async fn a_lease_ends_by_itself_and_renewing_prolongs_it(store: Arc<dyn Store>) {
    assert!(store.lease("short", "ana", 100).await.unwrap());
    assert!(store.lease("long", "ana", 100).await.unwrap());
    assert!(store.lease("long", "ana", LONG_MS).await.unwrap());
    until("it has ended", async || {
        store.lease("short", "ben", LONG_MS).await.unwrap()
    })
    .await;
    assert!(!store.lease("long", "ben", LONG_MS).await.unwrap());
}

/// Simulates a clock that was set back since the lease was taken.
async fn a_lease_lasts_no_longer_than_that_of_who_asks_would(store: Arc<dyn Store>) {
    assert!(store.lease("hourly", "ana", LONG_MS).await.unwrap());
    assert!(!store.lease("hourly", "ben", 0).await.unwrap());
    assert!(!store.lease("hourly", "ben", 2 * LONG_MS).await.unwrap());
    assert!(!store.lease("hourly", "ben", 200).await.unwrap());
    until("ben has it", async || {
        store.lease("hourly", "ben", LONG_MS).await.unwrap()
    })
    .await;
}

async fn of_many_who_want_a_lease_one_gets_it(store: Arc<dyn Store>) {
    let mut crowd = JoinSet::new();
    for i in 0..32 {
        let store = Arc::clone(&store);
        crowd.spawn(async move { store.lease("one", &format!("r{i}"), LONG_MS).await.unwrap() });
    }
    let got = crowd.join_all().await;
    assert_eq!(got.iter().filter(|got| **got).count(), 1);
}

async fn what_is_kept_under_a_lease_is_kept_by_its_owner_alone(store: Arc<dyn Store>) {
    let keep = async |owner, value: &[u8]| {
        let kept = store.keep_leased("check", owner, value, LONG_MS);
        kept.await.unwrap()
    };
    assert!(!keep("ana", b"0").await, "nobody has it");
    assert!(store.lease("check", "ana", 200).await.unwrap());
    assert!(keep("ana", b"1").await && keep("ana", b"2").await);
    assert!(!keep("ben", b"3").await);
    until("ana's is over", async || !keep("ana", b"2").await).await;
    assert!(store.lease("check", "ben", LONG_MS).await.unwrap());
    assert!(keep("ben", b"4").await && !keep("ana", b"5").await);
    assert_eq!(store.kept("check").await.unwrap().unwrap(), b"4");
    // A lease of another key does not count.
    assert!(!store.keep_leased("other", "ben", b"6", 1).await.unwrap());
    let error = store.keep_leased("check", "ben", b"7", 0).await;
    assert!(matches!(error, Err(StoreError::Invalid(_))));
}

async fn what_cannot_be_kept_is_refused_and_says_why(store: Arc<dyn Store>) {
    let long = "x".repeat(301);
    for key in ["", "a{b", "a}b", "a\nb", &long] {
        let errors = [
            store.keep(key, b"v", 1).await.unwrap_err(),
            store.keep_leased(key, "ana", b"v", 1).await.unwrap_err(),
            store.kept(key).await.unwrap_err(),
            store.lease(key, "ana", 1).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, StoreError::Invalid(_)), "{key:?}: {error}");
            assert!(error.to_string().contains("1 to 300 bytes"), "{error}");
        }
    }
    for owner in ["", &long] {
        let error = store.lease("key", owner, 1).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    }
    let error = store.keep("big", &vec![0; (1 << 20) + 1], 1).await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "the request is not valid: the value has 1048577 bytes, but at most 1048576 are kept"
    );
    let longest = "x".repeat(300);
    store.keep(&longest, b"v", LONG_MS).await.unwrap();
    assert!(store.lease(&longest, &longest, LONG_MS).await.unwrap());
}

#[tokio::test]
async fn in_memory_times_end_by_the_stores_clock() {
    let clock = Clock::manual();
    let store = MemoryStore::new(clock.clone());
    store.keep("k", b"v", 1000).await.unwrap();
    assert!(store.lease("l", "ana", 1000).await.unwrap());
    clock.advance(Duration::from_millis(999));
    assert!(store.kept("k").await.unwrap().is_some());
    assert!(!store.lease("l", "ben", 1000).await.unwrap());
    clock.advance(Duration::from_millis(1));
    assert!(store.kept("k").await.unwrap().is_none());
    assert!(store.lease("l", "ben", 1000).await.unwrap());
    store.keep("k", b"v", 1000).await.unwrap();
    store.clear();
    assert!(store.kept("k").await.unwrap().is_none());
    assert!(store.lease("l", "ana", 1000).await.unwrap());
}

#[tokio::test]
async fn in_redis_each_has_a_key_of_its_own_that_expires() {
    let prefix = unique_prefix("key-value");
    let store = redis_under(&prefix);
    store.keep("k", b"v", u64::MAX).await.unwrap();
    assert!(store.lease("l", "ana", 5000).await.unwrap());
    let mut redis = connect(admin_url());
    for (key, most) in [
        (format!("{prefix}:kept:{{k}}"), 365 * 86_400_000),
        (format!("{prefix}:lease:{{l}}"), 5000),
    ] {
        let left: i64 = ::redis::cmd("PTTL").arg(&key).query(&mut redis).unwrap();
        assert!((1..=most).contains(&left), "{key}: {left}");
    }
}

#[test]
fn the_script_refuses_what_it_cannot_do_and_changes_nothing() {
    let text = read("lua/key_value/lease.lua");
    let header = text.split("\n\n").next().unwrap();
    assert!(header.starts_with("-- key_value/lease: ") && header.contains("-- KEYS[1]  "));
    let (script, mut redis) = (Script::new(&text), connect(admin_url()));
    script.load(&mut redis).unwrap();
    let keys = [format!("{}:lease:{{l}}", unique_prefix("key-value"))];
    let wrong = [
        packed(("ana",)),
        packed(("ana", 1, 1)),
        packed(("", 1)),
        packed((1, 1)),
        packed(("ana", -1)),
        packed(("ana", 1.5)),
        packed(("ana", f64::NAN)),
        packed(("ana", 31_536_000_001_u64)),
        packed(("ana", "1")),
        packed(7),
        vec![],
        vec![0xc1],
    ];
    for request in wrong {
        let wrong = std::slice::from_ref(&request);
        let error = invoke(&mut redis, &script, &keys, wrong).unwrap_err();
        assert_eq!(error.code(), Some("EREQUEST"), "{request:?}: {error}");
    }
    let good = packed(("ana", 31_536_000_000_u64));
    for (keys, arguments) in [(&keys[..], 0), (&keys, 2), (&[], 1)] {
        let arguments = vec![good.clone(); arguments];
        let error = invoke(&mut redis, &script, keys, &arguments).unwrap_err();
        assert_eq!(error.code(), Some("EARITY"), "{error}");
    }
    let there: bool = ::redis::cmd("EXISTS").arg(&keys).query(&mut redis).unwrap();
    assert!(!there);
    let mut call = script.key(&keys[0]);
    assert_eq!(call.arg(good).invoke::<u8>(&mut redis).unwrap(), 1);
}
