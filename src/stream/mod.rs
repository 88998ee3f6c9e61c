//! Calls that return a stream: [`CircuitBreaker::stream`] and [`GuardedStream`].
//!
//! Owns when a stream has failed: no first item, a stall, an error, an early end. A stream is one
//! call from its opening to its end. Knows nothing of the items' contents.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use commontrip::{Commontrip, Policy, stream::StreamOptions};
//! use futures_util::{TryStreamExt, stream};
//!
//! let model = Commontrip::embedded()?.circuit("model", Policy::default())?;
//! let options = StreamOptions::new()
//!     .first_item_within(Duration::from_secs(10))
//!     .items_within(Duration::from_secs(5))
//!     .ends_with(|event: &&str| *event == "[DONE]");
//!
//! let open = || async {
//!     let events = ["Hello", "[DONE]"].map(Ok::<_, std::io::Error>);
//!     Ok::<_, std::io::Error>(stream::iter(events))
//! };
//! let events = model.stream(&options, open).await?;
//! assert_eq!(events.try_collect::<Vec<_>>().await?, ["Hello", "[DONE]"]);
//! # Ok(()) }
//! ```

mod error;
mod guarded;
mod options;
mod silence;

use futures_core::TryStream;

pub use self::{
    error::StreamError,
    guarded::GuardedStream,
    options::{StreamEnd, StreamOptions},
};
use crate::{CallError, CircuitBreaker, Outcome};

impl CircuitBreaker {
    /// Opens a stream if the circuit permits, and guards it until its end.
    ///
    /// The stream is one call. An error of `open` is a failure; `options` decide the outcome of the
    /// stream itself. The policy's `call_timeout` limits the wait for the stream to open, not the
    /// stream. A panic in `open`, or in the stream, is a failure.
    ///
    /// # Errors
    /// [`CallError::Rejected`] when the stream was not opened, [`CallError::TimedOut`] when it took
    /// longer than `call_timeout` to open, [`CallError::Failed`] with the error of `open`.
    pub async fn stream<F, Fut, S, E>(
        &self,
        options: &StreamOptions<S::Ok, S::Error>,
        open: F,
    ) -> Result<GuardedStream<S>, CallError<E>>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<S, E>>,
        S: TryStream,
    {
        self.stream_with(options, |_| Outcome::failure_of("not opened"), open)
            .await
    }

    /// Same as [`stream`](Self::stream); `classify` decides the outcome of an error of `open`, such
    /// as a 429 with its `Retry-After`, or a request that the service does not accept.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub async fn stream_with<C, F, Fut, S, E>(
        &self,
        options: &StreamOptions<S::Ok, S::Error>,
        classify: C,
        open: F,
    ) -> Result<GuardedStream<S>, CallError<E>>
    where
        C: FnOnce(&E) -> Outcome,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<S, E>>,
        S: TryStream,
    {
        let (stream, permit) = CircuitBreaker::open(self, classify, open).await?;
        Ok(options.guard(permit, stream))
    }
}
