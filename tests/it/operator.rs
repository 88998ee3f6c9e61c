//! Operators: they see the stored state, and each of their commands takes effect and is recorded
//! once.

use std::sync::Arc;
use std::time::Duration;

use commontrip::model::{Acquire, Counts, Head, Interval, Report};
use commontrip::operator::{Ask, News, NewsStream, Operator, Survey};
use commontrip::store::{MemoryStore, RedisStore, Store};
use commontrip::{Commontrip, ControlError, Event, Name, Override, Policy, Reason, State};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::stores::on_each_store;
use crate::support::{OwnServer, admin_url, redis_url, unique_prefix};
use crate::topology::cluster_servers::Cluster;
use crate::wait::until;

/// The timeout of each step, on a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// A multiple of every slice's width.
const BASE: u64 = 1_735_689_600_000;

fn memory() -> Arc<dyn Fn() -> Box<dyn AnyStore>> {
    let store = MemoryStore::default();
    Arc::new(move || Box::new(store.clone()))
}

fn redis() -> Arc<dyn Fn() -> Box<dyn AnyStore>> {
    let builder = RedisStore::builder().prefix(&unique_prefix("operator"));
    let store = builder.timeout(LONG).open(redis_url()).unwrap();
    Arc::new(move || Box::new(store.clone()))
}

/// A store for an operator or a registry.
trait AnyStore {
    fn operator(self: Box<Self>) -> Operator;
    fn registry(self: Box<Self>) -> Commontrip;
    fn shared(self: Box<Self>) -> Arc<dyn Store>;
}

impl<S: Store> AnyStore for S {
    fn operator(self: Box<Self>) -> Operator {
        Operator::new(*self)
    }

    fn registry(self: Box<Self>) -> Commontrip {
        let builder = Commontrip::builder().store(*self).store_timeout(LONG);
        builder.build().unwrap()
    }

    fn shared(self: Box<Self>) -> Arc<dyn Store> {
        Arc::new(*self)
    }
}

type Place = Arc<dyn Fn() -> Box<dyn AnyStore>>;

on_each_store! {
    the_past_is_what_was_reported_slice_by_slice
    the_past_is_bounded_and_survives_a_clock_that_is_set_back
    a_past_that_is_switched_off_is_forgotten
    members_are_who_reports_and_who_holds_probes
    an_operator_goes_by_the_replicas_policy_and_is_none_of_them
    a_command_is_written_down_with_who_why_and_from_where
    a_policy_is_written_down_and_keeps_the_counts
    no_change_of_a_policy_is_lost_among_many
    a_policy_is_replaced_only_over_the_version_that_was_seen
    what_cannot_be_is_refused_with_words_and_changes_nothing
    news_come_at_once_and_each_entry_once
    a_circuit_is_removed_once_nobody_uses_it
}

async fn a_circuit_is_removed_once_nobody_uses_it(place: Place) {
    let operator = place().operator();
    let unknown = operator.remove("payments", false).await.unwrap_err();
    assert!(matches!(unknown, ControlError::Unknown(_)), "{unknown}");
    let circuits = place().registry();
    for name in ["payments", "pears"] {
        let circuit = circuits.circuit(name, Policy::default()).unwrap();
        circuit.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
    }
    circuits.flush().await;
    until("both are listed", async || {
        operator.names().await.is_ok_and(|names| names.len() == 2)
    })
    .await;
    let used = operator.remove("payments", false).await.unwrap_err();
    let ControlError::InUse { replica, .. } = &used else {
        panic!("{used:?}");
    };
    assert_eq!(replica, circuits.replica());
    circuits.shutdown().await;
    let removed = operator.remove("payments", true).await.unwrap();
    assert_eq!(removed.snapshot.successes_total, 1);
    let gone = operator.circuit("payments").await.unwrap_err();
    assert!(matches!(gone, ControlError::Unknown(_)), "{gone}");
    assert_eq!(
        operator.names().await.unwrap(),
        [Name::new("pears").unwrap()]
    );
    // It starts over, and is listed again.
    let circuits = place().registry();
    let circuit = circuits.circuit("payments", Policy::default()).unwrap();
    circuit.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
    circuits.flush().await;
    until("it is listed again", async || {
        operator.names().await.is_ok_and(|names| names.len() == 2)
    })
    .await;
    let again = operator.circuit("payments").await.unwrap();
    assert_eq!(again.snapshot.successes_total, 1);
    circuits.shutdown().await;
}

/// The circuit's keys and the index are on different nodes.
#[tokio::test]
async fn a_circuit_is_removed_from_a_cluster() {
    let cluster = Cluster::start(3, false).await;
    let store = RedisStore::builder()
        .timeout(LONG)
        .open(&cluster.url())
        .unwrap();
    let place: Place = Arc::new(move || Box::new(store.clone()));
    a_circuit_is_removed_once_nobody_uses_it(place).await;
}

fn name() -> Name {
    Name::new("payments").unwrap()
}

fn report(seq: u64, now_ms: u64, [s, f, n]: [u64; 3]) -> (Name, Report) {
    let counts = Counts {
        successes: s,
        failures: f,
        rejected: n,
        ..Counts::default()
    };
    let head = Head {
        now_ms,
        replica: "r1".to_owned(),
        ..Head::default()
    };
    let report = Report {
        head,
        seq,
        counts,
        ..Report::default()
    };
    (name(), report)
}

fn numbers(slices: &[Interval]) -> Vec<(u64, [u64; 3])> {
    let numbers = |i: &Interval| {
        let counted = [i.successes, i.failures, i.rejected];
        (i.at_ms - BASE, counted)
    };
    slices.iter().map(numbers).collect()
}

async fn the_past_is_what_was_reported_slice_by_slice(place: Place) {
    let store = place().shared();
    for (seq, (at, counts)) in [
        (0, [3, 1, 0]),
        (9_999, [1, 0, 0]),
        (10_000, [0, 2, 0]),
        (35_000, [0, 0, 4]),
        (36_000, [5, 0, 0]),
    ]
    .into_iter()
    .enumerate()
    {
        let batch = [report(seq as u64 + 1, BASE + at, counts)];
        store.report(&batch).await.unwrap().remove(0).unwrap();
    }
    let asked = [name(), Name::new("nobody").unwrap()];
    let all = store.history(&asked, 360).await.unwrap();
    let whole = [(0, [4, 1, 0]), (10_000, [0, 2, 0]), (30_000, [5, 0, 4])];
    assert_eq!(numbers(&all[0]), whole);
    assert_eq!(all[1], []);
    let newest = store.history(&asked[..1], 2).await.unwrap();
    assert_eq!(numbers(&newest[0]), whole[1..]);
}

async fn the_past_is_bounded_and_survives_a_clock_that_is_set_back(place: Place) {
    let store = place().shared();
    let mut seq = 0;
    let mut send = async |at: u64| {
        seq += 1;
        let batch = [report(seq, at, [1, 0, 0])];
        store.report(&batch).await.unwrap().remove(0).unwrap();
    };
    for slice in 0..800 {
        send(BASE + slice * 10_000).await;
    }
    let asked = [name()];
    let past = store.history(&asked, 1000).await.unwrap().remove(0);
    // An hour, rounded up to whole blocks of ten minutes.
    assert_eq!(past.len(), 380);
    assert_eq!(past[0].at_ms, BASE + 420 * 10_000);
    let newest = store.history(&asked, 360).await.unwrap().remove(0);
    assert_eq!(newest, past[20..]);
    let all = store.past(&asked[0]).await.unwrap();
    let (before, fine) = all.split_at(7);
    for (i, slice) in before.iter().enumerate() {
        let at_ms = BASE + i as u64 * 600_000;
        assert_eq!((slice.lasted_ms, slice.counts.at_ms), (600_000, at_ms));
        assert_eq!(slice.counts.successes, 60);
    }
    assert_eq!(fine.len(), 380);
    assert!(fine.iter().all(|slice| slice.lasted_ms == 1000));
    // Slightly in the past: counted in the newest slice. Far in the past: the history starts over.
    send(BASE + 798 * 10_000).await;
    let past = store.history(&asked, 1).await.unwrap().remove(0);
    assert_eq!(numbers(&past), [(799 * 10_000, [2, 0, 0])]);
    send(BASE).await;
    let past = store.history(&asked, 1000).await.unwrap().remove(0);
    assert_eq!(numbers(&past), [(0, [1, 0, 0])]);
}

async fn a_past_that_is_switched_off_is_forgotten(place: Place) {
    let store = place().shared();
    let asked = [name()];
    for (seq, (history, slices)) in [(1, 1), (0, 0), (0, 0), (1, 1)].into_iter().enumerate() {
        let (name, mut report) = report(seq as u64 + 1, BASE + seq as u64 * 10_000, [1, 0, 0]);
        let policy = Policy::builder();
        let policy = if history == 0 {
            policy.no_history()
        } else {
            policy
        };
        report.head.policy = *policy.build().unwrap().rules();
        store
            .report(&[(name, report)])
            .await
            .unwrap()
            .remove(0)
            .unwrap();
        let kept = store.history(&asked, 100).await.unwrap().remove(0);
        assert_eq!(kept.len(), slices, "{history}");
        assert_eq!(store.past(&asked[0]).await.unwrap().len(), slices);
    }
}

async fn members_are_who_reports_and_who_holds_probes(place: Place) {
    let store = place().shared();
    let trip = |replica: &str, now_ms| {
        let (name, mut report) = report(1, now_ms, [0, 1, 0]);
        report.head.replica = replica.to_owned();
        report.trips = 1;
        [(name, report)]
    };
    store.report(&trip("r1", BASE)).await.unwrap();
    store.report(&trip("r2", BASE + 7000)).await.unwrap();
    let request = Acquire {
        head: trip("r2", BASE + 30_000)[0].1.head.clone(),
        token: "r2:7".to_owned(),
    };
    store.acquire(&name(), &request).await.unwrap();
    let members = store.members(&name(), BASE + 30_001).await.unwrap();
    let names: Vec<_> = members.replicas.iter().map(|m| &*m.name).collect();
    assert_eq!(names, ["r2", "r1"]);
    assert_eq!(members.replicas[1].seen_ms, BASE);
    let probe = &members.probes[0];
    assert_eq!((&*probe.token, &*probe.replica), ("r2:7", "r2"));
    assert_eq!(probe.until_ms, BASE + 60_000);
    let later = store.members(&name(), BASE + 60_000).await.unwrap();
    assert!(later.probes.is_empty(), "its lease is over");
}

/// A replica that has made one call.
async fn replica(place: &Place, policy: Policy) -> (Commontrip, commontrip::CircuitBreaker) {
    let circuits = place().registry();
    let breaker = circuits.circuit("payments", policy).unwrap();
    breaker.call(async || Ok::<_, ()>(())).await.unwrap();
    circuits.flush().await;
    (circuits, breaker)
}

async fn an_operator_goes_by_the_replicas_policy_and_is_none_of_them(place: Place) {
    let policy = Policy::builder()
        .failure_rate_threshold(33)
        .sliding_window_time(Duration::from_secs(30), 5)
        .build()
        .unwrap();
    let (circuits, _breaker) = replica(&place, policy.clone()).await;
    let operator = place().operator();
    let details = operator.details("payments").await.unwrap();
    for (key, value) in policy.rules().pairs() {
        assert_eq!(details.policy.code[key], value, "{key}");
    }
    assert_eq!(details.policy.in_force, details.policy.code);
    operator
        .force_open("payments", Override::because("drill"))
        .await
        .unwrap();
    let names: Vec<_> = details.replicas.iter().map(|m| m.name.clone()).collect();
    assert_eq!(names, [circuits.replica()]);
    let after = operator.details("payments").await.unwrap();
    assert_eq!(after.circuit.snapshot.replicas, 1);
    assert_eq!(after.replicas.len(), 1);
    circuits.shutdown().await;
}

async fn a_command_is_written_down_with_who_why_and_from_where(place: Place) {
    let (circuits, breaker) = replica(&place, Policy::default()).await;
    let operator = place().operator().from("cli@laptop");
    let drill = Override::because("drill").by("ana").lasting(LONG);
    operator.force_open("payments", drill).await.unwrap();
    until("the replica heard", async || {
        breaker.state() == State::ForcedOpen
    })
    .await;
    let undo = Override::because("over").by("bob");
    let view = operator.reset("payments", undo).await.unwrap();
    assert_eq!(view.snapshot.state, State::Closed);
    breaker
        .force_open(Override::because("from code"))
        .await
        .unwrap();
    let events = operator.events("payments").await.unwrap();
    let words = |e: &Event| {
        let words = [&e.by, &e.note, &e.origin].map(Clone::clone);
        (e.to, e.reason, words)
    };
    let ours = circuits.replica();
    let said = |words: [&str; 3]| words.map(str::to_owned);
    assert_eq!(
        events.iter().map(words).collect::<Vec<_>>(),
        [
            (
                State::ForcedOpen,
                Reason::Override,
                said(["ana", "drill", "cli@laptop"])
            ),
            (
                State::Closed,
                Reason::Reset,
                said(["bob", "over", "cli@laptop"])
            ),
            (
                State::ForcedOpen,
                Reason::Override,
                said([ours, "from code", ours])
            ),
        ]
    );
    circuits.shutdown().await;
}

async fn a_policy_is_written_down_and_keeps_the_counts(place: Place) {
    let (circuits, breaker) = replica(&place, Policy::default()).await;
    let operator = place().operator();
    let words = || Override::because("noisy").by("ana");
    let set = "failure_rate_threshold=70 jitter=5";
    let view = operator.change_policy("payments", set, &[], words()).await;
    let seen = view.unwrap().snapshot;
    assert_eq!(
        (seen.calls, seen.generation, seen.policy_version),
        (1, 0, 1)
    );
    until("the replica heard", async || {
        breaker.policy().rules().failure_rate_threshold == 70
    })
    .await;
    let changed =
        operator.change_policy("payments", "jitter=6", &["failure_rate_threshold"], words());
    let seen = changed.await.unwrap().snapshot;
    assert_eq!((&*seen.policy, seen.policy_version), ("jitter=6", 2));
    let events = operator.events("payments").await.unwrap();
    let stored: Vec<_> = events
        .iter()
        .map(|e| (e.reason, &*e.policy, &*e.by))
        .collect();
    assert_eq!(
        stored,
        [
            (Reason::Policy, set, "ana"),
            (Reason::Policy, "jitter=6", "ana")
        ]
    );
    circuits.shutdown().await;
}

async fn no_change_of_a_policy_is_lost_among_many(place: Place) {
    let (circuits, _breaker) = replica(&place, Policy::default()).await;
    let keys = [
        "jitter",
        "success_threshold",
        "quorum",
        "ramp_initial",
        "window_buckets",
        "minimum_number_of_calls",
    ];
    let mut crowd = JoinSet::new();
    for key in keys {
        let operator = place().operator();
        crowd.spawn(async move {
            let set = format!("{key}=7");
            let stored = operator.change_policy("payments", &set, &[], Override::default());
            stored.await.unwrap();
        });
    }
    while let Some(ended) = crowd.join_next().await {
        ended.unwrap();
    }
    let details = place().operator().details("payments").await.unwrap();
    let stored: Vec<_> = details.policy.stored.into_iter().collect();
    let mut wanted = keys.map(|key| (key.to_owned(), 7));
    wanted.sort();
    assert_eq!(stored, wanted);
    assert_eq!(details.circuit.snapshot.policy_version, keys.len() as u64);
    circuits.shutdown().await;
}

async fn a_policy_is_replaced_only_over_the_version_that_was_seen(place: Place) {
    let (circuits, _breaker) = replica(&place, Policy::default()).await;
    let operator = place().operator();
    let store = |pairs, expected| {
        let operator = operator.clone();
        async move {
            let words = Override::default();
            operator
                .store_policy("payments", pairs, expected, words)
                .await
        }
    };
    store("jitter=5", Some(0)).await.unwrap();
    let late = store("jitter=6", Some(0)).await.unwrap_err();
    let words = late.to_string();
    assert!(words.contains("version 1, not 0"), "{words}");
    store("jitter=7", None).await.unwrap();
    let seen = operator.circuit("payments").await.unwrap().snapshot;
    assert_eq!((&*seen.policy, seen.policy_version), ("jitter=7", 2));
    circuits.shutdown().await;
}

async fn what_cannot_be_is_refused_with_words_and_changes_nothing(place: Place) {
    let (circuits, _breaker) = replica(&place, Policy::default()).await;
    let operator = place().operator();
    let unknown = operator.force_open("paymnets", Override::default()).await;
    let unknown = unknown.unwrap_err();
    assert_eq!(unknown.to_string(), "there is no circuit \"paymnets\"");
    let bad = operator.circuit("a{b").await.unwrap_err();
    assert!(matches!(bad, ControlError::Name(_)), "{bad}");
    for pairs in ["jiter=5", "jitter=x", "failure_rate_threshold=101"] {
        let words = Override::default();
        let refused = operator.store_policy("payments", pairs, None, words).await;
        let refused = refused.unwrap_err();
        assert!(matches!(refused, ControlError::Policy(_)), "{refused}");
    }
    let long = Override::because("x".repeat(1001));
    let refused = operator.reset("payments", long).await.unwrap_err();
    assert!(matches!(refused, ControlError::Text { .. }), "{refused}");
    assert!(operator.events("payments").await.unwrap().is_empty());
    assert_eq!(operator.names().await.unwrap(), [name()]);
    circuits.shutdown().await;
}

async fn next(news: &mut NewsStream) -> News {
    timeout(LONG, news.next()).await.expect("no news")
}

async fn news_come_at_once_and_each_entry_once(place: Place) {
    let (circuits, breaker) = replica(&place, Policy::default()).await;
    let operator = place().operator();
    until("it is listed", async || {
        operator.names().await.is_ok_and(|names| !names.is_empty())
    })
    .await;
    let mut news = operator.live().subscribe();
    let News::Circuits(Survey {
        circuits: views, ..
    }) = next(&mut news).await
    else {
        panic!("all circuits come first")
    };
    assert_eq!(views.len(), 1);
    assert_eq!(views[0].history.len(), 1);
    while !matches!(next(&mut news).await, News::Tick(_)) {}
    let words = || Override::because("drill");
    operator.force_open("payments", words()).await.unwrap();
    let set = "jitter=5";
    let stored = operator.change_policy("payments", set, &[], words());
    stored.await.unwrap();
    operator.reset("payments", words()).await.unwrap();
    let mut entries = Vec::new();
    let mut shown = Vec::new();
    let mut ticks = 0;
    // Waits for two more ticks, so that a duplicate would have arrived.
    while ticks < 2 || entries.len() < 3 {
        match next(&mut news).await {
            News::Entry(_, event) => entries.push(event.reason),
            News::Circuit(view) => shown.push(view.snapshot.state),
            News::Tick(_) => ticks += 1,
            News::Store(answered) => assert!(answered.is_ok(), "{answered:?}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(entries, [Reason::Override, Reason::Policy, Reason::Reset]);
    assert_eq!(shown.last(), Some(&State::Closed), "{shown:?}");
    drop(breaker);
    circuits.shutdown().await;
}

#[tokio::test]
async fn a_circuit_that_was_written_over_hides_no_other() {
    let prefix = unique_prefix("operator");
    let builder = RedisStore::builder().prefix(&prefix).timeout(LONG);
    let store = builder.open(redis_url()).unwrap();
    let place: Place = Arc::new(move || Box::new(store.clone()));
    let (circuits, _breaker) = replica(&place, Policy::default()).await;
    let broken = ["broken", "no past", "no record"].map(|name| {
        let breaker = circuits.circuit(name, Policy::default()).unwrap();
        (name, breaker)
    });
    for (_, breaker) in &broken {
        breaker.reset().await.unwrap();
    }
    let operator = place().operator();
    until("all are listed", async || {
        operator.names().await.is_ok_and(|names| names.len() == 4)
    })
    .await;
    circuits.shutdown().await;
    let mut redis = redis::Client::open(admin_url()).unwrap();
    for key in ["{broken}", "{no past}:history", "{no record}:events"] {
        let key = format!("{prefix}:{key}");
        redis::cmd("DEL").arg(&key).exec(&mut redis).unwrap();
        redis::cmd("SET")
            .arg(&key)
            .arg("x")
            .exec(&mut redis)
            .unwrap();
    }
    let survey = operator.survey(&Ask::all(10)).await.unwrap();
    let unreadable = survey.unreadable;
    let names: Vec<_> = survey
        .circuits
        .iter()
        .map(|view| view.name.as_str())
        .collect();
    assert_eq!(names, ["payments", "no past", "no record"]);
    assert_eq!(unreadable[0].0.as_str(), "broken");
    let words = unreadable[0].1.to_string();
    assert!(words.contains("WRONGTYPE"), "{words}");
    let key = format!("the key {prefix}:{{broken}} is not a hash");
    assert!(words.contains(&key), "{words}");
    let words = operator.events("no record").await.unwrap_err();
    let words = format!("{words:?}");
    let key = format!("the key {prefix}:{{no record}}:events is not a stream");
    assert!(words.contains(&key), "{words}");
    let mut news = operator.live().subscribe();
    while !matches!(next(&mut news).await, News::Tick(_)) {}
}

#[tokio::test]
async fn news_say_that_the_store_is_away_and_begin_again_when_it_is_back() {
    let server = OwnServer::start();
    let store = RedisStore::builder().open(&server.url()).unwrap();
    let mut news = Operator::new(store).live().subscribe();
    assert!(matches!(next(&mut news).await, News::Circuits(all) if all.circuits.is_empty()));
    while !matches!(next(&mut news).await, News::Tick(now) if now > 0) {}
    server.kill();
    while !matches!(next(&mut news).await, News::Store(Err(_))) {}
    server.restart();
    while !matches!(next(&mut news).await, News::Tick(_)) {}
}

#[tokio::test]
async fn a_change_right_after_the_first_news_is_sent() {
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuits.circuit("payments", Policy::default()).unwrap();
    breaker.reset().await.unwrap();
    let operator = Operator::of(&circuits);
    let mut news = operator.live().subscribe();
    assert!(matches!(next(&mut news).await, News::Circuits(all) if all.circuits.len() == 1));
    let drill = Override::because("drill");
    operator.force_open("payments", drill).await.unwrap();
    let (mut entry, mut shown, mut ticks) = (None, None, 0);
    while ticks < 3 {
        match next(&mut news).await {
            News::Circuit(view) => shown = Some(view.snapshot.state),
            News::Entry(_, event) => entry = Some(event.reason),
            News::Tick(_) => ticks += 1,
            _ => {}
        }
    }
    assert_eq!(
        (entry, shown),
        (Some(Reason::Override), Some(State::ForcedOpen))
    );
}
