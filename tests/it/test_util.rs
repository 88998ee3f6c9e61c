//! The `test-util` feature: faults act as described, a fleet agrees, and assertions explain
//! differences.

use std::time::{Duration, Instant};

use commontrip::{
    Commontrip, MemoryStore, Name, Outcome, Override, Policy, Reason, State, Store, StoreError,
    assert_transitions,
    model::{Acquire, Head},
    test_util::{Fault, FaultyStore, Fleet, Operation, Step, compare, trip, until_state},
};

use crate::wait::until;

fn name() -> Name {
    Name::new("c").unwrap()
}

async fn generation(store: &MemoryStore) -> u64 {
    let seen = store.snapshot(&name(), &Head::default()).await;
    seen.unwrap().generation
}

/// Trips a circuit of this store through another registry, so that its generation is 1.
async fn tripped() -> (MemoryStore, FaultyStore) {
    let inner = MemoryStore::default();
    let circuits = Commontrip::builder().store(inner.clone()).build().unwrap();
    trip(&circuits.circuit("c", Policy::default()).unwrap()).await;
    circuits.shutdown().await;
    let store = FaultyStore::new(inner.clone());
    (inner, store)
}

fn reset() -> commontrip::model::Control {
    commontrip::model::Control {
        command: commontrip::model::Command::Reset,
        ..Default::default()
    }
}

#[tokio::test]
async fn an_error_carries_nothing_out_and_a_lost_answer_does() {
    let (inner, store) = tripped().await;
    let away = store.inject(Fault::unavailable());
    let error = store.control(&name(), &reset()).await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert_eq!(generation(&inner).await, 1);
    away.end();
    let refused = Fault::fail(StoreError::Refused("no".to_owned()));
    let refused = store.inject(refused.on([Operation::Control]));
    let error = store.control(&name(), &reset()).await.unwrap_err();
    assert_eq!(error.to_string(), "the store refused: no");
    store.ping().await.unwrap();
    assert_eq!((generation(&inner).await, refused.hits()), (1, 1));
    store.heal();
    store.inject(Fault::lose_answer().times(1));
    store.control(&name(), &reset()).await.unwrap_err();
    assert_eq!(generation(&inner).await, 2);
    store.control(&name(), &reset()).await.unwrap();
    assert!(store.has_faults());
}

#[tokio::test]
async fn what_hangs_is_carried_out_later_and_what_is_held_back_at_once() {
    let (inner, store) = tripped().await;
    for (fault, meanwhile) in [(Fault::hang(), 1), (Fault::hold_answer(), 3)] {
        let fault = store.inject(fault.times(1));
        let (client, circuit) = (store.clone(), name());
        let waiting = tokio::spawn(async move { client.control(&circuit, &reset()).await });
        until("it has met the fault", async || fault.hits() == 1).await;
        until("it is carried out as far as it is", async || {
            generation(&inner).await == meanwhile
        })
        .await;
        // The fault applied to one operation; the next one passes.
        store.ping().await.unwrap();
        assert!(!waiting.is_finished());
        fault.end();
        waiting.await.unwrap().unwrap();
    }
    assert_eq!(generation(&inner).await, 3);
    let begun = Instant::now();
    store.inject(Fault::delay(Duration::from_millis(50)));
    store.ping().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(50));
}

#[tokio::test]
async fn faults_that_hang_are_given_up_by_who_does_not_wait() {
    let (_, store) = tripped().await;
    let circuits = Commontrip::builder().store(store.clone());
    let circuits = circuits.store_timeout(Duration::from_millis(20));
    let circuits = circuits.build().unwrap();
    let breaker = circuits.circuit("new", Policy::default()).unwrap();
    store.inject(Fault::hang());
    breaker.acquire().await.unwrap().success();
    until("it is unavailable", async || {
        circuits.health().unavailable_for.is_some()
    })
    .await;
    store.heal();
    until("it is back", async || {
        circuits.health().unavailable_for.is_none()
    })
    .await;
    circuits.flush().await;
    assert_eq!(breaker.snapshot().await.unwrap().successes_total, 1);
}

#[tokio::test]
async fn a_fleet_agrees_and_a_replica_that_is_cut_off_does_not_hear() {
    let fleet = Fleet::new(3).unwrap();
    let payments = fleet.circuit("payments", Policy::default()).unwrap();
    fleet.settle().await;
    let link = fleet.link(2).unwrap();
    assert!(fleet.link(3).is_none());
    let cut = link.inject(Fault::unavailable());
    let push = |number| fleet.replicas().nth(number).unwrap().health().push;
    until("nothing is pushed to it", async || !push(2)).await;
    trip(&payments[0]).await;
    fleet.settle().await;
    assert_eq!(payments[1].state(), State::Open);
    assert_eq!(payments[2].state(), State::Closed);
    cut.end();
    fleet.settle().await;
    assert_eq!(payments[2].state(), State::Open);

    fleet.advance(Duration::from_secs(29)).await;
    assert!(payments[2].acquire().await.is_err());
    fleet.advance(Duration::from_secs(1)).await;
    let probe = payments[2].acquire().await.unwrap();
    assert!(probe.is_probe());
    probe.failure();
    fleet.settle().await;
    assert_transitions!(
        payments[1],
        [
            Closed => Open(Tripped),
            Open => HalfOpen(WaitElapsed),
            HalfOpen => Open(ProbeFailed),
        ]
    );
    fleet.shutdown().await;
}

#[tokio::test]
async fn what_hangs_in_push_comes_in_order_when_the_fault_ends() {
    let fleet = Fleet::new(2).unwrap();
    let payments = fleet.circuit("payments", Policy::default()).unwrap();
    fleet.settle().await;
    let deaf = Fault::hang().on([Operation::Listen]);
    let deaf = fleet.link(1).unwrap().inject(deaf);
    until("push has met the fault", async || deaf.hits() == 1).await;
    payments[0]
        .force_open(Override::because("one"))
        .await
        .unwrap();
    payments[0].reset().await.unwrap();
    trip(&payments[0]).await;
    assert_eq!(payments[1].cached().generation, 0);
    deaf.end();
    until_state(&payments[1], State::Open).await;
    assert_eq!(payments[1].cached().generation, 3);
}

#[tokio::test]
async fn a_difference_says_what_is_missing_and_what_is_too_much() {
    let fleet = Fleet::new(1).unwrap();
    let payments = &fleet.circuit("payments", Policy::default()).unwrap()[0];
    trip(payments).await;
    payments.reset().await.unwrap();
    use State::{Closed, HalfOpen, Open};
    let tripped = Step::new(Closed, Open, Some(Reason::Tripped));
    compare(payments, &[tripped, Step::new(Open, Closed, None)])
        .await
        .unwrap();
    let begins = "circuit \"payments\" made other transitions (- missing, + not expected):";
    for (expected, said) in [
        (
            vec![tripped, Step::new(Open, HalfOpen, None)],
            "\n    closed -> open (tripped)\n  - open -> half_open\n  + open -> closed (reset)",
        ),
        (
            vec![tripped],
            "\n    closed -> open (tripped)\n  + open -> closed (reset)",
        ),
        (
            vec![Step::new(Closed, Open, Some(Reason::FailureRate))],
            "\n  - closed -> open (failure_rate)\n  + closed -> open (tripped)\n  + open -> closed (reset)",
        ),
    ] {
        let words = compare(payments, &expected).await.unwrap_err();
        assert_eq!(words, format!("{begins}{said}"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_never_comes_is_waited_for_no_longer_than_said() {
    let fleet = Fleet::new(1).unwrap();
    let payments = &fleet.circuit("payments", Policy::default()).unwrap()[0];
    let missing = [Step::new(State::Closed, State::Open, None)];
    let words = compare(payments, &missing).await.unwrap_err();
    assert!(words.ends_with("\n  - closed -> open"), "{words}");
    let waiting = tokio::spawn({
        let payments = payments.clone();
        async move { until_state(&payments, State::Open).await }
    });
    let panicked = waiting.await.unwrap_err().into_panic();
    let words = panicked.downcast_ref::<String>().unwrap();
    assert_eq!(words, "circuit \"payments\" is closed after 30s, not open");
    // Not a transition; it is only counted.
    payments.acquire().await.unwrap().record(Outcome::Ignored);
    assert_transitions!(payments, []);
    let request = Acquire::default();
    fleet.store().acquire(&name(), &request).await.unwrap();
}
