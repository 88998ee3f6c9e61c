//! Decisions of a replica while its store was unavailable, and their fate when the store returns.

use std::{net::Ipv4Addr, time::Duration};

use commontrip::{CallError, CircuitBreaker, Commontrip, Override, Policy, PolicyBuilder, State};

use crate::{
    proxy::{Mode, Proxy},
    support::OwnServer,
    wait::until,
};

fn policy() -> PolicyBuilder {
    Policy::builder()
        .minimum_number_of_calls(10)
        .wait_duration_in_open_state(Duration::from_secs(3600))
        .report_interval(Duration::from_millis(20))
}

/// Two replicas that know the circuit, and each other through it.
async fn replicas(urls: [&str; 2], policy: PolicyBuilder) -> [(Commontrip, CircuitBreaker); 2] {
    let policy = policy.build().unwrap();
    let replicas = urls.map(|url| {
        let builder = Commontrip::builder().redis(url);
        let circuits = builder
            .store_timeout(Duration::from_millis(200))
            .build()
            .unwrap();
        let breaker = circuits.circuit("c", policy.clone()).unwrap();
        (circuits, breaker)
    });
    for (circuits, breaker) in &replicas {
        call(breaker, true).await.unwrap();
        until("push is heard", async || circuits.health().push).await;
        circuits.flush().await;
        until("the store is there", async || {
            circuits.health().unavailable_for.is_none()
        })
        .await;
    }
    replicas
}

async fn call(breaker: &CircuitBreaker, ok: bool) -> Result<(), CallError<()>> {
    let answer = if ok { Ok(()) } else { Err(()) };
    breaker.call(|| async { answer }).await
}

async fn unavailable(circuits: &Commontrip, breaker: &CircuitBreaker) {
    until("the store is unavailable", async || {
        let _ = call(breaker, true).await;
        circuits.health().unavailable_for.is_some()
    })
    .await;
}

async fn back(replicas: &[(Commontrip, CircuitBreaker); 2]) {
    for (circuits, _) in replicas {
        until("the store is back", async || {
            circuits.health().unavailable_for.is_none()
        })
        .await;
        // The first report requests the state; the kept outcomes go with it or after it.
        circuits.flush().await;
        circuits.flush().await;
    }
}

#[tokio::test]
async fn a_trip_while_away_is_evidence_for_the_fleet_and_no_verdict() {
    let server = OwnServer::start();
    let url = server.url();
    let replicas = replicas([&url, &url], policy()).await;
    let [(_, bad), (_, good)] = &replicas;
    server.pause();
    for (circuits, breaker) in &replicas {
        unavailable(circuits, breaker).await;
    }
    let mut failures = 0;
    while bad.state() == State::Closed {
        let failed = matches!(call(bad, false).await, Err(CallError::Failed(())));
        failures += u64::from(failed);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..3 * failures {
        call(good, true).await.unwrap();
    }
    assert!(
        call(bad, true)
            .await
            .unwrap_err()
            .rejection()
            .unwrap()
            .local
    );

    server.resume();
    back(&replicas).await;
    until("it goes by what the fleet says", async || {
        call(bad, true).await.is_ok()
    })
    .await;
    let seen = good.snapshot().await.unwrap();
    assert_eq!((seen.state, seen.generation), (State::Closed, 0));
    assert_eq!(
        (seen.failures_total, seen.failures),
        (failures, failures),
        "all of it counts in the fleet's window"
    );
}

#[tokio::test]
async fn the_evidence_of_all_opens_the_fleet_though_none_had_enough() {
    let server = OwnServer::start();
    let url = server.url();
    let count = policy()
        .minimum_number_of_calls(10_000)
        .no_consecutive_failures_threshold()
        .failure_count_threshold(30);
    let replicas = replicas([&url, &url], count).await;
    server.pause();
    for (circuits, breaker) in &replicas {
        unavailable(circuits, breaker).await;
        let mut failed = 0;
        while failed < 20 {
            failed += u32::from(call(breaker, false).await.is_err());
        }
        assert_eq!(breaker.state(), State::Closed);
    }
    server.resume();
    back(&replicas).await;
    for (_, breaker) in &replicas {
        until("the fleet is open", async || breaker.state() == State::Open).await;
    }
}

#[tokio::test]
async fn what_the_fleet_decided_meanwhile_wins_over_what_a_replica_decided_alone() {
    let server = OwnServer::start();
    let proxy = Proxy::start(Ipv4Addr::LOCALHOST, server.port()).await;
    let replicas = replicas([&proxy.url(), &server.url()], policy()).await;
    let [(circuits, cut_off), (_, operator)] = &replicas;
    // It admits calls; the fleet is forced open.
    proxy.set(Mode::Hang);
    unavailable(circuits, cut_off).await;
    let forced = operator.force_open(Override::because("test")).await;
    assert_eq!(forced.unwrap().generation, 1);
    call(cut_off, true).await.unwrap();
    proxy.set(Mode::Pass);
    until("it follows", async || cut_off.state() == State::ForcedOpen).await;

    // It opens; the fleet was closed again, and its evidence has an older generation.
    operator.reset().await.unwrap();
    until("it follows", async || cut_off.state() == State::Closed).await;
    proxy.set(Mode::Hang);
    unavailable(circuits, cut_off).await;
    until("it opens for itself", async || {
        let _ = call(cut_off, false).await;
        cut_off.state() == State::Open
    })
    .await;
    let reset = operator.reset().await.unwrap();
    proxy.set(Mode::Pass);
    back(&replicas).await;
    until("it follows", async || cut_off.state() == State::Closed).await;
    let seen = operator.snapshot().await.unwrap();
    assert_eq!(
        (seen.state, seen.generation, seen.failures),
        (State::Closed, reset.generation, 0)
    );
    assert!(seen.failures_total >= 10);
}
