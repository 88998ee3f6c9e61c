//! The replicas of a circuit, and their probes in flight.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::quorum::stable;

/// The replicas and probes of a circuit, as stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Members {
    /// Probe permits in flight, the first to expire first.
    pub probes: Vec<Lease>,
    /// Replicas that reported within the last hour, the latest first.
    pub replicas: Vec<Member>,
}

/// A probe permit in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Lease {
    /// The permit's token.
    pub token: String,
    /// The replica that holds it.
    pub replica: String,
    /// When the lease expires, Unix ms by the store's clock.
    pub until_ms: u64,
}

/// A replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Member {
    /// Its name, with the random part.
    pub name: String,
    /// When its last report was recorded, Unix ms by the store's clock. Recorded every 5 s.
    pub seen_ms: u64,
    /// When this replica, or an earlier start of it, last reported a failure; 0 if that is not
    /// recorded (`quorum` 1) or is too long ago.
    pub failing_ms: u64,
    /// Until when its local circuit is open; 0 = it is not.
    pub alone_until_ms: u64,
}

/// Names with a time each.
pub(crate) type Times = BTreeMap<String, u64>;

impl Members {
    /// Omits what has ended by `now`.
    pub(crate) fn new(
        now: u64,
        mut probes: Times,
        seen: &Times,
        failing: &Times,
        mut alone: Times,
    ) -> Self {
        probes.retain(|_, until| *until > now);
        alone.retain(|_, until| *until > now);
        let lease = |(token, until_ms): (String, u64)| {
            // A replica names its permits "replica:number".
            let holder = token
                .rsplit_once(':')
                .map_or(&*token, |(replica, _)| replica);
            let replica = holder.to_owned();
            Lease {
                token,
                replica,
                until_ms,
            }
        };
        let of = |times: &Times, name: &str| times.get(name).copied().unwrap_or(0);
        let mut names: BTreeSet<_> = seen.keys().chain(alone.keys()).collect();
        let known: BTreeSet<_> = names.iter().map(|name| stable(name)).collect();
        names.extend(failing.keys().filter(|name| !known.contains(name.as_str())));
        let member = |name: &String| Member {
            name: name.clone(),
            seen_ms: of(seen, name),
            failing_ms: of(failing, stable(name)),
            alone_until_ms: of(&alone, name),
        };
        let mut members = Self {
            probes: probes.into_iter().map(lease).collect(),
            replicas: names.into_iter().map(member).collect(),
        };
        members.probes.sort_by_key(|lease| lease.until_ms);
        members
            .replicas
            .sort_by_key(|member| std::cmp::Reverse(member.seen_ms));
        members
    }
}
