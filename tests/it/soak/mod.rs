//! A fleet under constant traffic while its Redis fails in every way, one fault after another.
//!
//! Owns the run and its report; [`faults`] owns the faults, [`verdict`] the judgement.
//! `COMMONTRIP_TEST_SOAK_SECONDS` (default 10) makes it longer; `COMMONTRIP_TEST_SEED` replays
//! faults and outages.
//!
//! While Redis is unavailable, each replica has a local circuit and sends probes by its own
//! decision, which no limit of the fleet covers. So a probe counts against the limit only if its
//! process had Redis from before the request until the answer. A process' view counts as the shared
//! circuit only after Redis has confirmed a report since the last outage.

mod faults;
mod found;
mod verdict;
mod years;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    time::{Duration, Instant},
};

use commontrip::{Policy, State};
use parking_lot::Mutex;

use self::{
    faults::{Fault, Schedule, Stage},
    verdict::Verdict,
};
use crate::{
    histories::{
        number,
        record::{Load, Weather, now_ns},
        witness::{Witness, connect, counted, present},
    },
    processes::{
        fleet::{Fleet, PATIENCE},
        ms, percentiles,
        wire::{Answer, Order, Setup},
    },
    support,
};

const PROCESSES: usize = 4;
const CIRCUITS: usize = 3;
const STORE_TIMEOUT_MS: u64 = 100;
const SLOT_MS: u64 = 4000;
/// The maximum time after a fault until all agree with Redis again. It takes some hundred
/// milliseconds.
const AGREEMENT: Duration = Duration::from_secs(5);

fn say(words: &str) {
    // Bypasses the harness, which shows output of failed tests only.
    let _ = writeln!(std::io::stderr(), "soak: {words}");
}

/// Waits are longer than leases, so that the probe limit holds even if Redis is emptied. Without
/// Redis: `Local`.
fn policy(index: usize) -> Policy {
    let policy = Policy::builder()
        .sliding_window_time(ms(1000), 10)
        .minimum_number_of_calls(10)
        .permitted_number_of_calls_in_half_open_state(1 + index as u64 % 3)
        .success_threshold(1 + index as u64 % 2)
        .wait_duration_in_open_state(ms(700))
        .probe_lease(ms(500))
        .report_interval(ms(50))
        .decision_ttl(ms(100));
    policy.build().unwrap()
}

/// Waits for a slot in which a service begins to fail; returns how long it will fail.
async fn outage(weather: &Weather) -> Duration {
    let slot_ns = weather.slot_ms * 1_000_000;
    let begins = |slot: u64| {
        let at = |slot: u64| weather.since_ns + slot * slot_ns;
        (0..CIRCUITS).any(|c| weather.is_bad(c, at(slot)) && !weather.is_bad(c, at(slot - 1)))
    };
    let present = (now_ns() - weather.since_ns) / slot_ns;
    let next = (present + 1..present + 4).find(|slot| begins(*slot));
    // At the start of the slot, so that the service fails while Redis is down.
    let at_ns = weather.since_ns + next.unwrap_or(present + 1) * slot_ns;
    tokio::time::sleep(Duration::from_nanos(at_ns.saturating_sub(now_ns()))).await;
    ms(weather.slot_ms)
}

/// Which processes have the same view of all circuits as Redis.
async fn agree(stage: &Stage, names: &[String], fleet: &Fleet) -> [bool; PROCESSES] {
    let mut redis = connect(&stage.server.admin_url()).await;
    let mut there = async || {
        let mut all = Vec::new();
        for name in names {
            all.push(present(&mut redis, name).await.ok()?);
        }
        Some(all)
    };
    let before = there().await;
    let answers = fleet.order_all(|| Order::Look).await;
    let after = there().await;
    let (Some(circuits), Some(after)) = (before, after) else {
        return [false; PROCESSES];
    };
    let agrees = |process: usize| {
        let answer: &Answer = &answers[process];
        let seen = answer
            .views
            .iter()
            .map(|view| (view.generation, view.state));
        !answer.away && circuits == after && seen.eq(circuits.iter().copied())
    };
    std::array::from_fn(agrees)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_under_traffic_survives_a_redis_that_fails_in_every_way() {
    let seconds = number("COMMONTRIP_TEST_SOAK_SECONDS", 10);
    let seed = number("COMMONTRIP_TEST_SEED", fastrand::u64(..));
    say(&format!("{seconds} s, COMMONTRIP_TEST_SEED={seed}"));
    let stage = Stage::set().await;
    let circuits: Vec<_> = (0..CIRCUITS)
        .map(|i| (support::unique("soak"), policy(i)))
        .collect();
    let names: Vec<_> = circuits.iter().map(|(name, _)| name.clone()).collect();
    let since_ns = now_ns();
    let weather = Weather {
        seed,
        since_ns,
        until_ns: since_ns + seconds * 1_000_000_000,
        slot_ms: SLOT_MS,
        bad: 35,
        failures: 2,
    };
    let setup = Setup {
        redis: stage.url(),
        registries: 1,
        circuits: circuits.clone(),
        load: Some(Load {
            store_timeout_ms: STORE_TIMEOUT_MS,
            workers: 2,
            pause_ms: 20,
            dropped: 3,
            detail: false,
            tick_ms: 250,
            weather,
        }),
        ..Setup::default()
    };
    let witness = Witness::new(&stage.server.admin_url(), names.clone());
    let fleet = Fleet::start(setup, PROCESSES).await;
    fleet.serve(0).await;

    let mut verdict = Verdict::default();
    let mut schedule = Schedule::new(seed);
    let mut survived = BTreeMap::<Fault, u64>::new();
    let seen = Mutex::new(BTreeMap::<Fault, BTreeSet<String>>::new());
    let mut agreed_after = Vec::new();
    while now_ns() < weather.until_ns {
        let mut planned = schedule.next();
        tokio::time::sleep(planned.pause).await;
        if planned.fault == Fault::GoneInAnOutage {
            planned.lasts = outage(&weather).await;
        }
        let look = async {
            let answers = fleet.order_all(|| Order::Look).await;
            let away = answers.into_iter().filter(|answer| answer.away);
            let errors = away.filter_map(|answer| answer.last_error);
            seen.lock().entry(planned.fault).or_default().extend(errors);
        };
        verdict.emptied.extend(stage.suffer(planned, look).await);
        let over = Instant::now();
        // Each process may agree at its own moment, because on a busy machine one exceeds its 100
        // ms now and then.
        let mut agreed = [false; PROCESSES];
        while over.elapsed() < PATIENCE && agreed.contains(&false) {
            let now = agree(&stage, &names, &fleet).await;
            agreed = std::array::from_fn(|process| agreed[process] || now[process]);
            tokio::time::sleep(ms(20)).await;
        }
        let took = over.elapsed();
        agreed_after.push(took.as_millis() as u64);
        verdict.expect(took < AGREEMENT, || {
            format!("no agreement within {AGREEMENT:?} after {planned:?}: {took:?}")
        });
        *survived.entry(planned.fault).or_default() += 1;
    }

    // The services are healthy from now on.
    let mut redis = connect(&stage.server.admin_url()).await;
    let over = Instant::now();
    let mut closed = false;
    while over.elapsed() < PATIENCE && !closed {
        closed = true;
        for name in &names {
            let state = present(&mut redis, name).await.map(|(_, state)| state);
            closed &= state.ok() == Some(State::Closed);
        }
        closed = closed && !agree(&stage, &names, &fleet).await.contains(&false);
        tokio::time::sleep(ms(20)).await;
    }
    verdict.expect(closed, || "a circuit never closed again".to_owned());
    let answers = fleet.stop().await;
    for name in &names {
        verdict.counted.push(counted(&mut redis, name).await);
    }
    let events = witness.end().await;
    let lives = fleet.lives();
    let summary = verdict.judge(&circuits, events, &lives);

    let total: u64 = survived.values().sum();
    say(&format!("{total} faults: {survived:?}"));
    for (fault, words) in seen.into_inner() {
        let words: Vec<_> = words
            .iter()
            .map(|w| w.chars().take(110).collect::<String>())
            .collect();
        say(&format!("  {fault:?}: {words:?}"));
    }
    say(&format!(
        "agreement after a fault: {}",
        percentiles(agreed_after)
    ));
    let away: u64 = answers.iter().map(|answer| answer.times_unavailable).sum();
    say(&format!(
        "Redis unavailable {away} times over {PROCESSES} processes; {summary}"
    ));
    say(&format!("violations: {}", verdict.wrong.len()));
    let few = &verdict.wrong[..verdict.wrong.len().min(20)];
    assert!(few.is_empty(), "seed {seed}: {few:#?}");
}
