//! A circuit as one reply shows it.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, Visitor},
};

use super::{Percentiles, Reason, Rules, State, request::LONGEST_MS};

/// The largest number that a store keeps: sums of a few stay exact in Lua.
pub(crate) const LARGEST: u64 = (1 << 52) - 1;
/// The largest generation: no fleet gets there, so a larger one is nobody's. Twin:
/// `lua/lib/prelude.lua`.
pub(crate) const MOST_GENERATIONS: u64 = 1 << 40;
/// The longest pace, ms: that of the longest `report_interval`.
const LONGEST_PACE_MS: u64 = 3_600_000;
/// The longest text that a store takes, bytes.
const LONGEST_TEXT: usize = 4096;

/// A circuit at one moment, as the store saw it.
///
/// Span are Unix milliseconds by the store's clock; 0 means "none". Fields come in the order in
/// which the scripts reply. Twin: `picture` in `lua/lib/circuit.lua`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// The state.
    pub state: State,
    /// Grows by one at each transition; 0 for a circuit that never had one.
    pub generation: u64,
    /// When this was read.
    pub now_ms: u64,
    /// When the state was entered.
    pub since_ms: u64,
    /// When the state ends by itself: an open circuit's wait, an override's expiry, a half-open's
    /// longest time.
    pub until_ms: u64,
    /// Why the state was entered.
    pub reason: Reason,
    /// Opens without a calm time (`backoff_reset_after`) between them.
    pub consecutive_opens: u64,
    /// Recorded calls in the window; while open or half-open, those that opened it.
    pub calls: u64,
    /// Failures among them.
    pub failures: u64,
    /// Slow calls among them.
    pub slow: u64,
    /// Length of the present run of failures.
    pub consecutive_failures: u64,
    /// Probe permits that are out, in open and half-open.
    pub probes: u64,
    /// Probes of this half-open that succeeded.
    pub probe_successes: u64,
    /// Probes of this half-open that failed.
    pub probe_failures: u64,
    /// When the recovery ramp ends.
    pub ramp_until_ms: u64,
    /// Who set the override.
    #[serde(deserialize_with = "text")]
    pub override_author: String,
    /// Why, in the author's words.
    #[serde(deserialize_with = "text")]
    pub override_reason: String,
    /// The policy stored with the circuit, `key=integer` pairs; empty when there is none.
    #[serde(deserialize_with = "text")]
    pub policy: String,
    /// Successes in the circuit's life.
    pub successes_total: u64,
    /// Failures in the circuit's life.
    pub failures_total: u64,
    /// Slow calls in the circuit's life.
    pub slow_total: u64,
    /// Ignored outcomes in the circuit's life.
    pub ignored_total: u64,
    /// Rejected calls in the circuit's life.
    pub not_permitted_total: u64,
    /// When a success was last reported.
    pub last_success_ms: u64,
    /// When a failure was last reported.
    pub last_failure_ms: u64,
    /// How long a replica should wait between reports, ms; 0 in replies to anything but a report.
    pub pace_ms: u64,
    /// Replicas that reported lately.
    pub replicas: u64,
    /// Replicas that failed within the window; 0 where `quorum` is 1.
    pub failing: u64,
    /// Replicas that are open for themselves; 0 where `quorum` is 1.
    pub alone: u64,
    /// How often a policy was stored with the circuit, or taken away.
    pub policy_version: u64,
    /// Calls of the window that were dropped before they ended and are not among `calls`: neither
    /// success nor failure, unless there is no success in the window. Of a count window, those
    /// since the last success.
    pub undecided: u64,
    /// Calls that were dropped before they ended in the circuit's life; those that had run too long
    /// are among the failures too.
    pub abandoned_total: u64,
    /// Where replicas of the circuit run under different policies: the settings that differ, each
    /// with its values and how many replicas have which, `window_ms=60000 (3), 5000 (1); …`; else
    /// empty.
    #[serde(deserialize_with = "text")]
    pub policies_differ: String,
    /// How long the calls of the window took (of the last minute, where the window counts calls); only
    /// where a snapshot was asked for, and `None` when no latency was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Percentiles>,
    /// The policy in code as replicas last reported it, `key=integer` pairs of what is not at its
    /// default; only where a snapshot was asked for.
    #[serde(
        default,
        deserialize_with = "text",
        skip_serializing_if = "String::is_empty"
    )]
    pub code_policy: String,
}

impl Snapshot {
    /// Failures among the recorded calls of the window, in percent; `None` without calls.
    #[must_use]
    pub fn failure_rate(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.failures as f64 * 100.0 / self.calls as f64)
    }

    /// Slow calls among the recorded calls of the window, in percent; `None` without calls.
    #[must_use]
    pub fn slow_rate(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.slow as f64 * 100.0 / self.calls as f64)
    }

    /// What is in the window.
    pub(crate) const fn sums(&self) -> [u64; 4] {
        [self.calls, self.failures, self.slow, self.undecided]
    }

    /// Grows as the circuit goes on: what has less was seen before, whenever it arrives.
    pub(crate) const fn version(&self) -> (u64, u64) {
        (self.generation, self.policy_version)
    }

    /// The same with times that a circuit under these rules can have.
    #[must_use]
    pub(crate) fn in_time(mut self, rules: &Rules) -> Self {
        let times = Span {
            since: self.since_ms,
            until: self.until_ms,
            ramp_until: self.ramp_until_ms,
            retry_after_until: 0,
        };
        let times = times.as_of(self.now_ms, self.state, rules);
        self.since_ms = times.since;
        self.until_ms = times.until;
        self.ramp_until_ms = times.ramp_until;
        self
    }

    /// Whether any store has heard of the circuit.
    #[must_use]
    pub const fn exists(&self) -> bool {
        self.since_ms > 0
    }

    /// Milliseconds until the state ends by itself, as of `now_ms`; 0 when it does not.
    #[must_use]
    pub const fn left_ms(&self) -> u64 {
        self.until_ms.saturating_sub(self.now_ms)
    }

    /// The same with numbers that can be added up, whatever a store that somebody wrote into says.
    #[must_use]
    pub(crate) fn bounded(mut self) -> Self {
        self.generation = self.generation.min(MOST_GENERATIONS);
        let numbers = [
            &mut self.now_ms,
            &mut self.since_ms,
            &mut self.until_ms,
            &mut self.consecutive_opens,
            &mut self.calls,
            &mut self.consecutive_failures,
            &mut self.probes,
            &mut self.probe_successes,
            &mut self.probe_failures,
            &mut self.ramp_until_ms,
            &mut self.successes_total,
            &mut self.failures_total,
            &mut self.slow_total,
            &mut self.ignored_total,
            &mut self.not_permitted_total,
            &mut self.last_success_ms,
            &mut self.last_failure_ms,
            &mut self.replicas,
            &mut self.failing,
            &mut self.alone,
            &mut self.policy_version,
            &mut self.undecided,
            &mut self.abandoned_total,
        ];
        for number in numbers {
            *number = (*number).min(LARGEST);
        }
        self.failures = self.failures.min(self.calls);
        self.slow = self.slow.min(self.calls);
        self.pace_ms = self.pace_ms.min(LONGEST_PACE_MS);
        self
    }
}

/// When a state began and ends; 0 = never. Twin: `keep_in_time` in `lua/lib/hash.lua`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) since: u64,
    pub(super) until: u64,
    pub(super) ramp_until: u64,
    pub(super) retry_after_until: u64,
}

impl Span {
    /// The same where the clock was set back, or another server's is behind, or somebody wrote
    /// them: the state has begun by now, lasts no longer than it was to, nor than the policy has it
    /// last.
    pub(super) fn as_of(self, now: u64, state: State, rules: &Rules) -> Self {
        let ahead = self.since.saturating_sub(now);
        let earliest = if ahead > 0 { now } else { 0 };
        let bound = |at: u64, longest: u64| match at {
            0 => 0,
            at => at
                .saturating_sub(ahead)
                .max(earliest)
                .min(now.saturating_add(longest)),
        };
        let longest = match state {
            State::Open => rules.longest_wait_ms().max(rules.probe_lease_ms),
            State::HalfOpen => rules.max_wait_duration_in_half_open_state_ms,
            _ => LONGEST_MS,
        };
        Self {
            since: self.since.min(now),
            until: bound(self.until, longest),
            ramp_until: bound(self.ramp_until, rules.ramp_duration_ms),
            retry_after_until: bound(self.retry_after_until, u64::MAX),
        }
    }
}

/// A text of the store's: what is not UTF-8 in it is replaced, what is too long is cut.
pub(crate) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    struct Text;

    impl Visitor<'_> for Text {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            let mut ends = (0..=text.len().min(LONGEST_TEXT)).rev();
            let end = ends.find(|end| text.is_char_boundary(*end));
            Ok(text[..end.unwrap_or(0)].to_owned())
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<String, E> {
            self.visit_str(&String::from_utf8_lossy(bytes))
        }
    }

    from.deserialize_str(Text)
}
