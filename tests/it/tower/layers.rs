//! A timeout layer outside of the circuit drops calls; a hanging upstream still opens the circuit.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use commontrip::tower::{CircuitBreakerLayer, Http, HttpBody};
use commontrip::{AbandonedCalls, CircuitBreaker, Commontrip, Policy, State};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::timeout::TimeoutLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

use crate::upstream::{Upstream, client};
use crate::wait::until;

const LIMIT: Duration = Duration::from_millis(50);
/// The default policy's minimum is 20, and a call may begin before the last one is counted.
const ENOUGH: u64 = 21;

fn circuit() -> (Commontrip, CircuitBreaker) {
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuits.circuit("upstream", Policy::default()).unwrap();
    (circuits, breaker)
}

#[tokio::test]
async fn axums_handlers_that_hang_open_their_circuit_within_a_time_limit_of_the_servers() {
    for answers_first in [0, 15] {
        let (_circuits, breaker) = circuit();
        let handled = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&handled);
        let answer = async move |Path(what): Path<String>| {
            counting.fetch_add(1, Ordering::SeqCst);
            if what == "hangs" {
                pending::<()>().await;
            }
            "an answer"
        };
        let layer = CircuitBreakerLayer::new(breaker.clone()).classifier(HttpBody);
        let limit =
            tower_http::timeout::TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, LIMIT);
        // The layer that is added last to a route is outermost.
        let app = Router::new()
            .route("/{what}", get(answer))
            .route_layer(layer.rejection_response())
            .route_layer(limit);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, app).await.unwrap() });
        let ask = async |what: &str| {
            let request = client().get(format!("{url}/{what}"));
            request.send().await.unwrap().status().as_u16()
        };
        for _ in 0..answers_first {
            assert_eq!(ask("answers").await, 200);
        }
        let mut statuses = Vec::new();
        for _ in 0..60 {
            statuses.push(ask("hangs").await);
        }
        let reached = handled.load(Ordering::SeqCst) - answers_first;
        assert!(reached <= ENOUGH + 2, "{reached}: {statuses:?}");
        assert_eq!(statuses.last(), Some(&503), "{statuses:?}");
        assert_eq!(statuses[0], 504);
    }
}

/// Sends hanging requests until the circuit is open; returns how many reached the upstream.
async fn until_open<S, E>(service: S, upstream: &Upstream, breaker: &CircuitBreaker) -> u64
where
    S: Service<Request<Body>, Error = E> + Clone,
{
    let before = upstream.hits();
    for _ in 0..60 {
        let request = Request::get(format!("{}/hangs", upstream.url));
        let request = request.body(Body::empty()).unwrap();
        assert!(service.clone().oneshot(request).await.is_err());
    }
    until("open", async || breaker.state() == State::Open).await;
    upstream.hits() - before
}

#[tokio::test]
async fn hypers_calls_that_hang_open_their_circuit_within_a_time_limit_of_the_clients() {
    for answers_first in [0, 15] {
        let (_circuits, breaker) = circuit();
        let upstream = Upstream::start().await;
        let layer = CircuitBreakerLayer::new(breaker.clone()).classifier(Http);
        let service = ServiceBuilder::new()
            .layer(TimeoutLayer::new(LIMIT))
            .layer(layer)
            .service(Client::builder(TokioExecutor::new()).build_http::<Body>());
        for _ in 0..answers_first {
            let request = Request::get(format!("{}/200", upstream.url));
            let request = request.body(Body::empty()).unwrap();
            let _answer = service.clone().oneshot(request).await.unwrap();
        }
        let reached = until_open(service, &upstream, &breaker).await;
        assert!(reached <= ENOUGH + 2, "{reached}");
    }
}

#[tokio::test]
async fn a_time_limit_inside_opens_at_the_policys_threshold() {
    let (_circuits, breaker) = circuit();
    let upstream = Upstream::start().await;
    let layer = CircuitBreakerLayer::new(breaker.clone());
    let service = ServiceBuilder::new()
        .layer(layer.classifier(Http))
        .layer(TimeoutLayer::new(LIMIT))
        .service(Client::builder(TokioExecutor::new()).build_http::<Body>());
    let reached = until_open(service, &upstream, &breaker).await;
    assert!(reached <= ENOUGH, "{reached}");
}

#[tokio::test]
async fn a_reader_that_gives_up_on_a_body_that_stalls_opens_too() {
    let (_circuits, breaker) = circuit();
    let upstream = Upstream::start().await;
    let layer = CircuitBreakerLayer::new(breaker.clone()).classifier(HttpBody);
    let service = layer.layer(Client::builder(TokioExecutor::new()).build_http::<Body>());
    let mut made = 0;
    for _ in 0..60 {
        let request = Request::get(format!("{}/stalls", upstream.url));
        let request = request.body(Body::empty()).unwrap();
        let Ok(answer) = service.clone().oneshot(request).await else {
            break;
        };
        made += 1;
        let whole = http_body_util::BodyExt::collect(answer.into_body());
        assert!(tokio::time::timeout(LIMIT, whole).await.is_err());
    }
    assert!(made <= ENOUGH, "{made}");
}

#[tokio::test]
async fn a_dropped_call_is_never_taken_for_younger_than_it_is() {
    let circuits = Commontrip::embedded().unwrap();
    let limit = Duration::from_millis(21);
    let policy = Policy::builder()
        .no_failure_rate_threshold()
        .no_consecutive_failures_threshold()
        .failure_count_threshold(1000)
        .abandoned_calls(AbandonedCalls::After(limit));
    let policy = policy.build().unwrap();
    let breaker = circuits.circuit("upstream", policy).unwrap();
    // So many that few of the following calls are timed.
    for _ in 0..20_000 {
        breaker.call(async || Ok::<_, ()>(())).await.unwrap();
    }
    for n in 0..40 {
        // Starts at different offsets to the tick of a coarse clock.
        std::thread::sleep(Duration::from_micros(n * 97));
        let permit = breaker.acquire().await.unwrap();
        std::thread::sleep(limit);
        drop(permit);
    }
    circuits.flush().await;
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!((seen.failures, seen.undecided), (40, 0));
}
