//! How often a replica of a large fleet sends requests to the store.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use commontrip::{
    CircuitBreaker, Commontrip, MemoryStore, Name, Policy, PolicyBuilder, Snapshot, State, Store,
    StoreError,
    model::{Acquire, Grant, Report},
    store::{Answer, Notice},
};
use tokio::sync::{Notify, mpsc, watch};

use crate::{delegate::to_inner, wait::until};

/// With this many replicas, each reports once in ten seconds.
const REPLICAS: u64 = 2000;
const PACE: Duration = Duration::from_secs(10);
/// Work that all replicas have at once is spread over one second.
const SPREAD: Duration = Duration::from_millis(990);

/// A store that reports a large number of replicas.
#[derive(Clone, Debug, Default)]
struct Crowded {
    inner: MemoryStore,
    /// Stops pushing changes once this is set.
    deaf: Arc<AtomicBool>,
    deafened: Arc<Notify>,
    /// The circuit stays closed whatever is reported.
    stays_closed: bool,
    acquires: Arc<AtomicU64>,
    reports: Arc<AtomicU64>,
    failures: Arc<AtomicU64>,
}

impl Crowded {
    fn crowd(&self, mut seen: Snapshot) -> Snapshot {
        seen.replicas = REPLICAS;
        if seen.pace_ms > 0 {
            seen.pace_ms = PACE.as_millis() as u64;
        }
        if self.stays_closed {
            (seen.state, seen.generation) = (State::Closed, 0);
        }
        seen
    }
}

impl Store for Crowded {
    to_inner! { release control snapshot events circuits ping }

    fn acquire<'a>(&'a self, circuit: &'a Name, request: &'a Acquire) -> Answer<'a, Grant> {
        Box::pin(async move {
            self.acquires.fetch_add(1, SeqCst);
            let mut grant = self.inner.acquire(circuit, request).await?;
            grant.snapshot = self.crowd(grant.snapshot);
            Ok(grant)
        })
    }

    fn report<'a>(
        &'a self,
        batch: &'a [(Name, Report)],
    ) -> Answer<'a, Vec<Result<Snapshot, StoreError>>> {
        Box::pin(async move {
            self.reports.fetch_add(1, SeqCst);
            for (_, report) in batch {
                self.failures.fetch_add(report.counts.failures, SeqCst);
            }
            let answers = self.inner.report(batch).await?;
            let crowded = answers.into_iter().map(|answer| Ok(self.crowd(answer?)));
            Ok(crowded.collect())
        })
    }

    fn listen(
        &self,
        followed: watch::Receiver<BTreeSet<Name>>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Answer<'_, ()> {
        Box::pin(async move {
            if !self.deaf.load(SeqCst) {
                tokio::select! {
                    ended = self.inner.listen(followed, notices) => return ended,
                    () = self.deafened.notified() => {}
                }
            }
            Err(StoreError::Refused("deaf".to_owned()))
        })
    }
}

/// A replica that knows the size of its fleet.
async fn replica(store: &Crowded, policy: PolicyBuilder) -> (Commontrip, CircuitBreaker) {
    let circuits = Commontrip::builder().store(store.clone()).build().unwrap();
    let breaker = circuits.circuit("c", policy.build().unwrap()).unwrap();
    breaker.acquire().await.unwrap().success();
    circuits.flush().await;
    until("the size of the fleet is known", async || {
        breaker.cached().replicas == REPLICAS
    })
    .await;
    (circuits, breaker)
}

async fn fail(breaker: &CircuitBreaker) {
    let _ = breaker.call(|| async { Err::<(), _>("down") }).await;
}

#[tokio::test]
async fn a_failure_that_may_be_everybodys_does_not_wait_for_its_turn() {
    let store = Crowded::default();
    let (circuits, breaker) = replica(&store, Policy::builder()).await;
    fail(&breaker).await;
    let begun = Instant::now();
    until("it is reported", async || store.failures.load(SeqCst) == 1).await;
    assert!(begun.elapsed() < PACE, "{:?}", begun.elapsed());
    circuits.shutdown().await;
}

#[tokio::test]
async fn a_failure_that_cannot_matter_waits_for_its_turn() {
    let store = Crowded::default();
    // One in a million never reaches 50 %.
    let policy = Policy::builder()
        .minimum_number_of_calls(100_000)
        .no_consecutive_failures_threshold();
    let (circuits, breaker) = replica(&store, policy).await;
    let reports = store.reports.load(SeqCst);
    fail(&breaker).await;
    tokio::time::sleep(2 * SPREAD).await;
    assert_eq!(store.reports.load(SeqCst), reports);
    circuits.shutdown().await;
    assert_eq!(store.failures.load(SeqCst), 1);
}

#[tokio::test]
async fn failures_that_do_not_open_the_circuit_are_not_reported_one_by_one() {
    let store = Crowded {
        stays_closed: true,
        ..Crowded::default()
    };
    // It would otherwise push that the circuit is open.
    store.deaf.store(true, SeqCst);
    let policy = Policy::builder().minimum_number_of_calls(1);
    let (circuits, breaker) = replica(&store, policy).await;
    let (begun, before) = (Instant::now(), store.reports.load(SeqCst));
    while begun.elapsed() < 2 * SPREAD {
        for _ in 0..100 {
            fail(&breaker).await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let reports = store.reports.load(SeqCst) - before;
    let turns = begun.elapsed().as_millis().div_ceil(SPREAD.as_millis()) as u64;
    assert!(
        (1..=turns + 1).contains(&reports),
        "{reports} in {turns} turns"
    );
    circuits.shutdown().await;
}

#[tokio::test]
async fn without_push_a_decision_is_good_for_as_long_as_the_others_need_to_ask() {
    let store = Crowded::default();
    store.deaf.store(true, SeqCst);
    let policy = Policy::builder().decision_ttl(Duration::from_millis(1));
    let (circuits, breaker) = replica(&store, policy).await;
    let (begun, before) = (Instant::now(), store.acquires.load(SeqCst));
    while begun.elapsed() < 2 * SPREAD {
        breaker.acquire().await.unwrap().success();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let asked = store.acquires.load(SeqCst) - before;
    let turns = begun.elapsed().as_millis().div_ceil(SPREAD.as_millis()) as u64;
    assert!((1..=turns + 1).contains(&asked), "{asked} in {turns} turns");
    circuits.shutdown().await;
}

#[tokio::test]
async fn when_push_is_lost_a_decision_is_good_no_longer_than_without() {
    let store = Crowded::default();
    let (circuits, breaker) = replica(&store, Policy::builder()).await;
    until("changes are pushed", async || circuits.health().push).await;
    circuits.flush().await;
    let before = store.acquires.load(SeqCst);
    let begun = Instant::now();
    store.deaf.store(true, SeqCst);
    store.deafened.notify_one();
    until("the store is asked", async || {
        breaker.acquire().await.unwrap().success();
        store.acquires.load(SeqCst) > before
    })
    .await;
    assert!(begun.elapsed() < PACE, "{:?}", begun.elapsed());
    circuits.shutdown().await;
}

#[tokio::test]
async fn who_finds_no_probe_permit_left_does_not_ask_again_before_the_others_could() {
    let store = Crowded::default();
    let policy = || {
        Policy::builder()
            .permitted_number_of_calls_in_half_open_state(1)
            .wait_duration_in_open_state(Duration::from_millis(1))
            .decision_ttl(Duration::from_millis(10))
    };
    let (one, first) = replica(&store, policy()).await;
    let (two, second) = replica(&store, policy()).await;
    first
        .call_with(
            |_| commontrip::Outcome::trip(),
            || async { Err::<(), _>("down") },
        )
        .await
        .unwrap_err();
    let mut probe = None;
    until("the probe is out", async || {
        probe = probe.take().or(first
            .acquire()
            .await
            .ok()
            .filter(commontrip::Permit::is_probe));
        probe.is_some()
    })
    .await;
    let (begun, before) = (Instant::now(), store.acquires.load(SeqCst));
    while begun.elapsed() < 2 * SPREAD {
        assert!(second.acquire().await.is_err());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let asked = store.acquires.load(SeqCst) - before;
    let turns = begun.elapsed().as_millis().div_ceil(SPREAD.as_millis()) as u64;
    assert!(asked <= turns + 1, "{asked} in {turns} turns");
    drop(probe);
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_recorded_while_a_circuit_is_parked_is_reported() {
    let store = MemoryStore::default();
    let circuits = Commontrip::builder().store(store).build().unwrap();
    let policy = Policy::builder().report_interval(Duration::from_millis(1));
    let breaker = circuits.circuit("c", policy.build().unwrap()).unwrap();
    breaker.acquire().await.unwrap().success();
    const BURSTS: u64 = 2000;
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let breaker = breaker.clone();
            std::thread::spawn(move || {
                for _ in 0..BURSTS {
                    breaker.call_sync(|| Ok::<_, ()>(())).unwrap();
                    std::thread::sleep(Duration::from_micros(fastrand::u64(..3000)));
                }
            })
        })
        .collect();
    for caller in callers {
        tokio::task::spawn_blocking(|| caller.join())
            .await
            .unwrap()
            .unwrap();
    }
    until("all calls are reported", async || {
        let seen = breaker.snapshot().await.unwrap();
        seen.successes_total == 2 * BURSTS + 1
    })
    .await;
    circuits.shutdown().await;
}
