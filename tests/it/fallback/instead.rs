//! Values in place of errors, after any error or only after a rejection.

use commontrip::fallback::{Fallback, Recovered};
use commontrip::{CallError, CircuitBreaker, Commontrip, Override, Rejection};

use super::circuit;

type Answer = Result<u32, CallError<&'static str>>;

async fn call(breaker: &CircuitBreaker, result: Result<u32, &'static str>) -> Answer {
    breaker.call(async || result).await
}

#[tokio::test]
async fn what_succeeded_is_no_fallback() {
    let breaker = circuit(&Commontrip::embedded().unwrap());
    let own = |kept: Recovered<u32, _>| (kept.value, kept.is_fallback());
    assert_eq!(own(call(&breaker, Ok(1)).await.fallback(2)), (1, false));
    let computed = call(&breaker, Ok(1)).await.fallback_with(async |_| 2).await;
    assert_eq!(own(computed), (1, false));
    let own = |kept: Recovered<u32, Rejection>| (kept.value, kept.is_fallback());
    let given = call(&breaker, Ok(1)).await.fallback_on_rejection(2);
    assert_eq!(own(given.unwrap()), (1, false));
    let computed = call(&breaker, Ok(1)).await;
    let computed = computed.fallback_on_rejection_with(async |_| 2).await;
    assert_eq!(own(computed.unwrap()), (1, false));
}

#[tokio::test]
async fn a_failure_is_answered_unless_only_rejections_are() {
    let breaker = circuit(&Commontrip::embedded().unwrap());
    let given = call(&breaker, Err("down")).await.fallback(2);
    assert_eq!(given.value, 2);
    assert!(matches!(given.instead_of, Some(CallError::Failed("down"))));
    let computed = call(&breaker, Err("down")).await;
    let computed = computed
        .fallback_with(async |error: &CallError<_>| error.to_string().len() as u32)
        .await;
    assert_eq!((computed.value, computed.is_fallback()), (4, true));
    let given = call(&breaker, Err("down")).await.fallback_on_rejection(2);
    assert!(matches!(given, Err(CallError::Failed("down"))));
    let computed = call(&breaker, Err("down")).await;
    let computed = computed.fallback_on_rejection_with(async |_| 2).await;
    assert!(matches!(computed, Err(CallError::Failed("down"))));
}

#[tokio::test]
async fn a_rejection_is_answered_and_told() {
    let breaker = circuit(&Commontrip::embedded().unwrap());
    let drill = Override::because("drill");
    breaker.force_open(drill).await.unwrap();
    let given = call(&breaker, Ok(1)).await.fallback(2);
    assert_eq!(given.value, 2);
    assert!(matches!(given.instead_of, Some(CallError::Rejected(_))));
    let given = call(&breaker, Ok(1)).await.fallback_on_rejection(2);
    let given = given.unwrap();
    assert_eq!((given.value, given.is_fallback()), (2, true));
    // In a task, to check that the future is `Send`.
    let computed = tokio::spawn(async move {
        let answer = call(&breaker, Ok(1)).await;
        answer
            .fallback_on_rejection_with(|rejection: Rejection| async move {
                rejection.state.to_string().len() as u32
            })
            .await
    });
    let computed = computed.await.unwrap().unwrap();
    assert_eq!(computed.value, "forced_open".len() as u32);
}
