//! The cost of many circuits in one process, each of which is called ten times a second.
//!
//!     cargo bench --bench many                # half a minute; the table of docs/costs.md
//!
//! The registry runs on its own thread, so the processor time of its tasks is that thread's time.
//! For each number of circuits, the bench shows processor time, memory, the commands that reach
//! Redis, and how late reports are: the time between two reports of a circuit compared with the
//! requested pace. It finds its Redis as the tests do.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods
)]

#[path = "../tests/it/delegate.rs"]
mod delegate;
#[path = "../tests/it/readings.rs"]
mod readings;
#[path = "../tests/it/support.rs"]
mod support;

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use commontrip::{
    CircuitBreaker, Commontrip, Name, Policy, RedisStore, Snapshot, Store, StoreError,
    model::Report, store::Answer,
};
use parking_lot::Mutex;
use readings::{info, memory};

const PERIOD: Duration = Duration::from_millis(100);

/// Records when each circuit reports, and the pace that the reply requests.
#[derive(Debug)]
struct Timed {
    inner: RedisStore,
    times: Arc<Mutex<Times>>,
}

#[derive(Debug, Default)]
struct Times {
    last: HashMap<Name, (Instant, u64)>,
    /// How much longer than its pace a circuit waited, ms.
    late_ms: Vec<u64>,
}

impl Store for Timed {
    delegate::to_inner!(acquire release control snapshot events circuits ping listen);

    fn report<'a>(
        &'a self,
        batch: &'a [(Name, Report)],
    ) -> Answer<'a, Vec<Result<Snapshot, StoreError>>> {
        let now = Instant::now();
        let mut times = self.times.lock();
        for (name, _) in batch {
            if let Some((last, pace_ms)) = times.last.get(name).copied() {
                let took = (now - last).as_millis() as u64;
                times.late_ms.push(took.saturating_sub(pace_ms));
            }
        }
        drop(times);
        Box::pin(async move {
            let answers = self.inner.report(batch).await?;
            let mut times = self.times.lock();
            for ((name, _), answer) in batch.iter().zip(&answers) {
                let pace_ms = answer.as_ref().map_or(0, |seen| seen.pace_ms);
                times.last.insert(name.clone(), (now, pace_ms));
            }
            drop(times);
            Ok(answers)
        })
    }
}

/// The processor time that a thread has used.
fn processor_time(thread: &str) -> Duration {
    let stat = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap();
    let time = stat.split_whitespace().next().unwrap();
    Duration::from_nanos(time.parse().unwrap())
}

fn call(breakers: &[CircuitBreaker], lasts: Duration) {
    let until = Instant::now() + lasts;
    let mut next = Instant::now();
    while next < until {
        for breaker in breakers {
            let _ = breaker.call_sync(|| Ok::<_, ()>(()));
        }
        next += PERIOD;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn measure(many: usize, lasts: Duration) {
    let times = Arc::new(Mutex::new(Times::default()));
    let store = Timed {
        inner: RedisStore::builder().open(support::redis_url()).unwrap(),
        times: Arc::clone(&times),
    };
    let (made, is_made) = mpsc::channel();
    let (end, ended) = tokio::sync::oneshot::channel();
    let tasks = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let circuits = Commontrip::builder().store(store).build().unwrap();
            let link = fs::read_link("/proc/thread-self").unwrap();
            let thread = link.file_name().unwrap().to_string_lossy().into_owned();
            made.send((circuits.clone(), thread)).unwrap();
            let _ = ended.await;
            circuits.shutdown_timeout(Duration::from_secs(10)).await;
        });
    });
    let (circuits, thread) = is_made.recv().unwrap();
    let mut redis = redis::Client::open(support::admin_url())
        .unwrap()
        .get_connection()
        .unwrap();
    let before = memory();
    let name = support::unique("many");
    let making = Instant::now();
    let breakers: Vec<_> = (0..many)
        .map(|n| {
            circuits
                .circuit(&format!("{name}:{n}"), Policy::default())
                .unwrap()
        })
        .collect();
    let making = making.elapsed();
    call(&breakers, lasts / 2);
    times.lock().late_ms.clear();
    let (commands, time, began) = (
        info(&mut redis, "stats", "total_commands_processed"),
        processor_time(&thread),
        Instant::now(),
    );
    call(&breakers, lasts);
    let took = began.elapsed().as_secs_f64();
    let commands = info(&mut redis, "stats", "total_commands_processed") - commands;
    let time = (processor_time(&thread) - time).as_secs_f64();
    let grown = memory().saturating_sub(before);
    let health = circuits.health();
    let mut late = std::mem::take(&mut times.lock().late_ms);
    late.sort_unstable();
    let at = |percent: usize| late.get((late.len() * percent / 100).min(late.len().max(1) - 1));
    let [median, most, worst] =
        [at(50), at(99), late.last()].map(|late| late.copied().unwrap_or(0));
    println!(
        "| {many} | {:.0} ms | {:.1} % | {:.1} KiB | {:.0} | {median} / {most} / {worst} ms | {} |",
        making.as_secs_f64() * 1000.0,
        100.0 * time / took,
        grown as f64 / many as f64,
        commands as f64 / took,
        health.times_unavailable,
    );
    let _ = end.send(());
    tasks.join().unwrap();
}

fn main() {
    println!(
        "| circuits | made in | processor of the tasks | memory a circuit | Redis commands a second | reports late, median / p99 / worst | store unavailable |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|");
    let is_smoke = std::env::args().any(|argument| argument == "--test");
    for many in [10, 1_000, 10_000] {
        let lasts = match is_smoke {
            true => Duration::from_millis(500),
            false => Duration::from_secs(6),
        };
        measure(many, lasts);
    }
}
