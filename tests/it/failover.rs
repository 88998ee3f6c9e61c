//! A chain of stages: exact times, skipped stages, and reasons to stop; on Redis also the knowledge
//! of other replicas.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use commontrip::failover::{Attempt, ChainError, End, Failover, Stage, Tried};
use commontrip::retry::ExponentialBuilder;
use commontrip::{
    CallError, CircuitBreaker, Clock, Commontrip, FallbackKind, Outcome, Override, Policy,
    Rejection, State,
};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use crate::support::{unique, unique_prefix};
use crate::upstream::replica;
use crate::wait::until;

const HOUR: Duration = Duration::from_secs(3600);

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn policy() -> Policy {
    let policy = Policy::builder().wait_duration_in_open_state(HOUR);
    policy.build().unwrap()
}

fn circuit(circuits: &Commontrip, name: &str) -> CircuitBreaker {
    circuits.circuit(name, policy()).unwrap()
}

/// Successes, failures, and calls that are neither (ignored or abandoned).
async fn counts(circuits: &Commontrip, breaker: &CircuitBreaker) -> (u64, u64, u64) {
    circuits.flush().await;
    let seen = breaker.snapshot().await.unwrap();
    (
        seen.successes_total,
        seen.failures_total,
        seen.ignored_total + seen.abandoned_total,
    )
}

/// Cloud 10 s, wait 2 s, cloud 20 s, wait 5 s, local 30 s twice, 70 s in total.
fn asked_for(cloud: &CircuitBreaker, local: &CircuitBreaker) -> Failover {
    Failover::builder()
        .stage(Stage::new("cloud", cloud).attempt_timeout(secs(10)))
        .stage(
            Stage::new("cloud-patient", cloud)
                .pause_before(secs(2))
                .attempt_timeout(secs(20)),
        )
        .stage(
            Stage::new("local", local)
                .pause_before(secs(5))
                .attempt_timeout(secs(30))
                .retries(1),
        )
        .total_timeout(secs(70))
        .build()
        .unwrap()
}

/// When each attempt began, relative to the first.
#[derive(Clone)]
struct Diary {
    start: Instant,
    begun: Arc<Mutex<Vec<(String, u32, Duration)>>>,
}

impl Diary {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            begun: Arc::default(),
        }
    }

    fn note(&self, attempt: &Attempt) {
        let entry = (
            attempt.name.to_string(),
            attempt.number,
            self.start.elapsed(),
        );
        self.begun.lock().push(entry);
    }

    fn expect(&self, expected: &[(&str, u32, Duration)]) {
        let begun = self.begun.lock();
        let begun: Vec<_> = begun
            .iter()
            .map(|(s, n, at)| (s.as_str(), *n, *at))
            .collect();
        assert_eq!(begun, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_hangs_everywhere_keeps_its_times() {
    let circuits = Commontrip::embedded().unwrap();
    let (cloud, local) = (circuit(&circuits, "cloud"), circuit(&circuits, "local"));
    let diary = Diary::new();
    let exhausted = asked_for(&cloud, &local)
        .call(|attempt| {
            diary.note(&attempt);
            std::future::pending::<Result<(), io::Error>>()
        })
        .await
        .unwrap_err();
    diary.expect(&[
        ("cloud", 1, secs(0)),
        ("cloud-patient", 2, secs(12)),
        ("local", 3, secs(37)),
        ("local", 4, secs(67)),
    ]);
    assert_eq!(exhausted.elapsed, secs(70));
    assert_eq!(exhausted.end, End::TotalTimeout(secs(70)));
    let limits: Vec<_> = exhausted
        .attempts
        .iter()
        .map(|tried| match tried.error {
            CallError::TimedOut(limit) => (&*tried.stage, tried.number, limit),
            _ => panic!("{tried:?}"),
        })
        .collect();
    assert_eq!(
        limits,
        [
            ("cloud", 1, secs(10)),
            ("cloud-patient", 2, secs(20)),
            ("local", 3, secs(30)),
            ("local", 4, secs(3)),
        ]
    );
    let words = exhausted.to_string();
    assert!(words.starts_with("no stage served within the total timeout of 70s: cloud (attempt 1): the call took longer than 10s; "), "{words}");
    // A timeout is a failure. An attempt cut short by the total timeout says nothing about its
    // stage.
    assert_eq!(counts(&circuits, &cloud).await, (0, 2, 0));
    assert_eq!(counts(&circuits, &local).await, (0, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_serves_is_told_with_its_stage_attempt_and_time() {
    let circuits = Commontrip::embedded().unwrap();
    let (cloud, local) = (circuit(&circuits, "cloud"), circuit(&circuits, "local"));
    let chain = asked_for(&cloud, &local);
    // In a task, to check that the future is `Send`.
    let served = tokio::spawn(async move {
        let call = |attempt: Attempt| async move {
            match attempt.stage {
                0 => Err(io::Error::other("refused")),
                1 => std::future::pending().await,
                _ => {
                    sleep(secs(8)).await;
                    Ok("spoken")
                }
            }
        };
        chain.call(call).await
    });
    let served = served.await.unwrap().unwrap();
    assert_eq!(served.value, "spoken");
    assert_eq!((&*served.stage, served.attempt), ("local", 3));
    assert_eq!(served.elapsed, secs(2 + 20 + 5 + 8));
    assert!(served.fallback);

    let chain = asked_for(&cloud, &local);
    let served = chain.call(async |_| Ok::<_, io::Error>(1)).await.unwrap();
    assert_eq!((&*served.stage, served.attempt), ("cloud", 1));
    assert_eq!((served.elapsed, served.fallback), (secs(0), false));
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_is_skipped_without_any_wait() {
    let circuits = Commontrip::embedded().unwrap();
    let (cloud, local) = (circuit(&circuits, "cloud"), circuit(&circuits, "local"));
    cloud.force_open(Override::because("drill")).await.unwrap();
    let served = asked_for(&cloud, &local)
        .call(async |_| Ok::<_, io::Error>("spoken"))
        .await
        .unwrap();
    // Nothing was tried, so there is no pause.
    assert_eq!((&*served.stage, served.attempt), ("local", 1));
    assert_eq!((served.elapsed, served.fallback), (secs(0), true));

    // There is no pause before a skipped stage, even after a failure.
    cloud.reset().await.unwrap();
    local.force_open(Override::because("drill")).await.unwrap();
    let exhausted = Failover::builder()
        .stage(Stage::new("cloud", &cloud))
        .stage(Stage::new("local", &local).pause_before(secs(5)))
        .build()
        .unwrap()
        .call(async |_| Err::<(), _>(io::Error::other("refused")))
        .await
        .unwrap_err();
    assert_eq!(exhausted.elapsed, secs(0));
    assert_eq!(exhausted.end, End::LastStage);
    let forced = |rejection: &Rejection| rejection.state == State::ForcedOpen;
    assert!(exhausted.attempts[1].error.rejection().is_some_and(forced));
    let words = exhausted.to_string();
    assert!(
        words.contains("cloud (attempt 1): refused; local: call rejected"),
        "{words}"
    );
    assert_eq!(exhausted.into_failed().unwrap().to_string(), "refused");
}

#[tokio::test]
async fn circuits_that_another_stage_stood_in_for_count_it_once() {
    let circuits = Commontrip::embedded().unwrap();
    let (cloud, local) = (circuit(&circuits, "cloud"), circuit(&circuits, "local"));
    let chain = Failover::builder()
        .stage(Stage::new("cloud", &cloud))
        .stage(Stage::new("cloud-patient", &cloud))
        .stage(Stage::new("local", &local))
        .build()
        .unwrap();
    let ask = async |good: &str| {
        let call = |attempt: Attempt| {
            let well = *attempt.name == *good;
            async move { well.then_some(()).ok_or("down") }
        };
        chain.call(call).await.map(|served| served.stage)
    };
    let seen = || {
        let stats = circuits.stats();
        let of = |i: usize| (&*stats[i].name, stats[i].fallbacks.of(FallbackKind::Stage));
        assert_eq!((of(0).0, of(1).0), ("cloud", "local"));
        (of(0).1, of(1).1)
    };
    ask("cloud").await.unwrap();
    assert_eq!(seen(), (0, 0));
    // The circuit itself served, through its other stage.
    ask("cloud-patient").await.unwrap();
    assert_eq!(seen(), (0, 0));
    ask("local").await.unwrap();
    assert_eq!(seen(), (1, 0));
    ask("nobody").await.unwrap_err();
    assert_eq!(seen(), (1, 0));
    // Skipped stages count as well.
    cloud.force_open(Override::because("drill")).await.unwrap();
    ask("local").await.unwrap();
    assert_eq!(seen(), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn retries_stop_at_a_rejection() {
    let circuits = Commontrip::embedded().unwrap();
    let policy = Policy::builder().consecutive_failures_threshold(2);
    let policy = policy.wait_duration_in_open_state(HOUR);
    let policy = policy.report_interval(Duration::ZERO).build().unwrap();
    let cloud = circuits.circuit("cloud", policy).unwrap();
    let every_second = std::iter::repeat_n(secs(1), 9);
    let waits = every_second.collect::<Vec<_>>();
    let chain = Failover::builder()
        .stage(Stage::new("cloud", &cloud).backoff(waits.into_iter()))
        .build()
        .unwrap();
    let exhausted = chain
        .call(async |_| Err::<(), _>(io::Error::other("refused")))
        .await
        .unwrap_err();
    assert_eq!(cloud.state(), State::Open);
    assert_eq!(counts(&circuits, &cloud).await, (0, 2, 0));
    let made = exhausted.attempts.iter();
    let made = made.filter(|tried| tried.error.rejection().is_none());
    assert_eq!(made.count(), 2);
    // It does not wait if it knows that the next attempt would be rejected.
    assert!(exhausted.elapsed <= secs(2), "{exhausted:?}");
}

#[tokio::test]
async fn retries_stop_where_only_probes_are_admitted() {
    let clock = Clock::manual();
    let circuits = Commontrip::builder().clock(clock.clone());
    let circuits = circuits.build().unwrap();
    let policy = Policy::builder().permitted_number_of_calls_in_half_open_state(1);
    let policy = policy.success_threshold(1).build().unwrap();
    let cloud = circuits.circuit("cloud", policy).unwrap();
    let trip = cloud.acquire().await.unwrap();
    trip.record(Outcome::trip());
    circuits.flush().await;
    clock.advance(secs(40));
    let probe = cloud.acquire().await.unwrap();
    assert!(probe.is_probe());
    let chain = Failover::builder().stage(Stage::new("cloud", &cloud).retries(3));
    let chain = chain.build().unwrap();
    let exhausted = chain.call(async |_| Ok::<_, ()>(())).await.unwrap_err();
    let rejected = |tried: &Tried<()>| tried.error.rejection().is_some();
    assert!(exhausted.attempts.iter().all(rejected));
    assert_eq!(exhausted.attempts.len(), 1);
    probe.success();
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_when_the_time_is_over() {
    let circuits = Commontrip::embedded().unwrap();
    let (cloud, local) = (circuit(&circuits, "cloud"), circuit(&circuits, "local"));
    // The second attempt would begin exactly at the end; the next stage would still be in its
    // pause.
    for (retries, total) in [(1, secs(10)), (0, secs(11))] {
        let cloud_stage = Stage::new("cloud", &cloud).attempt_timeout(secs(10));
        let chain = Failover::builder()
            .stage(cloud_stage.retries(retries))
            .stage(Stage::new("local", &local).pause_before(secs(2)))
            .total_timeout(total)
            .build()
            .unwrap();
        let diary = Diary::new();
        let exhausted = chain
            .call(|attempt| {
                diary.note(&attempt);
                std::future::pending::<Result<(), io::Error>>()
            })
            .await
            .unwrap_err();
        diary.expect(&[("cloud", 1, secs(0))]);
        assert_eq!(exhausted.elapsed, total);
        assert_eq!(exhausted.end, End::TotalTimeout(total));
        assert_eq!(exhausted.attempts.len(), 1);
    }
    assert_eq!(counts(&circuits, &cloud).await, (0, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn what_an_error_counts_as_says_whether_another_stage_is_tried() {
    let circuits = Commontrip::embedded().unwrap();
    let (cloud, local) = (circuit(&circuits, "cloud"), circuit(&circuits, "local"));
    let chain = Failover::builder()
        .stage(
            Stage::new("cloud", &cloud)
                .backoff([secs(1), secs(1)].into_iter())
                .attempt_timeout(secs(10)),
        )
        .stage(Stage::new("local", &local))
        .build()
        .unwrap();
    let later = |wait| Outcome::failure().with_retry_after(wait);
    for (outcome, end, made, elapsed) in [
        (Outcome::Success, End::CallersError, 1, secs(0)),
        (Outcome::Ignored, End::CallersError, 1, secs(0)),
        (Outcome::failure(), End::LastStage, 4, secs(2)),
        (later(secs(1)), End::LastStage, 4, secs(2)),
        // A stage's wait beyond the limit ends its own retries only.
        (later(secs(2)), End::LastStage, 2, secs(0)),
        (Outcome::trip(), End::LastStage, 2, secs(0)),
    ] {
        let exhausted = chain
            .call_with(|_: &Result<(), _>| outcome.clone(), async |_| Err("no"))
            .await
            .unwrap_err();
        assert_eq!(exhausted.end, end, "{outcome:?}");
        assert_eq!(exhausted.attempts.len(), made, "{outcome:?}");
        assert_eq!(exhausted.elapsed, elapsed, "{outcome:?}");
        cloud.reset().await.unwrap();
        local.reset().await.unwrap();
    }
    // An answer is returned even if it counts as a failure.
    let served = chain
        .call_with(
            |_: &Result<_, &str>| Outcome::failure(),
            async |_| Ok("slow"),
        )
        .await
        .unwrap();
    assert_eq!((served.value, served.attempt), ("slow", 1));
}

/// Stages `a`, `b`, ... with one attempt each, and their circuits.
fn stages(circuits: &Commontrip, names: &[&str]) -> (Failover, Vec<CircuitBreaker>) {
    let breakers: Vec<_> = names.iter().map(|name| circuit(circuits, name)).collect();
    let stages = names.iter().zip(&breakers);
    let chain = stages.fold(Failover::builder(), |chain, (name, breaker)| {
        chain.stage(Stage::new(name, breaker))
    });
    (chain.build().unwrap(), breakers)
}

/// Opens a circuit for this long.
async fn force_open(breaker: &CircuitBreaker, wait: Duration) {
    let wait = Override::because("drill").lasting(wait);
    breaker.force_open(wait).await.unwrap();
}

/// Each error is a failure that asks for this many seconds; 0 means no wait.
fn told(result: &Result<(), u64>) -> Outcome {
    Outcome::failure().with_retry_after(result.err().filter(|s| *s > 0).map(secs))
}

#[tokio::test]
async fn an_exhausted_chain_says_when_its_first_stage_may_admit_again() {
    let circuits = Commontrip::embedded().unwrap();
    let (chain, breakers) = stages(&circuits, &["a", "b", "c"]);
    let ask = async |waits: [u64; 3]| {
        let call = |attempt: Attempt| async move { Err(waits[attempt.stage]) };
        chain.call_with(told, call).await.unwrap_err().retry_after()
    };
    let between = |wait: Option<Duration>, from: u64, to: u64| {
        let wait = wait.expect("somebody told");
        // Never too early. A moment passes between the answer and the end of the chain.
        assert!((secs(from)..secs(to + 1)).contains(&wait), "{wait:?}");
    };
    assert_eq!(ask([0, 0, 0]).await, None, "nobody said");
    between(ask([900, 600, 300]).await, 290, 300);
    // A stage that gave no time may be asked at once.
    assert_eq!(ask([900, 0, 300]).await, Some(Duration::ZERO));
    force_open(&breakers[1], secs(200)).await;
    between(ask([900, 0, 300]).await, 190, 200);
    force_open(&breakers[0], secs(100)).await;
    force_open(&breakers[2], HOUR).await;
    between(ask([0, 0, 0]).await, 90, 100);
    // Overrides without an end: the time is unknown.
    for breaker in &breakers {
        let forever = Override::because("drill");
        breaker.force_open(forever).await.unwrap();
    }
    assert_eq!(ask([0, 0, 0]).await, None);
    breakers[0].reset().await.unwrap();
    between(ask([50, 0, 0]).await, 40, 50);
}

#[tokio::test(start_paused = true)]
async fn the_time_that_later_stages_took_is_taken_off() {
    let circuits = Commontrip::embedded().unwrap();
    let (chain, _) = stages(&circuits, &["a", "b"]);
    let call = |attempt: Attempt| async move {
        match attempt.stage {
            0 => Err(10),
            _ => {
                sleep(secs(4)).await;
                Err(60)
            }
        }
    };
    let exhausted = chain.call_with(told, call).await.unwrap_err();
    assert_eq!(exhausted.retry_after(), Some(secs(6)));
}

#[tokio::test(start_paused = true)]
async fn a_stage_whose_circuit_opened_by_its_failure_is_not_asked_before_it_lets_go() {
    let circuits = Commontrip::embedded().unwrap();
    let (chain, breakers) = stages(&circuits, &["a"]);
    let trips = |_: &Result<(), &str>| Outcome::trip();
    let exhausted = chain.call_with(trips, async |_| Err("no")).await;
    let wait = exhausted.unwrap_err().retry_after().unwrap();
    assert!((HOUR - secs(60)..=HOUR + HOUR).contains(&wait), "{wait:?}");
    breakers[0].reset().await.unwrap();
    // The caller's own error: waiting does not help.
    let own = |_: &Result<(), &str>| Outcome::Ignored;
    let exhausted = chain.call_with(own, async |_| Err("no")).await;
    assert_eq!(exhausted.unwrap_err().retry_after(), None);
}

#[tokio::test(start_paused = true)]
async fn attempts_that_are_told_one_time_are_spread() {
    let circuits = Commontrip::embedded().unwrap();
    let policy = Policy::builder().no_consecutive_failures_threshold();
    let policy = policy
        .no_failure_rate_threshold()
        .failure_count_threshold(10_000);
    let cloud = circuits.circuit("cloud", policy.build().unwrap()).unwrap();
    let start = Instant::now();
    let mut calls = Vec::new();
    for _ in 0..50 {
        let backoff = ExponentialBuilder::new().with_min_delay(secs(2));
        let stage = Stage::new("cloud", &cloud).backoff(backoff.with_jitter());
        let chain = Failover::builder().stage(stage).build().unwrap();
        calls.push(tokio::spawn(async move {
            let call = |attempt: Attempt| async move {
                match attempt.number {
                    1 => Err(2),
                    _ => Ok(()),
                }
            };
            chain.call_with(told, call).await.unwrap();
            start.elapsed()
        }));
    }
    let mut moments = Vec::new();
    for call in calls {
        let took = call.await.unwrap();
        assert!(took >= secs(2), "{took:?}");
        moments.push(took.as_millis());
    }
    moments.sort_unstable();
    moments.dedup();
    assert!(moments.len() >= 15, "{moments:?}");
}

#[tokio::test]
async fn a_panic_in_an_attempt_is_a_failure_of_its_stage() {
    let circuits = Commontrip::embedded().unwrap();
    let (chain, breakers) = stages(&circuits, &["a", "b"]);
    for _ in 0..8 {
        let call = |attempt: Attempt| async move {
            assert!(attempt.stage == 0, "as asked");
            Err::<(), _>("no")
        };
        let call = AssertUnwindSafe(chain.call(call)).catch_unwind();
        assert!(call.await.is_err());
    }
    for breaker in &breakers {
        assert_eq!(counts(&circuits, breaker).await, (0, 8, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_chain_leaves_nothing_behind() {
    let circuits = Commontrip::embedded().unwrap();
    let (cloud, local) = (circuit(&circuits, "cloud"), circuit(&circuits, "local"));
    let diary = Diary::new();
    let chain = asked_for(&cloud, &local);
    let call = chain.call(|attempt| {
        diary.note(&attempt);
        std::future::pending::<Result<(), io::Error>>()
    });
    assert!(tokio::time::timeout(secs(15), call).await.is_err());
    sleep(secs(100)).await;
    diary.expect(&[("cloud", 1, secs(0)), ("cloud-patient", 2, secs(12))]);
    assert_eq!(counts(&circuits, &cloud).await, (0, 1, 1));
    assert_eq!(counts(&circuits, &local).await, (0, 0, 0));
}

#[tokio::test]
async fn what_is_no_chain_is_told() {
    let circuits = Commontrip::embedded().unwrap();
    let cloud = circuit(&circuits, "cloud");
    let stage = |name| Stage::new(name, &cloud);
    let none = Failover::builder().build();
    assert_eq!(none.unwrap_err(), ChainError::NoStage);
    let twice = Failover::builder().stage(stage("a")).stage(stage("a"));
    assert_eq!(
        twice.build().unwrap_err(),
        ChainError::Duplicate("a".to_owned())
    );
    let never = stage("a").attempt_timeout(Duration::ZERO);
    let never = Failover::builder().stage(never).build();
    assert_eq!(
        never.unwrap_err(),
        ChainError::AttemptTimeout("a".to_owned())
    );
    let no_time = Failover::builder().stage(stage("a"));
    let no_time = no_time.total_timeout(Duration::ZERO).build();
    assert_eq!(no_time.unwrap_err(), ChainError::TotalTimeout);
    let long = stage("a").attempt_timeout(secs(3));
    let long = Failover::builder().stage(long).total_timeout(secs(2));
    let words = long.build().unwrap_err().to_string();
    assert_eq!(
        words,
        "an attempt of stage \"a\" may take 3s, the whole chain only 2s; an attempt must fit"
    );
    // Default timeouts fit any total.
    let short = Failover::builder().stage(stage("a")).total_timeout(secs(2));
    assert!(short.build().is_ok());
    // No total is too long.
    let endless = Failover::builder().stage(stage("a").pause_before(HOUR));
    assert!(endless.total_timeout(Duration::MAX).build().is_ok());
}

/// A server that accepts connections and never answers; counts connections.
async fn silent() -> (std::net::SocketAddr, Arc<Mutex<u32>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Arc::new(Mutex::new(0));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            *count.lock() += 1;
            held.push(stream);
        }
    });
    (address, taken)
}

async fn ask(address: std::net::SocketAddr) -> io::Result<u8> {
    TcpStream::connect(address).await?.read_u8().await
}

#[tokio::test]
async fn a_circuit_that_another_replica_opened_is_skipped() {
    let (prefix, name) = (unique_prefix("failover"), unique("cloud"));
    let (a, b) = (replica(&prefix), replica(&prefix));
    let (cloud_a, cloud_b) = (circuit(&a, &name), circuit(&b, &name));
    let local = circuit(&b, &unique("local"));
    let (cloud, taken) = silent().await;
    let chain = Failover::builder()
        .stage(Stage::new("cloud", &cloud_b).attempt_timeout(HOUR))
        .stage(Stage::new("local", &local).pause_before(HOUR))
        .build()
        .unwrap();
    cloud_b.acquire().await.unwrap().success();
    cloud_a.acquire().await.unwrap().record(Outcome::trip());
    a.flush().await;
    until("the news", async || cloud_b.state() == State::Open).await;
    let served = chain
        .call(|attempt| async move {
            match attempt.stage {
                0 => ask(cloud).await,
                _ => Ok(7),
            }
        })
        .await
        .unwrap();
    assert_eq!((served.value, &*served.stage), (7, "local"));
    assert_eq!((served.attempt, served.fallback), (1, true));
    assert_eq!(*taken.lock(), 0, "the open circuit's upstream was asked");
}

#[tokio::test]
async fn the_total_bounds_silent_sockets_and_the_fleet_hears_of_each_timeout() {
    let prefix = unique_prefix("failover");
    let circuits = replica(&prefix);
    let cloud = circuit(&circuits, &unique("cloud"));
    let (address, taken) = silent().await;
    let limit = Duration::from_millis(300);
    let total = Duration::from_millis(1000);
    let chain = Failover::builder()
        .stage(
            Stage::new("cloud", &cloud)
                .attempt_timeout(limit)
                .retries(9),
        )
        .total_timeout(total)
        .build()
        .unwrap();
    let exhausted = chain.call(async |_| ask(address).await).await.unwrap_err();
    assert_eq!(exhausted.end, End::TotalTimeout(total));
    assert!(
        exhausted.elapsed >= total && exhausted.elapsed < secs(20),
        "{exhausted:?}"
    );
    let made = exhausted.attempts.len() as u64;
    assert!((1..=4).contains(&made), "{exhausted:?}");
    assert!(u64::from(*taken.lock()) <= made);
    // On a busy machine, the outcome of the last one is not certain.
    let (successes, failures, ignored) = counts(&circuits, &cloud).await;
    assert_eq!((successes, failures + ignored), (0, made));
    assert!(failures + 1 >= made, "{failures} of {made}");
}

#[cfg(feature = "metrics")]
#[test]
fn chains_are_counted_by_how_they_ended() {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().start_paused(true).build().unwrap();
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let calls = async {
        let circuits = Commontrip::embedded().unwrap();
        let (cloud, local) = (circuit(&circuits, "cloud"), circuit(&circuits, "local"));
        let chain = asked_for(&cloud, &local);
        for bad_stages in [0, 0, 1, 3] {
            let call = |attempt: Attempt| async move {
                match attempt.stage < bad_stages {
                    true => Err("down"),
                    false => Ok(()),
                }
            };
            let _ = chain.call(call).await;
        }
        let ignored = |_: &Result<(), _>| Outcome::Ignored;
        let _ = chain.call_with(ignored, async |_| Err("mistake")).await;
        let hang = |_| std::future::pending::<Result<(), ()>>();
        let _ = chain.call(hang).await;
    };
    metrics::with_local_recorder(&recorder, || runtime.block_on(calls));
    let text = handle.render();
    let mut lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.retain(|line| !line.is_empty());
    lines.sort_unstable();
    let name = "circuit_breaker_failover_total";
    let expected = [
        "{stage=\"cloud\",fallback=\"false\",result=\"served\"} 2",
        "{stage=\"cloud-patient\",fallback=\"true\",result=\"served\"} 1",
        "{stage=\"none\",fallback=\"false\",result=\"callers_error\"} 1",
        "{stage=\"none\",fallback=\"false\",result=\"exhausted\"} 1",
        "{stage=\"none\",fallback=\"false\",result=\"timeout\"} 1",
    ];
    let expected = expected.map(|labels| format!("{name}{labels}"));
    assert_eq!(lines, expected, "{text}");
}
