//! The service: asks the circuit, then makes the call.

use std::{
    mem,
    task::{Context, Poll},
};

use tower::Service;

use super::{ByResult, Circuits, Classifier, Errors, Refusals, ResponseFuture, future::Step};
use crate::{CallError, CircuitBreaker};

/// A service behind a circuit; made by [`CircuitBreakerLayer`](super::CircuitBreakerLayer). Clones share the
/// circuit.
///
/// - `poll_ready` is the inner service's. It takes no permit: a service that is ready need not be called, and
///   probes of a half-open circuit are few, and leased. So a service with an open circuit is ready, and
///   `call` says no; where the inner service is not ready, nobody is rejected.
/// - `call` asks the circuit. Mostly the cache knows: then the call is begun, or rejected, at once, as
///   other services do, and a future that is dropped unpolled is a call that was dropped.
/// - Where the store must be asked (before the first answer, in half-open), the future does, and then
///   begins the call. The inner service that was readied goes with it, since what `poll_ready` has reserved
///   (a place in a concurrency limit, a slot of a buffer) belongs to that very value; a clone, not ready
///   yet, takes its place. When the circuit says no, it is dropped, and what it has reserved is free.
/// - A rejected call never reaches the inner service.
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

impl<S, Req, P, C, R> Service<Req> for CircuitBreakerService<S, P, C, R>
where
    S: Service<Req> + Clone,
    P: Circuits<Req>,
    C: Classifier<Req, S::Response, S::Error> + Clone,
    R: Refusals<C::Response, S::Error> + Clone,
{
    type Response = C::Response;
    type Error = R::Error;
    type Future = ResponseFuture<S, Req, C, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), R::Error>> {
        self.inner.poll_ready(cx).map_err(R::failed)
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
