//! The logs: one line for each transition in each replica, with its cause, and none for a call.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use commontrip::{CircuitBreaker, Commontrip, Outcome, Override, Permit, Policy, State};
use parking_lot::Mutex;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context, prelude::*};

use crate::{
    support::{self, OwnServer},
    wait::until,
};

/// An event's fields as text.
#[derive(Clone, Debug, Default)]
pub struct Line(BTreeMap<&'static str, String>);

impl Line {
    pub fn get(&self, field: &str) -> &str {
        self.0.get(field).map_or("", String::as_str)
    }

    fn number(&self, field: &str) -> u64 {
        let text = self.get(field);
        text.parse()
            .unwrap_or_else(|_| panic!("{field}={text}: {self:?}"))
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

/// Everything that the crate logs on this thread.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Line>>>);

impl Log {
    pub fn of(&self, message: &str) -> Vec<Line> {
        let lines = self.0.lock();
        let matching = lines.iter().filter(|line| line.get("message") == message);
        matching.cloned().collect()
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with("commontrip") {
            let mut line = Line::default();
            line.0.insert("level", event.metadata().level().to_string());
            event.record(&mut line);
            let about = event.metadata();
            line.0.insert("level", about.level().to_string());
            line.0.insert("target", about.target().to_owned());
            self.0.lock().push(line);
        }
    }
}

/// Tests here run on one thread, including the crate's tasks.
pub fn listen() -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let subscriber = tracing_subscriber::registry().with(log.clone());
    (log, subscriber.set_default())
}

const FLEET: &str = "circuit changed";
const ALONE: &str = "local circuit changed";
const CALLS: usize = 200;

fn policy(wait: Duration) -> Policy {
    let policy = Policy::builder()
        .failure_rate_threshold(10)
        .minimum_number_of_calls(CALLS as u64)
        .wait_duration_in_open_state(wait)
        .success_threshold(1)
        .report_interval(Duration::from_millis(10))
        .decision_ttl(Duration::from_millis(50));
    policy.build().unwrap()
}

/// A timeout that a slow machine does not exceed.
fn patient(url: &str) -> Commontrip {
    let builder = Commontrip::builder().redis(url);
    builder
        .store_timeout(Duration::from_secs(5))
        .build()
        .unwrap()
}

async fn all_are(replicas: &[CircuitBreaker], state: State) {
    until("every replica knows", async || {
        replicas.iter().all(|replica| replica.state() == state)
    })
    .await;
}

#[tokio::test]
async fn each_transition_is_logged_once_by_each_replica_and_no_call_is() {
    let (log, _guard) = listen();
    let name = support::unique("traces");
    let registry = || patient(support::redis_url());
    let registries: Vec<_> = (0..3).map(|_| registry()).collect();
    let wait = Duration::from_secs(2);
    let circuit = |r: &Commontrip| r.circuit(&name, policy(wait)).unwrap();
    let replicas: Vec<_> = registries.iter().map(circuit).collect();
    for breaker in &replicas {
        breaker.acquire().await.unwrap().success();
    }
    until("push is heard", async || {
        registries.iter().all(|r| r.health().push)
    })
    .await;
    let before = log.0.lock().len();
    for n in 0..CALLS {
        let failed = n % 4 == 0;
        let result = if failed { Err(()) } else { Ok(()) };
        let _ = replicas[n % 3].call(|| async { result }).await;
    }
    for registry in &registries {
        registry.flush().await;
    }
    all_are(&replicas, State::Open).await;
    for _ in 0..50 {
        let _ = replicas[0].try_acquire().unwrap_err();
    }
    let mut probe = None;
    until("there is a probe", async || {
        probe = replicas[1].acquire().await.ok();
        probe.is_some()
    })
    .await;
    all_are(&replicas, State::HalfOpen).await;
    probe.unwrap().success();
    all_are(&replicas, State::Closed).await;

    let lines = log.of(FLEET);
    let said: usize = log.0.lock().len() - before;
    let nothing_else = (said, lines.len()) == (9, 9);
    assert!(nothing_else, "{:#?}", log.0.lock());
    let opened = replicas[0].events_after(0).next().await.unwrap();
    let expected = [
        ("1", "closed", "open", "failure_rate"),
        ("2", "open", "half_open", "wait_elapsed"),
        ("3", "half_open", "closed", "recovered"),
    ];
    for registry in &registries {
        let own = |line: &&Line| line.get("replica") == registry.replica();
        let own: Vec<_> = lines.iter().filter(own).collect();
        let seen = |line: &&Line| {
            let word = |field| line.get(field).to_owned();
            (word("generation"), word("from"), word("to"), word("reason"))
        };
        let words = |(g, f, t, r): (&str, &str, &str, &str)| {
            (g.to_owned(), f.to_owned(), t.to_owned(), r.to_owned())
        };
        assert_eq!(
            own.iter().map(seen).collect::<Vec<_>>(),
            expected.map(words),
            "{own:?}"
        );
        let open = own[0];
        assert_eq!(open.get("circuit"), name);
        assert_eq!(
            (open.get("level"), open.get("target")),
            ("WARN", "commontrip::circuit")
        );
        assert_eq!(open.number("since_ms"), opened.at_ms);
        assert_eq!(open.number("until_ms"), opened.until_ms);
        assert!(open.number("left_ms") <= 2000);
        let closed = own[2];
        assert_eq!(closed.get("level"), "INFO");
        assert_eq!((closed.get("until_ms"), closed.get("left_ms")), ("", ""));
        let numbers = ["opens", "calls", "failures", "slow"].map(|field| open.number(field));
        let counted = [opened.calls, opened.failures, opened.slow];
        assert_eq!(numbers, [1, counted[0], counted[1], counted[2]]);
        assert!(counted[0] >= CALLS as u64 && open.number("replicas") == 3);
    }
    for registry in registries {
        registry.shutdown().await;
    }
}

#[tokio::test]
async fn what_a_replica_decides_alone_is_logged_with_the_same_fields() {
    let (log, _guard) = listen();
    let server = OwnServer::start();
    let circuits = patient(&server.url());
    let hour = Duration::from_secs(3600);
    let breaker = circuits.circuit("traces", policy(hour)).unwrap();
    breaker.acquire().await.unwrap().success();
    circuits.flush().await;
    server.kill();
    until("the store is unavailable", async || {
        let _ = breaker.acquire().await.map(Permit::success);
        circuits.health().unavailable_for.is_some()
    })
    .await;
    // The replica's own verdict, which is not reported to the fleet.
    breaker.acquire().await.unwrap().record(Outcome::trip());
    until("it opens for itself", async || {
        breaker.state() == State::Open
    })
    .await;
    let lines = log.of(ALONE);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = &lines[0];
    let words =
        ["circuit", "replica", "from", "to", "reason", "store"].map(|field| line.get(field));
    let replica = circuits.replica();
    assert_eq!(
        words,
        [
            "traces",
            replica,
            "closed",
            "open",
            "tripped",
            "unavailable"
        ]
    );
    assert!(line.number("failures") > 0 && line.number("calls") >= line.number("failures"));
    assert!(line.number("left_ms") > 3_000_000);
    assert!(line.number("until_ms") > line.number("since_ms"));
    assert_eq!(line.number("opens"), 1);
    assert!(log.of(FLEET).is_empty());

    server.restart();
    until("the fleet's circuit decides again", async || {
        circuits.flush().await;
        circuits.health().unavailable_for.is_none() && breaker.state() == State::Closed
    })
    .await;
    let back = log.of(ALONE).pop().unwrap();
    let words = ["from", "to", "store"].map(|field| back.get(field));
    assert_eq!(words, ["open", "closed", "available"], "{:?}", log.0.lock());
    circuits.shutdown().await;
}

#[tokio::test]
async fn an_unwise_policy_is_said_once_and_a_stored_one_that_contradicts_other_code_too() {
    let (log, _guard) = listen();
    let circuits = Commontrip::embedded().unwrap();
    let ramp = Policy::builder().ramp(Duration::from_secs(1), 100);
    let ramp = ramp.build().unwrap();
    for _ in 0..2 {
        circuits.circuit("ramp", ramp.clone()).unwrap();
    }
    let breaker = circuits.circuit("llm", Policy::default()).unwrap();
    breaker.store_policy("probe_lease_ms=5000").await.unwrap();
    let code = Policy::builder().call_timeout(Duration::from_secs(20));
    let breaker = circuits.circuit("llm", code.build().unwrap()).unwrap();
    assert_eq!(breaker.policy().rules().probe_lease_ms, 5000);
    breaker.call(async || Ok::<(), ()>(())).await.unwrap();
    let lines = log.of("the circuit's policy is unwise");
    let said = lines
        .iter()
        .map(|line| (line.get("circuit"), line.get("warning")));
    let said: Vec<_> = said.collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(said[0].0, "ramp");
    assert!(said[0].1.starts_with("ramp_initial is 100"), "{said:?}");
    assert_eq!(said[1].0, "llm");
    let contradiction = "probe_lease_ms is 5000, but call_timeout_ms is 20000: ";
    assert!(said[1].1.starts_with(contradiction), "{said:?}");
}

#[tokio::test]
async fn an_override_is_logged_with_who_set_it_and_why() {
    let (log, _guard) = listen();
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuits.circuit("traces", Policy::default()).unwrap();
    let with = Override::because("db upgrade").by("ana");
    breaker.force_open(with).await.unwrap();
    breaker.reset().await.unwrap();
    let [set, ended] = &log.of(FLEET)[..] else {
        panic!("{:?}", log.of(FLEET));
    };
    let words = ["level", "to", "override_author", "override_reason"].map(|field| set.get(field));
    assert_eq!(words, ["WARN", "forced_open", "ana", "db upgrade"]);
    let words = ["level", "to", "override_author"].map(|field| ended.get(field));
    assert_eq!(words, ["INFO", "closed", ""]);
}
