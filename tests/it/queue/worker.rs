//! Attempts, dead letters, waking, and the end of a worker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use commontrip::{
    Policy, RedisStore, State,
    queue::{Failure, JobState, Queue},
};
use tokio::sync::Semaphore;

use super::{Seen, Service, ad, ms, until_stats, work};
use crate::{
    support::{OwnServer, redis_url, unique_prefix},
    wait::until,
};

/// A policy that never trips here.
fn calm() -> Policy {
    let policy = Policy::builder().minimum_number_of_calls(100);
    policy.build().unwrap()
}

#[tokio::test]
async fn a_job_that_fails_is_tried_so_often_and_then_a_dead_letter_that_can_be_retried() {
    let service = Service::new(redis_url(), &unique_prefix("queue"), calm());
    let ads = service.ads();
    let seen = Seen::default();
    let (ran, mended) = (seen.clone(), Arc::new(AtomicU64::new(0)));
    let is_mended = mended.clone();
    let worker = ads.worker(&service.api, move |job| {
        let result = match is_mended.load(Ordering::SeqCst) {
            0 => Err(format!("503 at attempt {}", job.attempt)),
            _ => Ok(()),
        };
        ran.lock().push(job);
        async { result }
    });
    let working = work!(worker.max_attempts(3).backoff(ms(20), ms(40)).name("w1"));
    let id = ads.enqueue(&ad(7)).await.unwrap();
    let stats = until_stats("it is dead", &ads, |stats| stats.dead == 1).await;
    assert_eq!((stats.retried, stats.died, stats.done), (2, 1, 0));
    let attempts: Vec<_> = seen.lock().iter().map(|job| job.attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
    let dead = ads.list(JobState::Dead, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!((&dead[0].id, dead[0].attempts), (&id, 3));
    assert_eq!(dead[0].error, "503 at attempt 3");
    assert_eq!(dead[0].reason, "failed");
    service.circuits.flush().await;
    assert_eq!(service.api.snapshot().await.unwrap().failures, 3);

    mended.store(1, Ordering::SeqCst);
    assert_eq!(ads.retry_all().await.unwrap(), 1);
    until_stats("it is done", &ads, |stats| stats.done == 1).await;
    assert_eq!(seen.lock().last().unwrap().attempt, 1);
    working.stop().await;
    assert_eq!(ads.stats().await.unwrap().dead, 0);
}

#[tokio::test]
async fn what_no_attempt_mends_is_a_dead_letter_at_once_and_no_failure_of_the_service() {
    let service = Service::plain();
    let ads = service.ads();
    let worker = ads.worker(&service.api, |_| async { Err("400 no title") });
    let working = work!(worker.classify(|_| Failure::Fatal));
    let id = ads.enqueue(&ad(7)).await.unwrap();
    until_stats("it is dead", &ads, |stats| stats.dead == 1).await;
    working.stop().await;
    let dead = ads.show(id.as_str()).await.unwrap();
    assert_eq!((dead.attempts, &*dead.error), (1, "400 no title"));
    service.circuits.flush().await;
    let seen = service.api.snapshot().await.unwrap();
    assert_eq!((seen.failures_total, seen.ignored_total), (0, 1));
}

#[tokio::test]
async fn a_panic_and_a_call_that_takes_too_long_are_failed_attempts() {
    let policy = Policy::builder()
        .minimum_number_of_calls(100)
        .call_timeout(ms(50))
        .build()
        .unwrap();
    let service = Service::new(redis_url(), &unique_prefix("queue"), policy);
    let ads = service.ads();
    let worker = ads.worker(&service.api, |job| async move {
        assert!(job.body.id != 1, "no such ad");
        std::future::pending::<()>().await;
        Ok::<_, String>(())
    });
    let working = work!(worker.max_attempts(1));
    let panics = ads.enqueue(&ad(1)).await.unwrap();
    let hangs = ads.enqueue(&ad(2)).await.unwrap();
    until_stats("both are dead", &ads, |stats| stats.dead == 2).await;
    working.stop().await;
    let error = async |id: &str| ads.show(id).await.unwrap().error;
    assert_eq!(
        error(panics.as_str()).await,
        "the handler panicked: no such ad"
    );
    assert_eq!(error(hangs.as_str()).await, "it took longer than 50ms");
    service.circuits.flush().await;
    assert_eq!(service.api.snapshot().await.unwrap().failures, 2);
}

#[tokio::test]
async fn a_job_that_is_no_job_of_the_worker_is_a_dead_letter() {
    let service = Service::plain();
    let words: Queue<String> = Queue::builder(&service.store, "ads").build().unwrap();
    let id = words.enqueue(&"no ad".to_owned()).await.unwrap();
    let ads = service.ads();
    let working = work!(ads.worker(&service.api, |_| async { Ok::<_, String>(()) }));
    until_stats("it is dead", &ads, |stats| stats.dead == 1).await;
    working.stop().await;
    let error = ads.show(id.as_str()).await.unwrap().error;
    assert!(error.starts_with("it cannot be decoded: "), "{error}");
}

#[tokio::test]
async fn dead_letters_are_bounded_and_the_oldest_go() {
    let service = Service::plain();
    let ads = service.builder().max_dead(2).build().unwrap();
    let worker = ads.worker(&service.api, |_| async { Err("no") });
    let working = work!(worker.classify(|_| Failure::Fatal));
    let mut ids = Vec::new();
    for i in 0..4 {
        ids.push(ads.enqueue(&ad(i)).await.unwrap());
        until_stats("it is dead", &ads, |stats| stats.died == i + 1).await;
    }
    working.stop().await;
    let dead = ads.list(JobState::Dead, 10).await.unwrap();
    let dead: Vec<_> = dead.iter().map(|job| &job.id).collect();
    assert_eq!(dead, [&ids[2], &ids[3]]);
    assert_eq!(ads.stats().await.unwrap().discarded, 2);
}

#[tokio::test]
async fn an_idle_worker_wakes_at_once_for_a_job_of_its_process() {
    let service = Service::plain();
    let ads = service.ads();
    // Longer than `until` waits.
    let worker = ads.worker(&service.api, |_| async { Ok::<_, String>(()) });
    let working = work!(worker.poll(ms(600_000)));
    for done in 1..=3 {
        ads.enqueue(&ad(done)).await.unwrap();
        until_stats("it is done", &ads, |stats| stats.done == done).await;
    }
    working.stop().await;
}

#[tokio::test]
async fn an_idle_worker_asks_redis_about_once_a_second_whatever_its_concurrency() {
    let server = OwnServer::start();
    let service = Service::new(&server.url(), &unique_prefix("queue"), Policy::default());
    let ads = service.ads();
    let worker = ads.worker(&service.api, |_| async { Ok::<_, String>(()) });
    let working = work!(worker.concurrency(16));
    let client = redis::Client::open(server.admin_url()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let mut scripts = async || {
        let info: String = redis::cmd("INFO")
            .arg("commandstats")
            .query_async(&mut redis)
            .await
            .unwrap();
        let calls = info.split_once("cmdstat_evalsha:calls=");
        let digits = calls.map_or("0", |(_, rest)| rest.split(',').next().unwrap());
        digits.parse::<u64>().unwrap()
    };
    until("it has looked", async || scripts().await > 0).await;
    let (begun, before) = (Instant::now(), scripts().await);
    until("it has looked thrice", async || {
        scripts().await >= before + 3
    })
    .await;
    assert!(begun.elapsed() >= ms(1900), "{:?}", begun.elapsed());
    working.stop().await;
}

#[tokio::test]
async fn a_worker_that_ends_lets_its_jobs_end_and_gives_back_those_that_do_not() {
    let service = Service::plain();
    let ads = service.ads();
    let gate = Arc::new(Semaphore::new(0));
    let (held, begun) = (gate.clone(), Arc::new(AtomicU64::new(0)));
    let count = begun.clone();
    let worker = ads.worker(&service.api, move |job| {
        let held = held.clone();
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            match job.body.id {
                1 => drop(held.acquire().await),
                _ => std::future::pending::<()>().await,
            }
            Ok::<_, String>(())
        }
    });
    let worker = worker.concurrency(2).lease(ms(60_000)).grace(ms(1500));
    ads.enqueue(&ad(1)).await.unwrap();
    let stays = ads.enqueue(&ad(2)).await.unwrap();
    let working = work!(worker);
    until("both run", async || begun.load(Ordering::SeqCst) == 2).await;
    ads.enqueue(&ad(3)).await.unwrap();
    gate.add_permits(1);
    working.stop().await;
    let stats = ads.stats().await.unwrap();
    // The third job was not started, and the second is as if it had not been.
    assert_eq!((stats.done, stats.ready, stats.running), (1, 2, 0));
    let view = ads.show(stays.as_str()).await.unwrap();
    assert_eq!((view.state, view.attempts), (JobState::Ready, 0));
    assert_eq!(service.api.state(), State::Closed);
}

#[tokio::test]
async fn many_workers_share_the_work_and_run_each_job_once() {
    let prefix = unique_prefix("queue");
    let services = [0; 3].map(|_| Service::new(redis_url(), &prefix, Policy::default()));
    let seen = Seen::default();
    let mut workings = Vec::new();
    for service in &services {
        let ran = seen.clone();
        let worker = service.ads().worker(&service.api, move |job| {
            ran.lock().push(job);
            async {
                tokio::task::yield_now().await;
                Ok::<_, String>(())
            }
        });
        // One of the processes enqueues, the others poll often.
        workings.push(work!(worker.concurrency(4).poll(ms(20))));
    }
    let ads = services[0].ads();
    for i in 0..200 {
        ads.enqueue(&ad(i)).await.unwrap();
    }
    until_stats("all are done", &ads, |stats| stats.done == 200).await;
    for working in workings {
        working.stop().await;
    }
    let mut ran: Vec<_> = seen.lock().iter().map(|job| job.body.id).collect();
    ran.sort_unstable();
    assert_eq!(ran, (0..200).collect::<Vec<_>>());
}

#[test]
fn a_worker_needs_no_redis_to_be_made() {
    let store = RedisStore::builder().open("redis://127.0.0.1:1").unwrap();
    assert!(Queue::<u8>::builder(&store, "ads").build().is_ok());
}
