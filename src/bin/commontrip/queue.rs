//! `commontrip queue`: queues, their jobs and dead letters.

use clap::{Args, Subcommand};
use commontrip::{
    RedisStore,
    queue::{JobState, JobView, Queue, QueueError, QueueStats, queues},
};
use serde_json::{Value, json};

use crate::{
    Common,
    connect::TIMEOUT_MS,
    known::nearest,
    out::{DIM, Done, Failure, GREEN, Output, RED, YELLOW, in_words, shown, tell},
    table::{Table, coloured},
    words,
};

/// How many bytes are shown of a payload that is not MessagePack.
const SHOWN_BYTES: usize = 256;

/// Subcommands of `commontrip queue`.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// The queues; with a name the jobs of one
    List(List),
    /// All about one job, with what was enqueued
    Show(Show),
    /// Have a dead or delayed job run now
    Retry(Retry),
    /// Remove a job that does not run
    Drop(Show),
}

/// Arguments of `queue list`.
#[derive(Args, Debug)]
pub struct List {
    /// The queue whose jobs to list
    name: Option<String>,

    /// Only jobs in this state: ready, delayed, running or dead
    #[arg(long, value_parser = state, requires = "name")]
    state: Option<JobState>,

    /// How many of each state at most
    #[arg(
        long,
        short = 'n',
        value_name = "N",
        default_value_t = 100,
        requires = "name"
    )]
    limit: u32,

    #[command(flatten)]
    common: Common,
}

/// Arguments of `queue show` and `queue drop`.
#[derive(Args, Debug)]
pub struct Show {
    /// The queue
    name: String,

    /// The job
    id: String,

    #[command(flatten)]
    common: Common,
}

/// Arguments of `queue retry`.
#[derive(Args, Debug)]
pub struct Retry {
    /// The queue
    name: String,

    /// The job
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    id: Option<String>,

    /// Every dead letter of the queue
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    common: Common,
}

fn state(word: &str) -> Result<JobState, String> {
    let mut states = JobState::ALL.into_iter();
    let found = states.find(|state| state.as_str() == word);
    found.ok_or_else(|| "give ready, delayed, running or dead".to_owned())
}

/// A queue with jobs of any type.
type AnyQueue = Queue<()>;

/// Runs the subcommand.
pub async fn run(command: &Command) -> Done {
    match command {
        Command::List(options) => match &options.name {
            None => list_queues(&options.common).await,
            Some(name) => list_jobs(options, name).await,
        },
        Command::Show(options) => {
            let queue = known(&options.common, &options.name).await?;
            let job = queue.show(&options.id).await.map_err(failure)?;
            let now_ms = queue.stats().await.map_err(failure)?.now_ms;
            let out = &options.common.output;
            out.tell(&whole(&job), || about(out, now_ms, &job))
        }
        Command::Retry(options) => {
            let queue = known(&options.common, &options.name).await?;
            let out = &options.common.output;
            match &options.id {
                None => {
                    let retried = queue.retry_all().await.map_err(failure)?;
                    let queue = shown(&options.name);
                    let text = || format!("retried {} of {queue}\n", words::count(retried, "job"));
                    out.tell_changed(&json!({ "queue": options.name, "retried": retried }), text)
                }
                Some(id) => {
                    queue.retry(id).await.map_err(failure)?;
                    let retried = json!({ "queue": options.name, "retried": 1 });
                    out.tell_changed(&retried, || done(out, "retried", &options.name, id))
                }
            }
        }
        Command::Drop(options) => {
            let queue = known(&options.common, &options.name).await?;
            queue.drop_job(&options.id).await.map_err(failure)?;
            let (out, id) = (&options.common.output, &options.id);
            let dropped = json!({ "queue": options.name, "dropped": 1 });
            out.tell_changed(&dropped, || done(out, "dropped", &options.name, id))
        }
    }
}

fn done(out: &Output, what: &str, queue: &str, id: &str) -> String {
    let (queue, id) = (shown(queue), shown(id));
    format!("{}  {id} of {queue}\n", out.paint(GREEN, what))
}

fn failure(error: QueueError) -> Failure {
    match error {
        QueueError::Store(error) => error.into(),
        QueueError::Name(_) => Failure::Usage(in_words(&error)),
        error => Failure::Not(in_words(&error)),
    }
}

fn open(store: &RedisStore, name: &str) -> Result<AnyQueue, Failure> {
    Queue::builder(store, name).build().map_err(failure)
}

/// Opens the queue of this name, if it exists.
async fn known(common: &Common, name: &str) -> Result<AnyQueue, Failure> {
    let store = common.connection.open(TIMEOUT_MS)?;
    let queue = open(&store, name)?;
    let names = queues(&store).await?;
    if names.iter().any(|known| known == name) {
        return Ok(queue);
    }
    let none = format!("no queue `{}`", shown(name));
    Err(Failure::Not(
        match nearest(name, names.iter().map(String::as_str)) {
            Some(near) => format!("{none}; did you mean `{}`?", shown(near)),
            None if names.is_empty() => format!(
                "{none}: the store has none at all; are --redis and --prefix the service's?"
            ),
            None => format!("{none}; `commontrip queue list` shows those that there are"),
        },
    ))
}

async fn list_queues(common: &Common) -> Done {
    let store = common.connection.open(TIMEOUT_MS)?;
    let mut all: Vec<(String, QueueStats)> = Vec::new();
    for name in queues(&store).await? {
        let stats = open(&store, &name)?.stats().await.map_err(failure)?;
        all.push((name, stats));
    }
    let out = &common.output;
    if out.json {
        let listed = all.iter().map(|(name, stats)| {
            let mut listed = json!(stats);
            listed["name"] = json!(name);
            listed
        });
        return out.tell(
            &json!({ "queues": listed.collect::<Vec<_>>() }),
            String::new,
        );
    }
    if all.is_empty() {
        return tell("no queue was used yet\n");
    }
    let heads = vec![
        "NAME",
        ">READY",
        ">DELAYED",
        ">RUNNING",
        ">DEAD",
        ">OLDEST",
        "?>DONE",
        "?>RETRIED",
        "NEXT",
    ];
    let mut table = Table::new(heads);
    for (name, stats) in &all {
        table.row(vec![
            shown(name).into(),
            stats.ready.to_string().into(),
            stats.delayed.to_string().into(),
            stats.running.to_string().into(),
            match stats.dead {
                0 => "0".into(),
                dead => coloured(RED, dead.to_string()),
            },
            match stats.oldest_waits() {
                Some(_) => words::span(stats.now_ms.saturating_sub(stats.oldest_ms)),
                None => "-".to_owned(),
            }
            .into(),
            stats.done.to_string().into(),
            stats.retried.to_string().into(),
            match u64::try_from(stats.next_ms) {
                Ok(at) if at <= stats.now_ms => "now".to_owned(),
                Ok(at) => format!("in {}", words::span(at - stats.now_ms)),
                Err(_) => "-".to_owned(),
            }
            .into(),
        ]);
    }
    tell(&table.text(out))
}

async fn list_jobs(options: &List, name: &str) -> Done {
    let queue = known(&options.common, name).await?;
    let now_ms = queue.stats().await.map_err(failure)?.now_ms;
    let mut jobs = Vec::new();
    for state in JobState::ALL {
        if options.state.is_none_or(|only| only == state) {
            let listed = queue.list(state, options.limit as usize).await;
            jobs.extend(listed.map_err(failure)?);
        }
    }
    let out = &options.common.output;
    if out.json {
        return out.tell(&json!({ "now_ms": now_ms, "jobs": jobs }), String::new);
    }
    if jobs.is_empty() {
        return tell("no jobs\n");
    }
    let mut table = Table::new(vec![
        "ID",
        "STATE",
        ">WHEN",
        ">ATTEMPTS",
        "?>AGE",
        "?KEY",
        "ERROR",
    ]);
    for job in &jobs {
        table.row(vec![
            shown(job.id.as_str()).into(),
            coloured(colour(job.state), job.state.as_str()),
            when(now_ms, job).into(),
            job.attempts.to_string().into(),
            words::span(now_ms.saturating_sub(job.enqueued_ms)).into(),
            or_none(&job.key).into(),
            or_none(&job.error).into(),
        ]);
    }
    tell(&table.text(out))
}

fn or_none(text: &str) -> String {
    match text {
        "" => "-".to_owned(),
        text => shown(text),
    }
}

const fn colour(state: JobState) -> &'static str {
    match state {
        JobState::Dead => RED,
        JobState::Delayed => YELLOW,
        JobState::Running => GREEN,
        _ => DIM,
    }
}

fn when(now_ms: u64, job: &JobView) -> String {
    match job.at_ms.checked_sub(now_ms) {
        Some(left) if job.state == JobState::Delayed => format!("in {}", words::span(left)),
        _ => words::ago(now_ms, job.at_ms),
    }
}

/// The payload as JSON if it is MessagePack, otherwise in hexadecimal digits.
fn body(payload: &[u8]) -> Value {
    rmp_serde::from_slice(payload).unwrap_or_else(|_| {
        let shown = payload.iter().take(SHOWN_BYTES);
        let mut hex: String = shown.map(|byte| format!("{byte:02x}")).collect();
        if payload.len() > SHOWN_BYTES {
            hex += &format!("... ({} bytes)", payload.len());
        }
        Value::String(hex)
    })
}

fn whole(job: &JobView) -> Value {
    let mut whole = json!(job);
    whole["body"] = body(&job.payload);
    whole
}

fn about(out: &Output, now_ms: u64, job: &JobView) -> String {
    let state = out.paint(colour(job.state), job.state.as_str());
    let reason = match job.reason.as_str() {
        "" => String::new(),
        reason => format!(" ({})", shown(reason)),
    };
    let mut table = Table::headless();
    let mut row = |head: &str, text: String| table.row(vec![head.into(), text.into()]);
    row("since", when(now_ms, job));
    row("attempts", job.attempts.to_string());
    if !job.key.is_empty() {
        row("key", shown(&job.key));
    }
    let zone = out.zone();
    row("enqueued", zone.date(job.enqueued_ms));
    if job.expires_ms > 0 {
        row("expires", zone.date(job.expires_ms));
    }
    if !job.worker.is_empty() {
        row("worker", shown(&job.worker));
    }
    if !job.error.is_empty() {
        row("error", shown(&job.error));
    }
    row("body", shown(&body(&job.payload).to_string()));
    let id = shown(job.id.as_str());
    format!("{id}  {state}{reason}\n{}", table.text(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_json_or_hexadecimal() {
        let packed = rmp_serde::to_vec_named(&json!({ "id": 7 })).unwrap();
        assert_eq!(body(&packed), json!({ "id": 7 }));
        assert_eq!(body(&[0xc1, 0x01]), json!("c101"));
        assert!(
            body(&[0xc1; 300])
                .as_str()
                .unwrap()
                .ends_with("... (300 bytes)")
        );
    }
}
