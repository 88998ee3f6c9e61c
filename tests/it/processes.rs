//! A fleet of real processes on one Redis: properties that one process cannot show.
//!
//! Each process is this program again (see [`CHILDS_TEST`]), and ends with the test. The tests read
//! Redis directly, and the called service counts probes, so that the crate does not judge itself.
//! `COMMONTRIP_TEST_ROUNDS` (half-open rounds for each circuit, default 40) makes the long run
//! longer. Time limits here do not test speed: they stand for "never" on a busy machine.

pub mod child;
pub mod fleet;
pub mod load;
mod probes;
mod totals;
pub mod upstream;
pub mod wire;

use std::{
    io::Write,
    time::{Duration, Instant},
};

use commontrip::{CircuitBreaker, Commontrip, OnStoreFailure, Policy, Reason, State};

use self::{
    fleet::{Fleet, Life, PATIENCE},
    wire::{Order, Setup, Verdict, View},
};
use crate::support;

/// The test of this program that runs in the processes. There it acts as a replica; otherwise it is
/// a regular test. A test for processes only would seem to pass when nobody has started it.
const CHILDS_TEST: &str =
    "processes::a_replica_that_starts_while_the_circuit_is_open_rejects_and_resets_nothing";

const PROCESSES: usize = 8;
/// The maximum time for a trip to reach all replicas. It takes a few milliseconds.
const REACH: Duration = Duration::from_secs(5);

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn say(words: &str) {
    // Bypasses the harness, which shows output of failed tests only.
    let _ = writeln!(std::io::stderr(), "processes: {words}");
}

fn setup(registries: usize, circuits: Vec<(String, Policy)>) -> Setup {
    Setup {
        redis: support::redis_url().to_owned(),
        registries,
        circuits,
        ..Setup::default()
    }
}

/// The test's own breaker, which makes no calls.
fn observer(name: &str, policy: &Policy) -> CircuitBreaker {
    observer_on(support::redis_url(), name, policy)
}

pub fn observer_on(redis: &str, name: &str, policy: &Policy) -> CircuitBreaker {
    let registry = Commontrip::builder().redis(redis).store_timeout(ms(3000));
    let registry = registry.build().unwrap();
    registry.circuit(name, policy.clone()).unwrap()
}

pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(
            since.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(ms(10)).await;
    }
}

async fn redis_connection() -> redis::aio::MultiplexedConnection {
    connection_to(support::admin_url()).await
}

pub async fn connection_to(url: &str) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(url).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// Policies that change the state often: all limits, with short and long waits, and half-open
/// states that end undecided.
pub fn stormy(index: usize) -> Policy {
    let policy = Policy::builder()
        .permitted_number_of_calls_in_half_open_state(1 + index as u64 % 3)
        // Shorter than a probe may take, so that probes outlast their half-open state into the next
        // one.
        .wait_duration_in_open_state(ms([40, 60, 90][index % 3]))
        .probe_lease(ms([150, 220, 300, 180][index % 4]))
        .max_wait_duration_in_half_open_state(ms([60_000, 500][index % 2]))
        .minimum_number_of_calls(5)
        .report_interval(ms(20))
        .decision_ttl(ms(20))
        // A replica without Redis would otherwise send probes by its own decision.
        .on_store_failure(OnStoreFailure::Reject);
    policy.build().unwrap()
}

/// Whether the last call of every process was admitted everywhere.
async fn admits_all(fleet: &Fleet) -> bool {
    let answers = fleet.order_all(|| Order::Look).await;
    let admits = |view: &View| view.state == State::Closed && !view.rejects;
    answers.iter().all(|a| a.views.iter().all(admits))
}

pub fn key(name: &str, part: &str) -> String {
    format!("commontrip:{{{name}}}:{part}")
}

/// The circuit's event stream in Redis, oldest first: generation, from, to.
async fn stream(name: &str) -> Vec<(u64, String, String)> {
    let mut redis = redis_connection().await;
    let mut read = redis::cmd("XRANGE");
    let read = read.arg(key(name, "events")).arg("-").arg("+");
    let entries: Vec<(String, std::collections::HashMap<String, String>)> =
        read.query_async(&mut redis).await.unwrap();
    let fields = |entry: &std::collections::HashMap<String, String>| {
        let generation = entry["generation"].parse().unwrap();
        (generation, entry["from"].clone(), entry["to"].clone())
    };
    entries.iter().map(|(_, entry)| fields(entry)).collect()
}

pub fn percentiles(mut times: Vec<u64>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let n = times.len();
    format!(
        "p50 {} ms, p99 {} ms, max {} ms of {n}",
        at(50),
        at(99),
        at(100)
    )
}

#[tokio::test]
async fn a_replica_that_starts_while_the_circuit_is_open_rejects_and_resets_nothing() {
    if child::is_wanted() {
        return child::run().await;
    }
    let name = support::unique("late-start");
    let policy = Policy::builder()
        .wait_duration_in_open_state(Duration::from_secs(600))
        .on_store_failure(OnStoreFailure::Allow)
        .build()
        .unwrap();
    let breaker = observer(&name, &policy);
    let fleet = Fleet::start(setup(1, vec![(name.clone(), policy)]), 1).await;
    let call = |verdict| Order::Call {
        registry: 0,
        verdict,
        times: 1,
    };
    assert_eq!(fleet.order(0, call(Verdict::Trip)).await.admitted, 1);
    until("it is open", async || {
        breaker.snapshot().await.unwrap().state == State::Open
    })
    .await;
    fleet.order(0, Order::Flush).await;
    let before = breaker.snapshot().await.unwrap();

    fleet.grow(PROCESSES).await;
    let answers = fleet.order_all(|| call(Verdict::Success)).await;
    let told: Vec<_> = answers.iter().map(|a| (a.admitted, a.rejected)).collect();
    assert_eq!(
        told,
        [(0, 1); PROCESSES + 1],
        "(admitted, rejected) of a first call"
    );

    fleet.stop().await;
    let after = breaker.snapshot().await.unwrap();
    let kept = |seen: &commontrip::Snapshot| {
        let opened = (seen.state, seen.generation, seen.since_ms, seen.until_ms);
        (opened, seen.consecutive_opens, seen.calls, seen.failures)
    };
    assert_eq!(kept(&after), kept(&before));
    assert_eq!(after.rejected_total, PROCESSES as u64 + 1);
    assert_eq!(stream(&name).await.len(), 1);
}

#[tokio::test]
async fn every_trip_reaches_every_process() {
    const TRIPS: usize = 20;
    let name = support::unique("reach");
    let policy = Policy::builder()
        .wait_duration_in_open_state(Duration::from_secs(600))
        .build()
        .unwrap();
    let breaker = observer(&name, &policy);
    let fleet = Fleet::start(setup(1, vec![(name.clone(), policy)]), PROCESSES).await;
    fleet.serve(0).await;
    let mut events = breaker.events_after(0);
    let mut reached = Vec::new();
    for trip in 0..TRIPS {
        until("all processes are admitted", async || {
            admits_all(&fleet).await
        })
        .await;
        let call = Order::Call {
            registry: 0,
            verdict: Verdict::Trip,
            times: 1,
        };
        assert_eq!(fleet.order(trip % PROCESSES, call).await.admitted, 1);
        let opened = tokio::time::timeout(PATIENCE, events.next()).await;
        let opened = opened.expect("a trip opens the circuit").unwrap();
        assert_eq!((opened.to, opened.reason), (State::Open, Reason::Tripped));
        let latencies = || {
            let rejection = |life: &Life| {
                let mut seen = life.seen.iter();
                let seen = seen.find(|s| s.generation == opened.generation && s.rejects)?;
                Some(seen.at_ms.saturating_sub(opened.at_ms))
            };
            fleet.lives().iter().map(rejection).collect::<Vec<_>>()
        };
        let since = Instant::now();
        while since.elapsed() < REACH && latencies().contains(&None) {
            tokio::time::sleep(ms(5)).await;
        }
        let latencies = latencies();
        assert!(
            !latencies.contains(&None),
            "trip {trip} did not reach every process within {REACH:?}: {latencies:?}"
        );
        reached.extend(latencies.into_iter().flatten());
        breaker.reset().await.unwrap();
        let closed = tokio::time::timeout(PATIENCE, events.next()).await;
        let closed = closed.expect("a reset is an event").unwrap();
        assert_eq!(closed.generation, opened.generation + 1);
    }
    fleet.stop().await;
    let reached = percentiles(reached);
    say(&format!(
        "{TRIPS} trips reached {PROCESSES} processes: {reached}"
    ));
}

#[tokio::test]
async fn failures_spread_too_thin_for_any_replica_open_the_circuit() {
    const REGISTRIES: usize = 2;
    const REPLICAS: u64 = 20;
    const EACH: u64 = 9;
    let name = support::unique("thin");
    let policy = Policy::builder()
        .no_failure_rate_threshold()
        .no_consecutive_failures_threshold()
        .failure_count_threshold(REPLICAS * EACH)
        .wait_duration_in_open_state(Duration::from_secs(600))
        .sliding_window_time(Duration::from_secs(3600), 10)
        .build()
        .unwrap();
    let breaker = observer(&name, &policy);
    let fleet = setup(REGISTRIES, vec![(name, policy)]);
    let fleet = Fleet::start(fleet, REPLICAS as usize / REGISTRIES).await;
    let fail = |registry, times| Order::Call {
        registry,
        verdict: Verdict::Failure,
        times,
    };
    // All failures at once, except the last one of the last replica.
    fleet.order_all(|| fail(0, EACH)).await;
    fleet.order_all(|| fail(1, EACH - 1)).await;
    for process in 1..REPLICAS as usize / REGISTRIES {
        fleet.order(process, fail(1, 1)).await;
    }
    fleet.order_all(|| Order::Flush).await;
    let almost = breaker.snapshot().await.unwrap();
    assert_eq!(
        (almost.state, almost.failures),
        (State::Closed, REPLICAS * EACH - 1)
    );
    fleet.order(0, fail(1, 1)).await;
    fleet.order(0, Order::Flush).await;
    let opened = breaker.snapshot().await.unwrap();
    assert_eq!(
        (opened.state, opened.reason, opened.failures),
        (State::Open, Reason::FailureCount, REPLICAS * EACH)
    );
    fleet.stop().await;
}
