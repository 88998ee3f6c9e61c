//! Retries: a circuit within each try, no try after a rejection, and what the other nesting hides.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backon::Retryable;
use commontrip::retry::{BackoffBuilder, ConstantBuilder, ObservedBackoff};
use commontrip::{CallError, CircuitBreaker, Commontrip, Outcome, Override, Policy, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{unique, unique_prefix};
use crate::upstream::replica;

const HOUR: Duration = Duration::from_secs(3600);

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn each(wait: Duration, times: usize) -> ConstantBuilder {
    let waits = ConstantBuilder::new().with_delay(wait);
    waits.with_max_times(times)
}

fn policy() -> commontrip::PolicyBuilder {
    Policy::builder()
        .wait_duration_in_open_state(HOUR)
        .report_interval(Duration::ZERO)
}

/// An upstream that hangs up on the first `fails` connections and answers the rest; counts them.
async fn upstream(fails: u32) -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let came = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&came);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if count.fetch_add(1, Ordering::SeqCst) >= fails {
                let _ = stream.write_u8(42).await;
            }
        }
    });
    (address, came)
}

async fn ask(address: SocketAddr) -> io::Result<u8> {
    TcpStream::connect(address).await?.read_u8().await
}

/// Successes and failures in the store.
async fn counts(circuits: &Commontrip, breaker: &CircuitBreaker) -> (u64, u64) {
    circuits.flush().await;
    let seen = breaker.snapshot().await.unwrap();
    (seen.successes_total, seen.failures_total)
}

#[tokio::test]
async fn the_circuit_within_each_try_sees_each_failure_and_the_other_way_round_it_does_not() {
    let circuits = replica(&unique_prefix("retry"));
    let breaker = || {
        let policy = policy().build().unwrap();
        circuits.circuit(&unique("users"), policy).unwrap()
    };
    // Two failures, then an answer.
    let (right, (address, _)) = (breaker(), upstream(2).await);
    let waits = each(Duration::ZERO, 3);
    let answer = right.retry(waits).call(|| ask(address)).await;
    assert_eq!(answer.unwrap(), 42);
    assert_eq!(counts(&circuits, &right).await, (1, 2));

    let (wrong, (address, _)) = (breaker(), upstream(2).await);
    let answer = wrong.call(|| (|| ask(address)).retry(waits)).await;
    assert_eq!(answer.unwrap(), 42);
    assert_eq!(counts(&circuits, &wrong).await, (1, 0), "both are hidden");
}

#[tokio::test]
async fn an_upstream_that_is_down_is_left_alone_and_the_other_way_round_it_is_not() {
    let circuits = replica(&unique_prefix("retry"));
    let breaker = || {
        let policy = policy().consecutive_failures_threshold(2);
        let policy = policy.build().unwrap();
        circuits.circuit(&unique("users"), policy).unwrap()
    };
    // The circuit must have reported each failure before the next try.
    let report = async || circuits.flush().await;
    let waits = each(Duration::ZERO, 9);
    let (right, (address, came)) = (breaker(), upstream(u32::MAX).await);
    let answer = right
        .retry(waits)
        .call(async || {
            report().await;
            ask(address).await
        })
        .await;
    assert!(matches!(answer, Err(CallError::Failed(_))), "{answer:?}");
    // The failure before the last try is reported only when that try begins.
    let asked = came.load(Ordering::SeqCst);
    assert!((2..=3).contains(&asked), "{asked} tries");
    circuits.flush().await;
    assert_eq!(right.snapshot().await.unwrap().state, State::Open);

    let (wrong, (address, came)) = (breaker(), upstream(u32::MAX).await);
    let answer = wrong.call(|| (|| ask(address)).retry(waits)).await;
    assert!(answer.is_err());
    assert_eq!(came.load(Ordering::SeqCst), 10, "it goes on and on");
    assert_eq!(counts(&circuits, &wrong).await, (0, 1), "all are one");
    assert_eq!(wrong.snapshot().await.unwrap().state, State::Closed);
}

#[tokio::test]
async fn when_another_replica_opens_the_circuit_the_tries_end_with_the_last_ones_error() {
    let (prefix, name) = (unique_prefix("retry"), unique("users"));
    let (a, b) = (replica(&prefix), replica(&prefix));
    let policy = policy().build().unwrap();
    let here = a.circuit(&name, policy.clone()).unwrap();
    let there = b.circuit(&name, policy).unwrap();
    let (address, came) = upstream(u32::MAX).await;
    let tries = here.retry(each(HOUR, 9)).call(async || {
        let result = ask(address).await;
        there.force_open(Override::because("drill")).await.unwrap();
        crate::wait::until("the news", async || here.state() == State::ForcedOpen).await;
        result
    });
    let answer = timeout(secs(60), tries).await.expect("it waits in vain");
    assert!(matches!(answer, Err(CallError::Failed(_))), "{answer:?}");
    assert_eq!(came.load(Ordering::SeqCst), 1);
    // Without an earlier try there is no other error to return.
    let answer = here.retry(each(HOUR, 9)).call(|| ask(address)).await;
    assert!(matches!(answer, Err(CallError::Rejected(_))), "{answer:?}");
    assert_eq!(came.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_opens_during_a_wait_ends_the_tries() {
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuits.circuit("c", policy().build().unwrap()).unwrap();
    let start = Instant::now();
    let tries = Cell::new(0);
    let retry = breaker.retry(each(secs(10), 9));
    let (answer, ()) = tokio::join!(
        retry.call(async || {
            tries.set(tries.get() + 1);
            Err::<(), _>("down")
        }),
        async {
            sleep(secs(15)).await;
            breaker
                .force_open(Override::because("drill"))
                .await
                .unwrap();
        }
    );
    assert!(matches!(answer, Err(CallError::Failed("down"))));
    assert_eq!((tries.get(), start.elapsed()), (2, secs(20)));
}

/// A classifier in which each failure asks for this wait.
fn asks<T, E>(wait: Duration) -> impl Fn(&Result<T, E>) -> Outcome {
    move |_| Outcome::failure().with_retry_after(wait)
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_is_waited_for_when_it_is_short() {
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuits.circuit("c", policy().build().unwrap()).unwrap();
    // Two waits each. A requested wait is never shortened, and jitter adds at most the backoff's
    // wait.
    for (seconds, longest, at_least, at_most) in [
        (0, 5, 2, 2),
        (1, 5, 2, 4),
        (3, 5, 6, 8),
        (5, 5, 10, 12),
        (6, 5, 0, 0),
        (6, 10, 12, 14),
    ] {
        let start = Instant::now();
        let retry = breaker.retry(each(secs(1), 2));
        let retry = retry.longest_retry_after(secs(longest));
        let classify = asks(secs(seconds));
        let answer = retry.call_with(classify, async || Err::<(), _>("busy"));
        assert!(matches!(answer.await, Err(CallError::Failed("busy"))));
        let took = start.elapsed();
        assert!(
            (secs(at_least)..=secs(at_most)).contains(&took),
            "{seconds} of {longest}: {took:?}"
        );
        breaker.reset().await.unwrap();
    }
}

/// When each of fifty callers retries, after all were given the same wait at the same time.
async fn second_tries<B>(backoff: impl Fn() -> B, told: Duration) -> Vec<Duration>
where
    B: BackoffBuilder,
{
    let circuits = Commontrip::embedded().unwrap();
    let policy = policy().no_consecutive_failures_threshold();
    let policy = policy
        .no_failure_rate_threshold()
        .failure_count_threshold(10_000);
    let breaker = circuits.circuit("c", policy.build().unwrap()).unwrap();
    let start = Instant::now();
    let callers = (0..50).map(|_| {
        let (breaker, backoff) = (&breaker, backoff());
        async move {
            let tries = Cell::new(0);
            let retry = breaker.retry(backoff);
            let call = async || {
                tries.set(tries.get() + 1);
                match tries.get() {
                    1 => Err("busy"),
                    _ => Ok(start.elapsed()),
                }
            };
            retry.call_with(asks(told), call).await.unwrap()
        }
    });
    let mut times = futures_util::future::join_all(callers).await;
    times.sort_unstable();
    times
}

#[tokio::test(start_paused = true)]
async fn callers_who_are_told_one_time_do_not_come_back_at_one_time() {
    let told = secs(2);
    let jittered = || {
        let waits = commontrip::retry::ExponentialBuilder::new();
        waits
            .with_min_delay(Duration::from_millis(100))
            .with_jitter()
    };
    let constant = || each(Duration::from_millis(100), 3);
    let at_once = || each(Duration::ZERO, 3);
    let all = [
        second_tries(jittered, told).await,
        second_tries(constant, told).await,
        second_tries(at_once, told).await,
    ];
    for times in all {
        assert!(times[0] >= told, "{times:?}");
        assert!(times[49] <= told + told / 4, "{times:?}");
        let mut moments: Vec<_> = times.iter().map(Duration::as_millis).collect();
        moments.dedup();
        assert!(moments.len() >= 15, "{times:?}");
        assert!(
            times[49] - times[0] >= Duration::from_millis(40),
            "{times:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_told_wait_within_the_backoffs_own_jitter_is_no_moment_to_meet_at_either() {
    // Each backoff waits for 1 to 2 s, half of them shorter than the requested wait.
    let waits = || {
        let wait = secs(1) + Duration::from_millis(fastrand::u64(..1000));
        each(wait, 3)
    };
    let told = Duration::from_millis(1500);
    let times = second_tries(waits, told).await;
    assert!(times[0] >= told, "{times:?}");
    let together = times
        .iter()
        .filter(|time| **time < told + Duration::from_millis(5));
    assert!(together.count() < 10, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_result_counts_as_says_whether_it_is_tried_again() {
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuits.circuit("c", policy().build().unwrap()).unwrap();
    let tries = async |outcome: Outcome, result: Result<(), ()>| {
        let tries = Cell::new(0);
        let retry = breaker.retry(each(secs(1), 2));
        let call = async || {
            tries.set(tries.get() + 1);
            result
        };
        let answer = retry.call_with(|_: &_| outcome.clone(), call).await;
        assert_eq!(answer.is_ok(), result.is_ok());
        breaker.reset().await.unwrap();
        tries.get()
    };
    assert_eq!(tries(Outcome::failure(), Err(())).await, 3);
    assert_eq!(tries(Outcome::Ignored, Err(())).await, 1);
    assert_eq!(tries(Outcome::Success, Err(())).await, 1);
    assert_eq!(tries(Outcome::trip(), Err(())).await, 1);
    assert_eq!(tries(Outcome::failure(), Ok(())).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_the_circuits_is_tried_again_and_counts_each_time() {
    let circuits = Commontrip::embedded().unwrap();
    let policy = policy().call_timeout(secs(2)).build().unwrap();
    let breaker = circuits.circuit("c", policy).unwrap();
    let start = Instant::now();
    let retry = breaker.clone();
    // In a task, to check that the future is `Send`.
    let answer = tokio::spawn(async move {
        let retry = retry.retry(each(secs(1), 2));
        retry.call(std::future::pending::<Result<(), ()>>).await
    });
    let answer = answer.await.unwrap();
    assert!(matches!(answer, Err(CallError::TimedOut(limit)) if limit == secs(2)));
    assert_eq!(start.elapsed(), secs(2 + 1 + 2 + 1 + 2));
    assert_eq!(counts(&circuits, &breaker).await, (0, 3));
}

/// The waits of a backoff after calls with these durations.
async fn waits_after(took: &[Duration]) -> Vec<Duration> {
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuits
        .circuit("users", policy().build().unwrap())
        .unwrap();
    for took in took {
        breaker
            .call(async || {
                std::thread::sleep(*took);
                Ok::<_, ()>(())
            })
            .await
            .unwrap();
    }
    let backoff = ObservedBackoff::of(&breaker)
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_millis(300))
        .with_max_times(4);
    backoff.collect()
}

#[tokio::test]
async fn observed_waits_follow_the_calls_within_their_bounds() {
    let is = |wait: Duration, ms: u64| {
        let least = Duration::from_millis(ms);
        // The middle of a bucket is at most 1/33 lower; a busy machine makes calls longer.
        assert!(wait * 33 >= least * 32, "{wait:?}, not {least:?}");
    };
    let none = waits_after(&[]).await;
    assert_eq!(none.len(), 4);
    for wait in none {
        is(wait, 20);
        assert!(wait <= Duration::from_millis(30), "{wait:?}");
    }
    let waits = waits_after(&[Duration::from_millis(60)]).await;
    for (wait, ms) in waits.iter().zip([60, 120, 240, 300]) {
        is(*wait, ms);
    }
    assert!(waits[3] <= Duration::from_millis(450), "{waits:?}");
    assert_eq!(waits.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn observed_waits_are_a_backoff_of_retries() {
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuits
        .circuit("users", policy().build().unwrap())
        .unwrap();
    let backoff = ObservedBackoff::of(&breaker)
        .with_min_delay(secs(1))
        .with_max_times(2);
    let begun = Instant::now();
    let tries = Cell::new(0);
    let failed = breaker
        .retry(backoff)
        .call(async || {
            tries.set(tries.get() + 1);
            Err::<(), _>("down")
        })
        .await;
    assert!(matches!(failed, Err(CallError::Failed("down"))));
    assert_eq!(tries.get(), 3);
    let took = begun.elapsed();
    assert!((secs(2)..=secs(4)).contains(&took), "{took:?}");
}
