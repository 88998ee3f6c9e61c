//! Whether the demo may reset a circuit in a Redis.
//!
//! Owns the signs that somebody else uses it: a replica that is not a demo's, another running demo,
//! an override.

use std::time::Duration;

use commontrip::{
    Commontrip, ControlError, Snapshot,
    operator::{Details, Operator},
};

use super::DemoError;
use crate::{
    out::{in_words, shown},
    overrides::ActiveOverride,
    words,
};

/// The prefix of the demo's keys: the default one, so that a service's dashboard shows them.
pub const PREFIX: &str = "commontrip";
/// A demo's replica that reported within this time may still be running. Replicas are noted every 5
/// s.
const RECENT_MS: u64 = 15_000;
/// A running demo makes calls within this time.
const CALLS_WITHIN: Duration = Duration::from_secs(1);

/// Fails if somebody else uses the circuit.
pub async fn check(registry: &Commontrip, circuit: &str) -> Result<(), DemoError> {
    let operator = Operator::of(registry);
    let details = match operator.details(circuit).await {
        Ok(details) => details,
        // The circuit does not exist.
        Err(ControlError::Unknown(_)) => return Ok(()),
        Err(error) => return Err(DemoError::cannot("look at the circuit")(error)),
    };
    if let Some(why) = elsewhere(&details) {
        return Err(in_use(circuit, &why));
    }
    let now_ms = details.circuit.snapshot.now_ms;
    let mut replicas = details.replicas.iter();
    let Some(other) = replicas.find(|member| member.seen_ms + RECENT_MS > now_ms) else {
        return Ok(());
    };
    tokio::time::sleep(CALLS_WITHIN).await;
    match operator.circuit(circuit).await {
        Ok(later) if calls(&later.snapshot) == calls(&details.circuit.snapshot) => Ok(()),
        Ok(_) => {
            let other = shown(&other.name);
            Err(in_use(
                circuit,
                &format!("another demo runs on it ({other})"),
            ))
        }
        Err(error) => Err(in_use(circuit, &in_words(&error))),
    }
}

/// Why a circuit belongs to a service; `None` if it does not.
fn elsewhere(details: &Details) -> Option<String> {
    let now_ms = details.circuit.snapshot.now_ms;
    let services = details
        .replicas
        .iter()
        .filter(|member| !is_demo(&member.name));
    let services: Vec<_> = services.collect();
    if let Some(last) = services.first() {
        let n = words::count(services.len() as u64, "replica");
        let (name, ago) = (shown(&last.name), words::ago(now_ms, last.seen_ms));
        return Some(format!(
            "{n} of a service reported to it within the last hour ({name}, {ago})"
        ));
    }
    let standing = ActiveOverride::of(&details.circuit)?;
    Some(format!("it is {}", standing.in_words()))
}

fn in_use(circuit: &str, why: &str) -> DemoError {
    let circuit = shown(circuit);
    DemoError::InUse(format!(
        "the circuit `{circuit}` is in use: {why}\n  the demo would reset it and make it trip; \
         nothing was changed\n  choose another --circuit, or leave --circuit out"
    ))
}

/// Whether a name has the form of a demo's replica: `demo-` and a process id, `-r` and a number,
/// then a random part.
fn is_demo(replica: &str) -> bool {
    let name = replica.rsplit_once('.').map_or(replica, |(name, _)| name);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let Some(rest) = name.strip_prefix("demo-") else {
        return false;
    };
    match rest.split_once("-r") {
        Some((process, number)) => is_number(process) && is_number(number),
        None => is_number(rest),
    }
}

/// The numbers that change with each call.
fn calls(seen: &Snapshot) -> [u64; 4] {
    [
        seen.successes_total,
        seen.failures_total,
        seen.rejected_total,
        seen.abandoned_total,
    ]
}

#[cfg(test)]
mod tests {
    use super::is_demo;

    #[test]
    fn only_a_demos_replicas_are_its_own() {
        for (name, is) in [
            ("demo-24679.d698b1b0", true),
            ("demo-24679-r1.d698b1b0", true),
            ("demo-24679-r12", true),
            ("demo-shop-7.d698b1b0", false),
            ("demo-.d698b1b0", false),
            ("demo-1-r.d698b1b0", false),
            ("payments-7f9.12", false),
            ("", false),
        ] {
            assert_eq!(is_demo(name), is, "{name}");
        }
    }
}
