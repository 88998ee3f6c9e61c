//! Checks of the server itself: its answer, version, latency and clock.

use std::time::Duration;

use redis::{FromRedisValue, Value};

use super::{Finding, Node, place::Place, texts};
use crate::store::Clock;

/// Whether the server at the other end serves requests.
pub(super) async fn connection(node: &Node, place: &Place) -> Finding {
    let found = format!("{}, user {}", place.words, place.user);
    match node.ask(&redis::cmd("PING")).await {
        Ok(_) => Finding::ok("connection", found),
        Err(error) => {
            let words = error.to_string();
            // The `rights` check reports a lacking right.
            match super::rights::lacking(&words, &node.inner.prefix) {
                Some(_) => Finding::ok("connection", found),
                None => texts::explained("connection", &format!("{found}, says: {words}"), &words),
            }
        }
    }
}

/// The answer to `HELLO`, which every user may send.
struct Greeting {
    server: String,
    version: String,
    mode: String,
    role: String,
}

async fn greeting(node: &Node) -> Option<Greeting> {
    let answer = node.ask(&redis::cmd("HELLO")).await.ok()?;
    let pairs: Vec<(String, Value)> = match answer {
        Value::Map(pairs) => pairs
            .into_iter()
            .filter_map(|(key, value)| Some((String::from_redis_value(key).ok()?, value)))
            .collect(),
        Value::Array(items) => {
            let mut items = items.into_iter();
            let mut pairs = Vec::new();
            while let (Some(key), Some(value)) = (items.next(), items.next()) {
                pairs.push((String::from_redis_value(key).ok()?, value));
            }
            pairs
        }
        _ => return None,
    };
    let text = |name: &str| {
        let (_, value) = pairs.iter().find(|(key, _)| key == name)?;
        String::from_redis_value(value.clone()).ok()
    };
    Some(Greeting {
        server: text("server")?,
        version: text("version")?,
        mode: text("mode").unwrap_or_default(),
        role: text("role").unwrap_or_default(),
    })
}

/// The server's version, mode and role.
pub(super) async fn version(node: Node, is_cluster: bool) -> Finding {
    let name = "server";
    let Some(greeting) = greeting(&node).await else {
        let found = "it does not say what it is".to_owned();
        return Finding::note(name, found).means("Redis 7.0 or later, or Valkey, is needed.");
    };
    let product = match &*greeting.server {
        "redis" => "Redis",
        "valkey" => "Valkey",
        other => other,
    };
    let found = format!("{product} {}", greeting.version);
    let major = greeting.version.split('.').next();
    let major: Option<u32> = major.and_then(|major| major.parse().ok());
    if product == "Redis" && major.is_some_and(|major| major < 7) {
        let check = Finding::failure(name, format!("{found}, older than 7.0"));
        let check = check.means("Its scripts report errors in a way that the crate does not read.");
        return check.advice("Upgrade to Redis 7.0 or later, or to Valkey.");
    }
    match (&*greeting.mode, &*greeting.role) {
        ("sentinel", _) => Finding::failure(name, format!("{found}, which is a sentinel"))
            .means("A sentinel keeps no circuits; it knows where the master is.")
            .advice("Use redis-sentinel://HOST:PORT?sentinelServiceName=NAME."),
        ("cluster", _) if !is_cluster => {
            Finding::failure(name, format!("{found}, which is one node of a Cluster"))
                .means("It serves some circuits and sends the others away.")
                .advice("Use redis-cluster://HOST:PORT.")
        }
        (_, "replica" | "slave") => Finding::failure(name, format!("{found}, which is a replica"))
            .means("A replica takes no writes.")
            .advice("Use the master's address, or redis-sentinel:// so that it is always found."),
        _ => Finding::ok(name, found),
    }
}

const PINGS: usize = 100;

fn ms(ns: u64) -> String {
    format!("{:.1} ms", ns as f64 / 1e6)
}

/// The server's latency, compared with the store's timeout.
pub(super) async fn latency(node: Node, store_timeout: Duration) -> Finding {
    let name = "latency";
    let clock = Clock::system();
    let mut times = Vec::with_capacity(PINGS);
    let begun = clock.precise_ns();
    for _ in 0..PINGS {
        let sent = clock.precise_ns();
        // An error is an answer too.
        let _ = node.ask(&redis::cmd("PING")).await;
        times.push(clock.precise_ns() - sent);
        if Duration::from_nanos(clock.precise_ns() - begun) > node.patience {
            break;
        }
    }
    times.sort_unstable();
    let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    let limit = store_timeout.as_nanos() as u64;
    let found = format!(
        "median {}, p99 {} of {} pings; store_timeout is {store_timeout:?}",
        ms(median),
        ms(p99),
        times.len()
    );
    let means = "A call that waits longer than store_timeout decides without Redis.";
    let advice = "Put Redis nearer, relieve it, or give the store a longer store_timeout.";
    if median >= limit {
        Finding::failure(name, found).means(means).advice(advice)
    } else if p99 * 2 >= limit {
        Finding::warning(name, found).means(means).advice(advice)
    } else {
        Finding::ok(name, found)
    }
}

/// A smaller difference may come from the request itself.
const SAME_MS: u64 = 500;

/// The server's clock, compared with this machine's.
pub(super) async fn clock(node: Node) -> Finding {
    let name = "clock";
    let clock = Clock::system();
    let before = clock.unix_ms();
    let answer: redis::RedisResult<(u64, u64)> = node.read(&redis::cmd("TIME")).await;
    let Ok((seconds, micros)) = answer else {
        return Finding::note(name, "the server's time could not be asked for".to_owned());
    };
    let theirs = seconds * 1000 + micros / 1000;
    let ours = before.midpoint(clock.unix_ms());
    let apart = theirs.abs_diff(ours);
    if apart < SAME_MS {
        return Finding::ok(name, "the same as here".to_owned());
    }
    let way = if theirs > ours { "ahead of" } else { "behind" };
    let found = format!(
        "the server is {:.1} s {way} this machine",
        apart as f64 / 1000.0
    );
    Finding::note(name, found).means("Harmless: circuits use only the server's clock.")
}
