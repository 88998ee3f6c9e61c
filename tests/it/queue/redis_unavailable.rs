//! Redis goes away while jobs wait and run.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use commontrip::{OnStoreFailure, Policy};
use tokio::sync::Semaphore;

use super::{Service, ad, ms, until_stats, work};
use crate::{
    support::{OwnServer, unique_prefix},
    wait::until,
};

#[tokio::test]
async fn jobs_outlive_a_killed_redis_and_the_one_that_ran_meanwhile_is_done_once() {
    let server = OwnServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let policy = Policy::builder().on_store_failure(OnStoreFailure::Allow);
    let service = Service::new(
        &server.url(),
        &unique_prefix("queue"),
        policy.build().unwrap(),
    );
    let ads = service.ads();
    let gate = Arc::new(Semaphore::new(0));
    let begun = Arc::new(AtomicU64::new(0));
    let (held, count) = (gate.clone(), begun.clone());
    let worker = ads.worker(&service.api, move |_| {
        let held = held.clone();
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            drop(held.acquire().await);
            Ok::<_, String>(())
        }
    });
    for i in 0..5 {
        ads.enqueue(&ad(i)).await.unwrap();
    }
    let working = work!(worker.lease(ms(60_000)).poll(ms(100)));
    until("one runs", async || begun.load(Ordering::SeqCst) == 1).await;
    server.kill();
    // The job ends while the store is unavailable.
    gate.add_permits(1);
    tokio::time::sleep(ms(500)).await;
    server.begin_restart();
    server.until_ready();
    gate.add_permits(100);
    until("all are done", async || {
        ads.stats().await.is_ok_and(|stats| stats.done == 5)
    })
    .await;
    working.stop().await;
    assert_eq!(begun.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_worker_that_cannot_renew_drops_its_handler_before_another_takes_the_job() {
    let server = OwnServer::start();
    let policy = Policy::builder().on_store_failure(OnStoreFailure::Allow);
    let service = Service::new(
        &server.url(),
        &unique_prefix("queue"),
        policy.build().unwrap(),
    );
    let ads = service.ads();
    let running = Arc::new(AtomicU64::new(0));
    let (begun, now) = (Arc::new(AtomicU64::new(0)), running.clone());
    let count = begun.clone();
    struct Running(Arc<AtomicU64>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let worker = ads.worker(&service.api, move |_| {
        let before = now.fetch_add(1, Ordering::SeqCst);
        let here = Running(now.clone());
        assert_eq!(before, 0, "it runs already");
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            let _here = here;
            if first {
                std::future::pending::<()>().await;
            }
            Ok::<_, String>(())
        }
    });
    ads.enqueue(&ad(1)).await.unwrap();
    let working = work!(worker.lease(ms(2000)).poll(ms(50)).concurrency(2));
    until("it runs", async || running.load(Ordering::SeqCst) == 1).await;
    server.pause();
    until("its handler is dropped", async || {
        running.load(Ordering::SeqCst) == 0
    })
    .await;
    server.resume();
    until_stats_when_there(&ads).await;
    working.stop().await;
    assert_eq!(begun.load(Ordering::SeqCst), 2);
    let stats = until_stats("it is done once", &ads, |stats| stats.done == 1).await;
    assert_eq!((stats.died, stats.running), (0, 0));
}

async fn until_stats_when_there(ads: &commontrip::queue::Queue<super::Ad>) {
    until("it is done", async || {
        ads.stats().await.is_ok_and(|stats| stats.done == 1)
    })
    .await;
}
