//! What can go wrong with a queue.

use crate::{CallError, StoreError, model::NameError};

/// Why a queue did not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// It has as many jobs as it may.
    #[error("the queue is full: it has {size} jobs, and at most {most} are kept")]
    Full {
        /// Jobs in it, dead ones aside.
        size: u64,
        /// How many it may have.
        most: u64,
    },
    /// The job is too large.
    #[error("the job has {bytes} bytes, but at most {most} are kept")]
    TooLarge {
        /// Its size as MessagePack.
        bytes: usize,
        /// How large it may be.
        most: usize,
    },
    /// The job cannot be written as MessagePack.
    #[error("the job cannot be encoded")]
    Unencodable(#[from] rmp_serde::encode::Error),
    /// The idempotency key is wrong.
    #[error("an idempotency key has 1 to 500 bytes, not {0}")]
    Key(usize),
    /// No queue can have that name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A setting is out of range.
    #[error("{setting} must be {range}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// What it may be.
        range: &'static str,
    },
    /// There is no such job.
    #[error("there is no job {0:?}")]
    Unknown(String),
    /// The job runs.
    #[error("job {0:?} is running: wait until it has ended")]
    Running(String),
    /// A dead job's idempotency key is another job's by now.
    #[error("another job with the key of {0:?} was enqueued since: drop one of them")]
    KeyTaken(String),
    /// The store did not do it, or its answer was lost.
    #[error("the store did not confirm")]
    Store(#[from] StoreError),
}

/// Why [`Queue::call`](super::Queue::call) has neither made a call nor kept it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotCalled<E> {
    /// The call failed in a way that another attempt would not mend.
    #[error("{0}")]
    Failed(#[source] E),
    /// The call did not go through, and could not be kept.
    #[error("{call}; and it was not queued")]
    NotQueued {
        /// What became of the call.
        call: CallError<E>,
        /// Why it was not queued.
        #[source]
        queue: QueueError,
    },
}
