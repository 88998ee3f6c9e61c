//! The last good values of the fleet: on a real Redis, one that lies, and one that is away.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use commontrip::fallback::{Answer, LastGood, LastGoodBuilder, Source};
use commontrip::model::Report;
use commontrip::store::{MemoryStore, RedisStore, Store, StoreError};
use commontrip::{CallError, Commontrip, Name, Snapshot};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout};

use super::{HOUR, circuit};
use crate::delegate::to_inner;
use crate::support::{OwnServer, redis_url, unique_prefix};
use crate::wait::until;

const KEY: &str = "last-good:speech:v";

fn replica(url: &str, prefix: &str) -> Commontrip {
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

fn speech<T>(circuits: &Commontrip) -> LastGoodBuilder<T> {
    let speech = LastGood::builder("speech").refresh(Duration::ZERO);
    speech.shared(circuits)
}

/// What a failing call is answered with.
async fn failing<T>(speech: &LastGood<T>, circuits: &Commontrip) -> Option<Answer<T>>
where
    T: Serialize + DeserializeOwned,
{
    let breaker = circuit(circuits);
    let bad = || async { Err(io::Error::other("down")) };
    match speech.call(&breaker, "v", bad).await {
        Ok(answer) => Some(answer),
        // Whatever becomes of the store, the error is the call's.
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
    let bytes = store.kept(KEY).await.unwrap().unwrap();
    let answer = failing(&here, &b).await.unwrap();
    assert_eq!((&*answer.value, answer.stale), ("hello", true));
    assert!(answer.age < HOUR / 2, "{answer:?}");
    assert_eq!(answer.from, Source::Process, "B keeps what it was given");
    // A newcomer knows nothing of its own.
    let c = replica(redis_url(), &prefix);
    let newcomer = speech::<String>(&c).build().unwrap();
    let answer = failing(&newcomer, &c).await.unwrap();
    assert_eq!((&*answer.value, answer.stale), ("hello", true));
    assert_eq!(answer.from, Source::Fleet);
    // A newer one of the fleet's wins over an older one of this process.
    there.keep("v", &"hello again".to_owned());
    until("it is written", async || {
        store.kept(KEY).await.unwrap().unwrap() != bytes
    })
    .await;
    let answer = failing(&here, &b).await.unwrap();
    assert_eq!(
        (&*answer.value, answer.from),
        ("hello again", Source::Fleet)
    );
    // And the other way round.
    store.keep(KEY, &bytes, 600_000).await.unwrap();
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
        store.kept(KEY).await.unwrap().is_some()
    })
    .await;
    until("it is gone", async || {
        store.kept(KEY).await.unwrap().is_none()
    })
    .await;
    let here = speech::<i32>(&circuits).build().unwrap();
    assert!(failing(&here, &circuits).await.is_none());
    // A store that forgot to forget it does not help it.
    let day = Duration::from_secs(86_400);
    let old = rmp_serde::to_vec(&(now_ms() - day.as_millis() as u64, 7)).unwrap();
    store.keep(KEY, &old, 600_000).await.unwrap();
    assert!(failing(&here, &circuits).await.is_none());
    let longer = speech::<i32>(&circuits).ttl(2 * day).build().unwrap();
    let answer = failing(&longer, &circuits).await.unwrap();
    assert!(answer.age >= day && answer.age < day + HOUR, "{answer:?}");
    // Nor is one from a clock that is ahead older than nothing.
    let ahead = rmp_serde::to_vec(&(now_ms() + 600_000, 8)).unwrap();
    store.keep(KEY, &ahead, 600_000).await.unwrap();
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
        store.kept(KEY).await.unwrap().is_some()
    })
    .await;
    let changed = store.kept(KEY).await.unwrap().unwrap();
    let whole = After {
        text: "hello".to_owned(),
        speaker: "ana".to_owned(),
    };
    let good = rmp_serde::to_vec_named(&(now_ms(), &whole)).unwrap();
    let cut = &good[..good.len() - 1];
    for bytes in [b"".as_slice(), b"garbage", &[0xc1; 9], cut, &changed] {
        store.keep(KEY, bytes, 600_000).await.unwrap();
        assert!(failing(&here, &circuits).await.is_none(), "{bytes:?}");
    }
    store.keep(KEY, &good, 600_000).await.unwrap();
    let answer = failing(&here, &circuits).await.unwrap();
    assert_eq!(answer.value, whole);
    // They do not hide what this process has.
    store.keep(KEY, b"garbage", 600_000).await.unwrap();
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
        // Nothing is known: the error is the call's.
        let other = LastGood::<i32>::builder("other").shared(&circuits);
        let other = other.build().unwrap();
        let answer = timeout(bounded, failing(&other, &circuits)).await;
        assert!(answer.expect("it hangs").is_none());
        // What this process learns, it has.
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

/// Counts what is kept and asked for, and answers only when all have asked.
#[derive(Debug)]
struct Counting {
    inner: MemoryStore,
    kept: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
    together: Arc<tokio::sync::Barrier>,
}

impl Store for Counting {
    to_inner! { acquire release control snapshot events circuits ping listen }

    fn report<'a>(
        &'a self,
        batch: &'a [(Name, Report)],
    ) -> commontrip::store::Answer<'a, Vec<Result<Snapshot, StoreError>>> {
        self.inner.report(batch)
    }

    fn keep<'a>(
        &'a self,
        key: &'a str,
        value: &'a [u8],
        for_ms: u64,
    ) -> commontrip::store::Answer<'a, ()> {
        self.kept.fetch_add(1, SeqCst);
        self.inner.keep(key, value, for_ms)
    }

    fn kept<'a>(&'a self, key: &'a str) -> commontrip::store::Answer<'a, Option<Vec<u8>>> {
        self.asked.fetch_add(1, SeqCst);
        Box::pin(async move {
            let _ = timeout(Duration::from_secs(20), self.together.wait()).await;
            self.inner.kept(key).await
        })
    }
}

#[tokio::test]
async fn a_key_is_written_and_asked_for_once_in_a_while_only() {
    let (kept, asked) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    const MANY: usize = 20;
    let counting = Counting {
        inner: MemoryStore::default(),
        kept: Arc::clone(&kept),
        asked: Arc::clone(&asked),
        together: Arc::new(tokio::sync::Barrier::new(MANY)),
    };
    let circuits = Commontrip::builder().store(counting).build().unwrap();
    let there = speech::<i32>(&circuits).refresh(HOUR).build().unwrap();
    for i in 0..100 {
        there.keep("v", &i);
    }
    until("it is written", async || kept.load(SeqCst) > 0).await;
    let here = speech::<i32>(&circuits).refresh(HOUR).build().unwrap();
    // Who asks at the same time gets the same answer.
    let answers = join_all((0..MANY).map(|_| here.recall("v"))).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_ref().is_some_and(|a| a.value == 0))
    );
    assert_eq!(asked.load(SeqCst), MANY as u64);
    let answers = join_all((0..MANY).map(|_| here.recall("w"))).await;
    assert!(answers.iter().all(Option::is_none));
    assert_eq!(asked.load(SeqCst), 2 * MANY as u64);
    for _ in 0..100 {
        assert!(here.recall("v").await.is_some());
        assert!(here.recall("w").await.is_none());
        assert_eq!(asked.load(SeqCst), 2 * MANY as u64);
    }
    assert_eq!(kept.load(SeqCst), 1);
}
