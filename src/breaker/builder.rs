//! How a registry is built.
//!
//! Owns what can be set and which of it is refused; starts nothing itself.

use std::{fmt, sync::Arc, time::Duration};

use tokio::runtime::Handle;

use super::{
    BuildError, Commontrip,
    cell::{IDLE_TIMEOUT, YEAR},
    host,
};
#[cfg(doc)]
use super::{CircuitBreaker, Health};
use crate::store::{Clock, MemoryStore, RedisPool, RedisStore, RedisStoreBuilder, Store};

/// Builds a [`Commontrip`].
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
        // URLs and pools have passwords.
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

    /// Keeps circuits in the Redis of a URL: `redis://`, `redis-sentinel://`, `redis-cluster://`,
    /// or with TLS `rediss…://`; their forms are those of
    /// [`RedisStoreBuilder::open`](crate::RedisStoreBuilder::open).
    ///
    /// What a URL cannot say (certificates, a password's file) a
    /// [`RedisStore`](crate::RedisStore::builder) can, given to [`store`](Self::store).
    pub fn redis(mut self, url: &str) -> Self {
        self.place = Place::Url(url.to_owned());
        self
    }

    /// Keeps circuits in the Redis of a deadpool-redis pool of yours: one server, Sentinel or
    /// Cluster.
    ///
    /// `push` is the URL on which changes are heard, which a pool cannot. Without it a change made
    /// by another replica is noticed within `decision_ttl`, for which calls ask.
    pub fn redis_pool(mut self, pool: impl Into<RedisPool>, push: Option<&str>) -> Self {
        self.place = Place::Pool(pool.into(), push.map(str::to_owned));
        self
    }

    /// Keeps circuits in a store of yours; a [`MemoryStore`] given to several registries is a
    /// fleet in one process.
    pub fn store(mut self, store: impl Store) -> Self {
        self.place = Place::Other(Arc::new(store));
        self
    }

    /// Sets how keys in Redis begin. Default `commontrip`.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.redis = self.redis.prefix(prefix);
        self
    }

    /// Sets how long a call may wait for the store at most. Range `1 ms..=1 year`, default 50 ms.
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.store_timeout = timeout.clamp(Duration::from_millis(1), YEAR);
        self
    }

    /// Sets how long a circuit is kept that nobody holds or uses. Range `10 ms..=1 year`, default
    /// 10 minutes.
    ///
    /// It is held as long as there is a [`CircuitBreaker`], a [`Permit`](crate::Permit) or an
    /// [`Events`](crate::Events) of it, or an [`on_event`](Commontrip::on_event) hook, which
    /// listens to all. It is let go when everything was sent, unless an override is in force, its
    /// wait is not over or the store is away. Taken again it is the same circuit, as the store has
    /// it; its [`stats`](Commontrip::stats) begin at 0.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout.clamp(Duration::from_millis(10), YEAR);
        self
    }

    /// Names this registry; unique in the fleet, 1 to 100 printable characters without spaces.
    /// Default: host name and process id. A random part is added, new at each start.
    pub fn replica(mut self, name: &str) -> Self {
        self.replica = Some(name.to_owned());
        self
    }

    /// Takes time from this clock. Default: the system's. Redis goes by its own.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the registry and starts its tasks on the present runtime.
    ///
    /// When that runtime ends before the registry, circuits go on as after
    /// [`shutdown`](Commontrip::shutdown); it is logged once, and [`Health::ended`] says so. So a
    /// registry that several `#[tokio::test]`s share works in all of them, but shares its circuits
    /// with other processes only as long as the test lasts that made it.
    ///
    /// # Errors
    /// [`BuildError::NoRuntime`] outside of a tokio runtime; [`BuildError::Store`] when the URL or
    /// the prefix is not one; [`BuildError::Replica`] when the replica's name is not one.
    pub fn build(self) -> Result<Commontrip, BuildError> {
        let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        let name = self.replica.unwrap_or_else(host::replica_name);
        let printable = |c: char| !c.is_control() && !c.is_whitespace();
        if name.is_empty() || name.len() > 100 || !name.chars().all(printable) {
            return Err(BuildError::Replica(name));
        }
        // Numbers of reports and permits begin anew with each registry: a restarted replica must
        // not be taken for its former self.
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
