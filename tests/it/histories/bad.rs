//! Handwritten histories: each rule fires on the one that breaks it, and on no other.

use commontrip::{Reason, State};

use super::{
    check::{Circuit, Happened, History, Past, Violation, violations},
    record::{End, Got, Record, Sight, What},
};
use crate::processes::wire::Totals;

const MS: u64 = 1_000_000;

fn happened(at: u64, generation: u64, from: State, to: State) -> Happened {
    Happened {
        at_ns: at * MS,
        generation,
        from,
        to,
        reason: Reason::Tripped,
    }
}

fn says(at: u64, generation: u64, state: State, what: What) -> Record {
    Record {
        at_ns: at * MS,
        circuit: 0,
        sight: Sight {
            generation,
            state,
            shared: true,
        },
        what,
    }
}

fn done(successes: u64) -> Totals {
    Totals {
        successes,
        ..Totals::default()
    }
}

fn answered(call: u64, got: Got) -> What {
    What::Answered {
        call,
        got,
        local: false,
    }
}

/// A circuit that opens at 100, half-opens at 200 and closes at 300 ms, and two processes that
/// lived through it.
fn good() -> History {
    use State::{Closed, HalfOpen, Open};
    let one = vec![
        says(10, 0, Closed, What::Asked(0)),
        says(11, 0, Closed, answered(0, Got::Plain)),
        says(12, 0, Closed, What::Settles(0, End::Failure)),
        says(110, 1, Open, What::Asked(1)),
        says(111, 1, Open, answered(1, Got::Rejected)),
        says(199, 1, Open, What::Asked(2)),
        says(210, 2, HalfOpen, answered(2, Got::Probe)),
        says(240, 2, HalfOpen, What::Settles(2, End::Ignored)),
    ];
    let two = vec![
        says(220, 1, Open, What::Asked(0)),
        says(221, 2, HalfOpen, answered(0, Got::Rejected)),
        says(250, 2, HalfOpen, What::Asked(1)),
        says(251, 2, HalfOpen, answered(1, Got::Probe)),
        says(290, 2, HalfOpen, What::Settles(1, End::Success)),
        says(310, 3, Closed, What::Asked(2)),
        says(311, 3, Closed, answered(2, Got::Plain)),
        says(312, 3, Closed, What::Settles(2, End::Success)),
    ];
    let totals = Totals {
        successes: 2,
        failures: 1,
        ignored: 1,
        rejected: 2,
    };
    History {
        circuits: vec![Circuit {
            permitted: 1,
            lease_ns: 1000 * MS,
            events: vec![
                happened(100, 1, Closed, Open),
                happened(200, 2, Open, HalfOpen),
                happened(300, 3, HalfOpen, Closed),
            ],
            emptied: Vec::new(),
            counted: Some(totals),
        }],
        lives: [one, two]
            .map(|records| Past {
                records,
                killed: false,
            })
            .into(),
    }
}

fn found(change: impl FnOnce(&mut History)) -> Vec<Violation> {
    let mut history = good();
    change(&mut history);
    violations(&history)
}

#[test]
fn a_good_history_has_no_violations() {
    assert_eq!(found(|_| ()), []);
}

#[test]
fn probes_beyond_the_limit_are_found_whoever_holds_them() {
    let early = |h: &mut History| {
        h.lives[1].records[2].at_ns = 230 * MS;
        h.lives[1].records[3].at_ns = 235 * MS;
    };
    let expected = Violation::TooManyProbes {
        circuit: 0,
        at_ns: 235 * MS,
        out: 2,
    };
    assert_eq!(found(early), [expected]);
    // A killed process holds its probe until the end of the lease, and no longer.
    let unsettled = |h: &mut History| {
        h.lives[0].records.pop();
        h.lives[0].killed = true;
    };
    let violations = found(unsettled);
    assert!(
        matches!(violations[0], Violation::TooManyProbes { out: 2, .. }),
        "{violations:?}"
    );
    let leased = found(|h| {
        unsettled(h);
        h.circuits[0].lease_ns = 50 * MS;
    });
    assert!(
        !matches!(leased[..], [Violation::TooManyProbes { .. }, ..]),
        "{leased:?}"
    );
}

#[test]
fn a_probe_of_a_replica_alone_is_not_counted() {
    let local = |h: &mut History| {
        h.lives[1].records[2].at_ns = 230 * MS;
        h.lives[1].records[3].at_ns = 235 * MS;
        h.lives[1].records[3].what = What::Answered {
            call: 1,
            got: Got::Probe,
            local: true,
        };
    };
    assert_eq!(found(local), []);
}

fn wrong(got: Got, generations: (u64, u64)) -> Violation {
    Violation::WrongAnswer {
        circuit: 0,
        life: 0,
        call: 1,
        got,
        generations,
    }
}

#[test]
fn a_plain_permit_or_a_probe_of_an_open_generation_is_found() {
    let plain = found(|h| {
        h.lives[0].records[4].what = answered(1, Got::Plain);
        h.circuits[0].counted = None;
    });
    assert_eq!(plain, [wrong(Got::Plain, (1, 1))]);
    let probe = found(|h| {
        h.lives[0].records[4].what = answered(1, Got::Probe);
        h.circuits[0].permitted = 9;
        h.circuits[0].counted = None;
    });
    assert_eq!(probe, [wrong(Got::Probe, (1, 1))]);
}

#[test]
fn a_plain_permit_is_found_though_the_process_forgot_that_it_knew() {
    let violations = found(|h| {
        h.lives[0].records[3].sight = says(0, 0, State::Closed, What::Looked).sight;
        h.lives[0].records[4].sight = h.lives[0].records[3].sight;
        h.lives[0].records[4].what = answered(1, Got::Plain);
        let knew = says(105, 1, State::Open, What::Looked);
        h.lives[0].records.insert(3, knew);
        h.circuits[0].counted = None;
    });
    assert!(
        violations.contains(&wrong(Got::Plain, (1, 1))),
        "{violations:?}"
    );
}

#[test]
fn a_probe_of_a_closed_circuit_and_a_rejection_by_one_are_found() {
    for got in [Got::Probe, Got::Rejected] {
        let violations = found(|h| {
            h.lives[1].records[6].what = answered(2, got);
            h.circuits[0].counted = None;
        });
        let expected = Violation::WrongAnswer {
            circuit: 0,
            life: 1,
            call: 2,
            got,
            generations: (3, 3),
        };
        assert_eq!(violations, [expected]);
    }
}

#[test]
fn an_answer_that_a_transition_meanwhile_explains_is_fine() {
    let fits = found(|h| {
        // Asked in the half-open state, answered after the circuit had closed.
        let asked = says(299, 2, State::HalfOpen, What::Asked(9));
        let answer = says(305, 3, State::Closed, answered(9, Got::Plain));
        h.lives[1].records.splice(5..5, [asked, answer]);
    });
    assert_eq!(fits, []);
}

#[test]
fn events_that_repeat_leave_out_or_do_not_follow_are_found() {
    let repeated = found(|h| {
        let again = h.circuits[0].events[1];
        h.circuits[0].events.insert(1, again);
    });
    let broken = |v: &Violation| matches!(v, Violation::BrokenChain { .. });
    assert_eq!(repeated.iter().filter(|v| broken(v)).count(), 1);
    let left_out = found(|h| {
        h.circuits[0].events.remove(1);
    });
    assert_eq!(left_out.iter().filter(|v| broken(v)).count(), 1);
    let seen = |v: &&Violation| matches!(v, Violation::NoSuchGeneration { seen, .. } if seen.generation == 2);
    assert_eq!(left_out.iter().filter(seen).count(), 2, "{left_out:?}");
    let from = found(|h| h.circuits[0].events[1].from = State::Closed);
    assert_eq!(from.iter().filter(|v| broken(v)).count(), 1);
    let twice = found(|h| h.circuits[0].events[2].generation = 2);
    assert!(twice.iter().any(broken), "{twice:?}");
}

#[test]
fn a_generation_seen_in_another_state_than_its_events_is_found() {
    let violations = found(|h| h.circuits[0].events[2].to = State::Open);
    let other = |v: &Violation| matches!(v, Violation::NoSuchGeneration { life: 1, .. });
    assert!(violations.iter().any(other), "{violations:?}");
}

#[test]
fn a_process_that_goes_back_is_found() {
    let violations = found(|h| {
        let back = says(320, 2, State::HalfOpen, What::Looked);
        h.lives[1].records.push(back);
    });
    let expected = Violation::WentBack {
        circuit: 0,
        life: 1,
        from: 3,
        to: 2,
    };
    assert_eq!(violations, [expected]);
}

#[test]
fn a_total_that_is_not_the_sum_is_found_in_each_part() {
    let parts: [fn(&mut Totals) -> &mut u64; 4] = [
        |t| &mut t.successes,
        |t| &mut t.failures,
        |t| &mut t.ignored,
        |t| &mut t.rejected,
    ];
    for part in parts {
        for change in [u64::wrapping_add, u64::wrapping_sub] {
            let violations = found(|h| {
                let total = part(h.circuits[0].counted.as_mut().unwrap());
                *total = change(*total, 1);
            });
            assert!(
                matches!(violations[..], [Violation::WrongTotal(..)]),
                "{violations:?}"
            );
        }
    }
}

#[test]
fn a_killed_process_counts_between_what_was_confirmed_and_what_it_did() {
    let with = |failures: u64, confirmed: u64| {
        found(|h| {
            let totals = Totals {
                failures: confirmed,
                ..Totals::default()
            };
            let sure = says(20, 0, State::Closed, What::Confirmed(totals));
            h.lives[0].records.insert(3, sure);
            h.lives[0].killed = true;
            h.circuits[0].counted.as_mut().unwrap().failures = failures;
        })
    };
    assert_eq!(with(1, 0), []);
    assert_eq!(with(0, 0), []);
    assert_eq!(with(2, 0), [Violation::WrongTotal(0, "failures", 2, 0, 1)]);
    assert_eq!(with(0, 1), [Violation::WrongTotal(0, "failures", 0, 1, 1)]);
}

#[test]
fn over_a_loss_generations_may_jump_but_nobody_goes_back() {
    let lossy = |h: &mut History| {
        let circuit = &mut h.circuits[0];
        circuit.emptied = vec![(400 * MS, 410 * MS)];
        circuit.counted = None;
        let adopted = Happened {
            reason: Reason::Adopted,
            ..happened(420, 9, State::Closed, State::Open)
        };
        circuit.events.push(adopted);
        // What they saw of the lost record may not fit the present one until they learn of the
        // loss.
        h.lives[0].records.extend([
            says(411, 9, State::HalfOpen, What::Looked),
            says(425, 9, State::Open, What::Confirmed(done(1))),
            says(427, 9, State::Open, What::Confirmed(done(2))),
        ]);
    };
    assert_eq!(found(lossy), []);
    let back = found(|h| {
        lossy(h);
        let seen = |at, generation| says(at, generation, State::Open, What::Looked);
        h.lives[0].records.extend([seen(430, 9), seen(440, 8)]);
    });
    assert!(
        matches!(back[..], [Violation::WentBack { from: 9, .. }]),
        "{back:?}"
    );
    // A transition that was published just before the loss, and not confirmed.
    let published = |at| {
        found(|h| {
            lossy(h);
            let seen = |at, generation| says(at, generation, State::Open, What::Looked);
            h.lives[0].records.retain(|r| r.at_ns < 400 * MS);
            h.lives[0].records.extend([seen(at, 10), seen(1430, 9)]);
            h.circuits[0].emptied = vec![(1400 * MS, 1410 * MS)];
        })
    };
    assert_eq!(published(1405), []);
    assert!(
        matches!(published(800)[..], [Violation::WentBack { from: 10, .. }]),
        "{:?}",
        published(800)
    );
    let unheard = found(|h| {
        lossy(h);
        let seen = says(430, 10, State::Open, What::Looked);
        h.lives[0].records.push(seen);
    });
    assert!(
        matches!(unheard[..], [Violation::NoSuchGeneration { .. }]),
        "{unheard:?}"
    );
    let later = found(|h| {
        lossy(h);
        let skips = happened(500, 11, State::Open, State::HalfOpen);
        h.circuits[0].events.push(skips);
    });
    assert!(
        matches!(later[..], [Violation::BrokenChain { .. }]),
        "{later:?}"
    );
}
