//! A process' own failures take effect at once, on every store and for every kind of call.

use std::time::Duration;

use commontrip::{CircuitBreaker, Commontrip, MemoryStore, Policy, PolicyBuilder, State};
use tokio::time::sleep;

use crate::{
    distant::Distant,
    support::{redis_url, unique},
    wait::until,
};

const MS: Duration = Duration::from_millis(1);

/// One registry on each kind of store.
fn everywhere() -> [(&'static str, Commontrip); 4] {
    let builder = || Commontrip::builder().store_timeout(Duration::from_secs(5));
    let distant = |mute| Distant {
        inner: MemoryStore::default(),
        mute,
    };
    [
        ("embedded", builder()),
        ("distant", builder().store(distant(false))),
        ("distant, not pushed", builder().store(distant(true))),
        ("redis", builder().redis(redis_url())),
    ]
    .map(|(name, builder)| (name, builder.build().unwrap()))
}

fn circuit(circuits: &Commontrip, policy: PolicyBuilder) -> CircuitBreaker {
    let policy = policy.build().unwrap();
    circuits.circuit(&unique("evidence"), policy).unwrap()
}

fn in_a_row(failures: u64) -> PolicyBuilder {
    Policy::builder()
        .no_failure_rate_threshold()
        .consecutive_failures_threshold(failures)
}

fn letter(rejected: bool) -> char {
    if rejected { 'R' } else { 'F' }
}

fn sync(breaker: &CircuitBreaker, calls: usize) -> String {
    let call = || breaker.call_sync(|| Err::<(), _>("down"));
    let rejected = |_| call().unwrap_err().rejection().is_some();
    (0..calls).map(rejected).map(letter).collect()
}

async fn awaited(breaker: &CircuitBreaker, calls: usize, takes: Option<Duration>) -> String {
    let mut letters = String::new();
    for _ in 0..calls {
        let call = breaker.call(|| async {
            if let Some(takes) = takes {
                sleep(takes).await;
            }
            Err::<(), _>("down")
        });
        letters.push(letter(call.await.unwrap_err().rejection().is_some()));
    }
    letters
}

#[tokio::test]
async fn after_five_failures_in_a_row_the_sixth_call_is_rejected() {
    for (place, circuits) in everywhere() {
        for known in [true, false] {
            let new = async || {
                let breaker = circuit(&circuits, in_a_row(5));
                if known {
                    circuits.flush().await;
                }
                breaker
            };
            assert_eq!(sync(&new().await, 8), "FFFFFRRR", "{place}, sync");
            let breaker = new().await;
            assert_eq!(
                awaited(&breaker, 8, None).await,
                "FFFFFRRR",
                "{place}, awaited"
            );
            let breaker = new().await;
            let letters = awaited(&breaker, 8, Some(Duration::ZERO)).await;
            assert_eq!(letters, "FFFFFRRR", "{place}, yielding");
            let breaker = new().await;
            assert_eq!(
                awaited(&breaker, 8, Some(2 * MS)).await,
                "FFFFFRRR",
                "{place}, 2 ms"
            );
            until("open", async || breaker.state() == State::Open).await;
        }
    }
}

#[tokio::test]
async fn who_reports_at_once_and_asks_at_every_call_is_answered_by_what_it_has_seen() {
    for (place, circuits) in everywhere() {
        let strict = || {
            let policy = in_a_row(5).decision_ttl(Duration::ZERO);
            circuit(&circuits, policy.report_interval(Duration::ZERO))
        };
        assert_eq!(awaited(&strict(), 7, None).await, "FFFFFRR", "{place}");
        assert_eq!(
            awaited(&strict(), 7, Some(MS)).await,
            "FFFFFRR",
            "{place}, 1 ms"
        );
        assert_eq!(sync(&strict(), 7), "FFFFFRR", "{place}, sync");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_ring_opens_when_half_of_it_has_failed() {
    for (place, circuits) in everywhere() {
        for length in [10, 100] {
            let policy = Policy::builder()
                .sliding_window_count(length)
                .no_consecutive_failures_threshold();
            let breaker = circuit(&circuits, policy.minimum_number_of_calls(length));
            circuits.flush().await;
            for _ in 0..2 * length {
                breaker.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
            }
            circuits.flush().await;
            let half = length as usize / 2;
            let letters = awaited(&breaker, half + 3, Some(MS)).await;
            assert_eq!(
                letters.find('R'),
                Some(half),
                "{place}, {length}: {letters}"
            );
        }
    }
}

#[tokio::test]
async fn one_outcome_that_asks_for_it_rejects_the_next_call() {
    for (place, circuits) in everywhere() {
        let breaker = circuit(&circuits, Policy::builder());
        circuits.flush().await;
        let trip = |_: &Result<(), ()>| commontrip::Outcome::trip();
        let _ = breaker.call_sync_with(trip, || Err(()));
        assert_eq!(sync(&breaker, 1), "R", "{place}");
    }
}

#[tokio::test]
async fn the_store_has_the_last_word() {
    let store = Distant {
        mute: true,
        ..Distant::default()
    };
    let replica = || Commontrip::builder().store(store.clone()).build().unwrap();
    let (here, there) = (replica(), replica());
    let [breaker, other] = [&here, &there]
        .map(|circuits| circuits.circuit("c", in_a_row(5).build().unwrap()).unwrap());
    here.flush().await;
    other
        .store_policy("consecutive_failures_threshold=50")
        .await
        .unwrap();
    // It does not yet know that fifty are needed.
    assert_eq!(sync(&breaker, 6), "FFFFFR");
    until("it is told", async || sync(&breaker, 1) == "F").await;
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test]
async fn below_the_quorum_a_replica_decides_for_itself_alone() {
    for (place, circuits) in everywhere() {
        let breaker = circuit(&circuits, in_a_row(5).quorum(2));
        circuits.flush().await;
        let name = breaker.name().to_owned();
        // Another replica is present and healthy.
        let letters = sync(&breaker, 7);
        assert_eq!(letters, "FFFFFRR", "{place} {name}");
    }
}
