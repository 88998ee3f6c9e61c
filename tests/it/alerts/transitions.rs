//! Alerts about transitions: none is missed, however short, and each is tried until it is delivered
//! or abandoned.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use commontrip::alerts::{Alert, Alerts, Webhook};
use commontrip::model::{Claim, Claimed, Head};
use commontrip::store::{Answer, MemoryStore, Store};
use commontrip::{CircuitBreaker, Commontrip, Name, Override, Snapshot, State};
use tokio::sync::Notify;

use super::{HOUR, Inbox, a_while, policy, replica, some_fail, trip};
use crate::support::{unique, unique_prefix};
use crate::wait::until;

/// An alert for each opening.
fn each_opening() -> Alert {
    Alert::opened().cooldown(Duration::ZERO)
}

async fn open_for(circuits: &Commontrip, breaker: &CircuitBreaker, time: Duration) {
    trip(circuits, breaker).await;
    tokio::time::sleep(time).await;
    breaker.reset().await.unwrap();
    until("closed", async || breaker.state() == State::Closed).await;
}

#[tokio::test]
async fn openings_that_are_shorter_than_a_look_are_sent_too() {
    let (prefix, circuit) = (unique_prefix("alerts"), unique("payments"));
    let inbox = Inbox::default();
    let fleet: Vec<_> = (0..3).map(|_| replica(&prefix, &circuit)).collect();
    let start = |circuits| {
        let alerts = Alerts::to(inbox.clone()).on(each_opening()).resolved(true);
        alerts.start(circuits)
    };
    let _watching: Vec<_> = fleet.iter().map(|(circuits, _)| start(circuits)).collect();
    let (circuits, breaker) = &fleet[0];
    breaker.call(async || Ok::<_, ()>(())).await.unwrap();
    // Alerts start with the first state they learn of a circuit.
    a_while().await;
    for _ in 0..6 {
        open_for(circuits, breaker, Duration::from_millis(10)).await;
    }
    until("all are sent", async || inbox.rules().len() >= 12).await;
    a_while().await;
    let keys = inbox.keys();
    assert_eq!(keys.len(), 12, "{keys:?}");
    for (n, pair) in keys.chunks(2).enumerate() {
        // Each opening is one generation, and so is each closing.
        let key = format!("{prefix}/{circuit}/opened/{}", 2 * n + 1);
        assert_eq!(pair, [("trigger", key.clone()), ("resolve", key)]);
    }
    let first = inbox.delivered.lock()[0].clone();
    assert!(first.text.contains("opened: tripped"), "{}", first.text);
    assert_eq!((first.state, first.generation), (Some(State::Open), 1));
}

#[tokio::test]
async fn an_alert_is_tried_until_it_is_taken_though_the_circuit_has_closed() {
    let (prefix, circuit) = (unique_prefix("alerts"), unique("payments"));
    let inbox = Inbox::default();
    inbox.broken.store(true, Ordering::SeqCst);
    let fleet: Vec<_> = (0..3).map(|_| replica(&prefix, &circuit)).collect();
    let start = |circuits| Alerts::to(inbox.clone()).on(each_opening()).start(circuits);
    let _watching: Vec<_> = fleet.iter().map(|(circuits, _)| start(circuits)).collect();
    let (circuits, breaker) = &fleet[0];
    trip(circuits, breaker).await;
    until("it is tried", async || *inbox.tries.lock() > 0).await;
    breaker.reset().await.unwrap();
    until("it is tried again", async || *inbox.tries.lock() > 2).await;
    assert_eq!(inbox.rules(), Vec::<&str>::new());
    inbox.broken.store(false, Ordering::SeqCst);
    until("it is sent", async || inbox.rules() == ["opened"]).await;
    a_while().await;
    assert_eq!(inbox.rules(), ["opened"], "once");
}

#[tokio::test]
async fn a_webhook_that_fails_for_longer_than_it_is_tried_at_once_gets_the_alert() {
    let (url, received) = super::receiver(&["500 Internal Server Error"; 7]);
    let (prefix, circuit) = (unique_prefix("alerts"), unique("payments"));
    let fleet: Vec<_> = (0..3).map(|_| replica(&prefix, &circuit)).collect();
    let start = |circuits| {
        let alerts = Alerts::to(Webhook::new(&url).unwrap());
        alerts.on(each_opening()).start(circuits)
    };
    let _watching: Vec<_> = fleet.iter().map(|(circuits, _)| start(circuits)).collect();
    let (circuits, breaker) = &fleet[0];
    trip(circuits, breaker).await;
    until("it is tried", async || !received.lock().is_empty()).await;
    breaker.reset().await.unwrap();
    // Five tries at once, and some more after a pause.
    until("it is taken", async || received.lock().len() == 8).await;
    a_while().await;
    let received = received.lock();
    assert_eq!(received.len(), 8, "once");
    for (head, body) in received.iter() {
        let key = format!("{prefix}/{circuit}/opened/1");
        assert!(
            head.contains(&format!("idempotency-key: {key}\r")),
            "{head}"
        );
        assert!(body.contains(&format!("\"dedup_key\":\"{key}\"")), "{body}");
    }
}

#[tokio::test]
async fn what_is_given_up_is_said_with_its_causes_and_without_secrets() {
    use commontrip::alerts::{Delivery, Notification, Sink};

    #[derive(Debug, thiserror::Error)]
    #[error("cannot post to https://ana:pw@hooks.example.com/services/T0/xyz?key=1")]
    struct Outer(#[source] std::io::Error);

    struct Broken;

    impl Sink for Broken {
        fn send<'a>(&'a self, _: &'a Notification) -> Delivery<'a> {
            let error = Outer(std::io::Error::other("the cable is out"));
            Box::pin(async move { Err(error.into()) })
        }
    }

    let (log, _guard) = crate::traces::listen();
    let (circuits, breaker) = replica(&unique_prefix("alerts"), &unique("payments"));
    let alerts = Alerts::to(Broken).on(each_opening());
    let _alerts = alerts
        .give_up_after(Duration::from_secs(3))
        .start(&circuits);
    trip(&circuits, &breaker).await;
    let last = "an alert was not delivered, and is given up";
    until("it is given up", async || !log.of(last).is_empty()).await;
    for (message, level) in [("an alert was not delivered yet", "WARN"), (last, "ERROR")] {
        let line = log.of(message).remove(0);
        assert_eq!(line.get("level"), level);
        let error = line.get("error");
        assert!(error.contains("hooks.example.com"), "{error}");
        assert!(error.contains("the cable is out"), "{error}");
        for secret in ["pw@", "xyz", "key=1"] {
            assert!(!error.contains(secret), "{error}");
        }
    }
}

#[tokio::test]
async fn a_cooldown_swallows_no_end_and_an_opening_that_outlasts_it_is_sent() {
    let (circuits, breaker) = replica(&unique_prefix("alerts"), &unique("payments"));
    let inbox = Inbox::default();
    let rule = Alert::opened().cooldown(Duration::from_secs(8));
    let alerts = Alerts::to(inbox.clone()).on(rule).resolved(true);
    let _alerts = alerts.start(&circuits);
    trip(&circuits, &breaker).await;
    let actions = || -> Vec<_> { inbox.keys().into_iter().map(|(action, _)| action).collect() };
    until("sent", async || actions() == ["trigger"]).await;
    breaker.reset().await.unwrap();
    until("its end, too", async || actions() == ["trigger", "resolve"]).await;
    // It closes before the end of the cooldown.
    open_for(&circuits, &breaker, Duration::ZERO).await;
    trip(&circuits, &breaker).await;
    until("the one that lasts", async || actions().len() == 3).await;
    let keys = inbox.keys();
    assert!(keys[2].1.ends_with("/opened/5"), "{keys:?}");
}

#[tokio::test]
async fn the_end_of_each_rule_is_sent_under_its_key() {
    let (circuits, breaker) = replica(&unique_prefix("alerts"), &unique("payments"));
    let inbox = Inbox::default();
    let alerts = Alerts::to(inbox.clone())
        .on(Alert::failure_rate(20).cooldown(HOUR))
        .on(Alert::open_for(Duration::from_secs(1)).cooldown(HOUR))
        .on(Alert::flapping(3, Duration::from_secs(4)).cooldown(HOUR))
        .resolved(true);
    let _alerts = alerts.start(&circuits);
    let of = |rule: &str| -> Vec<(&str, String)> {
        let sent = inbox.delivered.lock();
        let of = sent.iter().filter(|n| n.rule == rule);
        of.map(|n| (n.action.as_str(), n.dedup_key.clone()))
            .collect()
    };
    let is_over = |sent: &[(&str, String)]| match sent {
        [(first, key), (second, same)] => {
            assert_eq!((*first, *second, key), ("trigger", "resolve", same));
            true
        }
        _ => false,
    };
    some_fail(&circuits, &breaker).await;
    until("the rate", async || of("failure_rate").len() == 1).await;
    trip(&circuits, &breaker).await;
    until("the rate is over", async || is_over(&of("failure_rate"))).await;
    until("open long", async || of("open_for").len() == 1).await;
    breaker.reset().await.unwrap();
    until("open no longer", async || is_over(&of("open_for"))).await;
    for _ in 0..3 {
        breaker
            .force_open(Override::because("drill"))
            .await
            .unwrap();
        breaker.reset().await.unwrap();
    }
    until("it has flapped", async || is_over(&of("flapping"))).await;
}

/// A store whose answers to pollers are late: they show the state at the time of the request.
#[derive(Debug)]
struct Late {
    inner: MemoryStore,
    asked: Arc<AtomicBool>,
    answers: Arc<Notify>,
}

impl Store for Late {
    crate::delegate::to_inner! { acquire report release control events circuits ping listen }

    fn snapshot<'a>(&'a self, circuit: &'a Name, head: &'a Head) -> Answer<'a, Snapshot> {
        let answer = self.inner.snapshot(circuit, head);
        Box::pin(async move {
            let answer = answer.await;
            if head.is_operator && !self.asked.swap(true, Ordering::SeqCst) {
                self.answers.notified().await;
            }
            answer
        })
    }

    fn claim<'a>(&'a self, circuit: &'a Name, claim: &'a Claim) -> Answer<'a, Claimed> {
        self.inner.claim(circuit, claim)
    }
}

#[tokio::test]
async fn what_happens_while_a_replica_looks_is_sent_at_once() {
    let (asked, answers) = (Arc::<AtomicBool>::default(), Arc::<Notify>::default());
    let store = Late {
        inner: MemoryStore::default(),
        asked: Arc::clone(&asked),
        answers: Arc::clone(&answers),
    };
    let circuits = Commontrip::builder().store(store).build().unwrap();
    let breaker = circuits.circuit("payments", policy()).unwrap();
    let inbox = Inbox::default();
    let _alerts = Alerts::to(inbox.clone())
        .on(each_opening())
        .start(&circuits);
    until("it looks", async || asked.load(Ordering::SeqCst)).await;
    // By the store's clock the opening is later than the state that was read.
    tokio::time::sleep(Duration::from_millis(20)).await;
    trip(&circuits, &breaker).await;
    answers.notify_one();
    let before = Instant::now();
    until("it is sent", async || inbox.rules() == ["opened"]).await;
    // Sooner than the next poll without news.
    assert!(before.elapsed() < Duration::from_secs(25));
}
