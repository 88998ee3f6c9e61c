//! When a stream has failed.

use std::{fmt, sync::Arc, time::Duration};

use futures_core::TryStream;

use super::{GuardedStream, StreamError};
use crate::{Outcome, Permit};

type IsLast<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;
type Classify<E> = Arc<dyn Fn(&StreamEnd<'_, E>) -> Outcome + Send + Sync>;

/// What is expected of a stream of `Result<T, E>`, and how its end is classified. Build it once and
/// use it for many streams; cheap to clone.
///
/// By default, there are no time limits, the end of the stream is a success, and an error item is a
/// failure.
///
/// ```
/// use std::time::Duration;
/// use commontrip::stream::StreamOptions;
///
/// let options = StreamOptions::<String, std::io::Error>::new()
///     .first_item_within(Duration::from_secs(5))
///     .ends_with(|item| item == "[DONE]");
/// ```
pub struct StreamOptions<T, E> {
    pub(super) first_item_within: Option<Duration>,
    pub(super) items_within: Option<Duration>,
    pub(super) is_last: Option<IsLast<T>>,
    classify: Option<Classify<E>>,
}

/// How a stream ended, as passed to a classifier.
#[derive(Debug)]
#[non_exhaustive]
pub struct StreamEnd<'a, E> {
    /// Number of items delivered, not counting errors.
    pub items: u64,
    /// What went wrong; `None` if the stream ended normally.
    pub error: Option<&'a StreamError<E>>,
}

impl<T, E> StreamOptions<T, E> {
    /// Starts without limits; the end is a success, an error a failure.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            first_item_within: None,
            items_within: None,
            is_last: None,
            classify: None,
        }
    }

    /// Limits the wait for the first item. Default: no limit.
    ///
    /// The wait begins when the stream is first polled;
    /// [`call_timeout`](crate::PolicyBuilder::call_timeout) limits the opening before that. Only
    /// the time from a pending poll until the stream wakes its reader counts. A reader that is busy
    /// with something else, and comes late to an item that is ready, does not make the stream fail.
    #[must_use]
    pub const fn first_item_within(mut self, limit: Duration) -> Self {
        self.first_item_within = Some(limit);
        self
    }

    /// Limits the wait for each item after the first, and for the end. Default: no limit.
    ///
    /// Time is measured as for [`first_item_within`](Self::first_item_within).
    #[must_use]
    pub const fn items_within(mut self, limit: Duration) -> Self {
        self.items_within = Some(limit);
        self
    }

    /// Sets which item is the last one, such as `[DONE]`. A stream that ends without it is
    /// [`StreamError::Incomplete`]. Default: any end is accepted.
    ///
    /// The call has succeeded as soon as this item arrives; the reader need not read further. Later
    /// items are passed on but do not affect the outcome. If nothing more arrives within
    /// [`items_within`](Self::items_within), the guarded stream ends.
    #[must_use]
    pub fn ends_with(mut self, is_last: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        self.is_last = Some(Arc::new(is_last));
        self
    }

    /// Sets how the end of a stream is classified. Default: a failure if there is an error,
    /// otherwise a success.
    ///
    /// Does not change what the reader sees.
    #[must_use]
    pub fn classify(
        mut self,
        classify: impl Fn(&StreamEnd<'_, E>) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        self.classify = Some(Arc::new(classify));
        self
    }

    /// Guards a stream that was opened under this permit.
    pub fn guard<S>(&self, permit: Permit, stream: S) -> GuardedStream<S>
    where
        S: TryStream<Ok = T, Error = E>,
    {
        GuardedStream::new(self.clone(), permit, stream)
    }

    pub(super) fn outcome(&self, end: &StreamEnd<'_, E>) -> Outcome {
        match (&self.classify, end.error) {
            (Some(classify), _) => classify(end),
            (None, None) => Outcome::Success,
            (None, Some(error)) => Outcome::failure_of(error.kind()),
        }
    }
}

impl<T, E> Clone for StreamOptions<T, E> {
    fn clone(&self) -> Self {
        Self {
            first_item_within: self.first_item_within,
            items_within: self.items_within,
            is_last: self.is_last.clone(),
            classify: self.classify.clone(),
        }
    }
}

impl<T, E> Default for StreamOptions<T, E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, E> fmt::Debug for StreamOptions<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamOptions")
            .field("first_item_within", &self.first_item_within)
            .field("items_within", &self.items_within)
            .finish_non_exhaustive()
    }
}
