//! Recorded histories: many real processes record what they did and when, and a checker compares
//! that with the rules.
//!
//! Owns the runs; [`check`] owns the rules, [`replica`] the records. The test also reads Redis
//! directly. `COMMONTRIP_TEST_HISTORY_SECONDS` (default 4) makes both runs longer, and
//! `COMMONTRIP_TEST_SEED` replays the weather.

mod bad;
pub mod check;
pub mod record;
pub mod replica;
pub mod witness;

use std::{
    collections::HashSet,
    env,
    io::Write,
    time::{Duration, Instant},
};

use commontrip::State;

use self::{
    check::{Circuit, History, Past, most_probes, violations},
    record::{Got, Load, Weather, What, now_ns},
    witness::{Witness, connect, counted},
};
use crate::{
    processes::{
        fleet::{Fleet, PATIENCE},
        ms, stormy,
        wire::Setup,
    },
    support,
};

const PROCESSES: usize = 8;
const CIRCUITS: usize = 3;
/// The minimum that a run must contain to show anything, however short it is.
const ROUNDS: usize = 5;
const KILLS: u64 = 6;

fn say(words: &str) {
    // Bypasses the harness, which shows output of failed tests only.
    let _ = writeln!(std::io::stderr(), "histories: {words}");
}

/// A number from the environment, or the default.
pub fn number(variable: &str, default: u64) -> u64 {
    match env::var(variable) {
        Ok(given) => given
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={given}: not a number")),
        Err(_) => default,
    }
}

/// Finds processes that hold a shared probe now: recorded as held, and not as settled.
struct Holders {
    /// For each life: the records read so far, and the held probes.
    seen: Vec<(usize, HashSet<(usize, u64)>)>,
}

impl Holders {
    fn one(&mut self, fleet: &Fleet) -> Option<u32> {
        fleet.look(|lives| {
            self.seen.resize_with(lives.len(), Default::default);
            let mut holders = Vec::new();
            for (life, (looked, held)) in lives.iter().zip(&mut self.seen) {
                for record in &life.did[*looked..] {
                    match record.what {
                        What::Answered {
                            call,
                            got: Got::Probe,
                            ..
                        } => {
                            held.insert((record.circuit, call));
                        }
                        What::Settles(call, _) => {
                            held.remove(&(record.circuit, call));
                        }
                        _ => {}
                    }
                }
                *looked = life.did.len();
                if !held.is_empty() && life.killed_ms.is_none() {
                    holders.push(life.process);
                }
            }
            fastrand::choice(holders)
        })
    }
}

/// Lets a fleet live through storms, optionally kills probe holders, and records it.
async fn recorded(kills: bool) -> History {
    let seconds = number("COMMONTRIP_TEST_HISTORY_SECONDS", 4);
    let seed = number("COMMONTRIP_TEST_SEED", fastrand::u64(..));
    let url = support::admin_url();
    let circuits: Vec<_> = (0..CIRCUITS)
        .map(|i| (support::unique("history"), stormy(i)))
        .collect();
    let names: Vec<_> = circuits.iter().map(|(name, _)| name.clone()).collect();
    let began = Instant::now();
    let weather = Weather {
        seed,
        since_ns: now_ns(),
        until_ns: u64::MAX,
        slot_ms: 150,
        bad: 55,
        failures: 3,
    };
    let setup = Setup {
        redis: support::redis_url().to_owned(),
        registries: 1,
        circuits: circuits.clone(),
        load: Some(Load {
            store_timeout_ms: 3000,
            workers: 2,
            pause_ms: 20,
            dropped: 8,
            detail: true,
            tick_ms: 400,
            weather,
        }),
        ..Setup::default()
    };
    let witness = Witness::new(url, names.clone());
    let fleet = Fleet::start(setup, PROCESSES).await;
    fleet.serve(0).await;
    let mut holders = Holders { seen: Vec::new() };
    loop {
        let rounds = witness.count(State::HalfOpen).into_iter().min();
        let rounds = rounds.unwrap_or_default();
        let enough = rounds >= ROUNDS && (!kills || fleet.kills() >= KILLS);
        if enough && began.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
        assert!(
            began.elapsed() < PATIENCE + Duration::from_secs(seconds),
            "a circuit is stuck: {rounds} rounds, {} kills",
            fleet.kills()
        );
        if kills && let Some(holder) = holders.one(&fleet) {
            fleet.replace(holder).await;
            tokio::time::sleep(ms(fastrand::u64(50..300))).await;
        }
        tokio::time::sleep(ms(5)).await;
    }
    let answers = fleet.stop().await;
    let away: u64 = answers.iter().map(|answer| answer.times_unavailable).sum();
    let mut redis = connect(url).await;
    let mut history = History::default();
    for ((name, policy), events) in circuits.iter().zip(witness.end().await) {
        history.circuits.push(Circuit {
            permitted: policy.rules().permitted_number_of_calls_in_half_open_state as usize,
            lease_ns: policy.rules().probe_lease_ms * 1_000_000,
            events,
            emptied: Vec::new(),
            counted: Some(counted(&mut redis, name).await),
        });
    }
    for life in fleet.lives() {
        history.lives.push(Past {
            records: life.did,
            killed: life.killed_ms.is_some(),
        });
    }
    say(&format!(
        "seed {seed}, {:.1?}, Redis unavailable {away} times; {}",
        began.elapsed(),
        summary(&history)
    ));
    history
}

fn summary(history: &History) -> String {
    let records = || history.lives.iter().flat_map(|past| &past.records);
    let answers = |wanted| {
        let is = |what| matches!(what, What::Answered { got, .. } if got == wanted);
        records().filter(|record| is(record.what)).count()
    };
    let events: usize = history.circuits.iter().map(|c| c.events.len()).sum();
    format!(
        "{} processes, {} killed; {} records: {} permits, {} probes ({} held at death), {} rejections; {events} transitions",
        history.lives.len(),
        history.lives.iter().filter(|past| past.killed).count(),
        records().count(),
        answers(Got::Plain),
        answers(Got::Probe),
        held_at_death(history),
        answers(Got::Rejected),
    )
}

fn held_at_death(history: &History) -> usize {
    let held = |past: &Past| {
        let mut held = HashSet::new();
        for record in &past.records {
            match record.what {
                What::Answered {
                    call,
                    got: Got::Probe,
                    ..
                } => held.insert(call),
                What::Settles(call, _) => held.remove(&call),
                _ => false,
            };
        }
        held.len()
    };
    history.lives.iter().map(held).sum()
}

/// The history keeps every rule, and reached the probe limit.
fn assert_lawful(history: &History) {
    let found = violations(history);
    let few = &found[..found.len().min(20)];
    assert!(
        found.is_empty(),
        "{} violations, such as {few:#?}",
        found.len()
    );
    for (index, circuit) in history.circuits.iter().enumerate() {
        let lives = history.lives.iter().map(|past| past.of_circuit(index));
        let lives: Vec<_> = lives.collect();
        let (most, _) = most_probes(circuit, &lives);
        assert_eq!(most, circuit.permitted, "as many at once as are permitted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_in_which_probe_holders_are_killed_keeps_every_rule() {
    let history = recorded(true).await;
    assert!(held_at_death(&history) > 0, "somebody died holding a probe");
    assert_lawful(&history);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_without_deaths_keeps_every_rule_and_counts_exactly() {
    assert_lawful(&recorded(false).await);
}
