//! A dashboard and an HTTP API over all circuits of a store.
//!
//! Owns the routes, who may use them and how answers look; what can be seen and done is
//! [`Operator`]'s. Knows no keys and no scripts.
//!
//! Mounted in an app of one's own, under any path (at the root [`merge`](Router::merge) it; by [`nest`](Router::nest)
//! the dashboard is not found with a slash at the end of its path):
//!
//! ```
//! use axum::{Router, routing::get};
//! use commontrip::{Commontrip, admin, operator::Operator};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let circuits = Commontrip::embedded()?;
//! let options = admin::Options::new()
//!     .token_from_env("COMMONTRIP_ADMIN_TOKEN")?
//!     .allow_host("ops.example.com")?;
//! let app: Router = Router::new()
//!     .route("/", get(|| async { "the shop" }))
//!     .nest_service("/breakers", admin::router(Operator::of(&circuits), options));
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let until = std::future::ready(());
//! // `axum::serve` does too; this one closes streams at the end and slow clients before it.
//! admin::serve(listener, app, until).await?;
//! # Ok(()) }
//! ```
//!
//! Whoever reaches the port can read. Commands need the token; without one there are none. The routes
//! are described in `GET openapi.json`; a dashboard is at `GET /`, Prometheus scrapes `GET metrics`.
//!
//! - **Other sites' pages** can neither read (no CORS, and `Host` must be a loopback name, an address or
//!   [allowed](Options::allow_host), so that no foreign name leads here) nor command (the token is in no
//!   cookie, and `Origin` must be this server).
//! - **Limits**: bodies 16 KiB, an answer 10 s, 64 requests at once, 64 streams; beyond it is 503.
//! - Every error is a `application/problem+json` (RFC 9457).
//! - Where [`ConnectInfo`](axum::extract::ConnectInfo) is there, the peer's address is kept with each command.

mod checks;
mod events;
mod guard;
mod metrics;
mod options;
mod page;
mod problem;
mod read;
mod serve;
mod stored;
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
use tower_http::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer};

pub use self::{
    options::{Options, OptionsError},
    serve::serve,
};
use self::{problem::Problem, stored::StoreWatch};
use crate::operator::{Live, Operator};

/// The longest body of a request, bytes.
const LONGEST_BODY: usize = 16 * 1024;
/// How long an answer may take; of a stream, until it begins.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Requests that are answered at once; streams count until they begin.
const AT_ONCE: usize = 64;
/// Streams of news at once.
const STREAMS: usize = 64;

/// What all requests share.
#[derive(Clone)]
struct App {
    operator: Operator,
    live: Live,
    options: Arc<Options>,
    store: Arc<StoreWatch>,
    streams: Arc<Semaphore>,
}

/// The dashboard and the API, to be mounted in an app; see the [module](self).
///
/// While somebody watches the news, one task looks at the store once a second, however many watch.
/// Streams of news end when the registry is shut down that the operator is [of](Operator::of), so
/// that they do not keep a server from shutting down.
pub fn router(operator: Operator, options: Options) -> Router {
    let app = App {
        live: operator.live(),
        operator,
        options: Arc::new(options),
        store: Arc::default(),
        streams: Arc::new(Semaphore::new(STREAMS)),
    };
    let guard = middleware::from_fn_with_state(Arc::clone(&app.options), guard::guard);
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
    Router::new()
        .route("/", get(page::page))
        .route("/openapi.json", get(page::description))
        .route("/circuits", get(read::circuits))
        .route("/circuits/{name}", get(read::circuit))
        .route("/circuits/{name}/force-open", post(write::force_open))
        .route("/circuits/{name}/disable", post(write::disable))
        .route("/circuits/{name}/metrics-only", post(write::metrics_only))
        .route("/circuits/{name}/reset", post(write::reset))
        .route(
            "/circuits/{name}/policy",
            put(write::store_policy).delete(write::remove_policy),
        )
        .route("/checks", get(checks::checks))
        .route("/checks/{name}", get(checks::check))
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
        .with_state(app)
}

/// What is asked of a route that has no such method; the router adds `Allow`.
async fn wrong_method(method: Method) -> Response {
    match method {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        method => Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{method} is not among the methods that this route has"),
        )
        .into_response(),
    }
}

/// What no route has.
async fn elsewhere() -> Problem {
    let words = "there is nothing here; openapi.json describes what there is";
    Problem::new(StatusCode::NOT_FOUND, words)
}
