//! How long a circuit is open: in one outage, across failed probes, and in its lifetime.

use std::time::Duration;

use commontrip::{CircuitBreaker, CircuitStats, Clock, Commontrip, Outcome, Policy, State};

use crate::{support, wait::until};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn policy(wait: Duration) -> Policy {
    let policy = Policy::builder()
        .wait_duration_in_open_state(wait)
        .success_threshold(1)
        .report_interval(Duration::from_millis(10));
    policy.build().unwrap()
}

fn of(circuits: &Commontrip) -> CircuitStats {
    circuits.stats().swap_remove(0)
}

/// Asks until a probe is permitted, and records its outcome.
async fn probe(breaker: &CircuitBreaker, outcome: Outcome) {
    let mut permit = None;
    until("a probe", async || {
        permit = breaker.acquire().await.ok();
        permit.is_some()
    })
    .await;
    permit.unwrap().record(outcome);
}

#[tokio::test]
async fn a_failed_probe_does_not_begin_the_time_open_anew() {
    let clock = Clock::manual();
    let circuits = Commontrip::builder().clock(clock.clone()).build().unwrap();
    let breaker = circuits.circuit("payments", policy(secs(30))).unwrap();
    breaker.acquire().await.unwrap().success();
    assert_eq!(
        (of(&circuits).open_for(), of(&circuits).open_total()),
        (None, Duration::ZERO)
    );
    breaker.acquire().await.unwrap().record(Outcome::trip());
    for round in 0..3 {
        clock.advance(secs(30));
        assert_eq!(of(&circuits).open_for(), Some(secs(30 * (round + 1))));
        probe(&breaker, Outcome::failure()).await;
        assert_eq!(breaker.state(), State::Open);
    }
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!((seen.open_ms(), seen.open_total_ms), (Some(90_000), 90_000));
    assert_eq!(
        (seen.since_ms - seen.opened_ms, seen.consecutive_opens),
        (90_000, 4)
    );
    // A process that sends no requests continues to count.
    clock.advance(secs(10));
    assert_eq!(of(&circuits).open_for(), Some(secs(100)));
    clock.advance(secs(20));
    probe(&breaker, Outcome::Success).await;
    assert_eq!(breaker.state(), State::Closed);
    clock.advance(secs(500));
    assert_eq!(
        (of(&circuits).open_for(), of(&circuits).open_total()),
        (None, secs(120))
    );
    breaker.acquire().await.unwrap().record(Outcome::trip());
    clock.advance(secs(5));
    assert_eq!(
        (of(&circuits).open_for(), of(&circuits).open_total()),
        (Some(secs(5)), secs(125))
    );
}

#[tokio::test]
async fn the_fleet_knows_how_long_its_circuit_has_been_open() {
    let replica = || Commontrip::redis(support::redis_url()).unwrap();
    let (one, two) = (replica(), replica());
    let name = support::unique("open-time");
    let wait = Duration::from_millis(250);
    let a = one.circuit(&name, policy(wait)).unwrap();
    let b = two.circuit(&name, policy(wait)).unwrap();
    a.acquire().await.unwrap().record(Outcome::trip());
    one.flush().await;
    let began = std::time::Instant::now();
    for _ in 0..3 {
        probe(&a, Outcome::failure()).await;
        one.flush().await;
    }
    let waited = began.elapsed();
    let seen = b.snapshot().await.unwrap();
    let open = Duration::from_millis(seen.open_ms().unwrap());
    assert!(
        open + Duration::from_millis(5) >= waited,
        "{open:?} of {waited:?}"
    );
    assert!(
        seen.now_ms - seen.since_ms < seen.open_ms().unwrap() / 2,
        "{seen:?}"
    );
    assert_eq!(seen.open_total_ms, seen.open_ms().unwrap());
    let know = |circuits: &Commontrip| of(circuits).open_for().is_some_and(|time| time >= open);
    until("both replicas know", async || {
        let _ = b.acquire().await;
        know(&one) && know(&two)
    })
    .await;
}
