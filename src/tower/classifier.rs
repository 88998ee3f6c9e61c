//! What a result means for the circuit, and when that is known.

use std::error::Error;

use http::{Method, Request, Response};
use http_body::Body;

use crate::{
    Outcome, Permit,
    http::{SettlingBody, is_ours, kind_of, may_be_ours, outcome, settle_with_body},
};

/// Settles a call's permit by its result, immediately or when the response body has ended.
///
/// Every `Fn(&Result<Response, Error>) -> Outcome` is a classifier that settles immediately.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::{Outcome, tower::CircuitBreakerLayer};
///
/// // A closure is a classifier. Here, an error that the caller caused is ignored.
/// let layer = CircuitBreakerLayer::new(payments).classifier(
///     |result: &Result<String, std::io::Error>| match result {
///         Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Outcome::Ignored,
///         result => Outcome::of(result),
///     },
/// );
/// # Ok(()) }
/// ```
pub trait Classifier<Req, Res, E> {
    /// What is kept of the request until the response arrives; `()` for nothing.
    type Asked;
    /// The response that the caller gets, with a different body if the body settles the permit.
    type Response;

    /// Looks at the request before it is sent.
    fn asked(&self, request: &Req) -> Self::Asked;

    /// Settles the permit, or makes the response settle it.
    ///
    /// # Errors
    /// The call's own error.
    fn settle(
        &self,
        asked: Self::Asked,
        result: Result<Res, E>,
        permit: Permit,
    ) -> Result<Self::Response, E>;
}

impl<F, Req, Res, E> Classifier<Req, Res, E> for F
where
    F: Fn(&Result<Res, E>) -> Outcome,
{
    type Asked = ();
    type Response = Res;

    #[inline]
    fn asked(&self, _: &Req) {}

    #[inline]
    fn settle(&self, (): (), result: Result<Res, E>, permit: Permit) -> Result<Res, E> {
        permit.record(self(&result));
        result
    }
}

/// `Ok` is a success, and `Err` a failure unless the error is local. The default.
///
/// An error is local, and ignored, if it or one of its causes shows that the call never reached the
/// upstream or that this side ended it: `Overloaded` of
/// [`LoadShed`](https://docs.rs/tower/0.5/tower/load_shed), a `Buffer` whose worker is gone, a
/// semaphore without permits, a rejection of an inner circuit, a request that a hyper client cannot
/// send, a request body that fails. The same applies to [`Http`], [`HttpBody`] and
/// [`Grpc`](super::Grpc).
///
/// The kind of a failure is `timeout`, `connect`, `connection reset`, `ended early` or otherwise
/// `error`.
///
/// Causes are inspected for boxed errors ([`BoxError`](tower::BoxError)) and for the error types of
/// std, tower, hyper, hyper-util and h2. [`UnlessOurs`] inspects those of your own error type.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::tower::{CircuitBreakerLayer, ByResult};
///
/// let layer = CircuitBreakerLayer::new(payments).classifier(ByResult);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ByResult;

impl<Req, Res, E: 'static> Classifier<Req, Res, E> for ByResult {
    type Asked = ();
    type Response = Res;

    #[inline]
    fn asked(&self, _: &Req) {}

    #[inline]
    fn settle(&self, (): (), result: Result<Res, E>, permit: Permit) -> Result<Res, E> {
        permit.record(match &result {
            Ok(_) => Outcome::Success,
            Err(error) => of_error(error),
        });
        result
    }
}

/// Classifies HTTP responses by their head, like [`http::outcome`](crate::http::outcome), and
/// errors like [`ByResult`].
///
/// Only the head is classified and timed: a call whose body breaks off after a 200 is a success.
/// [`HttpBody`] waits for the end of the body.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::tower::{CircuitBreakerLayer, Http};
///
/// let layer = CircuitBreakerLayer::new(payments).classifier(Http);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Http;

impl<Req, B, E: 'static> Classifier<Req, Response<B>, E> for Http {
    type Asked = ();
    type Response = Response<B>;

    fn asked(&self, _: &Req) {}

    fn settle(
        &self,
        (): (),
        result: Result<Response<B>, E>,
        permit: Permit,
    ) -> Result<Response<B>, E> {
        permit.record(match &result {
            Ok(response) => outcome(response.status(), response.headers()),
            Err(error) => of_error(error),
        });
        result
    }
}

/// Classifies HTTP responses by their head and, if that is a success, by their body: a body that is
/// read to its end is a success; one that breaks off, or has fewer or more bytes than its
/// `Content-Length`, is a failure.
///
/// - If the length is known, from the header or from the body's exact size, the body is complete
///   with its last byte, because hyper does not poll it again. Responses to `HEAD`, 1xx, 204, 304
///   and opened tunnels have no body to wait for.
/// - A body that is dropped before its end is a dropped permit: an abandoned call.
/// - A body without a length is complete when it ends, even if a connection was closed (HTTP/1.0)
///   or a stream was reset with `NO_ERROR` (HTTP/2).
/// - A body that panics is a failure.
///
/// The latency includes the whole body; `call_timeout` limits the wait for the head only.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::tower::{CircuitBreakerLayer, HttpBody};
///
/// let layer = CircuitBreakerLayer::new(payments).classifier(HttpBody);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpBody;

impl<A, B: Body, E: 'static> Classifier<Request<A>, Response<B>, E> for HttpBody {
    type Asked = Method;
    type Response = Response<SettlingBody<B>>;

    fn asked(&self, request: &Request<A>) -> Method {
        request.method().clone()
    }

    fn settle(
        &self,
        asked: Method,
        result: Result<Response<B>, E>,
        permit: Permit,
    ) -> Result<Self::Response, E> {
        let (response, permit) = answered(result, permit)?;
        Ok(settle_with_body(&asked, response, permit))
    }
}

/// Finds local errors among the causes of your own error type too, and asks another classifier
/// about all other results.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{Commontrip, Policy, tower::{ByResult, CircuitBreakerLayer, UnlessOurs}};
/// use tower::{BoxError, ServiceBuilder, ServiceExt, load_shed::error::Overloaded, service_fn};
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("no answer")]
/// struct NoAnswer(#[source] BoxError);
///
/// let circuits = Commontrip::embedded()?;
/// let numbers = circuits.circuit("numbers", Policy::default())?;
/// let layer = CircuitBreakerLayer::new(numbers).classifier(UnlessOurs(ByResult));
/// let service = ServiceBuilder::new().layer(layer).service(service_fn(async |()| {
///     Err::<(), _>(NoAnswer(Overloaded::new().into()))
/// }));
/// assert!(service.oneshot(()).await.is_err());
/// let stats = &circuits.stats()[0];
/// assert_eq!((stats.failures, stats.ignored), (0, 1));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct UnlessOurs<C>(pub C);

impl<C, Req, Res, E> Classifier<Req, Res, E> for UnlessOurs<C>
where
    C: Classifier<Req, Res, E>,
    E: Error + 'static,
{
    type Asked = C::Asked;
    type Response = C::Response;

    fn asked(&self, request: &Req) -> C::Asked {
        self.0.asked(request)
    }

    fn settle(
        &self,
        asked: C::Asked,
        result: Result<Res, E>,
        permit: Permit,
    ) -> Result<C::Response, E> {
        match result {
            Err(error) if is_ours(&error) => {
                permit.record(Outcome::Ignored);
                Err(error)
            }
            result => self.0.settle(asked, result, permit),
        }
    }
}

/// Returns the response and the permit for its body to settle; an error settles the permit here.
pub(super) fn answered<T, E>(result: Result<T, E>, permit: Permit) -> Result<(T, Permit), E>
where
    E: 'static,
{
    match result {
        Ok(answer) => Ok((answer, permit)),
        Err(error) => {
            permit.record(of_error(&error));
            Err(error)
        }
    }
}

pub(super) fn of_error<E: 'static>(error: &E) -> Outcome {
    match may_be_ours(error) {
        true => Outcome::Ignored,
        false => Outcome::failure_of(kind_of(error)),
    }
}
