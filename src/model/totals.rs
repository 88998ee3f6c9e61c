//! Lifetime totals of a circuit, and how long it was open.
//!
//! Owns when an outage begins and ends: failed probes do not end it, an override does.
//! Twin: `opened_at` in `lua/lib/hash.lua`, `transition` in `lua/lib/circuit.lua`.

use super::{Circuit, State, snapshot::LARGEST};

/// Lifetime totals of a circuit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) successes: u64,
    pub(super) failures: u64,
    pub(super) slow: u64,
    pub(super) ignored: u64,
    pub(super) rejected: u64,
    pub(super) abandoned: u64,
    pub(super) last_success_ms: u64,
    pub(super) last_failure_ms: u64,
}

/// Whether calls wait for probes to succeed.
pub(super) const fn is_down(state: State) -> bool {
    matches!(state, State::Open | State::HalfOpen)
}

impl Circuit {
    /// Returns the lifetime totals: successes, failures, slow, ignored, rejected, abandoned.
    pub(super) fn counted(&self) -> [u64; 6] {
        let of = &self.totals;
        [
            of.successes,
            of.failures,
            of.slow,
            of.ignored,
            of.rejected,
            of.abandoned,
        ]
    }

    /// Returns when the circuit opened (failed probes do not change it); 0 if it is neither open
    /// nor half-open.
    pub(super) fn opened_at(&self) -> u64 {
        match (is_down(self.state), self.opened_ms) {
            (false, _) => 0,
            (true, 0) => self.since_ms,
            (true, opened) => opened.min(self.since_ms),
        }
    }

    /// Updates the times of the outage for a transition to a state now.
    pub(super) fn note_open(&mut self, now: u64, to: State) {
        let opened = self.opened_at();
        if is_down(to) {
            self.opened_ms = if opened > 0 { opened } else { now };
        } else {
            self.open_total_ms = self.open_until_ms(now).min(LARGEST);
            self.opened_ms = 0;
        }
    }

    /// Returns the total time in open during the lifetime of the circuit, until now.
    pub(super) fn open_until_ms(&self, now: u64) -> u64 {
        let open_ms = match is_down(self.state) {
            true => now.saturating_sub(self.opened_at()),
            false => 0,
        };
        self.open_total_ms + open_ms
    }
}
