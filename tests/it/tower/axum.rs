//! An axum server with a circuit for each route.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Path, Request};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::routing::get;
use commontrip::keyed::KeyedCircuits;
use commontrip::tower::{CircuitBreakerLayer, Http, HttpBody};
use commontrip::{Commontrip, Policy, State};
use futures_util::stream;
use tokio::net::TcpListener;

use crate::support::unique_prefix;
use crate::upstream::{after, open, replica};
use crate::wait::until;

/// A replica of a service with two routes; counts the requests of its handlers.
async fn serve(circuits: &Commontrip, policy: Policy) -> (String, Arc<AtomicU64>) {
    let routes = KeyedCircuits::new(circuits, "route:", move |_| policy.clone()).unwrap();
    let layer = CircuitBreakerLayer::per_key(routes, |request: &Request| {
        let route = request.extensions().get::<MatchedPath>();
        route.map_or("none", MatchedPath::as_str).into()
    });
    let handled = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&handled);
    let answer = async move |Path(status): Path<String>| {
        counting.fetch_add(1, Ordering::SeqCst);
        if status == "hangs" {
            std::future::pending::<()>().await;
        }
        status.parse::<StatusCode>().unwrap()
    };
    let app = Router::new()
        .route("/reports/{status}", get(answer.clone()))
        .route("/users/{status}", get(answer))
        .route_layer(layer.classifier(Http).rejection_response());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await.unwrap() });
    (url, handled)
}

async fn ask(url: &str, path: &str) -> reqwest::Response {
    crate::upstream::client()
        .get(format!("{url}{path}"))
        .send()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_route_that_fails_is_answered_with_503_by_every_replica_and_no_other_route() {
    let prefix = unique_prefix("axum");
    let fleet = [replica(&prefix), replica(&prefix)];
    let (a, b) = (
        serve(&fleet[0], after(2)).await,
        serve(&fleet[1], after(2)).await,
    );
    for _ in 0..2 {
        assert_eq!(ask(&a.0, "/reports/500").await.status(), 500);
    }
    for (circuits, (url, handled)) in fleet.iter().zip([a, b]) {
        let name = "route:/reports/%7Bstatus%7D";
        open(&circuits.circuit(name, after(2)).unwrap()).await;
        let before = handled.load(Ordering::SeqCst);
        let rejected = ask(&url, "/reports/200").await;
        assert_eq!(rejected.status(), 503);
        let wait: u64 = rejected.headers()["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((3000..=3600).contains(&wait), "{wait}");
        assert_eq!(
            rejected.headers()["content-type"],
            "application/problem+json"
        );
        let problem: serde_json::Value = rejected.json().await.unwrap();
        assert_eq!(
            (&problem["status"], &problem["retry_after"]),
            (&503.into(), &wait.into())
        );
        assert_eq!(
            handled.load(Ordering::SeqCst),
            before,
            "no handler was asked"
        );
        assert_eq!(ask(&url, "/users/200").await.status(), 200);
    }
}

#[tokio::test]
async fn a_handler_past_its_time_is_answered_with_504() {
    let policy = Policy::builder().call_timeout(Duration::from_millis(20));
    let circuits = replica(&unique_prefix("axum"));
    let (url, _) = serve(&circuits, policy.build().unwrap()).await;
    let late = ask(&url, "/reports/hangs").await;
    assert_eq!(late.status(), 504);
    let problem: serde_json::Value = late.json().await.unwrap();
    assert_eq!(
        (&problem["status"], &problem["limit_ms"]),
        (&504.into(), &20.into())
    );
}

#[tokio::test]
async fn a_half_open_circuit_closes_by_whole_answers_whose_body_hyper_does_not_ask_for_its_end() {
    let policy = Policy::builder()
        .consecutive_failures_threshold(1)
        .wait_duration_in_open_state(Duration::from_millis(50));
    let circuits = replica(&unique_prefix("axum"));
    let breaker = circuits
        .circuit("reports", policy.build().unwrap())
        .unwrap();
    let answer = async |Path(status): Path<u16>| {
        let whole = stream::iter([Ok::<_, Infallible>("who"), Ok("le")]);
        let mut response = Response::new(Body::from_stream(whole));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        let headers = response.headers_mut();
        headers.insert("content-length", HeaderValue::from_static("5"));
        response
    };
    let layer = CircuitBreakerLayer::new(breaker.clone()).classifier(HttpBody);
    let app = Router::new()
        .route("/{status}", get(answer))
        .route_layer(layer.rejection_response());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await.unwrap() });

    assert_eq!(ask(&url, "/500").await.status(), 500);
    until("open", async || breaker.state() != State::Closed).await;
    let client = crate::upstream::client();
    until("closed", async || {
        // The answer to a HEAD request has no body.
        let head = client.head(format!("{url}/200")).send().await.unwrap();
        if head.status() == 200 {
            assert_eq!(ask(&url, "/200").await.text().await.unwrap(), "whole");
        }
        breaker.state() == State::Closed
    })
    .await;
}
