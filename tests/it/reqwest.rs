//! The reqwest client with circuits, over real sockets.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use commontrip::keyed::KeyedCircuits;
use commontrip::reqwest::{CircuitBreakerMiddleware, rejection};
use commontrip::{AbandonedCalls, CircuitBreaker, Commontrip, Policy, Rejection};
use futures_util::{FutureExt, stream};
use http::Extensions;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Error, Middleware, Next, Result};
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};

use crate::support::{free_port, unique, unique_prefix};
use crate::upstream::{Upstream, after, client, counted, open, replica};

fn per_host(circuits: &Commontrip) -> ClientWithMiddleware {
    let guard = CircuitBreakerMiddleware::per_host(circuits, |_| after(2)).unwrap();
    ClientBuilder::new(client()).with(guard).build()
}

fn one(policy: Policy) -> (Commontrip, CircuitBreaker, CircuitBreakerMiddleware) {
    let circuits = replica(&unique_prefix("reqwest"));
    let breaker = circuits.circuit(&unique("payments"), policy).unwrap();
    let guard = CircuitBreakerMiddleware::new(breaker.clone());
    (circuits, breaker, guard)
}

/// Like [`one`], with the option whether a body belongs to the call.
fn guarded(
    policy: Policy,
    with_body: bool,
) -> (Commontrip, CircuitBreaker, CircuitBreakerMiddleware) {
    let (circuits, breaker, guard) = one(policy);
    let guard = match with_body {
        true => guard.until_body_ends(),
        false => guard,
    };
    (circuits, breaker, guard)
}

#[tokio::test]
async fn one_host_fails_and_the_fleet_leaves_it_alone_as_long_as_it_asked_and_no_other() {
    let prefix = unique_prefix("reqwest");
    let (broken, well) = (Upstream::start().await, Upstream::start().await);
    let fleet = [replica(&prefix), replica(&prefix)];
    let clients = fleet.each_ref().map(per_host);
    for _ in 0..2 {
        let answer = clients[0]
            .get(format!("{}/429/7200", broken.url))
            .send()
            .await;
        assert_eq!(answer.unwrap().status(), 429);
    }
    for (circuits, client) in fleet.iter().zip(&clients) {
        let name = format!("http:{}", broken.host());
        open(&circuits.circuit(&name, after(2)).unwrap()).await;
        let error = client
            .get(format!("{}/200", broken.url))
            .send()
            .await
            .unwrap_err();
        let wait = rejection(&error).unwrap().retry_after.unwrap();
        assert!(wait > Duration::from_secs(7000), "{wait:?}");
        // Also without the crate's helper.
        let Error::Middleware(error) = error else {
            panic!("{error:?}");
        };
        assert!(error.downcast_ref::<Rejection>().is_some());
        let answer = client.get(format!("{}/200", well.url)).send().await;
        assert_eq!(answer.unwrap().status(), 200);
    }
    assert_eq!((broken.hits(), well.hits()), (2, 2));
}

#[tokio::test]
async fn no_connection_and_no_answer_are_failures() {
    let (circuits, breaker, guard) = one(after(99));
    let client = ClientBuilder::new(client()).with(guard).build();
    let nobody = format!("http://127.0.0.1:{}/", free_port().unwrap());
    assert!(client.get(nobody).send().await.unwrap_err().is_connect());
    let upstream = Upstream::start().await;
    let hangs = client.get(format!("{}/hangs", upstream.url));
    let error = hangs
        .timeout(Duration::from_millis(50))
        .send()
        .await
        .unwrap_err();
    assert!(error.is_timeout());
    assert!(
        client
            .get(format!("{}/404", upstream.url))
            .send()
            .await
            .is_ok()
    );
    assert_eq!(counted(&circuits, &breaker).await, (1, 2));
}

/// Fails on its own.
struct Unwilling;

#[async_trait]
impl Middleware for Unwilling {
    async fn handle(
        &self,
        _: reqwest::Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> Result<reqwest::Response> {
        Err(Error::middleware(std::io::Error::other("no token")))
    }
}

#[tokio::test]
async fn the_callers_own_mistakes_are_ignored() {
    let (circuits, breaker, guard) = one(after(1));
    let guard = Arc::new(guard);
    let client = |guard: &Arc<CircuitBreakerMiddleware>| {
        ClientBuilder::new(client()).with_arc(Arc::<CircuitBreakerMiddleware>::clone(guard))
    };
    // reqwest does not support this scheme, and fails only when the request is sent.
    let error = client(&guard)
        .build()
        .get("ftp://localhost/")
        .send()
        .await
        .unwrap_err();
    assert!(error.is_builder(), "{error:?}");
    let unwilling = client(&guard).with(Unwilling).build();
    assert!(unwilling.get("http://localhost/").send().await.is_err());
    assert_eq!(counted(&circuits, &breaker).await, (0, 0));
    let stats = circuits.stats();
    assert_eq!(stats[0].ignored, 2);
}

/// Panics before it calls the next middleware.
struct Panicking;

#[async_trait]
impl Middleware for Panicking {
    async fn handle(
        &self,
        _: reqwest::Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> Result<reqwest::Response> {
        panic!("as asked")
    }
}

#[tokio::test]
async fn a_panic_is_a_failure_also_when_the_caller_catches_it() {
    for with_body in [false, true] {
        let (circuits, breaker, guard) = guarded(after(99), with_body);
        let client = ClientBuilder::new(client()).with(guard).with(Panicking);
        let client = client.build();
        for _ in 0..8 {
            let call = client.get("http://localhost/").send();
            assert!(AssertUnwindSafe(call).catch_unwind().await.is_err());
        }
        assert_eq!(counted(&circuits, &breaker).await, (0, 8));
    }
}

/// A body that fails after its first piece.
fn upload() -> reqwest::Body {
    let pieces = stream::unfold(0, |n| async move {
        match n {
            0 => Some((Ok("so far"), 1)),
            _ => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let reset = std::io::ErrorKind::ConnectionReset;
                Some((Err(std::io::Error::from(reset)), 2))
            }
        }
    });
    reqwest::Body::wrap_stream(pieces)
}

#[tokio::test]
async fn an_upload_of_the_callers_that_fails_is_not_the_upstreams_failure() {
    for with_body in [false, true] {
        let (circuits, breaker, guard) = guarded(after(2), with_body);
        let client = ClientBuilder::new(client()).with(guard).build();
        let reads = axum::Router::new().fallback(async |body: axum::body::Bytes| body);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, reads).await.unwrap() });
        for _ in 0..3 {
            assert!(client.post(&url).body(upload()).send().await.is_err());
        }
        assert_eq!(counted(&circuits, &breaker).await, (0, 0));
        assert_eq!(circuits.stats()[0].ignored, 3);
        let answer = client.post(&url).body("whole").send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "whole");
        // If nobody listens, the failure is the upstream's.
        let nobody = format!("http://127.0.0.1:{}/", free_port().unwrap());
        assert!(client.post(nobody).body(upload()).send().await.is_err());
        assert_eq!(counted(&circuits, &breaker).await, (1, 1));
    }
}

#[tokio::test]
async fn connections_beyond_a_limit_of_this_sides_are_no_failure_of_the_upstream() {
    let (circuits, breaker, guard) = one(after(2));
    let limited = tower::ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(1)
        .into_inner();
    // It keeps the only place.
    let limited = reqwest::Client::builder()
        .no_proxy()
        .connector_layer(limited)
        .build()
        .unwrap();
    // A server that never reads; the first connection is established and hangs.
    let upstream = Upstream::start().await;
    let client = ClientBuilder::new(limited).with(guard).build();
    let hangs = format!("{}/hangs", upstream.url);
    let calls = (0..8).map(|_| {
        client
            .get(&hangs)
            .timeout(Duration::from_millis(200))
            .send()
    });
    let answers = futures_util::future::join_all(calls).await;
    let shed = answers.iter().filter(|answer| {
        let error = answer.as_ref().unwrap_err();
        format!("{error:?}").contains("Overloaded")
    });
    let shed = shed.count() as u64;
    assert_eq!(circuits.stats()[0].ignored, shed, "{answers:?}");
    assert!(shed > 0, "{answers:?}");
    let (_, failures) = counted(&circuits, &breaker).await;
    assert_eq!(failures, 8 - shed);
}

#[tokio::test]
async fn retries_around_a_circuit_end_when_it_opens() {
    let (_circuits, breaker, guard) = one(after(2));
    let upstream = Upstream::start().await;
    let retries = ExponentialBackoff::builder()
        .retry_bounds(Duration::from_millis(100), Duration::from_millis(200))
        .build_with_max_retries(9);
    let client = ClientBuilder::new(client())
        .with(RetryTransientMiddleware::new_with_policy(retries))
        .with(guard)
        .build();
    let error = client
        .get(format!("{}/503", upstream.url))
        .send()
        .await
        .unwrap_err();
    assert!(rejection(&error).is_some(), "{error:?}");
    let hits = upstream.hits();
    // Two failures open it; on a busy machine replicas may learn of it a try late.
    assert!((2..9).contains(&hits), "{hits}");
    // Here the first try is rejected.
    open(&breaker).await;
    let error = client
        .get(format!("{}/200", upstream.url))
        .send()
        .await
        .unwrap_err();
    assert!(rejection(&error).is_some(), "{error:?}");
    assert_eq!(upstream.hits(), hits);
}

#[tokio::test]
async fn an_error_that_retries_have_wrapped_is_what_it_wraps() {
    let (circuits, breaker, guard) = one(after(99));
    let retries = ExponentialBackoff::builder()
        .retry_bounds(Duration::from_millis(1), Duration::from_millis(1))
        .build_with_max_retries(1);
    let client = ClientBuilder::new(client())
        .with(guard)
        .with(RetryTransientMiddleware::new_with_policy(retries))
        .build();
    let nobody = format!("http://127.0.0.1:{}/", free_port().unwrap());
    assert!(client.get(nobody).send().await.is_err());
    assert_eq!(counted(&circuits, &breaker).await, (0, 1));
}

#[tokio::test]
async fn a_request_past_its_time_is_dropped_and_has_failed() {
    let limit = Duration::from_millis(50);
    let (circuits, breaker, guard) = one(Policy::builder().call_timeout(limit).build().unwrap());
    let upstream = Upstream::start().await;
    let client = ClientBuilder::new(client()).with(guard).build();
    let error = client
        .get(format!("{}/hangs", upstream.url))
        .send()
        .await
        .unwrap_err();
    assert!(rejection(&error).is_none());
    assert!(format!("{error:#}").contains("dropped"), "{error:#}");
    assert_eq!(counted(&circuits, &breaker).await, (0, 1));
    assert_eq!(circuits.stats()[0].timeouts, 1);
}

#[tokio::test]
async fn a_key_of_ones_own() {
    let circuits = replica(&unique_prefix("reqwest"));
    let tenants = KeyedCircuits::new(&circuits, "tenant:", |_| after(1)).unwrap();
    let guard = CircuitBreakerMiddleware::per_key(tenants, |request| {
        let tenant = request.headers().get("x-tenant");
        tenant
            .and_then(|t| t.to_str().ok())
            .unwrap_or("none")
            .into()
    });
    let client = ClientBuilder::new(client()).with(guard).build();
    let upstream = Upstream::start().await;
    let ask = async |tenant: &str, path: &str| {
        let request = client.get(format!("{}{path}", upstream.url));
        request.header("x-tenant", tenant).send().await
    };
    assert_eq!(ask("a", "/500").await.unwrap().status(), 500);
    open(&circuits.circuit("tenant:a", after(1)).unwrap()).await;
    assert!(rejection(&ask("a", "/200").await.unwrap_err()).is_some());
    assert_eq!(ask("b", "/200").await.unwrap().status(), 200);
}

/// A client whose circuit waits for bodies; and the counts: successes, failures, dropped calls.
fn with_bodies() -> (Commontrip, ClientWithMiddleware) {
    // On a busy machine a reader may stop late.
    let policy = Policy::builder().abandoned_calls(AbandonedCalls::Ignored);
    let (circuits, _, guard) = one(policy.build().unwrap());
    let client = ClientBuilder::new(client()).with(guard.until_body_ends());
    (circuits, client.build())
}

fn so_far(circuits: &Commontrip) -> (u64, u64, u64) {
    let stats = &circuits.stats()[0];
    (stats.successes, stats.failures, stats.abandoned)
}

#[tokio::test]
async fn with_its_body_an_answer_counts_when_that_ends() {
    let (circuits, client) = with_bodies();
    let upstream = Upstream::start().await;
    let get = async |path: &str| {
        let request = client.get(format!("{}{path}", upstream.url));
        request.send().await.unwrap()
    };
    let whole = get("/200").await;
    assert_eq!(so_far(&circuits), (0, 0, 0), "it was not read");
    assert_eq!(whole.text().await.unwrap(), "whole");
    assert_eq!(so_far(&circuits), (1, 0, 0));
    let breaks = get("/breaks").await;
    assert_eq!(breaks.status(), 200);
    let error = breaks.bytes().await.unwrap_err();
    assert!(error.is_decode() || error.is_body(), "{error:?}");
    assert_eq!(so_far(&circuits), (1, 1, 0));
    drop(get("/200").await);
    assert_eq!(so_far(&circuits), (1, 1, 1), "its reader left");
    drop(get("/503/7200").await);
    assert_eq!(so_far(&circuits), (1, 2, 1), "its head told enough");
    drop(get("/204").await);
    let head = client.head(format!("{}/200", upstream.url));
    drop(head.send().await.unwrap());
    assert_eq!(so_far(&circuits), (3, 2, 1), "no body is to come");
    let hangs = client.get(format!("{}/hangs", upstream.url));
    let error = hangs.timeout(Duration::from_millis(50)).send().await;
    assert!(error.unwrap_err().is_timeout());
    assert_eq!(so_far(&circuits), (3, 3, 1));
}

#[tokio::test]
async fn with_its_body_a_response_is_the_same_as_without() {
    let upstream = Upstream::start().await;
    let url = format!("{}/200?page=2#here", upstream.url);
    let plain = client().get(&url).send().await.unwrap();
    let (_circuits, with_bodies) = with_bodies();
    let ours = with_bodies.get(&url).send().await.unwrap();
    assert_eq!(ours.url(), plain.url());
    assert_eq!(ours.status(), plain.status());
    assert_eq!(ours.version(), plain.version());
    assert_eq!(ours.remote_addr(), plain.remote_addr());
    assert_eq!(
        (ours.content_length(), plain.content_length()),
        (Some(5), Some(5))
    );
    let names = |response: &reqwest::Response| {
        let names = response.headers().keys();
        names.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names(&ours), names(&plain));
    assert_eq!(ours.extensions().len(), plain.extensions().len());
}

#[tokio::test]
async fn a_timeout_in_a_body_is_a_failure_and_a_timeout() {
    let (circuits, client) = with_bodies();
    let upstream = Upstream::start().await;
    let request = client.get(format!("{}/stalls", upstream.url));
    let response = request.timeout(Duration::from_millis(200)).send().await;
    let error = response.unwrap().bytes().await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(so_far(&circuits), (0, 1, 0));
}
