//! Neither a client nor a slow store blocks the server.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use commontrip::{MemoryStore, Policy, RedisStore, Store, store::Answer};
use serde_json::json;

use super::site::{self, Site, with_token};
use crate::{
    support::{OwnServer, unique_prefix},
    wait::until,
};

#[tokio::test]
async fn as_many_streams_as_there_are_places() {
    let site = Site::on(MemoryStore::default(), with_token()).await;
    let mut streams = Vec::new();
    for _ in 0..64 {
        streams.push(site.stream("/events").await);
    }
    let more = site.ask(reqwest::Method::GET, "/events").send();
    let more = more.await.unwrap();
    assert_eq!(more.status(), 503);
    let more = site::Answer::of(more).await;
    assert!(more.problem(503).contains("all 64 event streams"));
    assert_eq!(more.header("retry-after"), "10");
    site.get("/circuits").await.good();
    streams.pop();
    until("a place is free", async || {
        let asked = site.ask(reqwest::Method::GET, "/events").send().await;
        asked.unwrap().status() == 200
    })
    .await;
}

#[tokio::test]
async fn a_store_that_hangs_is_waited_for_no_longer_than_ten_seconds() {
    let server = OwnServer::start();
    let store = RedisStore::builder().prefix(&unique_prefix("hangs"));
    let store = store.timeout(Duration::from_secs(60)).open(&server.url());
    let site = Site::on(store.unwrap(), with_token()).await;
    site.circuit("payments", Policy::default()).await;
    server.pause();
    let (one, other) = tokio::join!(
        site.get("/circuits"),
        site.post("/circuits/payments/force-open", json!({}))
    );
    for answer in [one, other] {
        assert!(answer.problem(503).contains("after 10 s"));
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    // Waiting requests take all places.
    let mut waiting = Box::pin(futures_util::future::join_all(
        (0..64).map(|_| site.get("/circuits")),
    ));
    let late = async {
        loop {
            let answer = site.get("/openapi.json").await;
            if answer.status != 200 {
                return answer;
            }
        }
    };
    let late = tokio::select! {
        _ = &mut waiting => panic!("all were answered, and nobody was sent away meanwhile"),
        late = late => late,
    };
    assert!(late.problem(503).contains("64 requests"));
    assert_eq!(late.header("retry-after"), "1");
    let waited = waiting.await;
    assert!(waited.iter().all(|answer| answer.status == 503));
    server.resume();
    site.get("/circuits").await.good();
}

/// A store with a fault.
#[derive(Debug)]
struct Faulty {
    inner: MemoryStore,
}

impl Store for Faulty {
    crate::delegate::to_inner! { acquire release control snapshot events circuits report listen }

    fn ping(&self) -> Answer<'_, ()> {
        panic!("a fault that nobody has thought of")
    }
}

#[tokio::test]
async fn a_fault_of_the_server_is_one_answer_and_not_its_end() {
    let inner = MemoryStore::default();
    let site = Site::on(Faulty { inner }, with_token()).await;
    for _ in 0..3 {
        let answer = site.get("/health").await;
        let words = answer.problem(500);
        assert!(
            words.contains("log") && !words.contains("nobody"),
            "{words}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    site.get("/circuits").await.good();
}

/// Sends raw bytes; returns the answer up to the end of the connection.
fn raw(site: &Site, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(site.base.strip_prefix("http://").unwrap()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        let open = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        assert!(!open, "the connection is open after a minute");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_end_ends_the_connection() {
    let site = Site::on(MemoryStore::default(), with_token()).await;
    let answer = tokio::task::block_in_place(|| raw(&site, b"GET /circuits HTTP/1.1\r\nhost: loc"));
    assert!(!answer.contains("200 OK"), "{answer}");
    site.get("/circuits").await.good();
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_answered_or_cut_and_does_no_harm() {
    let site = Site::on(MemoryStore::default(), with_token()).await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1_000_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(10_000));
    for (bytes, status) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], "400"),
        (b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n", "400"),
        (
            b"GET / HTTP/1.1\r\nhost: localhost\r\nhost: evil.com\r\nconnection: close\r\n\r\n",
            "400",
        ),
        (
            b"GET / HTTP/1.1\r\nhost: \xff\xfe\r\nconnection: close\r\n\r\n",
            "400",
        ),
        (b"GET / HTTP/1.0\r\n\r\n", "400"),
        (long.as_bytes(), ""),
        (many.as_bytes(), ""),
    ] {
        let answer = tokio::task::block_in_place(|| raw(&site, bytes));
        let begins = format!("HTTP/1.1 {status}");
        let old = format!("HTTP/1.0 {status}");
        let shown: String = answer.chars().take(300).collect();
        assert!(
            status.is_empty() && !answer.contains(" 200 ")
                || answer.starts_with(&begins)
                || answer.starts_with(&old),
            "{shown}"
        );
    }
    site.get("/circuits").await.good();
}

#[tokio::test]
async fn streams_end_with_the_server() {
    let mut site = Site::on(MemoryStore::default(), with_token()).await;
    let mut stream = site.stream("/events").await;
    stream.first("tick").await;
    site.stop();
    let ended = tokio::time::timeout(Duration::from_secs(30), async {
        while stream.next().await.is_some() {}
    });
    ended.await.expect("the stream ends");
    site.end().await;
}
