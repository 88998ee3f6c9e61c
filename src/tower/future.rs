//! The future of one call.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower::Service;

use super::{Classifier, Refusals, Refused};
use crate::{CallError, CircuitBreaker, Permit, Rejection};

/// Boxed, because the future of [`CircuitBreaker::acquire`] has no name. Only calls that ask the
/// store have one.
type Asking = Pin<Box<dyn Future<Output = Result<Permit, Rejection>> + Send>>;

/// The end of `call_timeout`. Boxed to keep the future of calls without a timer small.
struct Limit {
    after: Duration,
    end: Pin<Box<Sleep>>,
}

pin_project! {
    /// The response future of a [`CircuitBreakerService`](super::CircuitBreakerService).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, C, R>
    where
        S: Service<Req>,
        C: Classifier<Req, S::Response, S::Error>,
    {
        #[pin]
        step: Step<S, Req>,
        asked: Option<C::Asked>,
        classifier: C,
        refusals: R,
    }
}

pin_project! {
    #[project = At]
    pub(super) enum Step<S, Req>
    where
        S: Service<Req>,
    {
        Asking { asking: Asking, call: Option<(S, Req)> },
        Calling { #[pin] call: S::Future, permit: Option<Permit>, limit: Option<Limit> },
        Refused { refused: Option<Refused> },
    }
}

/// Drops the permit if the thread panics, even if the panic is caught later. Otherwise the guard is
/// forgotten, so that the permit is not moved.
struct OnPanic<'a>(&'a mut Option<Permit>);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

impl<S: Service<Req>, Req> Step<S, Req> {
    pub(super) fn asking(breaker: CircuitBreaker, service: S, request: Req) -> Self {
        Self::Asking {
            asking: Box::pin(async move { breaker.acquire().await }),
            call: Some((service, request)),
        }
    }

    #[inline]
    pub(super) fn calling(call: S::Future, permit: Permit) -> Self {
        let limit = permit.call_timeout().map(|after| Limit {
            after,
            end: Box::pin(tokio::time::sleep(after)),
        });
        Self::Calling {
            call,
            permit: Some(permit),
            limit,
        }
    }

    pub(super) const fn refused(refused: Refused) -> Self {
        Self::Refused {
            refused: Some(refused),
        }
    }
}

impl<S, Req, C, R> ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
    C: Classifier<Req, S::Response, S::Error>,
{
    #[inline]
    pub(super) const fn new(
        step: Step<S, Req>,
        asked: C::Asked,
        classifier: C,
        refusals: R,
    ) -> Self {
        Self {
            step,
            asked: Some(asked),
            classifier,
            refusals,
        }
    }
}

impl<S, Req, C, R> Future for ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
    C: Classifier<Req, S::Response, S::Error>,
    R: Refusals<C::Response, S::Error>,
{
    type Output = Result<C::Response, R::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.step.as_mut().project() {
                At::Asking { asking, call } => {
                    let answer = ready!(asking.as_mut().poll(cx));
                    match (answer, call.take()) {
                        (Ok(permit), Some((mut service, request))) => {
                            Step::calling(service.call(request), permit)
                        }
                        (Err(rejection), _) => Step::refused(CallError::Rejected(rejection)),
                        (Ok(_), None) => over(),
                    }
                }
                At::Calling {
                    call,
                    permit,
                    limit,
                } => {
                    let guard = OnPanic(permit);
                    let polled = call.poll(cx);
                    mem::forget(guard);
                    if let Poll::Ready(result) = polled {
                        let permit = permit.take().unwrap_or_else(|| over());
                        let asked = this.asked.take().unwrap_or_else(|| over());
                        let result = this.classifier.settle(asked, result, permit);
                        return Poll::Ready(result.map_err(R::failed));
                    }
                    let Some(limit) = limit else {
                        return Poll::Pending;
                    };
                    ready!(limit.end.as_mut().poll(cx));
                    permit.take().unwrap_or_else(|| over()).timed_out();
                    Step::refused(CallError::TimedOut(limit.after))
                }
                At::Refused { refused } => {
                    let refused = refused.take().unwrap_or_else(|| over());
                    return Poll::Ready(this.refusals.refuse(refused));
                }
            };
            this.step.set(next);
        }
    }
}

/// Only a future polled after its end finds a value already taken.
#[cold]
fn over() -> ! {
    panic!("the call was polled after its end")
}

impl<S, Req, C, R> fmt::Debug for ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
    C: Classifier<Req, S::Response, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match &self.step {
            Step::Asking { .. } => "asking",
            Step::Calling { .. } => "calling",
            Step::Refused { .. } => "refused",
        };
        f.debug_tuple("ResponseFuture").field(&step).finish()
    }
}
