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
    sync::Arc,
    time::Duration,
};

use deadpool_redis::{Connection, Pool, PoolConfig, Runtime, Timeouts};
use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline,
    RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection, from_redis_value,
};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use self::{
    keys::Prefix,
    scripts::{Operation, Scripts},
};
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

    /// Sends a pipeline and waits for its answers, within the timeout; a connection that fails is
    /// not kept.
    ///
    /// One that turns out to be broken says nothing of Redis (an idle limit, a proxy, a
    /// failover): what may be repeated is sent once more on a new one.
    async fn send(&self, pipeline: &Pipeline, operation: Option<&Operation>) -> Answers {
        let run = async {
            match self.attempt(pipeline, operation).await {
                Err(StoreError::Unreachable(_)) if operation.is_none_or(|o| o.repeatable) => {
                    self.drop_connection();
                    self.attempt(pipeline, operation).await
                }
                answers => answers,
            }
        };
        // Also when the caller gives up first: then nobody knows what the connection is worth.
        let doubt = Doubt(self);
        let answers = tokio::time::timeout(self.timeout, run).await;
        let answers = answers.unwrap_or(Err(StoreError::Timeout(self.timeout)));
        if !matches!(
            answers,
            Err(StoreError::Timeout(_) | StoreError::Unreachable(_))
        ) {
            std::mem::forget(doubt);
        }
        answers
    }

    /// Sends a pipeline; loads its script where that is missing.
    async fn attempt(&self, pipeline: &Pipeline, operation: Option<&Operation>) -> Answers {
        let mut connection = self.connection().await?;
        let sent: RedisResult<Vec<_>> = pipeline.query_async(&mut connection).await;
        let answers = sent.map_err(wire::error)?;
        let missing = |answer: &RedisResult<Value>| {
            let no_script = ErrorKind::Server(ServerErrorKind::NoScript);
            answer.as_ref().is_err_and(|e| e.kind() == no_script)
        };
        let Some(operation) = operation.filter(|_| answers.iter().any(missing)) else {
            return Ok(answers);
        };
        let loaded = operation.script.load_async(&mut connection).await;
        loaded.map_err(wire::error)?;
        // A batch of several may be repeated as it is; a single one was not carried out.
        let sent = pipeline.query_async(&mut connection).await;
        sent.map_err(wire::error)
    }

    /// Runs one script for several circuits in one pipeline.
    async fn run<'a, T: Serialize + 'a>(
        &self,
        operation: &Operation,
        batch: impl Iterator<Item = (&'a Name, &'a T)>,
    ) -> Answers {
        let mut pipeline = Pipeline::new();
        pipeline.ignore_errors();
        for (name, request) in batch {
            let keys = self.prefix.all(name);
            pipeline
                .cmd("EVALSHA")
                .arg(operation.script.get_hash())
                .arg(keys.len())
                .arg(&keys);
            pipeline.arg(wire::encode(request)?);
        }
        self.send(&pipeline, Some(operation)).await
    }

    async fn one<T: Serialize, R: wire::Reply>(
        &self,
        operation: &Operation,
        name: &Name,
        request: &T,
    ) -> Result<R, StoreError> {
        let answers = self
            .run(operation, std::iter::once((name, request)))
            .await?;
        wire::decode_answer(only(answers)?)
    }

    /// Sends one command that may be repeated.
    async fn command<R: FromRedisValue>(&self, command: Cmd) -> Result<R, StoreError> {
        let mut pipeline = Pipeline::new();
        pipeline.ignore_errors().add_command(command);
        let answer = only(self.send(&pipeline, None).await?)?;
        let read = from_redis_value(answer.map_err(wire::error)?);
        read.map_err(|e| StoreError::Unreadable(e.to_string()))
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
        pipeline.ignore_errors();
        for (name, now) in &due {
            pipeline.zadd(&key, name.as_str(), *now);
        }
        pipeline.zrembyscore(&key, "-inf", newest.saturating_sub(INDEX_KEEPS_MS));
        pipeline.pexpire(&key, INDEX_KEEPS_MS as i64);
        if self.send(&pipeline, None).await.is_ok() {
            let renewed = due.into_iter().map(|(name, now)| (name.clone(), now));
            self.indexed.lock().extend(renewed);
        }
    }
}

/// What a pipeline's commands were answered, each for itself.
type Answers = Result<Vec<RedisResult<Value>>, StoreError>;

fn only(mut answers: Vec<RedisResult<Value>>) -> Result<RedisResult<Value>, StoreError> {
    let answer = answers.pop();
    answer.ok_or_else(|| StoreError::Unreadable("no answer".to_owned()))
}

/// Lets the kept connection go on drop.
struct Doubt<'a>(&'a Inner);

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        self.0.drop_connection();
    }
}

/// How many transitions are read at first; mostly one or two are new.
const FEW_EVENTS: usize = 8;

impl Store for RedisStore {
    fn acquire<'a>(&'a self, circuit: &'a Name, request: &'a Acquire) -> Answer<'a, Grant> {
        Box::pin(self.0.one(&self.0.scripts.acquire, circuit, request))
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
            let answers: Vec<Result<Snapshot, _>> =
                answers.into_iter().map(wire::decode_answer).collect();
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
        Box::pin(self.0.one(&self.0.scripts.release, circuit, request))
    }

    fn control<'a>(&'a self, circuit: &'a Name, request: &'a Control) -> Answer<'a, Snapshot> {
        Box::pin(async move {
            let control = &self.0.scripts.control;
            let snapshot: Snapshot = self.0.one(control, circuit, request).await?;
            self.0.index(&[(circuit, snapshot.now_ms)]).await;
            Ok(snapshot)
        })
    }

    fn snapshot<'a>(&'a self, circuit: &'a Name, head: &'a Head) -> Answer<'a, Snapshot> {
        Box::pin(self.0.one(&self.0.scripts.snapshot, circuit, head))
    }

    fn events<'a>(&'a self, circuit: &'a Name, after: u64) -> Answer<'a, Vec<Event>> {
        Box::pin(async move {
            let newest_first = || {
                let mut read = redis::cmd("XREVRANGE");
                read.arg(self.0.prefix.events(circuit)).arg("+").arg("-");
                read
            };
            let mut few = newest_first();
            few.arg("COUNT").arg(FEW_EVENTS);
            let mut entries: Vec<(String, Value)> = self.0.command(few).await?;
            let oldest = entries.last().and_then(|(_, fields)| wire::event(fields));
            if entries.len() == FEW_EVENTS && oldest.is_none_or(|e| e.generation > after + 1) {
                entries = self.0.command(newest_first()).await?;
            }
            let events = entries.iter().rev();
            let events = events.filter_map(|(_, fields)| wire::event(fields));
            Ok(events.filter(|e| e.generation > after).collect())
        })
    }

    fn circuits(&self) -> Answer<'_, Vec<String>> {
        Box::pin(async move {
            let mut read = redis::cmd("ZRANGE");
            read.arg(self.0.prefix.index()).arg(0).arg(-1);
            let members: Vec<Vec<u8>> = self.0.command(read).await?;
            // What is no name was not written by us.
            let names = members
                .into_iter()
                .filter_map(|m| String::from_utf8(m).ok());
            let mut names: Vec<_> = names.filter(|name| Name::new(name).is_ok()).collect();
            names.sort();
            Ok(names)
        })
    }

    fn ping(&self) -> Answer<'_, ()> {
        Box::pin(self.0.command(redis::cmd("PING")))
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
