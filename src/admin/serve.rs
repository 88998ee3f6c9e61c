//! Serving a router over HTTP/1.1, with limits so that no client can block the server.
//!
//! Owns connections: how many there are, how long a request's head may take, and how they end. TLS
//! is left to a proxy.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tower::ServiceExt as _;

/// Concurrent connections; more wait until one ends.
const CONNECTIONS: usize = 512;
/// How long a request's head may take, and how long a connection may be idle between requests.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long requests may take to end at shutdown.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// The pause after a connection could not be accepted, for instance without free file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Tells streams, which would otherwise not end, that the server shuts down.
#[derive(Clone)]
pub(super) struct Closing(pub(super) watch::Receiver<bool>);

/// Serves a router, with an admin router somewhere in it, until a future completes. Then ends
/// streams of news at once, and other requests within 5 s.
///
/// At most 512 connections; a request's head may take 10 s. HTTP/1.1 without TLS.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::{admin, operator::Operator};
///
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
/// let app = admin::router(Operator::of(&circuits), admin::Options::new());
/// let until = async { drop(tokio::signal::ctrl_c().await) };
/// admin::serve(listener, app, until).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// When the listener has no address. An error on a connection ends only that connection.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    until: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.local_addr()?;
    let (close, closing) = watch::channel(false);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut until = std::pin::pin!(until);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut until => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let closing = Closing(closing.clone());
                let talk = talk(stream, peer, router.clone(), closing, graceful.watcher());
                tokio::spawn(async move {
                    talk.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    // An error means that there are no connections.
    let _ = close.send(true);
    if timeout(ENDS_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests that did not end in time were cut off");
    }
    Ok(())
}

/// Serves one connection until it ends.
async fn talk(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    closing: Closing,
    watcher: Watcher,
) {
    // Otherwise small responses wait for the peer's acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = router.map_request(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo(peer));
        extensions.insert(closing.clone());
        request
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, %peer, "a connection ended");
    }
}
