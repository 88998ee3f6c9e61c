//! An HTTP server whose paths choose the answer, and replicas that call it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode, header::RETRY_AFTER};
use axum::routing::get;
use commontrip::{CircuitBreaker, Commontrip, Policy};
use futures_util::{StreamExt, stream};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::redis_url;
use crate::wait::until;

pub const HOUR: Duration = Duration::from_secs(3600);

/// Paths: `/{status}`, `/{status}/{retry_after}`, `/breaks` (the body breaks off), `/stalls` (the
/// body stalls), `/hangs` (no answer).
pub struct Upstream {
    pub url: String,
    hits: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Upstream {
    pub async fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let hits = Arc::new(AtomicU64::new(0));
        let app = Router::new()
            .route("/{answer}", get(answer))
            .route("/{answer}/{retry_after}", get(answer_and_ask_for_rest))
            .with_state(Arc::clone(&hits));
        let task = tokio::spawn(async { axum::serve(listener, app).await.unwrap() });
        Upstream { url, hits, task }
    }

    /// The number of requests.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::SeqCst)
    }

    /// Its address in the form of a host key.
    pub fn host(&self) -> &str {
        self.url.trim_start_matches("http://")
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Hits = State<Arc<AtomicU64>>;

async fn answer(State(hits): Hits, Path(answer): Path<String>) -> Response<Body> {
    hits.fetch_add(1, Ordering::SeqCst);
    let body = match &*answer {
        "hangs" => std::future::pending().await,
        "breaks" => {
            let part = stream::iter([Ok(Bytes::from_static(b"so far"))]);
            let end = stream::once(async {
                // Gives the earlier bytes time to be sent.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(std::io::Error::other("and no further"))
            });
            Body::from_stream(part.chain(end))
        }
        "stalls" => Body::from_stream(
            stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"so far"))])
                .chain(stream::pending()),
        ),
        _ => Body::from("whole"),
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.parse().unwrap_or(StatusCode::OK);
    response
}

async fn answer_and_ask_for_rest(
    State(hits): Hits,
    Path((status, retry_after)): Path<(String, String)>,
) -> Response<Body> {
    let mut response = answer(State(hits), Path(status)).await;
    let retry_after = retry_after.parse().unwrap();
    response.headers_mut().insert(RETRY_AFTER, retry_after);
    response
}

/// A reqwest client that ignores proxies.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// A registry in the fleet with this prefix.
pub fn replica(prefix: &str) -> Commontrip {
    Commontrip::builder()
        .redis(redis_url())
        .prefix(prefix)
        .store_timeout(Duration::from_secs(10))
        .build()
        .unwrap()
}

/// A policy that opens at this many consecutive failures, for an hour.
pub fn after(failures: u64) -> Policy {
    Policy::builder()
        .no_failure_rate_threshold()
        .consecutive_failures_threshold(failures)
        .wait_duration_in_open_state(HOUR)
        .backoff(1.0, HOUR * 10)
        .report_interval(Duration::from_millis(20))
        .build()
        .unwrap()
}

/// Successes and failures of the whole fleet in the window.
pub async fn counted(circuits: &Commontrip, breaker: &CircuitBreaker) -> (u64, u64) {
    circuits.flush().await;
    let snapshot = breaker.snapshot().await.unwrap();
    (snapshot.calls - snapshot.failures, snapshot.failures)
}

pub async fn open(breaker: &CircuitBreaker) {
    until("open", async || breaker.state() == commontrip::State::Open).await;
}
