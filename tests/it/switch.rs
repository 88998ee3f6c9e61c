//! Circuit breaking switched off in one process: its calls pass whatever the circuit says, and only
//! its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use commontrip::{
    CircuitBreaker, Clock, Commontrip, MemoryStore, OnStoreFailure, Outcome, Override, Policy,
    PolicyBuilder, State,
};

use crate::{
    support::{OwnServer, redis_url, unique},
    wait::until,
};

fn patient(url: &str) -> Commontrip {
    let circuits = Commontrip::builder().redis(url);
    let circuits = circuits.store_timeout(Duration::from_secs(10));
    circuits.build().unwrap()
}

fn policy() -> PolicyBuilder {
    Policy::builder()
        .minimum_number_of_calls(4)
        .wait_duration_in_open_state(Duration::from_secs(3600))
        .report_interval(Duration::from_millis(10))
}

fn circuit(circuits: &Commontrip, name: &str, policy: PolicyBuilder) -> CircuitBreaker {
    circuits.circuit(name, policy.build().unwrap()).unwrap()
}

async fn trip(breaker: &CircuitBreaker) {
    breaker.acquire().await.unwrap().record(Outcome::trip());
    until("it is open", async || breaker.state() == State::Open).await;
}

/// Checks that every kind of call passes, and none is a probe.
async fn passes(breaker: &CircuitBreaker) {
    assert!(!breaker.acquire().await.unwrap().is_probe());
    assert!(!breaker.try_acquire().unwrap().is_probe());
    breaker.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
    breaker.call_sync(|| Ok::<_, ()>(())).unwrap();
}

#[tokio::test]
async fn one_process_is_off_and_the_rest_of_the_fleet_is_not() {
    let (off, on) = (patient(redis_url()), patient(redis_url()));
    let name = unique("switch");
    let mine = circuit(&off, &name, policy());
    let theirs = circuit(&on, &name, policy());
    theirs.acquire().await.unwrap().success();
    trip(&mine).await;
    until("both know", async || theirs.state() == State::Open).await;
    assert!(off.health().enabled);
    off.set_enabled(false);
    assert!(!off.health().enabled && on.health().enabled);
    passes(&mine).await;
    assert!(theirs.acquire().await.is_err());
    // The circuit's state and the process' view of it do not change.
    assert_eq!(mine.state(), State::Open);
    // Changes that are pushed meanwhile do not matter: an override, its end, another trip.
    let because = Override::because("a test");
    theirs.force_open(because).await.unwrap();
    until("it is heard", async || mine.state() == State::ForcedOpen).await;
    passes(&mine).await;
    theirs.reset().await.unwrap();
    until("it is heard", async || mine.state() == State::Closed).await;
    passes(&mine).await;
    // Its failures are still recorded, and protect the others.
    for _ in 0..20 {
        mine.acquire().await.unwrap().failure();
    }
    off.flush().await;
    until("both know", async || {
        theirs.state() == State::Open && mine.state() == State::Open
    })
    .await;
    assert!(theirs.acquire().await.is_err());
    passes(&mine).await;
    off.set_enabled(true);
    assert!(mine.acquire().await.is_err());
    assert!(mine.call_sync(|| Ok::<_, ()>(())).is_err());
    off.shutdown().await;
    on.shutdown().await;
}

#[tokio::test]
async fn nothing_is_asked_of_the_store_and_a_new_circuit_is_off_too() {
    let server = OwnServer::start();
    let circuits = patient(&server.url());
    let strict = circuit(&circuits, "strict", policy().decision_ttl(Duration::ZERO));
    strict.acquire().await.unwrap().success();
    circuits.flush().await;
    // A wait for the store ends by its timeout.
    server.pause();
    circuits.set_enabled(false);
    let quick = Duration::from_secs(5);
    let new = circuit(&circuits, "new", policy());
    tokio::time::timeout(quick, async {
        passes(&strict).await;
        passes(&new).await;
    })
    .await
    .expect("nobody waits for the store");
    server.resume();
    circuits.set_enabled(true);
    new.acquire().await.unwrap().success();
    circuits.shutdown().await;
}

#[tokio::test]
async fn while_the_store_is_away_local_circuits_are_off_too() {
    let server = OwnServer::start();
    let circuits = Commontrip::redis(&server.url()).unwrap();
    let rejects = policy().on_store_failure(OnStoreFailure::Reject);
    let rejects = circuit(&circuits, "rejects", rejects);
    let local = circuit(&circuits, "local", policy());
    server.kill();
    until("it is unavailable", async || {
        let _ = local.acquire().await;
        let _ = rejects.acquire().await;
        circuits.health().circuits_unavailable == 2
    })
    .await;
    until("it opens for itself", async || {
        if let Ok(permit) = local.acquire().await {
            permit.failure();
        }
        local.state() == State::Open
    })
    .await;
    assert!(rejects.acquire().await.is_err() && local.acquire().await.is_err());
    circuits.set_enabled(false);
    passes(&rejects).await;
    passes(&local).await;
    circuits.set_enabled(true);
    assert!(rejects.acquire().await.is_err() && local.acquire().await.is_err());
    circuits.set_enabled(false);
    server.restart();
    until("it is back", async || {
        circuits.health().unavailable_for.is_none()
    })
    .await;
    passes(&rejects).await;
    passes(&local).await;
    circuits.shutdown().await;
}

#[tokio::test]
async fn half_open_is_off_and_on_again_and_time_that_passed_has_passed() {
    let clock = Clock::manual();
    let store = MemoryStore::new(clock.clone());
    let circuits = Commontrip::builder().store(store).clock(clock.clone());
    let circuits = circuits.build().unwrap();
    let wait = Duration::from_secs(30);
    let one = policy()
        .wait_duration_in_open_state(wait)
        .permitted_number_of_calls_in_half_open_state(1);
    let breaker = circuit(&circuits, "c", one);
    trip(&breaker).await;
    circuits.set_enabled(false);
    clock.advance(Duration::from_secs(20));
    passes(&breaker).await;
    circuits.set_enabled(true);
    let rejection = breaker.acquire().await.unwrap_err();
    assert_eq!(rejection.retry_after, Some(Duration::from_secs(10)));
    clock.advance(Duration::from_secs(10));
    let probe = breaker.acquire().await.unwrap();
    assert!(probe.is_probe());
    circuits.set_enabled(false);
    passes(&breaker).await;
    circuits.set_enabled(true);
    assert!(breaker.acquire().await.is_err(), "the one probe is out");
    // A probe that was in flight all the time still counts.
    circuits.set_enabled(false);
    probe.failure();
    until("it is open again", async || breaker.state() == State::Open).await;
    passes(&breaker).await;
    circuits.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_begin_while_it_is_off_all_pass_whatever_comes_meanwhile() {
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuit(&circuits, "c", policy());
    trip(&breaker).await;
    circuits.set_enabled(false);
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (breaker, stop) = (breaker.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    breaker.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for _ in 0..200 {
        breaker
            .force_open(Override::because("a test"))
            .await
            .unwrap();
        breaker.reset().await.unwrap();
        // Circuits are created and policies change meanwhile.
        circuits
            .circuit("c", policy().jitter(fastrand::u64(..50)).build().unwrap())
            .unwrap();
        tokio::task::yield_now().await;
    }
    stop.store(true, SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    circuits.shutdown().await;
}

#[tokio::test]
async fn one_circuit_is_off_in_one_process_and_its_others_are_not() {
    let (off, on) = (patient(redis_url()), patient(redis_url()));
    let (name, beside) = (unique("switch"), unique("switch"));
    let mine = circuit(&off, &name, policy());
    let beside = circuit(&off, &beside, policy());
    let theirs = circuit(&on, &name, policy());
    theirs.acquire().await.unwrap().success();
    trip(&mine).await;
    trip(&beside).await;
    until("both know", async || theirs.state() == State::Open).await;
    mine.set_enabled(false);
    assert_eq!(off.health().circuits_off, 1);
    assert!(off.health().enabled && !mine.is_enabled() && beside.is_enabled());
    passes(&mine).await;
    assert!(beside.acquire().await.is_err() && theirs.acquire().await.is_err());
    assert_eq!(mine.state(), State::Open, "it is what it is");
    // With another policy it is still the same circuit.
    passes(&circuit(&off, &name, policy().jitter(3))).await;
    // Its failures are still recorded, and protect the others.
    theirs.reset().await.unwrap();
    until("it is heard", async || mine.state() == State::Closed).await;
    for _ in 0..20 {
        mine.acquire().await.unwrap().failure();
    }
    off.flush().await;
    until("both know", async || {
        theirs.state() == State::Open && mine.state() == State::Open
    })
    .await;
    passes(&mine).await;
    // Both switches must be on.
    off.set_enabled(false);
    mine.set_enabled(true);
    passes(&mine).await;
    assert!(!mine.is_enabled());
    off.set_enabled(true);
    assert!(mine.acquire().await.is_err() && mine.is_enabled());
    assert_eq!(off.health().circuits_off, 0);
    off.shutdown().await;
    on.shutdown().await;
}

#[tokio::test]
async fn a_circuit_that_is_off_and_idle_is_kept() {
    let circuits = Commontrip::builder();
    let circuits = circuits.idle_timeout(Duration::from_millis(40));
    let circuits = circuits.build().unwrap();
    circuit(&circuits, "off", policy()).set_enabled(false);
    circuit(&circuits, "on", policy());
    until("the other is let go", async || circuits.stats().len() == 1).await;
    assert!(!circuit(&circuits, "off", policy()).is_enabled());
    circuits.shutdown().await;
}
