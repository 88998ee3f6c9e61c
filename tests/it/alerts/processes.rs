//! Senders in separate processes: a killed one is replaced, and a suspended one has no effect.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use commontrip::alerts::{Alert, Alerts, Webhook};
use commontrip::{CircuitBreaker, Commontrip};
use parking_lot::Mutex;

use super::{Inbox, replica, replica_on, trip};
use crate::role::{Process, role, until_let_go};
use crate::support::{redis_url, unique_prefix};
use crate::wait::until;

fn watch(circuits: &Commontrip, to: impl commontrip::alerts::Sink) -> Alerts {
    let rule = Alert::opened().cooldown(Duration::ZERO);
    Alerts::to(to).on(rule).start(circuits)
}

/// A replica that sends until it is released; `role` is Redis' URL, the prefix and the receiver's
/// URL.
async fn be_sender(role: &str) {
    let words: Vec<_> = role.split('\n').collect();
    let [redis, prefix, url] = words[..] else {
        panic!("{role}");
    };
    let (circuits, _breaker) = replica_on(redis, prefix, "payments");
    let _alerts = watch(&circuits, Webhook::new(url).unwrap());
    until_let_go().await;
}

/// A receiver that accepts requests and never answers; and their bodies.
fn silent() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let bodies = Arc::<Mutex<Vec<String>>>::default();
    let kept = Arc::clone(&bodies);
    std::thread::spawn(move || {
        let mut held: Vec<TcpStream> = Vec::new();
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut length, mut line) = (0, String::new());
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                let line = std::mem::take(&mut line).to_lowercase();
                if let Some(n) = line.strip_prefix("content-length: ") {
                    length = n.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_ok() {
                kept.lock().push(String::from_utf8(body).unwrap());
            }
            held.push(stream);
        }
    });
    (url, bodies)
}

/// A sender in the middle of a delivery, and a successor that has sent in the meantime.
async fn succeeded(test: &str, signal: &str) -> (Process, Inbox, Arc<Mutex<Vec<String>>>, Kept) {
    let prefix = unique_prefix("alerts");
    let (url, bodies) = silent();
    let sender = Process::start(test, &[redis_url(), &prefix, &url].join("\n"));
    let (circuits, breaker) = replica(&prefix, "payments");
    trip(&circuits, &breaker).await;
    until("it sends", async || !bodies.lock().is_empty()).await;
    sender.signal(signal);
    let inbox = Inbox::default();
    let alerts = watch(&circuits, inbox.clone());
    until("another sends", async || inbox.rules() == ["opened"]).await;
    let first: serde_json::Value = serde_json::from_str(&bodies.lock()[0]).unwrap();
    assert_eq!(first["dedup_key"], *inbox.keys()[0].1);
    (sender, inbox, bodies, (circuits, breaker, alerts))
}

type Kept = (Commontrip, CircuitBreaker, Alerts);

#[tokio::test]
async fn when_a_sender_is_killed_another_goes_on_under_the_same_key() {
    if let Some(role) = role() {
        return be_sender(&role).await;
    }
    let test = "alerts::processes::when_a_sender_is_killed_another_goes_on_under_the_same_key";
    let (_sender, inbox, _bodies, _kept) = succeeded(test, "-KILL").await;
    super::a_while().await;
    assert_eq!(inbox.rules(), ["opened"]);
}

#[tokio::test]
async fn a_sender_that_stood_still_beyond_its_claim_sends_no_more() {
    if let Some(role) = role() {
        return be_sender(&role).await;
    }
    let test = "alerts::processes::a_sender_that_stood_still_beyond_its_claim_sends_no_more";
    let (sender, inbox, bodies, _kept) = succeeded(test, "-STOP").await;
    let before = bodies.lock().len();
    sender.signal("-CONT");
    // Its webhook would have retried by now.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(bodies.lock().len(), before);
    assert_eq!(inbox.rules(), ["opened"]);
}
