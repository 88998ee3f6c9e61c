//! Exhaustive exploration of the model: every state that a small fleet can reach.
//!
//! Owns the scopes and the assertions. The circuit is the real one of `src/model`; replicas behave
//! like `src/breaker` (`replica`), the network loses, delays and repeats messages (`world`), and
//! the store checks each operation (`store`). States with the same future are one state (`canon`).
//! So a scope bounds the fleet, its faults and a replica's unfinished work, while time, calls and
//! transitions are unbounded. ARCHITECTURE.md lists what was explored.

mod canon;
mod replica;
mod scope;
mod search;
mod store;
mod world;

use std::{env, io::Write, time::Instant};

use scope::{Broken, Rule, Scope};
use search::{Found, explore, states_of_one_key_go_on_alike};

/// Selects larger bounds: `COMMONTRIP_TEST_EXPLORE=large`.
const LARGER: &str = "COMMONTRIP_TEST_EXPLORE";

/// Bypasses the harness, which hides the output of passing tests.
fn say(words: &str) {
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{words}").unwrap();
}

fn run(scope: &Scope) -> Found {
    let start = Instant::now();
    let found = explore(scope);
    let (
        name,
        Found {
            states,
            transitions,
            depth,
            ..
        },
    ) = (scope.name, &found);
    let took = start.elapsed().as_secs_f64();
    say(&format!(
        "explored {name}: {states} states, {transitions} transitions, depth {depth}, {took:.1} s"
    ));
    found
}

#[track_caller]
fn holds(scope: &Scope) {
    if let Some((_, trace)) = run(scope).broken {
        panic!("{}: {trace}", scope.name);
    }
}

#[track_caller]
fn is_found(how: Broken, rule: Rule, scope: Scope) {
    let scope = Scope {
        broken: Some(how),
        ..scope
    };
    match run(&scope).broken {
        Some((found, trace)) => assert_eq!(found, rule, "{how:?} was found by {trace}"),
        None => panic!("{how:?} is not noticed"),
    }
}

const fn scope(replicas: usize) -> Scope {
    let mut scope = Scope::new("with a broken rule");
    scope.replicas = replicas;
    scope
}

/// The scopes of every run of the suite.
fn short() -> Vec<Scope> {
    let one = |name| Scope {
        replicas: 1,
        ..Scope::new(name)
    };
    let two = |name| Scope {
        replicas: 2,
        ..Scope::new(name)
    };
    vec![
        Scope {
            messages: 1,
            ..one("one replica, one message late")
        },
        Scope {
            commands: 1,
            empties: 1,
            ..one("one replica, one command, emptied once")
        },
        Scope {
            crashes: 1,
            ..two("two replicas, one crash")
        },
        Scope {
            empties: 1,
            emptied_up_to: 2,
            ..two("two replicas, emptied once")
        },
        Scope {
            permitted: 2,
            success_threshold: 2,
            ..two("two replicas, two probes")
        },
        // The guarantee for a wait shorter than a lease: the limit holds while nothing is lost.
        Scope {
            wait: 1,
            lease: 3,
            ..two("two replicas, wait shorter than lease")
        },
    ]
}

/// The scopes for runs on demand, in release builds.
fn large() -> Vec<Scope> {
    let one = |name| Scope {
        replicas: 1,
        ..Scope::new(name)
    };
    let two = |name| Scope {
        replicas: 2,
        ..Scope::new(name)
    };
    let three = Scope::new;
    let probes = Scope {
        permitted: 2,
        success_threshold: 2,
        calls: 2,
        ..two("two replicas, four probes")
    };
    vec![
        probes,
        three("three replicas"),
        Scope {
            crashes: 1,
            ..three("three replicas, one crash")
        },
        Scope {
            empties: 1,
            ..three("three replicas, emptied once")
        },
        Scope {
            messages: 2,
            ..one("one replica, two messages late")
        },
        Scope {
            messages: 1,
            ..two("two replicas, one message late")
        },
        Scope {
            messages: 1,
            crashes: 1,
            ..two("two replicas, one message late, one crash")
        },
        Scope {
            messages: 1,
            empties: 1,
            emptied_up_to: 2,
            ..two("two replicas, one message late, emptied once")
        },
        Scope {
            crashes: 1,
            empties: 1,
            ..two("two replicas, one crash, emptied once")
        },
        Scope {
            commands: 1,
            empties: 1,
            ..two("two replicas, one command, emptied once")
        },
        Scope {
            empties: 2,
            ..two("two replicas, emptied twice")
        },
    ]
}

/// Whether larger bounds are requested.
fn is_large() -> bool {
    match env::var(LARGER).as_deref() {
        Err(_) => false,
        Ok("large") => true,
        Ok(other) => panic!("{LARGER} is {other:?}, but only \"large\" is known"),
    }
}

#[test]
fn every_state_of_a_small_fleet_keeps_the_rules() {
    let larger = if is_large() { large() } else { Vec::new() };
    for scope in short().into_iter().chain(larger) {
        holds(&scope);
    }
}

#[test]
fn states_that_are_taken_for_one_go_on_alike() {
    let scopes = [
        Scope {
            messages: 1,
            ..scope(1)
        },
        Scope {
            commands: 1,
            empties: 1,
            crashes: 1,
            ..scope(1)
        },
        Scope {
            wait: 1,
            lease: 1,
            half_open: 1,
            ..scope(2)
        },
    ];
    for scope in scopes {
        assert!(states_of_one_key_go_on_alike(&scope) > 1000);
    }
}

#[test]
fn a_store_that_forgets_probes_at_a_transition_is_found() {
    let scope = Scope {
        wait: 1,
        lease: 3,
        ..scope(2)
    };
    is_found(Broken::ForgetsProbes, Rule::ProbeLimit, scope);
}

#[test]
fn a_store_that_skips_the_wait_after_a_loss_is_found() {
    let scope = Scope {
        empties: 1,
        ..scope(2)
    };
    is_found(Broken::SkipsTheWait, Rule::ProbeLimit, scope);
}

#[test]
fn a_wait_shorter_than_a_lease_and_a_loss_break_the_probe_limit() {
    let scope = Scope {
        wait: 1,
        empties: 1,
        ..scope(2)
    };
    let broken = run(&scope).broken.map(|(rule, _)| rule);
    assert_eq!(broken, Some(Rule::ProbeLimit));
}

#[test]
fn a_store_that_holds_memories_to_be_old_is_found() {
    let scope = Scope {
        empties: 1,
        ..scope(1)
    };
    is_found(Broken::HoldsMemoriesOld, Rule::StaysOpen, scope);
}

#[test]
fn a_store_that_ignores_memories_is_found() {
    let scope = Scope {
        empties: 1,
        ..scope(1)
    };
    is_found(
        Broken::IgnoresMemories,
        Rule::GenerationNeverGoesBack,
        scope,
    );
}

#[test]
fn a_store_that_accepts_a_number_twice_is_found() {
    let scope = Scope {
        messages: 1,
        ..scope(1)
    };
    is_found(Broken::ForgetsNumbers, Rule::ExactlyOnce, scope);
}

#[test]
fn a_store_that_takes_results_of_any_generation_is_found() {
    is_found(
        Broken::TakesAnyGeneration,
        Rule::OtherGenerationsMoveNothing,
        scope(2),
    );
}

#[test]
fn a_store_that_takes_results_of_unknown_tokens_is_found() {
    is_found(
        Broken::TakesAnyToken,
        Rule::OtherGenerationsMoveNothing,
        scope(2),
    );
}

#[test]
fn a_store_that_never_reaps_a_probe_is_found() {
    let scope = Scope {
        crashes: 1,
        ..scope(1)
    };
    is_found(Broken::NeverReaps, Rule::ClosesAgain, scope);
}

#[test]
fn a_store_that_publishes_twice_is_found() {
    is_found(Broken::PublishesTwice, Rule::OneEventATransition, scope(1));
}

#[test]
fn a_replica_that_takes_older_news_is_found() {
    let scope = Scope {
        messages: 1,
        ..scope(1)
    };
    is_found(Broken::TakesOlderNews, Rule::GenerationNeverGoesBack, scope);
}

#[test]
fn a_replica_that_takes_any_news_when_the_store_is_back_is_found() {
    let scope = Scope {
        messages: 2,
        ..scope(1)
    };
    is_found(
        Broken::TakesAnyNewsWhenBack,
        Rule::GenerationNeverGoesBack,
        scope,
    );
}

#[test]
fn a_replica_that_renumbers_a_report_is_found() {
    let scope = Scope {
        messages: 1,
        ..scope(1)
    };
    is_found(Broken::RenumbersReports, Rule::ExactlyOnce, scope);
}

#[test]
fn a_replica_that_forgets_a_report_is_found() {
    let scope = Scope {
        messages: 1,
        ..scope(1)
    };
    is_found(Broken::ForgetsReports, Rule::ExactlyOnce, scope);
}
