//! Redis dead, hung, emptied or cut off: calls continue, and the shared state returns.

use std::time::{Duration, Instant};

use commontrip::{
    CallError, CircuitBreaker, Commontrip, OnStoreFailure, Override, Policy, PolicyBuilder, Reason,
    State,
};

use crate::support::{self, OwnServer};
use crate::wait::until;

/// Far longer than `store_timeout`, far shorter than a permanent hang: it tells "waited for Redis"
/// from "the machine is busy".
const SOON: Duration = Duration::from_secs(1);

fn policy() -> PolicyBuilder {
    Policy::builder()
        .minimum_number_of_calls(4)
        .wait_duration_in_open_state(Duration::from_secs(3600))
        .report_interval(Duration::from_millis(20))
}

fn replica(server: &OwnServer, policy: PolicyBuilder) -> (Commontrip, CircuitBreaker) {
    let circuits = Commontrip::redis(&server.url()).unwrap();
    let breaker = circuits.circuit("c", policy.build().unwrap()).unwrap();
    (circuits, breaker)
}

/// Makes one call; returns how long the breaker took.
async fn timed(breaker: &CircuitBreaker, ok: bool) -> (Result<(), CallError<()>>, Duration) {
    let start = Instant::now();
    let answer = breaker
        .call(|| async { if ok { Ok(()) } else { Err(()) } })
        .await;
    (answer, start.elapsed())
}

async fn known(circuits: &Commontrip, breaker: &CircuitBreaker) {
    timed(breaker, true).await.0.unwrap();
    until("push is heard", async || circuits.health().push).await;
    circuits.flush().await;
    // A busy machine may have lost it for a moment.
    until("it answers", async || {
        circuits.health().unavailable_for.is_none()
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_is_not_there_at_start_holds_nobody_up_and_is_found_later() {
    let server = OwnServer::start();
    server.kill();
    let (circuits, breaker) = replica(&server, policy());
    for _ in 0..4 {
        let (answer, took) = timed(&breaker, false).await;
        assert!(matches!(answer, Err(CallError::Failed(()))), "{answer:?}");
        assert!(took < SOON, "{took:?}");
    }
    assert!(circuits.health().unavailable_for.is_some());
    assert!(circuits.health().last_error.is_some());
    until("opens for itself", async || breaker.state() == State::Open).await;
    let rejection = *timed(&breaker, true)
        .await
        .0
        .unwrap_err()
        .rejection()
        .unwrap();
    assert!(
        rejection.local && rejection.state == State::Open,
        "{rejection:?}"
    );

    server.restart();
    until("back", async || circuits.health().unavailable_for.is_none()).await;
    until("the shared state", async || {
        breaker
            .snapshot()
            .await
            .is_ok_and(|s| s.failures_total == 4)
    })
    .await;
    circuits.shutdown().await;
}

#[tokio::test]
async fn a_hung_redis_holds_a_call_up_once_at_most() {
    let server = OwnServer::start();
    let (circuits, breaker) = replica(&server, policy());
    known(&circuits, &breaker).await;
    let before = circuits.health().times_unavailable;
    server.pause();
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(2) {
        let (answer, took) = timed(&breaker, true).await;
        answer.unwrap();
        longest = longest.max(took);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(longest < SOON, "{longest:?}");
    assert!(circuits.health().unavailable_for.is_some());
    assert_eq!(circuits.health().times_unavailable, before + 1);
    server.resume();
    until("back", async || circuits.health().unavailable_for.is_none()).await;
    circuits.shutdown().await;
}

#[tokio::test]
async fn while_redis_is_away_an_open_circuit_stays_open_and_a_failing_one_opens() {
    let server = OwnServer::start();
    let (circuits, failing) = replica(&server, policy());
    known(&circuits, &failing).await;
    let open = circuits.circuit("open", policy().build().unwrap()).unwrap();
    open.acquire()
        .await
        .unwrap()
        .record(commontrip::Outcome::trip());
    until("open", async || open.state() == State::Open).await;
    server.kill();
    until("unavailable", async || {
        let _ = timed(&failing, true).await;
        circuits.health().unavailable_for.is_some()
    })
    .await;
    let rejection = *timed(&open, true).await.0.unwrap_err().rejection().unwrap();
    assert_eq!(
        (rejection.state, rejection.reason),
        (State::Open, Reason::Tripped)
    );
    assert!(rejection.local && rejection.retry_after.unwrap() > Duration::from_secs(3000));
    until("opens for itself", async || {
        let _ = timed(&failing, false).await;
        failing.state() == State::Open
    })
    .await;
    circuits.shutdown().await;
}

#[tokio::test]
async fn the_local_window_begins_with_the_shared_totals() {
    let server = OwnServer::start();
    let (one, a) = replica(&server, policy().minimum_number_of_calls(20));
    let (two, b) = replica(&server, policy().minimum_number_of_calls(20));
    known(&one, &a).await;
    known(&two, &b).await;
    for _ in 0..12 {
        let _ = timed(&b, false).await;
    }
    two.flush().await;
    until("a has heard", async || {
        let _ = timed(&a, true).await;
        one.flush().await;
        a.cached().failures == 12
    })
    .await;
    assert_eq!(a.state(), State::Closed);
    server.kill();
    until("unavailable", async || {
        let _ = timed(&a, false).await;
        one.health().unavailable_for.is_some()
    })
    .await;
    // On its own it has seen fewer than the 20 calls that a rate needs.
    let mut failures = 0;
    until("opens for itself", async || {
        failures += 1;
        let _ = timed(&a, false).await;
        a.state() == State::Open
    })
    .await;
    assert!(failures < 10, "{failures}");
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test]
async fn reject_and_allow_do_what_they_say() {
    let server = OwnServer::start();
    let (circuits, rejects) = replica(&server, policy().on_store_failure(OnStoreFailure::Reject));
    known(&circuits, &rejects).await;
    let allows = policy()
        .on_store_failure(OnStoreFailure::Allow)
        .build()
        .unwrap();
    let allows = circuits.circuit("allows", allows).unwrap();
    allows
        .force_open(Override::because("to be ignored while away"))
        .await
        .unwrap();
    assert!(timed(&allows, true).await.0.is_err());
    server.kill();
    until("unavailable", async || {
        let _ = timed(&rejects, true).await;
        circuits.health().unavailable_for.is_some()
    })
    .await;
    let rejection = *timed(&rejects, true)
        .await
        .0
        .unwrap_err()
        .rejection()
        .unwrap();
    assert_eq!(
        (rejection.reason, rejection.local),
        (Reason::StoreUnavailable, true)
    );
    assert!(rejection.retry_after.is_some());
    tokio::time::sleep(rejection.retry_after.unwrap()).await;
    assert!(timed(&rejects, true).await.0.is_err(), "still away");
    for _ in 0..50 {
        assert!(matches!(
            timed(&allows, false).await.0,
            Err(CallError::Failed(()))
        ));
    }
    server.restart();
    until("back", async || circuits.health().unavailable_for.is_none()).await;
    until("admits again", async || {
        timed(&rejects, true).await.0.is_ok()
    })
    .await;
    // The emptied Redis gets the override back from this replica's memory.
    until("rejects again", async || {
        timed(&allows, true).await.0.is_err()
    })
    .await;
    assert_eq!(allows.state(), State::ForcedOpen);
    circuits.shutdown().await;
}

#[tokio::test]
async fn an_emptied_redis_does_not_close_a_circuit_or_set_its_generation_back() {
    let server = OwnServer::start();
    let (circuits, breaker) = replica(&server, policy());
    known(&circuits, &breaker).await;
    for _ in 0..3 {
        breaker.reset().await.unwrap();
    }
    breaker
        .acquire()
        .await
        .unwrap()
        .record(commontrip::Outcome::trip());
    until("open", async || breaker.state() == State::Open).await;
    let before = breaker.snapshot().await.unwrap();
    let mut redis = redis::Client::open(server.admin_url())
        .unwrap()
        .get_connection()
        .unwrap();
    redis::cmd("FLUSHALL").exec(&mut redis).unwrap();
    let fresh = replica(&server, policy());
    assert!(
        timed(&breaker, true).await.0.is_err(),
        "still rejected from the cache"
    );
    until("adopted", async || {
        circuits.flush().await;
        let _ = timed(&breaker, true).await;
        fresh
            .1
            .snapshot()
            .await
            .is_ok_and(|s| s.state == State::Open)
    })
    .await;
    let after = fresh.1.snapshot().await.unwrap();
    assert_eq!(
        (after.generation, after.reason),
        (before.generation + 1, Reason::Tripped)
    );
    let ended = before.until_ms.abs_diff(after.until_ms);
    assert!(ended < 10_000, "the wait goes on: {before:?}, {after:?}");
    until("the newcomer knows", async || {
        timed(&fresh.1, true).await.0.is_err()
    })
    .await;
}

#[tokio::test]
async fn what_happens_while_redis_is_away_is_counted_once_when_it_is_back() {
    let server = OwnServer::start();
    let (circuits, breaker) = replica(&server, policy());
    known(&circuits, &breaker).await;
    let before = breaker.snapshot().await.unwrap();
    server.pause();
    for _ in 0..200 {
        timed(&breaker, true).await.0.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    server.resume();
    until("back", async || circuits.health().unavailable_for.is_none()).await;
    circuits.flush().await;
    circuits.flush().await;
    let after = breaker.snapshot().await.unwrap();
    assert_eq!(after.successes_total - before.successes_total, 200);
    assert_eq!(
        after.calls - before.calls,
        200,
        "they still lie in the window"
    );
    circuits.shutdown().await;
}

#[tokio::test]
async fn killed_connections_lose_and_repeat_nothing() {
    let server = OwnServer::start();
    let (circuits, breaker) = replica(&server, policy().report_interval(Duration::ZERO));
    known(&circuits, &breaker).await;
    let mut redis = redis::Client::open(server.admin_url())
        .unwrap()
        .get_connection()
        .unwrap();
    for i in 0..600 {
        timed(&breaker, true).await.0.unwrap();
        if i % 20 == 0 {
            redis::cmd("CLIENT")
                .arg("KILL")
                .arg("TYPE")
                .arg("normal")
                .exec(&mut redis)
                .unwrap();
        }
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
    let away = circuits.health().times_unavailable;
    assert!(away < 5, "{away} of 30 broken connections held to be Redis");
    until("back", async || circuits.health().unavailable_for.is_none()).await;
    until("counted", async || {
        circuits.flush().await;
        breaker
            .snapshot()
            .await
            .is_ok_and(|s| s.successes_total == 601)
    })
    .await;
    circuits.shutdown().await;
}

#[tokio::test]
async fn a_flushed_script_cache_breaks_no_call() {
    let (circuits, breaker) = {
        let circuits = Commontrip::redis(support::redis_url()).unwrap();
        let name = support::unique("script-flush");
        let breaker = circuits.circuit(&name, policy().build().unwrap()).unwrap();
        (circuits, breaker)
    };
    let mut redis = redis::Client::open(support::admin_url())
        .unwrap()
        .get_connection()
        .unwrap();
    for _ in 0..50 {
        timed(&breaker, true).await.0.unwrap();
        redis::cmd("SCRIPT").arg("FLUSH").exec(&mut redis).unwrap();
        circuits.flush().await;
    }
    assert_eq!(circuits.health().times_unavailable, 0);
    assert_eq!(breaker.snapshot().await.unwrap().successes_total, 50);
}

#[tokio::test]
async fn events_are_neither_lost_nor_repeated_across_a_broken_connection() {
    let server = OwnServer::start();
    let (circuits, breaker) = replica(&server, policy());
    let (other, operator) = replica(&server, policy());
    known(&circuits, &breaker).await;
    known(&other, &operator).await;
    let mut events = breaker.events().await.unwrap();
    let first = breaker.snapshot().await.unwrap().generation + 1;
    let mut redis = redis::Client::open(server.admin_url())
        .unwrap()
        .get_connection()
        .unwrap();
    for i in 0..40_u64 {
        while operator.reset().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if i % 7 == 0 {
            redis::cmd("CLIENT")
                .arg("KILL")
                .arg("TYPE")
                .arg("pubsub")
                .exec(&mut redis)
                .unwrap();
            redis::cmd("CLIENT")
                .arg("KILL")
                .arg("TYPE")
                .arg("normal")
                .exec(&mut redis)
                .unwrap();
        }
        // Some events arrive as they happen, some after the reconnect.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let newest = operator.snapshot().await.unwrap().generation;
    let mut seen = Vec::new();
    while seen.last() != Some(&newest) {
        let event = tokio::time::timeout(Duration::from_secs(20), events.next()).await;
        seen.push(
            event
                .expect("an event in time")
                .expect("the stream goes on")
                .generation,
        );
    }
    assert_eq!(seen, (first..=newest).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_lost_record_of_events_is_not_asked_for_again_and_again() {
    let server = OwnServer::start();
    let (circuits, breaker) = replica(&server, policy());
    known(&circuits, &breaker).await;
    let mut events = breaker.events().await.unwrap();
    breaker.reset().await.unwrap();
    assert_eq!(events.next().await.unwrap().generation, 1);
    let mut redis = redis::Client::open(server.admin_url())
        .unwrap()
        .get_connection()
        .unwrap();
    // Makes the events of further transitions unreadable.
    redis::cmd("CONFIG")
        .arg("RESETSTAT")
        .exec(&mut redis)
        .unwrap();
    redis::cmd("HSET")
        .arg("commontrip:{c}")
        .arg("generation")
        .arg(5)
        .exec(&mut redis)
        .unwrap();
    until("the generation is heard of", async || {
        timed(&breaker, true).await.0.unwrap();
        circuits.flush().await;
        breaker.cached().generation == 5
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stats: String = redis::cmd("INFO")
        .arg("commandstats")
        .query(&mut redis)
        .unwrap();
    let reads = stats
        .lines()
        .find(|line| line.starts_with("cmdstat_xrevrange"));
    let calls = reads.and_then(|line| line.split(['=', ',']).nth(1)?.parse::<u64>().ok());
    assert!(calls.unwrap_or(0) < 20, "{reads:?}");
    breaker.reset().await.unwrap();
    assert_eq!(events.next().await.unwrap().generation, 6);
}
