//! Circuits in Redis: the scripts, sent through deadpool-redis.
//!
//! Owns connections and key names; decides nothing about circuits. One multiplexed connection is
//! borrowed from the pool and kept for as long as it answers.

mod keys;
mod listen;
mod scripts;
mod wire;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    future::Future,
    sync::Arc,
    time::Duration,
};

use deadpool_redis::{Connection, Pool, PoolConfig, Runtime, Timeouts};
use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, Pipeline, RedisResult, Script,
    ServerErrorKind, Value, aio::MultiplexedConnection,
};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use self::{keys::Prefix, scripts::Scripts};
use super::{Answer, Notice, Store, StoreError};
use crate::model::{Acquire, Control, Event, Grant, Head, Name, Release, Report, Snapshot};

/// How often a circuit's place in the index is renewed.
const INDEX_EVERY_MS: u64 = 60_000;
/// How long the index remembers a circuit that nobody uses.
const INDEX_KEEPS_MS: u64 = 30 * 86_400_000;

/// Builds a [`RedisStore`].
#[derive(Clone, Debug)]
#[must_use]
pub struct RedisStoreBuilder {
    prefix: String,
    timeout: Duration,
}

impl RedisStoreBuilder {
    /// Sets how keys begin: 1 to 100 bytes, no control characters, no braces. Default `commontrip`.
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Sets how long one operation may take, connecting included. Default 50 ms.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A store on the server of a URL: `redis://[user][:password@]host[:port][/database]`.
    ///
    /// Connects when first asked, not now.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the URL or the prefix is not one.
    pub fn open(self, url: &str) -> Result<RedisStore, StoreError> {
        let refused = |e: redis::RedisError| StoreError::Refused(format!("not a Redis URL: {e}"));
        let info = url.into_connection_info().map_err(refused)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout));
        let manager =
            deadpool_redis::Manager::new_with_config(info.clone(), config).map_err(refused)?;
        let pool = Pool::builder(manager)
            .config(PoolConfig {
                max_size: 4,
                timeouts: Timeouts {
                    wait: Some(self.timeout),
                    create: Some(self.timeout),
                    recycle: Some(self.timeout),
                },
                ..PoolConfig::default()
            })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|e| StoreError::Refused(e.to_string()))?;
        let client = Client::open(info).map_err(refused)?;
        self.from_pool(pool, Some(client))
    }

    /// A store on a pool of yours.
    ///
    /// `push` opens the connection on which changes are heard; a pool cannot. Without it a
    /// change made by another replica is noticed within `decision_ttl`.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the prefix is not one.
    pub fn from_pool(self, pool: Pool, push: Option<Client>) -> Result<RedisStore, StoreError> {
        let prefix = Prefix::new(&self.prefix).ok_or_else(|| {
            let given = &self.prefix;
            StoreError::Refused(format!(
                "the prefix {given:?} must have 1 to 100 bytes, no control characters and no braces"
            ))
        })?;
        Ok(RedisStore(Arc::new(Inner {
            pool,
            push,
            prefix,
            timeout: self.timeout,
            scripts: Scripts::new(),
            kept: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
            indexed: Mutex::default(),
        })))
    }
}

/// A store in Redis. Clones share the connection.
#[derive(Clone)]
pub struct RedisStore(Arc<Inner>);

struct Inner {
    pool: Pool,
    push: Option<Client>,
    prefix: Prefix,
    timeout: Duration,
    scripts: Scripts,
    kept: Mutex<Option<Connection>>,
    connecting: tokio::sync::Mutex<()>,
    /// Circuit -> when its place in the index was last renewed, Redis' clock.
    indexed: Mutex<HashMap<Name, u64>>,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The pool's Debug would show the password.
        f.debug_struct("RedisStore")
            .field("prefix", &self.0.prefix)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Starts from the defaults.
    pub fn builder() -> RedisStoreBuilder {
        RedisStoreBuilder {
            prefix: Prefix::DEFAULT.to_owned(),
            timeout: Duration::from_millis(50),
        }
    }
}

impl Inner {
    /// The kept connection, or a new one from the pool.
    async fn connection(&self) -> Result<MultiplexedConnection, StoreError> {
        let kept = || self.kept.lock().as_deref().cloned();
        if let Some(connection) = kept() {
            return Ok(connection);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(connection) = kept() {
            return Ok(connection);
        }
        let borrowed = self.pool.get().await;
        let borrowed = borrowed.map_err(|e| StoreError::Unreachable(Box::new(e)))?;
        let connection = (*borrowed).clone();
        *self.kept.lock() = Some(borrowed);
        Ok(connection)
    }

    /// Lets the kept connection go, for good: it hung or broke.
    fn drop_connection(&self) {
        if let Some(broken) = self.kept.lock().take() {
            drop(Connection::take(broken));
        }
    }

    /// Runs `work` on a connection within the timeout; a connection that fails it is not kept.
    async fn bounded<T, W, F>(&self, work: W) -> Result<T, StoreError>
    where
        W: FnOnce(MultiplexedConnection) -> F,
        F: Future<Output = Result<T, StoreError>>,
    {
        let run = async { work(self.connection().await?).await };
        // Also when the caller gives up first: then nobody knows what the connection is worth.
        let doubt = Doubt(self);
        let answer = tokio::time::timeout(self.timeout, run).await;
        let answer = answer.unwrap_or(Err(StoreError::Timeout(self.timeout)));
        if !matches!(
            answer,
            Err(StoreError::Timeout(_) | StoreError::Unreachable(_))
        ) {
            std::mem::forget(doubt);
        }
        answer
    }

    /// Runs one script for several circuits in one pipeline; loads it where it is missing.
    async fn run<'a, T: Serialize + 'a>(
        &self,
        script: &Script,
        batch: impl Iterator<Item = (&'a Name, &'a T)>,
    ) -> Result<Vec<RedisResult<Vec<u8>>>, StoreError> {
        let mut pipeline = Pipeline::new();
        pipeline.ignore_errors();
        for (name, request) in batch {
            let keys = self.prefix.all(name);
            pipeline
                .cmd("EVALSHA")
                .arg(script.get_hash())
                .arg(keys.len())
                .arg(&keys);
            pipeline.arg(wire::encode(request)?);
        }
        self.bounded(async |mut connection| {
            let missing = |answers: &[RedisResult<Vec<u8>>]| {
                let no_script = ErrorKind::Server(ServerErrorKind::NoScript);
                answers
                    .iter()
                    .any(|a| a.as_ref().is_err_and(|e| e.kind() == no_script))
            };
            let answers: Vec<_> = pipeline
                .query_async(&mut connection)
                .await
                .map_err(wire::error)?;
            if !missing(&answers) {
                return Ok(answers);
            }
            script
                .load_async(&mut connection)
                .await
                .map_err(wire::error)?;
            // Every request may be repeated as it is, so the whole batch is.
            pipeline
                .query_async(&mut connection)
                .await
                .map_err(wire::error)
        })
        .await
    }

    async fn one<T: Serialize>(
        &self,
        script: &Script,
        name: &Name,
        request: &T,
    ) -> Result<Vec<u8>, StoreError> {
        let mut answers = self.run(script, std::iter::once((name, request))).await?;
        let answer = answers.pop();
        answer
            .ok_or_else(|| StoreError::Unreadable("no answer".to_owned()))?
            .map_err(wire::error)
    }

    /// Renews places in the index of circuits. It is another slot, hence outside the scripts.
    async fn index(&self, seen: &[(&Name, u64)]) {
        let due: Vec<_> = {
            let indexed = self.indexed.lock();
            let due = |name: &Name, now: u64| {
                indexed
                    .get(name)
                    .is_none_or(|at| now.abs_diff(*at) >= INDEX_EVERY_MS)
            };
            seen.iter()
                .filter(|(name, now)| due(name, *now))
                .copied()
                .collect()
        };
        let Some(newest) = due.iter().map(|(_, now)| *now).max() else {
            return;
        };
        let key = self.prefix.index();
        let mut pipeline = Pipeline::new();
        for (name, now) in &due {
            pipeline.zadd(&key, name.as_str(), *now).ignore();
        }
        pipeline
            .zrembyscore(&key, "-inf", newest.saturating_sub(INDEX_KEEPS_MS))
            .ignore();
        pipeline.pexpire(&key, INDEX_KEEPS_MS as i64).ignore();
        let written = self
            .bounded(async |mut connection| {
                pipeline
                    .query_async::<()>(&mut connection)
                    .await
                    .map_err(wire::error)
            })
            .await;
        if written.is_ok() {
            let renewed = due.into_iter().map(|(name, now)| (name.clone(), now));
            self.indexed.lock().extend(renewed);
        }
    }

    async fn snapshot_of<T: Serialize>(
        &self,
        script: &Script,
        name: &Name,
        request: &T,
    ) -> Result<Snapshot, StoreError> {
        wire::decode(&self.one(script, name, request).await?)
    }
}

/// Lets the kept connection go on drop.
struct Doubt<'a>(&'a Inner);

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        self.0.drop_connection();
    }
}

impl Store for RedisStore {
    fn acquire<'a>(&'a self, circuit: &'a Name, request: &'a Acquire) -> Answer<'a, Grant> {
        Box::pin(async move {
            wire::decode(
                &self
                    .0
                    .one(&self.0.scripts.acquire, circuit, request)
                    .await?,
            )
        })
    }

    fn report<'a>(
        &'a self,
        batch: &'a [(Name, Report)],
    ) -> Answer<'a, Vec<Result<Snapshot, StoreError>>> {
        Box::pin(async move {
            if batch.is_empty() {
                // To the client an empty pipeline is an error.
                return Ok(Vec::new());
            }
            let requests = batch.iter().map(|(name, report)| (name, report));
            let answers = self.0.run(&self.0.scripts.report, requests).await?;
            let answers: Vec<Result<Snapshot, _>> = answers
                .into_iter()
                .map(|a| wire::decode(&a.map_err(wire::error)?))
                .collect();
            let seen: Vec<_> = batch
                .iter()
                .zip(&answers)
                .filter_map(|((name, _), a)| Some((name, a.as_ref().ok()?.now_ms)))
                .collect();
            self.0.index(&seen).await;
            Ok(answers)
        })
    }

    fn release<'a>(&'a self, circuit: &'a Name, request: &'a Release) -> Answer<'a, Snapshot> {
        Box::pin(
            self.0
                .snapshot_of(&self.0.scripts.release, circuit, request),
        )
    }

    fn control<'a>(&'a self, circuit: &'a Name, request: &'a Control) -> Answer<'a, Snapshot> {
        Box::pin(async move {
            let snapshot = self
                .0
                .snapshot_of(&self.0.scripts.control, circuit, request)
                .await?;
            self.0.index(&[(circuit, snapshot.now_ms)]).await;
            Ok(snapshot)
        })
    }

    fn snapshot<'a>(&'a self, circuit: &'a Name, head: &'a Head) -> Answer<'a, Snapshot> {
        Box::pin(self.0.snapshot_of(&self.0.scripts.snapshot, circuit, head))
    }

    fn events<'a>(&'a self, circuit: &'a Name, after: u64) -> Answer<'a, Vec<Event>> {
        let mut read = redis::cmd("XREVRANGE");
        read.arg(self.0.prefix.events(circuit)).arg("+").arg("-");
        Box::pin(self.0.bounded(async move |mut connection| {
            let entries: Vec<(String, Value)> = read
                .query_async(&mut connection)
                .await
                .map_err(wire::error)?;
            let events = entries
                .iter()
                .rev()
                .filter_map(|(_, fields)| wire::event(fields));
            Ok(events.filter(|e| e.generation > after).collect())
        }))
    }

    fn circuits(&self) -> Answer<'_, Vec<String>> {
        Box::pin(self.0.bounded(async |mut connection| {
            let mut read = redis::cmd("ZRANGE");
            read.arg(self.0.prefix.index()).arg(0).arg(-1);
            let mut names: Vec<String> = read
                .query_async(&mut connection)
                .await
                .map_err(wire::error)?;
            names.sort();
            Ok(names)
        }))
    }

    fn ping(&self) -> Answer<'_, ()> {
        Box::pin(self.0.bounded(async |mut connection| {
            redis::cmd("PING")
                .query_async::<()>(&mut connection)
                .await
                .map_err(wire::error)
        }))
    }

    fn listen(
        &self,
        followed: watch::Receiver<BTreeSet<Name>>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Answer<'_, ()> {
        Box::pin(async move {
            let Some(client) = &self.0.push else {
                return Err(StoreError::Refused(
                    "a pool without a client cannot push".to_owned(),
                ));
            };
            listen::run(client, &self.0.prefix, self.0.timeout, followed, notices).await
        })
    }
}
