//! What the caller gets for a call that was rejected or timed out.

use std::convert::Infallible;

use http::{HeaderValue, Response, header::CONTENT_TYPE};
use tower::BoxError;

use super::grpc::{DEADLINE_EXCEEDED, PUSHBACK, STATUS, UNAVAILABLE};
use crate::{
    CallError,
    http::{rejected, timed_out},
};

/// Why the service gave no response: [`CallError::Rejected`] or [`CallError::TimedOut`].
pub type Refused = CallError<Infallible>;

/// Turns a call that was rejected or timed out into an error or a response.
pub trait Refusals<Res, E> {
    /// The service's error type.
    type Error;

    /// The result of such a call.
    ///
    /// # Errors
    /// If this implementation returns errors rather than responses.
    fn refuse(&self, refused: Refused) -> Result<Res, Self::Error>;

    /// Converts the error of a call that failed.
    fn failed(error: E) -> Self::Error;
}

/// Returns a [`CallError`]. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Errors;

impl<Res, E> Refusals<Res, E> for Errors {
    type Error = CallError<E>;

    fn refuse(&self, refused: Refused) -> Result<Res, CallError<E>> {
        Err(match refused {
            CallError::Rejected(rejection) => CallError::Rejected(rejection),
            CallError::TimedOut(limit) => CallError::TimedOut(limit),
            CallError::Failed(never) => match never {},
        })
    }

    #[inline]
    fn failed(error: E) -> CallError<E> {
        CallError::Failed(error)
    }
}

/// Returns boxed errors, as tower's own middleware does: a [`Rejection`](crate::Rejection), or a
/// [`Refused`] for a call past `call_timeout`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::tower::CircuitBreakerLayer;
///
/// let layer = CircuitBreakerLayer::new(payments).boxed_errors();
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct BoxErrors;

impl<Res, E: Into<BoxError>> Refusals<Res, E> for BoxErrors {
    type Error = BoxError;

    fn refuse(&self, refused: Refused) -> Result<Res, BoxError> {
        Err(match refused {
            CallError::Rejected(rejection) => rejection.into(),
            refused => refused.into(),
        })
    }

    fn failed(error: E) -> BoxError {
        error.into()
    }
}

/// Returns the response of a function; the error type remains the inner service's.
#[derive(Clone, Copy, Debug)]
pub struct RespondWith<F>(pub(super) F);

impl<F: Fn(Refused) -> Res, Res, E> Refusals<Res, E> for RespondWith<F> {
    type Error = E;

    fn refuse(&self, refused: Refused) -> Result<Res, E> {
        Ok((self.0)(refused))
    }

    fn failed(error: E) -> E {
        error
    }
}

/// Returns a response with status 503 or 504: [`rejected`], [`timed_out`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::tower::{CircuitBreakerLayer, Http};
///
/// let layer = CircuitBreakerLayer::new(payments).classifier(Http).rejection_response();
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpResponses;

impl<B: From<String>, E> Refusals<Response<B>, E> for HttpResponses {
    type Error = E;

    fn refuse(&self, refused: Refused) -> Result<Response<B>, E> {
        Ok(match refused {
            CallError::Rejected(rejection) => rejected(&rejection),
            CallError::TimedOut(limit) => timed_out(limit),
            CallError::Failed(never) => match never {},
        })
    }

    fn failed(error: E) -> E {
        error
    }
}

/// Returns a response with the status `UNAVAILABLE` and `grpc-retry-pushback-ms`, or with
/// `DEADLINE_EXCEEDED`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::tower::{CircuitBreakerLayer, Grpc};
///
/// let layer = CircuitBreakerLayer::new(payments).classifier(Grpc).grpc_rejection_response();
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcResponses;

impl<B: Default, E> Refusals<Response<B>, E> for GrpcResponses {
    type Error = E;

    fn refuse(&self, refused: Refused) -> Result<Response<B>, E> {
        let (status, message, wait) = match refused {
            CallError::Rejected(rejection) => {
                let message = "a circuit breaker rejects calls";
                (UNAVAILABLE, message, rejection.retry_after)
            }
            CallError::TimedOut(_) => (DEADLINE_EXCEEDED, "the call took too long", None),
            CallError::Failed(never) => match never {},
        };
        let mut response = Response::new(B::default());
        let headers = response.headers_mut();
        let grpc = HeaderValue::from_static("application/grpc");
        headers.insert(CONTENT_TYPE, grpc);
        headers.insert(STATUS, HeaderValue::from(status));
        headers.insert("grpc-message", HeaderValue::from_static(message));
        if let Some(wait) = wait {
            let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert(PUSHBACK, HeaderValue::from(ms.max(1)));
        }
        Ok(response)
    }

    fn failed(error: E) -> E {
        error
    }
}
