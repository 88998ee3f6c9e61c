//! The fleet's last good values: on a real Redis, on one with wrong data, and without one.

use std::io;
use std::time::Duration;

use commontrip::fallback::{Answer, LastGood, LastGoodBuilder, Source};
use commontrip::store::{RedisStore, Store};
use commontrip::{CallError, Commontrip};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout};

use super::{HOUR, circuit};
use crate::support::{OwnServer, redis_url, unique_prefix};
use crate::wait::until;

const GROUP: &str = "last-good:speech";

pub fn replica(url: &str, prefix: &str) -> Commontrip {
    Commontrip::builder()
        .redis(url)
        .prefix(prefix)
        .store_timeout(Duration::from_millis(500))
        .build()
        .unwrap()
}

fn store(prefix: &str) -> RedisStore {
    let builder = RedisStore::builder().prefix(prefix);
    let builder = builder.timeout(Duration::from_secs(20));
    builder.open(redis_url()).unwrap()
}

async fn put(store: &RedisStore, bytes: &[u8]) {
    let put = store.keep_in(GROUP, "v", bytes, 600_000, 1 << 20);
    put.await.unwrap();
}

fn speech<T>(circuits: &Commontrip) -> LastGoodBuilder<T> {
    let speech = LastGood::builder("speech").refresh(Duration::ZERO);
    speech.shared(circuits)
}

/// The answer to a failing call.
async fn failing<T>(speech: &LastGood<T>, circuits: &Commontrip) -> Option<Answer<T>>
where
    T: Serialize + DeserializeOwned,
{
    let breaker = circuit(circuits);
    let bad = || async { Err(io::Error::other("down")) };
    match speech.call(&breaker, "v", bad).await {
        Ok(answer) => Some(answer),
        // Whatever happens to the store, the caller gets the call's own error.
        Err(CallError::Failed(error)) if error.to_string() == "down" => None,
        Err(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn what_one_replica_learns_another_serves() {
    let prefix = unique_prefix("fallback");
    let (a, b) = (replica(redis_url(), &prefix), replica(redis_url(), &prefix));
    let there = speech::<String>(&a).ttl(HOUR).build().unwrap();
    let here = speech::<String>(&b).ttl(HOUR).build().unwrap();
    assert!(failing(&here, &b).await.is_none());
    let breaker = circuit(&a);
    let good = || async { Ok::<_, io::Error>("hello".to_owned()) };
    there.call(&breaker, "v", good).await.unwrap();
    until("B hears of it", async || failing(&here, &b).await.is_some()).await;
    let store = store(&prefix);
    let bytes = store.kept_in(GROUP, "v").await.unwrap().unwrap();
    let answer = failing(&here, &b).await.unwrap();
    assert_eq!((&*answer.value, answer.stale), ("hello", true));
    assert!(answer.age < HOUR / 2, "{answer:?}");
    assert_eq!(answer.from, Source::Process, "B keeps what it was given");
    // A new replica has no values of its own.
    let c = replica(redis_url(), &prefix);
    let newcomer = speech::<String>(&c).build().unwrap();
    let answer = failing(&newcomer, &c).await.unwrap();
    assert_eq!((&*answer.value, answer.stale), ("hello", true));
    assert_eq!(answer.from, Source::Fleet);
    // A newer value of the fleet takes precedence over an older one of this process.
    there.keep("v", &"hello again".to_owned());
    until("it is written", async || {
        store.kept_in(GROUP, "v").await.unwrap().unwrap() != bytes
    })
    .await;
    let answer = failing(&here, &b).await.unwrap();
    assert_eq!(
        (&*answer.value, answer.from),
        ("hello again", Source::Fleet)
    );
    // And the reverse.
    put(&store, &bytes).await;
    let answer = failing(&here, &b).await.unwrap();
    assert_eq!(
        (&*answer.value, answer.from),
        ("hello again", Source::Process)
    );
}

#[tokio::test]
async fn what_the_fleet_keeps_ends_by_itself() {
    let prefix = unique_prefix("fallback");
    let circuits = replica(redis_url(), &prefix);
    let ttl = Duration::from_secs(1);
    let there = speech(&circuits).ttl(ttl).build().unwrap();
    there.keep("v", &7);
    let store = store(&prefix);
    until("it is written", async || {
        store.kept_in(GROUP, "v").await.unwrap().is_some()
    })
    .await;
    until("it is gone", async || {
        store.kept_in(GROUP, "v").await.unwrap().is_none()
    })
    .await;
    let here = speech::<i32>(&circuits).build().unwrap();
    assert!(failing(&here, &circuits).await.is_none());
    // An expired value is not used, even if the store failed to remove it.
    let day = Duration::from_secs(86_400);
    let old = rmp_serde::to_vec(&(now_ms() - day.as_millis() as u64, 7)).unwrap();
    put(&store, &old).await;
    assert!(failing(&here, &circuits).await.is_none());
    let longer = speech::<i32>(&circuits).ttl(2 * day).build().unwrap();
    let answer = failing(&longer, &circuits).await.unwrap();
    assert!(answer.age >= day && answer.age < day + HOUR, "{answer:?}");
    // A value from a clock that is ahead has age 0.
    let ahead = rmp_serde::to_vec(&(now_ms() + 600_000, 8)).unwrap();
    put(&store, &ahead).await;
    let answer = failing(&here, &circuits).await.unwrap();
    assert_eq!((answer.value, answer.age), (8, Duration::ZERO));
}

fn now_ms() -> u64 {
    commontrip::Clock::system().unix_ms()
}

#[derive(Serialize, Deserialize)]
struct Before {
    text: String,
    voice: String,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct After {
    text: String,
    speaker: String,
}

#[tokio::test]
async fn bytes_that_cannot_be_read_are_as_none() {
    let prefix = unique_prefix("fallback");
    let circuits = replica(redis_url(), &prefix);
    let store = store(&prefix);
    let here = speech::<After>(&circuits).build().unwrap();
    let changed = Before {
        text: "hello".to_owned(),
        voice: "ana".to_owned(),
    };
    speech(&circuits).build().unwrap().keep("v", &changed);
    until("it is written", async || {
        store.kept_in(GROUP, "v").await.unwrap().is_some()
    })
    .await;
    let changed = store.kept_in(GROUP, "v").await.unwrap().unwrap();
    let whole = After {
        text: "hello".to_owned(),
        speaker: "ana".to_owned(),
    };
    let good = rmp_serde::to_vec_named(&(now_ms(), &whole)).unwrap();
    let cut = &good[..good.len() - 1];
    for bytes in [b"".as_slice(), b"garbage", &[0xc1; 9], cut, &changed] {
        put(&store, bytes).await;
        assert!(failing(&here, &circuits).await.is_none(), "{bytes:?}");
    }
    put(&store, &good).await;
    let answer = failing(&here, &circuits).await.unwrap();
    assert_eq!(answer.value, whole);
    // They do not hide the value in this process.
    put(&store, b"garbage").await;
    let answer = failing(&here, &circuits).await.unwrap();
    assert_eq!((answer.value, answer.from), (whole, Source::Process));
}

#[tokio::test]
async fn a_store_that_is_away_fails_and_delays_nobody() {
    let server = OwnServer::start();
    let circuits = replica(&server.url(), "fallback");
    let here = speech::<i32>(&circuits).build().unwrap();
    let breaker = circuit(&circuits);
    breaker.call(async || Ok::<_, ()>(())).await.unwrap();
    let bounded = Duration::from_secs(20);
    for gone in [false, true] {
        match gone {
            true => server.kill(),
            false => server.pause(),
        }
        let start = Instant::now();
        // No value is known, so the caller gets the call's own error.
        let other = LastGood::<i32>::builder("other").shared(&circuits);
        let other = other.build().unwrap();
        let answer = timeout(bounded, failing(&other, &circuits)).await;
        assert!(answer.expect("it hangs").is_none());
        // The process keeps values that it learns itself.
        let good = async || Ok::<_, io::Error>(7);
        let answer = timeout(bounded, here.call(&breaker, "v", good)).await;
        assert!(!answer.expect("it hangs").unwrap().stale);
        let answer = timeout(bounded, failing(&here, &circuits)).await;
        let answer = answer.expect("it hangs").unwrap();
        assert_eq!((answer.value, answer.from), (7, Source::Process));
        assert!(start.elapsed() < bounded);
        if !gone {
            server.resume();
        }
    }
}

#[tokio::test]
async fn a_key_that_the_store_cannot_take_is_kept_in_the_process() {
    let circuits = Commontrip::embedded().unwrap();
    let here = speech::<i32>(&circuits).build().unwrap();
    for key in ["", "{}", "a\nb", &"x".repeat(1000)] {
        assert!(here.recall(key).await.is_none());
        here.keep(key, &7);
        assert_eq!(here.recall(key).await.unwrap().value, 7);
    }
}
