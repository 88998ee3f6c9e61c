//! Whether circuits can be read, and what they show of the releases and policies of their replicas.

use std::sync::Arc;

use redis::RedisResult;
use tokio::time::Instant;

use super::{Finding, Node, PATIENCE, StoreError};
use crate::{
    model::{Circuit, Head, Name},
    store::{
        Store, in_words,
        redis::{RedisStore, mistyped, wire},
    },
};

/// The maximum number of circuits of the index that are examined.
const LOOKED_AT: usize = 500;
/// The number of circuits whose keys are checked in one request.
const PIECE: usize = 50;
/// The maximum number of circuits that a finding names.
const NAMED: usize = 3;

/// A circuit's name, its format, and how the policies of its replicas differ.
struct Seen {
    name: Name,
    format: u64,
    differ: String,
}

pub(super) async fn checks(nodes: &[Node]) -> [Finding; 3] {
    let looked = match nodes.first() {
        Some(first) => look(&first.anywhere()).await,
        None => Ok(Looked::default()),
    };
    match looked {
        Ok(looked) => [
            readable(&looked),
            formats(&looked.seen),
            policies(&looked.seen),
        ],
        Err(_) => ["circuits", "format", "policies"]
            .map(|name| Finding::note(name, "the circuits could not be read".to_owned())),
    }
}

/// What was found in the circuits of the index.
#[derive(Default)]
struct Looked {
    seen: Vec<Seen>,
    /// What is wrong with the circuits that cannot be read.
    wrong: Vec<String>,
}

fn readable(looked: &Looked) -> Finding {
    let wrong = &looked.wrong;
    if wrong.is_empty() {
        let found = format!("{} can be read", counted(looked.seen.len()));
        return Finding::ok("circuits", found);
    }
    let named = wrong[..wrong.len().min(NAMED)].join("; ");
    let more = match wrong.len().saturating_sub(NAMED) {
        0 => String::new(),
        n => format!("; and {n} more"),
    };
    Finding::warning("circuits", format!("not all can be read: {named}{more}"))
        .means("Replicas cannot share such a circuit: each decides by itself.")
        .advice("Somebody else writes these keys. Give them another prefix, then delete or rename the keys.")
}

fn formats(seen: &[Seen]) -> Finding {
    let newer = seen.iter().filter(|seen| seen.format > Circuit::FORMAT);
    let newer: Vec<_> = newer
        .map(|seen| format!("{} has format {}", seen.name, seen.format))
        .collect();
    let ours = Circuit::FORMAT;
    if newer.is_empty() {
        let found = format!("no circuit is newer than this release, which writes format {ours}");
        return Finding::ok("format", found);
    }
    let named = newer[..newer.len().min(NAMED)].join(", ");
    let found = format!("{} of a newer release: {named}", counted(newer.len()));
    Finding::warning("format", found)
        .means(format!(
            "Replicas of this release, which writes format {ours}, decide by themselves there."
        ))
        .advice("Upgrade them, or wait until the roll-out is complete.")
}

fn policies(seen: &[Seen]) -> Finding {
    let differ = seen.iter().filter(|seen| !seen.differ.is_empty());
    let differ: Vec<_> = differ
        .map(|seen| format!("{}: {}", seen.name, seen.differ))
        .collect();
    if differ.is_empty() {
        let found = "the replicas of each circuit have the same".to_owned();
        return Finding::ok("policies", found);
    }
    let named = differ[..differ.len().min(NAMED)].join("; ");
    let found = format!("they differ for {}, {named}", counted(differ.len()));
    Finding::warning("policies", found)
        .means("Each replica trips by its own policy; the number of replicas that have a value is in brackets.")
        .advice("It goes away when a deploy is complete. If it stays, two services use one name with different settings.")
}

fn counted(n: usize) -> String {
    match n {
        1 => "1 circuit".to_owned(),
        n => format!("{n} circuits"),
    }
}

async fn look(node: &Node) -> Result<Looked, StoreError> {
    let names = names(node).await.map_err(wire::error)?;
    let mut looked = Looked {
        seen: seen(node, &names).await.map_err(wire::error)?,
        wrong: Vec::new(),
    };
    for piece in names.chunks(PIECE) {
        let deadline = Instant::now() + PATIENCE;
        let wrong = node.inner.mistyped(piece, deadline).await?;
        looked.wrong.extend(wrong);
        looked.wrong.extend(unreadable(node, piece).await);
    }
    Ok(looked)
}

/// Circuits that cannot be read although their keys have the right types.
async fn unreadable(node: &Node, names: &[Name]) -> Vec<String> {
    let head = Head {
        is_operator: true,
        ..Head::default()
    };
    let store = RedisStore(Arc::clone(&node.inner));
    // Other checks report a missing answer.
    let read = store.snapshots(names, &head).await.unwrap_or_default();
    let wrong = names
        .iter()
        .zip(read)
        .filter_map(|(name, read)| match read {
            Err(StoreError::Refused(words)) if words.contains(mistyped::CODE) => None,
            Err(error @ (StoreError::Refused(_) | StoreError::Unreadable(_))) => {
                Some(format!("circuit {name}: {}", in_words(&error)))
            }
            _ => None,
        });
    wrong.collect()
}

/// Names in the index.
async fn names(node: &Node) -> RedisResult<Vec<Name>> {
    let mut index = redis::cmd("ZRANGE");
    index
        .arg(node.inner.prefix.index())
        .arg(0)
        .arg(LOOKED_AT - 1);
    let names: Vec<String> = node.read(&index).await?;
    Ok(names
        .iter()
        .filter_map(|name| Name::new(name).ok())
        .collect())
}

/// The formats of circuits and how policies differ. Skips a circuit whose key is not a hash.
async fn seen(node: &Node, names: &[Name]) -> RedisResult<Vec<Seen>> {
    let prefix = &node.inner.prefix;
    let mut found = Vec::new();
    for name in names.iter().cloned() {
        let mut read = redis::cmd("HMGET");
        read.arg(prefix.circuit(&name))
            .arg("format")
            .arg("policies_differ");
        let (format, differ): (Option<String>, Option<String>) = match node.read(&read).await {
            Err(error) if error.code() == Some("WRONGTYPE") => continue,
            answer => answer?,
        };
        found.push(Seen {
            name,
            format: format.and_then(|format| format.parse().ok()).unwrap_or(0),
            differ: differ.unwrap_or_default(),
        });
    }
    Ok(found)
}
