//! Checks of Redis' storage: eviction, persistence, and other users of the prefix.

use redis::RedisResult;

use super::{Finding, Node, not_allowed};

/// The value of a `field:value` line.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

async fn limits(node: &Node) -> RedisResult<(u64, String)> {
    let info = node.info("memory").await;
    let info = info.as_deref().unwrap_or_default();
    if let (Some(limit), Some(policy)) = (field(info, "maxmemory"), field(info, "maxmemory_policy"))
    {
        return Ok((limit.parse().unwrap_or(0), policy.to_owned()));
    }
    let limit = node.config("maxmemory").await?;
    Ok((
        limit.parse().unwrap_or(0),
        node.config("maxmemory-policy").await?,
    ))
}

/// Whether circuits may be evicted when memory is short.
pub(super) async fn eviction(node: Node) -> Finding {
    let name = "eviction";
    let Ok((limit, policy)) = limits(&node).await else {
        return not_allowed(name, "the eviction policy", "+info");
    };
    let mib = limit as f64 / 1_048_576.0;
    let (found, means) = match &*policy {
        "noeviction" if limit == 0 => return Finding::ok(name, "nothing is evicted".to_owned()),
        "noeviction" => {
            return Finding::ok(
                name,
                format!("nothing is evicted; the limit is {mib:.0} MiB"),
            );
        }
        _ if limit == 0 => {
            let found = format!("{policy}, but without a limit nothing is evicted");
            return Finding::ok(name, found);
        }
        policy if policy.starts_with("volatile") => (
            format!("{policy}, beyond {mib:.0} MiB"),
            "It drops keys that have a TTL, and every key of a circuit has one.",
        ),
        policy => (
            format!("{policy}, beyond {mib:.0} MiB"),
            "It drops any key when memory is short, and so the state, counts and probes of circuits.",
        ),
    };
    Finding::warning(name, found)
        .means(means)
        .advice("Set maxmemory-policy to noeviction, or give circuits a Redis that is not a cache.")
}

/// What a restart would lose.
pub(super) async fn persistence(node: Node) -> Finding {
    let name = "persistence";
    let info = node.info("persistence").await;
    let aof = match field(info.as_deref().unwrap_or_default(), "aof_enabled") {
        Some(enabled) => Ok(enabled == "1"),
        None => node.config("appendonly").await.map(|value| value == "yes"),
    };
    let Ok(aof) = aof else {
        return not_allowed(name, "what a restart loses", "+info and +config|get");
    };
    if aof {
        return Finding::ok(
            name,
            "an append-only file: a restart loses next to nothing".to_owned(),
        );
    }
    let adopted = "Circuits come back from what the replicas remember; their counts start over.";
    match node.config("save").await.as_deref() {
        Err(_) => not_allowed(name, "whether snapshots are saved", "+config|get"),
        Ok("") => Finding::note(name, "none: a restart loses everything".to_owned()).means(adopted),
        Ok(times) => {
            let found =
                format!("snapshots (save {times}): a restart loses what came after the last");
            Finding::note(name, found).means(adopted)
        }
    }
}

/// The maximum number of a server's keys that are scanned, and how many at a time.
const LOOKED_AT: usize = 100_000;
const AT_A_TIME: usize = 1000;
/// The maximum number of foreign keys that a finding names.
const NAMED: usize = 3;

/// Who else uses the prefix: counts the circuits in the index, and finds keys of others.
pub(super) async fn keys(nodes: &[Node]) -> Finding {
    let name = "keys";
    // Any node will do: a Cluster's client finds the index by its key.
    let Some(first) = nodes.first() else {
        return Finding::note(name, "no server was reached".to_owned());
    };
    let prefix = &first.inner.prefix;
    let mut index = redis::cmd("ZCARD");
    index.arg(prefix.index());
    let circuits = first.anywhere().read::<u64>(&index).await;
    let circuits = match circuits {
        Ok(1) => "1 circuit is".to_owned(),
        Ok(n) => format!("{n} circuits are"),
        Err(_) => "the circuits cannot be counted that are".to_owned(),
    };
    let under = format!("{circuits} in use under {}:", prefix.as_str());
    let mut strangers = Vec::new();
    for node in nodes {
        match foreign(node).await {
            Ok(found) => strangers.extend(found),
            Err(_) => {
                let found = format!("{under}; not allowed to look for keys of others");
                return Finding::note(name, found)
                    .advice("It is not needed; +scan would let the doctor see them.");
            }
        }
    }
    if strangers.is_empty() {
        return Finding::ok(name, under);
    }
    strangers.sort();
    let named = strangers[..strangers.len().min(NAMED)].join(", ");
    let found = format!("{under}, and {} other keys: {named}", strangers.len());
    Finding::warning(name, found)
        .means("Somebody else uses the prefix. A key of theirs could be taken for a circuit's.")
        .advice("Give one of them another prefix.")
}

/// Keys under the prefix that the crate did not make.
async fn foreign(node: &Node) -> RedisResult<Vec<String>> {
    let prefix = &node.inner.prefix;
    let pattern = format!("{}:*", prefix.pattern());
    let (mut cursor, mut found) = (0_u64, Vec::new());
    for _ in 0..LOOKED_AT / AT_A_TIME {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(&pattern);
        scan.arg("COUNT").arg(AT_A_TIME);
        let (next, keys): (u64, Vec<Vec<u8>>) = node.read(&scan).await?;
        let keys = keys.iter().map(|key| String::from_utf8_lossy(key));
        found.extend(
            keys.filter(|key| !prefix.is_ours(key))
                .map(|key| key.into_owned()),
        );
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    Ok(found)
}
