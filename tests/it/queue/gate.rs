//! Jobs are started only if the circuit permits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use commontrip::{Override, Policy, State};

use super::{Seen, Service, ad, ms, until_stats, work};
use crate::{
    support::{redis_url, unique_prefix},
    wait::until,
};

#[tokio::test]
async fn while_the_circuit_is_open_nothing_is_taken_and_no_attempt_is_lost_and_then_all_drains() {
    let service = Service::plain();
    let ads = service.ads();
    service
        .api
        .force_open(Override::because("test"))
        .await
        .unwrap();
    let seen = Seen::default();
    let ran = seen.clone();
    let worker = ads.worker(&service.api, move |job| {
        ran.lock().push(job);
        async { Ok::<_, String>(()) }
    });
    let working = work!(worker.concurrency(4));
    for i in 0..10 {
        ads.enqueue(&ad(i)).await.unwrap();
    }
    // Twice the longest wait before it asks again.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let stats = ads.stats().await.unwrap();
    assert_eq!((stats.ready, stats.running), (10, 0));
    assert!(service.api.cached().rejected_total > 0 || seen.lock().is_empty());
    assert!(seen.lock().is_empty());
    service.api.reset().await.unwrap();
    until_stats("all are done", &ads, |stats| stats.done == 10).await;
    working.stop().await;
    assert!(seen.lock().iter().all(|job| job.attempt == 1));
}

#[tokio::test]
async fn while_it_is_half_open_no_more_run_in_the_fleet_than_it_permits_and_they_close_it() {
    const PERMITTED: u64 = 2;
    const NEEDED: u64 = 8;
    let policy = Policy::builder()
        .minimum_number_of_calls(1)
        .permitted_number_of_calls_in_half_open_state(PERMITTED)
        .success_threshold(NEEDED)
        .wait_duration_in_open_state(ms(200))
        .probe_lease(Duration::from_secs(60))
        .report_interval(ms(20))
        .decision_ttl(ms(50))
        .build()
        .unwrap();
    let prefix = unique_prefix("queue");
    let services = [0; 3].map(|_| Service::new(redis_url(), &prefix, policy.clone()));
    let ads = services[0].ads();
    for i in 0..40 {
        ads.enqueue(&ad(i)).await.unwrap();
    }
    services[0]
        .api
        .acquire()
        .await
        .unwrap()
        .record(commontrip::Outcome::trip());
    services[0].circuits.flush().await;
    for service in &services {
        until("all know that it is open", async || {
            let state = service.api.state();
            if state == State::Closed {
                // The cached state is as old as its last call.
                drop(service.api.acquire().await);
            }
            state != State::Closed
        })
        .await;
    }
    let (running, most, ended) = <(Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
    let mut workings = Vec::new();
    for service in &services {
        let (running, most, ended) = (running.clone(), most.clone(), ended.clone());
        let worker = service.ads().worker(&service.api, move |_| {
            let (running, most, ended) = (running.clone(), most.clone(), ended.clone());
            async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                // Until then the circuit cannot be closed.
                if ended.load(Ordering::SeqCst) < NEEDED {
                    most.fetch_max(now, Ordering::SeqCst);
                }
                tokio::time::sleep(ms(20)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                ended.fetch_add(1, Ordering::SeqCst);
                Ok::<_, String>(())
            }
        });
        workings.push(work!(worker.concurrency(8).poll(ms(50))));
    }
    until_stats("all are done", &ads, |stats| stats.done == 40).await;
    for working in workings {
        working.stop().await;
    }
    let most = most.load(Ordering::SeqCst);
    assert!((1..=PERMITTED).contains(&most), "{most} at once");
    assert_eq!(
        services[0].api.snapshot().await.unwrap().state,
        State::Closed
    );
}
