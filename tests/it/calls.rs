//! How calls end: panics, dropped futures, timeouts, late outcomes, permits.

use std::{future::pending, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use commontrip::{
    CallError, CircuitBreaker, Clock, Commontrip, CommontripBuilder, MemoryStore, Outcome,
    Override, Policy, PolicyBuilder, Protect, Reason, Snapshot, State,
};
use futures_util::FutureExt;

use crate::distant::Distant;

fn policy() -> PolicyBuilder {
    Policy::builder()
        .minimum_number_of_calls(2)
        .success_threshold(1)
}

/// One replica on an embedded store with a manual clock.
async fn embedded(policy: PolicyBuilder) -> (Commontrip, CircuitBreaker, Clock) {
    let clock = Clock::manual();
    let circuits = Commontrip::builder().clock(clock.clone());
    on(circuits, policy, clock).await
}

/// One replica on a store with asynchronous answers and a manual clock.
async fn distant(policy: PolicyBuilder) -> (Commontrip, CircuitBreaker, Clock) {
    let clock = Clock::manual();
    let inner = MemoryStore::new(clock.clone());
    let store = Distant { inner, mute: false };
    let circuits = Commontrip::builder().store(store).clock(clock.clone());
    on(circuits, policy, clock).await
}

async fn on(
    circuits: CommontripBuilder,
    policy: PolicyBuilder,
    clock: Clock,
) -> (Commontrip, CircuitBreaker, Clock) {
    let circuits = circuits.build().unwrap();
    let breaker = circuits.circuit("c", policy.build().unwrap()).unwrap();
    // The cache decides from here on.
    circuits.flush().await;
    (circuits, breaker, clock)
}

async fn counted(circuits: &Commontrip, breaker: &CircuitBreaker) -> Snapshot {
    circuits.flush().await;
    breaker.snapshot().await.unwrap()
}

#[tokio::test]
async fn a_panic_is_a_failure() {
    let (circuits, breaker, _) = embedded(policy()).await;
    let call = breaker.call(|| async {
        if true {
            panic!("on purpose");
        }
        Ok::<_, ()>(())
    });
    assert!(AssertUnwindSafe(call).catch_unwind().await.is_err());
    assert_eq!(counted(&circuits, &breaker).await.failures, 1);
}

#[tokio::test]
async fn a_panic_before_the_first_await_is_a_failure() {
    let (circuits, breaker, _) = embedded(policy()).await;
    let call = breaker.call(|| -> std::future::Ready<Result<(), ()>> { panic!("on purpose") });
    assert!(AssertUnwindSafe(call).catch_unwind().await.is_err());
    assert_eq!(counted(&circuits, &breaker).await.failures, 1);
}

#[tokio::test]
async fn a_call_that_is_dropped_early_is_abandoned() {
    let (circuits, breaker, _) = embedded(policy().call_timeout(Duration::from_secs(5))).await;
    let call = breaker.call(pending::<Result<(), ()>>);
    assert!(call.now_or_never().is_none());
    let seen = counted(&circuits, &breaker).await;
    assert_eq!((seen.failures, seen.ignored_total), (0, 0));
    assert_eq!((seen.undecided, seen.abandoned_total), (1, 1));
}

#[tokio::test]
async fn a_call_that_is_dropped_past_the_slow_call_threshold_is_a_failure() {
    let (circuits, breaker, clock) =
        embedded(policy().slow_calls(Duration::from_secs(2), 100)).await;
    let mut call = Box::pin(breaker.call(pending::<Result<(), ()>>));
    assert!((&mut call).now_or_never().is_none());
    clock.advance(Duration::from_secs(2));
    drop(call);
    let seen = counted(&circuits, &breaker).await;
    assert_eq!((seen.failures, seen.slow, seen.abandoned_total), (1, 1, 1));
}

#[tokio::test]
async fn an_outer_timeout_does_not_hide_an_outage() {
    let circuits = Commontrip::embedded().unwrap();
    let policy = policy()
        .call_timeout(Duration::from_millis(20))
        .build()
        .unwrap();
    let breaker = circuits.circuit("c", policy).unwrap();
    for _ in 0..3 {
        let call = async {
            // The outer timeout fires in the same poll in which the inner one could.
            let call = breaker.call(|| async {
                std::thread::sleep(Duration::from_millis(40));
                pending::<Result<(), ()>>().await
            });
            tokio::time::timeout(Duration::from_millis(1), call).await
        };
        let _ = call.await;
    }
    circuits.flush().await;
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test]
async fn a_call_past_its_timeout_is_dropped_and_has_failed() {
    let circuits = Commontrip::embedded().unwrap();
    let policy = policy()
        .call_timeout(Duration::from_millis(20))
        .build()
        .unwrap();
    let breaker = circuits.circuit("c", policy).unwrap();
    let guard = Arc::new(());
    let held = Arc::clone(&guard);
    let answer = breaker
        .call(|| async move {
            let _held = held;
            pending::<Result<(), ()>>().await
        })
        .await;
    assert!(matches!(answer, Err(CallError::TimedOut(limit)) if limit.as_millis() == 20));
    assert_eq!(Arc::strong_count(&guard), 1);
    assert_eq!(counted(&circuits, &breaker).await.failures, 1);
}

#[tokio::test]
async fn slow_calls_open_whatever_their_results() {
    let (circuits, breaker, clock) =
        embedded(policy().slow_calls(Duration::from_secs(1), 50)).await;
    for _ in 0..2 {
        let clock = clock.clone();
        let call = breaker.call(|| async move {
            clock.advance(Duration::from_secs(1));
            Ok::<_, ()>(())
        });
        call.await.unwrap();
    }
    let seen = counted(&circuits, &breaker).await;
    assert_eq!(
        (seen.state, seen.reason),
        (State::Open, Reason::SlowCallRate)
    );
}

#[tokio::test]
async fn a_classifier_decides_what_counts() {
    let (circuits, breaker, _) = embedded(policy()).await;
    let not_found_is_fine = |result: &Result<(), u16>| match result {
        Err(404) => Outcome::Ignored,
        Err(_) => Outcome::failure(),
        Ok(()) => Outcome::Success,
    };
    for status in [404, 404, 500] {
        let answer = breaker
            .call_with(not_found_is_fine, || async move { Err(status) })
            .await;
        assert_eq!(answer.unwrap_err().into_failed(), Some(status));
    }
    let seen = counted(&circuits, &breaker).await;
    assert_eq!((seen.calls, seen.failures, seen.ignored_total), (1, 1, 2));
}

#[tokio::test]
async fn a_future_reads_through_its_circuit() {
    let (_circuits, breaker, _) = embedded(policy()).await;
    let answer = async { Ok::<_, ()>(7) }.protect(&breaker).await;
    assert_eq!(answer.unwrap(), 7);
}

#[tokio::test]
async fn an_outcome_of_an_older_generation_moves_only_lifetime_totals() {
    let (circuits, breaker, clock) = embedded(policy()).await;
    let late_success = breaker.acquire().await.unwrap();
    let late_failure = breaker.acquire().await.unwrap();
    let late_trip = breaker.acquire().await.unwrap();
    breaker.acquire().await.unwrap().record(Outcome::trip());
    let open = counted(&circuits, &breaker).await;
    assert_eq!(open.state, State::Open);

    late_failure.failure();
    let after = counted(&circuits, &breaker).await;
    assert_eq!(
        (after.until_ms, after.generation),
        (open.until_ms, open.generation)
    );
    assert_eq!(after.failures_total, open.failures_total + 1);

    clock.advance(Duration::from_secs(30));
    let probe = breaker.acquire().await.unwrap();
    late_success.success();
    late_trip.record(Outcome::trip());
    let half_open = counted(&circuits, &breaker).await;
    assert_eq!(half_open.state, State::HalfOpen);
    assert_eq!(
        (half_open.probe_successes, half_open.probe_failures),
        (0, 0)
    );

    probe.success();
    let closed = counted(&circuits, &breaker).await;
    assert_eq!((closed.state, closed.calls), (State::Closed, 0));
}

#[tokio::test]
async fn a_dropped_probe_frees_its_place_at_once() {
    let one_probe = policy().permitted_number_of_calls_in_half_open_state(1);
    let (circuits, breaker, clock) = embedded(one_probe).await;
    let permit = breaker.acquire().await.unwrap();
    clock.advance(Duration::from_secs(1));
    permit.success();
    breaker.acquire().await.unwrap().record(Outcome::trip());
    circuits.flush().await;
    clock.advance(Duration::from_secs(30));
    let probe = breaker.acquire().await.unwrap();
    let rejection = breaker.acquire().await.unwrap_err();
    assert_eq!(
        (rejection.state, rejection.reason),
        (State::HalfOpen, Reason::ProbesOut)
    );
    assert!(rejection.retry_after.is_some());
    // Dropped sooner than calls usually end, which says nothing about the service.
    drop(probe);
    let seen = counted(&circuits, &breaker).await;
    assert_eq!(
        (seen.state, seen.probes, seen.abandoned_total),
        (State::HalfOpen, 0, 1)
    );
    breaker.acquire().await.unwrap().success();
    assert_eq!(counted(&circuits, &breaker).await.state, State::Closed);
}

#[tokio::test]
async fn a_caller_that_goes_away_while_it_asks_loses_no_probe() {
    let one_probe = policy().permitted_number_of_calls_in_half_open_state(1);
    let (circuits, breaker, clock) = distant(one_probe).await;
    breaker.acquire().await.unwrap().record(Outcome::trip());
    circuits.flush().await;
    clock.advance(Duration::from_secs(30));
    assert!(
        breaker.acquire().now_or_never().is_none(),
        "the asking must be under way"
    );
    tokio::time::sleep(Duration::from_millis(20)).await;
    let seen = counted(&circuits, &breaker).await;
    assert_eq!((seen.state, seen.probes), (State::HalfOpen, 0));
}

#[tokio::test]
async fn one_caller_asks_for_a_probe_and_the_others_are_rejected() {
    let (circuits, breaker, clock) = distant(policy()).await;
    breaker.acquire().await.unwrap().record(Outcome::trip());
    circuits.flush().await;
    clock.advance(Duration::from_secs(30));
    let all = (0..50).map(|_| breaker.acquire());
    let permits: Vec<_> = futures_util::future::join_all(all).await;
    let granted = permits.iter().filter(|permit| permit.is_ok()).count();
    assert_eq!(granted, 1, "one acquire is in flight at a time");
}

#[tokio::test]
async fn strict_mode_asks_the_store_at_every_call() {
    let store = MemoryStore::default();
    let replica = || Commontrip::builder().store(store.clone()).build().unwrap();
    let (one, two) = (replica(), replica());
    let strict = policy().decision_ttl(Duration::ZERO).build().unwrap();
    let a = one.circuit("c", strict.clone()).unwrap();
    let b = two.circuit("c", strict).unwrap();
    a.acquire().await.unwrap().success();
    b.force_open(Override::because("test")).await.unwrap();
    // There is no time for a push between the two lines.
    assert_eq!(a.acquire().await.unwrap_err().state, State::ForcedOpen);
}

#[tokio::test]
async fn a_stored_policy_wins_over_the_one_in_code() {
    let (circuits, breaker, _) = embedded(policy()).await;
    breaker.acquire().await.unwrap().success();
    circuits.flush().await;
    let refused = breaker
        .store_policy("failure_rate_threshold=900")
        .await
        .unwrap_err();
    assert!(
        std::error::Error::source(&refused)
            .unwrap()
            .to_string()
            .contains("is 900")
    );
    breaker
        .store_policy("failure_rate_threshold=100 call_timeout_ms=70")
        .await
        .unwrap();
    assert_eq!(
        breaker.policy().call_timeout(),
        Some(Duration::from_millis(70))
    );
    breaker.acquire().await.unwrap().failure();
    let seen = counted(&circuits, &breaker).await;
    assert_eq!(
        (seen.state, seen.calls, seen.failures),
        (State::Closed, 2, 1)
    );
    breaker.store_policy("").await.unwrap();
    breaker.acquire().await.unwrap().failure();
    assert_eq!(counted(&circuits, &breaker).await.state, State::Open);
}

#[tokio::test]
async fn after_recovery_the_ramp_admits_a_growing_share() {
    let (circuits, breaker, clock) = embedded(policy().ramp(Duration::from_secs(10), 10)).await;
    breaker.acquire().await.unwrap().record(Outcome::trip());
    circuits.flush().await;
    clock.advance(Duration::from_secs(30));
    breaker.acquire().await.unwrap().success();
    circuits.flush().await;
    assert_eq!(breaker.state(), State::Closed);
    let mut shares = Vec::new();
    for _ in 0..3 {
        let permits: Vec<_> = (0..2000).map(|_| breaker.try_acquire()).collect();
        shares.push(permits.iter().filter(|permit| permit.is_ok()).count());
        let (permits, rejections): (Vec<_>, Vec<_>) = permits.into_iter().partition(Result::is_ok);
        permits
            .into_iter()
            .for_each(|permit| permit.unwrap().success());
        if let Some(Err(rejection)) = rejections.first() {
            assert_eq!(
                (rejection.state, rejection.reason),
                (State::Closed, Reason::Ramp)
            );
        }
        clock.advance(Duration::from_secs(5));
    }
    assert!((100..400).contains(&shares[0]), "{shares:?}");
    assert!((900..1300).contains(&shares[1]), "{shares:?}");
    assert_eq!(shares[2], 2000);
}

#[tokio::test]
async fn shutdown_sends_what_was_recorded() {
    let store = MemoryStore::default();
    let circuits = Commontrip::builder().store(store.clone()).build().unwrap();
    let lazy = policy()
        .report_interval(Duration::from_secs(3600))
        .build()
        .unwrap();
    let breaker = circuits.circuit("c", lazy.clone()).unwrap();
    breaker.acquire().await.unwrap().success();
    circuits.flush().await;
    for _ in 0..7 {
        breaker.acquire().await.unwrap().success();
    }
    circuits.shutdown().await;
    drop((circuits, breaker));
    let other = Commontrip::builder().store(store).build().unwrap();
    let seen = other.circuit("c", lazy).unwrap().snapshot().await.unwrap();
    assert_eq!(seen.calls, 8);
}

#[test]
fn without_a_runtime_the_error_says_so() {
    let error = Commontrip::embedded().unwrap_err().to_string();
    assert!(error.contains("no tokio runtime"), "{error}");
}

#[tokio::test]
async fn bad_settings_are_refused_with_words() {
    let url = Commontrip::redis("http://example").unwrap_err();
    assert!(
        std::error::Error::source(&url)
            .unwrap()
            .to_string()
            .contains("not a Redis URL")
    );
    let prefix = Commontrip::builder()
        .redis("redis://127.0.0.1")
        .prefix("a{b}")
        .build();
    assert!(
        std::error::Error::source(&prefix.unwrap_err())
            .unwrap()
            .to_string()
            .contains("prefix")
    );
    let replica = Commontrip::builder()
        .replica("two words")
        .build()
        .unwrap_err();
    assert!(replica.to_string().contains("without spaces"));
    let name = Commontrip::embedded()
        .unwrap()
        .circuit("", Policy::default())
        .unwrap_err();
    assert!(name.to_string().contains("1 to 200 bytes"));
}

#[tokio::test]
async fn an_author_or_a_reason_that_is_too_long_is_refused() {
    let (_circuits, breaker, _) = embedded(policy()).await;
    let long = breaker
        .force_open(Override::because("x".repeat(1001)))
        .await
        .unwrap_err();
    assert_eq!(
        long.to_string(),
        "the reason has 1001 bytes, but at most 1000 are kept"
    );
    let author = Override::because("y").by("x".repeat(201));
    assert!(
        breaker
            .reset_with(author)
            .await
            .unwrap_err()
            .to_string()
            .contains("author")
    );
    assert_eq!(breaker.snapshot().await.unwrap().generation, 0);
}
