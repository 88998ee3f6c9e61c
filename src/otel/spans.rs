//! Spans of protected calls, through `tracing`; `tracing-opentelemetry` turns them into
//! OpenTelemetry spans.
//!
//! Owns the fields and when each is recorded. Invariant: a call whose span is disabled takes the
//! path of [`CircuitBreaker::call`], after one check of the level.

use std::{fmt, pin::pin};

use tracing::{Instrument, Span, field::Empty};

use crate::{CallError, CircuitBreaker, Outcome, Permit, Rejection};

/// The target of the spans, for filters.
const TARGET: &str = "commontrip::call";

impl CircuitBreaker {
    /// Makes calls in a span each.
    ///
    /// The span is named `circuit_breaker.call`, has the level `INFO` and the target
    /// `commontrip::call`, and lasts as long as the call and the decision about it. The call's own
    /// spans are its children.
    ///
    /// | field | |
    /// |---|---|
    /// | `circuit_breaker.name` | the circuit |
    /// | `circuit_breaker.state` | what this replica decided by: `closed`, `open`, `half_open`, ... |
    /// | `circuit_breaker.rejected` | whether the circuit rejected the call |
    /// | `circuit_breaker.rejection.reason`, `.local` | if rejected: why, and whether this replica decided alone |
    /// | `circuit_breaker.probe` | whether the call is a probe |
    /// | `circuit_breaker.attempt` | the number of the attempt, from 1, if [set](Traced::attempt) |
    /// | `circuit_breaker.result` | `success`, `failure`, `ignored`, `rejected`, `timeout`, or `abandoned` if it was dropped |
    /// | `otel.status_code`, `error.type` | if the call was rejected, failed or timed out: `ERROR`, and `rejected`, `_OTHER` or `timeout` |
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use commontrip::{Commontrip, Policy};
    ///
    /// let users = Commontrip::embedded()?.circuit("users", Policy::default())?;
    /// let name = users.traced().call(|| async { Ok::<_, std::io::Error>("ana") }).await?;
    /// assert_eq!(name, "ana");
    /// # Ok(()) }
    /// ```
    pub const fn traced(&self) -> Traced<'_> {
        Traced {
            breaker: self,
            attempt: None,
        }
    }
}

/// Makes calls through a circuit, in a span each; returned by [`CircuitBreaker::traced`].
#[derive(Clone, Copy)]
#[must_use = "no call is made until `call` is awaited"]
pub struct Traced<'a> {
    breaker: &'a CircuitBreaker,
    attempt: Option<u32>,
}

impl Traced<'_> {
    /// Sets which attempt of the same call this is, from 1.
    pub const fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = Some(attempt);
        self
    }

    /// [`CircuitBreaker::call`] in a span.
    ///
    /// # Errors
    /// As [`CircuitBreaker::call`].
    pub async fn call<F, Fut, T, E>(self, call: F) -> Result<T, CallError<E>>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.call_with(Outcome::of, call).await
    }

    /// [`CircuitBreaker::call_with`] in a span.
    ///
    /// # Errors
    /// As [`CircuitBreaker::call`].
    pub async fn call_with<C, F, Fut, T, E>(self, classify: C, call: F) -> Result<T, CallError<E>>
    where
        C: FnOnce(&Result<T, E>) -> Outcome,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let span = self.span();
        if span.is_disabled() {
            return self.breaker.call_with(classify, call).await;
        }
        let in_span = self.in_span(span.clone(), classify, call);
        // Boxed to keep the future of an uninteresting call small.
        Box::pin(in_span.instrument(span)).await
    }

    async fn in_span<C, F, Fut, T, E>(
        self,
        span: Span,
        classify: C,
        call: F,
    ) -> Result<T, CallError<E>>
    where
        C: FnOnce(&Result<T, E>) -> Outcome,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut end = End::new(span);
        let decision = self.breaker.acquire().await;
        record(&end.span, self.breaker, decision.as_ref());
        let permit = decision.inspect_err(|_| end.is("rejected"))?;
        let Some(limit) = permit.call_timeout() else {
            let result = call().await;
            end.settle(permit, classify(&result));
            return result.map_err(CallError::Failed);
        };
        let call = pin!(call());
        let Ok(result) = tokio::time::timeout(limit, call).await else {
            permit.timed_out();
            end.is("timeout");
            return Err(CallError::TimedOut(limit));
        };
        end.settle(permit, classify(&result));
        result.map_err(CallError::Failed)
    }

    /// [`CircuitBreaker::call_sync`] in a span.
    ///
    /// # Errors
    /// As [`CircuitBreaker::call_sync`].
    pub fn call_sync<F, T, E>(self, call: F) -> Result<T, CallError<E>>
    where
        F: FnOnce() -> Result<T, E>,
    {
        self.call_sync_with(Outcome::of, call)
    }

    /// [`CircuitBreaker::call_sync_with`] in a span.
    ///
    /// # Errors
    /// As [`CircuitBreaker::call_sync`].
    pub fn call_sync_with<C, F, T, E>(self, classify: C, call: F) -> Result<T, CallError<E>>
    where
        C: FnOnce(&Result<T, E>) -> Outcome,
        F: FnOnce() -> Result<T, E>,
    {
        let span = self.span();
        if span.is_disabled() {
            return self.breaker.call_sync_with(classify, call);
        }
        let mut end = End::new(span.clone());
        span.in_scope(|| {
            let decision = self.breaker.try_acquire();
            record(&end.span, self.breaker, decision.as_ref());
            let permit = decision.inspect_err(|_| end.is("rejected"))?;
            let result = call();
            end.settle(permit, classify(&result));
            result.map_err(CallError::Failed)
        })
    }

    fn span(self) -> Span {
        tracing::info_span!(
            target: TARGET,
            "circuit_breaker.call",
            circuit_breaker.name = self.breaker.name(),
            circuit_breaker.state = Empty,
            circuit_breaker.rejected = Empty,
            circuit_breaker.rejection.reason = Empty,
            circuit_breaker.rejection.local = Empty,
            circuit_breaker.probe = Empty,
            circuit_breaker.attempt = self.attempt,
            circuit_breaker.result = Empty,
            "error.type" = Empty,
            otel.status_code = Empty,
        )
    }
}

impl fmt::Debug for Traced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traced")
            .field("breaker", self.breaker)
            .field("attempt", &self.attempt)
            .finish()
    }
}

/// Records what a circuit decided about a call in your own span, such as the current one.
///
/// For permits, and for calls whose span is created elsewhere. `tracing` records only fields that
/// the span was created with, so create it with the fields that you want as `Empty`:
/// `circuit_breaker.name`, `circuit_breaker.state`, `circuit_breaker.rejected`,
/// `circuit_breaker.rejection.reason`, `circuit_breaker.rejection.local`, `circuit_breaker.probe`.
/// Does nothing if the span is disabled.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{Commontrip, Policy, otel};
/// use tracing::{Instrument, Span, field::Empty, info_span};
///
/// let users = Commontrip::embedded()?.circuit("users", Policy::default())?;
/// let span = info_span!("lookup", circuit_breaker.state = Empty, circuit_breaker.rejected = Empty);
/// let lookup = async {
///     let decision = users.acquire().await;
///     otel::record(&Span::current(), &users, decision.as_ref());
///     decision?.success();
///     Ok::<_, commontrip::Rejection>(())
/// };
/// lookup.instrument(span).await?;
/// # Ok(()) }
/// ```
pub fn record(span: &Span, breaker: &CircuitBreaker, decision: Result<&Permit, &Rejection>) {
    if span.is_disabled() {
        return;
    }
    span.record("circuit_breaker.name", breaker.name());
    span.record("circuit_breaker.rejected", decision.is_err());
    match decision {
        Ok(permit) => {
            span.record("circuit_breaker.state", breaker.state().as_str());
            span.record("circuit_breaker.probe", permit.is_probe());
        }
        Err(rejection) => {
            span.record("circuit_breaker.state", rejection.state.as_str());
            span.record("circuit_breaker.probe", false);
            span.record(
                "circuit_breaker.rejection.reason",
                rejection.reason.as_str(),
            );
            span.record("circuit_breaker.rejection.local", rejection.local);
        }
    }
}

/// The result of a call, recorded in its span on drop, even if the call is dropped or panics.
struct End {
    span: Span,
    result: Option<&'static str>,
}

impl End {
    const fn new(span: Span) -> Self {
        Self { span, result: None }
    }

    const fn is(&mut self, result: &'static str) {
        self.result = Some(result);
    }

    fn settle(&mut self, permit: Permit, outcome: Outcome) {
        self.is(match &outcome {
            Outcome::Success => "success",
            Outcome::Ignored => "ignored",
            _ => "failure",
        });
        permit.record(outcome);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let result = match self.result {
            Some(result) => result,
            None if std::thread::panicking() => "failure",
            None => "abandoned",
        };
        self.span.record("circuit_breaker.result", result);
        let error = match result {
            "rejected" | "timeout" => result,
            "failure" => "_OTHER",
            _ => return,
        };
        self.span.record("error.type", error);
        self.span.record("otel.status_code", "ERROR");
    }
}
