//! `commontrip serve`: the dashboard and the HTTP API on a port.
//!
//! Owns the options, the startup messages, and the signals that end it; the crate provides the
//! routes.

use std::{io, net::SocketAddr, path::PathBuf};

use clap::Args;
use commontrip::admin::{self, OptionsError};
use tokio::net::{TcpListener, lookup_host};
use tracing::{Level, Metadata};
use tracing_subscriber::{Layer, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    asked::asked,
    connect::Connection,
    out::{Done, Failure, in_words, say, shown, tell},
};

/// The environment variable that holds the token.
pub const TOKEN: &str = "COMMONTRIP_ADMIN_TOKEN";
/// The default address of the dashboard.
pub const LISTEN: &str = "127.0.0.1:8700";
/// How long the store may take to answer, ms.
const ANSWERS_WITHIN_MS: u64 = 2000;

pub const AFTER_HELP: &str = "\
Without a token it is read-only: every circuit can be read, and no command is accepted. Make tokens with
`commontrip token`. It serves plain HTTP: beyond loopback, put a TLS proxy in front of it, allow the proxy's
name with --allow-host, and give its address with --trusted-proxy.

  GET /               the dashboard
  GET /metrics        for Prometheus
  GET /health         200, or 503 when the store does not answer
  GET /openapi.json   the description of all endpoints

Exit status: 0 ended by Ctrl-C or SIGTERM, 2 it could not start.";

/// Arguments of `commontrip serve`.
#[derive(Args, Debug)]
pub struct Options {
    /// Where to listen: a name or an address, and a port; port 0 takes a free one
    #[arg(
        long,
        visible_alias = "bind",
        value_name = "HOST:PORT",
        default_value = LISTEN,
        value_parser = place
    )]
    listen: String,

    /// A file with the token that commands need [default: the variable COMMONTRIP_ADMIN_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// A file with a line for each named token (`commontrip token`), read again when it changes;
    /// the author of a command is the token's name
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,

    /// Require a token for reading as well
    #[arg(long)]
    require_token: bool,

    /// Also answer to this host name, such as a proxy's or the service's; loopback names and
    /// addresses are always accepted
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,

    /// Trust the X-Forwarded-For, -Host, -Proto and -Prefix headers of a proxy at this address or
    /// in this network
    #[arg(long, value_name = "CIDR")]
    trusted_proxy: Vec<String>,

    /// Also serve below this path, such as /breakers, for a proxy that does not strip it
    #[arg(long, value_name = "PATH")]
    path_prefix: Option<String>,

    #[command(flatten)]
    connection: Connection,
}

/// Checks for a name or an address, and a port.
pub fn place(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => Ok(text.to_owned()),
        _ => Err("give a name or an address, and a port, such as localhost:8700".to_owned()),
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error("--require-token needs a token; give --tokens, --token-file or {TOKEN}")]
    NoToken,
    #[error("cannot listen on {0}")]
    Listen(String, #[source] io::Error),
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

/// Serves until a signal arrives.
pub async fn run(options: &Options) -> Done {
    log();
    let told = told(options)?;
    let told = told.queues(&options.connection.open(ANSWERS_WITHIN_MS)?);
    let operator = options.connection.operator_within(ANSWERS_WITHIN_MS)?;
    let listener = listen(&options.listen).await?;
    let at = listener.local_addr()?;
    let needed = needed(options, &told);
    tell(&format!(
        "commontrip serves {} ({needed})\n{}",
        url(at),
        asked().map_or_else(String::new, |asked| format!(
            "the circuits of {}\n",
            shown(&asked.place())
        ))
    ))?;
    if !at.ip().is_loopback() {
        say(&format!(
            "warning: {at} can be reached from elsewhere, without TLS: {}",
            match (told.is_read_only(), told.requires_token()) {
                (true, _) => "everybody there can read everything",
                (_, false) => "everybody there can read everything, and on the way the token",
                (_, true) => "everybody on the way can read everything, also the token",
            }
        ));
    }
    if let Err(error) = operator.ping().await {
        say(&format!("warning: {error}; it is asked again and again"));
    }
    admin::serve(listener, admin::router(operator, told), stopped()).await?;
    Ok(())
}

/// The router's options.
fn told(options: &Options) -> Result<admin::Options, ServeError> {
    let mut told = admin::Options::new();
    told = match &options.token_file {
        Some(path) => told.token_from_file(path)?,
        None => told.token_from_env(TOKEN)?,
    };
    if let Some(path) = &options.tokens {
        told = told.tokens_from_file(path)?;
    }
    if options.require_token {
        told = told.require_token();
        if told.is_read_only() {
            return Err(ServeError::NoToken);
        }
    }
    for net in &options.trusted_proxy {
        told = told.trust_proxy(net)?;
    }
    if let Some(path) = &options.path_prefix {
        told = told.path_prefix(path)?;
    }
    Ok(allow(told, &options.allow_host)?)
}

/// Describes which requests need which token.
fn needed(options: &Options, told: &admin::Options) -> String {
    let tokens = options.tokens.as_ref();
    let tokens = tokens.map(|path| shown(&path.display().to_string()));
    match (told.is_read_only(), told.requires_token(), tokens) {
        (true, ..) => "read-only: no token is set".to_owned(),
        (_, false, None) => "commands need the token".to_owned(),
        (_, true, None) => "reading and commands need the token".to_owned(),
        (_, false, Some(file)) => format!("commands need a token of {file}"),
        (_, true, Some(file)) => format!("reading and commands need a token of {file}"),
    }
}

/// Writes the server's log to standard error.
fn log() {
    let ours = |meta: &Metadata<'_>| {
        meta.target().starts_with("commontrip::admin") && *meta.level() <= Level::INFO
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .with_filter(filter_fn(ours));
    // If a subscriber is already installed, it receives these lines as well.
    let _ = tracing_subscriber::registry().with(lines).try_init();
}

/// Adds host names to answer to.
///
/// # Errors
/// When a name is invalid.
pub fn allow(options: admin::Options, names: &[String]) -> Result<admin::Options, OptionsError> {
    let allow = |options: admin::Options, name: &String| options.allow_host(name);
    names.iter().try_fold(options, allow)
}

/// Binds the address. If a name resolves to several, takes the first IPv4 address that can be
/// bound.
///
/// # Errors
/// When the address is invalid, in use, or not this machine's.
pub async fn listen(at: &str) -> Result<TcpListener, ServeError> {
    let failed = |error| ServeError::Listen(at.to_owned(), error);
    let mut addresses: Vec<SocketAddr> = lookup_host(at).await.map_err(failed)?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    TcpListener::bind(&*addresses).await.map_err(failed)
}

/// The URL for a browser.
pub fn url(at: SocketAddr) -> String {
    match at.ip().is_unspecified() {
        true => format!("http://localhost:{}/", at.port()),
        false => format!("http://{at}/"),
    }
}

/// Completes at Ctrl-C or SIGTERM.
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
