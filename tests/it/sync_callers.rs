//! Callers that cannot wait: the cached decision applies, no call is rejected because an answer is
//! missing, and prefetched permits are used in time or given back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use commontrip::{
    CircuitBreaker, Commontrip, Name, OnStoreFailure, Outcome, Override, Policy, PolicyBuilder,
    Reason, State, Store,
    model::{Acquire, Grant},
    store::Answer,
};
use tokio::time::sleep;

use crate::{
    delegate::to_inner,
    distant::Distant,
    support::{redis_url, unique},
    wait::until,
};

const MS: Duration = Duration::from_millis(1);

fn distant() -> Distant {
    Distant::default()
}

fn mute() -> Distant {
    Distant {
        mute: true,
        ..Distant::default()
    }
}

fn on(store: impl Store) -> Commontrip {
    Commontrip::builder().store(store).build().unwrap()
}

fn breaker(circuits: &Commontrip, policy: PolicyBuilder) -> CircuitBreaker {
    let policy = policy.build().unwrap();
    circuits.circuit("c", policy).unwrap()
}

/// Half-open at the next request.
fn one_probe() -> PolicyBuilder {
    Policy::builder()
        .wait_duration_in_open_state(50 * MS)
        .permitted_number_of_calls_in_half_open_state(1)
        .success_threshold(1)
}

async fn opened(breaker: &CircuitBreaker) {
    breaker.acquire().await.unwrap().record(Outcome::trip());
    until("open", async || breaker.state() == State::Open).await;
    sleep(60 * MS).await;
}

#[tokio::test]
async fn the_first_calls_of_a_process_are_made_also_where_nothing_is_awaited() {
    let redis = Commontrip::redis(redis_url()).unwrap();
    for circuits in [Commontrip::embedded().unwrap(), on(distant()), redis] {
        let policy = Policy::default();
        let breaker = circuits.circuit(&unique("first"), policy).unwrap();
        // No other task of this runtime runs meanwhile.
        let made = (0..1000).filter(|_| breaker.call_sync(|| Ok::<_, ()>(())).is_ok());
        assert_eq!(made.count(), 1000);
        circuits.flush().await;
        assert_eq!(breaker.snapshot().await.unwrap().calls, 1000);
    }
}

#[tokio::test]
async fn who_must_not_call_without_the_store_is_told_that_it_has_not_answered() {
    let circuits = on(distant());
    let policy = Policy::builder().on_store_failure(OnStoreFailure::Reject);
    let breaker = breaker(&circuits, policy);
    let rejection = breaker.try_acquire().unwrap_err();
    assert_eq!(rejection.reason, Reason::AwaitingStore);
    circuits.flush().await;
    breaker.try_acquire().unwrap().success();
}

#[tokio::test]
async fn a_stale_decision_decides_while_it_is_renewed() {
    for ttl in [0, 10] {
        let circuits = on(mute());
        let breaker = breaker(&circuits, Policy::builder().decision_ttl(ttl * MS));
        for _ in 0..10 {
            breaker.call_sync(|| Ok::<_, ()>(())).unwrap();
            sleep(50 * MS).await;
        }
        breaker.force_open(Override::because("test")).await.unwrap();
        for _ in 0..3 {
            let rejection = breaker.try_acquire().unwrap_err();
            assert_eq!(rejection.state, State::ForcedOpen);
            sleep(50 * MS).await;
        }
    }
}

#[tokio::test]
async fn a_slow_caller_gets_its_probe_the_second_time() {
    let circuits = on(distant());
    let breaker = breaker(&circuits, one_probe());
    opened(&breaker).await;
    let rejection = breaker.call_sync(|| Ok::<_, ()>(())).unwrap_err();
    let rejection = *rejection.rejection().unwrap();
    assert_eq!(
        (rejection.state, rejection.reason),
        (State::Open, Reason::ProbeRequested)
    );
    sleep(1300 * MS).await;
    breaker.call_sync(|| Ok::<_, ()>(())).unwrap();
    until("closed", async || breaker.state() == State::Closed).await;
}

#[tokio::test]
async fn a_store_of_this_process_is_asked_at_once() {
    let circuits = Commontrip::embedded().unwrap();
    let breaker = breaker(&circuits, one_probe());
    breaker.try_acquire().unwrap().record(Outcome::trip());
    assert_eq!(breaker.state(), State::Open);
    std::thread::sleep(60 * MS);
    breaker.call_sync(|| Ok::<_, ()>(())).unwrap();
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test]
async fn a_permit_that_nobody_claims_goes_back_and_is_no_call() {
    let circuits = on(distant());
    let policy = one_probe().probe_lease(400 * MS);
    let breaker = breaker(&circuits, policy);
    opened(&breaker).await;
    assert!(breaker.try_acquire().is_err());
    until("fetched", async || {
        breaker.snapshot().await.unwrap().probes == 1
    })
    .await;
    sleep(250 * MS).await;
    circuits.flush().await;
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!((seen.state, seen.probes), (State::HalfOpen, 0));
    assert_eq!((seen.ignored_total, seen.abandoned_total), (0, 0));
}

#[tokio::test]
async fn a_permit_fetched_ahead_is_good_for_its_generation_only() {
    let circuits = on(distant());
    let breaker = breaker(&circuits, one_probe());
    opened(&breaker).await;
    assert!(breaker.try_acquire().is_err());
    sleep(30 * MS).await;
    breaker.force_open(Override::because("test")).await.unwrap();
    let rejection = breaker.try_acquire().unwrap_err();
    assert_eq!(rejection.state, State::ForcedOpen);
    until("given back", async || {
        breaker.snapshot().await.unwrap().probes == 0
    })
    .await;
}

#[tokio::test]
async fn a_permit_fetched_before_the_circuit_opened_again_is_not_given_out() {
    for store in [distant(), mute()] {
        let (here, there) = (on(store.clone()), on(store));
        let policy = || one_probe().permitted_number_of_calls_in_half_open_state(2);
        let (one, other) = (breaker(&here, policy()), breaker(&there, policy()));
        opened(&one).await;
        assert!(one.try_acquire().is_err());
        // The other replica's decision is stale by then.
        sleep(300 * MS).await;
        let probe = other.acquire().await.unwrap();
        assert!(probe.is_probe());
        // The next wait is a minute.
        other
            .store_policy("wait_duration_in_open_state_ms=60000")
            .await
            .unwrap();
        probe.failure();
        there.flush().await;
        sleep(300 * MS).await;
        let rejection = one.try_acquire().unwrap_err();
        assert_eq!(rejection.state, State::Open);
    }
}

#[test]
fn outside_of_a_runtime_a_blocking_caller_waits_for_the_answer() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (circuits, breaker) = runtime.block_on(async {
        let circuits = on(distant());
        let breaker = breaker(&circuits, one_probe());
        opened(&breaker).await;
        (circuits, breaker)
    });
    // The very first call passes, not only the second.
    breaker.call_blocking(|| Ok::<_, ()>(())).unwrap();
    runtime.block_on(circuits.flush());
    assert_eq!(breaker.state(), State::Closed);
    runtime.block_on(circuits.shutdown());
}

/// A process that is suspended while its request is answered.
#[derive(Clone, Debug)]
struct Sleepy {
    inner: Distant,
    sleeps: Arc<AtomicBool>,
}

impl Store for Sleepy {
    to_inner! { release control snapshot events circuits ping report listen }

    fn acquire<'a>(&'a self, circuit: &'a Name, request: &'a Acquire) -> Answer<'a, Grant> {
        Box::pin(async move {
            let grant = self.inner.acquire(circuit, request).await;
            if self.sleeps.load(SeqCst) {
                std::thread::sleep(200 * MS);
            }
            grant
        })
    }
}

#[tokio::test]
async fn a_permit_whose_answer_took_too_long_is_given_back_and_not_used() {
    let sleeps = Arc::new(AtomicBool::new(false));
    let circuits = on(Sleepy {
        inner: distant(),
        sleeps: Arc::clone(&sleeps),
    });
    let breaker = breaker(&circuits, one_probe());
    opened(&breaker).await;
    sleeps.store(true, SeqCst);
    assert!(breaker.acquire().await.is_err());
    until("given back", async || {
        let seen = breaker.snapshot().await.unwrap();
        (seen.state, seen.probes) == (State::HalfOpen, 0)
    })
    .await;
    sleeps.store(false, SeqCst);
    until("closed", async || {
        let _ = breaker.call(|| async { Ok::<_, ()>(()) }).await;
        breaker.state() == State::Closed
    })
    .await;
}

#[tokio::test]
async fn what_a_late_probe_asks_for_is_asked_of_no_other_generation() {
    for circuits in [
        Commontrip::embedded().unwrap(),
        Commontrip::redis(redis_url()).unwrap(),
    ] {
        let policy = one_probe()
            .permitted_number_of_calls_in_half_open_state(2)
            .wait_duration_in_open_state(150 * MS);
        let name = unique("late");
        let breaker = circuits.circuit(&name, policy.build().unwrap()).unwrap();
        breaker.acquire().await.unwrap().record(Outcome::trip());
        until("open", async || breaker.state() == State::Open).await;
        sleep(160 * MS).await;
        let (first, second) = (
            breaker.acquire().await.unwrap(),
            breaker.acquire().await.unwrap(),
        );
        first.success();
        until("closed", async || breaker.state() == State::Closed).await;
        second.record(Outcome::failure().with_retry_after(Duration::from_secs(5)));
        circuits.flush().await;
        breaker.acquire().await.unwrap().record(Outcome::trip());
        until("open", async || breaker.state() == State::Open).await;
        let seen = breaker.snapshot().await.unwrap();
        assert_eq!(seen.until_ms - seen.since_ms, 150);
    }
}

#[tokio::test]
async fn what_an_unreported_failure_asks_for_ends_with_its_generation() {
    let store = distant();
    let (here, there) = (on(store.clone()), on(store));
    let policy = || one_probe().report_interval(Duration::from_secs(60));
    let (one, other) = (breaker(&here, policy()), breaker(&there, policy()));
    here.flush().await;
    one.acquire().await.unwrap().success();
    one.acquire()
        .await
        .unwrap()
        .record(Outcome::failure().with_retry_after(Duration::from_secs(5)));
    let reset = other.reset().await.unwrap();
    until("heard", async || {
        one.cached().generation == reset.generation
    })
    .await;
    one.acquire().await.unwrap().record(Outcome::trip());
    until("open", async || one.state() == State::Open).await;
    let seen = one.snapshot().await.unwrap();
    assert_eq!(seen.until_ms - seen.since_ms, 50);
}
