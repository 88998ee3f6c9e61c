//! Circuits in Redis: the scripts, sent over one kept connection.
//!
//! Owns what is sent and how answers are read; decides nothing about circuits.

mod access;
mod address;
mod builder;
mod endpoint;
mod entries;
mod examine;
mod index;
mod keeping;
mod keys;
mod line;
mod listen;
#[cfg(feature = "queue")]
mod outer;
mod past;
mod scripts;
mod slots;
mod steady;
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
use redis::{
    Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, Value, from_redis_value,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

#[cfg(feature = "queue")]
pub(crate) use self::scripts::Text;
pub use self::{
    builder::RedisStoreBuilder,
    endpoint::RedisPool,
    examine::{Check, Verdict},
};
use self::{
    endpoint::Endpoint,
    index::Indexed,
    keys::Prefix,
    line::{Lines, Up},
    scripts::{Operation, Run, Scripts},
};
use super::{Answer, MOST_CIRCUITS, Notice, Store, StoreError, answer_by};
use crate::model::{
    Acquire, Claim, Control, Event, FOREVER, Grant, Head, Interval, Members, Name, Release, Report,
    Request, Snapshot,
};

/// A store in Redis. Clones share the connection.
#[derive(Clone)]
pub struct RedisStore(Arc<Inner>);

struct Inner {
    lines: Arc<Lines>,
    push: Option<Endpoint>,
    prefix: Prefix,
    timeout: Duration,
    scripts: Scripts,
    /// The turn to send the text of scripts, and how often that was done.
    sending: tokio::sync::Mutex<()>,
    sent: AtomicU64,
    indexed: Mutex<Indexed>,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("prefix", &self.0.prefix)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Starts from the defaults.
    pub fn builder() -> RedisStoreBuilder {
        RedisStoreBuilder::new()
    }

    fn new(prefix: Prefix, timeout: Duration, from: Endpoint, push: Option<Endpoint>) -> Self {
        Self::on(Lines::new(from, timeout), prefix, timeout, push)
    }

    fn on(lines: Arc<Lines>, prefix: Prefix, timeout: Duration, push: Option<Endpoint>) -> Self {
        Self(Arc::new(Inner {
            lines,
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

/// Which of the answers say that Redis does not have the script.
fn without_script(answers: &[RedisResult<Value>]) -> Vec<usize> {
    let no_script = ErrorKind::Server(ServerErrorKind::NoScript);
    let lacks = |i: &usize| answers[*i].as_ref().is_err_and(|e| e.kind() == no_script);
    (0..answers.len()).filter(lacks).collect()
}

/// Puts answers in the places of those that they stand for.
fn replace(answers: &mut [RedisResult<Value>], places: Vec<usize>, with: Vec<RedisResult<Value>>) {
    for (place, answer) in places.into_iter().zip(with) {
        answers[place] = answer;
    }
}

impl Inner {
    /// Sends commands and waits for their answers until the deadline; a connection that fails is
    /// not kept.
    ///
    /// One that turns out to be broken says nothing of Redis (an idle limit, a proxy, a
    /// failover): what may be repeated is sent once more on a new one.
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
        let mut up = self.lines.get().await?;
        // Also when the caller gives up first: then nobody knows what the connection is worth.
        let mut doubt = Doubt(&self.lines, Some(up.clone()));
        // Before the whole is given up, so that what was answered is not lost with what was not.
        let each = deadline - self.timeout / 10;
        let answers = up.line.send(commands, each).await.map_err(wire::error)?;
        if !answers.iter().any(wire::is_of_the_connection) {
            doubt.1 = None;
        }
        Ok(answers)
    }

    /// Does one operation on several circuits at once: where the request says in brief all there is
    /// to it, the steady way first, and where that was not to be gone, the general way.
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
            match brief.and_then(|brief| operation.steady(&self.prefix, name, brief)) {
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

    /// Runs scripts, and has Redis keep those that it lacks.
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
            // the others wait for that, and ask once more.
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
                // If there is still one without, another node of a Cluster lacks it too.
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

/// What commands were answered, each for itself.
type Answers = Result<Vec<RedisResult<Value>>, StoreError>;

fn only(mut answers: Vec<RedisResult<Value>>) -> Result<RedisResult<Value>, StoreError> {
    let answer = answers.pop();
    answer.ok_or_else(|| StoreError::Unreadable("no answer".to_owned()))
}

/// Holds a connection to be doubtful on drop, unless it was taken out.
struct Doubt<'a>(&'a Arc<Lines>, Option<Up>);

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if let Some(up) = &self.1 {
            self.0.doubt(up);
        }
    }
}

/// How many transitions are read at first; mostly one or two are new. And how many are kept.
const FEW_EVENTS: usize = 8;
const MOST_EVENTS: usize = 256;

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
                // To the client an empty pipeline is an error.
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

    fn snapshot<'a>(&'a self, circuit: &'a Name, head: &'a Head) -> Answer<'a, Snapshot> {
        Box::pin(async move {
            let snapshot = &self.0.scripts.snapshot;
            let whole: wire::Whole = self.0.one(snapshot, circuit, head).await?;
            Ok(whole.into())
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
            let answers = answers.into_iter().map(whole);
            Ok(answers.map(|answer| answer.map(Into::into)).collect())
        })
    }

    fn history<'a>(&'a self, circuits: &'a [Name], most: usize) -> Answer<'a, Vec<Vec<Interval>>> {
        Box::pin(self.0.history(circuits, most))
    }

    fn claim<'a>(&'a self, circuit: &'a Name, claim: &'a Claim) -> Answer<'a, u64> {
        Box::pin(async move {
            let run = [self
                .0
                .scripts
                .claim(&self.0.prefix, circuit, wire::encode(claim)?)];
            let deadline = Instant::now() + self.0.timeout;
            let answer = only(self.0.evaluate(&run, false, deadline).await?)?;
            let read = from_redis_value(answer.map_err(wire::error)?);
            read.map_err(|e| StoreError::Unreadable(e.to_string()))
        })
    }

    fn keep<'a>(&'a self, key: &'a str, value: &'a [u8], for_ms: u64) -> Answer<'a, ()> {
        Box::pin(self.0.keep(key, value, for_ms))
    }

    fn kept<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(self.0.kept(key))
    }

    fn lease<'a>(&'a self, key: &'a str, owner: &'a str, for_ms: u64) -> Answer<'a, bool> {
        Box::pin(self.0.lease(key, owner, for_ms))
    }

    fn members<'a>(&'a self, circuit: &'a Name, now_ms: u64) -> Answer<'a, Members> {
        Box::pin(self.0.members(circuit, now_ms))
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
            let oldest = entries
                .last()
                .and_then(|(_, fields)| entries::event(fields));
            if entries.len() == FEW_EVENTS && oldest.is_none_or(|e| e.is_after(after)) {
                let mut all = newest_first();
                all.arg("COUNT").arg(MOST_EVENTS);
                entries = self.0.command(all).await?;
            }
            let events = entries.iter().rev();
            let events = events.filter_map(|(_, fields)| entries::event(fields));
            Ok(events.filter(|e| e.is_after(after)).collect())
        })
    }

    fn circuits(&self) -> Answer<'_, Vec<String>> {
        Box::pin(async move { Ok(self.index(MOST_CIRCUITS).await?.0) })
    }

    fn index(&self, most: usize) -> Answer<'_, (Vec<String>, bool)> {
        Box::pin(async move {
            // Those with the highest ranks were used last; one more says that there are more.
            let first = -i64::try_from(most).unwrap_or(i64::MAX) - 1;
            let mut read = redis::cmd("ZRANGE");
            read.arg(self.0.prefix.index()).arg(first).arg(-1);
            let members: Vec<Vec<u8>> = self.0.command(read).await?;
            let more = members.len() > most;
            // What is no name was not written by us.
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
        let lines = Arc::clone(&of.lines);
        let patient = Self::on(lines, of.prefix.clone(), timeout, of.push.clone());
        Some(Arc::new(patient))
    }

    fn shard(&self, circuit: &Name) -> u16 {
        self.0.lines.shard(slots::slot(circuit))
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
                return Err(StoreError::Refused(
                    "a pool without a URL beside it cannot push".to_owned(),
                ));
            };
            listen::run(endpoint, &self.0.prefix, self.0.timeout, followed, notices).await
        })
    }
}
