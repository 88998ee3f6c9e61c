//! Serving a router over HTTP/1.1, so that no client can hold the server up.
//!
//! Owns connections: how many, how long a head may take, and how they end. TLS is a proxy's.

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

/// Connections at once; more wait until one ends.
const CONNECTIONS: usize = 512;
/// How long the head of a request may take, and a connection rest between two requests.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long requests may take to end when the server ends.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// How long to wait when no connection can be accepted: files are used up, say.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Tells streams, which would go on for ever, that the server ends.
#[derive(Clone)]
pub(super) struct Closing(pub(super) watch::Receiver<bool>);

/// Serves a router, with an admin router somewhere in it, until a future is done; then ends streams of news at
/// once and other requests within 5 s.
///
/// At most 512 connections; a request's head may take 10 s. HTTP/1.1 without TLS.
///
/// # Errors
/// When the listener has no address. What is wrong with one connection ends that one.
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
    // An error means that there is no connection.
    let _ = close.send(true);
    if timeout(ENDS_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests that did not end in time were cut off");
    }
    Ok(())
}

/// One connection, until it ends.
async fn talk(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    closing: Closing,
    watcher: Watcher,
) {
    // Without it small answers wait for the peer's acknowledgement.
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
