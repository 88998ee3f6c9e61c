//! Retries that do not retry rejections.

use tower::{BoxError, retry::Policy};

use crate::{CallError, http::is_rejection};

/// A `tower::retry` policy that never retries a rejection, since the circuit would reject the retry
/// as well, and asks another policy about every other result.
///
/// For a retry layer around a circuit: each attempt is a call through the circuit and is counted.
/// Also supports [boxed errors](super::CircuitBreakerLayer::boxed_errors).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::{io::Error, time::Duration};
/// use commontrip::{CallError, Commontrip, Policy, tower::{CircuitBreakerLayer, UnlessRejected}};
/// use tower::{ServiceBuilder, ServiceExt, retry, service_fn};
///
/// #[derive(Clone)]
/// struct Tries(u32);
///
/// impl retry::Policy<u32, u32, CallError<Error>> for Tries {
///     type Future = tokio::time::Sleep;
///
///     fn retry(&mut self, _: &mut u32, result: &mut Result<u32, CallError<Error>>) -> Option<Self::Future> {
///         self.0 = self.0.checked_sub(1)?;
///         result.is_err().then(|| tokio::time::sleep(Duration::from_millis(20)))
///     }
///
///     fn clone_request(&mut self, request: &u32) -> Option<u32> {
///         Some(*request)
///     }
/// }
///
/// // The circuit opens at the second failure, which ends the retries.
/// let numbers = Commontrip::embedded()?.circuit("numbers", Policy::consecutive(2)?)?;
/// let service = ServiceBuilder::new()
///     .retry(UnlessRejected(Tries(500)))
///     .layer(CircuitBreakerLayer::new(numbers))
///     .service(service_fn(async |_: u32| Err::<u32, _>(Error::other("refused"))));
/// assert!(matches!(service.oneshot(1).await, Err(CallError::Rejected(_))));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct UnlessRejected<P>(pub P);

impl<P, Req, Res, E> Policy<Req, Res, CallError<E>> for UnlessRejected<P>
where
    P: Policy<Req, Res, CallError<E>>,
{
    type Future = P::Future;

    fn retry(
        &mut self,
        request: &mut Req,
        result: &mut Result<Res, CallError<E>>,
    ) -> Option<P::Future> {
        match result {
            Err(CallError::Rejected(_)) => None,
            _ => self.0.retry(request, result),
        }
    }

    fn clone_request(&mut self, request: &Req) -> Option<Req> {
        self.0.clone_request(request)
    }
}

impl<P, Req, Res> Policy<Req, Res, BoxError> for UnlessRejected<P>
where
    P: Policy<Req, Res, BoxError>,
{
    type Future = P::Future;

    fn retry(
        &mut self,
        request: &mut Req,
        result: &mut Result<Res, BoxError>,
    ) -> Option<P::Future> {
        match result {
            Err(error) if is_rejection(&**error) => None,
            _ => self.0.retry(request, result),
        }
    }

    fn clone_request(&mut self, request: &Req) -> Option<Req> {
        self.0.clone_request(request)
    }
}
