//! Publishes ads through an API that fails for a while. No ad is lost, and none is published twice.
//!
//! ```sh
//! cargo run --features queue --example ad_publisher
//! ```
//!
//! Starts its own API on loopback, and uses the Redis of `COMMONTRIP_REDIS_URL` or starts a
//! `redis-server`. The program ends on its own; the exit status is not 0 if an ad was lost or
//! published twice.

use std::{
    collections::BTreeMap,
    env, io,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::Path, http::StatusCode, routing::post};
use commontrip::{
    Commontrip, Policy, RedisStore,
    queue::{Called, Job, Queue},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::{sleep, timeout},
};

type Problem = Box<dyn std::error::Error + Send + Sync>;

const ADS: u64 = 25;
/// The API fails after this many ads.
const WELL: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Ad {
    id: u64,
    title: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let url = env::var("COMMONTRIP_REDIS_URL").ok();
    match run(url.filter(|url| !url.is_empty())).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the example on this Redis, or starts one.
pub async fn run(url: Option<String>) -> Result<(), Problem> {
    let server = match url {
        Some(_) => None,
        None => Some(OwnRedis::start().await?),
    };
    let url = url.or_else(|| server.as_ref().map(|server| server.url.clone()));
    publish_all(&url.unwrap_or_default()).await
}

async fn publish_all(url: &str) -> Result<(), Problem> {
    let api = Api::start().await?;
    let address = api.address;

    // Names that only this run uses, in case the Redis has seen other runs.
    let run = format!("{:08x}", fastrand::u32(..));
    // This program is not in a hurry, so Redis may take its time.
    let store = RedisStore::builder()
        .timeout(Duration::from_secs(2))
        .open(url)?;
    let circuits = Commontrip::builder().store(store.clone()).build()?;
    let policy = Policy::builder()
        .consecutive_failures_threshold(3)
        .wait_duration_in_open_state(Duration::from_millis(500))
        .build()?;
    let breaker = circuits.circuit(&format!("ad-api-{run}"), policy)?;
    let ads: Queue<Ad> = Queue::builder(&store, &format!("ads-{run}"))
        .key_of(|ad: &Ad| format!("ad-{}", ad.id))
        .build()?;

    let (stop, stopped) = oneshot::channel::<()>();
    let worker = ads
        .worker(&breaker, move |job: Job<Ad>| post_ad(address, job.body))
        .concurrency(4)
        .backoff(Duration::from_millis(200), Duration::from_secs(1));
    let working = tokio::spawn(worker.max_attempts(100).run(stopped));

    let (mut published, mut queued) = (0, 0);
    for id in 1..=ADS {
        if id == WELL + 1 {
            println!("{published} ads are published; now the API fails");
            api.state.failing.store(true, Ordering::SeqCst);
        }
        let title = format!("bicycle no. {id}");
        match ads
            .call(&breaker, Ad { id, title }, |ad| post_ad(address, ad))
            .await?
        {
            Called::Done(()) => published += 1,
            Called::Queued(_) => queued += 1,
        }
        sleep(Duration::from_millis(20)).await;
    }
    let stats = ads.stats().await?;
    println!(
        "{queued} ads are queued, the circuit is {}; {} ready, {} delayed, {} running",
        breaker.state(),
        stats.ready,
        stats.delayed,
        stats.running
    );

    println!("the API is well again");
    api.state.failing.store(false, Ordering::SeqCst);
    let drained = async {
        while ads.stats().await.map_or(0, |stats| stats.done) < queued {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = timeout(PATIENCE, drained).await.is_ok();
    let _ = stop.send(());
    working.await?;
    circuits.shutdown().await;

    let stats = ads.stats().await?;
    println!(
        "{} of {queued} ads were published from the queue, after {} attempts that failed; the circuit is {}",
        stats.done,
        stats.retried,
        breaker.state()
    );
    let seen = api.state.seen.lock().map_err(|_| "the API has panicked")?;
    let lost: Vec<_> = (1..=ADS).filter(|id| !seen.contains_key(id)).collect();
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    if !lost.is_empty() || !twice.is_empty() || !in_time {
        return Err(format!("lost: {lost:?}, published twice: {twice:?}").into());
    }
    println!("all {ADS} ads were published, each once");
    Ok(())
}

/// Publishes an ad with a few lines of HTTP, so that the example needs no client.
async fn post_ad(api: SocketAddr, ad: Ad) -> Result<(), io::Error> {
    let mut stream = TcpStream::connect(api).await?;
    let (id, length, title) = (ad.id, ad.title.len(), ad.title);
    let request = format!(
        "POST /ads/{id} HTTP/1.1\r\nhost: api\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{title}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    match answer.split(' ').nth(1) {
        Some("201") => Ok(()),
        status => Err(io::Error::other(format!("the API answered {status:?}"))),
    }
}

#[derive(Default)]
struct ApiState {
    failing: AtomicBool,
    /// Ad -> how often it was published.
    seen: Mutex<BTreeMap<u64, u32>>,
}

/// The ad API: answers 201, or 503 while it fails.
struct Api {
    address: SocketAddr,
    state: Arc<ApiState>,
}

impl Api {
    async fn start() -> io::Result<Self> {
        let state = Arc::new(ApiState::default());
        let published = Arc::clone(&state);
        let publish = async move |Path(id): Path<u64>| {
            let (false, Ok(mut seen)) = (
                published.failing.load(Ordering::SeqCst),
                published.seen.lock(),
            ) else {
                return StatusCode::SERVICE_UNAVAILABLE;
            };
            *seen.entry(id).or_default() += 1;
            StatusCode::CREATED
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let router = Router::new().route("/ads/{id}", post(publish));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, state })
    }
}

/// A `redis-server` that stops when this is dropped.
struct OwnRedis {
    url: String,
    process: Child,
}

impl OwnRedis {
    async fn start() -> Result<Self, Problem> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await?
            .local_addr()?
            .port();
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                format!(
                    "there is no Redis: COMMONTRIP_REDIS_URL is not set, and redis-server does not start ({error}).\n\
                     Do one of these: apt-get install redis-server, or\n\
                     docker run -d -p 6379:6379 redis && export COMMONTRIP_REDIS_URL=redis://127.0.0.1:6379"
                )
            })?;
        let server = Self {
            url: format!("redis://127.0.0.1:{port}"),
            process,
        };
        let listening = async {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .is_err()
            {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, listening).await?;
        Ok(server)
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
