//! Errors of a queue.

use crate::{CallError, StoreError, model::NameError};

/// Why an operation on a queue failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The queue has as many jobs as it may have.
    #[error("the queue is full: it has {size} jobs, and at most {most} are kept")]
    Full {
        /// Jobs in the queue, not counting dead letters.
        size: u64,
        /// The queue's limit.
        most: u64,
    },
    /// The job is too large.
    #[error("the job has {bytes} bytes, but at most {most} are kept")]
    TooLarge {
        /// Its size as MessagePack.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// The job cannot be written as MessagePack.
    #[error("the job cannot be encoded")]
    Unencodable(#[from] rmp_serde::encode::Error),
    /// The idempotency key is empty or too long.
    #[error("an idempotency key has 1 to 500 bytes, not {0}")]
    Key(usize),
    /// The queue's name is invalid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A setting is out of range.
    #[error("{setting} must be {range}")]
    Setting {
        /// The name of the setting.
        setting: &'static str,
        /// Its valid range.
        range: &'static str,
    },
    /// There is no such job.
    #[error("there is no job {0:?}")]
    Unknown(String),
    /// The job is running.
    #[error("job {0:?} is running: wait until it has ended")]
    Running(String),
    /// Another job has the dead job's idempotency key now.
    #[error("another job with the key of {0:?} was enqueued since: drop one of them")]
    KeyTaken(String),
    /// The store did not do it, or its answer was lost.
    #[error("the store did not confirm")]
    Store(#[from] StoreError),
}

/// Why [`Queue::call`](super::Queue::call) neither succeeded nor queued its job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotCalled<E> {
    /// The call failed in a way that another attempt would not fix.
    #[error("{0}")]
    Failed(#[source] E),
    /// The call did not succeed, and its job could not be queued.
    #[error("{call}; the job was not queued")]
    NotQueued {
        /// The call's error.
        call: CallError<E>,
        /// Why the job was not queued.
        #[source]
        queue: QueueError,
    },
}
