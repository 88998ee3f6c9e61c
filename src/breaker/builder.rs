//! The builder of a registry.
//!
//! Owns the settings and their validation; starts nothing itself.

use std::{fmt, sync::Arc, time::Duration};

use tokio::runtime::Handle;

use super::{
    BuildError, Commontrip,
    inner::{IDLE_TIMEOUT, YEAR},
    replica_name,
};
#[cfg(doc)]
use super::{CircuitBreaker, RegistryHealth};
use crate::store::{Clock, MemoryStore, RedisPool, RedisStore, RedisStoreBuilder, Store};

impl Commontrip {
    /// Returns a builder with default settings, which uses the embedded store.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use commontrip::Commontrip;
    ///
    /// let circuits = Commontrip::builder()
    ///     .redis("redis://127.0.0.1:6379")
    ///     .store_timeout(Duration::from_millis(20))
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn builder() -> CommontripBuilder {
        CommontripBuilder::new()
    }

    /// Creates a registry on the Redis at a URL, with default settings.
    ///
    /// Connects in the background: a Redis that is not up yet is not an error.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use commontrip::Commontrip;
    ///
    /// let circuits = Commontrip::redis("redis://127.0.0.1:6379")?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Same as [`CommontripBuilder::build`].
    pub fn redis(url: &str) -> Result<Self, BuildError> {
        Self::builder().redis(url).build()
    }

    /// Creates a registry for this process alone, with default settings.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use commontrip::Commontrip;
    ///
    /// let circuits = Commontrip::embedded()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Same as [`CommontripBuilder::build`].
    pub fn embedded() -> Result<Self, BuildError> {
        Self::builder().build()
    }
}

/// Builds a [`Commontrip`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use commontrip::Commontrip;
///
/// let circuits = Commontrip::builder()
///     .redis("redis://127.0.0.1:6379")
///     .prefix("shop")
///     .store_timeout(Duration::from_millis(20))
///     .replica("shop-1")
///     .build()?;
/// assert!(circuits.replica().starts_with("shop-1."));
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use]
pub struct CommontripBuilder {
    place: Place,
    redis: RedisStoreBuilder,
    store_timeout: Duration,
    idle_timeout: Duration,
    replica: Option<String>,
    clock: Clock,
}

enum Place {
    Embedded,
    Url(String),
    Pool(RedisPool, Option<String>),
    Other(Arc<dyn Store>),
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URLs and pools contain passwords.
        f.write_str(match self {
            Self::Embedded => "Embedded",
            Self::Url(_) => "Url",
            Self::Pool(..) => "Pool",
            Self::Other(_) => "Other",
        })
    }
}

impl CommontripBuilder {
    pub(super) fn new() -> Self {
        Self {
            place: Place::Embedded,
            redis: RedisStore::builder(),
            store_timeout: Duration::from_millis(50),
            idle_timeout: IDLE_TIMEOUT,
            replica: None,
            clock: Clock::system(),
        }
    }

    /// Keeps circuits in the Redis at a URL: `redis://`, `redis-sentinel://`, `redis-cluster://`,
    /// or `rediss…://` with TLS. [`RedisStoreBuilder::open`](crate::RedisStoreBuilder::open)
    /// describes their forms.
    ///
    /// For options that a URL cannot express (certificates, a password file), pass a
    /// [`RedisStore`](crate::RedisStore::builder) to [`store`](Self::store).
    pub fn redis(mut self, url: &str) -> Self {
        self.place = Place::Url(url.to_owned());
        self
    }

    /// Keeps circuits in Redis through your own deadpool-redis pool: one server, Sentinel or
    /// Cluster.
    ///
    /// `push` is the URL on which changes are received, which a pool cannot do. Without it, a
    /// change made by another replica is noticed within `decision_ttl`, because calls ask the
    /// store.
    pub fn redis_pool(mut self, pool: impl Into<RedisPool>, push: Option<&str>) -> Self {
        self.place = Place::Pool(pool.into(), push.map(str::to_owned));
        self
    }

    /// Keeps circuits in your own store. A [`MemoryStore`] given to several registries makes a
    /// fleet in one process.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use commontrip::{Clock, Commontrip, MemoryStore};
    ///
    /// let store = MemoryStore::new(Clock::system());
    /// let fleet = [
    ///     Commontrip::builder().store(store.clone()).build()?,
    ///     Commontrip::builder().store(store).build()?,
    /// ];
    /// # Ok(()) }
    /// ```
    pub fn store(mut self, store: impl Store) -> Self {
        self.place = Place::Other(Arc::new(store));
        self
    }

    /// Sets the prefix of keys in Redis. Default `commontrip`.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.redis = self.redis.prefix(prefix);
        self
    }

    /// Sets how long a call may wait for the store. Range `1 ms..=1 year`, default 50 ms.
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.store_timeout = timeout.clamp(Duration::from_millis(1), YEAR);
        self
    }

    /// Sets how long a circuit that nobody holds or uses is kept. Range `10 ms..=1 year`, default
    /// 10 minutes.
    ///
    /// A [`CircuitBreaker`], a [`Permit`](crate::Permit) or an [`Events`](crate::Events) holds its
    /// circuit. A circuit is removed once everything is sent, unless an override is in force, its
    /// wait is not over or the store is unavailable. When it is taken again, it has the state that
    /// the store has; its [`stats`](Commontrip::stats) start at 0.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout.clamp(Duration::from_millis(10), YEAR);
        self
    }

    /// Sets the name of this registry: unique in the fleet, 1 to 100 printable characters without
    /// spaces. Default: `HOSTNAME`, or else the host name and the process id; further registries of
    /// a process get a number. A random part is appended, new at each start.
    ///
    /// A [`quorum`](crate::PolicyBuilder::quorum) counts replicas by the name without the random
    /// part, so a pod that crashes and restarts repeatedly counts as one. The name should stay the
    /// same across restarts, and no two replicas should share one.
    pub fn replica(mut self, name: &str) -> Self {
        self.replica = Some(name.to_owned());
        self
    }

    /// Sets the clock. Default: the system's. Redis uses its own clock.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use commontrip::{Clock, Commontrip};
    ///
    /// let clock = Clock::manual();
    /// let circuits = Commontrip::builder().clock(clock.clone()).build()?;
    /// clock.advance(Duration::from_secs(30));
    /// # Ok(()) }
    /// ```
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Creates the registry and starts its tasks on the current runtime.
    ///
    /// If that runtime ends before the registry, circuits continue as after
    /// [`shutdown`](Commontrip::shutdown); this is logged once, and [`RegistryHealth::ended`] is
    /// `true`. So a registry that several `#[tokio::test]`s share works in all of them, but shares
    /// its circuits with other processes only until the test that created it ends.
    ///
    /// # Errors
    /// [`BuildError::NoRuntime`] outside of a tokio runtime; [`BuildError::Store`] when the URL or
    /// the prefix is invalid; [`BuildError::Replica`] when the replica's name is invalid.
    pub fn build(self) -> Result<Commontrip, BuildError> {
        let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        let name = self.replica.unwrap_or_else(replica_name::replica_name);
        let printable = |c: char| !c.is_control() && !c.is_whitespace();
        if name.is_empty() || name.len() > 100 || !name.chars().all(printable) {
            return Err(BuildError::Replica(name));
        }
        // Numbers of reports and permits start over with each registry: a restarted replica must
        // not be mistaken for its former self.
        let replica = format!("{name}.{:08x}", fastrand::u32(..));
        let redis = self.redis.timeout(self.store_timeout);
        let store: Arc<dyn Store> = match self.place {
            Place::Embedded => Arc::new(MemoryStore::new(self.clock.clone())),
            Place::Url(url) => Arc::new(redis.open(&url)?),
            Place::Pool(pool, push) => Arc::new(redis.from_pool(pool, push.as_deref())?),
            Place::Other(store) => store,
        };
        Ok(Commontrip::start(
            store,
            self.clock,
            replica,
            self.store_timeout,
            self.idle_timeout,
            runtime,
        ))
    }
}
