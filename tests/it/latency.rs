//! Latencies across a fleet: percentiles against exact ones, and the cost of storing them.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use commontrip::model::{Circuit, Head, Latencies, Report};
use commontrip::store::{MemoryStore, RedisStore, Store};
use commontrip::{
    CircuitBreaker, Clock, Commontrip, Counts, LatencyRecording, Name, Outcome, Percentiles, Policy,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::scripts::{connect, keys};
use crate::support::{OwnServer, redis_url, unique};

const BASE: u64 = 1_735_689_600_000;

/// Distributions of latencies.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Constant,
    Uniform,
    /// Most are short, a few very long.
    Exponential,
    /// Cache hits, and the slower source behind the cache.
    TwoHumps,
    /// Every order of magnitude is equally likely.
    Scales,
}

impl Shape {
    /// A latency in µs, between 32 µs and 67 s, from numbers between 0 and 1.
    fn micros(self, scale: f64, at: f64, hump: f64) -> u64 {
        let micros = match self {
            Self::Constant => scale,
            Self::Uniform => scale * at,
            Self::Exponential => scale * -(1.0 - at).ln(),
            Self::TwoHumps if hump < 0.9 => scale / 50.0 * (1.0 + at),
            Self::TwoHumps => scale * (1.0 + at),
            Self::Scales => 32.0 * 2_000_000_f64.powf(at),
        };
        (micros as u64).clamp(32, 67_000_000)
    }
}

fn draws() -> impl Strategy<Value = Vec<Vec<(f64, f64)>>> {
    vec(vec((0.0..1.0, 0.0..1.0), 1..400), 1..8)
}

fn shape() -> impl Strategy<Value = Shape> {
    use Shape::{Constant, Exponential, Scales, TwoHumps, Uniform};
    prop::sample::select(vec![Constant, Uniform, Exponential, TwoHumps, Scales])
}

proptest! {
    #[test]
    fn percentiles_of_a_fleet_are_within_5_percent_of_those_of_all_its_calls(
        shape in shape(), scale in 100.0..10_000_000.0, replicas in draws(),
    ) {
        let mut circuit = Circuit::default();
        let mut all = Vec::new();
        for (n, draws) in replicas.iter().enumerate() {
            let mut latencies = Latencies::default();
            for (at, hump) in draws {
                let micros = shape.micros(scale, *at, *hump);
                latencies.record(Duration::from_micros(micros), 1);
                all.push(micros);
            }
            // Each replica reports in its own slice.
            circuit.report(&report(&format!("r{n}"), 1, latencies), BASE + 1000 * n as u64);
        }
        let head = Head::default();
        let seen = circuit.snapshot(&head, BASE + 1000 * replicas.len() as u64).latency;
        let seen = seen.expect("calls were measured");
        prop_assert_eq!(seen.count, all.len() as u64);
        all.sort_unstable();
        for (percent, seen) in [(50, seen.p50), (95, seen.p95), (99, seen.p99)] {
            let exact = all[(all.len() * percent).div_ceil(100) - 1] as f64;
            let seen = seen.as_nanos() as f64 / 1000.0;
            prop_assert!((seen - exact).abs() <= 0.05 * exact, "p{percent} is {exact}, not {seen}");
        }
    }
}

fn report(replica: &str, seq: u64, latencies: Latencies) -> Report {
    let head = Head {
        replica: replica.to_owned(),
        ..Head::default()
    };
    let counts = Counts {
        successes: latencies.count(),
        ..Counts::default()
    };
    Report {
        head,
        seq,
        counts,
        latencies,
        ..Report::default()
    }
}

#[tokio::test]
async fn latencies_leave_the_window_as_the_clock_goes_on() {
    let clock = Clock::manual();
    let (store, name) = (MemoryStore::new(clock.clone()), Name::new("c").unwrap());
    let mut latencies = Latencies::default();
    latencies.record(Duration::from_millis(20), 7);
    let batch = [(name.clone(), report("r", 1, latencies))];
    store.report(&batch).await.unwrap().remove(0).unwrap();
    let head = Head::default();
    let seen = async || store.snapshot(&name, &head).await.unwrap().latency;
    assert_eq!(seen().await.unwrap().count, 7);
    clock.advance(Duration::from_secs(8));
    assert_eq!(seen().await.unwrap().count, 7);
    clock.advance(Duration::from_secs(2));
    assert_eq!(seen().await, None);
}

#[tokio::test]
async fn the_latencies_of_a_million_calls_take_no_more_memory_than_their_buckets() {
    let server = OwnServer::start();
    let mut redis = connect(&server.admin_url());
    let store = RedisStore::builder().timeout(Duration::from_secs(10));
    let store = store.open(&server.url()).unwrap();
    let name = Name::new("payments").unwrap();
    let key = &keys("commontrip", "payments")[8];
    let mut random = fastrand::Rng::with_seed(1);
    let mut most = [0_u64; 2];
    for seq in 1..=1000 {
        let mut latencies = Latencies::default();
        for _ in 0..1000 {
            let micros = Shape::Exponential.micros(20_000.0, random.f64(), 0.0);
            latencies.record(Duration::from_micros(micros), 1);
        }
        let mut report = report("a-1f2e3d4c", seq, latencies);
        report.head.now_ms = BASE + 600 * seq;
        let batch = [(name.clone(), report)];
        store.report(&batch).await.unwrap().remove(0).unwrap();
        let mut usage = redis::cmd("MEMORY");
        let usage = usage.arg("USAGE").arg(key).arg("SAMPLES").arg(0);
        let usage = usage.query(&mut redis);
        let half = usize::from(seq > 500);
        most[half] = most[half].max(usage.unwrap());
    }
    // Written to stderr directly, because the test harness captures `eprintln!`.
    let _ = writeln!(io::stderr(), "latencies: {most:?} bytes at most");
    // The hash's table doubles, and both tables exist until Redis has moved the entries.
    assert!(most[1] < most[0] + 1_100 && most[1] < 32_000, "{most:?}");
}

/// A replica whose calls take as long as its manual clock says.
struct Replica {
    clock: Clock,
    circuits: Commontrip,
    breaker: CircuitBreaker,
}

impl Replica {
    async fn new(name: &str, recording: LatencyRecording) -> Self {
        let clock = Clock::manual();
        let circuits = Commontrip::builder()
            .redis(redis_url())
            .clock(clock.clone());
        let circuits = circuits
            .store_timeout(Duration::from_secs(10))
            .build()
            .unwrap();
        let policy = Policy::builder()
            .latency_recording(recording)
            .build()
            .unwrap();
        let breaker = circuits.circuit(name, policy).unwrap();
        let replica = Self {
            clock,
            circuits,
            breaker,
        };
        replica
            .breaker
            .acquire()
            .await
            .unwrap()
            .record(Outcome::Ignored);
        replica.circuits.flush().await;
        replica
    }

    fn call(&self, calls: u64, take: Duration) {
        for _ in 0..calls {
            let call = || {
                self.clock.advance(take);
                Ok::<_, ()>(())
            };
            self.breaker.call_sync(call).unwrap();
        }
    }

    async fn seen(&self) -> Option<Percentiles> {
        self.circuits.flush().await;
        self.breaker.snapshot().await.unwrap().latency
    }
}

fn about(seen: Duration, ms: u64) -> bool {
    let ratio = seen.as_secs_f64() / Duration::from_millis(ms).as_secs_f64();
    (ratio - 1.0).abs() < 0.04
}

#[tokio::test]
async fn a_snapshot_has_the_percentiles_of_every_replicas_calls() {
    for recording in [LatencyRecording::EveryCall, LatencyRecording::Sampled] {
        let name = unique("latencies");
        let a = Replica::new(&name, recording).await;
        let b = Replica::new(&name, recording).await;
        // Time passes during each call, so each begins at a new tick and is sampled.
        a.call(60, Duration::from_millis(20));
        b.call(30, Duration::from_millis(20));
        b.call(10, Duration::from_millis(300));
        a.seen().await;
        let seen = b.seen().await.expect("calls were measured");
        assert_eq!(seen.count, 100, "{recording:?}");
        assert!(
            about(seen.p50, 20) && about(seen.p95, 300) && about(seen.p99, 300),
            "{seen:?}"
        );
        a.circuits.shutdown().await;
        b.circuits.shutdown().await;
    }
}

#[tokio::test]
async fn each_tenth_call_is_slow_in_a_sample_too() {
    let replica = Replica::new(&unique("latencies"), LatencyRecording::Sampled).await;
    for _ in 0..200 {
        replica.call(9, Duration::ZERO);
        replica.call(1, Duration::from_millis(5));
    }
    let seen = replica.seen().await.unwrap();
    assert!(seen.count.abs_diff(2000) <= 4, "{seen:?}");
    assert!(
        seen.p50.is_zero() && about(seen.p95, 5) && about(seen.p99, 5),
        "{seen:?}"
    );
    replica.circuits.shutdown().await;
}

#[tokio::test]
async fn a_quiet_circuit_is_sampled_whole_after_a_busy_time() {
    let replica = Replica::new(&unique("latencies"), LatencyRecording::Sampled).await;
    replica.call(100_000, Duration::ZERO);
    let busy = replica.seen().await.unwrap();
    assert!(busy.count.abs_diff(100_000) <= 200, "{busy:?}");
    replica.clock.advance(Duration::from_millis(10));
    replica.call(30, Duration::from_millis(20));
    let quiet = replica.seen().await.unwrap();
    assert_eq!(quiet.count - busy.count, 30);
    assert!(quiet.p99.is_zero(), "{quiet:?}");
    replica.circuits.shutdown().await;
}

/// Calls of one circuit with real times, and how long each took.
struct Timed {
    circuits: Commontrip,
    breaker: CircuitBreaker,
    took: Mutex<Vec<Duration>>,
}

impl Timed {
    async fn new() -> Arc<Self> {
        let circuits = Commontrip::embedded().unwrap();
        let breaker = circuits.circuit("sampled", Policy::default()).unwrap();
        // A call that cannot wait is rejected until the circuit's state is known.
        circuits.flush().await;
        let took = Mutex::default();
        Arc::new(Self {
            circuits,
            breaker,
            took,
        })
    }

    fn note(&self, began: Instant) -> Result<(), ()> {
        self.took.lock().unwrap().push(began.elapsed());
        Ok(())
    }

    async fn calls(self: Arc<Self>, calls: u64, take: Duration) {
        for _ in 0..calls {
            let call = async || {
                let began = Instant::now();
                tokio::time::sleep(take).await;
                self.note(began)
            };
            self.breaker.call(call).await.unwrap();
        }
    }

    fn blocking_calls(&self, calls: u64, take: Duration) {
        for _ in 0..calls {
            let call = || {
                let began = Instant::now();
                std::thread::sleep(take);
                self.note(began)
            };
            self.breaker.call_sync(call).unwrap();
        }
    }

    /// Checks each percentile within the error of sampling and buckets.
    async fn check(&self) {
        self.circuits.flush().await;
        let seen = self.breaker.snapshot().await.unwrap().latency.unwrap();
        let mut took = self.took.lock().unwrap().clone();
        took.sort_unstable();
        let calls = took.len();
        let at = |percent: usize| took[(calls * percent / 100).min(calls - 1)];
        assert!(
            seen.count.abs_diff(calls as u64) <= calls as u64 / 50,
            "{seen:?} of {calls}"
        );
        for (percent, ranks, seen) in [(50, 6, seen.p50), (95, 3, seen.p95), (99, 1, seen.p99)] {
            let from = at(percent - ranks).mul_f64(0.96);
            let from = from.saturating_sub(Duration::from_micros(50));
            let to = at(percent + ranks).mul_f64(1.04) + Duration::from_micros(50);
            assert!(
                from <= seen && seen <= to,
                "p{percent} is {seen:?}, not from {from:?} to {to:?}"
            );
        }
    }
}

/// Twelve tasks pause briefly between long calls, while others wait three times as long.
async fn tasks_of_two_kinds() {
    let timed = Timed::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..12 {
        let (calls, take) = [(400, 2), (400, 2), (100, 12)][n % 3];
        tasks.spawn(timed.clone().calls(calls, Duration::from_millis(take)));
    }
    tasks.join_all().await;
    timed.check().await;
}

#[tokio::test]
async fn tasks_that_share_a_thread_are_sampled_alike() {
    tasks_of_two_kinds().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn calls_that_end_on_another_thread_are_sampled_alike() {
    tasks_of_two_kinds().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn threads_that_block_are_sampled_alike() {
    let timed = Timed::new().await;
    let each = [(20_000, 0), (600, 2), (100, 12)].map(|(calls, take)| {
        let timed = timed.clone();
        let take = Duration::from_millis(take);
        tokio::task::spawn_blocking(move || timed.blocking_calls(calls, take))
    });
    for thread in each {
        thread.await.unwrap();
    }
    timed.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn slow_calls_among_quick_ones_are_sampled_alike() {
    let timed = Timed::new().await;
    let calls = timed.clone();
    let blocking = move || {
        for _ in 0..150 {
            calls.blocking_calls(9, Duration::from_micros(60));
            calls.blocking_calls(1, Duration::from_millis(5));
        }
    };
    tokio::task::spawn_blocking(blocking).await.unwrap();
    timed.check().await;
}

#[tokio::test]
async fn failures_have_latencies_and_what_is_ignored_or_dropped_has_none() {
    for recording in [LatencyRecording::EveryCall, LatencyRecording::Sampled] {
        let replica = Replica::new(&unique("latencies"), recording).await;
        let outcomes = [Outcome::Success, Outcome::failure(), Outcome::Ignored];
        for outcome in outcomes.map(Some).into_iter().chain([None]) {
            let permit = replica.breaker.try_acquire().unwrap();
            replica.clock.advance(Duration::from_millis(5));
            match outcome {
                Some(outcome) => permit.record(outcome),
                None => drop(permit),
            }
        }
        assert_eq!(replica.seen().await.unwrap().count, 2, "{recording:?}");
        replica.circuits.shutdown().await;
    }
}

#[tokio::test]
async fn no_sampled_call_stands_for_ignored_or_dropped_ones() {
    let replica = Replica::new(&unique("latencies"), LatencyRecording::Sampled).await;
    for n in 0..10_000 {
        let permit = replica.breaker.try_acquire().unwrap();
        match n % 4 {
            0 => drop(permit),
            1 => permit.record(Outcome::Ignored),
            _ => permit.success(),
        }
    }
    let seen = replica.seen().await.unwrap();
    assert!(seen.count.abs_diff(5000) < 750, "{seen:?}");
    replica.circuits.shutdown().await;
}

#[tokio::test]
async fn where_latencies_are_off_none_are_kept() {
    let replica = Replica::new(&unique("latencies"), LatencyRecording::Off).await;
    replica.call(10, Duration::from_millis(5));
    assert_eq!(replica.seen().await, None);
    replica.circuits.shutdown().await;
}
