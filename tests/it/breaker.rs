//! The public API of a circuit breaker, on the embedded store and on Redis.

use std::time::Duration;

use commontrip::{CallError, Commontrip, Outcome, Override, Policy, Reason, State};

use crate::support;
use crate::wait::until;

/// A replica with a timeout that a busy machine does not exceed.
fn patient() -> Commontrip {
    Commontrip::builder()
        .redis(support::redis_url())
        .store_timeout(Duration::from_secs(10))
        .build()
        .unwrap()
}

fn quick() -> Policy {
    Policy::builder()
        .minimum_number_of_calls(4)
        .wait_duration_in_open_state(Duration::from_secs(1))
        .probe_lease(Duration::from_secs(1))
        .report_interval(Duration::from_millis(20))
        .build()
        .unwrap()
}

async fn fail(breaker: &commontrip::CircuitBreaker) -> Result<(), CallError<&'static str>> {
    breaker.call(|| async { Err("down") }).await
}

async fn succeed(breaker: &commontrip::CircuitBreaker) -> Result<u8, CallError<&'static str>> {
    breaker.call(|| async { Ok(1) }).await
}

/// Two replicas on one store: one trips, the other rejects, and a probe closes the circuit for
/// both.
async fn trips_for_all_and_recovers(one: Commontrip, two: Commontrip, name: &str) {
    let a = one.circuit(name, quick()).unwrap();
    let b = two.circuit(name, quick()).unwrap();
    succeed(&a).await.unwrap();
    succeed(&b).await.unwrap();
    for _ in 0..6 {
        let _ = fail(&a).await;
    }
    until("both reject", async || {
        a.state() == State::Open && b.state() == State::Open
    })
    .await;
    let rejection = *succeed(&b).await.unwrap_err().rejection().unwrap();
    assert_eq!(
        (rejection.state, rejection.reason),
        (State::Open, Reason::FailureRate)
    );
    assert!(rejection.retry_after.unwrap() <= Duration::from_millis(1010));
    until("closed for both", async || {
        let _ = succeed(&b).await;
        a.state() == State::Closed && b.state() == State::Closed
    })
    .await;
    let seen = b.snapshot().await.unwrap();
    assert_eq!((seen.generation, seen.reason), (3, Reason::Recovered));
    one.flush().await;
    two.flush().await;
    let seen = b.snapshot().await.unwrap();
    assert!(seen.rejected_total > 0);
    assert!(seen.failures_total >= 2);
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test]
async fn a_fleet_in_one_process_trips_together_and_recovers() {
    let store = commontrip::MemoryStore::default();
    let replica = || Commontrip::builder().store(store.clone()).build().unwrap();
    trips_for_all_and_recovers(replica(), replica(), "payments").await;
}

#[tokio::test]
async fn a_fleet_on_redis_trips_together_and_recovers() {
    trips_for_all_and_recovers(patient(), patient(), &support::unique("trips")).await;
}

#[tokio::test]
async fn an_override_reaches_every_replica_and_ends_by_itself() {
    let name = support::unique("override");
    let one = patient();
    let two = patient();
    let a = one.circuit(&name, quick()).unwrap();
    let b = two.circuit(&name, quick()).unwrap();
    succeed(&b).await.unwrap();
    until("push is heard", async || two.health().push).await;
    let with = Override::because("upgrade")
        .by("ana")
        .lasting(Duration::from_secs(2));
    a.force_open(with).await.unwrap();
    until("forced open", async || b.state() == State::ForcedOpen).await;
    let rejection = *succeed(&b).await.unwrap_err().rejection().unwrap();
    assert_eq!(
        (rejection.state, rejection.reason),
        (State::ForcedOpen, Reason::Override)
    );
    let seen = b.snapshot().await.unwrap();
    assert_eq!(
        (seen.override_author.as_str(), seen.override_reason.as_str()),
        ("ana", "upgrade")
    );
    until("over", async || succeed(&b).await.is_ok()).await;
    assert_eq!(b.snapshot().await.unwrap().reason, Reason::OverrideExpired);
}

#[tokio::test]
async fn a_trip_outcome_opens_at_once_and_heeds_retry_after() {
    let circuits = patient();
    let a = circuits.circuit(&support::unique("trip"), quick()).unwrap();
    let permit = a.acquire().await.unwrap();
    permit.record(Outcome::trip().with_retry_after(Duration::from_secs(2)));
    until("open", async || a.state() == State::Open).await;
    let rejection = a.acquire().await.unwrap_err();
    assert_eq!(rejection.reason, Reason::Tripped);
    assert!(rejection.retry_after.unwrap() > Duration::from_millis(1500));
}

/// A pool alone cannot push, so other replicas' changes are requested after `decision_ttl`.
#[tokio::test]
async fn a_pool_of_the_users_own_carries_a_circuit_with_push_and_without() {
    let url = support::redis_url();
    let name = support::unique("pool");
    let pool = || {
        let config = deadpool_redis::Config::from_url(url);
        config
            .create_pool(Some(deadpool_redis::Runtime::Tokio1))
            .unwrap()
    };
    let pushed = Commontrip::builder()
        .redis_pool(pool(), Some(url))
        .build()
        .unwrap();
    let asking = Commontrip::builder()
        .redis_pool(pool(), None)
        .build()
        .unwrap();
    let a = pushed.circuit(&name, quick()).unwrap();
    let b = asking.circuit(&name, quick()).unwrap();
    succeed(&a).await.unwrap();
    succeed(&b).await.unwrap();
    until("push is heard", async || pushed.health().push).await;
    assert!(!asking.health().push);
    a.force_open(Override::because("test")).await.unwrap();
    until("asked for", async || succeed(&b).await.is_err()).await;
    b.reset().await.unwrap();
    until("pushed", async || a.state() == State::Closed).await;
    assert!(asking.health().unavailable_for.is_none() && pushed.health().unavailable_for.is_none());
}

#[tokio::test]
async fn keys_begin_with_the_prefix_that_was_chosen() {
    let prefix = support::unique_prefix("app");
    let circuits = Commontrip::builder()
        .redis(support::redis_url())
        .prefix(&prefix);
    let circuits = circuits.build().unwrap();
    let breaker = circuits.circuit("payments", quick()).unwrap();
    succeed(&breaker).await.unwrap();
    circuits.flush().await;
    let mut redis = redis::Client::open(support::admin_url())
        .unwrap()
        .get_connection()
        .unwrap();
    let state: String = redis::cmd("HGET")
        .arg(format!("{prefix}:{{payments}}"))
        .arg("state")
        .query(&mut redis)
        .unwrap();
    assert_eq!(state, "closed");
    assert_eq!(circuits.circuits().await.unwrap(), ["payments"]);
}

#[tokio::test]
async fn absurdly_long_times_are_long_and_nothing_worse() {
    let circuits = patient();
    let a = circuits.circuit(&support::unique("long"), quick()).unwrap();
    let permit = a.acquire().await.unwrap();
    permit.record(Outcome::trip().with_retry_after(Duration::MAX));
    until("open", async || a.state() == State::Open).await;
    assert!(
        circuits.health().unavailable_for.is_none(),
        "{:?}",
        circuits.health()
    );
    let wait = a.acquire().await.unwrap_err().retry_after.unwrap();
    assert!(wait > Duration::from_secs(500) && !a.acquire().await.unwrap_err().local);
    let forced = a
        .force_open(Override::because("for ever").lasting(Duration::MAX))
        .await
        .unwrap();
    assert!(forced.left_ms() > 365 * 86_400_000, "{forced:?}");
}
