//! Operators' commands on single jobs.

use commontrip::queue::{Enqueue, JobState, QueueError};

use super::{Service, ad, ms, until_stats, work};

#[tokio::test]
async fn a_job_is_found_in_its_state_retried_and_dropped_by_its_id() {
    let service = Service::plain();
    let ads = service.ads();
    let ready = ads.enqueue(&ad(1)).await.unwrap();
    let later = Enqueue::new().delay(ms(3_600_000));
    let delayed = ads.enqueue_with(&ad(2), later).await.unwrap();
    let found = async |state| {
        let found = ads.list(state, 10).await.unwrap();
        found.into_iter().map(|job| job.id).collect::<Vec<_>>()
    };
    assert_eq!(found(JobState::Ready).await, std::slice::from_ref(&ready));
    assert_eq!(
        found(JobState::Delayed).await,
        std::slice::from_ref(&delayed)
    );
    assert!(ads.list(JobState::Ready, 0).await.unwrap().is_empty());

    ads.retry(delayed.as_str()).await.unwrap();
    assert_eq!(
        found(JobState::Ready).await,
        [ready.clone(), delayed.clone()]
    );
    ads.drop_job(ready.as_str()).await.unwrap();
    assert_eq!(found(JobState::Ready).await, [delayed]);
    for id in [ready.as_str(), "", "no such job"] {
        let shown = ads.show(id).await;
        assert!(matches!(shown, Err(QueueError::Unknown(_))), "{shown:?}");
        let retried = ads.retry(id).await;
        assert!(
            matches!(retried, Err(QueueError::Unknown(_))),
            "{retried:?}"
        );
    }
}

#[tokio::test]
async fn a_job_that_runs_is_left_alone() {
    let service = Service::plain();
    let ads = service.ads();
    let id = ads.enqueue(&ad(1)).await.unwrap();
    let worker = ads.worker(&service.api, |_| {
        std::future::pending::<Result<(), String>>()
    });
    let working = work!(worker.grace(ms(0)).name("w1"));
    until_stats("it runs", &ads, |stats| stats.running == 1).await;
    let view = ads.show(id.as_str()).await.unwrap();
    assert_eq!((view.state, &*view.worker), (JobState::Running, "w1"));
    let listed = ads.list(JobState::Running, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert!(ads.list(JobState::Ready, 10).await.unwrap().is_empty());
    for refused in [
        ads.drop_job(id.as_str()).await,
        ads.retry(id.as_str()).await,
    ] {
        assert!(matches!(refused, Err(QueueError::Running(_))));
    }
    working.stop().await;
    ads.drop_job(id.as_str()).await.unwrap();
}

#[tokio::test]
async fn a_dead_jobs_key_is_free_and_it_is_not_retried_beside_another_with_its_key() {
    let service = Service::plain();
    let ads = service.builder().ttl(ms(1)).build().unwrap();
    let keyed = || Enqueue::new().key("one");
    let dead = ads.enqueue_with(&ad(1), keyed()).await.unwrap();
    let lasting = keyed().ttl(ms(3_600_000));
    tokio::time::sleep(ms(5)).await;
    let other = ads.enqueue_with(&ad(1), lasting).await.unwrap();
    assert_ne!(dead, other);
    let refused = ads.retry(dead.as_str()).await;
    assert!(
        matches!(refused, Err(QueueError::KeyTaken(_))),
        "{refused:?}"
    );
    assert_eq!(ads.retry_all().await.unwrap(), 0);
    ads.drop_job(other.as_str()).await.unwrap();
    ads.retry(dead.as_str()).await.unwrap();
    assert_eq!(
        ads.show(dead.as_str()).await.unwrap().state,
        JobState::Ready
    );
}
