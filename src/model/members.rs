//! Who takes part in a circuit: replicas, and the probes that they have out.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// Who takes part in a circuit, as the store has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Members {
    /// Probe permits that are out, the soonest to end first.
    pub probes: Vec<Lease>,
    /// Replicas that have reported within the last hour, the last one first.
    pub replicas: Vec<Member>,
}

/// A probe permit that is out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Lease {
    /// Names the permit.
    pub token: String,
    /// Who holds it.
    pub replica: String,
    /// Until when, Unix ms by the store's clock.
    pub until_ms: u64,
}

/// A replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Member {
    /// Its name, with the random part.
    pub name: String,
    /// When it was last noted, which is done every 5 s, Unix ms by the store's clock.
    pub seen_ms: u64,
    /// When it last reported a failure; 0 where that is not noted (`quorum` 1) or too long ago.
    pub failing_ms: u64,
    /// Until when it is open for itself; 0 = it is not.
    pub alone_until_ms: u64,
}

/// Names with a time each.
pub(crate) type Times = BTreeMap<String, u64>;

impl Members {
    /// What has ended by `now` is left out.
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
        let names: BTreeSet<_> = seen
            .keys()
            .chain(failing.keys())
            .chain(alone.keys())
            .collect();
        let member = |name: &String| Member {
            name: name.clone(),
            seen_ms: of(seen, name),
            failing_ms: of(failing, name),
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
