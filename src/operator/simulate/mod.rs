//! What a circuit would have done under another policy, from its recorded past.
//!
//! Owns the results and their limits. `record` is the recorded past and what it cannot answer,
//! `replay` runs it through the model, `course` is the trips and the time open of a circuit, and
//! `measure` compares a replay of the policy in force with what really happened. Pure; does not
//! access a store.

mod course;
mod measure;
mod record;
mod replay;

use serde::Serialize;

pub use self::{
    course::{Course, Trip},
    measure::{Measure, Verdict},
};
use self::{
    record::{Record, check, check_runs, same_window},
    replay::Known,
};
use super::{Settings, View, settings};
use crate::{
    ControlError, Event, Reason, Rules, State,
    model::{LONGEST_MS, Slice},
};

/// What a circuit would have done under a policy, compared with what it did.
///
/// The policy in force is replayed first and compared with what really happened ([`Measure`]). If
/// they differ too much, `simulated` is `None`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::operator::Operator;
///
/// # payments.acquire().await?.success();
/// # circuits.flush().await;
/// let operator = Operator::of(&circuits);
/// let simulation = operator.simulate("payments", "failure_rate_threshold=40", None).await?;
/// match &simulation.simulated {
///     Some(course) => println!("{} trips, really {}", course.trips.len(), simulation.real.trips.len()),
///     None => println!("cannot tell: {}", simulation.measure.reason),
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Simulation {
    /// The circuit's name.
    pub name: String,
    /// When the replayed past begins, Unix ms; `to_ms` if nothing was recorded.
    pub from_ms: u64,
    /// When the replayed past ends: the store's current time, Unix ms.
    pub to_ms: u64,
    /// The length of the longest recorded slice, ms.
    pub slice_ms: u64,
    /// Calls of the replayed past that have an outcome.
    pub calls: u64,
    /// Failures among them.
    pub failures: u64,
    /// Calls of the replayed past that were dropped before they ended; those that had run too long
    /// are failures as well.
    pub abandoned: u64,
    /// The simulated settings that differ from the policy in force.
    pub changed: Settings,
    /// The replay of the policy in force, and how far replays can be trusted.
    pub measure: Measure,
    /// What the circuit would have done; `None` if that cannot be determined.
    pub simulated: Option<Course>,
    /// Trips that may also have happened, depending on what is not recorded.
    pub possible: Possible,
    /// What the circuit did, from its events. Rejected calls have no outcome, so how many of them
    /// would have failed is unknown.
    pub real: Course,
    /// The limits of the results, one sentence each.
    pub limits: Vec<String>,
}

/// Trips that a simulated circuit may have had in addition to those in its course.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Possible {
    /// Real trips at which the simulated circuit stayed closed. The outcomes of the calls that were
    /// then rejected are unknown.
    pub after_real_trips: u64,
    /// Trips that depend on the order of calls within slices, which is not recorded.
    pub within_slices: u64,
}

impl Possible {
    /// The sum of both.
    #[must_use]
    pub const fn all(&self) -> u64 {
        self.after_real_trips + self.within_slices
    }
}

/// A duration in words.
fn in_words_ms(ms: u64) -> String {
    // From 1 s on, rounded to tenths of a second.
    let rounded = if ms >= 1000 {
        (ms + 50) / 100 * 100
    } else {
        ms
    };
    Rules::in_words("window_ms", rounded.min(LONGEST_MS))
}

impl Simulation {
    /// Replays the past of `seen`, at most its last `over_ms`, under `rules`; its events say what
    /// really happened.
    pub(super) fn of(
        seen: &View,
        past: Vec<Slice>,
        [in_force, rules]: [&Rules; 2],
        events: &[Event],
        over_ms: Option<u64>,
    ) -> Result<Self, ControlError> {
        let (state, to_ms) = (seen.snapshot.state, seen.snapshot.now_ms);
        let record = Record::new(past, events, state, to_ms, over_ms, [in_force, rules])?;
        let (failures, abandoned) = (record.sum(|of| of.failures), record.sum(|of| of.abandoned));
        check(rules, in_force, abandoned)?;
        let known = Known {
            window: same_window(rules, in_force),
            run: in_force.consecutive_failures_threshold,
        };
        let mut real = Course::of(record.began(), record.from_ms, &record.events, to_ms);
        real.rejected = record.sum(|of| of.rejected);
        let slice_ms = record.slice_ms();
        let window_ms = if in_force.window_calls == 0 {
            in_force.window_ms
        } else {
            0
        };
        let tolerance_ms = window_ms.max(slice_ms);
        let replayed = replay::course(in_force, known, &record);
        let measure = Measure::of(&record, replayed, &real, tolerance_ms);
        let mut possible = Possible::default();
        let simulated = (measure.verdict != Verdict::Differs).then(|| {
            if rules == in_force {
                return measure.replayed.clone();
            }
            replay::course(rules, known, &record)
        });
        if let Some(simulated) = &simulated {
            let places = record.places(rules, in_force, &simulated.trips);
            check_runs(rules, places, slice_ms)?;
            possible.within_slices = places.by_share;
            let is_open = |trip: &&Trip| {
                let until = trip.at_ms + tolerance_ms;
                !simulated
                    .trips
                    .iter()
                    .any(|own| own.overlaps(trip.at_ms, until))
            };
            let known = real
                .trips
                .iter()
                .filter(|trip| trip.reason != Reason::Adopted);
            possible.after_real_trips = known.filter(is_open).count() as u64;
        }
        let before = in_force.pairs().zip(rules.pairs());
        let differ = before.filter(|(was, is)| was != is).map(|(_, is)| is);
        Ok(Self {
            name: seen.name.to_string(),
            from_ms: record.from_ms,
            to_ms,
            slice_ms,
            calls: record.sum(|of| of.successes).saturating_add(failures),
            failures,
            abandoned,
            changed: settings(differ),
            limits: limits(&record, rules, in_force, possible),
            measure,
            simulated,
            possible,
            real,
        })
    }
}

/// The limits of the results.
fn limits(record: &Record, rules: &Rules, in_force: &Rules, possible: Possible) -> Vec<String> {
    let slice = in_words_ms(record.slice_ms());
    let always = [
        format!("the order of calls within {slice} is not known: they are spread evenly"),
        "calls that were really rejected have no outcome: while the circuit was really open, the simulated one only waits for calls"
            .to_owned(),
        "it begins closed with an empty window, and probes end at once".to_owned(),
    ];
    let waits = |of: &Rules| {
        [
            of.wait_duration_in_open_state_ms,
            of.backoff_multiplier_percent,
            of.max_wait_duration_in_open_state_ms,
            of.backoff_reset_after_ms,
            of.jitter,
        ]
    };
    let dry = record.time_in(&[State::MetricsOnly], record.from_ms, record.to_ms) > 0;
    let also = [
        (
            possible.after_real_trips > 0,
            "where the real circuit opened and the simulated one did not, it may have opened a moment later",
        ),
        (
            possible.within_slices > 0,
            "in some slices it may have opened, if failures came close together",
        ),
        (
            waits(rules) != waits(in_force),
            "probes are known only from the times at which they really went out",
        ),
        (
            dry,
            "metrics_only is taken as closed: nothing really tripped in it",
        ),
        (
            rules.quorum > 1,
            "which replicas failed is not recorded: quorum is taken as 1",
        ),
        (
            rules.ramp_duration_ms > 0,
            "what the ramp would have rejected is not counted",
        ),
        (
            rules.jitter > 0,
            "each wait is taken with half of the jitter",
        ),
        (
            record.sum(|of| of.abandoned) > 0,
            "which abandoned calls were failures too is not known: as many of each slice are taken to be as there were failures",
        ),
    ];
    let also = also
        .into_iter()
        .filter_map(|(holds, words)| holds.then_some(words))
        .chain(record.begins);
    always.into_iter().chain(also.map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests;
