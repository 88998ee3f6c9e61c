//! What is accepted, once, and what is not.

use commontrip::queue::{Enqueue, JobState, Queue, QueueError};
use futures_util::future::join_all;

use super::{Ad, Seen, Service, ad, ms, until_stats, work};
use crate::{
    support::{admin_url, redis_url, unique_prefix},
    wait::until,
};

#[tokio::test]
async fn a_job_is_kept_with_fields_that_can_be_read() {
    let prefix = unique_prefix("queue");
    let service = Service::new(redis_url(), &prefix, commontrip::Policy::default());
    let ads = service.ads();
    let id = ads
        .enqueue_with(&ad(7), Enqueue::new().key("ad-7"))
        .await
        .unwrap();
    let client = redis::Client::open(admin_url()).unwrap();
    let mut redis = client.get_connection().unwrap();
    let read: String = redis::cmd("HGET")
        .arg(format!("{prefix}:queue:{{ads}}:jobs"))
        .arg(id.as_str())
        .query(&mut redis)
        .unwrap();
    let read: serde_json::Value = serde_json::from_str(&read).unwrap();
    assert_eq!(read["state"], "ready");
    assert_eq!(read["key"], "ad-7");
    assert_eq!(read["attempts"], 0);
    assert!(read["enqueued_ms"].as_u64().unwrap() > 1_700_000_000_000);
    let shown = ads.show(id.as_str()).await.unwrap();
    let body: serde_json::Value = rmp_serde::from_slice(&shown.payload).unwrap();
    assert_eq!(body, serde_json::json!({ "id": 7, "title": "ad 7" }));
    until("it is found", async || {
        commontrip::queue::queues(&service.store).await.unwrap() == ["ads"]
    })
    .await;
}

#[tokio::test]
async fn of_a_storm_with_one_key_one_job_is_kept_and_run_once() {
    let service = Service::plain();
    let ads = service.builder().key_of(|ad: &Ad| ad.id.to_string());
    let ads = ads.build().unwrap();
    let storm = async || {
        let ids = join_all((0..50).map(|_| {
            let ads = ads.clone();
            tokio::spawn(async move { ads.enqueue(&ad(7)).await.unwrap() })
        }))
        .await;
        let mut ids: Vec<_> = ids.into_iter().map(Result::unwrap).collect();
        ids.dedup();
        assert_eq!(ids.len(), 1, "{ids:?}");
        ids.remove(0)
    };
    let id = storm().await;
    let seen = Seen::default();
    let ran = seen.clone();
    let working = work!(ads.worker(&service.api, move |job| {
        ran.lock().push(job);
        async { Ok::<_, String>(()) }
    }));
    until_stats("it is done", &ads, |stats| stats.done == 1).await;
    // The key is still remembered.
    assert_eq!(storm().await, id);
    ads.enqueue(&ad(8)).await.unwrap();
    until_stats("another is done", &ads, |stats| stats.done == 2).await;
    working.stop().await;
    let ran: Vec<_> = seen.lock().iter().map(|job| job.body.id).collect();
    assert_eq!(ran, [7, 8]);
    assert_eq!(seen.lock()[0].key.as_deref(), Some("7"));
    assert_eq!(ads.stats().await.unwrap().enqueued, 2);
}

#[tokio::test]
async fn a_key_is_forgotten_some_time_after_its_job_is_done() {
    let service = Service::plain();
    let ads = service.builder().keep(ms(100)).build().unwrap();
    let keyed = || Enqueue::new().key("one");
    let first = ads.enqueue_with(&ad(1), keyed()).await.unwrap();
    let working = work!(ads.worker(&service.api, |_| async { Ok::<_, String>(()) }));
    until_stats("it is done", &ads, |stats| stats.done == 1).await;
    until("its key is free", async || {
        ads.enqueue_with(&ad(1), keyed()).await.unwrap() != first
    })
    .await;
    until_stats("it is done again", &ads, |stats| stats.done == 2).await;
    working.stop().await;
}

#[tokio::test]
async fn a_full_queue_refuses_says_so_and_is_never_fuller() {
    let service = Service::plain();
    let ads = service.builder().max_size(20).build().unwrap();
    let tried = join_all((0..60).map(|i| {
        let ads = ads.clone();
        tokio::spawn(async move { ads.enqueue(&ad(i)).await })
    }))
    .await;
    let (kept, refused): (Vec<_>, Vec<_>) = tried
        .into_iter()
        .map(Result::unwrap)
        .partition(Result::is_ok);
    assert_eq!((kept.len(), refused.len()), (20, 40));
    for error in refused {
        let error = error.unwrap_err();
        assert!(matches!(error, QueueError::Full { size: 20, most: 20 }));
        assert_eq!(
            error.to_string(),
            "the queue is full: it has 20 jobs, and at most 20 are kept"
        );
    }
    let one = kept[0].as_ref().unwrap();
    ads.drop_job(one.as_str()).await.unwrap();
    ads.enqueue(&ad(99)).await.unwrap();
    assert_eq!(ads.stats().await.unwrap().ready, 20);
}

#[tokio::test]
async fn what_is_too_large_or_wrongly_named_is_refused() {
    let service = Service::plain();
    let ads = service.builder().max_job_bytes(100).build().unwrap();
    let mut large = ad(1);
    large.title = "x".repeat(100);
    let error = ads.enqueue(&large).await.unwrap_err();
    assert!(
        matches!(
            error,
            QueueError::TooLarge {
                bytes: 113,
                most: 100
            }
        ),
        "{error:?}"
    );
    for key in ["", &"k".repeat(501)] {
        let with = Enqueue::new().key(key);
        let error = ads.enqueue_with(&ad(1), with).await.unwrap_err();
        assert!(matches!(error, QueueError::Key(n) if n == key.len()));
    }
    let named = Queue::<Ad>::builder(&service.store, "a{b").build();
    assert!(matches!(named, Err(QueueError::Name(_))));
    let sized = service.builder().max_size(0).build().unwrap_err();
    assert_eq!(sized.to_string(), "max_size must be at least 1");
    assert_eq!(ads.stats().await.unwrap().enqueued, 0);
}

#[tokio::test]
async fn a_delayed_job_is_not_run_before_its_time() {
    let service = Service::plain();
    let ads = service.ads();
    let seen = Seen::default();
    let ran = seen.clone();
    let working = work!(ads.worker(&service.api, move |job| {
        ran.lock().push(job);
        async { Ok::<_, String>(()) }
    }));
    let later = Enqueue::new().delay(ms(700));
    ads.enqueue_with(&ad(1), later).await.unwrap();
    ads.enqueue(&ad(2)).await.unwrap();
    until_stats("both are done", &ads, |stats| stats.done == 2).await;
    working.stop().await;
    let seen = seen.lock();
    let one = seen.iter().find(|job| job.body.id == 1).unwrap();
    assert!(one.age >= ms(700), "{one:?}");
}

#[tokio::test]
async fn a_job_that_waits_for_too_long_is_a_dead_letter_and_makes_room() {
    let service = Service::plain();
    let ads = service.builder().max_size(1).ttl(ms(100)).build().unwrap();
    let old = ads.enqueue(&ad(1)).await.unwrap();
    // Without workers, the next call to enqueue finds the room.
    until("there is room", async || ads.enqueue(&ad(2)).await.is_ok()).await;
    let dead = ads.show(old.as_str()).await.unwrap();
    assert_eq!((dead.state, &*dead.reason), (JobState::Dead, "expired"));
    let stats = ads.stats().await.unwrap();
    assert_eq!((stats.dead, stats.expired, stats.died), (1, 1, 0));
}
