//! Circuits whose replicas run under different policies.

use redis::RedisResult;

use super::{Check, Node};
use crate::model::Name;

/// How many circuits of the index are looked at, at most.
const LOOKED_AT: usize = 500;
/// Circuits that are named.
const NAMED: usize = 3;

/// What differs, by circuit.
pub(super) async fn differ(nodes: &[Node]) -> Check {
    let name = "policies";
    let found = match nodes.first() {
        Some(first) => differences(&first.anywhere()).await,
        None => Ok(Vec::new()),
    };
    let Ok(found) = found else {
        let found = "the circuits could not be read".to_owned();
        return Check::note(name, found);
    };
    if found.is_empty() {
        let found = "the replicas of each circuit have the same".to_owned();
        return Check::ok(name, found);
    }
    let named: Vec<_> = found
        .iter()
        .take(NAMED)
        .map(|(circuit, differ)| format!("{circuit}: {differ}"))
        .collect();
    let found = match found.len() {
        1 => format!("they differ for 1 circuit, {}", named.join("; ")),
        n => format!("they differ for {n} circuits, {}", named.join("; ")),
    };
    Check::warning(name, found)
        .means("Each replica trips by its own policy; the number of replicas that have a value is in brackets.")
        .advice("It passes when a deploy is complete. Where it stays, two services use one name with different settings.")
}

async fn differences(node: &Node) -> RedisResult<Vec<(String, String)>> {
    let prefix = &node.inner.prefix;
    let mut index = redis::cmd("ZRANGE");
    index.arg(prefix.index()).arg(0).arg(LOOKED_AT - 1);
    let names: Vec<String> = node.read(&index).await?;
    let mut found = Vec::new();
    for name in names.iter().filter_map(|name| Name::new(name).ok()) {
        let mut read = redis::cmd("HGET");
        read.arg(prefix.circuit(&name)).arg("policies_differ");
        let differ: Option<String> = node.read(&read).await?;
        if let Some(differ) = differ.filter(|differ| !differ.is_empty()) {
            found.push((name.to_string(), differ));
        }
    }
    Ok(found)
}
