//! A dashboard and an HTTP API for all circuits of a store.
//!
//! Owns the routes, who may use them and the form of responses; [`Operator`] owns what can be read
//! and commanded. Knows no Redis keys or scripts.
//!
//! To mount the router in your own app, use `nest_service` under a path, or
//! [`merge`](Router::merge) at the root. With [`nest`](Router::nest), the dashboard is not found if
//! its path ends in a slash.
//!
//! ```
//! use axum::{Router, routing::get};
//! use commontrip::{Commontrip, admin, operator::Operator};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let circuits = Commontrip::embedded()?;
//! let options = admin::Options::new()
//!     .token_from_env("COMMONTRIP_ADMIN_TOKEN")?
//!     .allow_host("ops.example.com")?;
//! let app: Router = Router::new()
//!     .route("/", get(|| async { "the shop" }))
//!     .nest_service("/breakers", admin::router(Operator::of(&circuits), options));
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let until = std::future::ready(());
//! // `axum::serve` works too; this one also ends streams at shutdown, and limits slow clients.
//! admin::serve(listener, app, until).await?;
//! # Ok(()) }
//! ```
//!
//! Everyone who can reach the port can read, unless [a token is required](Options::require_token).
//! Commands need a token: the [single token](Options::token), or a named token with the role
//! `command` ([`Options::tokens_from_file`]), whose name is recorded as the author. Without any
//! token, the server is read-only. `GET openapi.json` describes the routes; the dashboard is at
//! `GET /`, and Prometheus scrapes `GET metrics`.
//!
//! - **Other sites' pages** can neither read (there is no CORS, and `Host` must be a loopback name,
//!   an IP address or [allowed](Options::allow_host), which prevents DNS rebinding) nor command
//!   (the token is not in a cookie, and `Origin` must be this server).
//! - **Limits**: 16 KiB per body, 10 s per response, 64 concurrent requests, 64 streams. A larger
//!   body is answered with 413, everything else beyond the limits with 503.
//! - Every error is an `application/problem+json` (RFC 9457).
//! - If [`ConnectInfo`](axum::extract::ConnectInfo) is available, the client's address is recorded
//!   with each command: the peer's, or what a [trusted proxy](Options::trust_proxy) says.
//! - Responses other than streams are compressed with gzip for clients that accept it.

mod caller;
mod checks;
mod events;
mod forwarded;
mod given;
mod guard;
mod metrics;
mod named;
mod open_metrics;
mod options;
mod page;
mod prefix;
mod problem;
#[cfg(feature = "queue")]
mod queues;
mod read;
mod serve;
mod stored;
mod tokens;
mod write;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    error_handling::HandleErrorLayer,
    extract::DefaultBodyLimit,
    http::{Method, StatusCode},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use tokio::sync::Semaphore;
use tower::{ServiceBuilder, limit::GlobalConcurrencyLimitLayer, load_shed::LoadShedLayer};
use tower_http::{
    CompressionLevel, catch_panic::CatchPanicLayer, compression::CompressionLayer,
    timeout::TimeoutLayer,
};

pub use self::{
    options::{Options, OptionsError},
    serve::serve,
    tokens::{NewToken, Role},
};
use self::{problem::Problem, stored::StoreWatch};
use crate::{
    model::Command,
    operator::{NewsFeed, Operator},
};

/// Maximum size of a request's body, bytes.
const LONGEST_BODY: usize = 16 * 1024;
/// How long a response may take; for a stream, until it begins.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Concurrent requests; a stream counts until it begins.
const AT_ONCE: usize = 64;
/// Concurrent streams of news.
const STREAMS: usize = 64;

/// State that all requests share.
#[derive(Clone)]
struct App {
    operator: Operator,
    live: NewsFeed,
    options: Arc<Options>,
    store: Arc<StoreWatch>,
    streams: Arc<Semaphore>,
}

/// The dashboard and the API, to be mounted in an app; see the [module](self).
///
/// While the news has subscribers, one task reads the store once a second, however many there are.
/// Streams of news end when the registry that the operator is [of](Operator::of) is shut down, so
/// that they do not keep a server from shutting down.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::{admin, operator::Operator};
///
/// let app = axum::Router::new()
///     .nest_service("/breakers", admin::router(Operator::of(&circuits), admin::Options::new()));
/// # let _: axum::Router = app;
/// # Ok(()) }
/// ```
pub fn router(operator: Operator, options: Options) -> Router {
    let app = App {
        live: operator.live(),
        operator,
        options: Arc::new(options),
        store: Arc::default(),
        streams: Arc::new(Semaphore::new(STREAMS)),
    };
    let options = Arc::clone(&app.options);
    let guard = middleware::from_fn_with_state(Arc::clone(&options), guard::guard);
    let limits = ServiceBuilder::new()
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(guard)
        .layer(HandleErrorLayer::new(|_| async { Problem::busy() }))
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(AT_ONCE))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::SERVICE_UNAVAILABLE,
            ANSWERS_WITHIN,
        ))
        .layer(DefaultBodyLimit::max(LONGEST_BODY));
    let set = |command| post(move |by, name, body| write::set(command, by, name, body));
    let routes = Router::new()
        .route("/", get(page::page))
        .route("/openapi.json", get(page::description))
        .route("/circuits", get(read::circuits))
        .route("/circuits/{name}", get(read::circuit).delete(write::remove))
        .route("/circuits/{name}/force-open", set(Command::ForceOpen))
        .route("/circuits/{name}/disable", set(Command::Disable))
        .route("/circuits/{name}/metrics-only", set(Command::MetricsOnly))
        .route("/circuits/{name}/reset", post(write::reset))
        .route(
            "/circuits/{name}/policy",
            put(write::store_policy).delete(write::remove_policy),
        )
        .route("/checks", get(checks::checks))
        .route("/checks/{name}", get(checks::check))
        .route("/checks/{name}/run", post(checks::run))
        .route("/reset-all", post(write::reset_all))
        .route("/health", get(read::health))
        .route("/status", get(read::status))
        .route("/events", get(events::events))
        .route("/metrics", get(metrics::metrics))
        .method_not_allowed_fallback(wrong_method)
        .fallback(elsewhere)
        .layer(limits)
        .layer(middleware::map_response(async |answer: Response| {
            guard::shield(problem::explain(answer))
        }))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
        .with_state(app);
    prefix::with(named::with(routes), options)
}

/// The response to a method that the route does not have; the router adds `Allow`.
async fn wrong_method(method: Method) -> Response {
    match method {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        method => Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{method} is not supported by this route"),
        )
        .into_response(),
    }
}

/// The response to an unknown path.
async fn elsewhere() -> Problem {
    let words = "this server has no such path; openapi.json lists the paths that this server has";
    Problem::new(StatusCode::NOT_FOUND, words)
}
