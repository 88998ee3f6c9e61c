//! Kinds of failure, as a process records them and the fleet's operators see them.

use std::time::{Duration, Instant};

use commontrip::{
    CallError, CircuitBreaker, Commontrip, FailureKind, KindCount, Outcome, Policy, State,
};

use crate::{
    support::{redis_url, unique},
    wait::until,
};

fn replica() -> Commontrip {
    Commontrip::builder()
        .redis(redis_url())
        .store_timeout(Duration::from_secs(10))
        .build()
        .unwrap()
}

async fn seen(breaker: &CircuitBreaker) -> Vec<(String, u64, String)> {
    let kinds = breaker.snapshot().await.unwrap().failure_kinds;
    let each = |of: KindCount| (of.kind, of.count, of.detail);
    let mut kinds: Vec<_> = kinds.into_iter().map(each).collect();
    kinds.sort();
    kinds
}

fn kind(name: &str, count: u64, detail: &str) -> (String, u64, String) {
    (name.to_owned(), count, detail.to_owned())
}

/// Makes calls that fail in each way that the breaker knows, and in some of the caller's.
async fn fail_in_every_way(breaker: &CircuitBreaker) {
    for _ in 0..20 {
        breaker.acquire().await.unwrap().success();
    }
    let hangs = breaker.call(std::future::pending::<Result<(), ()>>).await;
    assert!(matches!(hangs, Err(CallError::TimedOut(_))));
    breaker.acquire().await.unwrap().timed_out();
    let panics = breaker.clone();
    let panics = tokio::spawn(async move {
        panics
            .call(|| async {
                if true {
                    panic!("a bug")
                } else {
                    Err::<(), ()>(())
                }
            })
            .await
    });
    assert!(panics.await.is_err());
    let dropped = breaker.acquire().await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    drop(dropped);
    breaker.acquire().await.unwrap().failure_of("Connect!");
    let database = FailureKind::of("database").with_detail("SQLSTATE\n40P01");
    let classify = |_: &Result<(), ()>| Outcome::failure_of(database);
    let _ = breaker.call_with(classify, || async { Err(()) }).await;
    breaker.acquire().await.unwrap().failure();
}

async fn all_are_seen(circuits: &Commontrip) {
    let policy = Policy::builder()
        .call_timeout(Duration::from_millis(100))
        .failure_rate_threshold(90)
        .no_consecutive_failures_threshold();
    let breaker = circuits
        .circuit(&unique("kinds"), policy.build().unwrap())
        .unwrap();
    fail_in_every_way(&breaker).await;
    circuits.flush().await;
    let expected = [
        kind("abandoned", 1, ""),
        kind("connect_", 1, ""),
        kind("database", 1, "SQLSTATE\\n40P01"),
        kind("panic", 1, ""),
        kind("timeout", 2, ""),
    ];
    assert_eq!(seen(&breaker).await, expected);
    let stats = circuits.stats();
    let stats = stats.iter().find(|s| s.name == breaker.name()).unwrap();
    let noted = stats.failure_kinds.iter();
    let noted: Vec<_> = noted.map(|(kind, n)| (kind.as_str(), *n)).collect();
    let expected = expected.iter().map(|(kind, n, _)| (kind.as_str(), *n));
    assert_eq!(noted, expected.collect::<Vec<_>>());
    assert_eq!(stats.failures, 7, "one has no kind");
}

#[tokio::test]
async fn each_failure_has_its_kind_in_one_process() {
    all_are_seen(&Commontrip::embedded().unwrap()).await;
}

#[tokio::test]
async fn each_failure_has_its_kind_in_redis() {
    all_are_seen(&replica()).await;
}

#[tokio::test]
async fn the_event_that_opens_says_what_most_failures_of_the_fleet_were() {
    let (one, two) = (replica(), replica());
    let name = unique("leading");
    let policy = Policy::builder()
        .no_consecutive_failures_threshold()
        .report_interval(Duration::from_millis(20));
    let policy = policy.build().unwrap();
    let a = one.circuit(&name, policy.clone()).unwrap();
    let b = two.circuit(&name, policy).unwrap();
    for _ in 0..15 {
        a.acquire().await.unwrap().success();
    }
    for _ in 0..8 {
        a.acquire()
            .await
            .unwrap()
            .failure_of(FailureKind::status(503));
    }
    one.flush().await;
    assert_eq!(a.state(), State::Closed);
    let mut failed = 0;
    while let Ok(permit) = b.acquire().await {
        permit.failure_of("timeout");
        failed += 1;
    }
    until("open", async || a.state() == State::Open).await;
    let mut events = a.events_after(0);
    let event = events.next().await.unwrap();
    assert_eq!(event.to, State::Open);
    let leading = match failed {
        0..8 => format!("status 503 8 of {}", 8 + failed),
        n => format!("timeout {n} of {}", 8 + n),
    };
    assert_eq!(event.leading_failure, leading);
    // The leading kinds remain visible.
    two.flush().await;
    let counts = seen(&b).await;
    assert_eq!(
        counts,
        [kind("status 503", 8, ""), kind("timeout", failed, "")]
    );
}

#[tokio::test]
async fn kinds_leave_with_few_reports_and_are_not_lost() {
    let circuits = replica();
    let policy = Policy::builder().report_interval(Duration::from_millis(20));
    let breaker = circuits
        .circuit(&unique("paced"), policy.build().unwrap())
        .unwrap();
    let began = Instant::now();
    let (mut told, mut arrivals) = (Vec::new(), 0);
    for _ in 0..50 {
        for _ in 0..20 {
            breaker.acquire().await.unwrap().success();
        }
        breaker.acquire().await.unwrap().failure_of("timeout");
        let reports = circuits.stats()[0].reports;
        until("it is reported", async || {
            circuits.stats()[0].reports > reports
        })
        .await;
        let counts = seen(&breaker).await;
        if counts != told {
            (told, arrivals) = (counts, arrivals + 1);
        }
    }
    // They are due every 5 s, with latencies every 2.5 s, and with a report that has no success.
    let few = 10 + 2 * began.elapsed().as_millis() / 2500;
    assert!(arrivals <= few, "{arrivals} of 50 reports had kinds");
    circuits.flush().await;
    assert_eq!(seen(&breaker).await, [kind("timeout", 50, "")]);
}
