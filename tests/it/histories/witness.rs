//! Redis' own view: the events of circuits as they come, their state and totals.
//!
//! Reads Redis directly, with plain commands. Invariant: an event is kept once, in the stream's
//! order, even if the stream is lost and continues with later ids.

use std::{collections::HashMap, sync::Arc, time::Duration};

use commontrip::State;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinHandle;

use super::{check::Happened, record::unix_ahead_ns};
use crate::{
    processes::{key, wire::Totals},
    scripts::counts_in,
};

/// The stream keeps 256 transitions, more than can happen in this time.
const EVERY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Witness {
    url: String,
    names: Vec<String>,
    heard: Arc<Mutex<Vec<Heard>>>,
    reading: JoinHandle<()>,
}

/// The events of one circuit, and the id of the last.
#[derive(Clone, Debug, Default)]
struct Heard {
    last: String,
    events: Vec<Happened>,
}

impl Witness {
    pub fn new(url: &str, names: Vec<String>) -> Witness {
        let heard = Arc::new(Mutex::new(vec![Heard::default(); names.len()]));
        let reading = tokio::spawn({
            let (url, names, heard) = (url.to_owned(), names.clone(), Arc::clone(&heard));
            async move {
                loop {
                    let mut redis = connect(&url).await;
                    // An error means that Redis is unavailable: connect again.
                    while read(&mut redis, &names, &heard).await.is_ok() {
                        tokio::time::sleep(EVERY).await;
                    }
                    tokio::time::sleep(EVERY).await;
                }
            }
        });
        Witness {
            url: url.to_owned(),
            names,
            heard,
            reading,
        }
    }

    /// How often each circuit entered a state so far.
    pub fn count(&self, state: State) -> Vec<usize> {
        let into = |heard: &Heard| heard.events.iter().filter(|e| e.to == state).count();
        self.heard.lock().iter().map(into).collect()
    }

    /// The events of each circuit until now.
    pub async fn end(self) -> Vec<Vec<Happened>> {
        self.reading.abort();
        // The task has either added an event or never will.
        let _ = self.reading.await;
        let mut redis = connect(&self.url).await;
        let read = read(&mut redis, &self.names, &self.heard).await;
        read.expect("redis is there at the end");
        let heard = self.heard.lock();
        heard.iter().map(|heard| heard.events.clone()).collect()
    }
}

/// A connection, as soon as one succeeds.
pub async fn connect(url: &str) -> MultiplexedConnection {
    let client = redis::Client::open(url).expect("a URL");
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(1)))
        .set_response_timeout(Some(PATIENCE));
    let connected = async {
        loop {
            let connection = client.get_multiplexed_async_connection_with_config(&config);
            if let Ok(connection) = connection.await {
                return connection;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let connected = tokio::time::timeout(PATIENCE, connected).await;
    connected.expect("redis takes connections again")
}

async fn read(
    redis: &mut MultiplexedConnection,
    names: &[String],
    heard: &Mutex<Vec<Heard>>,
) -> redis::RedisResult<()> {
    for (index, name) in names.iter().enumerate() {
        let after = match heard.lock()[index].last.clone() {
            last if last.is_empty() => "-".to_owned(),
            last => format!("({last}"),
        };
        let mut read = redis::cmd("XRANGE");
        read.arg(key(name, "events")).arg(after).arg("+");
        let entries: Vec<(String, HashMap<String, String>)> = read.query_async(redis).await?;
        let ahead_ns = unix_ahead_ns();
        let heard = &mut heard.lock()[index];
        for (id, fields) in entries {
            heard.events.push(event(&fields, ahead_ns));
            heard.last = id;
        }
    }
    Ok(())
}

fn event(fields: &HashMap<String, String>, ahead_ns: u64) -> Happened {
    let number = |name: &str| fields[name].parse::<u64>().expect("a number");
    let state = |name: &str| fields[name].parse::<State>().expect("a state");
    Happened {
        at_ns: (number("at_ms") * 1_000_000).saturating_sub(ahead_ns),
        generation: number("generation"),
        from: state("from"),
        to: state("to"),
        reason: fields["reason"].parse().expect("a reason"),
    }
}

/// A circuit's generation and state in its hash.
pub async fn present(
    redis: &mut MultiplexedConnection,
    name: &str,
) -> redis::RedisResult<(u64, State)> {
    let mut read = redis::cmd("HMGET");
    read.arg(format!("commontrip:{{{name}}}"))
        .arg("generation")
        .arg("state");
    let (generation, state): (Option<u64>, Option<String>) = read.query_async(redis).await?;
    let state = state.as_deref().and_then(|word| word.parse().ok());
    Ok((generation.unwrap_or_default(), state.unwrap_or_default()))
}

/// A circuit's lifetime totals in its hash.
pub async fn counted(redis: &mut MultiplexedConnection, name: &str) -> Totals {
    let mut read = redis::cmd("HMGET");
    read.arg(format!("commontrip:{{{name}}}"))
        .arg(&["total", "ignored_total", "rejected_total"]);
    let (total, ignored, rejected): (Option<String>, Option<u64>, Option<u64>) =
        read.query_async(redis).await.expect("redis is there");
    let [successes, failures, _] = counts_in(&total.unwrap_or_default(), "successes");
    Totals {
        successes,
        failures,
        ignored: ignored.unwrap_or_default(),
        rejected: rejected.unwrap_or_default(),
    }
}
