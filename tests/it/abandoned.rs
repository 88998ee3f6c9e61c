//! Calls that are dropped before they end. A hanging service opens its circuit whoever gives up
//! first; callers that merely leave open none.

use std::{
    future::pending,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

use commontrip::{
    AbandonedCalls, CircuitBreaker, Clock, Commontrip, MemoryStore, Policy, PolicyBuilder, State,
};
use futures_util::future::{join_all, select};
use tokio::time::{sleep, timeout};

use crate::{
    stores::on_each_store,
    support::{redis_url, unique},
    wait::until,
};

/// Where a fleet's replicas keep their circuits.
enum Place {
    Memory(MemoryStore),
    Redis,
}

fn memory() -> Place {
    Place::Memory(MemoryStore::default())
}

fn redis() -> Place {
    Place::Redis
}

impl Place {
    fn replica(&self) -> Commontrip {
        let builder = Commontrip::builder().store_timeout(Duration::from_secs(5));
        let builder = match self {
            Self::Memory(store) => builder.store(store.clone()),
            Self::Redis => builder.redis(redis_url()),
        };
        builder.build().unwrap()
    }

    /// One circuit in this many replicas that have learned of it.
    async fn fleet(
        &self,
        replicas: usize,
        policy: PolicyBuilder,
    ) -> Vec<(Commontrip, CircuitBreaker)> {
        let (policy, name) = (policy.build().unwrap(), unique("abandoned"));
        let mut fleet = Vec::new();
        for _ in 0..replicas {
            let circuits = self.replica();
            let breaker = circuits.circuit(&name, policy.clone()).unwrap();
            circuits.flush().await;
            fleet.push((circuits, breaker));
        }
        fleet
    }

    async fn one(&self, policy: PolicyBuilder) -> (Commontrip, CircuitBreaker) {
        self.fleet(1, policy).await.pop().unwrap()
    }
}

const MS: Duration = Duration::from_millis(1);

async fn succeed(breaker: &CircuitBreaker, takes: Duration) {
    let call = breaker.call(|| async {
        sleep(takes).await;
        Ok::<_, ()>(())
    });
    call.await.unwrap();
}

/// Makes a call that hangs and gives up after `patience`; returns whether it reached the service.
async fn hang(breaker: &CircuitBreaker, patience: Duration) -> bool {
    let made = AtomicU64::new(0);
    let call = breaker.call(|| {
        made.fetch_add(1, SeqCst);
        pending::<Result<(), ()>>()
    });
    let _ = timeout(patience, call).await;
    made.into_inner() > 0
}

/// Makes sequential calls; returns how many reached the hanging service.
async fn hung_calls(breaker: &CircuitBreaker, calls: u64, patience: Duration) -> u64 {
    let mut made = 0;
    for _ in 0..calls {
        made += u64::from(hang(breaker, patience).await);
    }
    made
}

on_each_store! {
    a_service_that_always_hung_opens_within_the_minimum_of_calls
    a_service_that_begins_to_hang_opens_within_the_minimum_of_calls
    twenty_replicas_that_see_two_hung_calls_each_open_together
    callers_that_wait_hardly_longer_than_usual_open_within_a_window
    a_service_of_which_most_calls_hang_opens
    a_hung_probe_that_was_dropped_is_a_failed_one
    callers_that_leave_at_any_moment_do_not_open
    losers_of_hedged_calls_do_not_open
    a_shutdown_that_drops_all_calls_does_not_open
    one_impatient_client_does_not_open_it_for_the_fleet
    permits_that_are_dropped_on_errors_open
    a_count_window_opens_when_its_last_calls_were_all_abandoned
    a_service_that_is_seldom_called_opens_too
}

async fn a_service_that_always_hung_opens_within_the_minimum_of_calls(place: Place) {
    let (_circuits, breaker) = place.one(Policy::builder()).await;
    let made = hung_calls(&breaker, 60, 20 * MS).await;
    assert!(made <= 21, "{made} calls were made");
    until("open", async || breaker.state() == State::Open).await;
    let seen = breaker.snapshot().await.unwrap();
    // They count as failures in the end.
    assert_eq!((seen.calls, seen.failures, seen.undecided), (20, 20, 0));
    assert_eq!(seen.abandoned_total, made);
}

async fn a_service_that_begins_to_hang_opens_within_the_minimum_of_calls(place: Place) {
    let (_circuits, breaker) = place
        .one(Policy::builder().sliding_window_time(3_600_000 * MS, 10))
        .await;
    for _ in 0..15 {
        succeed(&breaker, 4 * MS).await;
    }
    let made = hung_calls(&breaker, 60, 60 * MS).await;
    assert!((15..=21).contains(&made), "{made} calls were made");
    until("open", async || breaker.state() == State::Open).await;
    assert_eq!(breaker.snapshot().await.unwrap().undecided, 0);
}

async fn twenty_replicas_that_see_two_hung_calls_each_open_together(place: Place) {
    let fleet = place.fleet(20, Policy::builder()).await;
    join_all(
        fleet
            .iter()
            .map(|(_, breaker)| hung_calls(breaker, 2, 50 * MS)),
    )
    .await;
    for (circuits, _) in &fleet {
        circuits.flush().await;
    }
    let breaker = &fleet[0].1;
    until("open", async || {
        breaker.snapshot().await.unwrap().state == State::Open
    })
    .await;
}

async fn callers_that_wait_hardly_longer_than_usual_open_within_a_window(place: Place) {
    let window = Duration::from_secs(1);
    let policy = Policy::builder().sliding_window_time(window, 10);
    let (_circuits, breaker) = place.one(policy).await;
    join_all((0..40).map(|_| succeed(&breaker, 40 * MS))).await;
    let begun = std::time::Instant::now();
    while breaker.state() != State::Open && begun.elapsed() < 5 * window {
        join_all((0..4).map(|_| hang(&breaker, 50 * MS))).await;
    }
    let took = begun.elapsed();
    assert!(took < 2 * window, "it took {took:?}");
}

async fn a_service_of_which_most_calls_hang_opens(place: Place) {
    let (_circuits, breaker) = place.one(Policy::builder()).await;
    let mut calls = 0;
    let opens = async {
        while breaker.state() != State::Open {
            let hung = join_all((0..6).map(|_| hang(&breaker, 200 * MS)));
            let fine = join_all((0..4).map(|_| async {
                let call = breaker.call(|| async {
                    sleep(20 * MS).await;
                    Ok::<_, ()>(())
                });
                call.await.is_ok()
            }));
            let (hung, fine) = futures_util::future::join(hung, fine).await;
            calls += hung.into_iter().chain(fine).filter(|made| *made).count();
            sleep(MS).await;
        }
    };
    timeout(Duration::from_secs(20), opens).await.unwrap();
    assert!(calls <= 40, "{calls} calls were made");
}

async fn a_hung_probe_that_was_dropped_is_a_failed_one(place: Place) {
    let policy = Policy::builder()
        .wait_duration_in_open_state(200 * MS)
        .backoff(10.0, Duration::from_secs(60))
        .permitted_number_of_calls_in_half_open_state(2);
    let (circuits, breaker) = place.one(policy).await;
    for _ in 0..10 {
        succeed(&breaker, 5 * MS).await;
    }
    breaker
        .acquire()
        .await
        .unwrap()
        .record(commontrip::Outcome::trip());
    until("open", async || breaker.state() == State::Open).await;
    let opened = breaker.snapshot().await.unwrap();
    let mut probes = 0;
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        probes += u64::from(hang(&breaker, 30 * MS).await);
        sleep(5 * MS).await;
    }
    circuits.flush().await;
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!(seen.state, State::Open);
    assert_eq!(seen.consecutive_opens, opened.consecutive_opens + 1);
    assert!((1..=2).contains(&probes), "{probes} probes");
    // The wait is ten times as long now.
    assert!(seen.until_ms - seen.since_ms >= 2000);
}

async fn callers_that_leave_at_any_moment_do_not_open(place: Place) {
    let (circuits, breaker) = place.one(Policy::builder()).await;
    for _ in 0..100 {
        let calls = (0..100).map(|n| {
            let breaker = &breaker;
            async move {
                let leaves = match n % 10 {
                    0..3 => MS.mul_f64(fastrand::f64() * 15.0),
                    _ => Duration::from_secs(5),
                };
                timeout(leaves, succeed(breaker, 15 * MS)).await
            }
        });
        join_all(calls).await;
        assert_eq!(breaker.state(), State::Closed);
    }
    circuits.flush().await;
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!((seen.state, seen.generation), (State::Closed, 0));
    assert!(seen.abandoned_total > 1000, "{seen:?}");
}

async fn losers_of_hedged_calls_do_not_open(place: Place) {
    let (circuits, breaker) = place.one(Policy::builder()).await;
    for _ in 0..100 {
        let calls = (0..50).map(|n| {
            let breaker = &breaker;
            async move {
                let first = Box::pin(succeed(breaker, MS * (5 + n % 10)));
                let second = Box::pin(async {
                    sleep(8 * MS).await;
                    succeed(breaker, 10 * MS).await;
                });
                select(first, second).await;
            }
        });
        join_all(calls).await;
    }
    circuits.flush().await;
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!(
        (seen.state, seen.generation),
        (State::Closed, 0),
        "{seen:?}"
    );
}

async fn a_shutdown_that_drops_all_calls_does_not_open(place: Place) {
    let fleet = place.fleet(2, Policy::builder()).await;
    let (circuits, breaker) = &fleet[0];
    join_all((0..50).map(|_| succeed(breaker, 20 * MS))).await;
    let in_flight = join_all((0..500).map(|_| succeed(breaker, 20 * MS)));
    assert!(timeout(10 * MS, in_flight).await.is_err());
    circuits.shutdown().await;
    let seen = fleet[1].1.snapshot().await.unwrap();
    assert_eq!((seen.state, seen.abandoned_total), (State::Closed, 500));
}

async fn one_impatient_client_does_not_open_it_for_the_fleet(place: Place) {
    let fleet = place.fleet(2, Policy::builder()).await;
    let (patient, impatient) = (&fleet[0].1, &fleet[1].1);
    for _ in 0..10 {
        let calls = join_all((0..20).map(|_| succeed(patient, 50 * MS)));
        let given_up = hung_calls(impatient, 10, 5 * MS);
        futures_util::future::join(calls, given_up).await;
    }
    for (circuits, _) in &fleet {
        circuits.flush().await;
    }
    let seen = patient.snapshot().await.unwrap();
    assert_eq!((seen.state, seen.abandoned_total), (State::Closed, 100));
}

async fn permits_that_are_dropped_on_errors_open(place: Place) {
    let (_circuits, breaker) = place
        .one(Policy::builder().minimum_number_of_calls(10))
        .await;
    let call = async || -> Result<(), std::num::ParseIntError> {
        let Ok(permit) = breaker.acquire().await else {
            return Ok(());
        };
        "no number".parse::<u32>()?;
        permit.success();
        Ok(())
    };
    let mut errors = 0;
    for _ in 0..30 {
        errors += u64::from(call().await.is_err());
    }
    assert_eq!(errors, 10);
}

async fn a_count_window_opens_when_its_last_calls_were_all_abandoned(place: Place) {
    let policy = Policy::builder()
        .sliding_window_count(10)
        .abandoned_calls(AbandonedCalls::After(Duration::from_secs(9)));
    let (circuits, breaker) = place.one(policy).await;
    for _ in 0..10 {
        succeed(&breaker, Duration::ZERO).await;
    }
    circuits.flush().await;
    let made = hung_calls(&breaker, 30, 5 * MS).await;
    assert_eq!(made, 10);
}

async fn a_service_that_is_seldom_called_opens_too(place: Place) {
    // The window never holds twenty calls at once.
    let window = Policy::builder().sliding_window_time(100 * MS, 10);
    let (_circuits, breaker) = place.one(window).await;
    let mut made = 0;
    for _ in 0..25 {
        made += u64::from(hang(&breaker, 15 * MS).await);
        sleep(30 * MS).await;
    }
    assert!(made <= 21, "{made} calls were made");
    until("open", async || breaker.state() == State::Open).await;
}

#[tokio::test]
async fn a_setting_says_how_long_a_dropped_call_must_have_run_to_be_a_failure() {
    let ages = [1, 5, 30, 5000];
    for (choice, failures) in [
        (AbandonedCalls::Ignored, [0, 0, 0, 0]),
        (AbandonedCalls::Automatic, [0, 0, 1, 1]),
        (AbandonedCalls::After(Duration::from_secs(5)), [0, 0, 0, 1]),
    ] {
        for (age, expected) in ages.into_iter().zip(failures) {
            let clock = Clock::manual();
            let circuits = Commontrip::builder().clock(clock.clone()).build().unwrap();
            let policy = Policy::builder().abandoned_calls(choice).build().unwrap();
            assert_eq!(policy.abandoned_calls(), choice);
            let breaker = circuits.circuit("c", policy).unwrap();
            let permit = breaker.acquire().await.unwrap();
            clock.advance(10 * MS);
            permit.success();
            let permit = breaker.acquire().await.unwrap();
            clock.advance(MS * age);
            drop(permit);
            circuits.flush().await;
            let seen = breaker.snapshot().await.unwrap();
            assert_eq!(
                (seen.failures, seen.undecided, seen.abandoned_total),
                (expected, 1 - expected, 1),
                "{choice:?} after {age} ms"
            );
            let stats = &circuits.stats()[0];
            assert_eq!((stats.failures, stats.abandoned), (expected, 1));
        }
    }
}

#[tokio::test]
async fn where_the_setting_is_off_dropped_calls_open_nothing() {
    let off = Policy::builder().abandoned_calls(AbandonedCalls::Ignored);
    let (circuits, breaker) = memory().one(off).await;
    assert_eq!(hung_calls(&breaker, 50, 2 * MS).await, 50);
    circuits.flush().await;
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test]
async fn a_probe_that_is_dropped_sooner_than_calls_usually_end_gives_its_place_back() {
    let clock = Clock::manual();
    let circuits = Commontrip::builder().clock(clock.clone()).build().unwrap();
    let breaker = circuits.circuit("c", Policy::default()).unwrap();
    let permit = breaker.acquire().await.unwrap();
    clock.advance(100 * MS);
    permit.success();
    breaker
        .acquire()
        .await
        .unwrap()
        .record(commontrip::Outcome::trip());
    clock.advance(Duration::from_secs(30));
    for (age, state) in [(10, State::HalfOpen), (150, State::Open)] {
        let probe = breaker.acquire().await.unwrap();
        assert!(probe.is_probe());
        clock.advance(MS * age);
        drop(probe);
        circuits.flush().await;
        let seen = breaker.snapshot().await.unwrap();
        assert_eq!((seen.state, seen.probes), (state, 0), "after {age} ms");
    }
}
