//! Circuits by key: each key has its own circuit, whatever it contains, and the bound holds.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use commontrip::keyed::KeyedCircuits;
use commontrip::{Commontrip, Name, Outcome, Policy, State};
use parking_lot::Mutex;
use proptest::prop_assert;
use proptest::test_runner::TestRunner;
use tokio::sync::Barrier;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::wait::until;

fn keyed(prefix: &str) -> KeyedCircuits {
    let circuits = Commontrip::embedded().unwrap();
    KeyedCircuits::new(&circuits, prefix, |_| Policy::default()).unwrap()
}

#[tokio::test]
async fn a_key_that_is_a_name_already_is_left_as_it_is() {
    let circuits = keyed("host:");
    for key in ["api.example.com:8443", "[::1]:80", "/users/:id", "größe"] {
        assert_eq!(circuits.circuit(key).name(), format!("host:{key}"));
    }
    assert_eq!(circuits.circuit("").name(), "host:");
    let odd = circuits.circuit("/users/{id}\n~50%\u{85}");
    assert_eq!(odd.name(), "host:/users/%7Bid%7D%0A%7E50%25%C2%85");
}

#[tokio::test]
async fn a_long_key_is_cut_and_keeps_a_name_of_its_own() {
    let circuits = keyed("host:");
    let (fits, long) = ("ü".repeat(97), "ü".repeat(98));
    assert_eq!(circuits.circuit(&fits).name(), format!("host:{fits}"));
    let (one, other) = (format!("{long}1"), format!("{long}2"));
    let names = [&long, &one, &other].map(|key| circuits.circuit(key).name().to_owned());
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), 3);
    for name in names {
        assert!(name.starts_with("host:üüü") && name.len() <= 200, "{name}");
    }
    // The hash is plain SHA-1, so every implementation gives the same name.
    let name = circuits.circuit(&"x".repeat(300)).name().to_owned();
    assert!(
        name.ends_with("x~02fd68253071f895718c8d41f7ff665abe1a6290"),
        "{name}"
    );
}

#[tokio::test]
async fn a_prefix_is_a_name_that_leaves_room() {
    let circuits = Commontrip::embedded().unwrap();
    let made = |prefix: &str| KeyedCircuits::new(&circuits, prefix, |_| Policy::default());
    for bad in ["", "a{", "a\n", &"x".repeat(160)] {
        assert!(made(bad).is_err(), "{bad:?}");
    }
    let longest = made(&"x".repeat(159)).unwrap();
    assert_eq!(longest.circuit(&"y".repeat(41)).name().len(), 200);
    assert_eq!(longest.circuit(&"y".repeat(42)).name().len(), 200);
}

#[tokio::test]
async fn every_key_has_a_valid_name_and_no_two_have_the_same() {
    let circuits = keyed("p:").at_most(usize::MAX);
    let named = |key: &str| circuits.circuit(key).name().to_owned();
    let key = "[a{}%~\\x00é\u{85}7B]{0,4}|.{0,90}|[~{é]{150,300}";
    let keys = proptest::collection::hash_set(key, 2..40);
    let held = TestRunner::default().run(&keys, |keys| {
        let mut names = HashSet::from(["p:~others".to_owned()]);
        for key in &keys {
            let name = named(key);
            prop_assert!(Name::new(&name).is_ok());
            prop_assert!(names.insert(name), "{key:?}");
        }
        Ok(())
    });
    held.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn beyond_the_bound_keys_share_one_circuit_also_when_all_come_at_once() {
    let registry = Commontrip::embedded().unwrap();
    let asked = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&asked);
    let circuits = KeyedCircuits::new(&registry, "model:", move |_| {
        counting.fetch_add(1, Ordering::SeqCst);
        Policy::default()
    });
    let circuits = circuits.unwrap().at_most(10);
    let together = Arc::new(Barrier::new(40));
    let tasks = (0..40).map(|task| {
        let (circuits, together) = (circuits.clone(), Arc::clone(&together));
        tokio::spawn(async move {
            together.wait().await;
            let names = (0..50).map(|n| {
                let circuit = circuits.circuit(&format!("{}", (n + task) % 50));
                circuit.name().to_owned()
            });
            names.collect::<HashSet<_>>()
        })
    });
    let mut names = HashSet::new();
    for task in tasks.collect::<Vec<_>>() {
        names.extend(task.await.unwrap());
    }
    assert_eq!(names.len(), 11, "{names:?}");
    assert!(names.contains("model:~others"));
    // Keys within the bound keep their circuits.
    let own = names.iter().find(|name| *name != "model:~others").unwrap();
    let key = own.trim_start_matches("model:");
    assert_eq!(circuits.circuit(key).name(), own);
    // A key beyond the bound does not request a policy.
    let before = asked.load(Ordering::SeqCst);
    assert_eq!(circuits.circuit("new").name(), "model:~others");
    assert_eq!(asked.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn one_keys_failures_are_not_anothers_and_the_others_share_theirs() {
    let circuits = keyed("model:").at_most(2);
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|key| circuits.circuit(key));
    for broken in [&a, &c] {
        broken.acquire().await.unwrap().record(Outcome::trip());
        until("open", async || broken.state() == State::Open).await;
    }
    assert_eq!(b.state(), State::Closed);
    assert_eq!(d.state(), State::Open, "it shares the circuit of c");
}

/// The circuits named in warnings.
#[derive(Clone, Default)]
struct Warned(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Warned {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == tracing::Level::WARN {
            event.record(&mut self.clone());
        }
    }
}

impl Visit for Warned {
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "circuit" {
            self.0.lock().push(value.to_owned());
        }
    }
}

#[tokio::test]
async fn going_beyond_the_bound_is_said_once() {
    let warned = Warned::default();
    let subscriber = tracing_subscriber::registry().with(warned.clone());
    let _logging = tracing::subscriber::set_default(subscriber);
    let circuits = keyed("tenant:").at_most(1);
    let _own = circuits.circuit("a");
    assert_eq!(*warned.0.lock(), Vec::<String>::new());
    for n in 0..5 {
        let _shared = circuits.circuit(&format!("b{n}"));
    }
    assert_eq!(*warned.0.lock(), ["tenant:~others"]);
}
