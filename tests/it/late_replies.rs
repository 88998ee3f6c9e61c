//! Late and lost replies: the newest generation stays in force, and nothing is counted twice.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use commontrip::{
    Commontrip, MemoryStore, Name, Override, Policy, State, Store,
    model::Head,
    store::{Answer, Notice},
    test_util::{Fault, FaultyStore, Operation, trip, until_state},
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::{delegate::to_inner, wait::until};

/// The report takes effect, and its answer arrives when the fault ends.
fn held_report() -> Fault {
    Fault::hold_answer().on([Operation::Report]).times(1)
}

/// The next `times` reports take effect, and their answers are lost.
fn lost_reports(times: u64) -> Fault {
    Fault::lose_answer().on([Operation::Report]).times(times)
}

/// A store into which a test can inject late publications.
#[derive(Clone, Debug)]
struct Overheard {
    inner: FaultyStore,
    notices: Arc<Mutex<Option<mpsc::UnboundedSender<Notice>>>>,
}

impl Store for Overheard {
    to_inner! { acquire release control snapshot events circuits ping report }

    fn listen(
        &self,
        followed: watch::Receiver<BTreeSet<Name>>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Answer<'_, ()> {
        *self.notices.lock() = Some(notices.clone());
        self.inner.listen(followed, notices)
    }
}

fn patient(store: impl Store) -> Commontrip {
    let circuits = Commontrip::builder().store(store);
    let circuits = circuits.store_timeout(Duration::from_secs(60));
    circuits.build().unwrap()
}

#[tokio::test]
async fn a_reply_of_an_older_generation_does_not_set_the_decision_back() {
    let store = FaultyStore::new(MemoryStore::default());
    let circuits = patient(store.clone());
    let breaker = circuits.circuit("c", Policy::default()).unwrap();
    breaker.acquire().await.unwrap().success();
    circuits.flush().await;

    let held = store.inject(held_report());
    breaker.acquire().await.unwrap().success();
    let report = tokio::spawn({
        let circuits = circuits.clone();
        async move { circuits.flush().await }
    });
    until("a reply is held back", async || held.hits() > 0).await;
    breaker
        .force_open(Override::because("newer"))
        .await
        .unwrap();
    assert_eq!(breaker.state(), State::ForcedOpen);
    held.end();
    report.await.unwrap();
    assert_eq!(breaker.state(), State::ForcedOpen);
    assert!(breaker.acquire().await.is_err());
}

#[tokio::test]
async fn late_news_do_not_set_the_generation_back_when_the_store_returns() {
    let faulty = FaultyStore::new(MemoryStore::default());
    let store = Overheard {
        inner: faulty.clone(),
        notices: Arc::default(),
    };
    let circuits = patient(store.clone());
    let breaker = circuits.circuit("c", Policy::default()).unwrap();
    let other = circuits.circuit("other", Policy::default()).unwrap();
    // Publications are shown only once the replica has had an answer.
    other.store_policy("").await.unwrap();
    let old = breaker.force_open(Override::because("old")).await.unwrap();
    let new = breaker.reset().await.unwrap();
    assert!(old.generation < new.generation);

    // The lost report, the report that asks for the store, and the report that brings the news.
    let lost = faulty.inject(lost_reports(1));
    let asking = faulty.inject(held_report());
    let news = faulty.inject(held_report());
    breaker.acquire().await.unwrap().success();
    until("a report is under way", async || asking.hits() == 1).await;
    assert_eq!(lost.hits(), 1);
    // The store answers, but the news is held back.
    asking.end();
    until("another report is under way", async || news.hits() == 1).await;
    assert_eq!(circuits.health().unavailable_for, None);
    assert_eq!(circuits.health().times_unavailable, 1);
    // Notices are processed in order: once the other circuit shows its notice, the late one was
    // processed.
    let notices = store.notices.lock().clone().unwrap();
    for name in ["c", "other"] {
        let late = Notice::Changed(Name::new(name).unwrap(), Box::new(old.clone()));
        notices.send(late).unwrap();
    }
    until_state(&other, State::ForcedOpen).await;
    assert_eq!(breaker.state(), State::Closed);
    faulty.heal();
}

/// The circuit that asks for the store learns of the state at once, the other one does not.
#[tokio::test]
async fn as_soon_as_the_store_is_back_it_gives_the_probes_and_not_the_replica() {
    let store = FaultyStore::new(MemoryStore::default());
    let circuits = patient(store.clone());
    let wait = Duration::from_millis(20);
    let policy = Policy::builder().wait_duration_in_open_state(wait);
    let policy = policy.build().unwrap();
    let names = ["one", "other"].map(|name| Name::new(name).unwrap());
    let breakers = names
        .each_ref()
        .map(|name| circuits.circuit(name.as_str(), policy.clone()).unwrap());
    for breaker in &breakers {
        trip(breaker).await;
    }
    let busy = circuits.circuit("busy", policy.clone()).unwrap();
    busy.acquire().await.unwrap().success();
    circuits.flush().await;
    // The lost report, the report that asks for the store, and the report that brings the news.
    store.inject(lost_reports(1));
    let asking = store.inject(held_report());
    let news = store.inject(held_report());
    busy.acquire().await.unwrap().success();
    until("a report is under way", async || asking.hits() == 1).await;
    asking.end();
    until("another report is under way", async || news.hits() == 1).await;
    assert_eq!(circuits.health().unavailable_for, None);
    for (name, breaker) in names.iter().zip(&breakers) {
        let permit = breaker.acquire().await.unwrap();
        let seen = store.snapshot(name, &Head::default()).await.unwrap();
        assert!(permit.is_probe(), "{name}");
        assert_eq!(seen.probes, 1, "{name}");
        permit.success();
    }
    store.heal();
}

#[tokio::test]
async fn a_report_whose_reply_was_lost_is_counted_once() {
    let store = FaultyStore::new(MemoryStore::default());
    let circuits = Commontrip::builder().store(store.clone()).build().unwrap();
    let policy = Policy::builder()
        .report_interval(Duration::ZERO)
        .build()
        .unwrap();
    let breaker = circuits.circuit("c", policy).unwrap();
    breaker.acquire().await.unwrap().success();
    circuits.flush().await;
    for i in 0..40 {
        store.heal();
        store.inject(lost_reports(i % 3));
        breaker.acquire().await.unwrap().success();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    store.heal();
    until("the store is back", async || {
        circuits.health().unavailable_for.is_none()
    })
    .await;
    circuits.flush().await;
    circuits.flush().await;
    assert!(circuits.health().times_unavailable > 0, "no reply was lost");
    assert_eq!(breaker.snapshot().await.unwrap().successes_total, 41);
}

#[tokio::test]
async fn a_restarted_replica_of_the_same_name_is_not_taken_for_its_former_self() {
    let store = MemoryStore::default();
    let policy = Policy::builder()
        .minimum_number_of_calls(30)
        .permitted_number_of_calls_in_half_open_state(1)
        .build()
        .unwrap();
    let life = || {
        let circuits = Commontrip::builder().store(store.clone()).replica("pod-0");
        let circuits = circuits.build().unwrap();
        let breaker = circuits.circuit("c", policy.clone()).unwrap();
        (circuits, breaker)
    };
    let (first, breaker) = life();
    for _ in 0..20 {
        breaker.acquire().await.unwrap().success();
        first.flush().await;
    }
    first.shutdown().await;
    let (second, breaker) = life();
    assert!(first.replica().starts_with("pod-0.") && first.replica() != second.replica());
    for _ in 0..5 {
        breaker.acquire().await.unwrap().failure();
        second.flush().await;
    }
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!((seen.successes_total, seen.failures_total), (20, 5));
}

#[tokio::test]
async fn a_store_that_goes_away_as_the_circuit_opens_leaves_it_open() {
    let store = FaultyStore::new(MemoryStore::default());
    let circuits = Commontrip::builder().store(store.clone()).build().unwrap();
    let policy = Policy::consecutive(5).unwrap();
    let breaker = circuits.circuit("c", policy).unwrap();
    circuits.flush().await;
    let away = store.inject(Fault::lose_answer());
    let mut made = 0;
    for _ in 0..20 {
        let call = breaker.call_sync(|| Err::<(), _>("down"));
        made += u64::from(call.unwrap_err().rejection().is_none());
    }
    assert_eq!(made, 5);
    until("unavailable", async || {
        circuits.health().unavailable_for.is_some()
    })
    .await;
    for _ in 0..20 {
        let call = breaker.call_sync(|| Ok::<_, ()>(()));
        let rejection = *call.unwrap_err().rejection().unwrap();
        assert!(
            rejection.local && rejection.state == State::Open,
            "{rejection:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    away.end();
    until("back", async || circuits.health().unavailable_for.is_none()).await;
    until_state(&breaker, State::Open).await;
}
