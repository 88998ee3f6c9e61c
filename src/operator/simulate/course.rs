//! The course of a circuit: its trips and its time open, from events.

use serde::Serialize;

use crate::{Event, Reason, State};

/// The course of a circuit over a time range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Course {
    /// Each time that it opened, oldest first. Reopening from half-open is not a trip.
    pub trips: Vec<Trip>,
    /// Time spent open, ms, without half-open and overrides.
    pub open_ms: u64,
    /// Rejected calls.
    pub rejected: u64,
    /// Rejected calls that failed in the recorded past; `None` if unknown.
    pub rejected_failures: Option<u64>,
}

/// A trip: a circuit opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Trip {
    /// When it opened, Unix ms.
    pub at_ms: u64,
    /// Why it opened.
    pub reason: Reason,
    /// Calls in the window at that moment.
    pub calls: u64,
    /// Failures among them.
    pub failures: u64,
    /// Slow calls among them.
    pub slow: u64,
    /// How often it reopened from half-open.
    pub reopened: u64,
    /// When it was no longer open or half-open, Unix ms; 0 if it still was at the end.
    pub ended_ms: u64,
}

impl Trip {
    /// Whether this trip kept the circuit open or half-open at some moment of a time range.
    pub(super) const fn overlaps(&self, from_ms: u64, to_ms: u64) -> bool {
        self.at_ms <= to_ms && (self.ended_ms == 0 || self.ended_ms > from_ms)
    }
}

/// A time range in which a circuit was in one state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) state: State,
    pub(super) from_ms: u64,
    pub(super) to_ms: u64,
}

/// The states of a time range that begins in `state`.
pub(super) fn spans(mut state: State, from_ms: u64, events: &[Event], to_ms: u64) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut since = from_ms;
    for event in events.iter().filter(|event| event.is_transition()) {
        spans.push(Span {
            state,
            from_ms: since,
            to_ms: event.at_ms,
        });
        (state, since) = (event.to, event.at_ms);
    }
    spans.push(Span {
        state,
        from_ms: since,
        to_ms,
    });
    spans
}

impl Course {
    /// The course from `from_ms` to `to_ms`, which begins in `state`.
    pub(super) fn of(state: State, from_ms: u64, events: &[Event], to_ms: u64) -> Self {
        let open = spans(state, from_ms, events, to_ms).into_iter();
        let open = open.filter(|span| span.state == State::Open);
        let mut course = Self {
            open_ms: open
                .map(|span| span.to_ms.saturating_sub(span.from_ms))
                .sum(),
            ..Self::default()
        };
        for event in events.iter().filter(|event| event.is_transition()) {
            match (event.from, event.to) {
                (State::Open | State::HalfOpen, State::Open) => {
                    if let Some(trip) = course.trips.last_mut() {
                        trip.reopened += u64::from(event.from == State::HalfOpen);
                    }
                }
                (_, State::Open) => course.trips.push(Trip {
                    at_ms: event.at_ms,
                    reason: event.reason,
                    calls: event.calls,
                    failures: event.failures,
                    slow: event.slow,
                    reopened: 0,
                    ended_ms: 0,
                }),
                (_, State::HalfOpen) => {}
                _ => {
                    if let Some(trip) = course.trips.last_mut().filter(|trip| trip.ended_ms == 0) {
                        trip.ended_ms = event.at_ms;
                    }
                }
            }
        }
        course
    }
}
