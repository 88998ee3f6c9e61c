//! Where circuits live: the trait [`Store`] and its two implementations.
//!
//! Owns storage, transport and the clock; knows nothing of permits, caches or callers.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use commontrip::{Clock, Commontrip, MemoryStore, RedisStore};
//!
//! let embedded = Commontrip::builder().store(MemoryStore::new(Clock::system())).build()?;
//! let redis = RedisStore::builder().prefix("shop").open("redis://127.0.0.1:6379")?;
//! let shared = Commontrip::builder().store(redis).build()?;
//! # Ok(()) }
//! ```

mod clock;
mod group;
mod key_value;
mod memory;
mod patience;
mod redis;

use std::{collections::BTreeSet, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

pub(crate) use self::patience::answer_by;
#[cfg(feature = "queue")]
pub(crate) use self::redis::Text;
pub use self::{
    clock::Clock,
    memory::MemoryStore,
    redis::{Finding, RedisPool, RedisStore, RedisStoreBuilder, Verdict},
};
#[cfg(feature = "fallback")]
pub(crate) use self::{group::size as size_in_group, key_value::LARGEST_VALUE};
/// Requests and answers of a [`Store`]; needed only to implement one.
pub use crate::model::{
    Acquire, Claim, ClaimStep, Claimed, Command, Control, Grant, Head, Kind, KindNote, Memory,
    Permission, Phase, Release, Report, Runs, Settled,
};
use crate::model::{Event, Interval, Members, Name, Slice, Snapshot};

/// The maximum number of circuits in a list.
pub const MOST_CIRCUITS: usize = 20_000;

/// The future of a store's answer.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Why a store operation failed.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// if let Err(error) = payments.snapshot().await {
///     println!("{error}"); // calls go on without the store
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store took longer than its timeout.
    #[error("the store did not answer within {0:?}")]
    Timeout(Duration),
    /// The store cannot be reached, or the connection broke.
    #[error("the store cannot be reached")]
    Unreachable(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The store answered that it cannot serve requests now: it is loading its data, is a replica,
    /// is out of memory, is busy with a script, has lost part of its Cluster, or denies this user a
    /// right.
    #[error("the store cannot serve: {0}")]
    Unable(String),
    /// The store's settings are wrong: a URL, a prefix, or one of two files without the other.
    #[error("the store's settings are wrong: {0}")]
    Configuration(String),
    /// The store does not support this: it keeps only circuits, or its pool cannot push.
    #[error("the store does not support this: {0}")]
    Unsupported(String),
    /// The request cannot be encoded.
    #[error("the request cannot be encoded: {0}")]
    Encoding(String),
    /// The store answered this request, or requests for this circuit, with an error.
    #[error("the store refused: {0}")]
    Refused(String),
    /// The request is invalid: the store would refuse it every time.
    #[error("the request is not valid: {0}")]
    Invalid(String),
    /// A newer release of this crate has written the circuit, in a format that this release does
    /// not know.
    #[error("a newer release has written the circuit; upgrade this one: {0}")]
    NewerFormat(String),
    /// The store's answer cannot be decoded.
    #[error("the store's answer cannot be read: {0}")]
    Unreadable(String),
}

impl StoreError {
    /// Creates an [`Unreachable`](Self::Unreachable) with this cause.
    pub fn unreachable(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unreachable(Arc::from(why.into()))
    }

    /// Returns whether other requests would fail, too: the store is unavailable, rather than this
    /// one request being wrong.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::Timeout(_) | Self::Unreachable(_) | Self::Unable(_)
        )
    }
}

fn unsupported<'a, T: Send + 'a>(why: &str) -> Answer<'a, T> {
    Box::pin(std::future::ready(Err(StoreError::Unsupported(
        why.to_owned(),
    ))))
}

/// An error with its causes, on one line.
pub(crate) fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some errors repeat the message of their cause.
        let said = error.to_string();
        if !words.contains(&said) {
            words = format!("{words}: {said}");
        }
        cause = error.source();
    }
    words
}

/// A notice about the circuits that a listener follows.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice {
    /// From now on the listener receives changes of these circuits, which are all that it follows.
    /// Earlier changes may have been missed.
    Listening(BTreeSet<Name>),
    /// A circuit has changed.
    Changed(Name, Box<Snapshot>),
}

/// Keeps circuits and makes their transitions atomically.
///
/// # Contract
/// - Each operation on one circuit is atomic and behaves as the same operation of [`MemoryStore`],
///   by the store's own clock (or `now_ms` if it is not 0).
/// - A failed operation may or may not have taken effect. `acquire`, `report` and `release` can be
///   repeated unchanged: their token or number makes the repetition harmless.
/// - Every operation except `listen` ends in bounded time.
/// - A circuit that was never written reads as closed, generation 0.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Asks for permission to make one call.
    fn acquire<'a>(&'a self, circuit: &'a Name, request: &'a Acquire) -> Answer<'a, Grant>;

    /// Files reports of several circuits. Returns one result for each, in the same order.
    fn report<'a>(
        &'a self,
        batch: &'a [(Name, Report)],
    ) -> Answer<'a, Vec<Result<Snapshot, StoreError>>>;

    /// Gives back a probe permit.
    fn release<'a>(&'a self, circuit: &'a Name, request: &'a Release) -> Answer<'a, Snapshot>;

    /// Executes an operator's command.
    fn control<'a>(&'a self, circuit: &'a Name, request: &'a Control) -> Answer<'a, Snapshot>;

    /// Removes a circuit: its state, counts, events and stored policy. A replica that still uses
    /// the circuit starts it again.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] (the default) if the store cannot remove circuits.
    fn remove<'a>(&'a self, circuit: &'a Name) -> Answer<'a, ()> {
        let _ = circuit;
        unsupported("it cannot remove a circuit")
    }

    /// Reads a circuit; writes nothing.
    fn snapshot<'a>(&'a self, circuit: &'a Name, head: &'a Head) -> Answer<'a, Snapshot>;

    /// Reads several circuits. Returns one result for each, in the same order. The default reads
    /// them one after the other.
    fn snapshots<'a>(
        &'a self,
        circuits: &'a [Name],
        head: &'a Head,
    ) -> Answer<'a, Vec<Result<Snapshot, StoreError>>> {
        Box::pin(async move {
            let mut answers = Vec::with_capacity(circuits.len());
            for circuit in circuits {
                answers.push(self.snapshot(circuit, head).await);
            }
            Ok(answers)
        })
    }

    /// Returns what was reported of several circuits in their last hour of use, oldest first, at
    /// most `most` intervals for each.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] (the default) if the store keeps no history.
    fn history<'a>(&'a self, circuits: &'a [Name], most: usize) -> Answer<'a, Vec<Vec<Interval>>> {
        let _ = (circuits, most);
        unsupported("it keeps no past")
    }

    /// Returns everything kept of what was reported of a circuit, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] (the default) if the store keeps no history.
    fn past<'a>(&'a self, circuit: &'a Name) -> Answer<'a, Vec<Slice>> {
        let _ = circuit;
        unsupported("it keeps no past")
    }

    /// Returns the members of a circuit at a time by the store's clock, such as a snapshot's.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] (the default) if the store does not know the members.
    fn members<'a>(&'a self, circuit: &'a Name, now_ms: u64) -> Answer<'a, Members> {
        let _ = (circuit, now_ms);
        unsupported("it does not tell who takes part in a circuit")
    }

    /// Asks for permission to send an alert, or reports what became of it, in one atomic step.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] (the default) if the store cannot decide who sends.
    fn claim<'a>(&'a self, circuit: &'a Name, claim: &'a Claim) -> Answer<'a, Claimed> {
        let _ = (circuit, claim);
        unsupported("it cannot decide who sends an alert")
    }

    /// Distinguishes this store's circuits from circuits of the same names in other stores, in the
    /// keys of alerts.
    ///
    /// For Redis, its prefix. Default `commontrip`.
    fn namespace(&self) -> &str {
        "commontrip"
    }

    /// Keeps bytes under a key for `for_ms` milliseconds, replacing what the key had. 0 ms forgets
    /// it.
    ///
    /// A value has at most 1 MiB and is kept for at most a year (longer times are capped). A key
    /// has 1 to 300 bytes, no control characters and no braces. Keys of values, keys of leases and
    /// names of circuits are separate. The store may lose the value.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if the key or the value breaks these limits;
    /// [`StoreError::Unsupported`] (the default) if the store keeps only circuits.
    fn keep<'a>(&'a self, key: &'a str, value: &'a [u8], for_ms: u64) -> Answer<'a, ()> {
        let _ = (key, value, for_ms);
        unsupported("it keeps circuits only")
    }

    /// Keeps bytes as [`keep`](Self::keep) does, if the owner still has the [`lease`](Self::lease)
    /// of the same key; otherwise writes nothing and returns `false`. The check and the write are
    /// one atomic step.
    ///
    /// # Errors
    /// As [`keep`](Self::keep), and [`StoreError::Invalid`] for 0 ms.
    fn keep_leased<'a>(
        &'a self,
        key: &'a str,
        owner: &'a str,
        value: &'a [u8],
        for_ms: u64,
    ) -> Answer<'a, bool> {
        let _ = (key, owner, value, for_ms);
        unsupported("it gives no leases")
    }

    /// Returns the bytes under a key, or `None` if they expired or were lost.
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    fn kept<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        let _ = key;
        unsupported("it keeps circuits only")
    }

    /// Keeps bytes as [`keep`](Self::keep) does, in a group of at most `most_bytes`: the values
    /// that would expire soonest are evicted to make room. Each group has its own keys.
    ///
    /// A value's size includes its key and 128 bytes. Names of groups follow the rules for keys.
    /// The default keeps the value under `group:key`, without the bound.
    ///
    /// # Errors
    /// As [`keep`](Self::keep), and [`StoreError::Invalid`] for a value larger than `most_bytes`.
    fn keep_in<'a>(
        &'a self,
        group: &'a str,
        key: &'a str,
        value: &'a [u8],
        for_ms: u64,
        most_bytes: u64,
    ) -> Answer<'a, ()> {
        let _ = most_bytes;
        let key = format!("{group}:{key}");
        Box::pin(async move { self.keep(&key, value, for_ms).await })
    }

    /// Returns the bytes under a key in a group, or `None` if they were evicted or lost. Expired
    /// bytes may be returned until the next write to the group.
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    fn kept_in<'a>(&'a self, group: &'a str, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        let key = format!("{group}:{key}");
        Box::pin(async move { self.kept(&key).await })
    }

    /// Takes or renews a lease for `for_ms` milliseconds; 0 gives it back. Returns whether the
    /// caller has it, or has given it back; `false` means that another owner has it and keeps it.
    ///
    /// A lease expires even while its holder is still working. Keys follow the rules of
    /// [`keep`](Self::keep); an owner has 1 to 300 bytes.
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    fn lease<'a>(&'a self, key: &'a str, owner: &'a str, for_ms: u64) -> Answer<'a, bool> {
        let _ = (key, owner, for_ms);
        unsupported("it gives no leases")
    }

    /// Returns the transitions after a generation, and the changes of the stored policy in that
    /// generation or later, oldest first. The newest 256 are kept.
    fn events<'a>(&'a self, circuit: &'a Name, after: u64) -> Answer<'a, Vec<Event>>;

    /// Returns the names of recently used circuits, sorted. A new circuit may appear a moment
    /// later. A store may leave out the oldest of more than [`MOST_CIRCUITS`].
    fn circuits(&self) -> Answer<'_, Vec<String>>;

    /// Returns the names of the most recently used [`circuits`](Self::circuits), at most `most`,
    /// sorted, and whether there are more. The default returns the first names in sorted order.
    fn index(&self, most: usize) -> Answer<'_, (Vec<String>, bool)> {
        Box::pin(async move {
            let mut names = self.circuits().await?;
            let more = names.len() > most;
            names.truncate(most);
            Ok((names, more))
        })
    }

    /// Returns the same store with at least this timeout, or `None` (the default) if the store has
    /// no timeout.
    fn patient(&self, timeout: Duration) -> Option<Arc<dyn Store>> {
        let _ = timeout;
        None
    }

    /// Returns which part of the store keeps a circuit: circuits with the same number fail
    /// together.
    ///
    /// Default 0 for all. The number may change. The method may be called at any time and does no
    /// I/O.
    fn shard(&self, circuit: &Name) -> u16 {
        let _ = circuit;
        0
    }

    /// Returns whether every answer is ready at once, without I/O: `acquire`, `report` and
    /// `release` never wait.
    ///
    /// Such a store decides within the call that asks or reports, inside or outside a runtime.
    /// Default `false`.
    fn is_immediate(&self) -> bool {
        false
    }

    /// Checks whether the store answers.
    fn ping(&self) -> Answer<'_, ()>;

    /// Sends notices about the followed circuits until the connection breaks (an error) or nobody
    /// receives them any more (`Ok`). A store that cannot push returns [`StoreError::Unsupported`].
    fn listen(
        &self,
        followed: watch::Receiver<BTreeSet<Name>>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Answer<'_, ()>;
}
