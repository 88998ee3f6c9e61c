//! Calls that become jobs if they fail.

use commontrip::{
    CallError, Override, Policy,
    queue::{Called, Failure, NotCalled, QueueError},
};

use super::{Ad, Service, ad, ms};
use crate::support::{redis_url, unique_prefix};

#[tokio::test]
async fn a_call_is_done_or_queued_as_it_ends() {
    let policy = Policy::builder()
        .minimum_number_of_calls(100)
        .call_timeout(ms(50))
        .build()
        .unwrap();
    let service = Service::new(redis_url(), &unique_prefix("queue"), policy);
    let ads = service.ads();
    let api = &service.api;

    let done = ads.call(api, ad(1), |ad| async move { Ok::<_, String>(ad.id) });
    assert_eq!(done.await.unwrap(), Called::Done(1));
    assert_eq!(ads.stats().await.unwrap().enqueued, 0);

    let failed = ads.call(api, ad(2), |_| async { Err::<(), _>("503") });
    let Called::Queued(failed) = failed.await.unwrap() else {
        panic!("it is queued")
    };
    let hung = ads.call(api, ad(3), |_| async {
        std::future::pending::<Result<(), String>>().await
    });
    assert!(matches!(hung.await.unwrap(), Called::Queued(_)));
    api.force_open(Override::because("test")).await.unwrap();
    let rejected = ads.call(api, ad(4), |_| async { Ok::<_, String>(()) });
    assert!(matches!(rejected.await.unwrap(), Called::Queued(_)));
    assert_eq!(ads.stats().await.unwrap().ready, 3);
    let kept = ads.show(failed.as_str()).await.unwrap();
    let kept: Ad = rmp_serde::from_slice(&kept.payload).unwrap();
    assert_eq!(kept, ad(2));
}

#[tokio::test]
async fn what_no_attempt_mends_and_what_does_not_fit_are_errors() {
    let service = Service::plain();
    let ads = service.builder().max_size(1).build().unwrap();
    let classify = |status: &u16| match status {
        400..500 => Failure::Fatal,
        _ => Failure::retry(),
    };
    let call = |status: u16| {
        ads.call_with(&service.api, classify, ad(1), move |_| async move {
            Err::<(), _>(status)
        })
    };
    assert!(matches!(call(400).await, Err(NotCalled::Failed(400))));
    assert_eq!(ads.stats().await.unwrap().enqueued, 0);
    assert!(matches!(call(503).await, Ok(Called::Queued(_))));
    let error = call(503).await.unwrap_err();
    assert!(
        matches!(
            error,
            NotCalled::NotQueued {
                call: CallError::Failed(503),
                queue: QueueError::Full { size: 1, most: 1 }
            }
        ),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "503; the job was not queued");
}
