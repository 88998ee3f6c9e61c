//! The scripts themselves: a run whose lease was lost has no effect.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use commontrip::{
    Policy,
    queue::{Job, JobState, Queue},
};
use redis::Connection;
use serde::Serialize;
use tokio::sync::Notify;

use super::{Ad, Service, ad, ms};
use crate::{
    scripts::{connect, read},
    support::{admin_url, redis_url, unique_prefix},
    wait::until,
};

struct Scripts {
    redis: Connection,
    keys: Vec<String>,
}

impl Scripts {
    fn run<R: redis::FromRedisValue>(&mut self, name: &str, request: &impl Serialize) -> R {
        let lib = read("lua/queue/lib/jobs.lua");
        let body = read(&format!("lua/queue/{name}.lua"));
        let mut call = redis::cmd("EVAL");
        call.arg(format!(
            "{lib}local function operate()\n{body}end\nreturn operate()\n"
        ));
        call.arg(self.keys.len()).arg(&self.keys);
        call.arg(rmp_serde::to_vec(request).unwrap());
        call.query(&mut self.redis).unwrap()
    }

    fn take(&mut self, token: &str, lease_ms: u64, most_attempts: u64) -> Option<Vec<u8>> {
        self.run("take", &("w", token, lease_ms, most_attempts, 10))
    }

    fn settle(&mut self, id: &str, token: &str, how: &str) -> u64 {
        self.run("settle", &(id, token, how, 0, "words", 1000, 10))
    }
}

async fn scripts() -> (Queue<Ad>, String, Scripts) {
    let prefix = unique_prefix("queue");
    let service = Service::new(redis_url(), &prefix, Policy::default());
    let ads = service.ads();
    let id = ads.enqueue(&ad(1)).await.unwrap();
    let parts = [
        "ready", "jobs", "payloads", "delayed", "leases", "dead", "expiring", "names", "kept",
        "counts",
    ];
    let keys = parts.map(|part| format!("{prefix}:queue:{{ads}}:{part}"));
    let redis = connect(admin_url());
    let keys = keys.to_vec();
    (ads, id.to_string(), Scripts { redis, keys })
}

#[tokio::test]
async fn a_job_has_one_holder_and_one_whose_lease_was_lost_is_refused() {
    let (ads, id, mut scripts) = scripts().await;
    assert!(scripts.take("a", 300, 10).is_some());
    assert!(scripts.take("b", 300, 10).is_none(), "it has a holder");
    until("its lease is over", async || {
        scripts.take("b", 60_000, 10).is_some()
    })
    .await;
    assert_eq!(scripts.run::<u64>("renew", &(&id, "a", 1000)), 0);
    for how in ["done", "retry", "bury", "release"] {
        assert_eq!(scripts.settle(&id, "a", how), 0, "{how}");
    }
    let view = ads.show(&id).await.unwrap();
    assert_eq!((view.state, view.attempts), (JobState::Running, 2));
    assert_eq!(scripts.run::<u64>("renew", &(&id, "b", 60_000)), 1);
    assert_eq!(scripts.settle(&id, "b", "done"), 1);
    assert_eq!(scripts.settle(&id, "b", "retry"), 0, "it was settled");
    let stats = ads.stats().await.unwrap();
    assert_eq!((stats.done, stats.ready, stats.delayed), (1, 0, 0));
}

#[tokio::test]
async fn a_job_that_costs_each_of_its_workers_their_life_is_a_dead_letter_in_the_end() {
    let (ads, id, mut scripts) = scripts().await;
    assert!(scripts.take("a", 1, 2).is_some());
    until("it is taken again", async || {
        scripts.take("b", 1, 2).is_some()
    })
    .await;
    until("it is dead", async || {
        assert!(scripts.take("c", 1, 2).is_none());
        ads.stats().await.unwrap().dead == 1
    })
    .await;
    let view = ads.show(&id).await.unwrap();
    assert_eq!((view.attempts, &*view.error), (2, "its worker w was lost"));
}

#[tokio::test]
async fn a_lease_is_no_longer_after_the_clock_was_set_back() {
    const HOUR_MS: i64 = 3_600_000;
    let (ads, id, mut scripts) = scripts().await;
    assert!(scripts.take("a", 300, 10).is_some());
    // Simulates a lease that was taken by a clock an hour ahead.
    let jobs = scripts.keys[1].clone();
    let mut record = redis::cmd("HGET");
    let record: String = record
        .arg(&jobs)
        .arg(&id)
        .query(&mut scripts.redis)
        .unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
    record["at_ms"] = (record["at_ms"].as_i64().unwrap() + HOUR_MS).into();
    let mut write = redis::cmd("HSET");
    write.arg(&jobs).arg(&id).arg(record.to_string());
    write.exec(&mut scripts.redis).unwrap();
    let mut later = redis::cmd("ZINCRBY");
    later.arg(&scripts.keys[4]).arg(HOUR_MS).arg(&id);
    later.exec(&mut scripts.redis).unwrap();
    until("its lease is over", async || {
        scripts.take("b", 60_000, 10).is_some()
    })
    .await;
    assert_eq!(scripts.settle(&id, "a", "done"), 0);
    assert_eq!(ads.show(&id).await.unwrap().attempts, 2);
}

#[tokio::test]
async fn a_lease_that_is_renewed_is_not_lost() {
    let (_ads, id, mut scripts) = scripts().await;
    assert!(scripts.take("a", 1, 10).is_some());
    assert_eq!(scripts.run::<u64>("renew", &(&id, "a", 60_000)), 1);
    assert!(scripts.take("b", 60_000, 10).is_none());
}

/// A handler that blocks its thread beyond its lease, like a suspended process.
#[tokio::test]
async fn an_end_that_comes_too_late_counts_for_nothing_on_the_circuit() {
    let prefix = unique_prefix("queue");
    let service = Service::new(redis_url(), &prefix, Policy::default());
    let ads = service.ads();
    ads.enqueue(&ad(1)).await.unwrap();
    let began = Arc::new(AtomicBool::new(false));
    let goes_on = Arc::new(AtomicBool::new(false));
    let (begins, waits) = (Arc::clone(&began), Arc::clone(&goes_on));
    // On a separate runtime, which is blocked as a whole.
    let late = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(async {
            let service = Service::new(redis_url(), &prefix, Policy::default());
            let done = Arc::new(Notify::new());
            let end = Arc::clone(&done);
            let late = service.ads().worker(&service.api, move |_: Job<Ad>| {
                begins.store(true, Ordering::SeqCst);
                while !waits.load(Ordering::SeqCst) {
                    std::thread::sleep(ms(10));
                }
                end.notify_one();
                async { Err::<(), _>("too late") }
            });
            late.lease(ms(500)).run(done.notified()).await;
            service.circuits.flush().await;
        });
    });
    until("it runs", async || began.load(Ordering::SeqCst)).await;
    let next = ads.worker(&service.api, |_: Job<Ad>| async { Ok::<_, String>(()) });
    let next = tokio::spawn(next.poll(ms(50)).run(std::future::pending::<()>()));
    until("it is done by another", async || {
        ads.stats().await.unwrap().done == 1
    })
    .await;
    goes_on.store(true, Ordering::SeqCst);
    tokio::task::spawn_blocking(|| late.join())
        .await
        .unwrap()
        .unwrap();
    service.circuits.flush().await;
    let seen = service.api.snapshot().await.unwrap();
    assert_eq!((seen.failures_total, seen.calls), (0, 1), "{seen:?}");
    let stats = ads.stats().await.unwrap();
    assert_eq!(
        (stats.done, stats.retried, stats.dead, stats.delayed),
        (1, 0, 0, 0)
    );
    next.abort();
}
