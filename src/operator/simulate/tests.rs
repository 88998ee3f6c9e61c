//! Replays of pasts with counts only.

mod told;

use super::*;
use crate::{Reason, model::Interval};

const BEGAN: u64 = 1_700_000_000_000;
const SLICE_MS: u64 = 10_000;

/// Consecutive slices with these successes and failures.
fn past(width: u64, slices: &[(u64, u64)]) -> Vec<Slice> {
    let slice = |(i, (successes, failures)): (usize, &(u64, u64))| Slice {
        lasted_ms: width,
        counts: Interval {
            at_ms: BEGAN + i as u64 * width,
            successes: *successes,
            failures: *failures,
            ..Interval::default()
        },
    };
    slices.iter().enumerate().map(slice).collect()
}

fn event(from: State, to: State, at_ms: u64, reason: Reason) -> Event {
    Event {
        from,
        to,
        at_ms: BEGAN + at_ms,
        generation: 0,
        reason,
        until_ms: 0,
        consecutive_opens: 0,
        calls: 0,
        failures: 0,
        slow: 0,
        by: String::new(),
        note: String::new(),
        origin: String::new(),
        policy: String::new(),
        leading_failure: String::new(),
    }
}

fn trip(at_ms: u64, calls: u64, failures: u64) -> Event {
    Event {
        calls,
        failures,
        ..event(State::Closed, State::Open, at_ms, Reason::FailureRate)
    }
}

fn end(past: &[Slice]) -> u64 {
    past.last()
        .map_or(BEGAN, |last| last.counts.at_ms + last.lasted_ms)
}

fn record(past: Vec<Slice>, events: &[Event], rules: &Rules) -> Record {
    let to_ms = end(&past);
    Record::new(past, events, State::Closed, to_ms, None, [rules, rules]).unwrap()
}

/// The course of a circuit with counts only, without events.
fn course(rules: &Rules, past: Vec<Slice>) -> Course {
    let known = Known {
        window: true,
        run: 0,
    };
    replay::course(rules, known, &record(past, &[], rules))
}

fn no_run(rules: Rules) -> Rules {
    Rules {
        consecutive_failures_threshold: 0,
        ..rules
    }
}

fn simulated(
    past: Vec<Slice>,
    events: &[Event],
    in_force: &Rules,
    rules: &Rules,
) -> Result<Simulation, ControlError> {
    let snapshot = crate::Snapshot {
        now_ms: end(&past),
        state: events.last().map_or(State::Closed, |event| event.to),
        ..crate::Snapshot::default()
    };
    let view = View::new(&crate::Name::new("payments").unwrap(), snapshot, Vec::new());
    Simulation::of(&view, past, [in_force, rules], events, None)
}

#[test]
fn a_calm_past_trips_nothing() {
    let calm = course(&Rules::default(), past(SLICE_MS, &[(1000, 10); 30]));
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
    let course = course(&no_run(Rules::default()), past(SLICE_MS, &slices));
    assert_eq!(course.trips.len(), 1, "{course:?}");
    let trip = &course.trips[0];
    // After 5 s, half of a window of 10 s has failed, give or take a bucket.
    let after = trip.at_ms - BEGAN - 60_000;
    assert!((3000..=6000).contains(&after), "{after}");
    assert_eq!(trip.reason, Reason::FailureRate);
    assert!(trip.failures * 2 >= trip.calls);
    // A wait of 30 s, a failed probe, another wait.
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

/// Slices with these successes, failures and abandoned calls.
fn dropped(each: (u64, u64, u64)) -> Vec<Slice> {
    let (successes, failures, abandoned) = each;
    let mut slices = past(SLICE_MS, &[(successes, failures); 12]);
    for slice in &mut slices {
        slice.counts.abandoned = abandoned;
    }
    slices
}

#[test]
fn abandoned_calls_trip_while_none_succeeds_and_fail_probes() {
    let rules = no_run(Rules::default());
    let silent = course(&rules, dropped((0, 0, 100)));
    assert_eq!(silent.trips[0].reason, Reason::FailureRate);
    assert_eq!(silent.trips[0].calls, silent.trips[0].failures);
    assert!(silent.trips[0].reopened > 0 && silent.rejected > 0);
    assert_eq!(silent.rejected_failures, Some(0));
    assert_eq!(course(&rules, dropped((1, 0, 100))).trips, []);
    let ignored = Rules {
        abandoned_calls: 0,
        ..rules
    };
    assert_eq!(course(&ignored, dropped((0, 0, 100))).trips, []);
}

#[test]
fn abandoned_calls_that_failed_are_not_counted_twice() {
    let rules = Rules {
        window_ms: 60_000,
        minimum_number_of_calls: 1000,
        ..no_run(Rules::default())
    };
    let hung = course(&rules, dropped((0, 100, 100)));
    assert_eq!(hung, course(&rules, dropped((0, 100, 0))));
    let also_others = course(&rules, dropped((0, 100, 200)));
    assert!(also_others.trips.len() > hung.trips.len());
}

#[test]
fn a_threshold_that_the_past_never_reached_does_not_trip() {
    let bad = || past(SLICE_MS, &[(60, 40); 12]);
    let rules = |percent| Rules {
        failure_rate_threshold: percent,
        ..Rules::default()
    };
    assert_eq!(course(&rules(50), bad()).trips.len(), 0);
    assert_eq!(course(&rules(41), bad()).trips.len(), 0);
    assert!(!course(&rules(40), bad()).trips.is_empty());
}

#[test]
fn probes_succeed_in_proportion_and_alike_each_time() {
    let rules = Rules {
        failure_rate_threshold: 10,
        wait_duration_in_open_state_ms: 5000,
        ..Rules::default()
    };
    let bad = || past(SLICE_MS, &[(50, 50); 30]);
    let first = course(&rules, bad());
    // One of two probes fails, so it stays open.
    assert_eq!(first.trips.len(), 1);
    assert!(first.trips[0].reopened > 30, "{first:?}");
    assert_eq!(first.trips[0].ended_ms, 0);
    assert_eq!(course(&rules, bad()), first);
    // One of ten fails: it closes, and trips again.
    let better = course(&rules, past(SLICE_MS, &[(90, 10); 30]));
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
    let course = course(&rules, past(SLICE_MS, &[(50, 50); 360]));
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
    let tripped = course(&rules, past(SLICE_MS, &calm_then_dead));
    assert_eq!(tripped.trips[0].reason, Reason::ConsecutiveFailures);
    assert_eq!(tripped.trips[0].at_ms, BEGAN + 84_000);
    // A success in each second breaks the run.
    assert_eq!(course(&rules, past(SLICE_MS, &[(10, 1000); 12])).trips, []);
}

#[test]
fn slow_calls_trip_and_fail_probes() {
    let mut slow = past(SLICE_MS, &[(100, 0); 12]);
    for slice in &mut slow {
        slice.counts.slow = 80;
    }
    let mut rules = Rules {
        slow_call_duration_threshold_ms: 500,
        slow_call_rate_threshold: 80,
        ..Rules::default()
    };
    let tripped = course(&rules, slow.clone());
    assert_eq!(tripped.trips[0].reason, Reason::SlowCallRate);
    assert!(tripped.trips[0].reopened > 0);
    assert_eq!(tripped.rejected_failures, Some(0));
    rules.slow_call_duration_threshold_ms = 0;
    assert_eq!(course(&rules, slow).trips, []);
}

#[test]
fn hostile_counts_and_times_end_too() {
    let most = u64::MAX >> 12;
    let hostile = Slice {
        lasted_ms: SLICE_MS,
        counts: Interval {
            abandoned: most,
            at_ms: BEGAN,
            successes: most,
            failures: most,
            slow: most,
            ignored: most,
            rejected: most,
        },
    };
    let rules = Rules {
        window_ms: 365 * 86_400_000,
        failure_rate_threshold: 40,
        ..Rules::default()
    };
    assert_eq!(course(&rules, vec![hostile; 360]).trips.len(), 1);
    let in_force = no_run(Rules::default());
    let events = [
        event(State::Open, State::Open, 0, Reason::Created),
        trip(0, most, most),
    ];
    let _ = simulated(vec![hostile; 360], &events, &in_force, &rules);
}

#[test]
fn what_really_happened_is_read_from_events() {
    use State::{Closed, ForcedOpen, HalfOpen, Open};
    let event = |from, to, at_ms| event(from, to, at_ms, Reason::FailureRate);
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
    let course = Course::of(Open, BEGAN, &events, BEGAN + 10_000);
    assert_eq!(course.open_ms, 1000 + 1000 + 900 + 500);
    let trips: Vec<_> = course
        .trips
        .iter()
        .map(|trip| (trip.at_ms - BEGAN, trip.reopened, trip.ended_ms))
        .collect();
    assert_eq!(trips, [(5000, 1, BEGAN + 7000), (9500, 0, 0)]);
}
