//! A tonic client behind a circuit, and a tonic server.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use commontrip::tower::{CircuitBreakerLayer, CircuitBreakerService, Errors, Grpc};
use commontrip::{CallError, CircuitBreaker, Commontrip, Policy, State};
use futures_core::Stream;
use futures_util::stream;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint, Server, server::TcpIncoming};
use tonic::{Code, Request, Response, Status, metadata::MetadataValue};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::Layer;

use crate::support::{unique, unique_prefix};
use crate::upstream::{after, counted, open, replica};
use crate::wait::until;

/// Answers with the status that the request names: `check` in the headers, `watch` in the trailers,
/// after a message.
#[derive(Clone, Default)]
struct Scripted {
    asked: Arc<AtomicU64>,
}

fn status(request: &Request<HealthCheckRequest>) -> Result<(), Status> {
    match request.get_ref().service.parse().unwrap() {
        0 => Ok(()),
        code => {
            let mut status = Status::new(Code::from_i32(code), "as asked");
            let pushback = MetadataValue::from_static("7200000");
            status
                .metadata_mut()
                .insert("grpc-retry-pushback-ms", pushback);
            Err(status)
        }
    }
}

#[tonic::async_trait]
impl Health for Scripted {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        status(&request).map(|()| Response::new(HealthCheckResponse::default()))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let message = Ok(HealthCheckResponse::default());
        let end = status(&request).err().map(Err);
        let all = [message].into_iter().chain(end);
        Ok(Response::new(Box::pin(stream::iter(
            all.collect::<Vec<_>>(),
        ))))
    }
}

async fn listen() -> (TcpIncoming, Channel) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let channel = Endpoint::try_from(url).unwrap().connect_lazy();
    (TcpIncoming::from(listener), channel)
}

type Guarded = CircuitBreakerService<Channel, CircuitBreaker, Grpc, Errors>;

fn client(channel: &Channel, breaker: &CircuitBreaker) -> HealthClient<Guarded> {
    let layer = CircuitBreakerLayer::new(breaker.clone()).classifier(Grpc);
    HealthClient::new(layer.layer(channel.clone()))
}

fn request(code: Code) -> HealthCheckRequest {
    HealthCheckRequest {
        service: (code as i32).to_string(),
    }
}

#[tokio::test]
async fn the_ready_made_service_is_called_through_a_circuit() {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("up", tonic_health::ServingStatus::Serving)
        .await;
    let (incoming, channel) = listen().await;
    tokio::spawn(
        Server::builder()
            .add_service(health)
            .serve_with_incoming(incoming),
    );
    let circuits = replica(&unique_prefix("tonic"));
    let breaker = circuits.circuit(&unique("users"), after(2)).unwrap();
    let mut client = client(&channel, &breaker);
    let ask = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    client.check(ask("up")).await.unwrap();
    // The server does not know this service, which is an answer, too.
    let status = client.check(ask("nobody")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(counted(&circuits, &breaker).await, (2, 0));
}

#[tokio::test]
async fn statuses_count_in_headers_and_in_trailers_for_the_whole_fleet() {
    let prefix = unique_prefix("tonic");
    let scripted = Scripted::default();
    let (incoming, channel) = listen().await;
    let server = Server::builder().add_service(HealthServer::new(scripted.clone()));
    tokio::spawn(server.serve_with_incoming(incoming));
    for streams in [false, true] {
        let name = unique("users");
        let fleet = [replica(&prefix), replica(&prefix)];
        let breakers = fleet
            .each_ref()
            .map(|c| c.circuit(&name, after(4)).unwrap());
        let mut clients = breakers.each_ref().map(|b| client(&channel, b));
        for (code, expected) in [
            (Code::Ok, (1, 0)),
            (Code::NotFound, (2, 0)),
            (Code::Cancelled, (2, 1)),
            (Code::Internal, (2, 2)),
            (Code::DeadlineExceeded, (2, 3)),
        ] {
            let client = &mut clients[0];
            if streams {
                let mut answers = client.watch(request(code)).await.unwrap().into_inner();
                assert!(answers.message().await.unwrap().is_some());
                let end = answers
                    .message()
                    .await
                    .map_or_else(|s| s.code(), |_| Code::Ok);
                assert_eq!(end, code);
            } else {
                let end = client
                    .check(request(code))
                    .await
                    .map_or_else(|s| s.code(), |_| Code::Ok);
                assert_eq!(end, code);
            }
            // A stream's body may end on its own task a moment after the last message.
            until("counted", async || {
                counted(&fleet[0], &breakers[0]).await == expected
            })
            .await;
        }
        assert_eq!(breakers[0].state(), State::Closed);
        let _ = clients[0].check(request(Code::Unavailable)).await;
        let asked = scripted.asked.load(Ordering::SeqCst);
        for (breaker, client) in breakers.iter().zip(&mut clients) {
            open(breaker).await;
            let status = client.check(request(Code::Ok)).await.unwrap_err();
            let cause = std::error::Error::source(&status).unwrap();
            let Some(CallError::Rejected(rejection)) =
                cause.downcast_ref::<CallError<tonic::transport::Error>>()
            else {
                panic!("{status:?}");
            };
            // The server asked for two hours, the policy for one.
            assert!(rejection.retry_after.unwrap() > Duration::from_secs(7000));
        }
        assert_eq!(
            scripted.asked.load(Ordering::SeqCst),
            asked,
            "nothing was sent"
        );
    }
}

#[tokio::test]
async fn a_server_that_rejects_says_that_it_is_not_available() {
    let circuits = replica(&unique_prefix("tonic"));
    let breaker = circuits.circuit(&unique("users"), after(2)).unwrap();
    let layer = CircuitBreakerLayer::new(breaker.clone()).classifier(Grpc);
    let scripted = Scripted::default();
    let server = Server::builder()
        .layer(layer.grpc_rejection_response())
        .add_service(HealthServer::new(scripted.clone()));
    let (incoming, channel) = listen().await;
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut client = HealthClient::new(channel);
    for _ in 0..2 {
        let status = client.check(request(Code::Internal)).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
    }
    open(&breaker).await;
    let status = client.check(request(Code::Ok)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    let wait_ms: u64 = pushback.to_str().unwrap().parse().unwrap();
    assert!(wait_ms > 3_000_000, "{wait_ms}");
    assert_eq!(scripted.asked.load(Ordering::SeqCst), 2);
}

#[cfg(feature = "stream")]
#[tokio::test]
async fn the_messages_of_a_stream_are_guarded_one_by_one() {
    use commontrip::stream::{StreamError, StreamOptions};
    use futures_util::StreamExt;

    let (incoming, channel) = listen().await;
    let server = Server::builder().add_service(HealthServer::new(Scripted::default()));
    tokio::spawn(server.serve_with_incoming(incoming));
    let circuits = replica(&unique_prefix("tonic"));
    let breaker = circuits.circuit(&unique("users"), after(9)).unwrap();
    let options = StreamOptions::new().items_within(Duration::from_secs(30));
    for (code, expected) in [(Code::Ok, (1, 0)), (Code::Unavailable, (1, 1))] {
        let mut client = HealthClient::new(channel.clone());
        let open = || async move { client.watch(request(code)).await.map(Response::into_inner) };
        let mut answers = breaker.stream(&options, open).await.unwrap();
        answers.next().await.unwrap().unwrap();
        match answers.next().await {
            None => assert_eq!(code, Code::Ok),
            Some(Err(StreamError::Failed(status))) => assert_eq!(status.code(), code),
            other => panic!("{other:?}"),
        }
        assert_eq!(counted(&circuits, &breaker).await, expected);
    }
}

/// A service that hangs for a time; counts calls.
#[derive(Clone)]
struct Hanging {
    takes: Duration,
    asked: Arc<AtomicU64>,
}

#[tonic::async_trait]
impl Health for Hanging {
    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.takes).await;
        Ok(Response::new(HealthCheckResponse::default()))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.check(request).await?;
        Ok(Response::new(Box::pin(stream::pending())))
    }
}

impl Hanging {
    fn new(takes: Duration) -> Hanging {
        let asked = Arc::default();
        Hanging { takes, asked }
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Who enforces the timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limited {
    /// The server, for each of its calls.
    Server,
    /// The client's channel, for each of its calls.
    Channel,
    /// The client, for this call: `grpc-timeout`, which the server enforces as well.
    Call,
    /// The caller that awaits the answer, outside of the circuit.
    Outside,
}

const LIMIT: Duration = Duration::from_millis(40);

/// A server that hangs for this time, and a channel to it.
async fn hanging(hanging: &Hanging, limited: Limited) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut server = Server::builder();
    if limited == Limited::Server {
        server = server.timeout(LIMIT);
    }
    let server = server.add_service(HealthServer::new(hanging.clone()));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let mut endpoint = Endpoint::try_from(url).unwrap();
    if limited == Limited::Channel {
        endpoint = endpoint.timeout(LIMIT);
    }
    endpoint.connect_lazy()
}

/// Makes a call; returns whether it was answered.
async fn check(client: &mut HealthClient<Guarded>, limited: Limited) -> Result<(), Status> {
    let mut request = Request::new(HealthCheckRequest::default());
    match limited {
        Limited::Call => request.set_timeout(LIMIT),
        Limited::Outside => {
            let call = tokio::time::timeout(LIMIT, client.check(request)).await;
            return match call {
                Ok(answer) => answer.map(|_| ()),
                Err(_) => Err(Status::deadline_exceeded("outside")),
            };
        }
        Limited::Server | Limited::Channel => {}
    }
    client.check(request).await.map(|_| ())
}

#[tokio::test]
async fn a_server_that_hangs_opens_whoever_has_the_time_limit() {
    for limited in [
        Limited::Server,
        Limited::Channel,
        Limited::Call,
        Limited::Outside,
    ] {
        let service = Hanging::new(Duration::from_secs(3600));
        let channel = hanging(&service, limited).await;
        let circuits = Commontrip::embedded().unwrap();
        let breaker = circuits.circuit("users", Policy::default()).unwrap();
        let mut client = client(&channel, &breaker);
        for _ in 0..40 {
            assert!(check(&mut client, limited).await.is_err());
        }
        until("open", async || breaker.state() == State::Open).await;
        let asked = service.asked();
        assert!(asked <= 23, "{limited:?}: {asked}");
        let stats = &circuits.stats()[0];
        assert_eq!(stats.ignored, 0, "{limited:?}");
    }
}

#[tokio::test]
async fn no_call_is_lost_whose_deadline_is_close_to_the_answer() {
    for limited in [
        Limited::Server,
        Limited::Channel,
        Limited::Call,
        Limited::Outside,
    ] {
        let service = Hanging::new(LIMIT);
        let channel = hanging(&service, limited).await;
        let circuits = Commontrip::embedded().unwrap();
        let breaker = circuits.circuit("users", after(1000)).unwrap();
        let (mut answered, mut failed) = (0, 0);
        let mut client = client(&channel, &breaker);
        for _ in 0..60 {
            match check(&mut client, limited).await {
                Ok(()) => answered += 1,
                Err(_) => failed += 1,
            }
        }
        circuits.flush().await;
        let seen = breaker.snapshot().await.unwrap();
        let counted = (
            seen.successes_total,
            seen.failures_total,
            seen.ignored_total,
            seen.abandoned_total,
            seen.undecided,
        );
        let all = seen.calls + seen.undecided;
        assert_eq!(
            all, 60,
            "{limited:?}: {answered} answered, {failed} failed: {counted:?}"
        );
    }
}

#[tokio::test]
async fn a_circuit_in_a_server_that_drops_late_calls_opens() {
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuits.circuit("users", Policy::default()).unwrap();
    let layer = CircuitBreakerLayer::new(breaker.clone()).classifier(Grpc);
    let service = Hanging::new(Duration::from_secs(3600));
    let server = Server::builder()
        .timeout(LIMIT)
        .layer(layer.grpc_rejection_response())
        .add_service(HealthServer::new(service.clone()));
    let (incoming, channel) = listen().await;
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut client = HealthClient::new(channel);
    for _ in 0..40 {
        assert!(client.check(HealthCheckRequest::default()).await.is_err());
    }
    let status = client
        .check(HealthCheckRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(service.asked() <= 23, "{}", service.asked());
}
