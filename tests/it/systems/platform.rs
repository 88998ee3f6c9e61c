//! A platform with three model providers and a queue for ads: a window of 60 s, 10 calls, and waits
//! from 60 s to 300 s. Tests which provider answers, what its endpoints return, and which ads wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use commontrip::{
    CircuitBreaker, Clock, Commontrip, FallbackKind, Policy, RedisStore, State,
    failover::{Attempt, Failover, Stage},
    health::{Check, CheckStatus, HealthMonitor},
    operator::Operator,
    queue::{Called, Job, Queue},
};
use parking_lot::Mutex;
use serde_json::Value;

use super::{letters, secs};
use crate::{
    admin::site::Site,
    support::{redis_url, unique, unique_prefix},
    wait::until,
};

fn policy() -> Policy {
    let policy = Policy::builder()
        .sliding_window_time(secs(60), 12)
        .minimum_number_of_calls(10)
        .failure_rate_threshold(50)
        .no_consecutive_failures_threshold()
        .wait_duration_in_open_state(secs(60))
        .backoff(2.0, secs(300))
        .success_threshold(1);
    policy.build().unwrap()
}

const PROVIDERS: [&str; 3] = ["openai", "anthropic", "gemini"];

fn breakers(circuits: &Commontrip) -> [CircuitBreaker; 3] {
    PROVIDERS.map(|name| circuits.circuit(name, policy()).unwrap())
}

#[tokio::test]
async fn half_of_ten_calls_within_a_minute_open_it_for_60_to_300_s() {
    let clock = Clock::manual();
    let circuits = Commontrip::builder().clock(clock.clone()).build().unwrap();
    let breaker = circuits.circuit("openai", policy()).unwrap();
    // Four of nine; calls older than a minute do not count.
    assert_eq!(letters(&breaker, "FFFF").await, "FFFF");
    circuits.flush().await;
    clock.advance(secs(61));
    assert_eq!(letters(&breaker, "SSSSSFFFF").await, "SSSSSFFFF");
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(letters(&breaker, "FS").await, "FR");
    for wait in [60, 120, 240, 300, 300] {
        let seen = breaker.snapshot().await.unwrap();
        assert_eq!((seen.state, seen.left_ms()), (State::Open, wait * 1000));
        clock.advance(secs(wait - 1));
        assert_eq!(letters(&breaker, "S").await, "R", "{wait}");
        clock.advance(secs(1));
        assert_eq!(letters(&breaker, "F").await, "F", "{wait}");
    }
    assert_eq!(
        breaker.stats().open_for(),
        Some(secs(60 + 120 + 240 + 300 + 300))
    );
    clock.advance(secs(300));
    assert_eq!(letters(&breaker, "S").await, "S");
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test]
async fn the_next_provider_answers_and_an_open_one_is_not_asked() {
    let circuits = Commontrip::embedded().unwrap();
    let breakers = breakers(&circuits);
    let mut chain = Failover::builder();
    for (name, breaker) in PROVIDERS.iter().zip(&breakers) {
        chain = chain.stage(Stage::new(name, breaker));
    }
    let chain = chain.build().unwrap();
    let ask = async |down: &[&str]| {
        let call = |attempt: Attempt| {
            let answers = !down.contains(&&*attempt.name);
            async move { answers.then_some("text").ok_or("503") }
        };
        chain.call(call).await
    };
    assert_eq!(&*ask(&[]).await.unwrap().stage, "openai");
    // One success and nine failures are ten calls.
    for n in 0..9 {
        let served = ask(&["openai"]).await.unwrap();
        assert_eq!((&*served.stage, served.attempt), ("anthropic", 2), "{n}");
    }
    assert_eq!(breakers[0].state(), State::Open);
    let served = ask(&[]).await.unwrap();
    assert_eq!((&*served.stage, served.attempt), ("anthropic", 1));
    let served = ask(&["anthropic"]).await.unwrap();
    assert_eq!((&*served.stage, served.attempt), ("gemini", 2));
    let nobody = ask(&["anthropic", "gemini"]).await.unwrap_err();
    assert_eq!(nobody.attempts.len(), 3);
    let stood_in = breakers
        .each_ref()
        .map(|b| b.stats().fallbacks.of(FallbackKind::Stage));
    assert_eq!(stood_in, [11, 1, 0]);
}

#[tokio::test]
async fn its_endpoints_say_what_is_open_and_reset_it() {
    let site = Site::start().await;
    for (name, calls) in [("openai", "FFFFFFFFFF"), ("gemini", "SSSSSSSSSS")] {
        let breaker = site.circuits.circuit(name, policy()).unwrap();
        letters(&breaker, calls).await;
        site.circuits.flush().await;
    }
    let operator = Operator::of(&site.circuits);
    let circuit = async |name: &str| -> Value {
        site.get(&format!("/circuits/{name}")).await.good()["circuit"].clone()
    };
    let open = circuit("openai").await;
    assert_eq!(
        (&open["state"], &open["failures"]),
        (&"open".into(), &10.into())
    );
    assert!(open["left_ms"].as_u64().unwrap() <= 60_000);
    assert!(open["opened_ms"].as_u64().unwrap() > 0);
    assert_eq!(circuit("gemini").await["state"], "closed");
    let openai = site.circuits.circuit("openai", policy()).unwrap();
    openai.reset().await.unwrap();
    let closed = circuit("openai").await;
    assert_eq!(
        (&closed["state"], &closed["opened_ms"]),
        (&"closed".into(), &0.into())
    );
    assert!(closed["open_total_ms"].as_u64().unwrap() > 0);
    assert_eq!(operator.names().await.unwrap().len(), 2);
}

#[tokio::test]
async fn its_monitor_says_which_provider_is_down() {
    let circuits = Commontrip::embedded().unwrap();
    let up = Arc::new(AtomicBool::new(true));
    let mut monitor = HealthMonitor::builder(&circuits);
    for name in PROVIDERS {
        let up = Arc::clone(&up);
        let check = Check::new(name, move || {
            let well = name != "openai" || up.load(Ordering::SeqCst);
            async move { well.then_some(()).ok_or("503") }
        });
        let check = check.interval(Duration::from_millis(20));
        monitor = monitor.check(check.failure_threshold(2));
    }
    let monitor = monitor.start().unwrap();
    let is = |name: &str, status| {
        monitor
            .check(name)
            .is_some_and(|check| check.status == status)
    };
    until("all are well", async || {
        PROVIDERS.iter().all(|name| is(name, CheckStatus::Healthy))
    })
    .await;
    up.store(false, Ordering::SeqCst);
    until("one is down", async || is("openai", CheckStatus::Critical)).await;
    assert!(is("anthropic", CheckStatus::Healthy) && is("gemini", CheckStatus::Healthy));
    assert_eq!(monitor.status(), CheckStatus::Critical);
    monitor.stop().await;
}

#[tokio::test]
async fn ads_wait_in_the_queue_while_the_circuit_is_open_and_none_is_lost() {
    let store = RedisStore::builder().prefix(&unique_prefix("platform"));
    let store = store.timeout(secs(5)).open(redis_url()).unwrap();
    let circuits = Commontrip::builder().store(store.clone()).build().unwrap();
    // The platform's times, a hundred times as fast.
    let policy = Policy::builder()
        .minimum_number_of_calls(10)
        .no_consecutive_failures_threshold()
        .wait_duration_in_open_state(Duration::from_millis(600))
        .backoff(2.0, secs(3))
        .success_threshold(1);
    let name = unique("ads-api");
    let breaker = circuits.circuit(&name, policy.build().unwrap()).unwrap();
    let ads: Queue<u64> = Queue::builder(&store, "ads")
        .key_of(|ad: &u64| format!("ad-{ad}"))
        .build()
        .unwrap();
    let failing = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicU64::new(0));
    let published = Arc::new(Mutex::new(Vec::new()));
    let post = {
        let (failing, asked, published) = (failing.clone(), asked.clone(), published.clone());
        move |ad: u64| {
            asked.fetch_add(1, Ordering::SeqCst);
            let failed = failing.load(Ordering::SeqCst);
            if !failed {
                published.lock().push(ad);
            }
            async move { if failed { Err("503") } else { Ok(()) } }
        }
    };
    let (mut done, mut queued) = (0, 0);
    for ad in 0..20 {
        failing.store(ad >= 5, Ordering::SeqCst);
        match ads.call(&breaker, ad, post.clone()).await.unwrap() {
            Called::Done(()) => done += 1,
            Called::Queued(_) => queued += 1,
        }
    }
    assert_eq!((done, queued, asked.load(Ordering::SeqCst)), (5, 15, 10));
    assert_eq!(ads.stats().await.unwrap().done, 0);
    failing.store(false, Ordering::SeqCst);
    let worker = ads.worker(&breaker, move |job: Job<u64>| post(job.body));
    let all = until("all are published", async || {
        ads.stats().await.is_ok_and(|stats| stats.done == 15)
    });
    worker.run(all).await;
    let mut published = published.lock().clone();
    published.sort_unstable();
    assert_eq!(published, (0..20).collect::<Vec<_>>());
}
