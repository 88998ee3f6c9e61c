//! A queue in one process behaves like one in Redis, and ends with the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use commontrip::{
    CircuitBreaker, Commontrip, Outcome, Policy, State,
    queue::{Backoff, Called, Enqueue, Failure, JobState, Queue, QueueBuilder, QueueError},
};

use super::{Ad, Service, ad, ms, until_stats, work};
use crate::{traces::listen, wait::until};

fn embedded() -> (Commontrip, CircuitBreaker) {
    let circuits = Commontrip::embedded().unwrap();
    let api = circuits.circuit("api", calm()).unwrap();
    (circuits, api)
}

/// A policy that never trips here.
fn calm() -> Policy {
    let policy = Policy::builder().minimum_number_of_calls(1000);
    let policy = policy.consecutive_failures_threshold(1000);
    policy.wait_duration_in_open_state(ms(300)).build().unwrap()
}

/// Both kinds of queue, each with a circuit.
fn both(set: impl Fn(QueueBuilder<Ad>) -> QueueBuilder<Ad>) -> [(Queue<Ad>, CircuitBreaker); 2] {
    let service = Service::plain();
    let (_, api) = embedded();
    [
        (set(service.builder()).build().unwrap(), service.api.clone()),
        (set(Queue::embedded("ads")).build().unwrap(), api),
    ]
}

#[tokio::test]
async fn jobs_are_kept_listed_and_steered_alike() {
    let few = |ads: QueueBuilder<Ad>| ads.max_size(3).key_of(|ad: &Ad| ad.title.clone());
    for (ads, _) in both(few) {
        let first = ads.enqueue(&ad(1)).await.unwrap();
        assert_eq!(
            ads.enqueue(&ad(1)).await.unwrap(),
            first,
            "one key, one job"
        );
        let later = Enqueue::new().delay(Duration::from_secs(3600));
        let delayed = ads.enqueue_with(&ad(2), later).await.unwrap();
        ads.enqueue(&ad(3)).await.unwrap();
        let full = ads.enqueue(&ad(4)).await.unwrap_err();
        assert!(
            matches!(full, QueueError::Full { size: 3, most: 3 }),
            "{full}"
        );
        let stats = ads.stats().await.unwrap();
        assert_eq!((stats.ready, stats.delayed, stats.enqueued), (2, 1, 3));
        assert!(stats.next_ms == 0 && stats.oldest_waits().is_some());
        let ready = ads.list(JobState::Ready, 10).await.unwrap();
        assert_eq!(ready[0].id, first);
        assert_eq!(
            (ready.len(), ready[0].attempts, ready[0].payload.len()),
            (2, 0, 0)
        );
        let shown = ads.show(delayed.as_str()).await.unwrap();
        assert_eq!(shown.payload, rmp_serde::to_vec_named(&ad(2)).unwrap());
        assert_eq!((shown.state, &*shown.key), (JobState::Delayed, "ad 2"));
        assert!(shown.at_ms >= shown.enqueued_ms + 3_600_000);
        ads.retry(delayed.as_str()).await.unwrap();
        assert_eq!(ads.stats().await.unwrap().ready, 3);
        ads.drop_job(first.as_str()).await.unwrap();
        let gone = ads.show(first.as_str()).await.unwrap_err();
        assert!(matches!(gone, QueueError::Unknown(_)), "{gone}");
        assert_ne!(ads.enqueue(&ad(1)).await.unwrap(), first, "its key is free");
    }
}

#[tokio::test]
async fn jobs_run_fail_die_and_come_back_alike() {
    for (ads, api) in both(|ads| ads.key_of(|ad| ad.title.clone()).max_dead(2)) {
        let mended = Arc::new(AtomicU32::new(0));
        let is_mended = mended.clone();
        let worker = ads.worker(&api, move |job| {
            let fine = is_mended.load(Ordering::SeqCst) > 0;
            async move {
                match (fine, job.body.id) {
                    (true, _) => Ok(()),
                    (false, 9) => Err("400"),
                    (false, _) => Err("503"),
                }
            }
        });
        let worker = worker.classify(|error: &&str| match *error {
            "400" => Failure::Fatal,
            _ => Failure::retry(),
        });
        let worker = worker.max_attempts(3).backoff_with(Backoff::fixed(ms(20)));
        let working = work!(worker.poll(ms(20)));
        let one = ads.enqueue(&ad(1)).await.unwrap();
        let stats = until_stats("it is dead", &ads, |stats| stats.dead == 1).await;
        assert_eq!((stats.retried, stats.died, stats.done), (2, 1, 0));
        let dead = ads.list(JobState::Dead, 10).await.unwrap();
        assert_eq!((&dead[0].id, dead[0].attempts), (&one, 3));
        assert_eq!((&*dead[0].reason, &*dead[0].error), ("failed", "503"));
        // Its key is free again. A dead job stays dead if another job has its key.
        let again = ads.enqueue(&ad(1)).await.unwrap();
        assert_ne!(again, one);
        until_stats("that is dead, too", &ads, |stats| stats.dead == 2).await;
        ads.enqueue(&ad(9)).await.unwrap();
        let stats = until_stats("at once", &ads, |stats| stats.died == 3).await;
        assert_eq!((stats.dead, stats.discarded, stats.retried), (2, 1, 4));
        mended.store(1, Ordering::SeqCst);
        assert_eq!(ads.retry_all().await.unwrap(), 2);
        let stats = until_stats("both are done", &ads, |stats| stats.done == 2).await;
        assert_eq!((stats.ready, stats.running, stats.dead), (0, 0, 0));
        // The key of a finished job is remembered for a while.
        assert_eq!(ads.enqueue(&ad(1)).await.unwrap(), again);
        working.stop().await;
    }
}

#[tokio::test]
async fn what_is_too_old_or_lost_its_worker_is_found_alike() {
    for (ads, api) in both(|ads| ads) {
        let old = Enqueue::new().ttl(ms(50)).delay(ms(20));
        ads.enqueue_with(&ad(1), old).await.unwrap();
        tokio::time::sleep(ms(200)).await;
        // The first run never ends, and is dropped with its worker.
        let lost = ads.enqueue(&ad(2)).await.unwrap();
        let hung = ads.worker(&api, |_| std::future::pending::<Result<(), String>>());
        let hung = tokio::spawn(
            hung.lease(ms(300))
                .name("first")
                .run(std::future::pending::<()>()),
        );
        until_stats("it runs", &ads, |stats| stats.running == 1).await;
        let running = ads.drop_job(lost.as_str()).await.unwrap_err();
        assert!(matches!(running, QueueError::Running(_)), "{running}");
        hung.abort();
        let attempts = Arc::new(AtomicU32::new(0));
        let seen = attempts.clone();
        let worker = ads.worker(&api, move |job| {
            seen.store(job.attempt, Ordering::SeqCst);
            async { Ok::<_, String>(()) }
        });
        let working = work!(worker.poll(ms(20)));
        let stats = until_stats("it is done", &ads, |stats| stats.done == 1).await;
        assert_eq!(attempts.load(Ordering::SeqCst), 2);
        assert_eq!((stats.expired, stats.dead), (1, 1));
        let dead = ads.list(JobState::Dead, 1).await.unwrap();
        assert_eq!(dead[0].reason, "expired");
        working.stop().await;
    }
}

#[tokio::test]
async fn an_open_circuit_has_calls_wait_in_the_process_until_it_closes() {
    let (log, _guard) = listen();
    let (_circuits, api) = embedded();
    let ads = Queue::embedded("ads").build().unwrap();
    let said = "the queue is in this process' memory: its jobs are lost when the process ends";
    assert_eq!(log.of(said).len(), 1);
    api.acquire().await.unwrap().record(Outcome::trip());
    assert_eq!(api.state(), State::Open);
    let called = ads
        .call(&api, ad(7), |_| async { Ok::<_, String>(()) })
        .await;
    assert!(matches!(called.unwrap(), Called::Queued(_)));
    let working = work!(
        ads.worker(&api, |_| async { Ok::<_, String>(()) })
            .poll(ms(20))
    );
    until_stats("it is done", &ads, |stats| stats.done == 1).await;
    // A second queue with this name has its own jobs.
    let other = Queue::<Ad>::embedded("ads").build().unwrap();
    assert_eq!(other.stats().await.unwrap().enqueued, 0);
    assert_eq!(ads.clone().stats().await.unwrap().enqueued, 1);
    until("the probes have closed it", async || {
        let _ = ads.enqueue(&ad(8)).await;
        api.state() == State::Closed
    })
    .await;
    working.stop().await;
}
