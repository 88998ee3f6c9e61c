//! An axum server with one circuit for each route.
//!
//!     cargo run --example axum --features tower
//!
//! The handler of `/reports` fails. Its circuit opens, and requests are answered with 503 and
//! `Retry-After` before they reach it.

use std::error::Error;

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request},
    http::{StatusCode, header::RETRY_AFTER},
    routing::get,
};
use commontrip::{
    Commontrip, Policy,
    keyed::KeyedCircuits,
    tower::{CircuitBreakerLayer, Http},
};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::net::TcpListener;

fn app(circuits: &Commontrip) -> Result<Router, Box<dyn Error>> {
    let policy = Policy::consecutive(3)?;
    let routes = KeyedCircuits::new(circuits, "route:", move |_| policy.clone())?;
    let layer = CircuitBreakerLayer::per_key(routes, |request: &Request| {
        let route = request.extensions().get::<MatchedPath>();
        route.map_or("none", MatchedPath::as_str).into()
    });
    Ok(Router::new()
        .route("/users/{id}", get(async || "a user"))
        .route("/reports", get(async || StatusCode::INTERNAL_SERVER_ERROR))
        .route_layer(layer.classifier(Http).rejection_response()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // In a service: Commontrip::redis("redis://..."), and the replicas share the circuits.
    let circuits = Commontrip::embedded()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let app = app(&circuits)?;
    tokio::spawn(async { axum::serve(listener, app).await });

    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    for path in ["/reports", "/reports", "/reports", "/reports", "/users/42"] {
        // Outcomes are reported to the store every 100 ms; this reports them at once.
        circuits.flush().await;
        let answer = client.get(format!("{base}{path}").parse()?).await?;
        match answer.headers().get(RETRY_AFTER) {
            Some(wait) => println!("{path}: {}, retry after {wait:?}", answer.status()),
            None => println!("{path}: {}", answer.status()),
        }
    }
    circuits.shutdown().await;
    Ok(())
}
