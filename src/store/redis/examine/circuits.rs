//! What circuits say of the releases and the policies of their replicas.

use redis::RedisResult;

use super::{Check, Node};
use crate::model::{Circuit, Name};

/// How many circuits of the index are looked at, at most.
const LOOKED_AT: usize = 500;
/// Circuits that are named.
const NAMED: usize = 3;

/// A circuit's name, its format and in what the policies of its replicas differ.
struct Seen {
    name: Name,
    format: u64,
    differ: String,
}

pub(super) async fn checks(nodes: &[Node]) -> [Check; 2] {
    let seen = match nodes.first() {
        Some(first) => seen(&first.anywhere()).await,
        None => Ok(Vec::new()),
    };
    match seen {
        Ok(seen) => [formats(&seen), policies(&seen)],
        Err(_) => ["format", "policies"]
            .map(|name| Check::note(name, "the circuits could not be read".to_owned())),
    }
}

fn formats(seen: &[Seen]) -> Check {
    let newer = seen.iter().filter(|seen| seen.format > Circuit::FORMAT);
    let newer: Vec<_> = newer
        .map(|seen| format!("{} has format {}", seen.name, seen.format))
        .collect();
    let ours = Circuit::FORMAT;
    if newer.is_empty() {
        let found = format!("no circuit is newer than this release, which writes format {ours}");
        return Check::ok("format", found);
    }
    let named = newer[..newer.len().min(NAMED)].join(", ");
    let found = format!("{} of a newer release: {named}", counted(newer.len()));
    Check::warning("format", found)
        .means(format!(
            "Replicas of this release, which writes format {ours}, decide by themselves there."
        ))
        .advice("Upgrade them, or wait until the roll-out is complete.")
}

fn policies(seen: &[Seen]) -> Check {
    let differ = seen.iter().filter(|seen| !seen.differ.is_empty());
    let differ: Vec<_> = differ
        .map(|seen| format!("{}: {}", seen.name, seen.differ))
        .collect();
    if differ.is_empty() {
        let found = "the replicas of each circuit have the same".to_owned();
        return Check::ok("policies", found);
    }
    let named = differ[..differ.len().min(NAMED)].join("; ");
    let found = format!("they differ for {}, {named}", counted(differ.len()));
    Check::warning("policies", found)
        .means("Each replica trips by its own policy; the number of replicas that have a value is in brackets.")
        .advice("It passes when a deploy is complete. Where it stays, two services use one name with different settings.")
}

fn counted(n: usize) -> String {
    match n {
        1 => "1 circuit".to_owned(),
        n => format!("{n} circuits"),
    }
}

async fn seen(node: &Node) -> RedisResult<Vec<Seen>> {
    let prefix = &node.inner.prefix;
    let mut index = redis::cmd("ZRANGE");
    index.arg(prefix.index()).arg(0).arg(LOOKED_AT - 1);
    let names: Vec<String> = node.read(&index).await?;
    let mut found = Vec::new();
    for name in names.iter().filter_map(|name| Name::new(name).ok()) {
        let mut read = redis::cmd("HMGET");
        read.arg(prefix.circuit(&name))
            .arg("format")
            .arg("policies_differ");
        let (format, differ): (Option<String>, Option<String>) = node.read(&read).await?;
        found.push(Seen {
            name,
            format: format.and_then(|format| format.parse().ok()).unwrap_or(0),
            differ: differ.unwrap_or_default(),
        });
    }
    Ok(found)
}
