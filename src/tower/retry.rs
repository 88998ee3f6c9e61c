//! Retries that leave rejections alone.

use tower::retry::Policy;

use crate::CallError;

/// A policy of `tower::retry` that asks another one, except after a rejection: that is not tried again,
/// since the circuit would only say the same, sooner than it is worth.
///
/// For a retry around a circuit: each try is a call of the circuit's, and is counted.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
/// // Opens at the second failure, and the tries end soon after.
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
