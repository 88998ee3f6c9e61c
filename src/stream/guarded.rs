//! A stream that settles its call's permit.
//!
//! Invariants: the permit is settled by the first of these: the last item, an error, a limit, the
//! end; it is dropped if the stream is dropped before. The stream ends after an error item.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::{Stream, TryStream};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::{StreamEnd, StreamError, StreamOptions, silence::Silence};
use crate::Permit;

type Next<S> = Result<<S as TryStream>::Ok, StreamError<<S as TryStream>::Error>>;

pin_project! {
    /// A stream behind a circuit; made by
    /// [`CircuitBreaker::stream`](crate::CircuitBreaker::stream), or from a permit by
    /// [`StreamOptions::guard`].
    ///
    /// - Its end is a success; an error item or an exceeded limit is a failure, unless the
    ///   [`StreamOptions`] classify it differently.
    /// - An error item is the last item: the inner stream is dropped, and the guarded stream ends.
    ///   If the inner stream continues after errors, map them to items of another type first.
    /// - A stream that is dropped before its end is an abandoned call.
    /// - A panic of the inner stream is a failure.
    /// - Latency is the time to the first item, without the time that the reader took to ask for
    ///   it. So the slow-call threshold applies to the first item, too. The age of a dropped stream
    ///   is the silence since its last item.
    /// - The first item settles a probe of a half-open circuit as a success, so that a long stream
    ///   does not hold its permit. If those probes closed the circuit, the end of the stream is
    ///   recorded in its window; otherwise only in the lifetime totals.
    #[must_use = "streams do nothing unless polled"]
    pub struct GuardedStream<S>
    where
        S: TryStream,
    {
        #[pin]
        stream: Option<S>,
        permit: Option<Permit>,
        options: StreamOptions<S::Ok, S::Error>,
        items: u64,
        silence: Silence,
        // Boxed, because most items arrive in time and need no timer.
        limit: Option<Pin<Box<Sleep>>>,
        // The age of the call when the stream was opened.
        opened_after: Duration,
        first_item_after: Option<Duration>,
    }

    impl<S> PinnedDrop for GuardedStream<S>
    where
        S: TryStream,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(mut permit) = this.permit.take() {
                permit.set_age(match this.first_item_after {
                    Some(_) => this.silence.so_far(),
                    None => *this.opened_after + this.silence.so_far(),
                });
                permit.leave();
            }
        }
    }
}

impl<S: TryStream> GuardedStream<S> {
    pub(super) fn new(options: StreamOptions<S::Ok, S::Error>, permit: Permit, stream: S) -> Self {
        Self {
            stream: Some(stream),
            opened_after: permit.age(),
            permit: Some(permit),
            options,
            items: 0,
            silence: Silence::new(),
            limit: None,
            first_item_after: None,
        }
    }

    fn poll_stream(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Next<S>>> {
        let this = self.project();
        let Some(stream) = this.stream.as_pin_mut() else {
            return Poll::Ready(None);
        };
        // Taken out during the poll, so that a panic drops the permit while the thread panics, even
        // if it is caught later.
        let permit = this.permit.take();
        let polled = this.silence.poll(cx, |cx| stream.try_poll_next(cx));
        *this.permit = permit;
        if let Poll::Ready(next) = polled {
            return Poll::Ready(next.map(|item| item.map_err(StreamError::Failed)));
        }
        let (limit, error): (_, fn(_) -> _) = match *this.items {
            0 => (
                this.options.first_item_within,
                StreamError::FirstItemTimeout,
            ),
            _ => (this.options.items_within, StreamError::Stalled),
        };
        let Some(limit) = limit else {
            return Poll::Pending;
        };
        loop {
            let left = limit.saturating_sub(this.silence.so_far());
            if left.is_zero() {
                break;
            }
            let until = Instant::now() + left;
            let sleep = this
                .limit
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            // A timer that fires too early is reset when it fires, and not with each item.
            if sleep.is_elapsed() || sleep.deadline() > until {
                sleep.as_mut().reset(until);
            }
            ready!(sleep.as_mut().poll(cx));
        }
        Poll::Ready(Some(Err(error(limit))))
    }
}

impl<S: TryStream> Stream for GuardedStream<S> {
    type Item = Next<S>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut next = ready!(self.as_mut().poll_stream(cx));
        let mut this = self.project();
        if let Some(Ok(_)) = &next {
            *this.items += 1;
        }
        let waited = *this.opened_after + this.silence.so_far();
        this.silence.end();
        if let Some(mut permit) = this.permit.take() {
            let is_last = this.options.is_last.as_deref();
            let over = match &next {
                Some(Ok(item)) => is_last.is_some_and(|is_last| is_last(item)),
                Some(Err(_)) => true,
                None => {
                    next = is_last.map(|_| Err(StreamError::Incomplete));
                    true
                }
            };
            permit.set_age(*this.first_item_after.get_or_insert(waited));
            if over {
                let error = next.as_ref().and_then(|item| item.as_ref().err());
                let items = *this.items;
                permit.record(this.options.outcome(&StreamEnd { items, error }));
            } else {
                permit.settle_probe();
                *this.permit = Some(permit);
            }
        } else if let Some(Err(StreamError::Stalled(_))) = &next {
            // A stall after the last item is the end of the stream, not an error.
            next = None;
        }
        if !matches!(next, Some(Ok(_))) {
            this.stream.set(None);
        }
        Poll::Ready(next)
    }
}

impl<S: TryStream> fmt::Debug for GuardedStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedStream")
            .field("items", &self.items)
            .field("permit", &self.permit)
            .finish_non_exhaustive()
    }
}
