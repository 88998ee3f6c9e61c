//! Where circuits live: the trait [`Store`] and its two implementations.
//!
//! Owns storage, transport and the clock; knows nothing of permits, caches or callers.

mod clock;
mod keeping;
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
    redis::{Check, RedisPool, RedisStore, RedisStoreBuilder, Verdict},
};
use crate::model::{
    Acquire, Claim, Control, Event, Grant, Head, Interval, Members, Name, Release, Report, Snapshot,
};

/// How many circuits are listed at most.
pub const MOST_CIRCUITS: usize = 20_000;

/// A store's answer, some time from now.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Why a store did not answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It took longer than the store's timeout.
    #[error("the store did not answer within {0:?}")]
    Timeout(Duration),
    /// It cannot be reached, or the connection broke.
    #[error("the store cannot be reached")]
    Unreachable(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// It answered that it can serve nobody now: it loads its data, is a replica, is out of memory,
    /// is busy with a script, lacks its Cluster, or gives this user no leave.
    #[error("the store cannot serve: {0}")]
    Unable(String),
    /// It answered this request, or those of this circuit, with an error.
    #[error("the store refused: {0}")]
    Refused(String),
    /// It would refuse this request each time.
    #[error("the request is not valid: {0}")]
    Invalid(String),
    /// A newer release of this crate has written the circuit, in a format that this one does not
    /// know.
    #[error("a newer release has written the circuit; upgrade this one: {0}")]
    NewerFormat(String),
    /// It answered something that is not an answer.
    #[error("the store's answer cannot be read: {0}")]
    Unreadable(String),
}

impl StoreError {
    /// [`Unreachable`](Self::Unreachable), for this reason.
    pub fn unreachable(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unreachable(Arc::from(why.into()))
    }

    /// Whether other requests would fare no better: the store is away, not this one request wrong.
    #[must_use]
    pub const fn is_away(&self) -> bool {
        matches!(
            self,
            Self::Timeout(_) | Self::Unreachable(_) | Self::Unable(_)
        )
    }
}

fn refused<'a, T: Send + 'a>(why: &str) -> Answer<'a, T> {
    Box::pin(std::future::ready(Err(StoreError::Refused(why.to_owned()))))
}

/// An error with its causes, in one line.
pub(crate) fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some errors repeat their cause's words.
        let said = error.to_string();
        if !words.contains(&said) {
            words = format!("{words}: {said}");
        }
        cause = error.source();
    }
    words
}

/// News of the circuits that a listener follows.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The listener hears: every circuit that it follows as of now; what came before may have
    /// been missed.
    Listening(BTreeSet<Name>),
    /// A circuit has changed.
    Changed(Name, Box<Snapshot>),
}

/// Keeps circuits and makes their transitions atomically.
///
/// # Contract
/// - Each operation on one circuit is atomic and behaves as the function of the same name of
///   [`model::Circuit`](crate::model::Circuit), with the store's own clock (or `now_ms` where it
///   is not 0).
/// - An operation that fails may or may not have happened. `acquire`, `report` and `release` may
///   be repeated as they are: the token and the number make the repetition harmless.
/// - Every operation ends by itself, in bounded time.
/// - A circuit that was never written reads as closed, generation 0.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Asks for leave to make one call.
    fn acquire<'a>(&'a self, circuit: &'a Name, request: &'a Acquire) -> Answer<'a, Grant>;

    /// Files reports of several circuits; one result each, in the same order.
    fn report<'a>(
        &'a self,
        batch: &'a [(Name, Report)],
    ) -> Answer<'a, Vec<Result<Snapshot, StoreError>>>;

    /// Gives a probe permit back.
    fn release<'a>(&'a self, circuit: &'a Name, request: &'a Release) -> Answer<'a, Snapshot>;

    /// Carries out an operator's command.
    fn control<'a>(&'a self, circuit: &'a Name, request: &'a Control) -> Answer<'a, Snapshot>;

    /// Reads a circuit; writes nothing.
    fn snapshot<'a>(&'a self, circuit: &'a Name, head: &'a Head) -> Answer<'a, Snapshot>;

    /// Reads several circuits; one result each, in the same order. By default one after the other.
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

    /// What was reported of several circuits in their past hour of use, oldest first, at most so many
    /// slices each.
    ///
    /// # Errors
    /// [`StoreError::Refused`], which is the default, when the store keeps no past.
    fn history<'a>(&'a self, circuits: &'a [Name], most: usize) -> Answer<'a, Vec<Vec<Interval>>> {
        let _ = (circuits, most);
        refused("it keeps no past")
    }

    /// Who takes part in a circuit, as of a time by the store's clock, such as a snapshot's.
    ///
    /// # Errors
    /// [`StoreError::Refused`], which is the default, when the store cannot tell.
    fn members<'a>(&'a self, circuit: &'a Name, now_ms: u64) -> Answer<'a, Members> {
        let _ = (circuit, now_ms);
        refused("it does not tell who takes part in a circuit")
    }

    /// Asks to send an alert, or says that it was sent: 0 where the caller is to send it, else how many
    /// ms to wait before asking again.
    ///
    /// # Errors
    /// [`StoreError::Refused`], which is the default, when the store cannot decide who sends.
    fn claim<'a>(&'a self, circuit: &'a Name, claim: &'a Claim) -> Answer<'a, u64> {
        let _ = (circuit, claim);
        refused("it cannot decide who sends an alert")
    }

    /// Keeps bytes under a key for so many ms, in place of what was kept there; 0 ms forgets it.
    ///
    /// At most 1 MiB, for a year (longer is a year). A key has 1 to 300 bytes, no control characters and
    /// no braces; keys of values, of leases and names of circuits are apart. The store may lose it.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for such a key or so long a value; [`StoreError::Refused`], which is the
    /// default, when the store keeps circuits only.
    fn keep<'a>(&'a self, key: &'a str, value: &'a [u8], for_ms: u64) -> Answer<'a, ()> {
        let _ = (key, value, for_ms);
        refused("it keeps circuits only")
    }

    /// What is kept under a key; `None` when its time is over, or it was lost.
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    fn kept<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        let _ = key;
        refused("it keeps circuits only")
    }

    /// Takes a lease for so many ms, or renews it; 0 ms gives it back. Whether the caller has it, or has
    /// given it back: `false` when another owner has it, and then nothing is changed.
    ///
    /// It ends by itself, also under who still works by it. Keys are as those of [`keep`](Self::keep); an
    /// owner has 1 to 300 bytes.
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    fn lease<'a>(&'a self, key: &'a str, owner: &'a str, for_ms: u64) -> Answer<'a, bool> {
        let _ = (key, owner, for_ms);
        refused("it gives no leases")
    }

    /// Transitions after a generation, and changes of the stored policy in it or later, oldest first; the
    /// newest 256 are kept.
    fn events<'a>(&'a self, circuit: &'a Name, after: u64) -> Answer<'a, Vec<Event>>;

    /// Names of the circuits that were used lately, sorted; a new one may come a moment later. A
    /// store may leave out the oldest of more than [`MOST_CIRCUITS`].
    fn circuits(&self) -> Answer<'_, Vec<String>>;

    /// Those of [`circuits`](Self::circuits) that were used last, at most so many, sorted; and
    /// whether there are more. By default the first of them all.
    fn index(&self, most: usize) -> Answer<'_, (Vec<String>, bool)> {
        Box::pin(async move {
            let mut names = self.circuits().await?;
            let more = names.len() > most;
            names.truncate(most);
            Ok((names, more))
        })
    }

    /// The same store with answers that may take this long, where it would not wait for so long
    /// itself; `None`, which is the default, where it has no such limit.
    fn patient(&self, timeout: Duration) -> Option<Arc<dyn Store>> {
        let _ = timeout;
        None
    }

    /// Which part of the store keeps a circuit: circuits with the same number fail together.
    ///
    /// Default 0 for all. May change, and may be called at any time; no I/O.
    fn shard(&self, circuit: &Name) -> u16 {
        let _ = circuit;
        0
    }

    /// Whether every answer is ready at once, without I/O: `acquire`, `report` and `release` never
    /// wait.
    ///
    /// Such a store decides within the call that asks or reports, in or outside of a runtime.
    /// Default `false`.
    fn is_immediate(&self) -> bool {
        false
    }

    /// Asks whether the store is there.
    fn ping(&self) -> Answer<'_, ()>;

    /// Sends news of the followed circuits until the connection breaks (an error) or nobody
    /// takes them (`Ok`). A store without a way to push returns [`StoreError::Refused`].
    fn listen(
        &self,
        followed: watch::Receiver<BTreeSet<Name>>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Answer<'_, ()>;
}
