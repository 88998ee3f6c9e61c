//! Circuits in Redis: the scripts, sent over one persistent connection.
//!
//! Owns what is sent and how answers are decoded; decides nothing about circuits.

mod access;
mod address;
mod builder;
mod commands;
mod connection;
mod endpoint;
mod entries;
mod examine;
mod fast_path;
mod group;
mod index;
mod key_value;
mod keys;
mod listen;
mod mistyped;
mod records;
#[cfg(feature = "queue")]
mod requests;
mod scripts;
mod slots;
mod wire;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue, RedisResult, Value, from_redis_value};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

#[cfg(feature = "queue")]
pub(crate) use self::scripts::Text;
pub use self::{
    builder::RedisStoreBuilder,
    endpoint::RedisPool,
    examine::{Finding, Verdict},
};
use self::{
    connection::{Connections, Doubt},
    endpoint::Endpoint,
    index::Indexed,
    keys::Prefix,
    scripts::{Operation, Run, Scripts, replace, without_script},
};
use super::{Answer, MOST_CIRCUITS, Notice, Store, StoreError, answer_by};
use crate::model::{
    Acquire, Claim, Claimed, Control, Event, FOREVER, Grant, Head, Interval, Members, Name,
    Release, Report, Request, Slice, Snapshot,
};

/// A store in Redis. Clones share the connection.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::RedisStore;
///
/// let store = RedisStore::builder().prefix("shop").open("redis://127.0.0.1:6379")?;
/// assert_eq!(store.prefix(), "shop");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RedisStore(Arc<Inner>);

struct Inner {
    connections: Arc<Connections>,
    push: Option<Endpoint>,
    prefix: Prefix,
    timeout: Duration,
    scripts: Scripts,
    /// Lets one request at a time send the text of scripts; `sent` counts how often that was done.
    sending: tokio::sync::Mutex<()>,
    sent: AtomicU64,
    indexed: Mutex<Indexed>,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("address", &self.address())
            .field("prefix", &self.0.prefix)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Returns a builder with the default settings.
    pub fn builder() -> RedisStoreBuilder {
        RedisStoreBuilder::new()
    }

    /// Returns the store's address without passwords: host, port and database, or the nodes of a
    /// Cluster.
    #[must_use]
    pub fn address(&self) -> String {
        self.0.connections.endpoint().to_string()
    }

    /// Returns the prefix of all keys.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.0.prefix.as_str()
    }

    fn new(prefix: Prefix, timeout: Duration, from: Endpoint, push: Option<Endpoint>) -> Self {
        Self::on(Connections::new(from, timeout), prefix, timeout, push)
    }

    fn on(
        connections: Arc<Connections>,
        prefix: Prefix,
        timeout: Duration,
        push: Option<Endpoint>,
    ) -> Self {
        Self(Arc::new(Inner {
            connections,
            push,
            prefix,
            timeout,
            scripts: Scripts::new(),
            sending: tokio::sync::Mutex::default(),
            sent: AtomicU64::new(0),
            indexed: Mutex::default(),
        }))
    }
}

impl Inner {
    /// Sends commands and waits for their answers until the deadline. A connection that fails is
    /// not kept.
    ///
    /// A broken connection does not mean that Redis is unavailable (an idle limit, a proxy, a
    /// failover), so repeatable commands are sent once more on a new one.
    async fn send(&self, commands: &[Cmd], repeatable: bool, deadline: Instant) -> Answers {
        let run = async {
            match self.attempt(commands, deadline).await {
                Err(StoreError::Unreachable(_)) if repeatable => {
                    self.attempt(commands, deadline).await
                }
                answers => answers,
            }
        };
        let answers = answer_by(deadline, self.timeout, run).await;
        answers.unwrap_or(Err(StoreError::Timeout(self.timeout)))
    }

    async fn attempt(&self, commands: &[Cmd], deadline: Instant) -> Answers {
        let mut up = self.connections.get().await?;
        // Also if the caller gives up first: then the state of the connection is unknown.
        let doubt = Doubt::of(&self.connections, &up);
        // Earlier than the overall deadline, so that a missing answer does not discard the others.
        let each = deadline - self.timeout / 10;
        let answers = up
            .connection
            .send(commands, each)
            .await
            .map_err(wire::error)?;
        if !answers.iter().any(wire::is_of_the_connection) {
            doubt.dispel();
        }
        Ok(answers)
    }

    /// Runs one operation on several circuits at once. Requests with a brief form take the fast
    /// path first, and the full path if the fast path does not apply.
    async fn run<'a, T: Request + 'a>(
        &self,
        operation: &Operation,
        batch: impl Iterator<Item = (&'a Name, &'a T)>,
    ) -> Answers {
        let deadline = Instant::now() + self.timeout;
        let batch: Vec<_> = batch.collect();
        let general = |(name, request): (&Name, &T)| {
            Ok(operation.general(&self.prefix, name, wire::encode(request)?))
        };
        let first = |(name, request): (&'a Name, &'a T)| {
            let brief = request.brief();
            match brief.and_then(|brief| operation.on_fast_path(&self.prefix, name, brief)) {
                Some(run) => Ok(run),
                None => general((name, request)),
            }
        };
        let runs: Result<Vec<_>, StoreError> = batch.iter().copied().map(first).collect();
        let mut answers = self
            .evaluate(&runs?, operation.repeatable, deadline)
            .await?;
        let passed_over: Vec<_> = (0..answers.len())
            .filter(|i| matches!(answers[*i], Ok(Value::Nil)))
            .collect();
        if !passed_over.is_empty() {
            let runs: Result<Vec<_>, StoreError> =
                passed_over.iter().map(|i| general(batch[*i])).collect();
            let again = self
                .evaluate(&runs?, operation.repeatable, deadline)
                .await?;
            replace(&mut answers, passed_over, again);
        }
        Ok(answers)
    }

    /// Runs scripts by their hash, and sends the text of those that Redis does not have.
    async fn evaluate(&self, runs: &[Run<'_>], repeatable: bool, deadline: Instant) -> Answers {
        let mut sent = self.sent.load(Ordering::SeqCst);
        let commands: Vec<_> = runs.iter().map(Run::by_hash).collect();
        let mut answers = self.send(&commands, repeatable, deadline).await?;
        let mut texts = 1;
        loop {
            let lacking = without_script(&answers);
            if lacking.is_empty() {
                return Ok(answers);
            }
            // Redis has lost its scripts, or this node never had them. One request sends the text;
            // the others wait for that and try again.
            let turn = answer_by(deadline, self.timeout, self.sending.lock()).await;
            let turn = turn.ok_or(StoreError::Timeout(self.timeout))?;
            let now = self.sent.load(Ordering::SeqCst);
            let turn = Some(turn).filter(|_| now == std::mem::replace(&mut sent, now));
            let mut seen: HashMap<&str, usize> = HashMap::new();
            let command = |i: &usize| {
                let before = seen.entry(runs[*i].hash()).or_default();
                *before += 1;
                match turn.is_some() && *before <= texts {
                    true => runs[*i].in_full(),
                    false => runs[*i].by_hash(),
                }
            };
            let commands: Vec<_> = lacking.iter().map(command).collect();
            let again = self.send(&commands, repeatable, deadline).await?;
            if turn.is_some() {
                sent = self.sent.fetch_add(1, Ordering::SeqCst) + 1;
                // If a script is still missing, another node of a Cluster lacks it too.
                texts *= 2;
            }
            replace(&mut answers, lacking, again);
        }
    }

    async fn one<T: Request, R: wire::Reply>(
        &self,
        operation: &Operation,
        name: &Name,
        request: &T,
    ) -> Result<R, StoreError> {
        let answers = self
            .run(operation, std::iter::once((name, request)))
            .await?;
        wire::decode_answer(only(answers)?, request.head())
    }

    /// Sends one command that may be repeated.
    async fn command<R: FromRedisValue>(&self, command: Cmd) -> Result<R, StoreError> {
        let deadline = Instant::now() + self.timeout;
        let answer = only(self.send(&[command], true, deadline).await?)?;
        let read = from_redis_value(answer.map_err(wire::error)?);
        read.map_err(|e| StoreError::Unreadable(e.to_string()))
    }
}

/// One result for each command, or an error of the whole request.
type Answers = Result<Vec<RedisResult<Value>>, StoreError>;

fn only(mut answers: Vec<RedisResult<Value>>) -> Result<RedisResult<Value>, StoreError> {
    let answer = answers.pop();
    answer.ok_or_else(|| StoreError::Unreadable("no answer".to_owned()))
}

impl Store for RedisStore {
    fn acquire<'a>(&'a self, circuit: &'a Name, request: &'a Acquire) -> Answer<'a, Grant> {
        Box::pin(async move {
            let acquire = &self.0.scripts.acquire;
            let grant: Grant = self.0.one(acquire, circuit, request).await?;
            self.0.index(std::iter::once((circuit, &grant.snapshot)));
            Ok(grant)
        })
    }

    fn report<'a>(
        &'a self,
        batch: &'a [(Name, Report)],
    ) -> Answer<'a, Vec<Result<Snapshot, StoreError>>> {
        Box::pin(async move {
            if batch.is_empty() {
                // The client treats an empty pipeline as an error.
                return Ok(Vec::new());
            }
            let requests = batch.iter().map(|(name, report)| (name, report));
            let answers = self.0.run(&self.0.scripts.report, requests).await?;
            let decoded = batch
                .iter()
                .zip(answers)
                .map(|((_, report), answer)| wire::decode_answer(answer, &report.head));
            let answers: Vec<Result<Snapshot, _>> = decoded.collect();
            let seen = batch.iter().zip(&answers);
            self.0
                .index(seen.filter_map(|((name, _), answer)| Some((name, answer.as_ref().ok()?))));
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
            self.0.index(std::iter::once((circuit, &snapshot)));
            Ok(snapshot)
        })
    }

    fn remove<'a>(&'a self, circuit: &'a Name) -> Answer<'a, ()> {
        Box::pin(self.0.remove(circuit))
    }

    fn snapshot<'a>(&'a self, circuit: &'a Name, head: &'a Head) -> Answer<'a, Snapshot> {
        Box::pin(async move {
            let snapshot = &self.0.scripts.snapshot;
            match self.0.one::<_, wire::Whole>(snapshot, circuit, head).await {
                Ok(whole) => Ok(whole.into()),
                Err(error) => Err(self.0.explained(circuit, error).await),
            }
        })
    }

    fn snapshots<'a>(
        &'a self,
        circuits: &'a [Name],
        head: &'a Head,
    ) -> Answer<'a, Vec<Result<Snapshot, StoreError>>> {
        Box::pin(async move {
            if circuits.is_empty() {
                return Ok(Vec::new());
            }
            let requests = circuits.iter().map(|name| (name, head));
            let answers = self.0.run(&self.0.scripts.snapshot, requests).await?;
            let whole = |answer| wire::decode_answer::<wire::Whole>(answer, head);
            let mut read: Vec<Result<Snapshot, _>> = Vec::with_capacity(circuits.len());
            for (name, answer) in circuits.iter().zip(answers.into_iter().map(whole)) {
                read.push(match answer {
                    Ok(whole) => Ok(whole.into()),
                    Err(error) => Err(self.0.explained(name, error).await),
                });
            }
            Ok(read)
        })
    }

    fn history<'a>(&'a self, circuits: &'a [Name], most: usize) -> Answer<'a, Vec<Vec<Interval>>> {
        Box::pin(self.0.history(circuits, most))
    }

    fn past<'a>(&'a self, circuit: &'a Name) -> Answer<'a, Vec<Slice>> {
        Box::pin(self.0.past(circuit))
    }

    fn claim<'a>(&'a self, circuit: &'a Name, claim: &'a Claim) -> Answer<'a, Claimed> {
        Box::pin(async move {
            let run = [self
                .0
                .scripts
                .claim(&self.0.prefix, circuit, wire::encode(claim)?)];
            let deadline = Instant::now() + self.0.timeout;
            let answer = only(self.0.evaluate(&run, false, deadline).await?)?;
            let read = from_redis_value(answer.map_err(wire::error)?);
            let read: [u64; 4] = read.map_err(|e| StoreError::Unreadable(e.to_string()))?;
            let unreadable = || StoreError::Unreadable(format!("{read:?} answers no claim"));
            Claimed::read(read).ok_or_else(unreadable)
        })
    }

    fn namespace(&self) -> &str {
        self.0.prefix.as_str()
    }

    fn keep<'a>(&'a self, key: &'a str, value: &'a [u8], for_ms: u64) -> Answer<'a, ()> {
        Box::pin(self.0.keep(key, value, for_ms))
    }

    fn keep_leased<'a>(
        &'a self,
        key: &'a str,
        owner: &'a str,
        value: &'a [u8],
        for_ms: u64,
    ) -> Answer<'a, bool> {
        Box::pin(self.0.keep_leased(key, owner, value, for_ms))
    }

    fn kept<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(self.0.kept(key))
    }

    fn keep_in<'a>(
        &'a self,
        group: &'a str,
        key: &'a str,
        value: &'a [u8],
        for_ms: u64,
        most_bytes: u64,
    ) -> Answer<'a, ()> {
        Box::pin(self.0.keep_in(group, (key, value), for_ms, most_bytes))
    }

    fn kept_in<'a>(&'a self, group: &'a str, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(self.0.kept_in(group, key))
    }

    fn lease<'a>(&'a self, key: &'a str, owner: &'a str, for_ms: u64) -> Answer<'a, bool> {
        Box::pin(self.0.lease(key, owner, for_ms))
    }

    fn members<'a>(&'a self, circuit: &'a Name, now_ms: u64) -> Answer<'a, Members> {
        Box::pin(async move {
            match self.0.members(circuit, now_ms).await {
                Ok(members) => Ok(members),
                Err(error) => Err(self.0.explained(circuit, error).await),
            }
        })
    }

    fn events<'a>(&'a self, circuit: &'a Name, after: u64) -> Answer<'a, Vec<Event>> {
        Box::pin(async move {
            match self.0.events(circuit, after).await {
                Ok(events) => Ok(events),
                Err(error) => Err(self.0.explained(circuit, error).await),
            }
        })
    }

    fn circuits(&self) -> Answer<'_, Vec<String>> {
        Box::pin(async move { Ok(self.index(MOST_CIRCUITS).await?.0) })
    }

    fn index(&self, most: usize) -> Answer<'_, (Vec<String>, bool)> {
        Box::pin(async move {
            // The highest ranks were used last. One more than needed shows whether there are more.
            let first = -i64::try_from(most).unwrap_or(i64::MAX) - 1;
            let mut read = redis::cmd("ZRANGE");
            read.arg(self.0.prefix.index()).arg(first).arg(-1);
            let members: Vec<Vec<u8>> = self.0.command(read).await?;
            let more = members.len() > most;
            // A member that is not a valid name was not written by this crate.
            let names = members.into_iter().skip(usize::from(more));
            let names = names.filter_map(|m| String::from_utf8(m).ok());
            let mut names: Vec<_> = names.filter(|name| Name::new(name).is_ok()).collect();
            names.sort();
            Ok((names, more))
        })
    }

    fn patient(&self, timeout: Duration) -> Option<Arc<dyn Store>> {
        let of = &self.0;
        let timeout = timeout.max(of.timeout).min(FOREVER);
        let connections = Arc::clone(&of.connections);
        let patient = Self::on(connections, of.prefix.clone(), timeout, of.push.clone());
        Some(Arc::new(patient))
    }

    fn shard(&self, circuit: &Name) -> u16 {
        self.0.connections.shard(slots::slot(circuit))
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
            let Some(endpoint) = &self.0.push else {
                return Err(StoreError::Unsupported(
                    "a pool without a URL beside it cannot push".to_owned(),
                ));
            };
            listen::run(endpoint, &self.0.prefix, self.0.timeout, followed, notices).await
        })
    }
}
