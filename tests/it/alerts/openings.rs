//! Openings that last longer than the store's record, and alerts that end late.

use std::sync::Arc;
use std::time::Duration;

use commontrip::alerts::{Alert, Alerts, Delivery, Notification, Sink};
use commontrip::model::{Claim, ClaimStep};
use commontrip::store::{MemoryStore, Store};
use commontrip::{CircuitBreaker, Commontrip, Name, Outcome, Override, Policy, State};
use parking_lot::Mutex;

use super::{Inbox, a_while, policy, trip};
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

/// Rejects the first resolve messages.
#[derive(Clone, Default)]
struct Late {
    delivered: Arc<Mutex<Vec<(&'static str, u64)>>>,
    rejected: Arc<Mutex<u32>>,
}

impl Sink for Late {
    fn send<'a>(&'a self, notification: &'a Notification) -> Delivery<'a> {
        Box::pin(async move {
            let action = notification.action.as_str();
            let mut rejected = self.rejected.lock();
            if action == "resolve" && *rejected < 2 {
                *rejected += 1;
                return Err("not yet".into());
            }
            self.delivered
                .lock()
                .push((action, notification.generation));
            Ok(())
        })
    }
}

#[tokio::test]
async fn the_end_of_an_alert_that_the_record_lost_is_tried_again_and_delays_no_other() {
    let store = MemoryStore::default();
    let (circuits, breaker) = replica(&store, policy());
    let sink = Late::default();
    let alerts = Alerts::to(sink.clone()).on(each_opening()).resolved(true);
    let _alerts = alerts.start(&circuits);
    breaker
        .force_open(Override::because("drill"))
        .await
        .unwrap();
    breaker.reset().await.unwrap();
    a_while().await;
    let name = Name::new("payments").unwrap();
    for step in [ClaimStep::Trigger, ClaimStep::Triggered] {
        let earlier = Claim::new("opened", 1, step).of("earlier", 0);
        store.claim(&name, &earlier).await.unwrap();
    }
    trip(&circuits, &breaker).await;
    until("both are sent", async || sink.delivered.lock().len() == 2).await;
    assert_eq!(*sink.delivered.lock(), [("trigger", 3), ("resolve", 1)]);
    assert_eq!(breaker.state(), State::Open);
}
