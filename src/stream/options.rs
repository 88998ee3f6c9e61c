//! When a stream has failed.

use std::{fmt, sync::Arc, time::Duration};

use futures_core::TryStream;

use super::{GuardedStream, StreamError};
use crate::{Outcome, Permit};

type IsLast<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;
type Classify<E> = Arc<dyn Fn(&StreamEnd<'_, E>) -> Outcome + Send + Sync>;

/// What is expected of a stream of `Result<T, E>`, and what its end means. Made once and used for
/// many streams; cheap to clone.
///
/// Unless told otherwise there are no limits of time, the end of the stream is a success, and an
/// error item is a failure.
pub struct StreamOptions<T, E> {
    pub(super) first_item_within: Option<Duration>,
    pub(super) items_within: Option<Duration>,
    pub(super) is_last: Option<IsLast<T>>,
    classify: Option<Classify<E>>,
}

/// How a stream has ended; what a classifier is given.
#[derive(Debug)]
#[non_exhaustive]
pub struct StreamEnd<'a, E> {
    /// Items that were delivered, errors not included.
    pub items: u64,
    /// What went wrong; `None` where the stream has ended as it should.
    pub error: Option<&'a StreamError<E>>,
}

impl<T, E> StreamOptions<T, E> {
    /// No limits; the end is a success, an error a failure.
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
    /// [`call_timeout`](crate::PolicyBuilder::call_timeout) limits the opening before. Only the
    /// time counts in which the stream is to blame: from a poll that found nothing until the stream
    /// wakes its reader. A reader that is busy with something else, and comes late to an item that
    /// is there, does not make the stream fail.
    #[must_use]
    pub const fn first_item_within(mut self, limit: Duration) -> Self {
        self.first_item_within = Some(limit);
        self
    }

    /// Limits the wait for each item after the first, and for the end. Default: no limit.
    ///
    /// The time counts as for [`first_item_within`](Self::first_item_within).
    #[must_use]
    pub const fn items_within(mut self, limit: Duration) -> Self {
        self.items_within = Some(limit);
        self
    }

    /// Says which item is the last one, such as `[DONE]`. A stream that ends without it is
    /// [`StreamError::Incomplete`]. Default: any end will do.
    ///
    /// The call has ended well as soon as this item is there: its reader need not read on. What the
    /// stream still delivers is passed on and means nothing; where nothing more comes within
    /// [`items_within`](Self::items_within), the guarded stream ends.
    #[must_use]
    pub fn ends_with(mut self, is_last: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        self.is_last = Some(Arc::new(is_last));
        self
    }

    /// Says what the end of a stream means to the circuit. Default: a failure where there is an
    /// error, else a success.
    ///
    /// What the reader sees remains the same.
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
            (None, Some(_)) => Outcome::failure(),
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
