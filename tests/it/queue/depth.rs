//! The number of jobs and their waiting times, wherever they are shown; and the delays between
//! attempts.

use std::time::Duration;

use commontrip::{
    Policy,
    queue::{Backoff, Enqueue, JobState},
};
use tokio::sync::Semaphore;

use super::{Service, ad, ms, until_stats, work};
use crate::wait::until;

#[tokio::test]
async fn the_oldest_job_is_the_one_that_has_been_due_for_longest() {
    let service = Service::plain();
    let ads = service.ads();
    let oldest = async || ads.stats().await.unwrap().oldest_waits();
    assert_eq!(oldest().await, None);
    let later = Enqueue::new().delay(ms(600));
    ads.enqueue_with(&ad(1), later).await.unwrap();
    assert_eq!(oldest().await, None, "it is not due");
    // Due, but not moved yet.
    until("it is due", async || oldest().await.is_some()).await;
    ads.enqueue(&ad(2)).await.unwrap();
    tokio::time::sleep(ms(300)).await;
    let waits = oldest().await.unwrap();
    assert!(
        waits >= ms(300) && waits < Duration::from_secs(30),
        "{waits:?}"
    );
    // Running jobs do not wait; later jobs do.
    let gate = std::sync::Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let worker = ads.worker(&service.api, move |_| {
        let gate = opened.clone();
        async move { gate.acquire().await.map(drop) }
    });
    let working = work!(worker.concurrency(2));
    until_stats("both run", &ads, |stats| stats.running == 2).await;
    assert_eq!(oldest().await, None);
    ads.enqueue(&ad(3)).await.unwrap();
    let stats = ads.stats().await.unwrap();
    assert_eq!((stats.ready, stats.in_state(JobState::Running)), (1, 2));
    assert!(stats.oldest_waits().unwrap() < waits, "{stats:?}");
    gate.add_permits(3);
    until_stats("all are done", &ads, |stats| stats.done == 3).await;
    assert_eq!(oldest().await, None);
    working.stop().await;
}

#[tokio::test]
async fn a_delay_grows_by_its_factor_or_is_always_the_same() {
    for (backoff, seconds) in [
        (
            Backoff::exponential(ms(40_000), 2.0, ms(600_000)).jitter(false),
            [40, 80],
        ),
        (Backoff::fixed(ms(40_000)), [40, 40]),
    ] {
        let service = Service::plain();
        let ads = service.ads();
        let worker = ads.worker(&service.api, |_| async { Err::<(), _>("503") });
        let working = work!(worker.backoff_with(backoff).poll(ms(20)));
        let id = ads.enqueue(&ad(7)).await.unwrap();
        for (attempts, expected) in (1..).zip(seconds) {
            let mut delayed = None;
            until("it waits for another attempt", async || {
                delayed = ads.show(id.as_str()).await.ok();
                delayed
                    .as_ref()
                    .is_some_and(|job| job.state == JobState::Delayed && job.attempts >= attempts)
            })
            .await;
            let now_ms = ads.stats().await.unwrap().now_ms;
            let wait_ms = delayed.unwrap().at_ms.saturating_sub(now_ms);
            // Some of the delay has passed.
            let range = (expected - 20) * 1000..=expected * 1000;
            assert!(
                range.contains(&wait_ms),
                "{backoff:?} {attempts}: {wait_ms} ms"
            );
            ads.retry(id.as_str()).await.unwrap();
        }
        working.stop().await;
    }
}

#[cfg(feature = "admin")]
#[tokio::test]
async fn metrics_of_the_fleet_count_jobs_where_a_store_is_given() {
    use crate::admin::site::{Site, with_token};

    let service = Service::plain();
    let ads = service.ads();
    ads.enqueue(&ad(1)).await.unwrap();
    let site = Site::on(service.store.clone(), with_token().queues(&service.store)).await;
    until("the queue is known", async || {
        let text = site.get("/metrics").await.text;
        text.contains("queue_fleet_jobs{queue=\"ads\",state=\"ready\"} 1")
    })
    .await;
    let text = site.get("/metrics").await.text;
    assert!(
        text.contains("queue_fleet_jobs{queue=\"ads\",state=\"dead\"} 0"),
        "{text}"
    );
    assert!(
        text.contains("queue_fleet_oldest_seconds{queue=\"ads\"} "),
        "{text}"
    );
    let without = Site::on(service.store.clone(), with_token()).await;
    let text = without.get("/metrics").await.text;
    assert!(!text.contains("queue_fleet"), "{text}");
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn the_exporter_counts_jobs() {
    use commontrip::metrics::Exporter;
    use metrics_exporter_prometheus::PrometheusBuilder;

    let service = Service::plain();
    let ads = service.ads();
    ads.enqueue(&ad(1)).await.unwrap();
    let later = Enqueue::new().delay(Duration::from_secs(3600));
    ads.enqueue_with(&ad(2), later).await.unwrap();
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let exporter = Exporter::start_on(recorder, &service.circuits, ms(20));
    let _exporter = exporter.with_queue(&ads);
    for line in [
        "queue_jobs{queue=\"ads\",state=\"ready\"} 1",
        "queue_jobs{queue=\"ads\",state=\"delayed\"} 1",
        "queue_jobs{queue=\"ads\",state=\"running\"} 0",
        "queue_jobs{queue=\"ads\",state=\"dead\"} 0",
        "queue_oldest_seconds{queue=\"ads\"} ",
        "# HELP queue_oldest_seconds How long",
    ] {
        until(line, async || shown.render().contains(line)).await;
    }
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn the_exporter_shows_no_counts_that_are_out_of_date() {
    use commontrip::metrics::Exporter;
    use metrics_exporter_prometheus::PrometheusBuilder;

    use crate::support::{OwnServer, unique_prefix};

    let server = OwnServer::start();
    let service = Service::new(&server.url(), &unique_prefix("queue"), Policy::default());
    let ads = service.ads();
    ads.enqueue(&ad(1)).await.unwrap();
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let exporter = Exporter::start_on(recorder, &service.circuits, ms(20));
    let _exporter = exporter.with_queue(&ads);
    let ready = |n: &str| format!("queue_jobs{{queue=\"ads\",state=\"ready\"}} {n}\n");
    until("it is counted", async || {
        shown.render().contains(&ready("1"))
    })
    .await;
    assert!(!shown.render().contains("NaN"), "{}", shown.render());
    server.kill();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    until("the count is too old", async || {
        shown.render().contains(&ready("NaN"))
    })
    .await;
    let text = shown.render();
    assert!(
        text.contains("queue_oldest_seconds{queue=\"ads\"} NaN"),
        "{text}"
    );
    tokio::time::resume();
    server.restart();
    let text = || shown.render();
    until("it is counted again", async || !text().contains("NaN")).await;
}

#[cfg(feature = "cli")]
#[tokio::test]
async fn the_command_line_says_how_long_jobs_wait() {
    use crate::cli::run_at;
    use crate::support::{redis_url, unique_prefix};

    let prefix = unique_prefix("queue-oldest");
    let service = Service::new(redis_url(), &prefix, Policy::default());
    service.ads().enqueue(&ad(1)).await.unwrap();
    let mut text = String::new();
    until("it is listed", async || {
        text = run_at(redis_url(), &prefix, &["queue", "list"]).await.out;
        text.contains("ads")
    })
    .await;
    let rows: Vec<Vec<_>> = text
        .lines()
        .map(|row| row.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[0][..6],
        ["NAME", "READY", "DELAYED", "RUNNING", "DEAD", "OLDEST"]
    );
    assert_eq!(rows[1][..5], ["ads", "1", "0", "0", "0"]);
    assert!(rows[1][5].ends_with('s'), "{text}");
}
