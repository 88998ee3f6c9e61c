//! A registry that no longer reports: its runtime has ended, or it was shut down.

use std::time::Duration;

use commontrip::{CallError, CircuitBreaker, Commontrip, Outcome, Policy, Reason, State};
use tokio::runtime::{Builder, Runtime};

use crate::{
    support::{self, OwnServer},
    traces::listen,
    wait::until,
};

const GONE: &str = "the runtime on which the registry was created is gone: its circuits continue without the store";
const SHUT_DOWN: &str = "the registry was shut down: its circuits continue without the store";
const LOST: &str = "outcomes are lost: they were not sent to the store";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Trips on demand, for a short wait; one probe at a time, and one success closes.
fn policy() -> Policy {
    let policy = Policy::builder()
        .minimum_number_of_calls(5)
        .wait_duration_in_open_state(ms(200))
        .permitted_number_of_calls_in_half_open_state(1)
        .success_threshold(1)
        .report_interval(ms(20));
    policy.build().unwrap()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn call(breaker: &CircuitBreaker, result: Result<(), ()>) -> Result<(), CallError<()>> {
    breaker.call(|| async { result }).await
}

async fn open(breaker: &CircuitBreaker) {
    breaker.acquire().await.unwrap().record(Outcome::trip());
    until("it is open", async || breaker.state() == State::Open).await;
}

/// Calls continue, decided by this process alone.
async fn decides_by_itself(registry: &Commontrip, opened: &CircuitBreaker) {
    let new = registry.circuit("new", policy()).unwrap();
    for _ in 0..100 {
        call(&new, Ok(())).await.unwrap();
        new.try_acquire().unwrap().success();
    }
    until("it heals", async || call(opened, Ok(())).await.is_ok()).await;
    assert_eq!(opened.state(), State::Closed);
    for breaker in [&new, opened] {
        until("it opens", async || {
            let result = call(breaker, Err(())).await;
            matches!(result, Err(CallError::Rejected(_)))
        })
        .await;
        until("it heals again", async || {
            breaker.try_acquire().is_ok_and(|p| {
                p.success();
                true
            })
        })
        .await;
    }
    let blocking = new.clone();
    let asked = tokio::task::spawn_blocking(move || blocking.call_blocking(|| Ok::<_, ()>(())));
    asked.await.unwrap().unwrap();
}

fn outlives_its_runtime(build: impl Fn() -> Commontrip) {
    let (log, _guard) = listen();
    let first = runtime();
    let (registry, opened) = first.block_on(async {
        let registry = build();
        let opened = registry.circuit("opened", policy()).unwrap();
        open(&opened).await;
        assert!(!registry.health().ended);
        (registry, opened)
    });
    drop(first);
    let health = registry.health();
    assert!(
        health.ended && health.unavailable_for.is_some(),
        "{health:?}"
    );
    assert_eq!(health.last_error.as_deref(), Some(GONE));
    runtime().block_on(async {
        decides_by_itself(&registry, &opened).await;
        // Calls that wait for the registry's tasks return.
        registry.flush().await;
        registry.shutdown().await;
        decides_by_itself(&registry, &opened).await;
    });
    assert_eq!(log.of(GONE).len(), 1);
}

#[test]
fn circuits_go_on_when_the_runtime_of_their_registry_is_gone() {
    let server = OwnServer::start();
    outlives_its_runtime(|| {
        let builder = Commontrip::builder().redis(&server.url());
        builder.store_timeout(ms(1000)).build().unwrap()
    });
    outlives_its_runtime(|| Commontrip::embedded().unwrap());
}

/// The number of commands that a Redis has received.
async fn commands(server: &OwnServer) -> u64 {
    let client = redis::Client::open(server.admin_url()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let mut info = redis::cmd("INFO");
    let stats: String = info
        .arg("commandstats")
        .query_async(&mut redis)
        .await
        .unwrap();
    let scripts = stats
        .lines()
        .filter(|line| line.starts_with("cmdstat_eval"));
    let calls = scripts.filter_map(|line| line.split(['=', ',']).nth(1)?.parse::<u64>().ok());
    calls.sum()
}

async fn fleet(url: &str) -> [Commontrip; 2] {
    [(); 2].map(|()| {
        let builder = Commontrip::builder().redis(url);
        builder.store_timeout(ms(1000)).build().unwrap()
    })
}

#[tokio::test]
async fn after_shutdown_calls_are_decided_here_and_the_fleet_keeps_its_probes() {
    let (log, _guard) = listen();
    let server = OwnServer::start();
    let [ended, other] = fleet(&server.url()).await;
    let circuit = |registry: &Commontrip| registry.circuit("opened", policy()).unwrap();
    let (here, there) = (circuit(&ended), circuit(&other));
    open(&there).await;
    until("both know", async || {
        ended.flush().await;
        here.state() == State::Open
    })
    .await;
    ended.shutdown().await;
    assert!(ended.health().ended);
    assert_eq!(ended.health().last_error.as_deref(), Some(SHUT_DOWN));
    assert_eq!(log.of(SHUT_DOWN).len(), 1);
    other.shutdown().await;

    let before = commands(&server).await;
    decides_by_itself(&ended, &here).await;
    assert_eq!(commands(&server).await, before);
    let [third, _] = fleet(&server.url()).await;
    let probe = circuit(&third).acquire().await.unwrap();
    assert!(probe.is_probe());
    probe.success();
    third.shutdown().await;
}

#[tokio::test]
async fn a_probe_that_was_fetched_ahead_is_given_back_at_shutdown() {
    let name = support::unique("afterwards");
    let [ending, other] = fleet(support::redis_url()).await;
    let circuit = |registry: &Commontrip| registry.circuit(&name, policy()).unwrap();
    let (here, there) = (circuit(&ending), circuit(&other));
    open(&here).await;
    // Nobody takes the permit. It is requested again while Redis' wait is not over.
    until("a probe is there", async || {
        let rejected = here.try_acquire().err();
        tokio::time::sleep(ms(50)).await;
        rejected.is_some_and(|rejected| rejected.reason == Reason::ProbeRequested)
            && there.snapshot().await.is_ok_and(|seen| seen.probes > 0)
    })
    .await;
    ending.shutdown().await;
    // The lease would outlast the test.
    until("it was given back", async || {
        there.snapshot().await.is_ok_and(|seen| seen.probes == 0)
    })
    .await;
    other.shutdown().await;
}

#[tokio::test]
async fn a_registry_that_is_dropped_says_what_it_did_not_send() {
    let (log, _guard) = listen();
    let server = OwnServer::start();
    let registry = Commontrip::redis(&server.url()).unwrap();
    let circuits = ["a", "b", "idle"].map(|name| registry.circuit(name, policy()).unwrap());
    until("all are known", async || {
        registry.flush().await;
        registry.health().unavailable_for.is_none() && registry.health().reports_pending == 0
    })
    .await;
    server.kill();
    for breaker in &circuits[..2] {
        call(breaker, Ok(())).await.unwrap();
        call(breaker, Err(())).await.unwrap_err();
    }
    drop((registry, circuits));
    until("it is said", async || !log.of(LOST).is_empty()).await;
    let said = log.of(LOST);
    assert_eq!(
        (said[0].get("circuits"), said[0].get("outcomes")),
        ("2", "4")
    );
    assert_eq!(said.len(), 1);
}

#[test]
fn a_registry_that_ends_with_its_runtime_says_what_it_did_not_send() {
    let (log, _guard) = listen();
    let runtime = runtime();
    runtime.block_on(async {
        let registry = Commontrip::embedded().unwrap();
        let breaker = registry.circuit("c", policy()).unwrap();
        call(&breaker, Ok(())).await.unwrap();
    });
    drop(runtime);
    let said = log.of(LOST);
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].get("outcomes"), "1");
}

#[tokio::test]
async fn what_calls_after_shutdown_tell_is_said_to_be_lost_when_the_registry_is_dropped() {
    let (log, _guard) = listen();
    let registry = Commontrip::embedded().unwrap();
    let breaker = registry.circuit("c", policy()).unwrap();
    call(&breaker, Ok(())).await.unwrap();
    registry.shutdown().await;
    assert!(log.of(LOST).is_empty());
    call(&breaker, Ok(())).await.unwrap();
    drop((registry, breaker));
    assert_eq!(log.of(LOST).len(), 1);
}
