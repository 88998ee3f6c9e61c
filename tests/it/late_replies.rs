//! Replies that come late, or not at all: the newest generation stays in force, and nothing is
//! counted twice.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use commontrip::{
    Commontrip, MemoryStore, Name, Override, Policy, Snapshot, State, Store, StoreError,
    model::{Head, Report},
    store::{Answer, Notice},
};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

use crate::{delegate::to_inner, wait::until};

/// A store whose answers to reports can be held back or lost, after the report was filed.
#[derive(Clone, Debug, Default)]
struct Slow {
    inner: MemoryStore,
    hold: Arc<AtomicBool>,
    held: Arc<AtomicU64>,
    go_on: Arc<Notify>,
    lose: Arc<AtomicU64>,
    /// Where news of changes go, for news that come late.
    notices: Arc<Mutex<Option<mpsc::UnboundedSender<Notice>>>>,
}

impl Store for Slow {
    to_inner! { acquire release control snapshot events circuits ping }

    fn report<'a>(
        &'a self,
        batch: &'a [(Name, Report)],
    ) -> Answer<'a, Vec<Result<Snapshot, StoreError>>> {
        Box::pin(async move {
            let answer = self.inner.report(batch).await;
            if self.hold.load(Ordering::SeqCst) {
                self.held.fetch_add(1, Ordering::SeqCst);
                self.go_on.notified().await;
            }
            let losing = |left: u64| left.checked_sub(1);
            if self
                .lose
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, losing)
                .is_ok()
            {
                return Err(StoreError::Timeout(Duration::ZERO));
            }
            answer
        })
    }

    fn listen(
        &self,
        followed: watch::Receiver<BTreeSet<Name>>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Answer<'_, ()> {
        *self.notices.lock() = Some(notices.clone());
        self.inner.listen(followed, notices)
    }
}

#[tokio::test]
async fn a_reply_of_an_older_generation_does_not_set_the_decision_back() {
    let store = Slow::default();
    let patient = Duration::from_secs(60);
    let circuits = Commontrip::builder()
        .store(store.clone())
        .store_timeout(patient);
    let circuits = circuits.build().unwrap();
    let breaker = circuits.circuit("c", Policy::default()).unwrap();
    breaker.acquire().await.unwrap().success();
    circuits.flush().await;

    store.hold.store(true, Ordering::SeqCst);
    breaker.acquire().await.unwrap().success();
    let report = tokio::spawn({
        let circuits = circuits.clone();
        async move { circuits.flush().await }
    });
    until("a reply is held back", async || {
        store.held.load(Ordering::SeqCst) > 0
    })
    .await;
    breaker
        .force_open(Override::because("newer"))
        .await
        .unwrap();
    assert_eq!(breaker.state(), State::ForcedOpen);
    store.hold.store(false, Ordering::SeqCst);
    store.go_on.notify_one();
    report.await.unwrap();
    assert_eq!(breaker.state(), State::ForcedOpen);
    assert!(breaker.acquire().await.is_err());
}

#[tokio::test]
async fn late_news_do_not_set_the_generation_back_when_the_store_returns() {
    let store = Slow::default();
    let patient = Duration::from_secs(60);
    let circuits = Commontrip::builder()
        .store(store.clone())
        .store_timeout(patient);
    let circuits = circuits.build().unwrap();
    let breaker = circuits.circuit("c", Policy::default()).unwrap();
    let other = circuits.circuit("other", Policy::default()).unwrap();
    let old = breaker.force_open(Override::because("old")).await.unwrap();
    let new = breaker.reset().await.unwrap();
    assert!(old.generation < new.generation);

    store.lose.store(1, Ordering::SeqCst);
    store.hold.store(true, Ordering::SeqCst);
    breaker.acquire().await.unwrap().success();
    until("a report is under way", async || {
        store.held.load(Ordering::SeqCst) == 1
    })
    .await;
    store.go_on.notify_one();
    // The store is away, answers when it is asked for that, and the news of it are held back.
    for held in [2, 3] {
        until("another report is under way", async || {
            store.held.load(Ordering::SeqCst) == held
        })
        .await;
        if held == 2 {
            store.go_on.notify_one();
        }
    }
    assert_eq!(circuits.health().away_for, None);
    assert_eq!(circuits.health().times_away, 1);
    // News are heard in order: those of the other circuit show that the late ones were.
    let notices = store.notices.lock().clone().unwrap();
    for name in ["c", "other"] {
        let late = Notice::Changed(Name::new(name).unwrap(), Box::new(old.clone()));
        notices.send(late).unwrap();
    }
    until("the news are heard", async || {
        other.state() == State::ForcedOpen
    })
    .await;
    assert_eq!(breaker.state(), State::Closed);
    store.hold.store(false, Ordering::SeqCst);
    store.go_on.notify_one();
}

/// The circuit that is asked whether the store is back has its news at once, the other one does not.
#[tokio::test]
async fn as_soon_as_the_store_is_back_it_gives_the_probes_and_not_the_replica() {
    let store = Slow::default();
    let circuits = Commontrip::builder()
        .store(store.clone())
        .store_timeout(Duration::from_secs(60));
    let circuits = circuits.build().unwrap();
    let wait = Duration::from_millis(20);
    let policy = Policy::builder().wait_duration_in_open_state(wait);
    let policy = policy.build().unwrap();
    let names = ["one", "other"].map(|name| Name::new(name).unwrap());
    let breakers = names
        .each_ref()
        .map(|name| circuits.circuit(name.as_str(), policy.clone()).unwrap());
    for breaker in &breakers {
        let permit = breaker.acquire().await.unwrap();
        permit.record(commontrip::Outcome::trip());
        until("it is open", async || breaker.state() == State::Open).await;
    }
    let busy = circuits.circuit("busy", policy.clone()).unwrap();
    busy.acquire().await.unwrap().success();
    circuits.flush().await;
    store.lose.store(1, Ordering::SeqCst);
    store.hold.store(true, Ordering::SeqCst);
    busy.acquire().await.unwrap().success();
    // The one that is lost, the one that asks, and the one that brings the news.
    for held in 1..=3 {
        until("a report is under way", async || {
            store.held.load(Ordering::SeqCst) == held
        })
        .await;
        if held < 3 {
            store.go_on.notify_one();
        }
    }
    assert_eq!(circuits.health().away_for, None);
    for (name, breaker) in names.iter().zip(&breakers) {
        let permit = breaker.acquire().await.unwrap();
        let seen = store.inner.snapshot(name, &Head::default()).await.unwrap();
        assert!(permit.is_probe(), "{name}");
        assert_eq!(seen.probes, 1, "{name}");
        permit.success();
    }
    store.hold.store(false, Ordering::SeqCst);
    store.go_on.notify_one();
}

#[tokio::test]
async fn a_report_whose_reply_was_lost_is_counted_once() {
    let store = Slow::default();
    let circuits = Commontrip::builder().store(store.clone()).build().unwrap();
    let policy = Policy::builder()
        .report_interval(Duration::ZERO)
        .build()
        .unwrap();
    let breaker = circuits.circuit("c", policy).unwrap();
    breaker.acquire().await.unwrap().success();
    circuits.flush().await;
    for i in 0..40 {
        store.lose.store(i % 3, Ordering::SeqCst);
        breaker.acquire().await.unwrap().success();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    store.lose.store(0, Ordering::SeqCst);
    until("the store is back", async || {
        circuits.health().away_for.is_none()
    })
    .await;
    circuits.flush().await;
    circuits.flush().await;
    assert!(circuits.health().times_away > 0, "no reply was lost");
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
