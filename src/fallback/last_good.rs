//! The last good answer of each key, for when there is no new one.

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use super::kept::Kept;
use crate::{CallError, CircuitBreaker, Clock, Commontrip, Outcome};

/// The most that stores keep under one key, bytes.
const LARGEST: usize = 1 << 20;
/// The longest `ttl`: what the process' cache takes and stores keep.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Keeps the last good values of calls, and answers with them when a call fails or is rejected.
///
/// In this process, bounded; with [`shared`](LastGoodBuilder::shared) also in the store, for all replicas.
/// Clones are the same.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::{io, time::Duration};
/// use commontrip::{Commontrip, Policy, fallback::{LastGood, Source}};
///
/// let circuits = Commontrip::embedded()?;
/// let weather = circuits.circuit("weather", Policy::default())?;
/// let last_good = LastGood::builder("weather")
///     .ttl(Duration::from_secs(3600))
///     .max_entries(1000)
///     .shared(&circuits)
///     .build()?;
///
/// let now = last_good.call(&weather, "Oslo", || async { Ok::<_, io::Error>(-4) }).await?;
/// assert!(!now.stale);
/// let later = last_good.call(&weather, "Oslo", || async { Err(io::Error::other("gone")) }).await?;
/// assert_eq!((later.value, later.stale, later.from), (-4, true, Source::Process));
/// println!("as of {:?} ago", later.age);
/// # Ok(()) }
/// ```
pub struct LastGood<T> {
    kept: Arc<Kept>,
    _values: PhantomData<fn(T) -> T>,
}

/// A value, and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer<T> {
    /// The value.
    pub value: T,
    /// It is an earlier call's.
    pub stale: bool,
    /// How old it is, to the millisecond: 0 for the call's own. Of another replica's value by that one's clock and this
    /// one's, so it is wrong by what these differ; 0 where the other is ahead.
    pub age: Duration,
    /// Where it is from.
    pub from: Source,
}

/// Where an [`Answer`] is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The call.
    Call,
    /// What this process has kept.
    Process,
    /// What the store has kept, just now.
    Fleet,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Call => "call",
            Self::Process => "process",
            Self::Fleet => "fleet",
        })
    }
}

impl<T> LastGood<T> {
    /// Keeps values under this name, which with a key is theirs in the store: replicas that use the same name
    /// share them. 1 to 100 bytes without control characters, braces and colons.
    pub fn builder(name: &str) -> LastGoodBuilder<T> {
        LastGoodBuilder {
            name: name.to_owned(),
            ttl: Duration::from_secs(3600),
            refresh: Duration::from_secs(1),
            max_entries: 1000,
            max_entry_bytes: 64 * 1024,
            clock: Clock::system(),
            circuits: None,
            _values: PhantomData,
        }
    }
}

impl<T: Serialize + DeserializeOwned> LastGood<T> {
    /// [`CircuitBreaker::call`]; where it fails, times out or is rejected, the last good value of the key.
    ///
    /// # Errors
    /// The call's, when there is no good value that is young enough.
    pub async fn call<F, Fut, E>(
        &self,
        breaker: &CircuitBreaker,
        key: &str,
        call: F,
    ) -> Result<Answer<T>, CallError<E>>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.call_with(breaker, key, Outcome::of, call).await
    }

    /// [`call`](Self::call); `classify` says what the result means.
    ///
    /// An `Ok` is good when it is a [`Success`](Outcome::Success); another is returned, and not kept. An
    /// `Err` that is a [`Success`](Outcome::Success) or [`Ignored`](Outcome::Ignored) is the caller's own, and
    /// returned.
    ///
    /// # Errors
    /// As [`call`](Self::call), and the caller's own.
    pub async fn call_with<C, F, Fut, E>(
        &self,
        breaker: &CircuitBreaker,
        key: &str,
        classify: C,
        call: F,
    ) -> Result<Answer<T>, CallError<E>>
    where
        C: FnOnce(&Result<T, E>) -> Outcome,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        // What a call that was not made, or not ended, is.
        let mut outcome = Outcome::failure();
        let classify = |result: &Result<T, E>| {
            outcome = classify(result);
            outcome
        };
        match breaker.call_with(classify, call).await {
            Ok(value) => {
                if outcome == Outcome::Success {
                    self.keep(key, &value);
                }
                Ok(Answer {
                    value,
                    stale: false,
                    age: Duration::ZERO,
                    from: Source::Call,
                })
            }
            Err(error) if matches!(outcome, Outcome::Success | Outcome::Ignored) => Err(error),
            Err(error) => self.recall(key).await.ok_or(error),
        }
    }

    /// Keeps a good value that was got by other means, such as a chain of stages. Waits for nothing; outside of
    /// a tokio runtime it is kept in this process only.
    ///
    /// Does nothing where the value that is kept is younger than `refresh`, or this one too large.
    pub fn keep(&self, key: &str, value: &T) {
        self.kept.keep(key, value);
    }

    /// The last good value of a key, which is stale; `None` where there is none that is young enough.
    ///
    /// One that this process has kept within `refresh` is taken as it is. Otherwise the store is asked,
    /// each key at most once in `refresh`, for no longer than the store's timeout, and the newer of both is
    /// taken.
    pub async fn recall(&self, key: &str) -> Option<Answer<T>> {
        let found = self.kept.newest(key).await?;
        Some(Answer {
            value: found.value,
            stale: true,
            age: found.age,
            from: found.from,
        })
    }
}

impl<T> Clone for LastGood<T> {
    fn clone(&self) -> Self {
        Self {
            kept: Arc::clone(&self.kept),
            _values: PhantomData,
        }
    }
}

impl<T> fmt::Debug for LastGood<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastGood")
            .field("name", &self.kept.name)
            .field("ttl", &self.kept.ttl)
            .finish_non_exhaustive()
    }
}

/// Why a [`LastGood`] cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LastGoodError {
    /// The name is not one.
    #[error("{0:?} cannot be a name: 1 to 100 bytes, no control characters, braces or colons")]
    Name(String),
    /// The time to live is out of range.
    #[error("a ttl of {0:?} is not possible: 1 ms to a year")]
    Ttl(Duration),
    /// Nothing may be kept.
    #[error("max_entries is 0; it must be 1 or more")]
    MaxEntries,
    /// Nothing may be kept, or more than stores take.
    #[error("max_entry_bytes is {0}; it must be 1 to {LARGEST}")]
    MaxEntryBytes(usize),
}

/// Says what is kept, and for how long.
#[must_use]
pub struct LastGoodBuilder<T> {
    name: String,
    ttl: Duration,
    refresh: Duration,
    max_entries: u64,
    max_entry_bytes: usize,
    clock: Clock,
    circuits: Option<Commontrip>,
    _values: PhantomData<fn(T) -> T>,
}

impl<T> LastGoodBuilder<T> {
    /// Sets how old a value may be. Range 1 ms to a year, default 1 h.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets how often a key's value is kept anew at the most, and written to the store, and how often the store is
    /// asked for one. Default 1 s; 0 is each time.
    pub const fn refresh(mut self, every: Duration) -> Self {
        self.refresh = every;
        self
    }

    /// Sets how many keys this process keeps; those that were not used for longest go first. Range `1..`,
    /// default 1000.
    pub const fn max_entries(mut self, most: u64) -> Self {
        self.max_entries = most;
        self
    }

    /// Sets how large a value may be as `MessagePack`, bytes; a larger one is not kept, and the one before stays. Range 1
    /// to 1 MiB, default 64 KiB. The process keeps at most `max_entries` times that.
    pub const fn max_entry_bytes(mut self, most: usize) -> Self {
        self.max_entry_bytes = most;
        self
    }

    /// Keeps values in the store of this registry too, for all replicas; the registry lives as long as this. Default: in
    /// this process only.
    pub fn shared(mut self, circuits: &Commontrip) -> Self {
        self.circuits = Some(circuits.clone());
        self
    }

    /// Takes the time for ages from this clock. Default: the system's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Makes it.
    ///
    /// # Errors
    /// [`LastGoodError`] for what is out of range.
    pub fn build(self) -> Result<LastGood<T>, LastGoodError> {
        let bad = |c: char| c.is_control() || "{}:".contains(c);
        if self.name.is_empty() || self.name.len() > 100 || self.name.contains(bad) {
            return Err(LastGoodError::Name(self.name));
        }
        if self.ttl < Duration::from_millis(1) || self.ttl > YEAR {
            return Err(LastGoodError::Ttl(self.ttl));
        }
        if self.max_entries == 0 {
            return Err(LastGoodError::MaxEntries);
        }
        if self.max_entry_bytes == 0 || self.max_entry_bytes > LARGEST {
            return Err(LastGoodError::MaxEntryBytes(self.max_entry_bytes));
        }
        let kept = Kept::new(
            self.name,
            (self.ttl, self.refresh.min(YEAR)),
            (self.max_entries, self.max_entry_bytes),
            self.clock,
            self.circuits,
        );
        Ok(LastGood {
            kept: Arc::new(kept),
            _values: PhantomData,
        })
    }
}

impl<T> fmt::Debug for LastGoodBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastGoodBuilder")
            .field("name", &self.name)
            .field("ttl", &self.ttl)
            .field("shared", &self.circuits.is_some())
            .finish_non_exhaustive()
    }
}
