//! What HTTP messages mean to a circuit, with the types of the crate `http` 1.
//!
//! Owns the meaning of statuses and of `Retry-After`, when a body is complete, which errors are
//! local, host names as keys, and responses to requests that a circuit rejects.
//!
//! - [`outcome`]: classifies a response by its head; [`retry_after`]: how long the service asks
//!   callers to wait
//! - [`host`]: a key for [`KeyedCircuits`](crate::keyed::KeyedCircuits)
//! - [`rejected`], [`timed_out`]: a server's responses, also as `Response::from(rejection)`; with
//!   the feature `axum`, a handler can return a [`CallError`](crate::CallError)
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use commontrip::{Outcome, http::outcome};
//! use http::{HeaderMap, StatusCode};
//!
//! let failed = outcome(StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new());
//! assert!(matches!(failed, Outcome::Failure { .. }));
//! # Ok(()) }
//! ```

#[cfg(feature = "axum")]
mod axum;
#[cfg(any(feature = "reqwest", feature = "tower"))]
mod body;
mod host;
#[cfg(any(feature = "reqwest", feature = "tower"))]
mod kind;
#[cfg(any(feature = "reqwest", feature = "tower"))]
mod local_error;
mod outcome;
mod response;

#[cfg(any(feature = "reqwest", feature = "tower"))]
pub use self::body::SettlingBody;
#[cfg(feature = "reqwest")]
pub(crate) use self::kind::kind_of_error;
#[cfg(feature = "tower")]
pub(crate) use self::local_error::is_rejection;
#[cfg(any(feature = "reqwest", feature = "tower"))]
pub(crate) use self::{
    body::settle_with_body,
    kind::kind_of,
    local_error::{is_ours, may_be_ours},
};
pub use self::{
    host::host,
    outcome::{outcome, retry_after},
    response::{rejected, timed_out},
};
