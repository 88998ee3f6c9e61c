//! Errors that the reader of a guarded stream sees.

use std::time::Duration;

use crate::FailureKind;

/// The last item of a [`GuardedStream`](super::GuardedStream) that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError<E> {
    /// The first item did not arrive within
    /// [`first_item_within`](super::StreamOptions::first_item_within).
    #[error("the stream delivered no first item within {0:?}")]
    FirstItemTimeout(Duration),
    /// The next item did not arrive within [`items_within`](super::StreamOptions::items_within).
    #[error("the stream stalled: no item within {0:?}")]
    Stalled(Duration),
    /// The stream ended without the item that [`ends_with`](super::StreamOptions::ends_with)
    /// expects.
    #[error("the stream ended before its last item")]
    Incomplete,
    /// The stream's own error.
    #[error("{0}")]
    Failed(#[source] E),
}

impl<E> StreamError<E> {
    /// The failure kind: `no first item`, `stalled`, `ended early` or `stream error`.
    #[must_use]
    pub const fn kind(&self) -> FailureKind {
        FailureKind::of(match self {
            Self::FirstItemTimeout(_) => "no first item",
            Self::Stalled(_) => "stalled",
            Self::Incomplete => "ended early",
            Self::Failed(_) => "stream error",
        })
    }

    /// The stream's own error, if there is one.
    #[must_use]
    pub fn into_failed(self) -> Option<E> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}
