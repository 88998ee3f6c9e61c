//! How the bodies that a server sends end, over real sockets.

use std::convert::Infallible;
use std::future::ready;
use std::io::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use commontrip::CircuitBreaker;
use commontrip::tower::{CircuitBreakerLayer, HttpBody};
use futures_util::{StreamExt, stream};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, service_fn};

use super::{Counts, DROPPED, FAILURE, Once, SUCCESS};

type Body = UnsyncBoxBody<Bytes, Error>;
type Make = fn() -> Response<Body>;
type Answer = Arc<dyn Fn() -> Response<Body> + Send + Sync>;

#[derive(Clone, Copy, Debug)]
enum Version {
    Http1,
    Http2,
}

const VERSIONS: [Version; 2] = [Version::Http1, Version::Http2];

/// A server that handles one connection after another, with answers through the circuit.
async fn serve(version: Version, breaker: &CircuitBreaker, answer: Answer) -> SocketAddr {
    let service = service_fn(move |_: Request<Incoming>| ready(Ok::<_, Infallible>(answer())));
    let layer = CircuitBreakerLayer::new(breaker.clone()).classifier(HttpBody);
    let service = TowerToHyperService::new(layer.layer(service));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (io, service) = (TokioIo::new(stream), service.clone());
            tokio::spawn(async move {
                let _ = match version {
                    Version::Http1 => {
                        let http = hyper::server::conn::http1::Builder::new();
                        http.serve_connection(io, service).with_upgrades().await
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

/// Reads an answer to its end, or to an error.
async fn ask(version: Version, address: SocketAddr, method: Method) -> Result<Bytes, hyper::Error> {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let request = Request::builder().method(method).uri("http://localhost/");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let answer = match version {
        Version::Http1 => {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
            tokio::spawn(connection);
            sender.send_request(request).await?
        }
        Version::Http2 => {
            let executor = TokioExecutor::new();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(executor, io).await?;
            tokio::spawn(connection);
            sender.send_request(request).await?
        }
    };
    Ok(answer.into_body().collect().await?.to_bytes())
}

async fn answers(
    version: Version,
    method: Method,
    what: &str,
    answer: Answer,
    expected: Counts,
) -> Result<Bytes, hyper::Error> {
    let once = Once::new();
    let address = serve(version, &once.breaker, answer).await;
    let got = ask(version, address, method).await;
    once.ends_as(expected, &format!("{version:?}, {what}"))
        .await;
    got
}

/// A body with these frames of data, and an error for `!`.
fn frames(parts: &'static [&'static str]) -> Response<Body> {
    let frames = parts.iter().map(|part| match *part {
        "!" => Err(Error::other("broken off")),
        part => Ok(Frame::data(Bytes::from_static(part.as_bytes()))),
    });
    Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync())
}

/// The same with a `Content-Length` of which the body does not know.
fn sized(length: u64, parts: &'static [&'static str]) -> Response<Body> {
    let mut response = frames(parts);
    let headers = response.headers_mut();
    headers.insert("content-length", HeaderValue::from(length));
    response
}

fn with_status(status: StatusCode, mut response: Response<Body>) -> Response<Body> {
    *response.status_mut() = status;
    response
}

/// A body that knows its size, but reports its end only when polled.
struct Exact(Option<Bytes>);

impl http_body::Body for Exact {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |data| data.len() as u64))
    }
}

fn exact() -> Response<Body> {
    let body = Exact(Some(Bytes::from_static(b"hello")));
    assert!(!body.is_end_stream());
    Response::new(body.boxed_unsync())
}

fn full() -> Response<Body> {
    let body = Full::new(Bytes::from_static(b"hello"));
    Response::new(body.map_err(|never| match never {}).boxed_unsync())
}

fn with_trailers() -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("digest", HeaderValue::from_static("x"));
    let frames = [
        Ok(Frame::data(Bytes::from_static(b"hello"))),
        Ok(Frame::trailers(trailers)),
    ];
    Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync())
}

/// A first part, followed by nothing forever.
fn endless() -> Response<Body> {
    let part = Ok(Frame::data(Bytes::from_static(b"hello")));
    let frames = stream::iter([part]).chain(stream::pending());
    Response::new(StreamBody::new(frames).boxed_unsync())
}

#[tokio::test]
async fn a_body_that_is_sent_whole_is_a_success_however_its_end_is_known() {
    let whole: [(&str, Make); 8] = [
        ("a length", || sized(5, &["hello"])),
        ("a length, in pieces", || sized(10, &["hello", "", "world"])),
        ("an exact size", exact),
        ("chunked", || frames(&["hello", "world"])),
        ("an end that is known before", full),
        ("no data", || frames(&[])),
        ("a length of 0", || sized(0, &[])),
        ("trailers", with_trailers),
    ];
    for version in VERSIONS {
        for (what, answer) in whole {
            let got = answers(version, Method::GET, what, Arc::new(answer), SUCCESS).await;
            got.unwrap();
        }
    }
}

#[tokio::test]
async fn an_answer_without_a_body_is_a_success() {
    let without: [(&str, Method, Make); 5] = [
        ("HEAD", Method::HEAD, || sized(5, &["hello"])),
        ("HEAD, chunked", Method::HEAD, || frames(&["hello"])),
        ("HEAD, whole before", Method::HEAD, full),
        ("204", Method::GET, || {
            with_status(StatusCode::NO_CONTENT, frames(&[]))
        }),
        ("304", Method::GET, || {
            with_status(StatusCode::NOT_MODIFIED, frames(&[]))
        }),
    ];
    for version in VERSIONS {
        for (what, method, answer) in without.clone() {
            let got = answers(version, method, what, Arc::new(answer), SUCCESS).await;
            // After a HEAD over HTTP/2, hyper sends the body anyway, and its client reports that.
            assert_eq!(got.unwrap_or_default(), "", "{version:?}, {what}");
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_or_has_another_length_than_it_says_is_a_failure() {
    let broken: [(&str, Make); 5] = [
        ("breaks off", || frames(&["hello", "!"])),
        ("breaks off before its length", || {
            sized(10, &["hello", "!"])
        }),
        ("ends before its length", || sized(10, &["hello"])),
        ("has nothing", || sized(10, &[])),
        ("has more", || sized(3, &["hello"])),
    ];
    for version in VERSIONS {
        for (what, answer) in broken {
            let _ = answers(version, Method::GET, what, Arc::new(answer), FAILURE).await;
        }
    }
    // HTTP/1 sends only as much as the length says, and polls no further. HTTP/2 sends everything.
    let more: Answer = Arc::new(|| sized(5, &["hello", "world"]));
    let what = "has more in a further frame";
    let got = answers(
        Version::Http1,
        Method::GET,
        what,
        Arc::clone(&more),
        SUCCESS,
    )
    .await;
    assert_eq!(got.unwrap(), "hello");
    let got = answers(Version::Http2, Method::GET, what, more, FAILURE).await;
    assert!(got.is_err());
}

#[tokio::test]
async fn a_client_that_leaves_is_a_dropped_call() {
    for version in VERSIONS {
        let once = Once::new();
        let address = serve(version, &once.breaker, Arc::new(endless)).await;
        let reads = tokio::spawn(ask(version, address, Method::GET));
        // The client has the first part.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert_eq!(once.counted(), (0, 0, 0), "{version:?}");
        reads.abort();
        once.ends_as(DROPPED, &format!("{version:?}")).await;
    }
}

/// Sends these bytes; returns the answer until the server closes, or only its head.
async fn exchange(address: SocketAddr, request: &str, to_the_end: bool) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    if to_the_end {
        stream.read_to_end(&mut got).await.unwrap();
    } else {
        while !got.ends_with(b"\r\n\r\n") {
            got.push(stream.read_u8().await.unwrap());
        }
    }
    String::from_utf8(got).unwrap()
}

#[tokio::test]
async fn a_body_that_the_end_of_the_connection_ends_is_a_success() {
    let once = Once::new();
    let answer = Arc::new(|| frames(&["hello", "world"]));
    let address = serve(Version::Http1, &once.breaker, answer).await;
    let got = exchange(address, "GET / HTTP/1.0\r\n\r\n", true).await;
    assert!(got.ends_with("\r\n\r\nhelloworld"), "{got}");
    once.ends_as(SUCCESS, "HTTP/1.0").await;
}

#[tokio::test]
async fn a_connection_that_becomes_a_tunnel_is_a_success() {
    let upgrade = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    let switching = || {
        let mut response = with_status(StatusCode::SWITCHING_PROTOCOLS, endless());
        let headers = response.headers_mut();
        headers.insert("connection", HeaderValue::from_static("upgrade"));
        headers.insert("upgrade", HeaderValue::from_static("echo"));
        response
    };
    let connect = "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n";
    let tunnels: [(&str, Answer); 2] =
        [(upgrade, Arc::new(switching)), (connect, Arc::new(endless))];
    for (request, answer) in tunnels {
        let once = Once::new();
        let address = serve(Version::Http1, &once.breaker, answer).await;
        exchange(address, request, false).await;
        once.ends_as(SUCCESS, request).await;
    }
}
