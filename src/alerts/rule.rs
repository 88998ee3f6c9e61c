//! What an alert is about: its condition and its words.
//!
//! Owns when a rule holds; asks nobody and sends nothing.

use std::{fmt, time::Duration};

use crate::{Event, Snapshot, State};

/// Calls below which a failure rate says nothing.
const FEW_CALLS: u64 = 20;

/// A rule, and how often it may alert.
///
/// An alert is sent once for what it is about: an opening, once however long it lasts. One that is about
/// a condition (`failure_rate`, `flapping`) is sent again after its cooldown, as long as that lasts.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    pub(super) kind: Kind,
    pub(super) cooldown: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Opened,
    FailureRate { percent: u8 },
    OpenFor { time: Duration },
    Flapping { times: u64, within: Duration },
    StoreAway { time: Duration },
}

impl Alert {
    const fn new(kind: Kind) -> Self {
        Self {
            kind,
            cooldown: Duration::from_secs(300),
        }
    }

    /// A circuit has opened. Probes that fail and open it again are the same opening.
    #[must_use]
    pub const fn opened() -> Self {
        Self::new(Kind::Opened)
    }

    /// So many percent or more of a circuit's calls fail, though it has not opened; of 20 calls in its
    /// window at least. Range `1..=100`; what is beyond counts as the nearest.
    #[must_use]
    pub const fn failure_rate(percent: u8) -> Self {
        let percent = match percent {
            0 => 1,
            1..=100 => percent,
            _ => 100,
        };
        Self::new(Kind::FailureRate { percent })
    }

    /// A circuit has not been closed for this time, since it opened.
    #[must_use]
    pub const fn open_for(time: Duration) -> Self {
        Self::new(Kind::OpenFor { time })
    }

    /// A circuit has made so many transitions or more within a time; at least 2.
    #[must_use]
    pub const fn flapping(times: u64, within: Duration) -> Self {
        let times = if times < 2 { 2 } else { times };
        Self::new(Kind::Flapping { times, within })
    }

    /// The store has been away from this replica for this time.
    ///
    /// Each replica says so for itself, for there is nobody to ask who does; the `dedup_key` of all is the
    /// same.
    #[must_use]
    pub const fn store_away(time: Duration) -> Self {
        Self::new(Kind::StoreAway { time })
    }

    /// Sets how long no other alert of this rule is sent about the same circuit. Default 5 min.
    #[must_use]
    pub const fn cooldown(mut self, time: Duration) -> Self {
        self.cooldown = time;
        self
    }

    /// The word for the rule.
    pub(super) const fn rule(&self) -> &'static str {
        match self.kind {
            Kind::Opened => "opened",
            Kind::FailureRate { .. } => "failure_rate",
            Kind::OpenFor { .. } => "open_for",
            Kind::Flapping { .. } => "flapping",
            Kind::StoreAway { .. } => "store_away",
        }
    }

    /// What tells the rule from others of its kind.
    pub(super) fn key(&self) -> String {
        let word = self.rule();
        match self.kind {
            Kind::Opened => word.to_owned(),
            Kind::FailureRate { percent } => format!("{word}:{percent}"),
            Kind::OpenFor { time } | Kind::StoreAway { time } => {
                format!("{word}:{}", time.as_millis())
            }
            Kind::Flapping { times, within } => format!("{word}:{times}:{}", within.as_millis()),
        }
    }

    /// Whether it may hold of a circuit that looks so, at a time of the store's clock: a reason to ask.
    pub(super) fn may_hold(&self, seen: &Snapshot, now_ms: u64) -> bool {
        match self.kind {
            Kind::Opened => is_open(seen.state),
            Kind::FailureRate { percent } => {
                let counts = matches!(seen.state, State::Closed | State::MetricsOnly);
                let rate = seen.failure_rate().unwrap_or(0.0);
                counts && seen.calls >= FEW_CALLS && rate >= f64::from(percent)
            }
            // Since when is in the circuit's record only; it is no less than this.
            Kind::OpenFor { time } => {
                is_open(seen.state)
                    && (seen.consecutive_opens > 1 || elapsed(seen.since_ms, now_ms) >= time)
            }
            Kind::Flapping { within, .. } => elapsed(seen.since_ms, now_ms) <= within,
            Kind::StoreAway { .. } => false,
        }
    }

    /// What it is about, if it holds of a circuit with this record: the generation of an opening, or the
    /// time of a condition.
    pub(super) fn episode(&self, seen: &Snapshot, record: &[Event]) -> Option<u64> {
        let holds = self.may_hold(seen, seen.now_ms);
        let opening = || record.iter().rev().find(|event| is_opening(event));
        match self.kind {
            Kind::Opened => holds.then(|| opening().map_or(seen.generation, |e| e.generation)),
            Kind::FailureRate { .. } => holds.then_some(seen.now_ms),
            Kind::OpenFor { time } => {
                let since = opening().map_or(seen.since_ms, |event| event.at_ms);
                let long = holds && elapsed(since, seen.now_ms) >= time;
                long.then(|| opening().map_or(seen.generation, |e| e.generation))
            }
            Kind::Flapping { times, within } => {
                let recent = |event: &&Event| elapsed(event.at_ms, seen.now_ms) <= within;
                let transitions = record.iter().filter(|event| event.is_transition());
                (transitions.filter(recent).count() as u64 >= times).then_some(seen.now_ms)
            }
            Kind::StoreAway { .. } => None,
        }
    }

    /// What to say of a circuit.
    pub(super) fn text(&self, circuit: &str, seen: &Snapshot) -> String {
        let rate = Rate(seen.failure_rate());
        // Where no call succeeded, some may have been abandoned: those count as failures then.
        let failed = match seen.failures < seen.calls {
            true => "failed",
            false => "did not succeed",
        };
        match self.kind {
            Kind::Opened => format!(
                "circuit {circuit} is {}: {}; {rate} of {} calls {failed}",
                seen.state, seen.reason, seen.calls
            ),
            Kind::FailureRate { percent } => format!(
                "{rate} of the calls of circuit {circuit} fail ({percent}% or more): {} of {}",
                seen.failures, seen.calls
            ),
            Kind::OpenFor { time } => format!(
                "circuit {circuit} has not been closed for {time:?} or more; it is {}",
                seen.state
            ),
            Kind::Flapping { times, within } => format!(
                "circuit {circuit} has changed {times} times or more within {within:?}; it is {}",
                seen.state
            ),
            Kind::StoreAway { .. } => String::new(),
        }
    }
}

const fn is_open(state: State) -> bool {
    matches!(state, State::Open | State::HalfOpen)
}

/// Whether a circuit that was closed, or overridden, opened.
const fn is_opening(event: &Event) -> bool {
    is_open(event.to) && !is_open(event.from)
}

const fn elapsed(since_ms: u64, now_ms: u64) -> Duration {
    Duration::from_millis(now_ms.saturating_sub(since_ms))
}

struct Rate(Option<f64>);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rate) => write!(f, "{rate:.0}%"),
            None => f.write_str("none"),
        }
    }
}
