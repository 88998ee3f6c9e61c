//! A hyper client with one circuit for each host.
//!
//!     cargo run --example hyper --features tower
//!
//! The example starts two hosts, one of which fails. Its circuit opens, and further requests to it
//! are not sent.

use std::error::Error;

use axum::{Router, body::Body, http::StatusCode, routing::get};
use commontrip::{
    CallError, Commontrip, Policy,
    http::host,
    keyed::KeyedCircuits,
    tower::{CircuitBreakerLayer, Http},
};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::net::TcpListener;
use tower::{Service, ServiceBuilder, ServiceExt};

/// Starts a host that answers with this status.
async fn start(status: StatusCode) -> Result<String, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let app = Router::new().route("/", get(async move || status));
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(url)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let well = start(StatusCode::OK).await?;
    let broken = start(StatusCode::BAD_GATEWAY).await?;

    // In a service: Commontrip::redis("redis://..."), and the replicas share the circuits.
    let circuits = Commontrip::embedded()?;
    let policy = Policy::consecutive(3)?;
    let hosts = KeyedCircuits::new(&circuits, "http:", move |_| policy.clone())?;
    let mut client = ServiceBuilder::new()
        .layer(CircuitBreakerLayer::per_key(hosts, host).classifier(Http))
        .service(Client::builder(TokioExecutor::new()).build_http::<Body>());

    for url in [&broken, &broken, &broken, &broken, &well] {
        // Outcomes are reported to the store every 100 ms; this reports them at once.
        circuits.flush().await;
        let request = axum::http::Request::get(url).body(Body::empty())?;
        match client.ready().await?.call(request).await {
            Ok(response) => println!("{url} answered {}", response.status()),
            Err(CallError::Rejected(rejection)) => println!("{url} was not asked: {rejection}"),
            Err(error) => println!("{url} failed: {error}"),
        }
    }
    circuits.shutdown().await;
    Ok(())
}
