//! Which replicas fail, whose local circuit is open, and whether enough fail to open.
//!
//! Owns `failing` and `alone`; knows nothing of states. Replicas are counted by their stable names,
//! so a replica that crashes and restarts repeatedly counts once. With a quorum of 1 nothing is
//! recorded, and every breach is agreed. Expired entries of both maps never count, and are removed
//! when an entry is added. Twin: `lua/lib/quorum.lua`.

use std::collections::BTreeSet;

use super::{Circuit, Counts, Rules, turn::Turn};

/// A replica that reported within this time is live.
pub(super) const REPLICA_LIVE_MS: u64 = 15_000;
/// The precision of that time.
pub(super) const REPLICA_SEEN_MS: u64 = 5_000;
/// How long the last number of a silent replica is kept, ms.
pub(super) const REPLICA_MEMORY_MS: u64 = 3_600_000;

/// A replica that reports to this circuit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SeenReplica {
    /// Number of its last report.
    pub(super) number: u64,
    /// When it was last recorded.
    pub(super) seen: u64,
    /// A short form of that time, as Redis stores it. It tells whether the replica is due to be
    /// recorded.
    pub(super) moment: u64,
    /// The id of its policy.
    pub(super) policy: u64,
}

/// Returns a replica's name without its random part, which is new at each start.
pub(super) fn stable(replica: &str) -> &str {
    let random = |part: &str| part.len() == 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
    match replica.rsplit_once('.') {
        Some((name, part)) if !name.is_empty() && random(part) => name,
        _ => replica,
    }
}

/// Returns how long a failure counts, ms.
fn window(rules: &Rules) -> u64 {
    rules.window_ms.max(1)
}

/// Lowers times that are later than `latest`, such as those from before the clock was set back.
/// Redis lowers at most a hundred in one call.
pub(super) fn no_later<'a>(times: impl Iterator<Item = &'a mut u64>, latest: u64) {
    times.for_each(|at| *at = latest.min(*at));
}

impl Circuit {
    pub(super) fn note_failing(&mut self, t: &Turn<'_>, counts: &Counts) {
        let slow = t.rules.slow_call_duration_threshold_ms > 0 && counts.slow() > 0;
        let hung = counts.undecided() > 0 && t.rules.is_silent(self.window.sums);
        if t.rules.quorum <= 1 || counts.failures == 0 && !slow && !hung {
            return;
        }
        // Another policy may have a longer window.
        let kept = match self.differ.is_empty() {
            true => window(&t.rules),
            false => window(&t.rules).max(REPLICA_MEMORY_MS),
        };
        self.failing.retain(|_, at| *at + kept > t.now);
        self.failing.insert(stable(t.replica).to_owned(), t.now);
        no_later(self.failing.values_mut(), t.now);
    }

    pub(super) fn note_alone(&mut self, t: &Turn<'_>, alone_ms: u64) {
        if t.rules.quorum <= 1 {
            return;
        }
        // The longest time for which a local circuit can be open or half-open.
        let longest = t.rules.longest_wait_ms().max(t.rules.probe_lease_ms);
        let latest = t.now + longest.max(t.rules.max_wait_duration_in_half_open_state_ms);
        no_later(self.alone.values_mut(), latest);
        if alone_ms == 0 {
            self.alone.remove(t.replica);
            return;
        }
        self.alone.retain(|_, until| *until > t.now);
        let until = t.now.saturating_add(alone_ms).min(latest);
        self.alone.insert(t.replica.to_owned(), until);
    }

    pub(super) fn failing_now(&self, t: &Turn<'_>) -> u64 {
        if t.rules.quorum <= 1 {
            return 0;
        }
        let within = |at: &&u64| **at + window(&t.rules) > t.now;
        self.failing.values().filter(within).count() as u64
    }

    pub(super) fn alone_now(&self, t: &Turn<'_>) -> u64 {
        if t.rules.quorum <= 1 {
            return 0;
        }
        self.alone.values().filter(|until| **until > t.now).count() as u64
    }

    /// Whether enough replicas fail to open the circuit for all.
    pub(super) fn agreed(&self, t: &Turn<'_>) -> bool {
        if t.rules.quorum <= 1 {
            return true;
        }
        // The recorded time of a replica can be up to `REPLICA_SEEN_MS` older than its last report.
        let within = window(&t.rules).max(REPLICA_LIVE_MS) + REPLICA_SEEN_MS;
        let since = t.now.saturating_sub(within);
        let live = self
            .replicas
            .iter()
            .filter(|(_, noted)| noted.seen >= since);
        let live: BTreeSet<_> = live.map(|(name, _)| stable(name)).collect();
        self.failing_now(t) >= t.rules.quorum.min(live.len().max(1) as u64)
    }
}
