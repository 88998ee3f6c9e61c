//! axum's server with a circuit for each route.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::{MatchedPath, Path, Request};
use axum::http::StatusCode;
use axum::routing::get;
use commontrip::keyed::KeyedCircuits;
use commontrip::tower::{CircuitBreakerLayer, Http};
use commontrip::{Commontrip, Policy};
use tokio::net::TcpListener;

use crate::support::unique_prefix;
use crate::upstream::{after, open, replica};

/// A replica of a service with two routes; counts what its handlers get.
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
    let policy = Policy::builder().call_timeout(std::time::Duration::from_millis(20));
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
