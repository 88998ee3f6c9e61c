//! Which replicas fail, which are open for themselves, and whether enough fail to open.
//!
//! Owns `failing` and `alone`; knows nothing of states. With a quorum of 1 nothing is noted and
//! every breach is agreed on. Both are cleared of what is over when something is noted, and what
//! is over never counts. Twin: `lua/lib/quorum.lua`.

use super::{Circuit, Counts, Rules, circuit::Turn, operations::REPLICA_MEMORY_MS};

/// Who reported within this time is there.
pub(super) const REPLICA_LIVE_MS: u64 = 15_000;
/// How exactly that is known.
pub(super) const REPLICA_SEEN_MS: u64 = 5_000;

/// How long a failure counts, ms.
fn window(rules: &Rules) -> u64 {
    rules.window_ms.max(1)
}

/// Times that are later than any can be, as those of a clock that was set back, are read as the
/// latest. Redis takes a hundred at a time.
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
        // Another policy's window may be longer.
        let kept = match self.differ.is_empty() {
            true => window(&t.rules),
            false => window(&t.rules).max(REPLICA_MEMORY_MS),
        };
        self.failing.retain(|_, at| *at + kept > t.now);
        self.failing.insert(t.replica.to_owned(), t.now);
        no_later(self.failing.values_mut(), t.now);
    }

    pub(super) fn note_alone(&mut self, t: &Turn<'_>, alone_ms: u64) {
        if t.rules.quorum <= 1 {
            return;
        }
        // As long as its circuit can be open, or half-open.
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
        // A replica's place in `replicas` can be older than its last report by what it is known to.
        let within = window(&t.rules).max(REPLICA_LIVE_MS) + REPLICA_SEEN_MS;
        let since = t.now.saturating_sub(within);
        let live = self.replicas.values().filter(|noted| noted.seen >= since);
        let live = live.count() as u64;
        self.failing_now(t) >= t.rules.quorum.min(live.max(1))
    }
}
