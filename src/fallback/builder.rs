//! Settings of a [`LastGood`].

use std::{fmt, marker::PhantomData, time::Duration};

use super::{copies::Bounds, last_good::LastGood, values::Values};
use crate::{Clock, Commontrip};

/// The longest `ttl`: stores keep a value for at most a year.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Why a [`LastGood`] cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LastGoodError {
    /// The name is invalid.
    #[error("{0:?} cannot be a name: 1 to 100 bytes, no control characters, braces or colons")]
    Name(String),
    /// The time to live is out of range.
    #[error("a ttl of {0:?} is not possible: 1 ms to a year")]
    Ttl(Duration),
    /// The limit leaves no room for a value.
    #[error("max_entries is 0; it must be 1 or more")]
    MaxEntries,
    /// The limit leaves no room for a value.
    #[error("max_entry_bytes is {0}; it must be 1 or more")]
    MaxEntryBytes(usize),
    /// The limit leaves no room for a value.
    #[error("{0} is 0; it must be 1 or more")]
    MaxBytes(&'static str),
}

/// Configures what a [`LastGood`] keeps, and for how long.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use std::time::Duration;
/// use commontrip::fallback::LastGood;
///
/// let rates: LastGood<f64> = LastGood::builder("rates")
///     .ttl(Duration::from_secs(3600))
///     .max_entries(100)
///     .shared(&circuits)
///     .build()?;
/// # Ok(()) }
/// ```
#[must_use]
pub struct LastGoodBuilder<T> {
    name: String,
    ttl: Duration,
    refresh: Duration,
    max_entries: u64,
    max_entry_bytes: usize,
    max_bytes: u64,
    max_waiting_bytes: u64,
    max_shared_bytes: u64,
    clock: Clock,
    circuits: Option<Commontrip>,
    _values: PhantomData<fn(T) -> T>,
}

impl<T> LastGood<T> {
    /// Starts with the defaults. In the store, this name and a key identify a value: replicas that
    /// use the same name share their values. 1 to 100 bytes, without control characters, braces and
    /// colons.
    pub fn builder(name: &str) -> LastGoodBuilder<T> {
        LastGoodBuilder::new(name)
    }
}

impl<T> LastGoodBuilder<T> {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ttl: Duration::from_secs(3600),
            refresh: Duration::from_secs(1),
            max_entries: 1000,
            max_entry_bytes: usize::MAX,
            max_bytes: 64 << 20,
            max_waiting_bytes: 64 << 20,
            max_shared_bytes: 8 << 20,
            clock: Clock::system(),
            circuits: None,
            _values: PhantomData,
        }
    }

    /// Sets how old a value may be. Range 1 ms to a year, default 1 h.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the shortest interval at which a key's value is replaced and written to the store, and
    /// at which the store is asked for a newer one. Default 1 s; 0 means every time.
    pub const fn refresh(mut self, every: Duration) -> Self {
        self.refresh = every;
        self
    }

    /// Sets how many keys this process keeps; the least recently used are evicted first. Range
    /// `1..`, default 1000. Evicted values are still served from the store.
    pub const fn max_entries(mut self, most: u64) -> Self {
        self.max_entries = most;
        self
    }

    /// Sets how many bytes this process keeps, keys and values as `MessagePack`; the least recently
    /// used are evicted first. Range `1..`, default 64 MiB.
    pub const fn max_bytes(mut self, most: u64) -> Self {
        self.max_bytes = most;
        self
    }

    /// Sets how large one value may be as `MessagePack`, in bytes. A larger value is not kept, and
    /// the previous one stays. Range `1..`, default: only `max_bytes` applies. The store accepts
    /// values of up to 1 MiB; larger ones stay in this process.
    pub const fn max_entry_bytes(mut self, most: usize) -> Self {
        self.max_entry_bytes = most;
        self
    }

    /// Sets how many bytes may wait to be written to the store. Beyond that, the values that have
    /// waited longest are dropped, counted ([`LastGood::lost_writes`]) and logged once. Range
    /// `1..`, default 64 MiB. A value that also counts toward `max_bytes` is in memory only once.
    pub const fn max_waiting_bytes(mut self, most: u64) -> Self {
        self.max_waiting_bytes = most;
        self
    }

    /// Sets how many bytes the store keeps under this name for all replicas; each value counts with
    /// its key and 128 bytes. To make room, the values that expire soonest are evicted: with one
    /// `ttl`, the oldest. Range `1..`, default 8 MiB. If replicas have different settings, each
    /// write follows the writer's own.
    ///
    /// Choose it so that all names together take no more than half of what Redis' `maxmemory`
    /// leaves beside circuits.
    pub const fn max_shared_bytes(mut self, most: u64) -> Self {
        self.max_shared_bytes = most;
        self
    }

    /// Also keeps values in this registry's store, for all replicas; the registry lives as long as
    /// this `LastGood`. Default: in this process only.
    pub fn shared(mut self, circuits: &Commontrip) -> Self {
        self.circuits = Some(circuits.clone());
        self
    }

    /// Sets the clock that ages are measured with. Default: the system clock.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The first setting that is out of its range.
    pub(crate) fn out_of_range(&self) -> Option<(&'static str, LastGoodError)> {
        if self.ttl < Duration::from_millis(1) || self.ttl > YEAR {
            return Some(("ttl", LastGoodError::Ttl(self.ttl)));
        }
        if self.max_entries == 0 {
            return Some(("max_entries", LastGoodError::MaxEntries));
        }
        if self.max_entry_bytes == 0 {
            return Some(("max_entry_bytes", LastGoodError::MaxEntryBytes(0)));
        }
        let bytes = [
            ("max_bytes", self.max_bytes),
            ("max_waiting_bytes", self.max_waiting_bytes),
            ("max_shared_bytes", self.max_shared_bytes),
        ];
        let (setting, _) = bytes.into_iter().find(|(_, bytes)| *bytes == 0)?;
        Some((setting, LastGoodError::MaxBytes(setting)))
    }

    #[cfg(feature = "config")]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Sets the setting that a configuration file calls `key`.
    #[cfg(feature = "config")]
    pub(crate) fn set(&mut self, key: &str, number: u64) {
        let time = Duration::from_millis(number);
        match key {
            "ttl_ms" => self.ttl = time,
            "refresh_ms" => self.refresh = time,
            "max_entries" => self.max_entries = number,
            "max_bytes" => self.max_bytes = number,
            "max_entry_bytes" => {
                self.max_entry_bytes = usize::try_from(number).unwrap_or(usize::MAX);
            }
            "max_waiting_bytes" => self.max_waiting_bytes = number,
            "max_shared_bytes" => self.max_shared_bytes = number,
            _ => {}
        }
    }

    /// Builds the [`LastGood`].
    ///
    /// # Errors
    /// [`LastGoodError`] when the name or a setting is invalid.
    pub fn build(self) -> Result<LastGood<T>, LastGoodError> {
        let bad = |c: char| c.is_control() || "{}:".contains(c);
        if self.name.is_empty() || self.name.len() > 100 || self.name.contains(bad) {
            return Err(LastGoodError::Name(self.name));
        }
        if let Some((_, error)) = self.out_of_range() {
            return Err(error);
        }
        let bounds = Bounds {
            ttl: self.ttl,
            refresh: self.refresh.min(YEAR),
            entries: self.max_entries,
            bytes: self.max_bytes,
            entry_bytes: self.max_entry_bytes as u64,
        };
        let fleets = (self.max_shared_bytes, self.max_waiting_bytes);
        let values = Values::new(self.name, bounds, fleets, self.clock, self.circuits);
        Ok(LastGood::of(values))
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
