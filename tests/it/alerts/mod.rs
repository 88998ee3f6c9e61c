//! Alerts: one for the fleet, another sender when one dies, a failing receiver, and no more alerts
//! than requested. Hooks: each replica, each transition, once, in order.

#[cfg(feature = "health")]
mod checks;
mod claims;
mod formats;
mod keys;
mod openings;
mod processes;
mod transitions;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use commontrip::alerts::{Alert, Alerts, Delivery, Notification, Sink, Webhook};
use commontrip::store::MemoryStore;
use commontrip::test_util::{Fault, FaultyStore};
use commontrip::{CircuitBreaker, Commontrip, OnStoreFailure, Outcome, Override, Policy, State};
use parking_lot::Mutex;

use crate::support::{OwnServer, redis_url, unique, unique_prefix};
use crate::wait::until;

const HOUR: Duration = Duration::from_secs(3600);

/// Deliveries, and whether they fail.
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
    fn keys(&self) -> Vec<(&'static str, String)> {
        let delivered = self.delivered.lock();
        let key = |n: &Notification| (n.action.as_str(), n.dedup_key.clone());
        delivered.iter().map(key).collect()
    }

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
    replica_on(redis_url(), prefix, circuit)
}

fn replica_on(redis: &str, prefix: &str, circuit: &str) -> (Commontrip, CircuitBreaker) {
    let circuits = Commontrip::builder()
        .redis(redis)
        .prefix(prefix)
        .store_timeout(Duration::from_secs(10))
        .build()
        .unwrap();
    let breaker = circuits.circuit(circuit, policy()).unwrap();
    (circuits, breaker)
}

async fn trip(circuits: &Commontrip, breaker: &CircuitBreaker) {
    let permit = breaker.acquire().await.unwrap();
    permit.record(Outcome::trip());
    circuits.flush().await;
    until("open", async || breaker.state() == State::Open).await;
}

/// Makes a hundred calls, 30 % of which fail.
async fn some_fail(circuits: &Commontrip, breaker: &CircuitBreaker) {
    for n in 0..100 {
        let fine = n % 10 > 2;
        let _ = breaker
            .call(async || if fine { Ok(()) } else { Err(()) })
            .await;
    }
    circuits.flush().await;
}

/// Waits for at least two more checks of every watcher, and the requests that follow.
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
    // A later replica finds that it was sent.
    let late = replica(&prefix, &circuit);
    let _late = start(&late.0);
    a_while().await;
    assert_eq!(inbox.rules(), ["opened"]);
    let first = inbox.delivered.lock()[0].clone();
    assert_eq!(first.circuit.as_deref(), Some(&*circuit));
    assert_eq!((first.state, first.generation), (Some(State::Open), 1));
    assert!(first.text.contains("tripped"), "{}", first.text);
    // A new opening is a new alert.
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
            let rule = Alert::store_unavailable(Duration::from_secs(1)).cooldown(HOUR);
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
        inbox.rules() == ["store_unavailable", "store_unavailable"]
    })
    .await;
    let keys = inbox.delivered.lock();
    assert_eq!(keys[0].dedup_key, keys[1].dedup_key);
    assert_ne!(keys[0].replica, keys[1].replica);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_away_is_sent_again_after_the_cooldown_or_ten_seconds() {
    for (cooldown, times) in [(Duration::ZERO, 3), (Duration::from_secs(20), 2)] {
        let store = FaultyStore::new(MemoryStore::default());
        let circuits = Commontrip::builder().store(store.clone()).build().unwrap();
        let breaker = circuits.circuit("payments", policy()).unwrap();
        let inbox = Inbox::default();
        let rule = Alert::store_unavailable(Duration::ZERO).cooldown(cooldown);
        let _alerts = Alerts::to(inbox.clone()).on(rule).start(&circuits);
        let _outage = store.inject(Fault::unavailable());
        let _ = breaker.snapshot().await;
        tokio::time::sleep(Duration::from_secs(25)).await;
        assert_eq!(inbox.rules(), vec!["store_unavailable"; times]);
    }
}

/// Heads and bodies of requests.
type Received = Arc<Mutex<Vec<(String, String)>>>;

/// A receiver of webhooks that gives these answers, then always 200; and the requests it received.
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
    assert!(
        head.contains(&format!("idempotency-key: {prefix}/pay%c3%bc")),
        "{head}"
    );
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
    // A hook starts with the present state, so wait for a transition that both have seen.
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
    // Later circuits get hooks, too, when they are used.
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
