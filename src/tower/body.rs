//! A body that settles its call's permit when it ends.
//!
//! Invariant: the permit is settled at the first of: what the head said, an error, trailers, the end. When
//! the body is dropped before, the permit is too.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::grpc::by_status;
use crate::{Outcome, Permit};

/// By what a body is judged that did not break off.
#[derive(Clone, Copy, Debug)]
pub(super) enum Judge {
    /// It has ended.
    Http,
    /// The status in its trailers.
    Grpc,
}

impl Judge {
    fn of_trailers(self, trailers: &HeaderMap) -> Outcome {
        match self {
            Self::Http => Outcome::Success,
            Self::Grpc => by_status(trailers),
        }
    }

    const fn of_end_without_trailers(self) -> Outcome {
        match self {
            Self::Http => Outcome::Success,
            Self::Grpc => Outcome::failure(),
        }
    }
}

pin_project! {
    /// The body of an answer, which settles the call's permit when it ends; otherwise as the body that it
    /// was made of.
    #[derive(Debug)]
    pub struct SettlingBody<B> {
        #[pin]
        body: B,
        permit: Option<Permit>,
        judge: Judge,
    }
}

impl<B: Body> SettlingBody<B> {
    /// `known`: what the head has told already.
    pub(super) fn new(body: B, permit: Permit, judge: Judge, known: Option<Outcome>) -> Self {
        // Of a body that has ended nobody need ask for the end.
        let ended = body.is_end_stream();
        let known = known.or_else(|| ended.then(|| judge.of_end_without_trailers()));
        let mut permit = Some(permit);
        if let Some(outcome) = known {
            settle(&mut permit, outcome);
        }
        Self {
            body,
            permit,
            judge,
        }
    }
}

fn settle(permit: &mut Option<Permit>, outcome: Outcome) {
    if let Some(permit) = permit.take() {
        permit.record(outcome);
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
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        let told = match &frame {
            Some(Ok(frame)) => match frame.trailers_ref() {
                Some(trailers) => Some(this.judge.of_trailers(trailers)),
                // After the last data without trailers nobody need poll again.
                None => (this.body.is_end_stream()).then(|| this.judge.of_end_without_trailers()),
            },
            Some(Err(_)) => Some(Outcome::failure()),
            None => Some(this.judge.of_end_without_trailers()),
        };
        if let Some(outcome) = told {
            settle(this.permit, outcome);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body of a call that was not made: there is nothing to settle.
impl<B: From<String>> From<String> for SettlingBody<B> {
    fn from(text: String) -> Self {
        Self {
            body: text.into(),
            permit: None,
            judge: Judge::Http,
        }
    }
}

/// An empty body of a call that was not made.
impl<B: Default> Default for SettlingBody<B> {
    fn default() -> Self {
        Self {
            body: B::default(),
            permit: None,
            judge: Judge::Http,
        }
    }
}
