//! What is counted of an answer: heads, bodies and trailers.

use std::convert::Infallible;
use std::future::ready;
use std::io::Error;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Bytes;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use commontrip::tower::{CircuitBreakerLayer, Classifier, Grpc, Http, HttpBody, SettlingBody};
use commontrip::{CircuitBreaker, Commontrip};
use futures_util::{FutureExt, stream};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{unique, unique_prefix};
use crate::upstream::{after, counted, replica};

type Body = UnsyncBoxBody<Bytes, Error>;

fn data() -> Result<Frame<Bytes>, Error> {
    Ok(Frame::data(Bytes::from_static(b"data")))
}

fn grpc_status(code: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", code.parse().unwrap());
    headers
}

fn trailers(code: &str) -> Result<Frame<Bytes>, Error> {
    Ok(Frame::trailers(grpc_status(code)))
}

fn broken() -> Result<Frame<Bytes>, Error> {
    Err(Error::other("broken off"))
}

fn body(frames: impl IntoIterator<Item = Result<Frame<Bytes>, Error>>) -> Response<Body> {
    let frames: Vec<_> = frames.into_iter().collect();
    Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync())
}

fn of(status: StatusCode, mut response: Response<Body>) -> Response<Body> {
    *response.status_mut() = status;
    response
}

/// A body that reports at once, or after its last data, that it has ended.
fn known_to_end(data: &'static [u8]) -> Response<Body> {
    let body = Full::new(Bytes::from_static(data)).map_err(|never: Infallible| match never {});
    Response::new(body.boxed_unsync())
}

struct Trial {
    circuits: Commontrip,
    breaker: CircuitBreaker,
}

impl Trial {
    fn new() -> Trial {
        let circuits = replica(&unique_prefix("bodies"));
        let breaker = circuits.circuit(&unique("payments"), after(99)).unwrap();
        Trial { circuits, breaker }
    }

    async fn answer<C>(&self, classifier: C, response: Response<Body>) -> C::Response
    where
        C: Classifier<Request<()>, Response<Body>, Infallible> + Clone,
    {
        let response = std::sync::Mutex::new(Some(response));
        let response = std::sync::Arc::new(response);
        let service = service_fn(move |_| ready(Ok(response.lock().unwrap().take().unwrap())));
        let layer = CircuitBreakerLayer::new(self.breaker.clone()).classifier(classifier);
        layer
            .layer(service)
            .oneshot(Request::new(()))
            .await
            .unwrap()
    }

    /// Successes, failures, and calls that are neither, so far.
    async fn counted(&self) -> (u64, u64, u64) {
        let (successes, failures) = counted(&self.circuits, &self.breaker).await;
        let stats = self.circuits.stats();
        let stats = stats.iter().find(|s| s.name == self.breaker.name());
        (
            successes,
            failures,
            stats.map_or(0, |stats| stats.ignored + stats.abandoned),
        )
    }
}

/// Reads to the end, or to an error.
async fn read(response: Response<SettlingBody<Body>>) {
    let _ = response.into_body().collect().await;
}

#[tokio::test]
async fn http_is_counted_by_its_head() {
    let trial = Trial::new();
    for status in [
        StatusCode::OK,
        StatusCode::NOT_FOUND,
        StatusCode::NOT_IMPLEMENTED,
    ] {
        trial.answer(Http, of(status, body([broken()]))).await;
    }
    assert_eq!(trial.counted().await, (3, 0, 0));
    for status in [StatusCode::BAD_GATEWAY, StatusCode::TOO_MANY_REQUESTS] {
        trial.answer(Http, of(status, body([data()]))).await;
    }
    assert_eq!(trial.counted().await, (3, 2, 0));
}

#[tokio::test]
async fn http_with_its_body_is_counted_when_that_ends() {
    let trial = Trial::new();
    let held = trial.answer(HttpBody, body([data(), data()])).await;
    assert_eq!(trial.counted().await, (0, 0, 0), "it has not ended");
    read(held).await;
    assert_eq!(trial.counted().await, (1, 0, 0));
    read(trial.answer(HttpBody, body([data(), broken()])).await).await;
    assert_eq!(trial.counted().await, (1, 1, 0));
    drop(trial.answer(HttpBody, body([data()])).await);
    assert_eq!(trial.counted().await, (1, 1, 1), "the reader went away");
    drop(
        trial
            .answer(HttpBody, of(StatusCode::BAD_GATEWAY, body([data()])))
            .await,
    );
    assert_eq!(trial.counted().await, (1, 2, 1), "its head told enough");
    drop(trial.answer(HttpBody, known_to_end(b"")).await);
    assert_eq!(trial.counted().await, (2, 2, 1), "it had ended already");
    let mut response = trial.answer(HttpBody, known_to_end(b"data")).await;
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    assert_eq!(trial.counted().await, (3, 2, 1), "it had nothing left");
}

#[tokio::test]
async fn grpc_is_counted_by_its_status_wherever_that_is() {
    let trial = Trial::new();
    let held = trial.answer(Grpc, body([data(), trailers("0")])).await;
    assert_eq!(trial.counted().await, (0, 0, 0), "its status is to come");
    read(held).await;
    assert_eq!(trial.counted().await, (1, 0, 0));
    read(trial.answer(Grpc, body([data(), trailers("14")])).await).await;
    assert_eq!(trial.counted().await, (1, 1, 0));
    // A caller that cancels drops the call, so this status comes from the server.
    read(trial.answer(Grpc, body([trailers("1")])).await).await;
    assert_eq!(trial.counted().await, (1, 2, 0));

    let mut in_head = Response::new(Empty::new().map_err(|e| match e {}).boxed_unsync());
    *in_head.headers_mut() = grpc_status("5");
    drop(trial.answer(Grpc, in_head).await);
    assert_eq!(trial.counted().await, (2, 2, 0));
    drop(
        trial
            .answer(Grpc, of(StatusCode::BAD_GATEWAY, body([])))
            .await,
    );
    assert_eq!(trial.counted().await, (2, 3, 0), "a proxy's answer");
}

#[tokio::test]
async fn grpc_without_a_status_has_failed() {
    let trial = Trial::new();
    read(trial.answer(Grpc, body([data()])).await).await;
    read(trial.answer(Grpc, body([data(), broken()])).await).await;
    drop(trial.answer(Grpc, known_to_end(b"")).await);
    let mut response = trial.answer(Grpc, known_to_end(b"data")).await;
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    assert_eq!(trial.counted().await, (0, 4, 0));
    drop(trial.answer(Grpc, body([data(), trailers("0")])).await);
    assert_eq!(trial.counted().await, (0, 4, 1), "the reader went away");
}

/// Panics when it is polled.
struct Panicking;

impl http_body::Body for Panicking {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        panic!("as asked");
    }
}

#[tokio::test]
async fn a_panic_is_a_failure_also_when_an_outer_layer_catches_it() {
    let trial = Trial::new();
    let panics = Response::new(Panicking.boxed_unsync());
    let mut body = trial.answer(HttpBody, panics).await.into_body();
    let caught = AssertUnwindSafe(body.frame()).catch_unwind().await;
    assert!(caught.is_err());
    drop(body);
    assert_eq!(trial.counted().await, (0, 1, 0), "in a body");

    let service = service_fn(|(): ()| async {
        tokio::task::yield_now().await;
        if true {
            panic!("as asked");
        }
        Ok::<_, Infallible>(())
    });
    let service = CircuitBreakerLayer::new(trial.breaker.clone()).layer(service);
    let mut call = Box::pin(AssertUnwindSafe(service.oneshot(())).catch_unwind());
    assert!(call.as_mut().await.is_err());
    drop(call);
    assert_eq!(trial.counted().await, (0, 2, 0), "in a call");
}
