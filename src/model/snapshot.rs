//! A circuit as one answer of the store shows it.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, Visitor},
};

use super::{KindCount, Percentiles, Reason, Rules, State, request::LONGEST_MS};

/// The largest number that a store keeps: sums of a few stay exact in Lua.
pub(crate) const LARGEST: u64 = (1 << 52) - 1;
/// The largest generation. No fleet gets there, so a larger one is a foreign write.
/// Twin: `lua/lib/prelude.lua`.
pub(crate) const MOST_GENERATIONS: u64 = 1 << 40;

/// Returns the next generation. The last one is followed by the first. No fleet gets there, but a
/// foreign write can.
pub(super) const fn generation_after(generation: u64) -> u64 {
    if generation < MOST_GENERATIONS {
        generation + 1
    } else {
        1
    }
}
/// The longest pace, ms: the longest `report_interval`.
const LONGEST_PACE_MS: u64 = 3_600_000;
/// The longest text that a store accepts, bytes.
const LONGEST_TEXT: usize = 4096;

/// A circuit at one moment, as the store saw it.
///
/// Times are Unix milliseconds by the store's clock; 0 means "none". Fields are in the order of the
/// scripts' answers. Twin: `picture` in `lua/lib/circuit.lua`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// payments.acquire().await?.failure();
/// circuits.flush().await;
///
/// let snapshot = payments.snapshot().await?;
/// println!("{}, failure rate {:?} %", snapshot.state, snapshot.failure_rate());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// The state.
    pub state: State,
    /// Grows by one at each transition; 0 without transitions.
    pub generation: u64,
    /// When this was read.
    pub now_ms: u64,
    /// When the state was entered.
    pub since_ms: u64,
    /// When the state ends by itself: the end of an open circuit's wait, of an override, or of a
    /// half-open period.
    pub until_ms: u64,
    /// Why the state was entered.
    pub reason: Reason,
    /// Opens without a calm time (`backoff_reset_after`) between them.
    pub consecutive_opens: u64,
    /// Recorded calls in the window; in open and half-open, the calls that opened the circuit.
    pub calls: u64,
    /// Failures among them.
    pub failures: u64,
    /// Slow calls among them.
    pub slow: u64,
    /// Length of the current run of failures.
    pub consecutive_failures: u64,
    /// Probes in flight, in open and half-open.
    pub probes: u64,
    /// Probes of this half-open period that succeeded.
    pub probe_successes: u64,
    /// Probes of this half-open period that failed.
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
    /// Successes in the lifetime of the circuit.
    pub successes_total: u64,
    /// Failures in the lifetime of the circuit.
    pub failures_total: u64,
    /// Slow calls in the lifetime of the circuit.
    pub slow_total: u64,
    /// Ignored outcomes in the lifetime of the circuit.
    pub ignored_total: u64,
    /// Rejected calls in the lifetime of the circuit.
    pub rejected_total: u64,
    /// When a success was last reported.
    pub last_success_ms: u64,
    /// When a failure was last reported.
    pub last_failure_ms: u64,
    /// How long a replica should wait between reports, ms; only in answers to reports, otherwise 0.
    pub pace_ms: u64,
    /// Replicas that reported recently.
    pub replicas: u64,
    /// Replicas that failed within the window; 0 if `quorum` is 1.
    pub failing: u64,
    /// Replicas whose local circuit is open; 0 if `quorum` is 1.
    pub alone: u64,
    /// How often a policy was stored with the circuit, or removed.
    pub policy_version: u64,
    /// Calls of the window that were dropped before they ended and are not among `calls`: neither
    /// success nor failure, unless there is no success in the window. For a count window, those
    /// since the last success.
    pub undecided: u64,
    /// Calls that were dropped before they ended, in the lifetime of the circuit. Those that had
    /// run too long are also among the failures.
    pub abandoned_total: u64,
    /// When the circuit opened; probes that failed since then do not change it. 0 if the circuit is
    /// neither open nor half-open.
    pub opened_ms: u64,
    /// Total time in open during the lifetime of the circuit, as of `now_ms`: from each opening
    /// until it closed, half-open included, overrides not included.
    pub open_total_ms: u64,
    /// If replicas use different policies for the circuit: the settings that differ, each with its
    /// values and their number of replicas, `window_ms=60000 (3), 5000 (1); …`; otherwise empty.
    #[serde(deserialize_with = "text")]
    pub policies_differ: String,
    /// How long the calls of the window took (for a count window, those of the last minute). Only
    /// in the answer to a snapshot request; `None` if no latency was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Percentiles>,
    /// The policy in code that replicas last reported: `key=integer` pairs of the settings that are
    /// not at their default. Only in the answer to a snapshot request.
    #[serde(
        default,
        deserialize_with = "text",
        skip_serializing_if = "String::is_empty"
    )]
    pub code_policy: String,
    /// The failures that have a [kind](crate::FailureKind): the most frequent kinds of the past
    /// minutes first, at most 16. Each is kept until a day has passed without one. Resets and
    /// transitions do not change them. Only in the answer to a snapshot request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failure_kinds: Vec<KindCount>,
}

impl Snapshot {
    /// Returns the failures in percent of the recorded calls of the window; `None` without calls.
    #[must_use]
    pub fn failure_rate(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.failures as f64 * 100.0 / self.calls as f64)
    }

    /// Returns the slow calls in percent of the recorded calls of the window; `None` without calls.
    #[must_use]
    pub fn slow_rate(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.slow as f64 * 100.0 / self.calls as f64)
    }

    /// Returns the counts of the window.
    pub(crate) const fn sums(&self) -> [u64; 4] {
        [self.calls, self.failures, self.slow, self.undecided]
    }

    /// Returns a version that grows with each transition and each stored policy. A snapshot with a
    /// smaller version is older, whenever it arrives.
    pub(crate) const fn version(&self) -> (u64, u64) {
        (self.generation, self.policy_version)
    }

    /// Returns the snapshot with its times limited to those possible under these rules.
    #[must_use]
    pub(crate) fn in_time(mut self, rules: &Rules) -> Self {
        let times = Span {
            since: self.since_ms,
            opened: self.opened_ms,
            until: self.until_ms,
            ramp_until: self.ramp_until_ms,
            retry_after_until: 0,
        };
        let times = times.as_of(self.now_ms, self.state, rules);
        self.since_ms = times.since;
        if let Some(open_ms) = self.open_ms() {
            self.opened_ms = match times.opened {
                0 => times.since,
                opened => opened.min(times.since),
            };
            let rest = self.open_total_ms.saturating_sub(open_ms);
            self.open_total_ms = rest + self.open_ms().unwrap_or(0);
        }
        self.until_ms = times.until;
        self.ramp_until_ms = times.ramp_until;
        self
    }

    /// Whether any store knows the circuit.
    #[must_use]
    pub const fn exists(&self) -> bool {
        self.since_ms > 0
    }

    /// Returns the milliseconds since the circuit opened, as of `now_ms` (failed probes do not
    /// change it); `None` if it is neither open nor half-open.
    #[must_use]
    pub const fn open_ms(&self) -> Option<u64> {
        match self.state {
            State::Open | State::HalfOpen => Some(self.now_ms.saturating_sub(self.opened_ms)),
            _ => None,
        }
    }

    /// Returns the milliseconds until the state ends by itself, as of `now_ms`; 0 if it has no end.
    #[must_use]
    pub const fn left_ms(&self) -> u64 {
        self.until_ms.saturating_sub(self.now_ms)
    }

    /// Returns the snapshot with its numbers limited, so that sums do not overflow, even after
    /// foreign writes to the store.
    #[must_use]
    pub(crate) fn bounded(mut self) -> Self {
        let Self {
            state: _,
            generation,
            now_ms,
            since_ms,
            until_ms,
            reason: _,
            consecutive_opens,
            calls,
            failures,
            slow,
            consecutive_failures,
            probes,
            probe_successes,
            probe_failures,
            ramp_until_ms,
            override_author: _,
            override_reason: _,
            policy: _,
            successes_total,
            failures_total,
            slow_total,
            ignored_total,
            rejected_total,
            last_success_ms,
            last_failure_ms,
            pace_ms,
            replicas,
            failing,
            alone,
            policy_version,
            undecided,
            abandoned_total,
            opened_ms,
            open_total_ms,
            policies_differ: _,
            latency: _,
            code_policy: _,
            failure_kinds: _, // limited when they are read
        } = &mut self;
        *generation = (*generation).min(MOST_GENERATIONS);
        *calls = (*calls).min(LARGEST);
        *failures = (*failures).min(*calls);
        *slow = (*slow).min(*calls);
        *pace_ms = (*pace_ms).min(LONGEST_PACE_MS);
        for number in [
            now_ms,
            since_ms,
            until_ms,
            consecutive_opens,
            consecutive_failures,
            probes,
            probe_successes,
            probe_failures,
            ramp_until_ms,
            successes_total,
            failures_total,
            slow_total,
            ignored_total,
            rejected_total,
            last_success_ms,
            last_failure_ms,
            replicas,
            failing,
            alone,
            policy_version,
            undecided,
            abandoned_total,
            opened_ms,
            open_total_ms,
        ] {
            *number = (*number).min(LARGEST);
        }
        self
    }
}

/// The times of a state; 0 = none. Twin: `keep_in_time` in `lua/lib/hash.lua`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) since: u64,
    pub(super) opened: u64,
    pub(super) until: u64,
    pub(super) ramp_until: u64,
    pub(super) retry_after_until: u64,
}

impl Span {
    /// Returns corrected times if the clock was set back, another server's clock is behind, or
    /// there are foreign values: the state has begun by now, and lasts no longer than intended, nor
    /// than the policy allows.
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
            opened: self.opened.saturating_sub(ahead),
            until: bound(self.until, longest),
            ramp_until: bound(self.ramp_until, rules.ramp_duration_ms),
            retry_after_until: bound(self.retry_after_until, u64::MAX),
        }
    }
}

/// Reads a text from the store. Invalid UTF-8 is replaced, and a text that is too long is cut.
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
