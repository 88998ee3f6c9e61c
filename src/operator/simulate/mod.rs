//! What a circuit would have done under another policy, from what it has seen.
//!
//! Owns what is told of it, beside what really happened; `replay` goes through the past. Pure; asks no store.
//! What cannot be known is said in [`Simulation::limits`].

mod replay;

use serde::Serialize;

use self::replay::Replay;
use super::{Settings, View, settings};
use crate::{Event, Reason, Rules, State, model::Interval};

/// What a circuit would have done under a policy, beside what it did.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Simulation {
    /// The circuit.
    pub name: String,
    /// When the past begins that was gone through, Unix ms; 0 when there is none.
    pub from_ms: u64,
    /// When it ends: the store's present time, Unix ms.
    pub to_ms: u64,
    /// Calls in it that have an outcome.
    pub calls: u64,
    /// Failures among them.
    pub failures: u64,
    /// Calls in it that were dropped before they ended; those that had run too long are among the
    /// failures too.
    pub abandoned: u64,
    /// The settings that were tried and are not in force.
    pub changed: Settings,
    /// What the circuit would have done.
    pub simulated: Course,
    /// What it did, by its events; rejected calls have no outcome, so none of them is known to have failed.
    pub real: Course,
    /// What the figures cannot say, in sentences.
    pub limits: Vec<String>,
}

/// How a circuit fared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Course {
    /// Each time that it opened from closed, oldest first.
    pub trips: Vec<Trip>,
    /// Time spent open, ms; half-open and overrides are not in it.
    pub open_ms: u64,
    /// Rejected calls.
    pub rejected: u64,
    /// Rejected calls that had failed; `None` where that is not known.
    pub rejected_failures: Option<u64>,
}

/// One time that a circuit opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Trip {
    /// When, Unix ms.
    pub at_ms: u64,
    /// Why.
    pub reason: Reason,
    /// Calls in the window at that moment.
    pub calls: u64,
    /// Failures among them.
    pub failures: u64,
    /// Slow calls among them.
    pub slow: u64,
    /// How often half-open led back to open.
    pub reopened: u64,
    /// When it was neither open nor half-open any more, Unix ms; 0 when it still was at the end.
    pub ended_ms: u64,
}

impl Simulation {
    /// Replays the past of `seen` under `rules`; its events say what really happened.
    pub(super) fn of(seen: &View, in_force: &Rules, rules: &Rules, events: &[Event]) -> Self {
        let (past, to_ms) = (&seen.history, seen.snapshot.now_ms);
        let from_ms = past.first().map_or(0, |slice| slice.at_ms);
        let sum =
            |of: fn(&Interval) -> u64| -> u64 { past.iter().map(of).fold(0, u64::saturating_add) };
        let failures = sum(|slice| slice.failures);
        let abandoned = sum(|slice| slice.abandoned);
        let state = events.iter().find(|event| event.at_ms >= from_ms);
        let began = state.map_or(seen.snapshot.state, |event| event.from);
        let within: Vec<_> = events.iter().filter(|e| e.at_ms >= from_ms).collect();
        let mut real = Course::of(began, from_ms, within, to_ms);
        real.rejected = sum(|slice| slice.not_permitted);
        let before = in_force.pairs().zip(rules.pairs());
        let differ = before.filter(|(was, is)| was != is).map(|(_, is)| is);
        Self {
            name: seen.name.to_string(),
            from_ms,
            to_ms,
            calls: sum(|slice| slice.successes).saturating_add(failures),
            failures,
            abandoned,
            changed: settings(differ),
            simulated: Course::under(rules, past, to_ms),
            real,
            limits: limits(in_force, rules, abandoned),
        }
    }
}

impl Course {
    /// The course of a circuit that begins closed and sees these slices.
    fn under(rules: &Rules, past: &[Interval], to_ms: u64) -> Self {
        let mut replay = Replay::new(rules);
        for slice in past {
            replay.take(slice, to_ms);
        }
        let from_ms = past.first().map_or(to_ms, |slice| slice.at_ms);
        let events = replay.events.iter().collect();
        Self {
            rejected: replay.rejected,
            rejected_failures: Some(replay.rejected_failures),
            ..Self::of(State::Closed, from_ms, events, to_ms)
        }
    }

    /// What events say of the time from `from_ms` to `to_ms`.
    fn of(mut state: State, from_ms: u64, events: Vec<&Event>, to_ms: u64) -> Self {
        let mut course = Self::default();
        let mut since = from_ms;
        for event in events.into_iter().filter(|event| event.is_transition()) {
            if state == State::Open {
                course.open_ms += event.at_ms.saturating_sub(since);
            }
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
            (state, since) = (event.to, event.at_ms);
        }
        if state == State::Open {
            course.open_ms += to_ms.saturating_sub(since);
        }
        course
    }
}

/// When a dropped call is a failure.
const fn dropped(rules: &Rules) -> [u64; 2] {
    [rules.abandoned_calls, rules.abandoned_after_ms]
}

/// What the figures cannot say.
fn limits(in_force: &Rules, rules: &Rules, abandoned: u64) -> Vec<String> {
    let always = [
        "the order of calls within 10 s is not known: they are spread evenly, so a trip can be some seconds off",
        "calls that were really rejected have no outcome: while the circuit was really open, the simulated one only waits for calls",
        "it begins closed with an empty window, and probes end at once",
    ];
    let also = [
        (
            rules.consecutive_failures_threshold > 0,
            "only runs without any success between are seen: consecutive_failures_threshold may have opened it earlier",
        ),
        (
            rules.quorum > 1,
            "who failed is not recorded: quorum is taken as 1",
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
            rules.slow_call_duration_threshold_ms != in_force.slow_call_duration_threshold_ms,
            "calls were slow by the slow_call_duration_threshold_ms of their time, not by another",
        ),
        (
            rules.call_timeout_ms != in_force.call_timeout_ms,
            "calls ended by the call_timeout_ms of their time, not by another",
        ),
        (
            abandoned > 0,
            "which abandoned calls were failures too is not known: as many of each 10 s are taken to be as there were failures",
        ),
        (
            dropped(rules) != dropped(in_force),
            "calls that were dropped were failures by the settings of their time, not by others",
        ),
    ];
    let also = also
        .into_iter()
        .filter_map(|(holds, words)| holds.then_some(words));
    always.into_iter().chain(also).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SLICE_MS;

    const BEGAN: u64 = 1_700_000_000_000;

    /// Slices one after the other, each of so many successes and failures.
    fn past(slices: &[(u64, u64)]) -> Vec<Interval> {
        let slice = |(i, (successes, failures)): (usize, &(u64, u64))| Interval {
            at_ms: BEGAN + i as u64 * SLICE_MS,
            successes: *successes,
            failures: *failures,
            ..Interval::default()
        };
        slices.iter().enumerate().map(slice).collect()
    }

    fn course(rules: &Rules, past: &[Interval]) -> Course {
        let to_ms = past.last().unwrap().at_ms + SLICE_MS;
        Course::under(rules, past, to_ms)
    }

    #[test]
    fn a_calm_past_trips_nothing() {
        let calm = course(&Rules::default(), &past(&[(1000, 10); 30]));
        let expected = Course {
            rejected_failures: Some(0),
            ..Course::default()
        };
        assert_eq!(calm, expected);
    }

    #[test]
    fn a_bad_minute_is_rejected_until_probes_succeed() {
        let mut slices = vec![(100, 0); 6];
        slices.extend([(0, 100); 6]);
        slices.extend([(100, 0); 6]);
        let rules = Rules {
            consecutive_failures_threshold: 0,
            ..Rules::default()
        };
        let course = course(&rules, &past(&slices));
        assert_eq!(course.trips.len(), 1, "{course:?}");
        let trip = &course.trips[0];
        // Half of a window of 10 s has failed after 5 s, give or take a bucket.
        let after = trip.at_ms - BEGAN - 60_000;
        assert!((3000..=6000).contains(&after), "{after}");
        assert_eq!(trip.reason, Reason::FailureRate);
        assert!(trip.failures * 2 >= trip.calls);
        // A wait of 30 s, a failed probe, a wait more.
        assert_eq!(trip.reopened, 1);
        assert_eq!(course.open_ms, 60_000);
        assert_eq!(trip.ended_ms, trip.at_ms + 60_000);
        assert!((540..=600).contains(&course.rejected), "{course:?}");
        let failed = course.rejected_failures.unwrap();
        assert!(
            failed < course.rejected && failed > course.rejected / 2,
            "{course:?}"
        );
    }

    /// Slices of so many successes, failures and abandoned calls.
    fn dropped(each: (u64, u64, u64)) -> Vec<Interval> {
        let (successes, failures, abandoned) = each;
        let mut slices = past(&[(successes, failures); 12]);
        for slice in &mut slices {
            slice.abandoned = abandoned;
        }
        slices
    }

    #[test]
    fn abandoned_calls_trip_while_none_succeeds_and_fail_probes() {
        let rules = Rules {
            consecutive_failures_threshold: 0,
            ..Rules::default()
        };
        let silent = course(&rules, &dropped((0, 0, 100)));
        assert_eq!(silent.trips[0].reason, Reason::FailureRate);
        assert_eq!(silent.trips[0].calls, silent.trips[0].failures);
        assert!(silent.trips[0].reopened > 0 && silent.rejected > 0);
        assert_eq!(silent.rejected_failures, Some(0));
        assert_eq!(course(&rules, &dropped((1, 0, 100))).trips, []);
        let ignored = Rules {
            abandoned_calls: 0,
            ..rules
        };
        assert_eq!(course(&ignored, &dropped((0, 0, 100))).trips, []);
    }

    #[test]
    fn abandoned_calls_that_failed_are_not_counted_twice() {
        let rules = Rules {
            window_ms: 60_000,
            minimum_number_of_calls: 1000,
            consecutive_failures_threshold: 0,
            ..Rules::default()
        };
        let hung = course(&rules, &dropped((0, 100, 100)));
        assert_eq!(hung, course(&rules, &dropped((0, 100, 0))));
        let also_others = course(&rules, &dropped((0, 100, 200)));
        assert!(also_others.trips.len() > hung.trips.len());
    }

    #[test]
    fn a_threshold_that_the_past_never_reached_does_not_trip() {
        let bad = past(&[(60, 40); 12]);
        let rules = |percent| Rules {
            failure_rate_threshold: percent,
            ..Rules::default()
        };
        assert_eq!(course(&rules(50), &bad).trips.len(), 0);
        assert_eq!(course(&rules(41), &bad).trips.len(), 0);
        assert!(!course(&rules(40), &bad).trips.is_empty());
    }

    #[test]
    fn probes_succeed_in_proportion_and_alike_each_time() {
        let rules = Rules {
            failure_rate_threshold: 10,
            wait_duration_in_open_state_ms: 5000,
            ..Rules::default()
        };
        let bad = past(&[(50, 50); 30]);
        let first = course(&rules, &bad);
        // Of two probes one fails, so it stays open.
        assert_eq!(first.trips.len(), 1);
        assert!(first.trips[0].reopened > 30, "{first:?}");
        assert_eq!(first.trips[0].ended_ms, 0);
        assert_eq!(course(&rules, &bad), first);
        // Of ten one fails: it closes, and trips anew.
        let better = course(&rules, &past(&[(90, 10); 30]));
        assert!(better.trips.len() > 10, "{better:?}");
        assert!(better.trips[0].ended_ms > 0);
    }

    #[test]
    fn more_transitions_than_a_circuit_keeps_are_all_counted() {
        let rules = Rules {
            failure_rate_threshold: 10,
            wait_duration_in_open_state_ms: 1000,
            ..Rules::default()
        };
        let course = course(&rules, &past(&[(50, 50); 360]));
        assert!(course.trips[0].reopened > 1000, "{course:?}");
    }

    #[test]
    fn a_total_outage_is_a_run() {
        let rules = Rules {
            failure_rate_threshold: 0,
            consecutive_failures_threshold: 250,
            ..Rules::default()
        };
        let calm_then_dead: Vec<_> = [(100, 0); 6].into_iter().chain([(0, 100); 6]).collect();
        let tripped = course(&rules, &past(&calm_then_dead));
        assert_eq!(tripped.trips[0].reason, Reason::ConsecutiveFailures);
        assert_eq!(tripped.trips[0].at_ms, BEGAN + 84_000);
        // A success in each second of it.
        assert_eq!(course(&rules, &past(&[(10, 1000); 12])).trips, []);
    }

    #[test]
    fn runs_and_quorums_are_said_to_be_unknown() {
        let rules = Rules {
            quorum: 3,
            ..Rules::default()
        };
        let said = limits(&Rules::default(), &rules, 0).join("\n");
        assert!(said.contains("consecutive_failures_threshold") && said.contains("quorum"));
        let rules = Rules {
            consecutive_failures_threshold: 0,
            ..Rules::default()
        };
        assert_eq!(limits(&Rules::default(), &rules, 0).len(), 3);
        let others = Rules {
            abandoned_after_ms: 5,
            ..rules
        };
        let said = limits(&rules, &others, 1);
        assert_eq!(said.iter().filter(|s| s.contains("dropped")).count(), 1);
        assert_eq!(said.iter().filter(|s| s.contains("abandoned")).count(), 1);
    }

    #[test]
    fn slow_calls_trip_and_fail_probes() {
        let mut slow = past(&[(100, 0); 12]);
        for slice in &mut slow {
            slice.slow = 80;
        }
        let mut rules = Rules {
            slow_call_duration_threshold_ms: 500,
            slow_call_rate_threshold: 80,
            ..Rules::default()
        };
        let tripped = course(&rules, &slow);
        assert_eq!(tripped.trips[0].reason, Reason::SlowCallRate);
        assert!(tripped.trips[0].reopened > 0);
        assert_eq!(tripped.rejected_failures, Some(0));
        rules.slow_call_duration_threshold_ms = 0;
        assert_eq!(course(&rules, &slow).trips, []);
    }

    #[test]
    fn hostile_counts_end_too() {
        let most = u64::MAX >> 12;
        let hostile = Interval {
            abandoned: most,
            at_ms: BEGAN,
            successes: most,
            failures: most,
            slow: most,
            ignored: most,
            not_permitted: most,
        };
        let rules = Rules {
            window_ms: 365 * 86_400_000,
            ..Rules::default()
        };
        let course = course(&rules, &[hostile; 360]);
        assert_eq!(course.trips.len(), 1);
    }

    #[test]
    fn what_really_happened_is_read_from_events() {
        let event = |from, to, at_ms| Event {
            from,
            to,
            at_ms: BEGAN + at_ms,
            generation: 0,
            reason: Reason::FailureRate,
            until_ms: 0,
            consecutive_opens: 0,
            calls: 0,
            failures: 0,
            slow: 0,
            by: String::new(),
            note: String::new(),
            origin: String::new(),
            policy: String::new(),
        };
        use State::{Closed, ForcedOpen, HalfOpen, Open};
        let events = [
            event(Open, HalfOpen, 1000),
            event(HalfOpen, Closed, 1500),
            event(Closed, Open, 5000),
            event(Open, HalfOpen, 6000),
            event(HalfOpen, Open, 6100),
            event(Open, ForcedOpen, 7000),
            event(ForcedOpen, Closed, 9000),
            event(Closed, Open, 9500),
        ];
        let course = Course::of(Open, BEGAN, events.iter().collect(), BEGAN + 10_000);
        assert_eq!(course.open_ms, 1000 + 1000 + 900 + 500);
        let trips: Vec<_> = course
            .trips
            .iter()
            .map(|trip| (trip.at_ms - BEGAN, trip.reopened, trip.ended_ms))
            .collect();
        assert_eq!(trips, [(5000, 1, BEGAN + 7000), (9500, 0, 0)]);
    }
}
