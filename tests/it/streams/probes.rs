//! Streams that are probes of a half-open circuit, on both stores.

use std::time::Duration;

use commontrip::{CircuitBreaker, Commontrip, Policy, State};
use futures_util::StreamExt;
use tokio::time::sleep;

use super::{Broken, Item, Options, ms, timed};
use crate::support::{unique, unique_prefix};
use crate::upstream::replica;
use crate::wait::until;

const LEASE: Duration = Duration::from_millis(600);

/// Opens at the first failure; one probe at a time, and this many successes close.
fn policy(successes: u64) -> Policy {
    Policy::builder()
        .no_failure_rate_threshold()
        .consecutive_failures_threshold(1)
        .wait_duration_in_open_state(ms(50))
        .permitted_number_of_calls_in_half_open_state(1)
        .success_threshold(successes)
        .probe_lease(LEASE)
        .report_interval(ms(20))
        .build()
        .unwrap()
}

fn on_both_stores() -> [Commontrip; 2] {
    let embedded = Commontrip::embedded().unwrap();
    [embedded, replica(&unique_prefix("streams"))]
}

/// A circuit that a failure has opened, and that permits probes.
async fn probed(circuits: &Commontrip, policy: Policy) -> CircuitBreaker {
    let breaker = circuits.circuit(&unique("model"), policy).unwrap();
    breaker.acquire().await.unwrap().failure();
    until("open", async || breaker.state() != State::Closed).await;
    sleep(ms(60)).await;
    breaker
}

async fn stream(
    breaker: &CircuitBreaker,
    items: impl IntoIterator<Item = (u64, Item)>,
) -> commontrip::stream::GuardedStream<super::Items> {
    let items = timed(items);
    let open = || async { Ok::<_, Broken>(items) };
    breaker.stream(&Options::new(), open).await.unwrap()
}

/// Successes and failures in the window, and in the lifetime totals.
async fn counted(circuits: &Commontrip, breaker: &CircuitBreaker) -> [(u64, u64); 2] {
    circuits.flush().await;
    let now = breaker.snapshot().await.unwrap();
    let window = (now.calls - now.failures, now.failures);
    [window, (now.successes_total, now.failures_total)]
}

#[tokio::test]
async fn a_healthy_stream_of_two_leases_closes_the_circuit_by_its_first_item_and_counts_once() {
    for circuits in on_both_stores() {
        let breaker = probed(&circuits, policy(1)).await;
        // Twice the lease.
        let mut items = stream(&breaker, (0..12).map(|_| (100, Ok("a")))).await;
        assert_eq!(breaker.snapshot().await.unwrap().probes, 1);
        items.next().await.unwrap().unwrap();
        until("closed", async || breaker.state() == State::Closed).await;
        let now = breaker.snapshot().await.unwrap();
        assert_eq!((now.probes, now.probe_successes, now.generation), (0, 0, 3));
        assert_eq!(counted(&circuits, &breaker).await, [(0, 0), (0, 1)]);
        while let Some(item) = items.next().await {
            item.unwrap();
        }
        assert_eq!(counted(&circuits, &breaker).await, [(1, 0), (1, 1)]);
        assert_eq!(
            breaker.snapshot().await.unwrap().generation,
            3,
            "no more happened"
        );
        let stats = circuits.stats().remove(0);
        assert_eq!((stats.successes, stats.probes.successes), (1, 1));
    }
}

#[tokio::test]
async fn the_slot_of_a_stream_that_goes_on_is_free_for_the_next_probe() {
    for circuits in on_both_stores() {
        let breaker = probed(&circuits, policy(2)).await;
        let mut first = stream(&breaker, (0..6).map(|_| (50, Ok("a")))).await;
        assert!(breaker.acquire().await.is_err(), "one at a time");
        first.next().await.unwrap().unwrap();
        until("a free slot", async || {
            breaker.snapshot().await.unwrap().probes == 0
        })
        .await;
        assert_eq!(
            breaker.state(),
            State::HalfOpen,
            "one success more is wanted"
        );
        sleep(ms(50)).await;
        let mut second = stream(&breaker, (0..3).map(|_| (50, Ok("a")))).await;
        second.next().await.unwrap().unwrap();
        until("closed", async || breaker.state() == State::Closed).await;
        while first.next().await.is_some() {}
        while second.next().await.is_some() {}
        assert_eq!(counted(&circuits, &breaker).await, [(2, 0), (2, 1)]);
    }
}

#[tokio::test]
async fn a_stream_that_closed_the_circuit_and_then_breaks_off_opens_it_again() {
    for circuits in on_both_stores() {
        let breaker = probed(&circuits, policy(1)).await;
        let mut items = stream(&breaker, [(0, Ok("a")), (50, Err(Broken))]).await;
        items.next().await.unwrap().unwrap();
        until("closed", async || breaker.state() == State::Closed).await;
        items.next().await.unwrap().unwrap_err();
        until("open", async || {
            circuits.flush().await;
            breaker.snapshot().await.unwrap().consecutive_opens == 2
        })
        .await;
    }
}

#[tokio::test]
async fn how_a_stream_ends_under_another_generation_is_only_in_the_totals() {
    for circuits in on_both_stores() {
        let breaker = probed(&circuits, policy(1)).await;
        let mut items = stream(&breaker, [(0, Ok("a")), (0, Err(Broken))]).await;
        items.next().await.unwrap().unwrap();
        until("closed", async || breaker.state() == State::Closed).await;
        breaker.reset().await.unwrap();
        items.next().await.unwrap().unwrap_err();
        assert_eq!(counted(&circuits, &breaker).await, [(0, 0), (0, 2)]);
        assert_eq!(breaker.state(), State::Closed);
    }
}

#[tokio::test]
async fn a_stream_that_ends_while_the_circuit_is_half_open_is_only_in_the_totals() {
    for circuits in on_both_stores() {
        let breaker = probed(&circuits, policy(2)).await;
        let mut items = stream(&breaker, [(0, Ok("a")), (0, Err(Broken))]).await;
        items.next().await.unwrap().unwrap();
        items.next().await.unwrap().unwrap_err();
        assert_eq!(counted(&circuits, &breaker).await[1], (0, 2));
        let now = breaker.snapshot().await.unwrap();
        assert_eq!((now.state, now.probe_successes), (State::HalfOpen, 1));
    }
}

#[tokio::test]
async fn a_probe_whose_stream_fails_before_its_first_item_has_failed() {
    for circuits in on_both_stores() {
        let breaker = probed(&circuits, policy(1)).await;
        let mut items = stream(&breaker, [(0, Err(Broken))]).await;
        items.next().await.unwrap().unwrap_err();
        until("open again", async || {
            circuits.flush().await;
            breaker.snapshot().await.unwrap().consecutive_opens == 2
        })
        .await;
        assert_eq!(circuits.stats().remove(0).probes.failures, 1);
    }
}

#[cfg(feature = "test-util")]
#[tokio::test]
async fn without_the_store_a_stream_closes_the_replicas_own_circuit_and_counts_there() {
    use commontrip::MemoryStore;
    use commontrip::test_util::{Fault, FaultyStore};

    let store = FaultyStore::new(MemoryStore::default());
    let circuits = Commontrip::builder().store(store.clone()).build().unwrap();
    let breaker = circuits.circuit("model", policy(1)).unwrap();
    breaker.acquire().await.unwrap().success();
    circuits.flush().await;
    store.inject(Fault::unavailable());
    breaker.acquire().await.unwrap().success();
    until("unavailable", async || {
        circuits.health().unavailable_for.is_some()
    })
    .await;
    breaker.acquire().await.unwrap().failure();
    until("open", async || breaker.state() != State::Closed).await;
    sleep(ms(60)).await;
    let mut items = stream(&breaker, (0..12).map(|_| (100, Ok("a")))).await;
    items.next().await.unwrap().unwrap();
    until("closed", async || breaker.state() == State::Closed).await;
    while let Some(item) = items.next().await {
        item.unwrap();
    }
    until("counted", async || breaker.cached().calls == 1).await;
    let now = breaker.cached();
    assert_eq!((now.state, now.failures), (State::Closed, 0));
    assert!(circuits.health().unavailable_for.is_some());
    store.heal();
}
