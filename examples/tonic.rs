//! A tonic client with a circuit.
//!
//!     cargo run --example tonic --features tower
//!
//! The example starts a server that reports itself as unavailable. The circuit opens, and further
//! calls are not sent.

use std::{error::Error, pin::Pin};

use commontrip::{
    CallError, Commontrip, Policy,
    tower::{CircuitBreakerLayer, Grpc},
};
use futures_core::Stream;
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    transport::{Endpoint, Server, server::TcpIncoming},
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_client::HealthClient,
    health_server::{Health, HealthServer},
};
use tower::ServiceBuilder;

/// A server that is down.
struct Down;

#[tonic::async_trait]
impl Health for Down {
    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Err(Status::unavailable("the database is unavailable"))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("only check"))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let server = Server::builder().add_service(HealthServer::new(Down));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));

    // In a service: Commontrip::redis("redis://..."), and the replicas share the circuit.
    let circuits = Commontrip::embedded()?;
    let users = circuits.circuit("users", Policy::consecutive(3)?)?;
    let channel = ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new(users).classifier(Grpc))
        .service(Endpoint::try_from(url)?.connect().await?);
    let mut client = HealthClient::new(channel);

    for _ in 0..5 {
        // Outcomes are reported to the store every 100 ms; this reports them at once.
        circuits.flush().await;
        let Err(status) = client.check(HealthCheckRequest::default()).await else {
            continue;
        };
        let cause = status.source();
        match cause.and_then(|e| e.downcast_ref::<CallError<tonic::transport::Error>>()) {
            Some(CallError::Rejected(rejection)) => println!("not asked: {rejection}"),
            _ => println!("asked: {}", status.message()),
        }
    }
    circuits.shutdown().await;
    Ok(())
}
