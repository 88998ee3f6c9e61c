//! How far a replay can be trusted: the replayed policy in force, compared with what really
//! happened.

use serde::Serialize;

use super::{
    course::{Course, Trip},
    in_words_ms,
    record::Record,
};
use crate::{Reason, State};

/// Tolerances, one part in so many: `TRIPS` for missed and invented trips together, of the real
/// trips, and `TIME` for the difference in time open.
const TRIPS: u64 = 5;
const TIME: u64 = 4;

/// How far a replay can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// The replay of the policy in force matches what really happened: the trips that it misses or
    /// invents are at most a fifth of the real ones, and the time open differs by at most a
    /// quarter, or by one window or slice.
    Agrees,
    /// The replay does not match, so nothing can be said about other policies.
    Differs,
    /// There is nothing to compare: an override was in force all the time, or whenever the policy
    /// in force would have opened the circuit.
    Untested,
}

/// The replay of the policy in force, compared with what really happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Measure {
    /// How far the replay can be trusted.
    pub verdict: Verdict,
    /// The reason for the verdict, in one sentence.
    pub reason: String,
    /// Real trips that the replay has too, at most a window or a slice apart.
    pub found: u64,
    /// Real trips that the replay does not have.
    pub missed: u64,
    /// Trips of the replay that did not really happen.
    pub invented: u64,
    /// The replay of the policy in force.
    pub replayed: Course,
}

impl Measure {
    pub(super) fn of(record: &Record, replayed: Course, real: &Course, tolerance_ms: u64) -> Self {
        let overridden = [State::ForcedOpen, State::Disabled, State::MetricsOnly];
        let compared = |from_ms: u64, to_ms: u64| {
            let under = record.time_in(&overridden, from_ms, to_ms);
            to_ms.saturating_sub(from_ms).saturating_sub(under)
        };
        // Replicas restored these after the store had lost the circuit: the real trips were
        // earlier.
        let real_trips = real
            .trips
            .iter()
            .filter(|trip| trip.reason != Reason::Adopted);
        let real_trips: Vec<_> = real_trips.collect();
        // A replayed trip has no exact place in its slice: if an override began in that slice, the
        // trip may have come after it.
        let slice_ms = record.slice_ms();
        let tested = |trip: &&Trip| {
            record.time_in(&overridden, trip.at_ms, trip.at_ms + slice_ms.max(1)) == 0
        };
        let mut mine: Vec<_> = replayed.trips.iter().filter(tested).collect();
        let all = real_trips.len() as u64;
        let mut found = 0;
        for trip in real_trips {
            let near = |other: &&Trip| other.at_ms.abs_diff(trip.at_ms) <= tolerance_ms;
            if let Some(i) = mine.iter().position(near) {
                mine.remove(i);
                found += 1;
            }
        }
        let (missed, invented) = (all - found, mine.len() as u64);
        let end = |trip: &Trip| match trip.ended_ms {
            0 => record.to_ms,
            ended => ended,
        };
        // Time that the replay is open under an override has nothing to be compared with.
        let under = |trip: &Trip| record.time_in(&overridden, trip.at_ms, end(trip));
        let under: u64 = replayed.trips.iter().map(under).sum();
        let open_ms = replayed.open_ms.saturating_sub(under);
        let off = open_ms.abs_diff(real.open_ms);
        let allowed = (open_ms.max(real.open_ms) / TIME).max(tolerance_ms);
        let times = format!(
            "{} open, really {}",
            in_words_ms(open_ms),
            in_words_ms(real.open_ms)
        );
        let (verdict, reason) = if compared(record.from_ms, record.to_ms) == 0 {
            let reason = "an override held all the time, so there is nothing to compare with";
            (Verdict::Untested, reason.to_owned())
        } else if all == 0 && replayed.trips.len() > mine.len() {
            let reason = "an override held when the policy in force would have opened the circuit, so there is nothing to compare with";
            (Verdict::Untested, reason.to_owned())
        } else if missed + invented > all / TRIPS {
            let reason = format!(
                "replayed, the policy in force finds {found} of {all} real trips and has {invented} that did not happen"
            );
            (Verdict::Differs, reason)
        } else if off > allowed {
            (
                Verdict::Differs,
                format!("replayed, the policy in force is {times}"),
            )
        } else if all == 0 {
            let reason = "nothing tripped, and the policy in force does not when it is replayed";
            (Verdict::Agrees, reason.to_owned())
        } else {
            let reason = format!(
                "replayed, the policy in force finds {found} of {all} real trips, has {invented} that did not happen, and is {times}"
            );
            (Verdict::Agrees, reason)
        };
        Self {
            verdict,
            reason,
            found,
            missed,
            invented,
            replayed,
        }
    }
}
