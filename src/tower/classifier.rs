//! What an answer means for the circuit, and when that is known.

use http::{Method, Request, Response};
use http_body::Body;

use crate::{
    Outcome, Permit,
    http::{SettlingBody, outcome, settle_with_body},
};

/// Settles the permit of a call by its result, at once or when the answer's body has ended.
///
/// Every `Fn(&Result<Response, Error>) -> Outcome` is one that settles at once.
pub trait Classifier<Req, Res, E> {
    /// What is remembered of the request until its answer is there; `()` for nothing.
    type Asked;
    /// The answer as the caller gets it: with another body where that settles the permit.
    type Response;

    /// Looks at the request before it is sent.
    fn asked(&self, request: &Req) -> Self::Asked;

    /// Settles the permit, or has the answer do it.
    ///
    /// # Errors
    /// The call's own.
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

/// `Ok` is a success, `Err` a failure. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByResult;

impl<Req, Res, E> Classifier<Req, Res, E> for ByResult {
    type Asked = ();
    type Response = Res;

    #[inline]
    fn asked(&self, _: &Req) {}

    #[inline]
    fn settle(&self, (): (), result: Result<Res, E>, permit: Permit) -> Result<Res, E> {
        permit.record(Outcome::of(&result));
        result
    }
}

/// HTTP by the head of the answer, as [`http::outcome`](crate::http::outcome) says; an error is a failure.
///
/// The head is all that is looked at, and all that is timed: a body that breaks off after a 200 was a
/// success. [`HttpBody`] waits for its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Http;

impl<Req, B, E> Classifier<Req, Response<B>, E> for Http {
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
            Err(_) => Outcome::failure(),
        });
        result
    }
}

/// HTTP by the head, and by the body where the head is a success: one that is read to its end is a
/// success, one that breaks off, or has fewer or more bytes than its `Content-Length`, a failure.
///
/// - Where the length is known, by the header or by the body's exact size, the body is whole with
///   its last byte: hyper asks no further. Answers to `HEAD`, 1xx, 204, 304 and opened tunnels have
///   no body to wait for.
/// - A body that is dropped before its end is a dropped permit, an abandoned call: the reader has
///   left.
/// - The end of a body without a length is taken for its end, though it may be where a connection
///   was closed (HTTP/1.0) or a stream was reset with `NO_ERROR` (HTTP/2).
/// - A body that panics is a failure.
///
/// The whole body is timed; `call_timeout` ends the wait for the head only.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpBody;

impl<A, B: Body, E> Classifier<Request<A>, Response<B>, E> for HttpBody {
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

/// The answer, with the permit that its body is to settle; an error has failed.
pub(super) fn answered<T, E>(result: Result<T, E>, permit: Permit) -> Result<(T, Permit), E> {
    match result {
        Ok(answer) => Ok((answer, permit)),
        Err(error) => {
            permit.failure();
            Err(error)
        }
    }
}
