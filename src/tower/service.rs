//! The service: asks the circuit, then makes the call.

use std::{
    mem,
    task::{Context, Poll},
};

use tower::Service;

use super::{ByResult, Circuits, Classifier, Errors, Refusals, ResponseFuture, future::Step};
use crate::{CallError, CircuitBreaker, State, http::may_be_ours};

/// A service behind a circuit; made by [`CircuitBreakerLayer`](super::CircuitBreakerLayer). Clones
/// share the circuit.
///
/// - `poll_ready` polls the inner service and takes no permit: the caller of a ready service may
///   never make the call, and probe permits of a half-open circuit are few and leased. So a service
///   with an open circuit is ready, and `call` rejects; while the inner service is not ready, no
///   call is rejected.
/// - A `poll_ready` that fails or panics is a failure of a closed circuit, unless the error is
///   local ([`ByResult`]). With one circuit per key it is not counted, because there is no request
///   yet.
/// - `call` asks the circuit. Usually the cache has the decision. Then the call starts or is
///   rejected immediately, as in other services, and a future that is dropped before it is polled
///   is a dropped call.
/// - If the store must be asked (before its first answer, and in half-open), the future asks it and
///   then starts the call. The future takes the inner service that was ready, because that value
///   owns what `poll_ready` reserved (a permit of a concurrency limit, a slot of a buffer); a clone
///   that is not yet ready replaces it. If the circuit rejects, the inner service is dropped, which
///   releases the reservation.
/// - A rejected call never reaches the inner service.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::tower::CircuitBreakerLayer;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// let inner = service_fn(async |id: u32| Ok::<_, std::io::Error>(id + 1));
/// let service = CircuitBreakerLayer::new(payments).layer(inner);
/// assert_eq!(service.oneshot(7).await?, 8);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CircuitBreakerService<S, P = CircuitBreaker, C = ByResult, R = Errors> {
    pub(super) inner: S,
    pub(super) circuits: P,
    pub(super) classifier: C,
    pub(super) refusals: R,
}

impl<S, P, C, R> CircuitBreakerService<S, P, C, R> {
    /// The service behind the circuit.
    pub const fn inner(&self) -> &S {
        &self.inner
    }
}

/// Records a failure if the thread panics.
struct OnPanic<'a>(Option<&'a CircuitBreaker>);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if let Some(circuit) = self.0 {
            note_failure(circuit);
        }
    }
}

/// Records that a service could not become ready. If the circuit is not closed, this is not news,
/// and must not use up a probe.
#[cold]
fn note_failure(circuit: &CircuitBreaker) {
    if circuit.state() == State::Closed
        && let Ok(permit) = circuit.try_acquire()
    {
        permit.failure_of("not ready");
    }
}

impl<S, Req, P, C, R> Service<Req> for CircuitBreakerService<S, P, C, R>
where
    S: Service<Req, Error: 'static> + Clone,
    P: Circuits<Req>,
    C: Classifier<Req, S::Response, S::Error> + Clone,
    R: Refusals<C::Response, S::Error> + Clone,
{
    type Response = C::Response;
    type Error = R::Error;
    type Future = ResponseFuture<S, Req, C, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), R::Error>> {
        let guard = OnPanic(self.circuits.only());
        let ready = self.inner.poll_ready(cx);
        mem::forget(guard);
        if let Poll::Ready(Err(error)) = &ready
            && let Some(circuit) = self.circuits.only()
            && !may_be_ours(error)
        {
            note_failure(circuit);
        }
        ready.map_err(R::failed)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let asked = self.classifier.asked(&request);
        let decision = self.circuits.with(&request, |breaker| {
            breaker.decide().ok_or_else(|| breaker.clone())
        });
        let step = match decision {
            Ok(Ok(permit)) => Step::calling(self.inner.call(request), permit),
            Ok(Err(rejection)) => Step::refused(CallError::Rejected(rejection)),
            Err(breaker) => {
                let later = self.inner.clone();
                let readied = mem::replace(&mut self.inner, later);
                Step::asking(breaker, readied, request)
            }
        };
        ResponseFuture::new(step, asked, self.classifier.clone(), self.refusals.clone())
    }
}
