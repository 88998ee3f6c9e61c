//! Alerts: one for the fleet, another sender when one dies, a receiver that fails, and no more than asked
//! for. And hooks: each replica, each transition, once, in order.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use commontrip::alerts::{Alert, Alerts, Delivery, Notification, Sink, Webhook};
use commontrip::model::{Claim, Claims};
use commontrip::store::{MemoryStore, RedisStore, Store};
use commontrip::{
    CircuitBreaker, Commontrip, Name, OnStoreFailure, Outcome, Override, Policy, State,
};
use parking_lot::Mutex;
use proptest::prelude::*;

use crate::support::{OwnServer, redis_url, unique, unique_prefix};
use crate::wait::until;

const HOUR: Duration = Duration::from_secs(3600);

/// What was delivered, and whether deliveries fail.
#[derive(Clone, Default)]
struct Inbox {
    delivered: Arc<Mutex<Vec<Notification>>>,
    broken: Arc<AtomicBool>,
    tries: Arc<Mutex<u32>>,
}

impl Sink for Inbox {
    fn send<'a>(&'a self, notification: &'a Notification) -> Delivery<'a> {
        *self.tries.lock() += 1;
        let broken = self.broken.load(Ordering::SeqCst);
        if !broken {
            self.delivered.lock().push(notification.clone());
        }
        Box::pin(async move {
            match broken {
                true => Err("nobody takes it".into()),
                false => Ok(()),
            }
        })
    }
}

impl Inbox {
    fn rules(&self) -> Vec<&'static str> {
        self.delivered.lock().iter().map(|n| n.rule).collect()
    }
}

fn policy() -> Policy {
    Policy::builder()
        .sliding_window_time(Duration::from_secs(60), 10)
        .no_consecutive_failures_threshold()
        .wait_duration_in_open_state(HOUR)
        .report_interval(Duration::from_millis(20))
        .on_store_failure(OnStoreFailure::Allow)
        .build()
        .unwrap()
}

fn replica(prefix: &str, circuit: &str) -> (Commontrip, CircuitBreaker) {
    let circuits = Commontrip::builder()
        .redis(redis_url())
        .prefix(prefix)
        .store_timeout(Duration::from_secs(10))
        .build()
        .unwrap();
    let breaker = circuits.circuit(circuit, policy()).unwrap();
    (circuits, breaker)
}

async fn trip(circuits: &Commontrip, breaker: &CircuitBreaker) {
    let permit = breaker.acquire().await.unwrap();
    permit.record(Outcome::Trip { retry_after: None });
    circuits.flush().await;
    until("open", async || breaker.state() == State::Open).await;
}

/// Two more looks of every watcher at least, and the questions that came of them.
async fn a_while() {
    tokio::time::sleep(Duration::from_secs(4)).await;
}

#[tokio::test]
async fn one_replica_of_the_fleet_sends_one_alert_an_opening() {
    let (prefix, circuit) = (unique_prefix("alerts"), unique("payments"));
    let inbox = Inbox::default();
    let rule = || Alert::opened().cooldown(Duration::ZERO);
    let fleet: Vec<_> = (0..5).map(|_| replica(&prefix, &circuit)).collect();
    let start = |circuits| Alerts::to(inbox.clone()).on(rule()).start(circuits);
    let watching: Vec<_> = fleet.iter().map(|(circuits, _)| start(circuits)).collect();
    for (_, breaker) in &fleet {
        breaker.call(async || Ok::<_, ()>(())).await.unwrap();
    }
    trip(&fleet[0].0, &fleet[0].1).await;
    until("sent", async || !inbox.rules().is_empty()).await;
    // Whoever comes later finds that it was sent, too.
    let late = replica(&prefix, &circuit);
    let _late = start(&late.0);
    a_while().await;
    assert_eq!(inbox.rules(), ["opened"]);
    let first = inbox.delivered.lock()[0].clone();
    assert_eq!(first.circuit.as_deref(), Some(&*circuit));
    assert_eq!((first.state, first.generation), (Some(State::Open), 1));
    assert!(first.text.contains("tripped"), "{}", first.text);
    // Another opening is another alert.
    fleet[1].1.reset().await.unwrap();
    until("closed", async || fleet[2].1.state() == State::Closed).await;
    trip(&fleet[2].0, &fleet[2].1).await;
    until("sent again", async || inbox.rules().len() == 2).await;
    a_while().await;
    let keys: Vec<_> = inbox
        .delivered
        .lock()
        .iter()
        .map(|n| n.dedup_key.clone())
        .collect();
    assert_eq!(keys.len(), 2);
    assert_ne!(keys[0], keys[1]);
    drop(watching);
}

#[tokio::test]
async fn a_cooldown_keeps_openings_apart() {
    let (prefix, circuit) = (unique_prefix("alerts"), unique("payments"));
    let inbox = Inbox::default();
    let (circuits, breaker) = replica(&prefix, &circuit);
    let rule = Alert::opened().cooldown(HOUR);
    let _alerts = Alerts::to(inbox.clone()).on(rule).start(&circuits);
    trip(&circuits, &breaker).await;
    until("sent", async || !inbox.rules().is_empty()).await;
    breaker.reset().await.unwrap();
    until("closed", async || breaker.state() == State::Closed).await;
    trip(&circuits, &breaker).await;
    a_while().await;
    assert_eq!(inbox.rules(), ["opened"]);
}

#[tokio::test]
async fn each_rule_alerts_when_it_holds_and_not_before() {
    let (prefix, circuit) = (unique_prefix("alerts"), unique("payments"));
    let inbox = Inbox::default();
    let (circuits, breaker) = replica(&prefix, &circuit);
    let _alerts = Alerts::to(inbox.clone())
        .on(Alert::failure_rate(20).cooldown(HOUR))
        .on(Alert::open_for(Duration::from_secs(2)).cooldown(HOUR))
        .on(Alert::flapping(4, HOUR).cooldown(HOUR))
        .start(&circuits);
    let call = async |ok| {
        let _ = breaker
            .call(async || if ok { Ok(()) } else { Err(()) })
            .await;
    };
    for n in 0..100 {
        call(n % 10 != 0).await;
    }
    circuits.flush().await;
    a_while().await;
    assert_eq!(inbox.rules(), Vec::<&str>::new(), "10% fail");
    for _ in 0..30 {
        call(false).await;
    }
    circuits.flush().await;
    until("the rate", async || inbox.rules() == ["failure_rate"]).await;
    trip(&circuits, &breaker).await;
    until("open long", async || {
        inbox.rules() == ["failure_rate", "open_for"]
    })
    .await;
    breaker.reset().await.unwrap();
    breaker
        .force_open(Override::because("drill"))
        .await
        .unwrap();
    a_while().await;
    assert_eq!(inbox.rules().len(), 2, "three transitions");
    breaker.reset().await.unwrap();
    until("flapping", async || {
        inbox.rules().last() == Some(&"flapping")
    })
    .await;
    assert_eq!(inbox.rules().len(), 3);
}

#[tokio::test]
async fn every_replica_says_that_the_store_is_away_under_one_key() {
    let server = OwnServer::start();
    let inbox = Inbox::default();
    let started: Vec<_> = (0..2)
        .map(|_| {
            let circuits = Commontrip::redis(&server.url()).unwrap();
            let breaker = circuits.circuit("c", policy()).unwrap();
            let rule = Alert::store_away(Duration::from_secs(1)).cooldown(HOUR);
            let alerts = Alerts::to(inbox.clone()).on(rule).start(&circuits);
            (circuits, breaker, alerts)
        })
        .collect();
    for (_, breaker, _) in &started {
        breaker.call(async || Ok::<_, ()>(())).await.unwrap();
    }
    server.kill();
    for (_, breaker, _) in &started {
        let _ = breaker.snapshot().await;
    }
    until("both say it", async || {
        for (_, breaker, _) in &started {
            let _ = breaker.call(async || Ok::<_, ()>(())).await;
        }
        inbox.rules() == ["store_away", "store_away"]
    })
    .await;
    let keys = inbox.delivered.lock();
    assert_eq!(keys[0].dedup_key, keys[1].dedup_key);
    assert_ne!(keys[0].replica, keys[1].replica);
}

/// Heads and bodies.
type Received = Arc<Mutex<Vec<(String, String)>>>;

/// A receiver of webhooks that answers with these, then 200 for ever; what it was sent.
fn receiver(answers: &'static [&'static str]) -> (String, Received) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook?secret=1", listener.local_addr().unwrap());
    let received = Received::default();
    let kept = Arc::clone(&received);
    std::thread::spawn(move || {
        let mut answers = answers.iter();
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut line) = (String::new(), String::new());
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                head.push_str(&std::mem::take(&mut line).to_lowercase());
            }
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|rest| rest.lines().next()?.trim().parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            reader.read_exact(&mut body).unwrap();
            kept.lock().push((head, String::from_utf8(body).unwrap()));
            let answer = answers.next().unwrap_or(&"200 OK");
            let text =
                format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(text.as_bytes());
        }
    });
    (url, received)
}

#[tokio::test]
async fn a_webhook_gets_json_and_is_tried_again_while_it_fails() {
    let (url, received) = receiver(&["503 Service Unavailable", "429 Too Many Requests"]);
    let (prefix, circuit) = (unique_prefix("alerts"), unique("pay\u{fc}ments <b>"));
    let (circuits, breaker) = replica(&prefix, &circuit);
    let hook = Webhook::new(&url).unwrap();
    let hook = hook.header("Authorization", "Bearer x").unwrap();
    assert!(!format!("{hook:?}").contains("secret"));
    let _alerts = Alerts::to(hook).on(Alert::opened()).start(&circuits);
    trip(&circuits, &breaker).await;
    until("taken", async || received.lock().len() == 3).await;
    let received = received.lock();
    let (head, body) = &received[2];
    assert!(head.starts_with("post /hook?secret=1 "), "{head}");
    assert!(head.contains("authorization: bearer x"), "{head}");
    assert!(head.contains("idempotency-key: commontrip/"), "{head}");
    let json: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(json["rule"], "opened");
    assert_eq!(json["circuit"], *circuit);
    assert_eq!(json["state"], "open");
    assert_eq!(received[0].1, *body, "the same each time");
}

#[tokio::test]
async fn a_webhook_that_says_no_is_not_tried_again_and_the_error_keeps_the_secret() {
    let (url, received) = receiver(&["400 Bad Request"]);
    let hook = Webhook::new(&url).unwrap();
    let (circuits, breaker) = replica(&unique_prefix("alerts"), &unique("payments"));
    let inbox = Inbox::default();
    let _alerts = Alerts::to(inbox.clone())
        .on(Alert::opened())
        .start(&circuits);
    trip(&circuits, &breaker).await;
    until("one to send", async || !inbox.rules().is_empty()).await;
    let notification = inbox.delivered.lock()[0].clone();
    let refused = hook.send(&notification).await.unwrap_err().to_string();
    assert!(refused.contains("400"), "{refused}");
    assert_eq!(received.lock().len(), 1);
    for wrong in ["nonsense", "ftp://example.com/x", ""] {
        let error = Webhook::new(wrong).unwrap_err().to_string();
        assert!(error.contains("https://example.com/hook"), "{error}");
    }
}

#[tokio::test]
async fn an_alert_that_was_not_delivered_is_not_held_to_be() {
    let store = MemoryStore::default();
    let name = Name::new("payments").unwrap();
    let (circuits, inbox) = (
        Commontrip::builder().store(store.clone()).build().unwrap(),
        Inbox::default(),
    );
    inbox.broken.store(true, Ordering::SeqCst);
    let breaker = circuits.circuit("payments", policy()).unwrap();
    let _alerts = Alerts::to(inbox.clone())
        .on(Alert::opened())
        .start(&circuits);
    trip(&circuits, &breaker).await;
    until("tried", async || *inbox.tries.lock() > 0).await;
    // Its claim ends by itself, and then anybody may send: here, a minute later.
    let soon = store
        .claim(&name, &Claim::new("opened", 1, 1))
        .await
        .unwrap();
    assert!((1..=60_000).contains(&soon), "{soon}");
    let mut later = Claim::new("opened", 1, 1);
    later.now_ms = store.clock().unix_ms() + 61_000;
    assert_eq!(store.claim(&name, &later).await.unwrap(), 0);
}

fn claims() -> impl Strategy<Value = Vec<Claim>> {
    let claim = (0..40_u64, 0..2_usize, 0..3_u64, 0..30_u64, any::<bool>());
    let claim = claim.prop_map(|(after, rule, episode, for_ms, sent)| {
        let rule = ["opened", "flapping:3:9"][rule];
        let claim = Claim::new(rule, episode, for_ms);
        let mut claim = if sent { claim.sent(for_ms) } else { claim };
        claim.now_ms = after;
        claim
    });
    prop::collection::vec(claim, 1..30)
}

#[test]
fn the_script_claims_as_the_model_does() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let store = runtime.block_on(async {
        let builder = RedisStore::builder().prefix(&unique_prefix("claims"));
        let builder = builder.timeout(Duration::from_secs(20));
        builder.open(redis_url()).unwrap()
    });
    let config = proptest::test_runner::Config {
        cases: 100,
        failure_persistence: None,
        ..Default::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let ran = runner.run(&claims(), |claims| {
        let name = Name::new(&unique("claims")).unwrap();
        let (mut model, mut now) = (Claims::default(), 1_735_689_600_000);
        for mut claim in claims {
            now += claim.now_ms;
            claim.now_ms = now;
            let ours = model.claim(&claim, now);
            let redis = runtime.block_on(store.claim(&name, &claim)).unwrap();
            prop_assert_eq!(redis, ours, "{:?}", claim);
        }
        Ok(())
    });
    ran.unwrap_or_else(|difference| panic!("{difference}"));
}

#[tokio::test]
async fn of_a_crowd_that_claims_at_once_one_sends() {
    let builder = RedisStore::builder().prefix(&unique_prefix("claims"));
    let store = builder.timeout(Duration::from_secs(20));
    let store = store.open(redis_url()).unwrap();
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let store = store.clone();
        crowd.spawn(async move {
            let name = Name::new("payments").unwrap();
            let claim = Claim::new("opened", 7, 60_000);
            store.claim(&name, &claim).await.unwrap()
        });
    }
    let answers = crowd.join_all().await;
    assert_eq!(answers.iter().filter(|wait| **wait == 0).count(), 1);
}

#[tokio::test]
async fn a_hook_sees_each_transition_of_each_circuit_once_in_order_in_every_replica() {
    let (prefix, circuit) = (unique_prefix("hooks"), unique("payments"));
    let hooked = |circuits: &Commontrip| {
        let seen: Arc<Mutex<Vec<(String, u64)>>> = Arc::default();
        let kept = Arc::clone(&seen);
        circuits.on_event(move |name, event| {
            assert!(event.is_transition());
            kept.lock().push((name.to_owned(), event.generation));
        });
        seen
    };
    let (one, breaker) = replica(&prefix, &circuit);
    let (two, _other) = replica(&prefix, &circuit);
    breaker
        .force_open(Override::because("before"))
        .await
        .unwrap();
    let logs = [hooked(&one), hooked(&two)];
    let generations = |log: &Arc<Mutex<Vec<(String, u64)>>>| {
        let log = log.lock();
        let ours = log.iter().filter(|(name, _)| *name == circuit);
        ours.map(|(_, generation)| *generation).collect::<Vec<_>>()
    };
    // Hooks begin where the circuit is when they ask: what both have seen is the mark.
    let mut began = 0;
    until("both have begun", async || {
        began = breaker.reset().await.unwrap().generation;
        tokio::time::sleep(Duration::from_millis(50)).await;
        logs.iter().all(|log| generations(log).contains(&began))
    })
    .await;
    for _ in 0..10 {
        breaker.reset().await.unwrap();
    }
    for log in &logs {
        until("all", async || {
            generations(log).last() == Some(&(began + 10))
        })
        .await;
        let mut after = generations(log);
        after.retain(|generation| *generation > began);
        assert_eq!(after, (began + 1..=began + 10).collect::<Vec<_>>());
    }
    // A circuit that comes later is hooked too, where it is used.
    let later = one.circuit(&unique("later"), policy()).unwrap();
    let of_later = |log: &Arc<Mutex<Vec<(String, u64)>>>| {
        log.lock().iter().any(|(name, _)| name == later.name())
    };
    until("the later one", async || {
        later.reset().await.unwrap();
        of_later(&logs[0])
    })
    .await;
    assert!(!of_later(&logs[1]));
}
