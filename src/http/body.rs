//! A body that settles its call's permit when it ends.
//!
//! Owns when a response body is complete, and when it is broken. Invariant: the permit is settled
//! by the first of these: the head, an error, trailers, the end. If the body is dropped before
//! that, it counts as complete if all its bytes were read (a reader that knows the length need not
//! poll for the end); otherwise the permit is dropped.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Buf;
use http::{
    HeaderMap, Method, Response, StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{kind_of, may_be_ours, outcome};
use crate::{Outcome, Permit};

/// The outcome of a body that did not break off, by its trailers if there are any.
pub(crate) type Judge = fn(Option<&HeaderMap>) -> Outcome;

pin_project! {
    /// A response body that settles its call's permit when it ends. In all other ways it behaves
    /// like the body that it wraps.
    pub struct SettlingBody<B> {
        #[pin]
        body: B,
        permit: Option<Permit>,
        judge: Judge,
        // The number of bytes to expect, if known.
        length: Option<u64>,
        read: u64,
    }

    impl<B> PinnedDrop for SettlingBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(permit) = this.permit.take() {
                match *this.length == Some(*this.read) {
                    true => permit.record((this.judge)(None)),
                    false => permit.leave(),
                }
            }
        }
    }
}

/// Settles the permit by the response's head if that is conclusive, and otherwise makes the body
/// settle it. `method` is the request's.
pub(crate) fn settle_with_body<B: Body>(
    method: &Method,
    response: Response<B>,
    permit: Permit,
) -> Response<SettlingBody<B>> {
    let (status, headers) = (response.status(), response.headers());
    let by_head = outcome(status, headers);
    let length = length_of(headers, response.body());
    let over = by_head != Outcome::Success || !has_body(method, status) || length == Some(0);
    let known = over.then_some(by_head);
    response.map(|body| SettlingBody::new(body, permit, |_| Outcome::Success, length, known))
}

/// Whether a response has a body that is sent and read.
fn has_body(method: &Method, status: StatusCode) -> bool {
    let without = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let tunnel = *method == Method::CONNECT && status.is_success();
    !without && !tunnel && *method != Method::HEAD
}

/// The length of the body in bytes, from the headers or otherwise from the body itself.
fn length_of(headers: &HeaderMap, body: &impl Body) -> Option<u64> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    let declared = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    let declared = declared.and_then(|length| length.parse().ok());
    declared.or_else(|| body.size_hint().exact())
}

impl<B: Body> SettlingBody<B> {
    /// `length`: how many bytes to expect, if that is checked; `known`: the outcome, if the head
    /// decides.
    pub(crate) fn new(
        body: B,
        permit: Permit,
        judge: Judge,
        length: Option<u64>,
        known: Option<Outcome>,
    ) -> Self {
        let mut this = Self {
            body,
            permit: None,
            judge,
            length,
            read: 0,
        };
        // A body that has already ended may never be polled.
        let ended = this.body.is_end_stream();
        match known.or_else(|| ended.then(|| end(judge, length, 0, None))) {
            Some(outcome) => permit.record(outcome),
            None => this.permit = Some(permit),
        }
        this
    }
}

/// The outcome of a body that ends after `read` bytes.
fn end(judge: Judge, length: Option<u64>, read: u64, trailers: Option<&HeaderMap>) -> Outcome {
    match length.is_none_or(|length| length == read) {
        true => judge(trailers),
        false => Outcome::failure_of("ended early"),
    }
}

impl<B: Body<Error: 'static>> Body for SettlingBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        // Taken out during the poll, so that a panic drops the permit while the thread panics, even
        // if it is caught later.
        let permit = this.permit.take();
        let frame = this.body.as_mut().poll_frame(cx);
        let Some(permit) = permit else {
            return frame;
        };
        let end = |read, trailers| end(*this.judge, *this.length, read, trailers);
        let told = match &frame {
            Poll::Pending => None,
            Poll::Ready(None) => Some(end(*this.read, None)),
            // For instance, the caller's upload failed while the response was read.
            Poll::Ready(Some(Err(error))) if may_be_ours(error) => Some(Outcome::Ignored),
            Poll::Ready(Some(Err(error))) => Some(Outcome::failure_of(kind_of(error))),
            Poll::Ready(Some(Ok(frame))) => {
                *this.read += frame.data_ref().map_or(0, |data| data.remaining() as u64);
                let too_many = this.length.is_some_and(|length| *this.read > length);
                // After the last data frame without trailers, callers need not poll again.
                let over = this.body.is_end_stream();
                match frame.trailers_ref() {
                    None if over || too_many => Some(end(*this.read, None)),
                    None => None,
                    trailers => Some(end(*this.read, trailers)),
                }
            }
        };
        match told {
            Some(outcome) => permit.record(outcome),
            None => *this.permit = Some(permit),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> SettlingBody<B> {
    /// The body of a call that was not made.
    fn settled(body: B) -> Self {
        Self {
            body,
            permit: None,
            judge: |_| Outcome::Success,
            length: None,
            read: 0,
        }
    }
}

/// The body of a call that was not made.
impl<B: From<String>> From<String> for SettlingBody<B> {
    fn from(text: String) -> Self {
        Self::settled(text.into())
    }
}

/// The empty body of a call that was not made.
impl<B: Default> Default for SettlingBody<B> {
    fn default() -> Self {
        Self::settled(B::default())
    }
}

impl<B: fmt::Debug> fmt::Debug for SettlingBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettlingBody")
            .field("body", &self.body)
            .field("permit", &self.permit)
            .finish_non_exhaustive()
    }
}
