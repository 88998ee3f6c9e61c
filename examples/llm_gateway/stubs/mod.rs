//! Stubs of the providers: servers on loopback that can be broken.
//!
//! Owns the sockets and the ways to fail; the modules below own requests and answers.

mod answers;
mod embedders;
mod embeddings;
mod errors;
mod models;
mod requests;
mod streams;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::JoinHandle,
};

use super::provider::Provider;

/// How long a model thinks.
const THINKS: Duration = Duration::from_millis(20);

/// How a provider behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It answers.
    Ok,
    /// It answers with 500.
    Fail,
    /// It answers with 429, and when to retry.
    RateLimit,
    /// It answers with 503, or Anthropic's 529, and when to retry.
    Overloaded,
    /// It accepts the request and never answers.
    Hang,
    /// It refuses connections.
    Refuse,
    /// Its streams have a head, and no token. This and the following modes concern streams only.
    NoToken,
    /// Its streams fall silent after some tokens.
    Stall,
    /// Its streams end after some tokens without the mark of a complete answer.
    EndEarly,
    /// Its connection breaks after some tokens.
    Cut,
    /// Its streams send an error after some tokens.
    ErrorEvent,
}

/// A provider on its own port; stops when dropped.
pub struct Stub {
    pub addr: SocketAddr,
    inner: Arc<Inner>,
    listening: watch::Receiver<bool>,
    server: JoinHandle<()>,
}

struct Inner {
    provider: Provider,
    mode: watch::Sender<Mode>,
    requests: AtomicU64,
    streams: AtomicU64,
    /// How many tokens a failing stream sends before it fails.
    fails_after: AtomicUsize,
}

impl Inner {
    /// Waits until the provider is ready to answer; an error is its answer instead.
    async fn ready(&self) -> Result<(), errors::Said> {
        let mut mode = self.mode.subscribe();
        let mode = mode.wait_for(|mode| *mode != Mode::Hang).await;
        match mode.map_or(Mode::Fail, |mode| *mode) {
            Mode::Fail => Err(errors::Said::failed(self.provider)),
            Mode::RateLimit => Err(errors::Said::too_many(self.provider)),
            Mode::Overloaded => Err(errors::Said::overloaded(self.provider)),
            _ => Ok(()),
        }
    }
}

impl Stub {
    pub async fn start(provider: Provider) -> io::Result<Self> {
        // This socket never listens. While the stub does not listen either, it keeps the port, so
        // that connections are refused and nobody else gets the port.
        let held = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let addr = held.local_addr()?;
        let inner = Arc::new(Inner {
            provider,
            mode: watch::Sender::new(Mode::Ok),
            requests: AtomicU64::new(0),
            streams: AtomicU64::new(0),
            fails_after: AtomicUsize::new(2),
        });
        let (told, mut listening) = watch::channel(false);
        let serving = Arc::clone(&inner);
        let server = tokio::spawn(async move {
            if let Err(error) = serve(&held, addr, &serving, &told).await {
                eprintln!("{provider:?} cannot be played: {error}");
            }
        });
        // An error means that the server has ended, and has printed why.
        let _ = listening.wait_for(|listening| *listening).await;
        Ok(Self {
            addr,
            inner,
            listening,
            server,
        })
    }

    /// Changes how the provider behaves; the change is in effect when this returns.
    pub async fn set(&self, mode: Mode) {
        self.inner.mode.send_replace(mode);
        let listens = mode != Mode::Refuse;
        let _ = self.listening.clone().wait_for(|is| *is == listens).await;
    }

    /// The number of requests, without those for its list of models.
    pub fn requests(&self) -> u64 {
        self.inner.requests.load(Ordering::SeqCst)
    }

    /// Sets how many tokens a failing stream sends before it fails. Default 2.
    #[allow(dead_code, reason = "only tests set it")]
    pub fn fail_after(&self, tokens: usize) {
        self.inner.fails_after.store(tokens, Ordering::SeqCst);
    }

    /// The number of streams that are being read.
    #[allow(dead_code, reason = "only tests look")]
    pub fn streams(&self) -> u64 {
        self.inner.streams.load(Ordering::SeqCst)
    }
}

/// A stream that is being read; it ends when this is dropped.
struct Open(Arc<Inner>);

impl Open {
    fn of(inner: &Arc<Inner>) -> Self {
        inner.streams.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(inner))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Listens, except while the provider refuses connections.
async fn serve(
    _held: &TcpSocket,
    addr: SocketAddr,
    inner: &Arc<Inner>,
    told: &watch::Sender<bool>,
) -> io::Result<()> {
    let mut mode = inner.mode.subscribe();
    loop {
        let _ = mode.wait_for(|mode| *mode != Mode::Refuse).await;
        let listener: TcpListener = bind(addr)?.listen(1024)?;
        told.send_replace(true);
        let app = match inner.provider {
            Provider::OpenAi => Router::new().route(embeddings::PATH, post(embeddings::embed)),
            Provider::Gemini => {
                Router::new().route(embedders::GEMINI_PATH, post(embedders::gemini))
            }
            Provider::Ollama => Router::new()
                .route(models::PATH, get(models::list))
                .route(embedders::OLLAMA_PATH, post(embedders::ollama)),
            _ => Router::new(),
        };
        let app = app.fallback(answer).with_state(Arc::clone(inner));
        let mut mode = mode.clone();
        // The shutdown also ends connections: otherwise a kept-alive one would still be served.
        axum::serve(listener, app)
            .with_graceful_shutdown(async move {
                let _ = mode.wait_for(|mode| *mode == Mode::Refuse).await;
            })
            .await?;
        told.send_replace(false);
    }
}

async fn answer(
    State(inner): State<Arc<Inner>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    inner.requests.fetch_add(1, Ordering::SeqCst);
    let mut mode = inner.mode.subscribe();
    let mode = match mode.wait_for(|mode| *mode != Mode::Hang).await {
        Ok(mode) => *mode,
        Err(_) => Mode::Fail,
    };
    let provider = inner.provider;
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    match requests::read(provider, &method, path, &headers, &body) {
        Err(error) => error.into_response(),
        Ok(asked) => match mode {
            Mode::Fail => errors::Said::failed(provider).into_response(),
            Mode::RateLimit => errors::Said::too_many(provider).into_response(),
            Mode::Overloaded => errors::Said::overloaded(provider).into_response(),
            mode => {
                tokio::time::sleep(THINKS).await;
                if asked.stream {
                    return streams::respond(&inner, mode, &asked);
                }
                axum::Json(answers::answer(provider, &asked)).into_response()
            }
        },
    }
}
