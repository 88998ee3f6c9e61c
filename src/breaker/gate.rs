//! The decision cache: whether a call may pass, from a few words in memory.
//!
//! Owns the words and their meaning; does no I/O and takes no lock. The cell writes them under
//! its own lock, so readers may see two words of different moments; every such pair is harmless:
//! it sends the caller to ask, or lasts as long as one store of a word.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::model::{LatencyRecording, Policy, Reason, Rules, Snapshot, State};

use super::Rejection;

/// Why the cache does not let a call pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// It must not.
    Reject(Rejection),
    /// The cache does not know: ask, and let others wait for the answer.
    Ask,
    /// A probe may be due: one asks, the others are rejected.
    AskAlone,
}

/// What stands in the word, lowest bit first: state 3, reason 5, flags 8; the tag above.
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

/// Why the words say what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The store's answer.
    Shared,
    /// This replica's own circuit: the store is away.
    Local,
    /// This replica's own circuit: it is open, and the fleet's is not, for want of a quorum.
    Alone,
    /// The policy's answer to a store that is away.
    Fixed { admits: bool },
}

impl Source {
    /// Whether this replica's own circuit decides.
    pub(super) const fn is_own(self) -> bool {
        matches!(self, Self::Local | Self::Alone)
    }
}

#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Gate {
    word: AtomicU64,
    /// When the decision must be renewed, coarse ms; and the same in the clock's ticks.
    fresh_until: AtomicU64,
    fresh_until_tick: AtomicU64,
    /// From which time a call is slow, ns.
    slow_ns: AtomicU64,
    /// When the state ends by itself, or the next probe may be asked for; coarse ms, 0 = never.
    until: AtomicU64,
    /// The ramp: its end and length, and the share that it begins with.
    ramp_until: AtomicU64,
    ramp: AtomicU64,
    ramp_initial: AtomicU64,
    /// Calls of the window, as last heard, and failures among them; 32 bits each.
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

    /// What can be read at one glance.
    #[inline]
    pub(super) fn glance(&self) -> Glance {
        Glance(self.word.load(Ordering::Relaxed))
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

    /// Whether a call that took so long was slow.
    #[inline]
    pub(super) fn is_slow(&self, ns: u64) -> bool {
        ns >= self.slow_ns.load(Ordering::Relaxed)
    }

    /// Whether the state has not ended by itself.
    #[inline]
    pub(super) fn is_shut(&self, now: u64) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until == 0 || now < until
    }

    /// The decision, staleness aside.
    pub(super) fn decide(&self, now: u64) -> Result<u32, Hold> {
        let word = self.word.load(Ordering::Relaxed);
        let until = self.until.load(Ordering::Relaxed);
        let tag = (word >> bits::TAG) as u32;
        let over = until > 0 && now >= until;
        if word & bits::UNKNOWN != 0 {
            return Err(Hold::Ask);
        }
        if word & bits::ADMITS != 0 {
            return if over {
                Err(Hold::Ask)
            } else if word & bits::RAMP != 0 && !self.ramp_admits(now) {
                Err(Hold::Reject(self.rejection(now)))
            } else {
                Ok(tag)
            };
        }
        let half_open =
            word & bits::STATE == State::HalfOpen as u64 && reason_of(word) != Reason::StoreAway;
        if over || (half_open && until == 0) {
            return Err(Hold::AskAlone);
        }
        Err(Hold::Reject(self.rejection(now)))
    }

    /// What to tell a call that is rejected now.
    #[inline]
    pub(super) fn rejection(&self, now: u64) -> Rejection {
        let word = self.word.load(Ordering::Relaxed);
        let until = self.until.load(Ordering::Relaxed);
        let state = State::ALL[(word & bits::STATE) as usize % State::ALL.len()];
        let reason = reason_of(word);
        let left = |until: u64| Duration::from_millis(until.saturating_sub(now).max(1));
        let (reason, retry_after) = match state {
            _ if reason == Reason::StoreAway => (reason, Some(RETRY_AWAY)),
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

    /// Takes a snapshot over. `now` is the coarse time of its arrival.
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
            // Probes are given on demand; when none is left, ask again a little later.
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
            Source::Fixed { admits } => (admits, Reason::StoreAway),
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

    /// Notes what is in the window, for those who compare circuits.
    pub(super) fn note_window(&self, calls: u64, failures: u64) {
        let half = |number: u64| number.min(u64::from(u32::MAX));
        self.window
            .store(half(calls) << 32 | half(failures), Ordering::Relaxed);
    }

    /// Calls of the window, as last heard, and failures among them.
    #[cfg(feature = "balance")]
    pub(super) fn window(&self) -> (u64, u64) {
        let window = self.window.load(Ordering::Relaxed);
        (window >> 32, window & u64::from(u32::MAX))
    }

    /// Has calls ask, as those of a new gate do.
    pub(super) fn forget(&self) {
        self.word.store(bits::UNKNOWN, Ordering::Relaxed);
    }

    /// Says until when the decision is good; an admitting state ends with its own end. `tick_at`
    /// gives the clock's ticks at a coarse time.
    pub(super) fn renew(&self, until: u64, tick_at: impl Fn(u64) -> u64) {
        let ends = self.until.load(Ordering::Relaxed);
        let until = if self.glance().0 & bits::ADMITS != 0 && ends > 0 {
            until.min(ends)
        } else {
            until
        };
        self.fresh_until_tick
            .store(tick_at(until), Ordering::Relaxed);
        self.fresh_until.store(until, Ordering::Relaxed);
    }
}

/// The word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glance(u64);

impl Glance {
    /// The tag under which calls pass, as long as that is fresh and without another question.
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

    /// Whether it matters how long any call takes.
    #[inline]
    pub(super) fn is_timed(self) -> bool {
        self.0 & bits::TIMED != 0
    }

    /// Whether latencies are recorded, of each call or of some.
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

/// How long a rejection of a replica that has no store asks to wait.
const RETRY_AWAY: Duration = Duration::from_secs(1);

fn reason_of(word: u64) -> Reason {
    Reason::ALL[(word >> bits::REASON & 31) as usize % Reason::ALL.len()]
}

/// How many requests a second the replicas of one circuit may make when something has happened to
/// all of them at once, ten times as many as when all is calm (`report.lua`).
const REQUESTS_PER_SECOND: u64 = 2000;
/// So few replicas need not take turns.
const FEW: u64 = 20;
/// However many there are said to be.
const LONGEST_SPREAD_MS: u64 = 60_000;

/// The time over which so many replicas spread what each does once, ms.
pub(super) const fn spread_ms(replicas: u64) -> u64 {
    let spread = replicas.saturating_sub(FEW) * 1000 / REQUESTS_PER_SECOND;
    if spread < LONGEST_SPREAD_MS {
        spread
    } else {
        LONGEST_SPREAD_MS
    }
}

/// How soon a replica asks again for a probe permit that was not there.
fn retry_probe_ms(rules: &Rules) -> u64 {
    rules.decision_ttl_ms.clamp(10, 100)
}

/// Parts that the ramp divides all calls into.
const SHARES: u64 = 1 << 20;

/// The share of calls that a ramp admits, of [`SHARES`].
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
        let by_ms = gate.glance().admits().filter(|_| gate.is_fresh(now));
        let by_ticks = gate
            .glance()
            .admits()
            .filter(|_| gate.is_fresh_at(now * 1_000_000));
        assert_eq!(by_ms, by_ticks);
        by_ms
    }

    #[test]
    fn a_new_gate_asks_and_a_closed_one_admits_while_fresh() {
        assert_eq!(Gate::new().decide(0), Err(Hold::Ask));
        let gate = gate(&seen(State::Closed, 0), &Policy::default());
        assert_eq!(fast(&gate, 349), Some(5));
        assert_eq!(fast(&gate, 350), None);
        assert_eq!(gate.decide(350), Ok(5));
    }

    #[test]
    fn an_open_gate_rejects_with_the_time_left_and_asks_when_it_is_over() {
        let gate = gate(&seen(State::Open, 500), &Policy::default());
        let Err(Hold::Reject(rejection)) = gate.decide(300) else {
            panic!("admitted")
        };
        assert_eq!(rejection.state, State::Open);
        assert_eq!(rejection.reason, Reason::FailureRate);
        assert_eq!(rejection.retry_after, Some(Duration::from_millis(300)));
        assert_eq!(gate.decide(600), Err(Hold::AskAlone));
    }

    #[test]
    fn an_override_that_admits_is_asked_about_when_it_ends() {
        let gate = gate(&seen(State::Disabled, 50), &Policy::default());
        assert_eq!(fast(&gate, 149), Some(5));
        assert_eq!(fast(&gate, 150), None);
        assert_eq!(gate.decide(150), Err(Hold::Ask));
        let forced = self::gate(&seen(State::ForcedOpen, 0), &Policy::default());
        assert!(matches!(forced.decide(9_999), Err(Hold::Reject(r)) if r.retry_after.is_none()));
    }

    #[test]
    fn a_ramp_grows_from_the_initial_share_to_all() {
        let percent = |left| share(10, left, 1000) * 100 / SHARES;
        assert_eq!([1000, 500, 0].map(percent), [10, 55, 100]);
        assert_eq!(share(100, 1000, 1000), SHARES);
    }
}
