//! Panics that an outer layer catches: each one is a failure of the circuit, wherever it happens.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Request, Response, StatusCode};
use commontrip::tower::{CircuitBreakerLayer, HttpBody};
use commontrip::{Commontrip, Policy};
use futures_util::FutureExt;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_http::catch_panic::CatchPanicLayer;

use crate::upstream::{HOUR, after};

type Body = UnsyncBoxBody<Bytes, io::Error>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Ready,
    Call,
    FirstPoll,
    LaterPoll,
    Body,
}

#[derive(Clone)]
struct Panics(Where);

impl Panics {
    fn at(&self, place: Where) {
        assert!(self.0 != place, "as asked");
    }
}

impl Service<Request<()>> for Panics {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.at(Where::Ready);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        self.at(Where::Call);
        let this = self.clone();
        Box::pin(async move {
            this.at(Where::FirstPoll);
            tokio::task::yield_now().await;
            this.at(Where::LaterPoll);
            Ok(Response::new(PanickingBody.boxed_unsync()))
        })
    }
}

struct PanickingBody;

impl http_body::Body for PanickingBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        panic!("as asked");
    }
}

/// A policy that asks the store at each call.
fn never_cached() -> Policy {
    Policy::builder()
        .decision_ttl(Duration::ZERO)
        .no_failure_rate_threshold()
        .consecutive_failures_threshold(8)
        .wait_duration_in_open_state(HOUR)
        .build()
        .unwrap()
}

#[tokio::test]
async fn eight_panics_that_a_layer_catches_are_eight_failures_and_open_the_circuit() {
    let places = [
        Where::Ready,
        Where::Call,
        Where::FirstPoll,
        Where::LaterPoll,
        Where::Body,
    ];
    for (policy, place) in [after(8), never_cached()]
        .into_iter()
        .flat_map(|policy| places.map(|place| (policy.clone(), place)))
    {
        let circuits = Commontrip::embedded().unwrap();
        let breaker = circuits.circuit("panics", policy).unwrap();
        let service = ServiceBuilder::new()
            .layer(CatchPanicLayer::new())
            .layer(CircuitBreakerLayer::new(breaker.clone()).classifier(HttpBody))
            .service(Panics(place));
        for _ in 0..8 {
            let call = AssertUnwindSafe(service.clone().oneshot(Request::new(())));
            // That layer covers calls only; a layer around the whole connection catches the others.
            match call.catch_unwind().await {
                Err(_) => assert_eq!(place, Where::Ready),
                Ok(answer) if place == Where::Body => {
                    let mut body = answer.unwrap().into_body();
                    let read = AssertUnwindSafe(body.frame()).catch_unwind().await;
                    assert!(read.is_err());
                    drop(body);
                }
                Ok(answer) => {
                    assert_eq!(answer.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
                }
            }
        }
        circuits.flush().await;
        let seen = breaker.snapshot().await.unwrap();
        let neither = seen.ignored_total + seen.abandoned_total;
        let all = (seen.successes_total, seen.failures_total, neither);
        assert_eq!(all, (0, 8, 0), "{place:?}");
        assert_eq!(seen.state, commontrip::State::Open, "{place:?}");
    }
}

/// A service that never becomes ready.
#[derive(Clone)]
struct Unready;

impl Service<Request<()>> for Unready {
    type Response = Response<Empty<Bytes>>;
    type Error = io::Error;
    type Future = std::future::Pending<Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        std::future::pending()
    }
}

#[tokio::test]
async fn a_service_that_cannot_become_ready_has_failed() {
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuits.circuit("unready", after(3)).unwrap();
    let layer = CircuitBreakerLayer::new(breaker.clone());
    let service = ServiceBuilder::new().layer(layer).service(Unready);
    for _ in 0..5 {
        assert!(service.clone().oneshot(Request::new(())).await.is_err());
    }
    circuits.flush().await;
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!(seen.state, commontrip::State::Open);
    // Failures while the circuit is open are not counted.
    assert_eq!((seen.failures_total, seen.rejected_total), (3, 0));
}
