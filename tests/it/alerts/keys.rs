//! One alert has one key, whichever replica sends it, however often, and whatever Redis forgets.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use commontrip::alerts::{Alert, Alerts};
use commontrip::{Commontrip, State};

use super::{HOUR, Inbox, a_while, policy, replica, some_fail, trip};
use crate::support::{OwnServer, unique, unique_prefix};
use crate::wait::until;

#[tokio::test]
async fn an_alert_keeps_its_key_after_redis_was_emptied() {
    let server = OwnServer::start();
    let inbox = Inbox::default();
    let fleet: Vec<_> = (0..3)
        .map(|_| {
            let circuits = Commontrip::redis(&server.url()).unwrap();
            let breaker = circuits.circuit("payments", policy()).unwrap();
            let alerts = Alerts::to(inbox.clone()).on(Alert::opened().cooldown(Duration::ZERO));
            let alerts = alerts.resolved(true).start(&circuits);
            (circuits, breaker, alerts)
        })
        .collect();
    for (_, breaker, _) in &fleet {
        breaker.call(async || Ok::<_, ()>(())).await.unwrap();
    }
    inbox.broken.store(true, Ordering::SeqCst);
    trip(&fleet[0].0, &fleet[0].1).await;
    for (_, breaker, _) in &fleet {
        until("all know", async || breaker.state() == State::Open).await;
    }
    until("it is tried", async || *inbox.tries.lock() > 0).await;
    a_while().await;
    let client = redis::Client::open(server.admin_url()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("FLUSHALL")
        .query_async(&mut admin)
        .await
        .unwrap();
    a_while().await;
    inbox.broken.store(false, Ordering::SeqCst);
    until("it is sent", async || !inbox.rules().is_empty()).await;
    a_while().await;
    fleet[1].1.reset().await.unwrap();
    let ended = || inbox.keys().iter().any(|(action, _)| *action == "resolve");
    until("and its end", async || ended()).await;
    a_while().await;
    let keys: BTreeSet<_> = inbox.keys().into_iter().map(|(_, key)| key).collect();
    let key = "commontrip/payments/opened/1".to_owned();
    assert_eq!(keys, BTreeSet::from([key]));
}

#[tokio::test]
async fn a_replica_that_starts_after_redis_was_emptied_knows_what_was_alerted() {
    let server = OwnServer::start();
    let inbox = Inbox::default();
    let start = || {
        let circuits = Commontrip::redis(&server.url()).unwrap();
        let breaker = circuits.circuit("payments", policy()).unwrap();
        let alerts = Alerts::to(inbox.clone()).on(Alert::opened().cooldown(Duration::ZERO));
        let alerts = alerts.resolved(true).start(&circuits);
        (circuits, breaker, alerts)
    };
    let old = start();
    trip(&old.0, &old.1).await;
    until("it is sent", async || inbox.rules() == ["opened"]).await;
    a_while().await;
    let client = redis::Client::open(server.admin_url()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("FLUSHALL")
        .query_async(&mut admin)
        .await
        .unwrap();
    until("it is adopted", async || {
        let _ = old.1.acquire().await;
        let seen = old.1.snapshot().await;
        seen.is_ok_and(|seen| seen.state == State::Open && seen.generation == 2)
    })
    .await;
    a_while().await;
    let new = start();
    a_while().await;
    drop(old);
    a_while().await;
    new.1.reset().await.unwrap();
    until("its end", async || inbox.rules().len() == 2).await;
    a_while().await;
    let key = "commontrip/payments/opened/1".to_owned();
    assert_eq!(inbox.keys(), [("trigger", key.clone()), ("resolve", key)]);
}

#[tokio::test]
async fn a_condition_that_is_tried_and_told_again_has_one_key() {
    let (prefix, circuit) = (unique_prefix("alerts"), unique("payments"));
    let inbox = Inbox::default();
    inbox.broken.store(true, Ordering::SeqCst);
    let fleet: Vec<_> = (0..3).map(|_| replica(&prefix, &circuit)).collect();
    let start = |circuits| {
        let alerts = Alerts::to(inbox.clone());
        let alerts = alerts.on(Alert::failure_rate(20).cooldown(Duration::ZERO));
        let flapping = Alert::flapping(3, HOUR).cooldown(Duration::ZERO);
        alerts.on(flapping).start(circuits)
    };
    let _watching: Vec<_> = fleet.iter().map(|(circuits, _)| start(circuits)).collect();
    let (circuits, breaker) = &fleet[0];
    for _ in 0..2 {
        trip(circuits, breaker).await;
        breaker.reset().await.unwrap();
        until("closed", async || breaker.state() == State::Closed).await;
    }
    some_fail(circuits, breaker).await;
    until("both are tried", async || *inbox.tries.lock() > 3).await;
    inbox.broken.store(false, Ordering::SeqCst);
    let all = || {
        ["failure_rate", "flapping"]
            .map(|rule| inbox.rules().iter().filter(|sent| **sent == rule).count())
    };
    until("both are told again", async || {
        all().iter().all(|n| *n >= 2)
    })
    .await;
    let keys: BTreeSet<_> = inbox.keys().into_iter().map(|(_, key)| key).collect();
    let expected = [
        format!("{prefix}/{circuit}/failure_rate:20/4"),
        format!("{prefix}/{circuit}/flapping:3:3600000/3"),
    ];
    assert_eq!(keys, BTreeSet::from(expected));
}

#[tokio::test]
async fn circuits_of_one_name_under_two_prefixes_have_two_keys() {
    let circuit = unique("payments");
    let inbox = Inbox::default();
    let fleet: Vec<_> = (0..2)
        .map(|_| {
            let (circuits, breaker) = replica(&unique_prefix("alerts"), &circuit);
            let alerts = Alerts::to(inbox.clone())
                .on(Alert::opened())
                .start(&circuits);
            (circuits, breaker, alerts)
        })
        .collect();
    for (circuits, breaker, _) in &fleet {
        trip(circuits, breaker).await;
    }
    until("both are sent", async || inbox.rules().len() == 2).await;
    let keys = inbox.keys();
    assert_ne!(keys[0].1, keys[1].1);
}
