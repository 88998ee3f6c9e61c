//! What an answer means for the circuit, and when that is known.

use http::Response;
use http_body::Body;

use super::body::{Judge, SettlingBody};
use crate::{Outcome, Permit, http::outcome};

/// Settles the permit of a call by its result, at once or when the answer's body has ended.
///
/// Every `Fn(&Result<Response, Error>) -> Outcome` is one that settles at once.
pub trait Classifier<Res, E> {
    /// The answer as the caller gets it: with another body where that settles the permit.
    type Response;

    /// Settles the permit, or has the answer do it.
    ///
    /// # Errors
    /// The call's own.
    fn settle(&self, result: Result<Res, E>, permit: Permit) -> Result<Self::Response, E>;
}

impl<F, Res, E> Classifier<Res, E> for F
where
    F: Fn(&Result<Res, E>) -> Outcome,
{
    type Response = Res;

    #[inline]
    fn settle(&self, result: Result<Res, E>, permit: Permit) -> Result<Res, E> {
        permit.record(self(&result));
        result
    }
}

/// `Ok` is a success, `Err` a failure. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByResult;

impl<Res, E> Classifier<Res, E> for ByResult {
    type Response = Res;

    #[inline]
    fn settle(&self, result: Result<Res, E>, permit: Permit) -> Result<Res, E> {
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

impl<B, E> Classifier<Response<B>, E> for Http {
    type Response = Response<B>;

    fn settle(&self, result: Result<Response<B>, E>, permit: Permit) -> Result<Response<B>, E> {
        permit.record(match &result {
            Ok(response) => outcome(response.status(), response.headers()),
            Err(_) => Outcome::failure(),
        });
        result
    }
}

/// HTTP by the head, and by the body where the head is a success: one that ends is a success, one that
/// breaks off a failure.
///
/// A body that is dropped before its end is a dropped permit: an abandoned call. The whole body is timed; `call_timeout` ends the wait for
/// the head only.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpBody;

impl<B: Body, E> Classifier<Response<B>, E> for HttpBody {
    type Response = Response<SettlingBody<B>>;

    fn settle(&self, result: Result<Response<B>, E>, permit: Permit) -> Result<Self::Response, E> {
        let (response, permit) = answered(result, permit)?;
        let by_head = outcome(response.status(), response.headers());
        let known = (by_head != Outcome::Success).then_some(by_head);
        Ok(response.map(|body| SettlingBody::new(body, permit, Judge::Http, known)))
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
