//! The contract of a service, whatever it wraps.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use commontrip::tower::{CircuitBreakerLayer, UnlessRejected};
use commontrip::{
    CallError, CircuitBreaker, Commontrip, Outcome, Override, Policy, Rejection, State,
};
use futures_util::FutureExt;
use tower::limit::ConcurrencyLimit;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, retry, service_fn};

use crate::support::{unique, unique_prefix};
use crate::upstream::{HOUR, after, counted, open, replica};
use crate::wait::until;

/// Answers as asked, counts calls, and requires `poll_ready` on each clone before its call.
#[derive(Default)]
struct Strict {
    ready: bool,
    calls: Arc<AtomicU64>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Strict {
            ready: false,
            calls: Arc::clone(&self.calls),
        }
    }
}

impl Service<Result<u64, u64>> for Strict {
    type Response = u64;
    type Error = u64;
    type Future = Ready<Result<u64, u64>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), u64>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, answer: Result<u64, u64>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without being ready"
        );
        self.calls.fetch_add(1, Ordering::SeqCst);
        ready(answer)
    }
}

/// A replica with one test's circuit.
fn circuit(policy: Policy) -> (Commontrip, CircuitBreaker) {
    let circuits = replica(&unique_prefix("tower"));
    let breaker = circuits.circuit(&unique("payments"), policy).unwrap();
    (circuits, breaker)
}

/// A policy that asks the store at each call.
fn never_cached() -> Policy {
    Policy::builder()
        .decision_ttl(Duration::ZERO)
        .wait_duration_in_open_state(HOUR)
        .build()
        .unwrap()
}

#[tokio::test]
async fn the_service_that_was_readied_is_the_one_that_is_called() {
    for policy in [after(5), never_cached()] {
        let (_circuits, breaker) = circuit(policy);
        let mut service = CircuitBreakerLayer::new(breaker).layer(Strict::default());
        for n in 0..3 {
            let answer = service.ready().await.unwrap().call(Ok(n)).await;
            assert_eq!(answer.unwrap(), n);
        }
    }
}

#[tokio::test]
async fn clones_share_one_circuit_and_replicas_too() {
    let prefix = unique_prefix("tower");
    let name = unique("payments");
    let fleet = [replica(&prefix), replica(&prefix)];
    let breakers = [0, 1].map(|n| fleet[n].circuit(&name, after(4)).unwrap());
    let services = [0, 1]
        .map(|n: usize| CircuitBreakerLayer::new(breakers[n].clone()).layer(Strict::default()));
    for n in 0..4 {
        let answer = services[0].clone().oneshot(Err(n)).await;
        assert!(
            matches!(answer, Err(CallError::Failed(e)) if e == n),
            "{answer:?}"
        );
    }
    for (breaker, service) in breakers.iter().zip(services) {
        open(breaker).await;
        let before = service.inner().calls.load(Ordering::SeqCst);
        let answer = service.clone().oneshot(Ok(1)).await;
        assert!(matches!(answer, Err(CallError::Rejected(r)) if r.state == State::Open));
        assert_eq!(service.inner().calls.load(Ordering::SeqCst), before);
    }
}

#[tokio::test]
async fn to_be_ready_takes_no_permit() {
    let policy = Policy::builder()
        .no_failure_rate_threshold()
        .consecutive_failures_threshold(1)
        .wait_duration_in_open_state(Duration::from_millis(50))
        .permitted_number_of_calls_in_half_open_state(1)
        .success_threshold(1)
        .build();
    let (circuits, breaker) = circuit(policy.unwrap());
    let mut services = vec![CircuitBreakerLayer::new(breaker.clone()).layer(Strict::default())];
    services.resize(5, services[0].clone());
    let _ = services[0].ready().await.unwrap().call(Err(1)).await;
    circuits.flush().await;
    // An open circuit is still ready, because `call` does the rejecting.
    for service in &mut services {
        service.ready().await.unwrap();
    }
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!(seen.probes, 0);
    // The only probe is left for the service that makes a call.
    until("closed", async || {
        let _ = services[4].ready().await.unwrap().call(Ok(1)).await;
        circuits.flush().await;
        breaker.state() == State::Closed
    })
    .await;
}

#[tokio::test]
async fn a_rejection_gives_back_what_the_inner_service_has_reserved() {
    let (_circuits, breaker) = circuit(never_cached());
    breaker.force_open(Override::default()).await.unwrap();
    let limited = ConcurrencyLimit::new(Strict::default(), 1);
    let mut service = CircuitBreakerLayer::new(breaker.clone()).layer(limited);
    let other = service.clone();
    for _ in 0..3 {
        let answer = service.ready().await.unwrap().call(Ok(1)).await;
        assert!(matches!(answer, Err(CallError::Rejected(_))));
    }
    breaker.reset().await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(30), other.oneshot(Ok(1))).await;
    assert_eq!(answer.expect("the place is free").unwrap(), 1);
}

#[tokio::test]
async fn a_call_past_its_time_is_dropped_and_has_failed() {
    let dropped = Arc::new(AtomicU64::new(0));
    struct Noted(Arc<AtomicU64>);
    impl Drop for Noted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let limit = Duration::from_millis(20);
    let policy = Policy::builder().call_timeout(limit).build().unwrap();
    let (circuits, breaker) = circuit(policy);
    let counting = Arc::clone(&dropped);
    let service = CircuitBreakerLayer::new(breaker.clone()).layer(service_fn(move |()| {
        let noted = Noted(Arc::clone(&counting));
        async move {
            let _noted = noted;
            std::future::pending::<Result<(), Infallible>>().await
        }
    }));
    // The first call asks the store, the second does not need to.
    for n in 1..=2 {
        let answer = service.clone().oneshot(()).await;
        assert!(matches!(answer, Err(CallError::TimedOut(after)) if after == limit));
        assert_eq!(dropped.load(Ordering::SeqCst), n);
    }
    assert_eq!(counted(&circuits, &breaker).await, (0, 2));
    let stats = circuits.stats();
    let stats = stats.iter().find(|s| s.name == breaker.name()).unwrap();
    assert_eq!((stats.timeouts, stats.failures), (2, 2));
}

#[tokio::test]
async fn a_call_in_time_is_not_dropped() {
    let policy = Policy::builder()
        .call_timeout(HOUR)
        .probe_lease(HOUR)
        .max_wait_duration_in_half_open_state(HOUR)
        .build()
        .unwrap();
    let (circuits, breaker) = circuit(policy);
    let mut service =
        CircuitBreakerLayer::new(breaker.clone()).layer(service_fn(async |n: u64| {
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(n)
        }));
    for n in 0..2 {
        assert_eq!(service.ready().await.unwrap().call(n).await.unwrap(), n);
    }
    assert_eq!(counted(&circuits, &breaker).await, (2, 0));
}

#[tokio::test]
async fn a_function_says_what_answers_mean() {
    let (circuits, breaker) = circuit(after(9));
    let odd_is_failure = |result: &Result<u64, u64>| match result {
        Ok(n) if n % 2 == 1 => Outcome::failure(),
        Ok(_) => Outcome::Success,
        Err(_) => Outcome::Ignored,
    };
    let layer = CircuitBreakerLayer::new(breaker.clone()).classifier(odd_is_failure);
    let service = layer.layer(Strict::default());
    for answer in [Ok(1), Ok(2), Ok(4), Err(7)] {
        let got = service.clone().oneshot(answer).await;
        assert_eq!(got.map_err(|e| e.into_failed().unwrap()), answer);
    }
    assert_eq!(counted(&circuits, &breaker).await, (2, 1));
}

#[tokio::test]
async fn a_call_that_is_dropped_says_nothing() {
    let (circuits, breaker) = circuit(after(9));
    breaker.call(async || Ok::<_, ()>(())).await.unwrap();
    let pending = service_fn(|()| std::future::pending::<Result<(), Infallible>>());
    let mut service = CircuitBreakerLayer::new(breaker.clone()).layer(pending);
    let unpolled = service.ready().await.unwrap().call(());
    drop(unpolled);
    assert!(
        service
            .ready()
            .await
            .unwrap()
            .call(())
            .now_or_never()
            .is_none()
    );
    assert_eq!(counted(&circuits, &breaker).await, (1, 0));
    let stats = circuits.stats();
    let stats = stats.iter().find(|s| s.name == breaker.name()).unwrap();
    assert_eq!(stats.abandoned, 2);
}

#[tokio::test]
async fn a_refused_call_can_be_answered_in_other_words() {
    let (_circuits, breaker) = circuit(after(1));
    breaker.force_open(Override::default()).await.unwrap();
    let layer = CircuitBreakerLayer::new(breaker).respond_with(|refused| match refused {
        CallError::Rejected(_) => 503_u64,
        _ => 504,
    });
    // The inner service's error is passed on unchanged.
    let answer: Result<u64, u64> = layer.layer(Strict::default()).oneshot(Ok(1)).await;
    assert_eq!(answer, Ok(503));
}

#[tokio::test]
async fn errors_are_boxed_for_the_layers_around() {
    let (_circuits, breaker) = circuit(after(2));
    let asked = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&asked);
    let fails = service_fn(move |()| {
        counting.fetch_add(1, Ordering::SeqCst);
        ready(Err::<(), _>(std::io::Error::other("down")))
    });
    #[derive(Clone)]
    struct Always;
    impl retry::Policy<(), (), BoxError> for Always {
        type Future = Ready<()>;

        fn retry(&mut self, (): &mut (), _: &mut Result<(), BoxError>) -> Option<Ready<()>> {
            Some(ready(()))
        }

        fn clone_request(&mut self, (): &()) -> Option<()> {
            Some(())
        }
    }
    let service = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(1)
        .retry(UnlessRejected(Always))
        .layer(CircuitBreakerLayer::new(breaker).boxed_errors())
        .timeout(HOUR)
        .service(fails);
    // The tries end when the circuit opens.
    let error = service.clone().oneshot(()).await.unwrap_err();
    assert!(error.downcast_ref::<Rejection>().is_some(), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    let limit = Duration::from_millis(20);
    let policy = Policy::builder().call_timeout(limit).build().unwrap();
    let (_circuits, breaker) = circuit(policy);
    let hangs = service_fn(|()| std::future::pending::<Result<(), Infallible>>());
    let layer = CircuitBreakerLayer::new(breaker).boxed_errors();
    let error = layer.layer(hangs).oneshot(()).await.unwrap_err();
    let late = error.downcast_ref::<CallError<Infallible>>();
    assert!(matches!(late, Some(CallError::TimedOut(after)) if *after == limit));
}

/// Retries each error up to three times, and counts the requests.
#[derive(Clone)]
struct Again(Arc<AtomicU64>);

impl<E> retry::Policy<Result<u64, u64>, u64, CallError<E>> for Again {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Result<u64, u64>,
        _: &mut Result<u64, CallError<E>>,
    ) -> Option<Ready<()>> {
        (self.0.fetch_add(1, Ordering::SeqCst) < 3).then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Result<u64, u64>) -> Option<Result<u64, u64>> {
        Some(*request)
    }
}

#[tokio::test]
async fn a_failure_is_tried_again_and_a_rejection_is_not() {
    let (_circuits, breaker) = circuit(Policy::default());
    breaker.acquire().await.unwrap().success();
    let (strict, asked) = (Strict::default(), Arc::new(AtomicU64::new(0)));
    let calls = Arc::clone(&strict.calls);
    let service = ServiceBuilder::new()
        .retry(UnlessRejected(Again(Arc::clone(&asked))))
        .layer(CircuitBreakerLayer::new(breaker.clone()))
        .service(strict);
    let answer = service.clone().oneshot(Err(7)).await;
    assert!(matches!(answer, Err(CallError::Failed(7))), "{answer:?}");
    let counted = || (calls.load(Ordering::SeqCst), asked.load(Ordering::SeqCst));
    assert_eq!(counted(), (4, 4));

    breaker
        .force_open(Override::because("upgrade"))
        .await
        .unwrap();
    let answer = service.oneshot(Ok(7)).await;
    assert!(matches!(answer, Err(CallError::Rejected(_))), "{answer:?}");
    assert_eq!(counted(), (4, 4));
}
