//! `commontrip serve`: the dashboard and the HTTP API on a port.
//!
//! Owns the options, what is said at the start, and the signals that end it; the routes are the crate's.

use std::{io, net::SocketAddr, path::PathBuf};

use clap::Args;
use commontrip::admin::{self, OptionsError};
use tokio::net::TcpListener;

use crate::{
    connect::Connection,
    out::{Done, Failure, in_words, say, tell},
};

/// The variable that has the token.
pub const TOKEN: &str = "COMMONTRIP_ADMIN_TOKEN";
/// How long the store may take for an answer, ms.
const ANSWERS_WITHIN_MS: u64 = 2000;

pub const AFTER_HELP: &str = "\
Without a token it is read-only: everything can be seen, nothing commanded. It serves plain HTTP: beyond the
loopback put a proxy with TLS before it, and allow the proxy's name with --allow-host.

  GET /               the dashboard
  GET /metrics        for Prometheus
  GET /health         200, or 503 when the store does not answer
  GET /openapi.json   what else there is

Exit status: 0 ended by Ctrl-C or SIGTERM, 2 it could not begin.";

/// What `commontrip serve` can be told.
#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    connection: Connection,

    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8700")]
    bind: SocketAddr,

    /// A file with the token that commands need; else the variable COMMONTRIP_ADMIN_TOKEN has it
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Answer also to this name: a proxy's, or the service's in its network; loopback names and addresses always go
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
}

/// Why it could not begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        Self::Usage(in_words(&error))
    }
}

impl From<OptionsError> for Failure {
    fn from(error: OptionsError) -> Self {
        ServeError::from(error).into()
    }
}

/// Serves until a signal.
pub async fn run(options: &Options) -> Done {
    let told = admin::Options::new();
    let told = match &options.token_file {
        Some(path) => told.token_from_file(path)?,
        None => told.token_from_env(TOKEN)?,
    };
    let told = allow(told, &options.allow_host)?;
    let operator = options.connection.operator_within(ANSWERS_WITHIN_MS)?;
    let listener = listen(options.bind).await?;
    let at = listener.local_addr()?;
    let read_only = told.is_read_only();
    tell(&format!(
        "commontrip serves {} ({})\n",
        url(at),
        match read_only {
            true => "read-only: no token is set",
            false => "commands need the token",
        }
    ))?;
    if !at.ip().is_loopback() {
        say(&format!(
            "warning: {at} can be reached from elsewhere, without TLS: {}",
            match read_only {
                true => "everybody there can read everything",
                false => "everybody there can read everything, and on the way the token",
            }
        ));
    }
    if let Err(error) = operator.ping().await {
        say(&format!("warning: {error}; it is asked again and again"));
    }
    admin::serve(listener, admin::router(operator, told), stopped()).await?;
    Ok(())
}

/// The options with names to answer to.
///
/// # Errors
/// When one is no name.
pub fn allow(options: admin::Options, names: &[String]) -> Result<admin::Options, OptionsError> {
    let allow = |options: admin::Options, name: &String| options.allow_host(name);
    names.iter().try_fold(options, allow)
}

/// Takes the address.
///
/// # Errors
/// When somebody else has it, or it is not this machine's.
pub async fn listen(at: SocketAddr) -> Result<TcpListener, ServeError> {
    let listener = TcpListener::bind(at).await;
    listener.map_err(|error| ServeError::Listen(at, error))
}

/// Where a browser finds it.
pub fn url(at: SocketAddr) -> String {
    match at.ip().is_unspecified() {
        true => format!("http://localhost:{}/", at.port()),
        false => format!("http://{at}/"),
    }
}

/// Done at Ctrl-C or SIGTERM.
pub async fn stopped() {
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminated) => {
                tokio::select! {
                    () = interrupted => {}
                    _ = terminated.recv() => {}
                }
            }
            Err(_) => interrupted.await,
        }
    }
    #[cfg(not(unix))]
    interrupted.await;
}
