//! A stream that settles its call's permit.
//!
//! Invariants: the permit is settled at the first of: the last item, an error, a limit, the end;
//! when the stream is dropped before, the permit is too. After an error item comes the end.

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
    /// [`CircuitBreaker::stream`](crate::CircuitBreaker::stream), or of a permit by
    /// [`StreamOptions::guard`].
    ///
    /// - Its end is a success, an error item or a limit a failure, unless the [`StreamOptions`] say
    ///   otherwise.
    /// - An error item is the last: the stream inside is dropped, and the end follows. A stream
    ///   whose errors are not its end is to be mapped to items of another type first.
    /// - Dropped before its end, it is an abandoned call: the reader has left.
    /// - A panic of the stream inside is a failure.
    /// - Latency is the time to the first item, without the time that the reader took to ask for
    ///   it; so the slow-call threshold is about the first item, too. A dropped stream is as old as
    ///   the silence since its last item.
    /// - A probe of a half-open circuit is settled as a success by the first item, so that a long
    ///   stream does not keep its slot. How the stream ends then counts in the window of the
    ///   circuit that those probes have closed, and only in the lifetime totals where the circuit
    ///   has gone another way.
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
        // In a box, for most items are there in time.
        limit: Option<Pin<Box<Sleep>>>,
        // How old the call was when the stream was opened.
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
        // Here, so that a panic drops it while the thread panics, whoever catches it later.
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
            // One that ends too early is reset when it does, and not with each item.
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
            // After the last item nothing is missing.
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
