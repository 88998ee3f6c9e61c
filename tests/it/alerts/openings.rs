//! Openings that last longer than the store's record.

use std::time::Duration;

use commontrip::alerts::{Alert, Alerts};
use commontrip::store::MemoryStore;
use commontrip::{CircuitBreaker, Commontrip, Outcome, Policy};

use super::{Inbox, a_while, trip};
use crate::wait::until;

/// An alert for each opening.
fn each_opening() -> Alert {
    Alert::opened().cooldown(Duration::ZERO)
}

fn replica(store: &MemoryStore, policy: Policy) -> (Commontrip, CircuitBreaker) {
    let circuits = Commontrip::builder().store(store.clone()).build().unwrap();
    let breaker = circuits.circuit("payments", policy).unwrap();
    (circuits, breaker)
}

fn watched(circuits: &Commontrip, inbox: &Inbox) -> Alerts {
    let alerts = Alerts::to(inbox.clone()).on(each_opening()).resolved(true);
    alerts.start(circuits)
}

/// Opens the circuit, lets this many probes fail, and starts another replica.
async fn outage(probes: u64, closes_before: bool) -> Vec<(&'static str, String)> {
    let store = MemoryStore::default();
    let restless = Policy::builder()
        .wait_duration_in_open_state(Duration::from_millis(1))
        .permitted_number_of_calls_in_half_open_state(1)
        .report_interval(Duration::from_millis(20))
        .build()
        .unwrap();
    let inbox = Inbox::default();
    let (circuits, breaker) = replica(&store, restless.clone());
    let _watching = watched(&circuits, &inbox);
    trip(&circuits, &breaker).await;
    until("the opening is sent", async || inbox.keys().len() == 1).await;
    for _ in 0..probes {
        let mut probe = None;
        until("a probe is permitted", async || {
            probe = breaker.acquire().await.ok();
            probe.is_some()
        })
        .await;
        probe.unwrap().record(Outcome::failure());
        circuits.flush().await;
    }
    assert!(breaker.snapshot().await.unwrap().generation > 2 * probes);
    let closed = async || {
        breaker.reset().await.unwrap();
        until("the end is sent", async || inbox.keys().len() == 2).await;
    };
    if closes_before {
        closed().await;
    }
    let (late, _breaker) = replica(&store, restless);
    let _late = watched(&late, &inbox);
    a_while().await;
    if !closes_before {
        closed().await;
        a_while().await;
    }
    circuits.shutdown().await;
    late.shutdown().await;
    inbox.keys()
}

#[tokio::test]
async fn an_opening_with_more_transitions_than_the_record_keeps_is_sent_once() {
    let opening = || {
        [
            ("trigger", "commontrip/payments/opened/1".to_owned()),
            ("resolve", "commontrip/payments/opened/1".to_owned()),
        ]
    };
    let (lasting, over) = tokio::join!(outage(140, false), outage(140, true));
    assert_eq!(lasting, opening());
    assert_eq!(over, opening(), "the replica starts afterwards");
}
