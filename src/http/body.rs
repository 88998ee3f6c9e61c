//! A body that settles its call's permit when it ends.
//!
//! Owns when the body of an answer is whole, and when it is broken. Invariant: the permit is
//! settled at the first of: what the head said, an error, trailers, the end. When the body is
//! dropped before, it is settled as whole where all its bytes were read (who knows how many there
//! are need not ask for the end), and dropped otherwise.

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

use super::outcome;
use crate::{Outcome, Permit};

/// What a body that did not break off means, by its trailers if it has any.
pub(crate) type Judge = fn(Option<&HeaderMap>) -> Outcome;

pin_project! {
    /// The body of an answer, which settles the call's permit when it ends; otherwise as the body
    /// that it was made of.
    pub struct SettlingBody<B> {
        #[pin]
        body: B,
        permit: Option<Permit>,
        judge: Judge,
        // How many bytes there are to be, where that is known.
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

/// Settles the permit of a request of this method by the answer's head where that says it all, and
/// has the body do it otherwise.
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

/// Whether an answer has a body that anybody sends or reads.
fn has_body(method: &Method, status: StatusCode) -> bool {
    let without = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let tunnel = *method == Method::CONNECT && status.is_success();
    !without && !tunnel && *method != Method::HEAD
}

/// How many bytes the body has, by its headers, or else as it says itself.
fn length_of(headers: &HeaderMap, body: &impl Body) -> Option<u64> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    let declared = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    let declared = declared.and_then(|length| length.parse().ok());
    declared.or_else(|| body.size_hint().exact())
}

impl<B: Body> SettlingBody<B> {
    /// `length`: how many bytes there are to be, if that counts; `known`: what the head
    /// has told already.
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
        // Of a body that has ended nobody need ask for the end.
        let ended = this.body.is_end_stream();
        match known.or_else(|| ended.then(|| end(judge, length, 0, None))) {
            Some(outcome) => permit.record(outcome),
            None => this.permit = Some(permit),
        }
        this
    }
}

/// What an end after so many bytes means.
fn end(judge: Judge, length: Option<u64>, read: u64, trailers: Option<&HeaderMap>) -> Outcome {
    match length.is_none_or(|length| length == read) {
        true => judge(trailers),
        false => Outcome::failure(),
    }
}

impl<B: Body> Body for SettlingBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        // Here, so that a panic drops it while the thread panics, whoever catches it later.
        let permit = this.permit.take();
        let frame = this.body.as_mut().poll_frame(cx);
        let Some(permit) = permit else {
            return frame;
        };
        let end = |read, trailers| end(*this.judge, *this.length, read, trailers);
        let told = match &frame {
            Poll::Pending => None,
            Poll::Ready(None) => Some(end(*this.read, None)),
            Poll::Ready(Some(Err(_))) => Some(Outcome::failure()),
            Poll::Ready(Some(Ok(frame))) => {
                *this.read += frame.data_ref().map_or(0, |data| data.remaining() as u64);
                let too_many = this.length.is_some_and(|length| *this.read > length);
                // After the last data without trailers nobody need poll again.
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
    /// Of a call that was not made.
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

/// A body of a call that was not made.
impl<B: From<String>> From<String> for SettlingBody<B> {
    fn from(text: String) -> Self {
        Self::settled(text.into())
    }
}

/// An empty body of a call that was not made.
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
