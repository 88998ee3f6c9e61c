//! The decision cache: whether a call may pass, from a few words in memory.
//!
//! Owns the words and their meaning; does no I/O and takes no lock. The circuit writes them under
//! its own lock, so readers may see two words from different moments. Every such pair is harmless:
//! it makes the caller ask the store, or lasts only until the next word is stored.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::model::{LatencyRecording, Policy, Reason, Rules, Snapshot, State};

use super::Rejection;

/// Why the cache does not admit a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotAdmitted {
    /// The call is rejected.
    Reject(Rejection),
    /// The cache does not know: one caller asks, and the others wait for the answer.
    Ask,
    /// A probe may be due: one caller asks, and the others are rejected.
    AskAlone,
}

/// The layout of the word, lowest bit first: state 3 bits, reason 5, flags 8; the tag from bit 32
/// on.
mod bits {
    pub(super) const STATE: u64 = 7;
    pub(super) const REASON: u32 = 3;
    pub(super) const ADMITS: u64 = 1 << 8;
    pub(super) const UNKNOWN: u64 = 1 << 9;
    pub(super) const RAMP: u64 = 1 << 10;
    pub(super) const LOCAL: u64 = 1 << 11;
    pub(super) const TIMED: u64 = 1 << 12;
    pub(super) const AT_ONCE: u64 = 1 << 13;
    pub(super) const LIMITED: u64 = 1 << 14;
    pub(super) const RECORDED: u64 = 1 << 15;
    pub(super) const TAG: u32 = 32;
}

/// Where the gate's decision comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The store's answer.
    Shared,
    /// This replica's local circuit: the store is unavailable.
    Local,
    /// This replica's local circuit: it is open and the fleet's is not, because a quorum is
    /// missing.
    Alone,
    /// The policy's decision for an unavailable store, or admission because the circuit is switched
    /// off.
    Fixed { admits: bool },
}

impl Source {
    /// Whether this replica's local circuit decides.
    pub(super) const fn is_own(self) -> bool {
        matches!(self, Self::Local | Self::Alone)
    }
}

#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Gate {
    word: AtomicU64,
    /// When the decision must be renewed: in coarse ms, and in the clock's ticks.
    fresh_until: AtomicU64,
    fresh_until_tick: AtomicU64,
    /// The duration from which a call is slow, ns.
    slow_ns: AtomicU64,
    /// When the state ends by itself, or the next probe may be requested; coarse ms, 0 = never.
    until: AtomicU64,
    /// The ramp: its end, its length, and its initial share in percent.
    ramp_until: AtomicU64,
    ramp: AtomicU64,
    ramp_initial: AtomicU64,
    /// Calls in the window as last received, and failures among them; 32 bits each.
    window: AtomicU64,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            word: AtomicU64::new(bits::UNKNOWN),
            fresh_until: AtomicU64::new(0),
            fresh_until_tick: AtomicU64::new(0),
            slow_ns: AtomicU64::new(u64::MAX),
            until: AtomicU64::new(0),
            ramp_until: AtomicU64::new(0),
            ramp: AtomicU64::new(1),
            ramp_initial: AtomicU64::new(100),
            window: AtomicU64::new(0),
        }
    }

    /// The word, read in one load.
    #[inline]
    pub(super) fn word(&self) -> GateWord {
        GateWord(self.word.load(Ordering::Relaxed))
    }

    #[inline]
    pub(super) fn is_fresh(&self, now: u64) -> bool {
        now < self.fresh_until.load(Ordering::Relaxed)
    }

    /// [`is_fresh`](Self::is_fresh) by the clock's ticks.
    #[inline]
    pub(super) fn is_fresh_at(&self, tick: u64) -> bool {
        tick < self.fresh_until_tick.load(Ordering::Relaxed)
    }

    /// Whether a call of this duration was slow.
    #[inline]
    pub(super) fn is_slow(&self, ns: u64) -> bool {
        ns >= self.slow_ns.load(Ordering::Relaxed)
    }

    /// Whether the state has not ended by itself yet.
    #[inline]
    pub(super) fn is_shut(&self, now: u64) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until == 0 || now < until
    }

    /// The decision, even if it is stale.
    pub(super) fn decide(&self, now: u64) -> Result<u32, NotAdmitted> {
        let word = self.word.load(Ordering::Relaxed);
        let until = self.until.load(Ordering::Relaxed);
        let tag = (word >> bits::TAG) as u32;
        let over = until > 0 && now >= until;
        if word & bits::UNKNOWN != 0 {
            return Err(NotAdmitted::Ask);
        }
        if word & bits::ADMITS != 0 {
            return if over {
                Err(NotAdmitted::Ask)
            } else if word & bits::RAMP != 0 && !self.ramp_admits(now) {
                Err(NotAdmitted::Reject(self.rejection(now)))
            } else {
                Ok(tag)
            };
        }
        let half_open = word & bits::STATE == State::HalfOpen as u64
            && reason_of(word) != Reason::StoreUnavailable;
        if over || (half_open && until == 0) {
            return Err(NotAdmitted::AskAlone);
        }
        Err(NotAdmitted::Reject(self.rejection(now)))
    }

    /// The rejection of a call that is rejected now.
    #[inline]
    pub(super) fn rejection(&self, now: u64) -> Rejection {
        let word = self.word.load(Ordering::Relaxed);
        let until = self.until.load(Ordering::Relaxed);
        let state = State::ALL[(word & bits::STATE) as usize % State::ALL.len()];
        let reason = reason_of(word);
        let left = |until: u64| Duration::from_millis(until.saturating_sub(now).max(1));
        let (reason, retry_after) = match state {
            _ if reason == Reason::StoreUnavailable => (reason, Some(RETRY_UNAVAILABLE)),
            State::HalfOpen => (Reason::ProbesOut, Some(left(until))),
            State::Closed => {
                let ramp_left = left(self.ramp_until.load(Ordering::Relaxed));
                (Reason::Ramp, Some(ramp_left.min(Duration::from_secs(1))))
            }
            _ => (reason, (until > 0).then(|| left(until))),
        };
        let local = word & bits::LOCAL != 0;
        Rejection {
            state,
            reason,
            retry_after,
            local,
        }
    }

    fn ramp_admits(&self, now: u64) -> bool {
        let left = self.ramp_until.load(Ordering::Relaxed).saturating_sub(now);
        let length = self.ramp.load(Ordering::Relaxed);
        let initial = self.ramp_initial.load(Ordering::Relaxed);
        share(initial, left, length) > fastrand::u64(..SHARES)
    }

    /// Takes over a snapshot. `now` is the coarse time of its arrival.
    pub(super) fn set(&self, seen: &Snapshot, policy: &Policy, source: Source, tag: u32, now: u64) {
        let rules = &policy.rules;
        let ends = |at: u64| {
            if at == 0 {
                0
            } else {
                now + at.saturating_sub(seen.now_ms)
            }
        };
        let spread = match source {
            Source::Shared => spread_ms(seen.replicas),
            _ => 0,
        };
        let until = match (source, seen.state) {
            (Source::Fixed { .. }, _) | (_, State::Closed) => 0,
            // Probes are granted on demand; if none is left, ask again a little later.
            (_, State::HalfOpen) => {
                match seen.probes >= rules.permitted_number_of_calls_in_half_open_state {
                    true => now + retry_probe_ms(rules).max(spread),
                    false if spread > 0 => now + fastrand::u64(..=spread),
                    false => 0,
                }
            }
            (_, State::Open) => ends(seen.until_ms) + fastrand::u64(..=spread),
            (_, _) => ends(seen.until_ms),
        };
        let (admits, reason) = match source {
            Source::Fixed { admits } => (admits, Reason::StoreUnavailable),
            _ => (seen.state.admits(), seen.reason),
        };
        let ramp = seen.ramp_until_ms > seen.now_ms && seen.state == State::Closed;
        self.ramp
            .store(rules.ramp_duration_ms.max(1), Ordering::Relaxed);
        self.ramp_initial
            .store(rules.ramp_initial, Ordering::Relaxed);
        self.ramp_until
            .store(ends(seen.ramp_until_ms), Ordering::Relaxed);
        self.until.store(until, Ordering::Relaxed);
        let slow_ns = match rules.slow_call_duration_threshold_ms {
            0 => u64::MAX,
            ms => ms.saturating_mul(1_000_000),
        };
        self.slow_ns.store(slow_ns, Ordering::Relaxed);
        let flag = |on: bool, bit: u64| if on { bit } else { 0 };
        let word = seen.state as u64
            | (reason as u64) << bits::REASON
            | flag(admits, bits::ADMITS)
            | flag(
                ramp && matches!(source, Source::Shared | Source::Local | Source::Alone),
                bits::RAMP,
            )
            | flag(source != Source::Shared, bits::LOCAL)
            | flag(
                rules.call_timeout_ms > 0
                    || rules.slow_call_duration_threshold_ms > 0
                    || policy.latency_recording() == LatencyRecording::EveryCall,
                bits::TIMED,
            )
            | flag(
                policy.latency_recording() != LatencyRecording::Off,
                bits::RECORDED,
            )
            | flag(rules.report_interval_ms == 0, bits::AT_ONCE)
            | flag(rules.call_timeout_ms > 0, bits::LIMITED)
            | u64::from(tag) << bits::TAG;
        self.word.store(word, Ordering::Relaxed);
    }

    /// Stores the window's counts, for code that compares circuits.
    pub(super) fn note_window(&self, calls: u64, failures: u64) {
        let half = |number: u64| number.min(u64::from(u32::MAX));
        self.window
            .store(half(calls) << 32 | half(failures), Ordering::Relaxed);
    }

    /// Calls in the window as last received, and failures among them.
    #[cfg(feature = "balance")]
    pub(super) fn window(&self) -> (u64, u64) {
        let window = self.window.load(Ordering::Relaxed);
        (window >> 32, window & u64::from(u32::MAX))
    }

    /// Makes calls ask the store, as with a new gate.
    pub(super) fn forget(&self) {
        self.word.store(bits::UNKNOWN, Ordering::Relaxed);
    }

    /// Sets until when the decision is valid; an admitting state is valid at most until its own
    /// end. `tick_at` gives the clock's ticks at a coarse time.
    pub(super) fn renew(&self, until: u64, tick_at: impl Fn(u64) -> u64) {
        let ends = self.until.load(Ordering::Relaxed);
        let until = if self.word().0 & bits::ADMITS != 0 && ends > 0 {
            until.min(ends)
        } else {
            until
        };
        self.fresh_until_tick
            .store(tick_at(until), Ordering::Relaxed);
        self.fresh_until.store(until, Ordering::Relaxed);
    }
}

/// A copy of the gate's word.
#[derive(Clone, Copy, Debug)]
pub(super) struct GateWord(u64);

impl GateWord {
    /// The tag under which calls pass without further checks, if the decision is fresh.
    #[inline]
    pub(super) fn admits(self) -> Option<u32> {
        let plain = self.0 & (bits::ADMITS | bits::UNKNOWN | bits::RAMP) == bits::ADMITS;
        plain.then_some((self.0 >> bits::TAG) as u32)
    }

    /// Whether no call passes until the state ends.
    #[inline]
    pub(super) fn rejects(self) -> bool {
        let shut = self.0 & (bits::ADMITS | bits::UNKNOWN) == 0;
        shut && self.0 & bits::STATE != State::HalfOpen as u64
    }

    /// Whether every call must be timed.
    #[inline]
    pub(super) fn is_timed(self) -> bool {
        self.0 & bits::TIMED != 0
    }

    /// Whether latencies are recorded, of every call or of a sample.
    #[inline]
    pub(super) fn is_recorded(self) -> bool {
        self.0 & bits::RECORDED != 0
    }

    /// Whether calls have a time limit.
    #[inline]
    pub(super) fn is_limited(self) -> bool {
        self.0 & bits::LIMITED != 0
    }

    /// Whether outcomes are reported at once.
    #[inline]
    pub(super) fn reports_at_once(self) -> bool {
        self.0 & bits::AT_ONCE != 0
    }
}

/// The `retry_after` of a rejection by a replica without a store.
const RETRY_UNAVAILABLE: Duration = Duration::from_secs(1);

fn reason_of(word: u64) -> Reason {
    Reason::ALL[(word >> bits::REASON & 31) as usize % Reason::ALL.len()]
}

/// How many requests a second the replicas of one circuit may make after something has happened to
/// all of them at once: ten times as many as in quiet times (`report.lua`).
const REQUESTS_PER_SECOND: u64 = 2000;
/// Up to this many replicas need not take turns.
const FEW: u64 = 20;
/// The longest spread, whatever the number of replicas.
const LONGEST_SPREAD_MS: u64 = 60_000;

/// The time over which this many replicas spread something that each of them does once, ms.
pub(super) const fn spread_ms(replicas: u64) -> u64 {
    let spread = replicas.saturating_sub(FEW) * 1000 / REQUESTS_PER_SECOND;
    if spread < LONGEST_SPREAD_MS {
        spread
    } else {
        LONGEST_SPREAD_MS
    }
}

/// How soon a replica asks again for a probe permit after there was none, ms.
fn retry_probe_ms(rules: &Rules) -> u64 {
    rules.decision_ttl_ms.clamp(10, 100)
}

/// The number of parts into which the ramp divides all calls.
const SHARES: u64 = 1 << 20;

/// The share of calls that a ramp admits, out of [`SHARES`].
fn share(initial: u64, left: u64, length: u64) -> u64 {
    let rest = SHARES * (100 - initial.min(100)) / 100;
    SHARES - (u128::from(rest) * u128::from(left.min(length)) / u128::from(length.max(1))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(state: State, left_ms: u64) -> Snapshot {
        let now_ms = 1_000_000;
        let until_ms = if left_ms == 0 { 0 } else { now_ms + left_ms };
        Snapshot {
            state,
            now_ms,
            until_ms,
            reason: Reason::FailureRate,
            ..Snapshot::default()
        }
    }

    fn gate(snapshot: &Snapshot, policy: &Policy) -> Gate {
        let gate = Gate::new();
        gate.set(snapshot, policy, Source::Shared, 5, 100);
        gate.renew(350, |ms| ms * 1_000_000);
        gate
    }

    fn fast(gate: &Gate, now: u64) -> Option<u32> {
        let by_ms = gate.word().admits().filter(|_| gate.is_fresh(now));
        let by_ticks = gate
            .word()
            .admits()
            .filter(|_| gate.is_fresh_at(now * 1_000_000));
        assert_eq!(by_ms, by_ticks);
        by_ms
    }

    #[test]
    fn a_new_gate_asks_and_a_closed_one_admits_while_fresh() {
        assert_eq!(Gate::new().decide(0), Err(NotAdmitted::Ask));
        let gate = gate(&seen(State::Closed, 0), &Policy::default());
        assert_eq!(fast(&gate, 349), Some(5));
        assert_eq!(fast(&gate, 350), None);
        assert_eq!(gate.decide(350), Ok(5));
    }

    #[test]
    fn an_open_gate_rejects_with_the_time_left_and_asks_when_it_is_over() {
        let gate = gate(&seen(State::Open, 500), &Policy::default());
        let Err(NotAdmitted::Reject(rejection)) = gate.decide(300) else {
            panic!("admitted")
        };
        assert_eq!(rejection.state, State::Open);
        assert_eq!(rejection.reason, Reason::FailureRate);
        assert_eq!(rejection.retry_after, Some(Duration::from_millis(300)));
        assert_eq!(gate.decide(600), Err(NotAdmitted::AskAlone));
    }

    #[test]
    fn an_override_that_admits_is_asked_about_when_it_ends() {
        let gate = gate(&seen(State::Disabled, 50), &Policy::default());
        assert_eq!(fast(&gate, 149), Some(5));
        assert_eq!(fast(&gate, 150), None);
        assert_eq!(gate.decide(150), Err(NotAdmitted::Ask));
        let forced = self::gate(&seen(State::ForcedOpen, 0), &Policy::default());
        assert!(
            matches!(forced.decide(9_999), Err(NotAdmitted::Reject(r)) if r.retry_after.is_none())
        );
    }

    #[test]
    fn a_ramp_grows_from_the_initial_share_to_all() {
        let percent = |left| share(10, left, 1000) * 100 / SHARES;
        assert_eq!([1000, 500, 0].map(percent), [10, 55, 100]);
        assert_eq!(share(100, 1000, 1000), SHARES);
    }
}
