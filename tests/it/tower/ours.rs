//! Requests that this side rejects are not failures of the upstream; errors that only look similar
//! are.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::{pending, ready};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use commontrip::tower::{ByResult, CircuitBreakerLayer, Classifier, Http, HttpBody, UnlessOurs};
use commontrip::{CallError, CircuitBreaker, Commontrip, Override, State};
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tower::buffer::{Buffer, BufferLayer};
use tower::limit::{ConcurrencyLimit, RateLimit, rate::Rate};
use tower::load_shed::LoadShed;
use tower::timeout::Timeout;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::support::free_port;
use crate::upstream::{HOUR, after};

/// A circuit that opens at the second consecutive failure.
fn circuit() -> (Commontrip, CircuitBreaker) {
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuits.circuit("payments", after(2)).unwrap();
    (circuits, breaker)
}

/// Successes, failures, ignored.
fn counts(circuits: &Commontrip) -> (u64, u64, u64) {
    let stats = &circuits.stats()[0];
    (stats.successes, stats.failures, stats.ignored)
}

/// Answers, or hangs.
async fn answer(hangs: bool) -> Result<(), Infallible> {
    if hangs {
        pending::<()>().await;
    }
    Ok(())
}

/// One call hangs within the limit, and three more are shed.
async fn sheds<S>(inner: S, what: &str)
where
    S: Service<bool, Response = (), Error: Into<BoxError>, Future: Send + 'static> + Send + 'static,
    LoadShed<S>: Clone + Service<bool, Response = (), Error = BoxError, Future: Send>,
{
    let (circuits, breaker) = circuit();
    let layer = CircuitBreakerLayer::new(breaker.clone());
    let service = layer.layer(LoadShed::new(inner));
    let mut held = Box::pin(service.clone().oneshot(true));
    assert!(futures_util::poll!(held.as_mut()).is_pending());
    // Lets a buffer's worker take as many calls as it has room for.
    tokio::task::yield_now().await;
    let mut queued = Vec::new();
    for _ in 0..9 {
        let mut call = Box::pin(service.clone().oneshot(false));
        match tokio::time::timeout(Duration::from_millis(20), call.as_mut()).await {
            Ok(Err(CallError::Failed(error))) => {
                assert_eq!(error.to_string(), "service overloaded", "{what}");
            }
            Ok(answer) => panic!("{what}: {answer:?}"),
            Err(_) => queued.push(call),
        }
    }
    let (successes, failures, ignored) = counts(&circuits);
    assert_eq!((successes, failures), (0, 0), "{what}");
    assert!(ignored >= 3, "{what}: {ignored}");
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test]
async fn calls_that_a_layer_inside_sheds_are_ignored() {
    sheds(ConcurrencyLimit::new(service_fn(answer), 1), "concurrency").await;
    let hanging = ConcurrencyLimit::new(service_fn(answer), 1);
    sheds(Buffer::new(hanging, 1), "buffer").await;
}

#[tokio::test]
async fn calls_beyond_a_rate_are_ignored() {
    let (circuits, breaker) = circuit();
    let limited = RateLimit::new(service_fn(answer), Rate::new(1, HOUR));
    let limited = ServiceBuilder::new().load_shed().service(limited);
    // The service is not `Clone`, so a buffer is in between.
    let layers = ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new(breaker.clone()))
        .layer(BufferLayer::new(8));
    let service = layers.service(limited);
    service.clone().oneshot(false).await.unwrap();
    for _ in 0..3 {
        let error = service.clone().oneshot(false).await.unwrap_err();
        assert_eq!(error.to_string(), "service overloaded");
    }
    assert_eq!(counts(&circuits), (1, 0, 3));
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test]
async fn a_buffer_whose_worker_is_gone_is_no_failure_of_the_upstream() {
    let (circuits, breaker) = circuit();
    let layer = CircuitBreakerLayer::new(breaker.clone());
    let (buffer, worker) = Buffer::pair(service_fn(answer), 8);
    let service = layer.layer(buffer);
    // One service that is ready, and one that is no longer.
    let mut readied = service.clone();
    readied.ready().await.unwrap();
    let call = readied.call(false);
    drop(worker);
    let error = call.await.unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
    let error = service.oneshot(false).await.unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
    assert_eq!(counts(&circuits), (0, 0, 1));
}

/// A service that breaks at its second `poll_ready`.
#[derive(Clone)]
struct Breaks(io::ErrorKind, u32);

impl Service<bool> for Breaks {
    type Response = ();
    type Error = io::Error;
    type Future = std::future::Pending<Result<(), io::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), io::Error>> {
        self.1 += 1;
        std::task::Poll::Ready(match self.1 {
            1 => Ok(()),
            _ => Err(self.0.into()),
        })
    }

    fn call(&mut self, _: bool) -> Self::Future {
        pending()
    }
}

#[tokio::test]
async fn what_broke_a_buffer_says_whose_failure_it_is() {
    for (kind, expected) in [
        (io::ErrorKind::Other, (0, 0, 1)),
        (io::ErrorKind::ConnectionRefused, (0, 1, 0)),
    ] {
        let (circuits, breaker) = circuit();
        let layer = CircuitBreakerLayer::new(breaker.clone());
        let service = layer.layer(Buffer::new(Breaks(kind, 0), 8));
        let mut readied = service.clone();
        readied.ready().await.unwrap();
        let first = tokio::spawn(service.clone().oneshot(true));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let error = readied.call(true).await.unwrap_err();
        assert!(error.to_string().contains("buffered"), "{error}");
        let (successes, failures, ignored) = counts(&circuits);
        assert_eq!((successes, failures, ignored), expected, "{kind:?}");
        first.abort();
    }
}

/// Wraps an error and adds nothing.
#[derive(Debug)]
struct Wrapped(BoxError);

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wrapped")
    }
}

impl Error for Wrapped {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

fn overloaded() -> BoxError {
    tower::load_shed::error::Overloaded::new().into()
}

/// How one call with this error is counted.
async fn counted<E, C>(classifier: C, error: E) -> (u64, u64, u64)
where
    E: Send + 'static,
    C: Classifier<(), (), E> + Clone,
{
    let (circuits, breaker) = circuit();
    let error = std::sync::Mutex::new(Some(error));
    let error = std::sync::Arc::new(error);
    let service = service_fn(move |()| ready(Err::<(), E>(error.lock().unwrap().take().unwrap())));
    let layer = CircuitBreakerLayer::new(breaker).classifier(classifier);
    assert!(layer.layer(service).oneshot(()).await.is_err());
    counts(&circuits)
}

#[tokio::test]
async fn the_causes_of_an_error_are_looked_at_however_deep() {
    let deep = |error: BoxError| {
        let error = Wrapped(io::Error::other(Wrapped(error)).into());
        std::sync::Arc::<dyn Error + Send + Sync>::from(BoxError::from(error))
    };
    const IGNORED: (u64, u64, u64) = (0, 0, 1);
    const FAILED: (u64, u64, u64) = (0, 1, 0);
    assert_eq!(counted(ByResult, overloaded()).await, IGNORED);
    assert_eq!(
        counted(ByResult, io::Error::other(overloaded())).await,
        IGNORED
    );
    assert_eq!(counted(ByResult, deep(overloaded())).await, IGNORED);
    let boxed = BoxError::from(Wrapped(Wrapped(overloaded()).into()));
    assert_eq!(counted(ByResult, boxed).await, IGNORED);
    let nested = CallError::<BoxError>::Failed(overloaded());
    assert_eq!(counted(ByResult, nested).await, IGNORED);
    // Also within the caller's own error types.
    let own = Wrapped(Wrapped(overloaded()).into());
    assert_eq!(counted(UnlessOurs(ByResult), own).await, IGNORED);

    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    assert_eq!(counted(ByResult, refused()).await, FAILED);
    assert_eq!(counted(ByResult, deep(refused().into())).await, FAILED);
    let own = Wrapped(refused().into());
    assert_eq!(counted(UnlessOurs(ByResult), own).await, FAILED);
    let words = BoxError::from("service overloaded");
    assert_eq!(counted(ByResult, words).await, FAILED);
    let elapsed = BoxError::from(tower::timeout::error::Elapsed::new());
    assert_eq!(counted(ByResult, elapsed).await, FAILED);
    assert_eq!(counted(ByResult, 7).await, FAILED);
}

#[tokio::test]
async fn a_timeout_inside_is_a_failure_and_a_limit_of_tokios_is_not() {
    let (circuits, breaker) = circuit();
    let layer = CircuitBreakerLayer::new(breaker);
    let hangs = Timeout::new(service_fn(answer), Duration::from_millis(10));
    assert!(layer.layer(hangs).oneshot(true).await.is_err());
    assert_eq!(counts(&circuits), (0, 1, 0));
    let permits = tokio::sync::Semaphore::new(0);
    let full = permits.try_acquire().unwrap_err();
    assert_eq!(counted(ByResult, BoxError::from(full)).await, (0, 0, 1));
}

#[tokio::test]
async fn a_circuit_inside_that_rejects_is_no_failure_outside() {
    let (circuits, outer) = circuit();
    let inner = circuits.circuit("tenant", after(2)).unwrap();
    inner.force_open(Override::default()).await.unwrap();
    let service = ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new(outer.clone()))
        .layer(CircuitBreakerLayer::new(inner))
        .service(service_fn(answer));
    fails_and_is_ignored(&circuits, &outer, service).await;
}

/// Three failing calls through a service are ignored by its outer circuit.
async fn fails_and_is_ignored<S>(circuits: &Commontrip, outer: &CircuitBreaker, service: S)
where
    S: Service<bool> + Clone,
{
    for _ in 0..3 {
        assert!(service.clone().oneshot(false).await.is_err());
    }
    circuits.flush().await;
    let seen = outer.snapshot().await.unwrap();
    assert_eq!((seen.failures_total, seen.ignored_total), (0, 3));
}

#[tokio::test]
async fn a_rejection_that_a_layer_between_has_boxed_is_found() {
    let (circuits, outer) = circuit();
    let inner = circuits.circuit("tenant", after(2)).unwrap();
    inner.force_open(Override::default()).await.unwrap();
    let service = ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new(outer.clone()))
        .load_shed()
        .layer(CircuitBreakerLayer::new(inner))
        .service(service_fn(answer));
    fails_and_is_ignored(&circuits, &outer, service).await;
}

#[derive(Clone, Copy, Debug)]
enum Version {
    Http1,
    Http2,
}

/// A server that reads the request, and answers after its end, or at once.
async fn reads(version: Version, at_once: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = service_fn(move |request: Request<Incoming>| async move {
        if at_once {
            let mut body = request.into_body();
            let echo = stream::once(async move {
                while let Some(Ok(_)) = body.frame().await {}
                Ok::<_, Infallible>(Bytes::from_static(b"read"))
            });
            return Ok::<_, Infallible>(Response::new(Body::from_stream(echo)));
        }
        let _ = request.into_body().collect().await;
        Ok(Response::new(Body::from("read")))
    });
    let service = TowerToHyperService::new(service);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (io, service) = (TokioIo::new(stream), service);
            tokio::spawn(async move {
                let _ = match version {
                    Version::Http1 => {
                        let http = hyper::server::conn::http1::Builder::new();
                        http.serve_connection(io, service).await
                    }
                    Version::Http2 => {
                        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        http.serve_connection(io, service).await
                    }
                };
            });
        }
    });
    address
}

/// A body that fails after its first piece.
fn upload() -> Body {
    let pieces = stream::unfold(0, |n| async move {
        match n {
            0 => Some((Ok(Bytes::from_static(b"so far")), 1)),
            _ => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Err(io::Error::from(io::ErrorKind::ConnectionReset)), 2))
            }
        }
    });
    Body::from_stream(pieces)
}

#[tokio::test]
async fn an_upload_of_the_callers_that_fails_is_not_the_upstreams_failure() {
    for version in [Version::Http1, Version::Http2] {
        let (circuits, breaker) = circuit();
        let mut client = Client::builder(TokioExecutor::new());
        let client = client.http2_only(matches!(version, Version::Http2));
        let client = client.build_http::<Body>();
        let layer = CircuitBreakerLayer::new(breaker.clone()).classifier(Http);
        let service = layer.layer(client.clone());
        let address = reads(version, false).await;
        for _ in 0..3 {
            let request = Request::post(format!("http://{address}/"));
            let request = request.body(upload()).unwrap();
            assert!(service.clone().oneshot(request).await.is_err());
        }
        assert_eq!(counts(&circuits), (0, 0, 3), "{version:?}");
        // If nobody listens, the failure is the upstream's.
        let nobody = format!("http://127.0.0.1:{}/", free_port().unwrap());
        let request = Request::post(nobody).body(upload()).unwrap();
        assert!(service.clone().oneshot(request).await.is_err());
        assert_eq!(counts(&circuits), (0, 1, 3), "{version:?}");
    }
}

#[tokio::test]
async fn an_upload_that_fails_after_the_head_is_not_the_upstreams_failure_either() {
    let (circuits, breaker) = circuit();
    let mut client = Client::builder(TokioExecutor::new());
    let client = client.http2_only(true).build_http::<Body>();
    let layer = CircuitBreakerLayer::new(breaker.clone()).classifier(HttpBody);
    let address = reads(Version::Http2, true).await;
    let request = Request::post(format!("http://{address}/"));
    let request = request.body(upload()).unwrap();
    let answer = layer.layer(client).oneshot(request).await.unwrap();
    assert!(answer.into_body().collect().await.is_err());
    assert_eq!(counts(&circuits), (0, 0, 1));
}

#[tokio::test]
async fn a_connection_that_this_side_gave_up_says_nothing_of_the_upstream() {
    let (circuits, breaker) = circuit();
    let address = reads(Version::Http1, false).await;
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let sender = std::sync::Arc::new(tokio::sync::Mutex::new(sender));
    let service = service_fn(move |request| {
        let sender = std::sync::Arc::clone(&sender);
        async move { sender.lock().await.send_request(request).await }
    });
    let layer = CircuitBreakerLayer::new(breaker.clone()).classifier(Http);
    let endless = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
    let request = Request::post("/").body(endless).unwrap();
    let call = tokio::spawn(layer.layer(service).oneshot(request));
    tokio::time::sleep(Duration::from_millis(50)).await;
    connection.abort();
    assert!(call.await.unwrap().is_err());
    assert_eq!(counts(&circuits), (0, 0, 1));
}

#[tokio::test]
async fn a_request_that_no_client_can_send_is_ignored() {
    let (circuits, breaker) = circuit();
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let layer = CircuitBreakerLayer::new(breaker.clone()).classifier(Http);
    let request = Request::get("/no-host").body(Body::empty()).unwrap();
    assert!(layer.layer(client).oneshot(request).await.is_err());
    assert_eq!(counts(&circuits), (0, 0, 1));
}
