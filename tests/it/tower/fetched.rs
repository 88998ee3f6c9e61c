//! How the bodies that a client receives end, over real sockets, from scripted servers.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response};
use commontrip::CircuitBreaker;
use commontrip::tower::{CircuitBreakerLayer, Classifier, Grpc, HttpBody, SettlingBody};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, ServiceExt, service_fn};

use super::{DROPPED, FAILURE, Once, SUCCESS};

type Answer = Response<SettlingBody<Incoming>>;

/// What a server does after its last byte.
#[derive(Clone, Copy, Debug)]
enum Then {
    Close,
    Reset,
    Hold,
}

/// A server that reads the head of a request, sends these bytes, and then does `then`.
async fn canned(answer: &'static str, then: Then) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        match then {
            Then::Close => {}
            Then::Reset => {
                // Gives the reader time to receive the bytes.
                tokio::time::sleep(Duration::from_millis(50)).await;
                stream.set_zero_linger().unwrap();
            }
            Then::Hold => std::future::pending().await,
        }
    });
    address
}

async fn http1(breaker: &CircuitBreaker, address: SocketAddr, method: Method) -> Answer {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let sender = std::sync::Arc::new(tokio::sync::Mutex::new(sender));
    let service = service_fn(move |request| {
        let sender = std::sync::Arc::clone(&sender);
        async move { sender.lock().await.send_request(request).await }
    });
    let request = Request::builder().method(method).uri("/");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let layer = CircuitBreakerLayer::new(breaker.clone()).classifier(HttpBody);
    layer.layer(service).oneshot(request).await.unwrap()
}

async fn read(answer: Answer) -> bool {
    answer.into_body().collect().await.is_ok()
}

#[tokio::test]
async fn an_answer_over_http1_counts_as_its_reader_sees_it() {
    let get = Method::GET;
    for (method, bytes, then, whole) in [
        (&get, "content-length: 5\r\n\r\nhello", Then::Hold, true),
        (&get, "content-length: 0\r\n\r\n", Then::Hold, true),
        (&get, "content-length: 10\r\n\r\nhello", Then::Close, false),
        (&get, "content-length: 10\r\n\r\nhello", Then::Reset, false),
        (
            &get,
            "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            Then::Hold,
            true,
        ),
        (
            &get,
            "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n",
            Then::Hold,
            true,
        ),
        (
            &get,
            "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            Then::Close,
            false,
        ),
        (
            &get,
            "transfer-encoding: chunked\r\n\r\n5\r\nhel",
            Then::Close,
            false,
        ),
        (
            &get,
            "transfer-encoding: chunked\r\n\r\nnonsense\r\n",
            Then::Hold,
            false,
        ),
        (&get, "\r\nhello", Then::Close, true),
        (&get, "\r\nhello", Then::Reset, false),
        (&Method::HEAD, "content-length: 5\r\n\r\n", Then::Hold, true),
    ] {
        let what = format!("{method} {bytes:?} {then:?}");
        let answer: &'static str = format!("HTTP/1.1 200 OK\r\n{bytes}").leak();
        let once = Once::new();
        let address = canned(answer, then).await;
        let answer = http1(&once.breaker, address, method.clone()).await;
        assert_eq!(read(answer).await, whole, "{what}");
        let expected = if whole { SUCCESS } else { FAILURE };
        once.ends_as(expected, &what).await;
    }
    let answer = "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n";
    let once = Once::new();
    let address = canned(answer, Then::Hold).await;
    drop(http1(&once.breaker, address, get).await);
    once.ends_as(SUCCESS, "304").await;
}

#[tokio::test]
async fn a_reader_who_has_read_all_bytes_may_leave_and_one_who_has_not_has_left() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
    let part = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello";
    for (answer, expected) in [(answer, SUCCESS), (part, DROPPED)] {
        let once = Once::new();
        let address = canned(answer, Then::Hold).await;
        let mut answer = http1(&once.breaker, address, Method::GET).await;
        answer.body_mut().frame().await.unwrap().unwrap();
        drop(answer);
        once.ends_as(expected, "after five bytes").await;
    }
    let once = Once::new();
    let address = canned(answer, Then::Hold).await;
    drop(http1(&once.breaker, address, Method::GET).await);
    once.ends_as(DROPPED, "unread").await;
}

/// An HTTP/2 server for one request, which `answer` handles. The returned value keeps the
/// connection open.
async fn told<F>(
    answer: impl FnOnce(RecvStream, SendResponse<Bytes>) -> F + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, respond) = connection.accept().await.unwrap().unwrap();
        let answering = tokio::spawn(answer(request.into_body(), respond));
        tokio::select! {
            _ = connection.accept() => {}
            () = async { answering.await.unwrap() } => {}
        }
    });
    address
}

async fn http2<C>(breaker: &CircuitBreaker, address: SocketAddr, classifier: C) -> Answer
where
    C: Classifier<Request<Empty<Bytes>>, Response<Incoming>, hyper::Error, Response = Answer>
        + Clone,
{
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let executor = TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let service = service_fn(move |request| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let request = Request::get("http://localhost/")
        .body(Empty::new())
        .unwrap();
    let layer = CircuitBreakerLayer::new(breaker.clone()).classifier(classifier);
    layer.layer(service).oneshot(request).await.unwrap()
}

/// How a five-byte answer over HTTP/2 ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Whole,
    Trailers(&'static str),
    Reset(Reason),
    Lost,
}

async fn five_bytes(length: Option<u64>, end: End) -> SocketAddr {
    told(move |_request, mut respond| async move {
        let mut head = Response::new(());
        if let Some(length) = length {
            let length = HeaderValue::from(length);
            head.headers_mut().insert("content-length", length);
        }
        let mut body = respond.send_response(head, false).unwrap();
        let whole = matches!(end, End::Whole);
        body.send_data(Bytes::from_static(b"hello"), whole).unwrap();
        if let End::Trailers(status) = end {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static(status));
            body.send_trailers(trailers).unwrap();
        }
        // Gives the reader time to receive the bytes.
        tokio::time::sleep(Duration::from_millis(50)).await;
        match end {
            End::Reset(reason) => body.send_reset(reason),
            End::Lost => return,
            End::Whole | End::Trailers(_) => {}
        }
        std::future::pending().await
    })
    .await
}

#[tokio::test]
async fn an_answer_over_http2_counts_as_its_reader_sees_it() {
    for (length, end, expected) in [
        (None, End::Whole, SUCCESS),
        (None, End::Trailers("x"), SUCCESS),
        (Some(5), End::Whole, SUCCESS),
        (Some(5), End::Trailers("x"), SUCCESS),
        (Some(10), End::Whole, FAILURE),
        (Some(3), End::Whole, FAILURE),
        (None, End::Reset(Reason::INTERNAL_ERROR), FAILURE),
        (None, End::Reset(Reason::CANCEL), FAILURE),
        (Some(10), End::Reset(Reason::CANCEL), FAILURE),
        (None, End::Lost, FAILURE),
        // hyper treats this reset as the end.
        (Some(10), End::Reset(Reason::NO_ERROR), FAILURE),
        (None, End::Reset(Reason::NO_ERROR), SUCCESS),
    ] {
        let once = Once::new();
        let address = five_bytes(length, end).await;
        let answer = http2(&once.breaker, address, HttpBody).await;
        let _ = answer.into_body().collect().await;
        once.ends_as(expected, &format!("{length:?} {end:?}")).await;
    }
    let once = Once::new();
    let address = five_bytes(None, End::Reset(Reason::CANCEL)).await;
    drop(http2(&once.breaker, address, HttpBody).await);
    once.ends_as(DROPPED, "its reader leaves").await;
}

#[tokio::test]
async fn a_grpc_answer_counts_by_its_status_and_without_one_has_failed() {
    for (end, expected) in [
        (End::Trailers("0"), SUCCESS),
        (End::Trailers("5"), SUCCESS),
        (End::Trailers("14"), FAILURE),
        (End::Whole, FAILURE),
        (End::Reset(Reason::INTERNAL_ERROR), FAILURE),
        (End::Reset(Reason::NO_ERROR), FAILURE),
        (End::Lost, FAILURE),
    ] {
        let once = Once::new();
        let address = five_bytes(None, end).await;
        let answer = http2(&once.breaker, address, Grpc).await;
        let _ = answer.into_body().collect().await;
        once.ends_as(expected, &format!("{end:?}")).await;
    }
}

#[tokio::test]
async fn a_grpc_answer_without_messages_counts_by_its_head() {
    for (status, expected) in [("0", SUCCESS), ("14", FAILURE)] {
        let once = Once::new();
        // Like servers that do not need the rest of a client's stream.
        let answering = move |_request: RecvStream, mut respond: SendResponse<Bytes>| async move {
            let mut head = Response::new(());
            let status = HeaderValue::from_static(status);
            head.headers_mut().insert("grpc-status", status);
            let mut body = respond.send_response(head, true).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            body.send_reset(Reason::NO_ERROR);
            std::future::pending().await
        };
        let address = told(answering).await;
        drop(http2(&once.breaker, address, Grpc).await);
        once.ends_as(expected, status).await;
    }
}
