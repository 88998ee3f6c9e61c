//! A circuit's transitions, as far as alerts need them, and the periods in which a rule held.
//!
//! Owns what counts as an opening and as flapping; pure. Invariant: replicas that have read the
//! same record derive the same periods from it.

use std::{collections::VecDeque, time::Duration};

use crate::{Event, Reason, State, model::millis};

/// Maximum number of transitions kept, as in the store's record.
const MOST: usize = 256;

/// One transition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) generation: u64,
    pub(super) from: State,
    pub(super) to: State,
    pub(super) reason: Reason,
    pub(super) at_ms: u64,
    pub(super) calls: u64,
    pub(super) failures: u64,
}

impl Step {
    /// The failure rate, percent.
    pub(super) fn failure_rate(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.failures as f64 * 100.0 / self.calls as f64)
    }
}

impl From<&Event> for Step {
    fn from(event: &Event) -> Self {
        Self {
            generation: event.generation,
            from: event.from,
            to: event.to,
            reason: event.reason,
            at_ms: event.at_ms,
            calls: event.calls,
            failures: event.failures,
        }
    }
}

/// A period in which a rule held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    /// Identifies it within its rule: the generation in which it began, or, for a check, the time.
    pub(super) id: u64,
    /// When it is due for an alert, Unix ms by the store's clock.
    pub(super) due_ms: u64,
    /// When it ended; `None` while it lasts.
    pub(super) end_ms: Option<u64>,
    /// The transition that began it, if one did.
    pub(super) began: Option<Step>,
    /// The transition that ended it, if one did.
    pub(super) ended: Option<Step>,
}

/// Transitions in order of generation.
#[derive(Debug, Default)]
pub(super) struct Log(VecDeque<Step>);

impl Log {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn newest(&self) -> u64 {
        self.0.back().map_or(0, |step| step.generation)
    }

    pub(super) fn newest_ms(&self) -> u64 {
        self.0.back().map_or(0, |step| step.at_ms)
    }

    /// Adds a transition, unless the log already has it.
    pub(super) fn push(&mut self, step: Step) {
        if !self.0.is_empty() && step.generation <= self.newest() {
            return;
        }
        self.0.push_back(step);
        if self.0.len() > MOST {
            // Keep the opening of a circuit that has not closed since.
            let lasts = is_open(self.0[0].to) && is_open(self.0[1].to);
            self.0.remove(usize::from(lasts));
        }
    }

    /// Moves the beginning of the first opening to an earlier generation, if the log does not have
    /// it.
    pub(super) fn began_in(&mut self, generation: u64) {
        if let Some(first) = self.unbegun() {
            first.generation = first.generation.min(generation);
        }
    }

    /// As [`began_in`](Self::began_in), for the time at which an opening that lasts began, Unix ms.
    pub(super) fn began_at(&mut self, at_ms: u64) {
        if self.lasts()
            && let Some(first) = self.unbegun()
        {
            first.at_ms = first.at_ms.min(at_ms);
        }
    }

    /// The first step, if its opening began earlier: the circuit was adopted, or the record has no
    /// older transitions.
    fn unbegun(&mut self) -> Option<&mut Step> {
        let first = self.0.front_mut()?;
        let was_open = first.reason == Reason::Adopted || is_open(first.from);
        (was_open && is_open(first.to)).then_some(first)
    }

    /// Whether the circuit has not closed since the log's beginning.
    pub(super) fn lasts(&self) -> bool {
        self.0.iter().all(|step| is_open(step.to))
    }

    /// The periods in which the circuit was not closed for at least `time`, oldest first.
    pub(super) fn openings(&self, time: Duration) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        let mut before: Option<&Step> = None;
        for step in &self.0 {
            // A circuit that was lost and adopted has been open all the time.
            let was_open = match before {
                Some(before) if step.reason == Reason::Adopted => is_open(before.to),
                Some(_) => is_open(step.from),
                // The opening may be older than the record.
                None => false,
            };
            match spans.last_mut().filter(|span| span.end_ms.is_none()) {
                None if is_open(step.to) && !was_open => spans.push(Span {
                    id: step.generation,
                    due_ms: step.at_ms.saturating_add(millis(time)),
                    end_ms: None,
                    began: Some(*step),
                    ended: None,
                }),
                Some(span) if !is_open(step.to) => {
                    (span.end_ms, span.ended) = (Some(step.at_ms), Some(*step));
                }
                _ => {}
            }
            before = Some(step);
        }
        spans.retain(|span| span.end_ms.is_none_or(|end| end >= span.due_ms));
        spans
    }

    /// The periods with at least `times` transitions within `within`, oldest first, as of `now_ms`.
    pub(super) fn flapping(&self, times: u64, within: Duration, now_ms: u64) -> Vec<Span> {
        let (within, mut spans) = (millis(within), Vec::<Span>::new());
        // At least 2; more than the log keeps are never reached.
        let times = usize::try_from(times).unwrap_or(usize::MAX);
        let lasts_until = |last: usize| self.0[last + 1 - times].at_ms.saturating_add(within);
        for (i, step) in self.0.iter().enumerate().skip(times.saturating_sub(1)) {
            if let Some(span) = spans.last_mut().filter(|span| span.end_ms.is_none()) {
                let until = lasts_until(i - 1);
                if step.at_ms <= until {
                    continue;
                }
                span.end_ms = Some(until);
            }
            if step.at_ms <= lasts_until(i) {
                spans.push(Span {
                    id: step.generation,
                    due_ms: step.at_ms,
                    end_ms: None,
                    began: Some(*step),
                    ended: None,
                });
            }
        }
        if let Some(span) = spans.last_mut().filter(|span| span.end_ms.is_none()) {
            let until = lasts_until(self.0.len() - 1);
            span.end_ms = (now_ms > until).then_some(until);
        }
        spans
    }

    /// When flapping ends unless there is another transition.
    pub(super) fn flaps_until(&self, times: u64, within: Duration) -> Option<u64> {
        let first = self.0.len().checked_sub(usize::try_from(times).ok()?)?;
        Some(self.0.get(first)?.at_ms.saturating_add(millis(within)))
    }
}

const fn is_open(state: State) -> bool {
    matches!(state, State::Open | State::HalfOpen)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log from words: the time, and the state that begins then.
    fn log(words: &str) -> Log {
        let (mut log, mut from) = (Log::default(), State::Closed);
        for (i, word) in words.split_whitespace().enumerate() {
            let (at, to) = word.split_once(':').unwrap();
            let (to, reason) = match to {
                "open" => (State::Open, Reason::FailureRate),
                "half" => (State::HalfOpen, Reason::WaitElapsed),
                "closed" => (State::Closed, Reason::Recovered),
                "adopted" => (State::Open, Reason::Adopted),
                other => panic!("{other}"),
            };
            let lost = reason == Reason::Adopted;
            log.push(Step {
                generation: i as u64 + 1,
                from: if lost { State::Closed } else { from },
                to,
                reason,
                at_ms: at.parse().unwrap(),
                calls: 10,
                failures: 5,
            });
            from = to;
        }
        log
    }

    fn short(spans: &[Span]) -> Vec<(u64, Option<u64>)> {
        spans.iter().map(|span| (span.id, span.end_ms)).collect()
    }

    #[test]
    fn an_opening_lasts_from_closed_to_closed() {
        let log = log("5:open 8:half 9:open 12:half 13:closed 20:open 21:closed 30:open");
        let all = log.openings(Duration::ZERO);
        assert_eq!(short(&all), [(1, Some(13)), (6, Some(21)), (8, None)]);
        let long = log.openings(Duration::from_millis(5));
        assert_eq!(short(&long), [(1, Some(13)), (8, None)]);
        assert_eq!(long[1].due_ms, 35);
    }

    #[test]
    fn an_open_circuit_that_was_lost_and_adopted_has_the_same_opening() {
        let kept = log("5:open 9:adopted 13:closed").openings(Duration::ZERO);
        assert_eq!(short(&kept), [(1, Some(13))]);
        let fresh = log("9:adopted 13:closed").openings(Duration::ZERO);
        assert_eq!(short(&fresh), [(1, Some(13))]);
    }

    #[test]
    fn an_opening_that_is_older_than_the_record_is_the_one_that_was_alerted() {
        let whole = log("5:open 8:half 9:open 12:half 15:open 18:half 19:closed 20:open");
        let from = |first: usize, end: usize| {
            let mut rest = Log(whole.0.range(first..end).copied().collect());
            rest.began_in(1);
            short(&rest.openings(Duration::ZERO))
        };
        for first in 1..5 {
            assert_eq!(from(first, 6), [(1, None)], "{first}");
            assert_eq!(from(first, 8), [(1, Some(19)), (8, None)], "{first}");
        }
        let mut rest = Log(whole.0.range(2..5).copied().collect());
        rest.began_at(5);
        assert_eq!(rest.openings(Duration::from_millis(10))[0].due_ms, 15);
        // The record has the beginning of this one.
        assert_eq!(from(6, 8), [(8, None)]);
        assert_eq!(from(7, 8), [(8, None)]);
    }

    #[test]
    fn flapping_lasts_until_too_few_transitions_are_in_its_time() {
        let log = log("0:open 4:closed 5:open 6:closed 30:open 31:closed 32:open");
        let within = Duration::from_millis(10);
        assert_eq!(
            short(&log.flapping(3, within, 33)),
            [(3, Some(14)), (7, None)]
        );
        assert_eq!(log.flaps_until(3, within), Some(40));
        assert_eq!(
            short(&log.flapping(3, within, 41)),
            [(3, Some(14)), (7, Some(40))]
        );
        assert_eq!(short(&log.flapping(8, within, 33)), []);
        assert_eq!(log.flaps_until(8, within), None);
    }

    #[test]
    fn a_long_log_keeps_the_opening_that_lasts() {
        let words: Vec<_> = (0..600)
            .map(|i| format!("{i}:{}", ["open", "half"][i % 2]))
            .collect();
        let log = log(&words.join(" "));
        assert_eq!(log.0.len(), MOST);
        assert_eq!(short(&log.openings(Duration::ZERO)), [(1, None)]);
    }
}
