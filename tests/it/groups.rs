//! Bytes in groups of bounded size: one suite on each store, the script's errors, and damaged
//! groups.

use std::sync::Arc;
use std::time::Duration;

use commontrip::Clock;
use commontrip::store::{MemoryStore, RedisStore, Store, StoreError};
use redis::{Commands, Connection, Script};
use tokio::task::JoinSet;

use crate::scripts::{connect, invoke, packed, read};
use crate::stores::on_each_store;
use crate::support::{admin_url, redis_url, unique_prefix};
use crate::wait::until;

const LONG_MS: u64 = 600_000;
/// The overhead that counts for each value beside its key and bytes.
const AROUND: u64 = 128;

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::default())
}

fn redis() -> Arc<dyn Store> {
    redis_under(&unique_prefix("groups"))
}

fn redis_under(prefix: &str) -> Arc<dyn Store> {
    let builder = RedisStore::builder().prefix(prefix);
    let builder = builder.timeout(Duration::from_secs(20));
    Arc::new(builder.open(redis_url()).unwrap())
}

on_each_store! {
    what_is_in_a_group_is_kept_as_it_is_until_replaced_or_forgotten
    what_would_expire_soonest_makes_room
    what_has_expired_makes_room_first
    a_large_value_takes_the_room_of_thousands
    a_group_of_many_writers_is_never_larger_than_it_may_be
    what_no_group_takes_is_refused_and_says_why
}

async fn put(store: &Arc<dyn Store>, key: &str, value: &[u8], for_ms: u64, most: u64) {
    store.keep_in("g", key, value, for_ms, most).await.unwrap();
}

async fn have(store: &Arc<dyn Store>, keys: &[&str]) -> String {
    let mut have = String::new();
    for key in keys {
        if store.kept_in("g", key).await.unwrap().is_some() {
            have += key;
        }
    }
    have
}

async fn what_is_in_a_group_is_kept_as_it_is_until_replaced_or_forgotten(store: Arc<dyn Store>) {
    let every_byte: Vec<u8> = (0..=255).collect();
    assert_eq!(store.kept_in("g", "k ü").await.unwrap(), None);
    for value in [every_byte.as_slice(), b"", &vec![7; 1 << 20]] {
        put(&store, "k ü", value, LONG_MS, u64::MAX).await;
        assert!(store.kept_in("g", "k ü").await.unwrap().unwrap() == value);
    }
    // Other groups, and values without a group, are separate.
    assert_eq!(store.kept_in("h", "k ü").await.unwrap(), None);
    assert_eq!(store.kept("k ü").await.unwrap(), None);
    put(&store, "k ü", b"", 0, 0).await;
    assert_eq!(store.kept_in("g", "k ü").await.unwrap(), None);
    put(&store, "k ü", b"", 0, 0).await;
    assert!(store.circuits().await.unwrap().is_empty());
}

async fn what_would_expire_soonest_makes_room(store: Arc<dyn Store>) {
    let most = 3 * (AROUND + 11);
    for (key, for_ms) in [("b", 2000), ("a", 1000), ("c", 3000)] {
        put(&store, key, &[0; 10], LONG_MS + for_ms, most).await;
    }
    assert_eq!(have(&store, &["a", "b", "c"]).await, "abc");
    put(&store, "d", &[0; 10], LONG_MS + 4000, most).await;
    assert_eq!(have(&store, &["a", "b", "c", "d"]).await, "bcd");
    // A replaced value frees its own space.
    put(&store, "c", &[1; 10], LONG_MS + 1000, most).await;
    assert_eq!(have(&store, &["b", "c", "d"]).await, "bcd");
    put(&store, "e", &[0; 11], LONG_MS + 9000, most).await;
    assert_eq!(have(&store, &["b", "c", "d", "e"]).await, "de");
    // A lower bound applies at once.
    put(&store, "f", &[0; 10], LONG_MS, AROUND + 11).await;
    assert_eq!(have(&store, &["d", "e", "f"]).await, "f");
}

async fn a_large_value_takes_the_room_of_thousands(store: Arc<dyn Store>) {
    let most = 3000 * (AROUND + 5);
    for i in 0..3000 {
        put(&store, &format!("k{i:04}"), b"", LONG_MS, most).await;
    }
    let length = (most - AROUND - 5) as usize;
    put(&store, "large", &vec![0; length], LONG_MS, most).await;
    assert_eq!(have(&store, &["k0000", "k2999", "large"]).await, "large");
}

async fn what_has_expired_makes_room_first(store: Arc<dyn Store>) {
    let most = 2 * (AROUND + 1);
    put(&store, "a", b"", 100, most).await;
    put(&store, "b", b"", LONG_MS, most).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    put(&store, "c", b"", LONG_MS / 2, most).await;
    assert_eq!(have(&store, &["a", "b", "c"]).await, "bc");
}

async fn a_group_of_many_writers_is_never_larger_than_it_may_be(store: Arc<dyn Store>) {
    let most = 10 * (AROUND + 103);
    let mut crowd = JoinSet::new();
    for i in 0..100 {
        let store = Arc::clone(&store);
        crowd.spawn(async move {
            for j in 0..5 {
                put(
                    &store,
                    &format!("k{:02}", (i + j) % 50),
                    &[0; 100],
                    LONG_MS,
                    most,
                )
                .await;
            }
        });
    }
    crowd.join_all().await;
    let keys: Vec<_> = (0..50).map(|i| format!("k{i:02}")).collect();
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    assert_eq!(have(&store, &keys).await.len(), 10 * 3);
}

async fn what_no_group_takes_is_refused_and_says_why(store: Arc<dyn Store>) {
    let long = "x".repeat(301);
    for wrong in ["", "a{b", "a}b", "a\nb", &long] {
        let errors = [
            store.keep_in(wrong, "k", b"v", 1, 1000).await.unwrap_err(),
            store.keep_in("g", wrong, b"v", 1, 1000).await.unwrap_err(),
            store.kept_in(wrong, "k").await.unwrap_err(),
            store.kept_in("g", wrong).await.unwrap_err(),
        ];
        for error in errors {
            assert!(
                matches!(error, StoreError::Invalid(_)),
                "{wrong:?}: {error}"
            );
        }
    }
    let large = vec![0; (1 << 20) + 1];
    let too_large = store.keep_in("g", "k", &large, 1, u64::MAX);
    assert!(matches!(too_large.await, Err(StoreError::Invalid(_))));
    let beyond = store.keep_in("g", "k", b"v", LONG_MS, AROUND + 1);
    let error = beyond.await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the request is not valid: the value has 1 bytes, but its group has at most 129"
    );
    put(&store, "k", b"v", LONG_MS, AROUND + 2).await;
}

#[tokio::test]
async fn in_memory_times_end_by_the_stores_clock() {
    let clock = Clock::manual();
    let store = MemoryStore::new(clock.clone());
    store.keep_in("g", "k", b"v", 1000, 1000).await.unwrap();
    clock.advance(Duration::from_millis(999));
    assert!(store.kept_in("g", "k").await.unwrap().is_some());
    clock.advance(Duration::from_millis(1));
    assert!(store.kept_in("g", "k").await.unwrap().is_none());
    store.keep_in("g", "k", b"v", 1000, 1000).await.unwrap();
    store.clear();
    assert!(store.kept_in("g", "k").await.unwrap().is_none());
}

fn keys_of(prefix: &str) -> [String; 2] {
    ["values", "order"].map(|part| format!("{prefix}:group:{{g}}:{part}"))
}

fn ttls(redis: &mut Connection, keys: &[String; 2]) -> [i64; 2] {
    [0, 1].map(|i| redis.pttl(&keys[i]).unwrap())
}

#[tokio::test]
async fn in_redis_a_group_expires_with_what_lasts_longest() {
    let prefix = unique_prefix("groups");
    let (store, keys) = (redis_under(&prefix), keys_of(&prefix));
    let mut redis = connect(admin_url());
    for (key, for_ms, least) in [
        ("a", 5000, 1),
        ("b", LONG_MS, 5001),
        ("c", 1000, 5001),
        ("b", 3000, 1001),
    ] {
        put(&store, key, b"", for_ms, 10_000).await;
        for left in ttls(&mut redis, &keys) {
            let most = if least == 5001 { LONG_MS } else { 5000 } as i64;
            assert!((least..=most).contains(&left), "{key}: {left}");
        }
    }
    for key in ["a", "b", "c"] {
        put(&store, key, b"", 0, 0).await;
    }
    assert_eq!(ttls(&mut redis, &keys), [-2, -2]);
    put(&store, "a", b"", 100, 10_000).await;
    until("all of it has expired", async || {
        ttls(&mut redis, &keys) == [-2, -2]
    })
    .await;
}

#[tokio::test]
async fn a_group_that_somebody_damaged_is_begun_anew() {
    let prefix = unique_prefix("groups");
    let (store, [values, order]) = (redis_under(&prefix), keys_of(&prefix));
    let mut redis = connect(admin_url());
    let most = 3 * (AROUND + 1);
    let damage: [&dyn Fn(&mut Connection); 8] = [
        &|redis| redis.del(&values).unwrap(),
        &|redis| redis.del(&order).unwrap(),
        &|redis| redis.hset(&values, "", "much").unwrap(),
        &|redis| redis.hset(&values, "", "1e400").unwrap(),
        &|redis| redis.hset(&values, "", "nan").unwrap(),
        &|redis| redis.hset(&values, "foreign", "1").unwrap(),
        &|redis| redis.zadd(&order, "foreign", 1).unwrap(),
        &|redis| redis.hset(&values, "sa", "many").unwrap(),
    ];
    for (i, damage) in damage.iter().enumerate() {
        for key in ["a", "b", "c"] {
            put(&store, key, b"", LONG_MS, most).await;
        }
        damage(&mut redis);
        for key in ["d", "e", "f", "g", "h"] {
            put(&store, key, b"", LONG_MS, most).await;
            assert_eq!(have(&store, &[key]).await, key, "{i}");
        }
        let left = have(&store, &["a", "b", "c", "d", "e", "f", "g", "h"]).await;
        assert!(left.len() <= 3, "{i}: {left}");
        let _: () = redis.del(&[&values, &order]).unwrap();
    }
}

#[test]
fn the_script_refuses_what_it_cannot_do_and_changes_nothing() {
    let text = read("lua/key_value/group.lua");
    let header = text.split("\n\n").next().unwrap();
    assert!(header.starts_with("-- key_value/group: ") && header.contains("-- KEYS[2]  "));
    let (script, mut redis) = (Script::new(&text), connect(admin_url()));
    script.load(&mut redis).unwrap();
    let keys = keys_of(&unique_prefix("groups"));
    let wrong = [
        packed(("k", 1)),
        packed(("k", 1, 1000, 1)),
        packed(("", 1, 1000)),
        packed((1, 1, 1000)),
        packed(("k", -1, 1000)),
        packed(("k", 1.5, 1000)),
        packed(("k", f64::NAN, 1000)),
        packed(("k", 31_536_000_001_u64, 1000)),
        packed(("k", "1", 1000)),
        packed(("k", 1, -1)),
        packed(("k", 1, 1000.5)),
        packed(("k", 1, f64::INFINITY)),
        packed(("k", 1, (1_u64 << 50) + 1)),
        packed(("k", 1, 129)),
        packed(7),
        vec![],
        vec![0xc1],
    ];
    for request in wrong {
        let arguments = [request.clone(), b"v".to_vec()];
        let error = invoke(&mut redis, &script, &keys, &arguments).unwrap_err();
        assert_eq!(error.code(), Some("EREQUEST"), "{request:?}: {error}");
    }
    let good = packed(("k", 31_536_000_000_u64, 1_u64 << 50));
    for (keys, arguments) in [(&keys[..], 1), (&keys, 3), (&keys[..1], 2), (&[], 2)] {
        let arguments = vec![good.clone(); arguments];
        let error = invoke(&mut redis, &script, keys, &arguments).unwrap_err();
        assert_eq!(error.code(), Some("EARITY"), "{error}");
    }
    for key in &keys {
        let there: bool = redis.exists(key).unwrap();
        assert!(!there);
    }
    let mut call = script.key(&keys[0]);
    let call = call.key(&keys[1]).arg(good).arg(b"v");
    assert_eq!(call.invoke::<u8>(&mut redis).unwrap(), 1);
}
