//! Simulations of a past with recorded real trips.

use super::*;

/// A circuit with a window of 1 s and waits of 2.5 s, in slices of 1 s. The upstream fails for 5 s
/// of every 12 s. The circuit really opened 0.7 s after each failure had begun, in the middle of a
/// slice, opened again after a failed probe, and closed when probes had succeeded.
fn demo() -> (Vec<Slice>, Vec<Event>, Rules) {
    use State::{Closed, HalfOpen, Open};
    let rules = Rules {
        window_ms: 1000,
        minimum_number_of_calls: 10,
        wait_duration_in_open_state_ms: 2500,
        success_threshold: 5,
        ..Rules::default()
    };
    let (mut slices, mut events) = (Vec::new(), Vec::new());
    for round in 0..25 {
        let at = round * 12_000;
        slices.extend([(250, 0), (250, 0), (140, 90), (40, 60), (0, 0), (1, 1)]);
        slices.extend([(0, 0), (0, 0), (200, 0), (250, 0), (250, 0), (250, 0)]);
        events.extend([
            trip(at + 3350, 240, 121),
            event(Open, HalfOpen, at + 5850, Reason::WaitElapsed),
            event(HalfOpen, Open, at + 5900, Reason::ProbeFailed),
            event(Open, HalfOpen, at + 8400, Reason::WaitElapsed),
            event(HalfOpen, Closed, at + 8450, Reason::Recovered),
        ]);
    }
    for (i, event) in events.iter_mut().enumerate() {
        event.generation = i as u64 + 1;
    }
    let mut slices = past(1000, &slices);
    slices.retain(|slice| slice.counts.successes + slice.counts.failures > 0);
    assert!(events.iter().all(|e| e.from != Closed || e.to == Open));
    (slices, events, rules)
}

#[test]
fn the_demos_circuit_is_repeated_in_slices_of_a_second() {
    let (slices, events, rules) = demo();
    let same = simulated(slices, &events, &rules, &rules).unwrap();
    let measure = &same.measure;
    assert_eq!(measure.verdict, Verdict::Agrees, "{measure:#?}");
    assert_eq!(
        (measure.found, measure.missed, measure.invented),
        (25, 0, 0)
    );
    assert_eq!(same.simulated.as_ref(), Some(&measure.replayed));
    assert_eq!(
        (same.real.trips.len(), same.possible),
        (25, Possible::default())
    );
}

#[test]
fn a_stricter_policy_trips_as_often_and_a_looser_one_may_have_tripped_as_often() {
    let (slices, events, in_force) = demo();
    let tried = |rate| Rules {
        failure_rate_threshold: rate,
        ..in_force
    };
    let told = |rate| simulated(slices.clone(), &events, &in_force, &tried(rate)).unwrap();
    let stricter = told(30);
    assert_eq!(stricter.simulated.unwrap().trips.len(), 25);
    assert_eq!(stricter.possible, Possible::default());
    // If an order of calls in the slice before a trip opens it too, that is not another trip.
    let between = told(45);
    assert_eq!(between.simulated.unwrap().trips.len(), 25);
    assert_eq!(between.possible, Possible::default());
    // It stays closed when the real one opens, and then there are no more calls.
    let looser = told(80);
    assert_eq!(looser.simulated.unwrap().trips, []);
    assert_eq!(looser.possible.after_real_trips, 25);
    assert!(
        looser
            .limits
            .iter()
            .any(|limit| limit.contains("a moment later"))
    );
}

#[test]
fn a_replay_that_does_not_repeat_what_happened_tells_nothing() {
    let (slices, events, in_force) = demo();
    let calm: Vec<_> = slices
        .into_iter()
        .map(|mut slice| {
            slice.counts.failures = 0;
            slice
        })
        .collect();
    // Another window, to which the window's counts in events do not apply.
    let other = Rules {
        window_ms: 2000,
        ..in_force
    };
    let told = simulated(calm.clone(), &events, &in_force, &other).unwrap();
    let measure = told.measure;
    assert_eq!((measure.verdict, told.simulated), (Verdict::Differs, None));
    assert_eq!(
        (measure.found, measure.missed, measure.invented),
        (0, 25, 0)
    );
    assert!(
        measure.reason.contains("finds 0 of 25 real trips"),
        "{}",
        measure.reason
    );
    // Trips that did not happen.
    let bad = past(1000, &[(100, 100); 60]);
    let told = simulated(bad, &[], &in_force, &other).unwrap();
    assert_eq!(
        (told.measure.verdict, told.simulated),
        (Verdict::Differs, None)
    );
    assert!(told.measure.invented > 0);
}

#[test]
fn a_burst_that_slices_hide_is_a_trip_that_may_have_been() {
    // 12 % of a slice fail: 120 calls, which may have come in the same half of a second.
    let mut slices = vec![(1000, 0); 20];
    slices[10] = (880, 120);
    let in_force = no_run(Rules::default());
    let tried = Rules {
        window_ms: 1000,
        failure_rate_threshold: 20,
        ..in_force
    };
    let told = simulated(past(1000, &slices), &[], &in_force, &tried).unwrap();
    assert_eq!(told.simulated.unwrap().trips, []);
    assert_eq!(told.possible.within_slices, 1, "{:?}", told.possible);
    let lower = Rules {
        failure_rate_threshold: 90,
        ..tried
    };
    let told = simulated(past(1000, &slices), &[], &in_force, &lower).unwrap();
    assert_eq!(told.possible.within_slices, 0);
}

#[test]
fn what_slices_cannot_tell_is_refused_by_the_name_of_the_setting() {
    let refused = |slices: Vec<Slice>, rules: Rules| {
        let in_force = Rules {
            window_ms: 60_000,
            slow_call_duration_threshold_ms: 100,
            ..no_run(Rules::default())
        };
        let rules = Rules {
            slow_call_duration_threshold_ms: rules.slow_call_duration_threshold_ms + 100,
            ..rules
        };
        simulated(slices, &[], &in_force, &rules)
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    let rules = no_run(Rules::default());
    let coarse = || past(SLICE_MS, &[(100, 6); 30]);
    assert_eq!(refused(coarse(), rules), Ok(()));
    for (tried, said) in [
        (
            Rules {
                window_ms: 500,
                ..rules
            },
            "window_ms is 500ms, but the past is recorded in slices of 10s, which cannot tell shorter windows",
        ),
        (
            Rules {
                window_calls: 50,
                ..rules
            },
            "window_calls is 50, but the past is recorded in slices of 10s, and most calls came in slices of more \
             calls than that",
        ),
        (
            Rules {
                consecutive_failures_threshold: 10,
                ..rules
            },
            "consecutive_failures_threshold is 10, but the order of calls within slices of 10s is not recorded, and \
             29 of them may have had 10 failures in a row",
        ),
        (
            Rules { quorum: 2, ..rules },
            "quorum is 2, but which replicas failed is not recorded",
        ),
        (
            Rules {
                slow_call_duration_threshold_ms: 150,
                ..rules
            },
            "slow_call_duration_threshold_ms is 250ms, but calls were recorded as slow by the threshold of their time",
        ),
        (
            Rules {
                call_timeout_ms: 500,
                ..rules
            },
            "call_timeout_ms is 500ms, but calls ended by the timeout of their time, and how long each took is not \
             recorded",
        ),
        (
            Rules {
                timed_out_calls: 0,
                ..rules
            },
            "timed_out_calls is ignored, but calls that timed out were recorded by the setting of their time",
        ),
    ] {
        assert_eq!(refused(coarse(), tried), Err(said.to_owned()));
    }
    let run = Rules {
        consecutive_failures_threshold: 20,
        ..rules
    };
    assert_eq!(
        refused(coarse(), run),
        Ok(()),
        "no two slices have so many failures"
    );
    let long = past(600_000, &[(6000, 60); 30]);
    let said = refused(long.clone(), rules).unwrap_err();
    assert!(
        said.starts_with("window_ms is 1m, but the past is recorded in slices of 10m"),
        "{said}"
    );
}

#[test]
fn how_dropped_calls_were_judged_is_not_changed() {
    let told = |in_force: Rules, rules: Rules, abandoned| {
        let mut slices = past(SLICE_MS, &[(100, 6); 30]);
        for slice in &mut slices {
            slice.counts.abandoned = abandoned;
        }
        simulated(slices, &[], &in_force, &rules)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let usual = no_run(Rules::default());
    let slow = Rules {
        slow_call_duration_threshold_ms: 100,
        ..usual
    };
    let ignored = |rules| Rules {
        abandoned_calls: 0,
        ..rules
    };
    let after = |ms, rules| Rules {
        abandoned_after_ms: ms,
        ..rules
    };
    for (in_force, rules, setting) in [
        (usual, after(500, usual), "abandoned_after_ms is 500ms"),
        (after(500, usual), usual, "abandoned_after_ms is automatic"),
        (usual, ignored(usual), "abandoned_calls is ignored"),
        (ignored(usual), usual, "abandoned_calls is counted"),
        (slow, usual, "slow_call_duration_threshold_ms is off"),
    ] {
        let said = told(in_force, rules, 1).unwrap_err();
        let why = "dropped calls were failures by the settings of their time";
        assert!(said.starts_with(setting) && said.ends_with(why), "{said}");
        assert_eq!(told(in_force, rules, 0), Ok(()), "none was dropped");
    }
    // The slow-call threshold alone decides in both.
    assert_eq!(told(slow, ignored(slow), 1), Ok(()));
}

/// Two adjacent slices have 120 failures, so 80 may have come within a second.
#[test]
fn a_minimum_that_applies_to_more_conditions_is_looser() {
    let mut slices = vec![(1000, 0); 20];
    (slices[10], slices[11]) = ((940, 60), (940, 60));
    let on_count = |threshold, minimum, applies_to| Rules {
        window_ms: 1000,
        failure_rate_threshold: 0,
        failure_count_threshold: threshold,
        minimum_number_of_calls: minimum,
        minimum_applies_to: applies_to,
        ..no_run(Rules::default())
    };
    let possible = |in_force, rules| {
        let told = simulated(past(1000, &slices), &[], &in_force, &rules).unwrap();
        assert_eq!(told.simulated.unwrap().trips, []);
        told.possible.within_slices
    };
    let (all, rates) = (on_count(80, 100_000, 1), on_count(80, 100_000, 0));
    assert_eq!(possible(all, rates), 1);
    assert_eq!(possible(all, on_count(80, 1000, 1)), 1);
    assert_eq!(possible(rates, all), 0);
    // The threshold is lower, but there are never as many calls.
    assert_eq!(possible(on_count(500, 100_000, 1), all), 0);
}

#[test]
fn a_run_counts_where_the_minimum_of_calls_may_have_been_reached() {
    let of = |minimum, applies_to| Rules {
        failure_rate_threshold: 90,
        minimum_number_of_calls: minimum,
        minimum_applies_to: applies_to,
        ..Rules::default()
    };
    let told = |in_force: Rules, rules: Rules| {
        let slices = past(1000, &[(60, 40); 20]);
        simulated(slices, &[], &in_force, &rules)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let said = told(of(100_000, 1), of(100_000, 0)).unwrap_err();
    assert!(said.contains("may have had 20 failures in a row"), "{said}");
    told(of(100_000, 1), of(1000, 1)).unwrap_err();
    assert_eq!(told(of(100_000, 0), of(100_000, 1)), Ok(()));
    assert_eq!(told(of(100_000, 1), of(90_000, 1)), Ok(()));
}

#[test]
fn the_weeks_are_used_where_windows_are_as_long() {
    let long = past(600_000, &[(6000, 60); 30]);
    let fine = past(SLICE_MS, &[(100, 0); 6]).into_iter().map(|mut slice| {
        slice.counts.at_ms += 30 * 600_000;
        slice
    });
    let both: Vec<_> = long.into_iter().chain(fine).collect();
    let hour = no_run(Rules {
        window_ms: 3_600_000,
        ..Rules::default()
    });
    let told = simulated(both.clone(), &[], &hour, &hour).unwrap();
    assert_eq!((told.slice_ms, told.from_ms), (600_000, BEGAN));
    let short = no_run(Rules::default());
    let told = simulated(both, &[], &short, &short).unwrap();
    assert_eq!((told.slice_ms, told.calls), (SLICE_MS, 600));
    assert!(
        told.limits
            .iter()
            .any(|limit| limit.contains("slices of 10m")),
        "{:?}",
        told.limits
    );
}

#[test]
fn a_run_that_opened_the_real_circuit_opens_one_with_as_short_a_threshold() {
    let slices = past(1000, &[(50, 50); 5]);
    let mut ran = trip(4500, 100, 50);
    ran.reason = Reason::ConsecutiveFailures;
    let in_force = Rules {
        failure_rate_threshold: 90,
        ..Rules::default()
    };
    let longer = Rules {
        consecutive_failures_threshold: 30,
        ..in_force
    };
    let same = simulated(slices.clone(), &[ran.clone()], &in_force, &in_force).unwrap();
    assert_eq!(
        same.simulated.unwrap().trips[0].reason,
        Reason::ConsecutiveFailures
    );
    let told = simulated(slices, &[ran], &in_force, &longer).unwrap();
    assert_eq!(told.simulated.unwrap().trips, []);
    assert_eq!(told.possible.after_real_trips, 1);
}

#[test]
fn under_an_override_there_is_nothing_to_compare() {
    let bad = past(SLICE_MS, &[(60, 40); 12]);
    let dry = [event(
        State::Closed,
        State::MetricsOnly,
        0,
        Reason::Override,
    )];
    let in_force = no_run(Rules::default());
    let tried = Rules {
        failure_rate_threshold: 40,
        ..in_force
    };
    let told = simulated(bad, &dry, &in_force, &tried).unwrap();
    assert_eq!(told.measure.verdict, Verdict::Untested);
    assert!(!told.simulated.unwrap().trips.is_empty());
}

#[test]
fn a_stored_policy_begins_the_past_anew() {
    let slices = past(SLICE_MS, &[(100, 0); 12]);
    let stored = event(State::Closed, State::Closed, 55_000, Reason::Policy);
    let rules = no_run(Rules::default());
    let told = simulated(slices, &[stored], &rules, &rules).unwrap();
    assert_eq!((told.from_ms, told.calls), (BEGAN + 60_000, 600));
    assert!(
        told.limits
            .iter()
            .any(|limit| limit.contains("stored policy"))
    );
}

#[test]
fn a_past_that_begins_open_begins_when_the_circuit_was_closed_again() {
    let (slices, events, rules) = demo();
    let open: Vec<_> = slices
        .into_iter()
        .filter(|slice| slice.counts.at_ms >= BEGAN + 5000)
        .collect();
    let told = simulated(open.clone(), &events, &rules, &rules).unwrap();
    assert_eq!(told.from_ms, BEGAN + 9000);
    assert_eq!(told.measure.verdict, Verdict::Agrees, "{told:#?}");
    assert_eq!((told.measure.found, told.real.trips.len()), (24, 24));
    assert!(
        told.limits
            .iter()
            .any(|limit| limit.contains("closed again"))
    );
    // It is still open: nothing is left to replay.
    let told = simulated(open[..1].to_vec(), &events[..1], &rules, &rules).unwrap();
    assert_eq!((told.calls, told.measure.verdict), (0, Verdict::Untested));
}

/// Waits are shorter than slices, so a failed probe and the recovery share a slice, and the counts
/// do not say which came first.
#[test]
fn a_probe_has_its_real_outcome_where_the_real_circuit_probed() {
    use State::{Closed, HalfOpen, Open};
    let in_force = Rules {
        window_ms: 1000,
        minimum_number_of_calls: 10,
        wait_duration_in_open_state_ms: 600,
        success_threshold: 3,
        ..no_run(Rules::default())
    };
    let (mut slices, mut events) = (Vec::new(), Vec::new());
    for round in 0..8 {
        let at = round * 4000;
        slices.extend([(200, 0), (170, 70), (80, 1), (200, 0)]);
        events.extend([
            trip(at + 1440, 100, 53),
            event(Open, HalfOpen, at + 2045, Reason::WaitElapsed),
            event(HalfOpen, Open, at + 2050, Reason::ProbeFailed),
            event(Open, HalfOpen, at + 2655, Reason::WaitElapsed),
            event(HalfOpen, Closed, at + 2665, Reason::Recovered),
        ]);
    }
    for (i, event) in events.iter_mut().enumerate() {
        event.generation = i as u64 + 1;
    }
    let told = simulated(past(1000, &slices), &events, &in_force, &in_force).unwrap();
    let reopened: Vec<_> = told
        .measure
        .replayed
        .trips
        .iter()
        .map(|t| t.reopened)
        .collect();
    assert_eq!(reopened, [1; 8], "{:#?}", told.measure);
    assert_eq!(told.measure.verdict, Verdict::Agrees, "{:#?}", told.measure);
}
