//! The findings of one outage, from the logs of all replicas and Redis' record of transitions.
//!
//! Pure: measures nothing. All times are microseconds of one clock.

use std::collections::VecDeque;

use crate::{
    plan::{FAILURE_PERCENT, MINIMUM_CALLS, WINDOW_S},
    wire::{Call, End, Log},
};

/// The observations.
pub struct Outage {
    pub dead_us: u64,
    pub healthy_us: u64,
    /// The states that the circuit entered: state, when, until when.
    pub entered: Vec<(String, u64, u64)>,
    /// One log for each replica, since the circuit last closed.
    pub logs: Vec<Log>,
}

/// The findings. Delays are in milliseconds; delays of replicas have one value for each replica.
#[derive(Debug, Default)]
pub struct Findings {
    /// `None` if it tripped earlier: when replicas report slowly, their failures arrive first.
    pub evident_to_trip: Option<f64>,
    pub failure_to_trip: f64,
    pub failure_to_last_known: f64,
    pub trip_to_known: Vec<f64>,
    pub trip_to_rejection: Vec<f64>,
    pub leaked: u64,
    /// From the trip to the last leaked call.
    pub leaked_for: f64,
    pub probes_at_once: u64,
    pub reopened: u64,
    pub recovery_to_all_closed: f64,
    pub wait_to_all_closed: f64,
}

impl Outage {
    /// # Errors
    /// When the record lacks the trip or the closing.
    pub fn judge(&self) -> Result<Findings, String> {
        let none = |what: &str| format!("Redis has no record of {what}: {:?}", self.entered);
        let (_, trip_us, _) = self.entered("open").next().ok_or(none("a trip"))?;
        let (_, _, wait_end_us) = self.entered("open").last().ok_or(none("a trip"))?;
        let (_, closed_us, _) = self.entered("closed").last().ok_or(none("a closing"))?;
        let (trip_us, closed_us) = (*trip_us, *closed_us);
        let calls = || self.logs.iter().flat_map(|log| &log.calls);
        let failures = calls().filter(|call| call.end == End::Failed);
        let failures = failures
            .map(|call| call.ended_us)
            .filter(|at| *at >= self.dead_us);
        let first_failure_us = failures.min().ok_or("no call failed")?;

        let is_leak = |call: &&Call| {
            // The circuit may have closed at the beginning of that millisecond.
            let open = trip_us < call.begun_us && call.begun_us + 500 < closed_us;
            open && !call.probe && call.end != End::Rejected
        };
        let last_leak = calls().filter(is_leak).map(|call| call.begun_us).max();
        let known = |log: &Log, closed: bool, from_us: u64| {
            let mut seen = log.seen.iter();
            // `from_us` is the middle of a millisecond in which the replica may already have
            // looked.
            let seen = seen.find(|seen| {
                (seen.state == commontrip::State::Closed) == closed && seen.at_us + 1_000 > from_us
            });
            seen.map(|seen| seen.at_us)
        };
        let knew_trip = |log| known(log, false, trip_us);
        let knew_closed = |log| known(log, true, closed_us);
        let all_closed_us = self.logs.iter().filter_map(knew_closed).max();
        let all_closed_us = all_closed_us.unwrap_or(closed_us);
        let last_known_us = self.logs.iter().filter_map(knew_trip).max();
        let rejection = |log: &Log| {
            let rejected = |call: &&Call| call.end == End::Rejected && call.begun_us > trip_us;
            let moments = log.calls.iter().filter(rejected).map(|call| call.begun_us);
            moments.min()
        };
        let after_trip = |at_us| delay(trip_us, at_us);
        Ok(Findings {
            evident_to_trip: self.evident_us().map(|at_us| signed(at_us, trip_us)),
            failure_to_trip: delay(first_failure_us, trip_us),
            failure_to_last_known: delay(first_failure_us, last_known_us.unwrap_or(trip_us)),
            trip_to_known: self
                .logs
                .iter()
                .filter_map(knew_trip)
                .map(after_trip)
                .collect(),
            trip_to_rejection: self
                .logs
                .iter()
                .filter_map(rejection)
                .map(after_trip)
                .collect(),
            leaked: calls().filter(is_leak).count() as u64,
            leaked_for: last_leak.map_or(0.0, after_trip),
            probes_at_once: at_once(calls().filter(|call| call.probe)),
            reopened: self.entered("open").count() as u64 - 1,
            recovery_to_all_closed: delay(self.healthy_us, all_closed_us),
            wait_to_all_closed: delay(*wait_end_us, all_closed_us),
        })
    }

    fn entered(&self, state: &'static str) -> impl DoubleEndedIterator<Item = &(String, u64, u64)> {
        self.entered.iter().filter(move |(to, ..)| to == state)
    }

    /// When the outcomes of all replicas, if known at once, would have met the trip condition;
    /// `None` if the circuit opened earlier.
    fn evident_us(&self) -> Option<u64> {
        let calls = self.logs.iter().flat_map(|log| &log.calls);
        let outcomes = calls.filter(|call| !call.probe && call.end != End::Rejected);
        let mut outcomes: Vec<_> = outcomes
            .map(|c| (c.ended_us, c.end == End::Failed))
            .collect();
        outcomes.sort_unstable();
        let (mut window, mut failures) = (VecDeque::new(), 0);
        for (at_us, failed) in outcomes {
            window.push_back((at_us, failed));
            failures += u64::from(failed);
            while let Some((oldest_us, failed)) = window.front().copied() {
                if oldest_us + WINDOW_S * 1_000_000 > at_us {
                    break;
                }
                window.pop_front();
                failures -= u64::from(failed);
            }
            let calls = window.len() as u64;
            if calls >= MINIMUM_CALLS
                && failures * 100 >= calls * FAILURE_PERCENT
                && at_us >= self.dead_us
            {
                return Some(at_us);
            }
        }
        None
    }
}

/// The maximum number of calls that were at the upstream at the same time.
fn at_once<'a>(calls: impl Iterator<Item = &'a Call>) -> u64 {
    // A call that ends in the microsecond in which another begins does not overlap it.
    let ends = |call: &Call| [(call.begun_us, 1_i64), (call.ended_us, -1)];
    let mut ends: Vec<_> = calls.flat_map(ends).collect();
    ends.sort_unstable();
    let mut there = 0;
    let counts = ends.iter().map(|(_, change)| {
        there += change;
        there
    });
    counts.max().unwrap_or(0).max(0) as u64
}

fn delay(from_us: u64, to_us: u64) -> f64 {
    to_us.saturating_sub(from_us) as f64 / 1000.0
}

fn signed(from_us: u64, to_us: u64) -> f64 {
    (to_us as f64 - from_us as f64) / 1000.0
}
