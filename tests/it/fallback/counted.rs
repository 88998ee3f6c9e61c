//! The number of calls that fallbacks have answered, by kind.

use commontrip::fallback::{Fallback, LastGood};
use commontrip::{Commontrip, FallbackKind, Override};

use super::circuit;

async fn bad() -> Result<String, &'static str> {
    Err("down")
}

async fn good() -> Result<String, &'static str> {
    Ok("hello".to_owned())
}

#[tokio::test]
async fn each_kind_is_counted_by_itself_and_only_where_it_answers() {
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuit(&circuits);
    let seen = || {
        let fallbacks = circuits.stats()[0].fallbacks;
        FallbackKind::ALL.map(|kind| fallbacks.of(kind))
    };
    let silence = || "silence".to_owned();
    let own = breaker
        .call(good)
        .await
        .fallback(silence())
        .counted(&breaker);
    assert_eq!((own.kind, seen()), (None, [0, 0, 0, 0]));
    let fixed = breaker
        .call(bad)
        .await
        .fallback(silence())
        .counted(&breaker);
    assert_eq!(fixed.kind, Some(FallbackKind::Fixed));
    let computed = breaker.call(bad).await;
    let computed = computed
        .fallback_with(async |error| error.to_string())
        .await;
    assert_eq!(
        computed.counted(&breaker).kind,
        Some(FallbackKind::Computed)
    );
    assert_eq!(seen(), [1, 1, 0, 0]);

    let last_good = LastGood::builder("speech").build().unwrap();
    // No value is known yet, so the call's own error is returned.
    assert!(last_good.call(&breaker, "v", bad).await.is_err());
    last_good.call(&breaker, "v", good).await.unwrap();
    assert_eq!(seen(), [1, 1, 0, 0]);
    assert!(last_good.call(&breaker, "v", bad).await.unwrap().stale);
    assert_eq!(seen(), [1, 1, 1, 0]);

    breaker
        .force_open(Override::because("drill"))
        .await
        .unwrap();
    let rejected = breaker.call(good).await.fallback_on_rejection(silence());
    assert!(rejected.unwrap().counted(&breaker).is_fallback());
    let rejected = breaker.call(good).await;
    let rejected = rejected.fallback_on_rejection_with(async |_| "later".to_owned());
    assert!(rejected.await.unwrap().counted(&breaker).is_fallback());
    assert!(last_good.call(&breaker, "v", good).await.unwrap().stale);
    assert_eq!(seen(), [2, 2, 2, 0]);
    let stats = &circuits.stats()[0];
    assert_eq!(stats.fallbacks.total(), 6);
    // These calls are included in the failed or rejected ones.
    assert_eq!((stats.successes, stats.failures, stats.rejected), (2, 4, 3));
}
