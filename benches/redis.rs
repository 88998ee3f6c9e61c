//! What the breaker costs Redis: each script's round trip compared with PING's, its server time
//! from `INFO commandstats` (one request at a time, and many in flight over one connection), the
//! share on the fast path, the commands that calls cause, and the memory that a circuit takes.
//!
//! Criterion measures `redis/case`; a table with the ratios and the server's own figures follows.
//! The bench finds its Redis as the tests do.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods
)]

#[path = "../tests/it/support.rs"]
mod support;

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use commontrip::{
    Commontrip, Counts, Name, Override, RedisStore, Snapshot, State, Store,
    model::{Acquire, Head, Latencies, Release, Report},
};
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::future::join_all;
use tokio::runtime::Runtime;

const CALLS: u64 = 5_000;
/// A report with the latencies of 20 calls, each for five calls; a snapshot after such reports.
const MEASURED: &str = "report, latencies";
const LATENCIES: &str = "snapshot, latencies";
/// Requests in flight over one connection.
const FLIGHT: u64 = 100;
/// The minimum of this many repetitions is shown, because others use the machine too.
const REPETITIONS: usize = 5;

/// Reads the server's statistics of commands.
struct Server(redis::Connection);

impl Server {
    fn connect() -> Self {
        Self(
            redis::Client::open(support::admin_url())
                .unwrap()
                .get_connection()
                .unwrap(),
        )
    }

    fn reset(&mut self) {
        redis::cmd("CONFIG")
            .arg("RESETSTAT")
            .exec(&mut self.0)
            .unwrap();
    }

    /// The calls of a command, and microseconds for each call, since the reset.
    fn stat(&mut self, command: &str) -> (u64, f64) {
        let info: String = redis::cmd("INFO")
            .arg("commandstats")
            .query(&mut self.0)
            .unwrap();
        let start = format!("cmdstat_{command}:");
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix(&start))
            .unwrap_or("");
        let field = |name: &str| {
            let value = line
                .split(',')
                .find_map(|f| f.strip_prefix(name)?.strip_prefix('='));
            value.and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0)
        };
        (field("calls") as u64, field("usec_per_call"))
    }

    fn log_slower_than(&mut self, microseconds: i64) {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("slowlog-log-slower-than");
        set.arg(microseconds).arg("slowlog-max-len").arg(2000);
        set.exec(&mut self.0).unwrap();
    }

    /// Percent of calls on the fast path; a script on the full path takes twelve keys.
    fn on_fast_path(&mut self, mut call: impl FnMut()) -> f64 {
        const LOOKED_AT: u32 = 500;
        redis::cmd("SLOWLOG")
            .arg("RESET")
            .exec(&mut self.0)
            .unwrap();
        self.log_slower_than(0);
        (0..LOOKED_AT).for_each(|_| call());
        self.log_slower_than(10_000);
        let mut log = redis::cmd("SLOWLOG");
        let log: Vec<Vec<redis::Value>> = log.arg("GET").arg(-1).query(&mut self.0).unwrap();
        let words = log.into_iter().map(|mut entry| {
            redis::from_redis_value::<Vec<Vec<u8>>>(entry.swap_remove(3)).unwrap()
        });
        let full = words.filter(|words| words[0] == b"EVALSHA" && words[2] == b"12");
        100.0 - full.count() as f64 * 100.0 / f64::from(LOOKED_AT)
    }

    fn memory(&mut self, key: &str) -> u64 {
        let bytes: Option<u64> = redis::cmd("MEMORY")
            .arg("USAGE")
            .arg(key)
            .query(&mut self.0)
            .unwrap();
        bytes.unwrap_or(0)
    }
}

struct Case {
    store: RedisStore,
    circuit: Name,
    number: Cell<u64>,
    /// The snapshot of the last answer.
    seen: RefCell<Snapshot>,
}

impl Case {
    fn new() -> Self {
        let timeout = Duration::from_secs(5);
        let store = RedisStore::builder()
            .timeout(timeout)
            .open(support::redis_url())
            .unwrap();
        let circuit = Name::new(&support::unique("bench")).unwrap();
        Self {
            store,
            circuit,
            number: Cell::new(0),
            seen: RefCell::default(),
        }
    }

    fn head(&self) -> Head {
        Head {
            replica: "bench-1".to_owned(),
            seen: self.seen.borrow().clone(),
            ..Head::default()
        }
    }

    fn next(&self) -> u64 {
        self.number.set(self.number.get() + 1);
        self.number.get()
    }

    async fn run(&self, operation: &str) {
        let (store, circuit, head) = (&self.store, &self.circuit, self.head());
        match operation {
            "report" | MEASURED => {
                let mut latencies = Latencies::default();
                if operation == MEASURED {
                    // Most are near 20 ms, a few far from it.
                    for _ in 0..20 {
                        let seconds = -0.02 * (1.0 - fastrand::f64()).ln();
                        latencies.record(Duration::from_secs_f64(seconds), 5);
                    }
                }
                let counts = Counts {
                    successes: 90,
                    failures: 10,
                    ..Counts::default()
                };
                let report = Report {
                    head,
                    seq: self.next(),
                    counts,
                    latencies,
                    ..Report::default()
                };
                let answers = store.report(&[(circuit.clone(), report)]).await.unwrap();
                let seen = answers[0].as_ref().unwrap();
                assert_eq!(seen.state, State::Closed);
                self.seen.replace(seen.clone());
            }
            "acquire" => {
                let token = format!("bench-1:{}", self.next());
                store
                    .acquire(circuit, &Acquire { head, token })
                    .await
                    .map(drop)
                    .unwrap();
            }
            "release" => {
                let token = "bench-1:none".to_owned();
                store
                    .release(circuit, &Release { head, token })
                    .await
                    .map(drop)
                    .unwrap();
            }
            "snapshot" | LATENCIES => store.snapshot(circuit, &head).await.map(drop).unwrap(),
            _ => store.ping().await.unwrap(),
        }
    }
}

/// The median round trip of `CALLS` calls, microseconds.
fn median(runtime: &Runtime, mut call: impl AsyncFnMut()) -> f64 {
    let mut times: Vec<Duration> = runtime.block_on(async {
        let mut times = Vec::new();
        for _ in 0..CALLS {
            let start = Instant::now();
            call().await;
            times.push(start.elapsed());
        }
        times
    });
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6
}

fn scripts(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let case = Case::new();
    let mut group = criterion.benchmark_group("redis");
    for name in ["ping", "report", "acquire", "release", "snapshot"] {
        group.bench_function(name, |b| b.to_async(&runtime).iter(|| case.run(name)));
    }
    group.finish();

    let mut server = Server::connect();
    println!(
        "\n{:<20} {:>12} {:>8} {:>12} {:>12} {:>9}",
        "script", "median µs", "x PING", "server µs", "pipelined", "fast path"
    );
    let ping = median(&runtime, async || case.run("ping").await);
    println!("{:<20} {ping:>12.1} {:>8.2}", "ping", 1.0);
    for name in [
        "report", "acquire", "release", "snapshot", MEASURED, LATENCIES,
    ] {
        let (mut time, mut alone, mut piped) = (f64::MAX, f64::MAX, f64::MAX);
        for _ in 0..REPETITIONS {
            server.reset();
            time = time.min(median(&runtime, async || case.run(name).await));
            alone = alone.min(server.stat("evalsha").1);
            server.reset();
            runtime.block_on(async {
                for _ in 0..CALLS / FLIGHT {
                    join_all((0..FLIGHT).map(|_| case.run(name))).await;
                }
            });
            piped = piped.min(server.stat("evalsha").1);
        }
        let fast = server.on_fast_path(|| runtime.block_on(case.run(name)));
        println!(
            "{name:<20} {time:>12.1} {:>8.2} {alone:>12.2} {piped:>12.2} {:>9}",
            time / ping,
            match name {
                "report" | "acquire" => format!("{fast:.1} %"),
                _ => String::new(),
            }
        );
    }

    let key = format!("commontrip:{{{}}}", case.circuit);
    println!(
        "\nmemory of a circuit after {} calls",
        case.number.get() * 100
    );
    let mut all = 0;
    for part in [
        "",
        ":window",
        ":probes",
        ":replicas",
        ":seq",
        ":failing",
        ":alone",
        ":latency",
        ":history",
        ":code",
        ":kinds",
    ] {
        let bytes = server.memory(&format!("{key}{part}"));
        all += bytes;
        println!(
            "{:<10} {bytes:>6} B",
            if part.is_empty() {
                "circuit"
            } else {
                &part[1..]
            }
        );
    }
    println!("{:<10} {all:>6} B beside its events", "all");
}

/// The commands that Redis sees while one process calls through one circuit for a second.
fn commands(_: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut server = Server::connect();
    println!(
        "\n{:<8} {:>10} {:>22} {:>16}",
        "state", "calls", "commands a second", "per 1,000 calls"
    );
    runtime.block_on(async {
        let circuits = Commontrip::redis(support::redis_url()).unwrap();
        let name = support::unique("bench-commands");
        let breaker = circuits
            .circuit(&name, commontrip::Policy::default())
            .unwrap();
        for state in [State::Closed, State::ForcedOpen] {
            if state == State::ForcedOpen {
                breaker
                    .force_open(Override::because("bench"))
                    .await
                    .unwrap();
            }
            let _ = breaker.call(async || Ok::<_, ()>(())).await;
            circuits.flush().await;
            server.reset();
            let (start, mut calls) = (Instant::now(), 0_u64);
            while start.elapsed() < Duration::from_secs(1) {
                for _ in 0..100 {
                    let _ = breaker.call(async || Ok::<_, ()>(())).await;
                    calls += 1;
                }
                tokio::task::yield_now().await;
            }
            let seconds = start.elapsed().as_secs_f64();
            let commands: u64 = ["evalsha", "ping", "zadd"]
                .iter()
                .map(|command| server.stat(command).0)
                .sum();
            println!(
                "{:<8} {calls:>10} {:>22.1} {:>16.4}",
                if state == State::Closed {
                    "closed"
                } else {
                    "open"
                },
                commands as f64 / seconds,
                commands as f64 * 1000.0 / calls as f64,
            );
        }
        circuits.shutdown().await;
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = scripts, commands
}
criterion_main!(benches);
