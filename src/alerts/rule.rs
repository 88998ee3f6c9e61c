//! The condition of an alert, and its texts.
//!
//! Owns when a rule holds; does no I/O.

use std::{fmt, time::Duration};

use super::log::{Log, Span, Step};
use crate::{Snapshot, State, model::millis};

/// The minimum calls for a failure rate to be meaningful.
const FEW_CALLS: u64 = 20;
/// A condition is alerted no more often than this.
const SHORTEST_QUIET: Duration = Duration::from_secs(10);

/// A rule, and how often it may alert.
///
/// An opening is alerted once, however short or long it is. An alert about a condition
/// (`failure_rate`, `flapping`, `store_unavailable`) is sent again after its cooldown, as long as
/// the condition holds.
///
/// ```
/// use std::time::Duration;
/// use commontrip::alerts::Alert;
///
/// let opened = Alert::opened().cooldown(Duration::from_secs(600));
/// let flapping = Alert::flapping(6, Duration::from_secs(600));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    pub(super) kind: Kind,
    pub(super) cooldown: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Opened,
    FailureRate {
        percent: u8,
    },
    OpenFor {
        time: Duration,
    },
    Flapping {
        times: u64,
        within: Duration,
    },
    StoreUnavailable {
        time: Duration,
    },
    #[cfg(feature = "health")]
    CheckWarning,
    #[cfg(feature = "health")]
    CheckCritical,
}

impl Alert {
    const fn new(kind: Kind) -> Self {
        Self {
            kind,
            cooldown: Duration::from_secs(300),
        }
    }

    /// A circuit has opened. If failed probes open it again, that is the same opening.
    #[must_use]
    pub const fn opened() -> Self {
        Self::new(Kind::Opened)
    }

    /// At least this percentage of a circuit's calls fail although it has not opened, with at least
    /// 20 calls in its window. Range `1..=100`; values outside it are clamped.
    #[must_use]
    pub const fn failure_rate(percent: u8) -> Self {
        let percent = match percent {
            0 => 1,
            1..=100 => percent,
            _ => 100,
        };
        Self::new(Kind::FailureRate { percent })
    }

    /// A circuit has not been closed for this time since it opened.
    #[must_use]
    pub const fn open_for(time: Duration) -> Self {
        Self::new(Kind::OpenFor { time })
    }

    /// A circuit has had at least this many transitions within a time. The minimum is 2, and a
    /// lower number counts as 2.
    #[must_use]
    pub const fn flapping(times: u64, within: Duration) -> Self {
        let times = if times < 2 { 2 } else { times };
        Self::new(Kind::Flapping { times, within })
    }

    /// The store has been unavailable to this replica for this time.
    ///
    /// Each replica sends it for itself, because without the store they cannot agree on a sender.
    /// All use the same `dedup_key`.
    #[must_use]
    pub const fn store_unavailable(time: Duration) -> Self {
        Self::new(Kind::StoreUnavailable { time })
    }

    /// A health check has the status warning or critical. The alert ends when the check is healthy
    /// again.
    ///
    /// Applies to the checks of [`AlertsBuilder::checks`](super::AlertsBuilder::checks).
    #[cfg(feature = "health")]
    #[must_use]
    pub const fn check_warning() -> Self {
        Self::new(Kind::CheckWarning)
    }

    /// A health check is critical. The alert ends when the check is no longer critical.
    ///
    /// Applies to the checks of [`AlertsBuilder::checks`](super::AlertsBuilder::checks).
    #[cfg(feature = "health")]
    #[must_use]
    pub const fn check_critical() -> Self {
        Self::new(Kind::CheckCritical)
    }

    /// Sets how long after an alert no other alert of this rule is sent about the same circuit or
    /// check. Default 5 min.
    ///
    /// Alerts about a condition (`failure_rate`, `flapping`, `store_unavailable`) are at least 10 s
    /// apart.
    ///
    /// A condition that is over by the end of the cooldown is not sent; one that still holds is
    /// sent then. Resolve messages ([`AlertsBuilder::resolved`](super::AlertsBuilder::resolved))
    /// are sent at once.
    #[must_use]
    pub const fn cooldown(mut self, time: Duration) -> Self {
        self.cooldown = time;
        self
    }

    /// The rule as a word.
    pub(super) const fn rule(&self) -> &'static str {
        match self.kind {
            Kind::Opened => "opened",
            Kind::FailureRate { .. } => "failure_rate",
            Kind::OpenFor { .. } => "open_for",
            Kind::Flapping { .. } => "flapping",
            Kind::StoreUnavailable { .. } => "store_unavailable",
            #[cfg(feature = "health")]
            Kind::CheckWarning => "check_warning",
            #[cfg(feature = "health")]
            Kind::CheckCritical => "check_critical",
        }
    }

    /// Identifies the rule, together with its numbers.
    pub(super) fn key(&self) -> String {
        let word = self.rule();
        match self.kind {
            Kind::Opened => word.to_owned(),
            #[cfg(feature = "health")]
            Kind::CheckWarning | Kind::CheckCritical => word.to_owned(),
            Kind::FailureRate { percent } => format!("{word}:{percent}"),
            Kind::OpenFor { time } | Kind::StoreUnavailable { time } => {
                format!("{word}:{}", time.as_millis())
            }
            Kind::Flapping { times, within } => format!("{word}:{times}:{}", within.as_millis()),
        }
    }

    /// Whether it is about a condition, which is alerted again after each cooldown.
    pub(super) const fn repeats(&self) -> bool {
        matches!(
            self.kind,
            Kind::FailureRate { .. } | Kind::Flapping { .. } | Kind::StoreUnavailable { .. }
        )
    }

    pub(super) const fn is_rate(&self) -> bool {
        matches!(self.kind, Kind::FailureRate { .. })
    }

    pub(super) const fn is_about_openings(&self) -> bool {
        matches!(self.kind, Kind::Opened | Kind::OpenFor { .. })
    }

    /// Whether it is about checks instead of circuits.
    pub(super) const fn is_about_checks(&self) -> bool {
        #[cfg(feature = "health")]
        if matches!(self.kind, Kind::CheckWarning | Kind::CheckCritical) {
            return true;
        }
        false
    }

    pub(super) const fn is_opened(&self) -> bool {
        matches!(self.kind, Kind::Opened)
    }

    /// How long after an alert no other is sent.
    pub(super) fn quiet(&self) -> Duration {
        match self.repeats() {
            true => self.cooldown.max(SHORTEST_QUIET),
            false => self.cooldown,
        }
    }

    /// Whether the circuit's failure rate reaches the threshold now; `false` for other rules.
    pub(super) fn rate_holds(&self, seen: &Snapshot) -> bool {
        let Kind::FailureRate { percent } = self.kind else {
            return false;
        };
        let counts = matches!(seen.state, State::Closed | State::MetricsOnly);
        let rate = seen.failure_rate().unwrap_or(0.0);
        counts && seen.calls >= FEW_CALLS && rate >= f64::from(percent)
    }

    /// The periods in which the rule held for a circuit with this record, oldest first. `told` is
    /// the last one that was alerted, if it is not known to be over.
    pub(super) fn spans(&self, log: &Log, seen: &Snapshot, told: Option<u64>) -> Vec<Span> {
        let plain = |id, end_ms| Span {
            id,
            due_ms: seen.now_ms,
            end_ms,
            began: None,
            ended: None,
        };
        let mut spans = match self.kind {
            Kind::Opened => log.openings(Duration::ZERO),
            Kind::OpenFor { time } => log.openings(time),
            Kind::Flapping { times, within } => log.flapping(times, within, seen.now_ms),
            Kind::FailureRate { .. } if self.rate_holds(seen) => vec![plain(seen.generation, None)],
            // A rate below its threshold, or a rule that is not about circuits.
            _ => Vec::new(),
        };
        // A period that the record no longer has is over.
        if let Some(told) = told
            && spans.iter().all(|span| span.id != told)
        {
            spans.insert(0, plain(told, Some(seen.now_ms)));
        }
        spans
    }

    /// When to look again even without news, Unix ms by the store's clock.
    pub(super) fn changes_at(&self, log: &Log, now_ms: u64) -> Option<u64> {
        let at = match self.kind {
            Kind::Flapping { times, within } => log.flaps_until(times, within)?,
            Kind::OpenFor { time } => {
                let opened_ms = log.openings(Duration::ZERO).last()?.due_ms;
                opened_ms.saturating_add(millis(time))
            }
            _ => return None,
        };
        (at >= now_ms).then_some(at + 1)
    }

    /// The text of an alert about a circuit for which the rule holds, or held.
    pub(super) fn text(&self, circuit: &str, seen: &Snapshot, span: &Span) -> String {
        let since = |began: &Step| match span.end_ms {
            Some(end) => format!("; it closed after {:?}", elapsed(began.at_ms, end)),
            None => String::new(),
        };
        match (self.kind, &span.began) {
            (Kind::Opened, Some(began)) => {
                let rate = Rate(began.failure_rate());
                // If no call succeeded, some may have been abandoned; those then count as failures.
                let failed = match began.failures < began.calls {
                    true => "failed",
                    false => "did not succeed",
                };
                format!(
                    "circuit {circuit} opened: {}; {rate} of {} calls {failed}{}",
                    began.reason,
                    began.calls,
                    since(began)
                )
            }
            (Kind::OpenFor { time }, Some(began)) => format!(
                "circuit {circuit} has not been closed for {time:?} or more{}",
                since(began)
            ),
            (Kind::FailureRate { percent }, _) => format!(
                "{} of the calls of circuit {circuit} fail ({percent}% or more): {} of {}",
                Rate(seen.failure_rate()),
                seen.failures,
                seen.calls
            ),
            (Kind::Flapping { times, within }, _) => format!(
                "circuit {circuit} has changed {times} times or more within {within:?}; it is {}",
                seen.state
            ),
            _ => format!("circuit {circuit} is {}: {}", seen.state, seen.reason),
        }
    }

    /// The text of a resolve message.
    pub(super) fn text_resolved(&self, circuit: &str, seen: &Snapshot, span: &Span) -> String {
        match (self.kind, &span.ended) {
            (Kind::FailureRate { percent }, _) => format!(
                "less than {percent}% of the calls of circuit {circuit} fail, or it is not closed; it is {}",
                seen.state
            ),
            (Kind::Flapping { .. }, _) => {
                format!("circuit {circuit} no longer flaps; it is {}", seen.state)
            }
            (_, Some(ended)) => {
                format!("circuit {circuit} is {} again: {}", ended.to, ended.reason)
            }
            _ => format!("circuit {circuit} is {}", seen.state),
        }
    }
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
