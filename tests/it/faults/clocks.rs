//! Replicas whose clocks are wrong by an hour, either way, still act as one.
//!
//! The clocks of whole processes are wrong (libfaketime), so nothing in the crate can know the
//! right time.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use commontrip::{Policy, State};

use crate::processes::{
    fleet::Fleet,
    ms, observer_on, until,
    upstream::Upstream,
    wire::{Order, Setup, Verdict, unix_ms},
};
use crate::support::{self, OwnServer};

use super::{
    quiet,
    trial::{PROCESSES, Trial, Way},
};

const HOUR_MS: i64 = 3_600_000;
/// Far less than an hour, and far more than the start of a process takes.
const CLOSE_MS: i64 = 60_000;
const OFFSETS: [&str; PROCESSES] = ["+3600", "-3600", "+0"];

/// Debian's library that fakes the time of a process.
fn liar() -> PathBuf {
    let find = || {
        let folders = fs::read_dir("/usr/lib").ok()?;
        let mut files = folders
            .flatten()
            .map(|folder| folder.path().join("faketime/libfaketime.so.1"));
        files.find(|file| file.is_file())
    };
    find().unwrap_or_else(|| {
        let installed = support::install("libfaketime.so.1", "libfaketime");
        installed.unwrap_or_else(|why| panic!("no wrong clocks for this test: {why}"));
        find().expect("libfaketime was installed")
    })
}

/// Command prefixes for processes, with alternating offsets. Only the wall clock is wrong, because
/// no other clock can be set.
fn with_wrong_clocks() -> Vec<Vec<String>> {
    let liar = liar();
    let words = |offset: &&str| {
        let preload = format!("LD_PRELOAD={}", liar.display());
        let fake = format!("FAKETIME={offset}");
        let words = ["env", &preload, &fake, "FAKETIME_DONT_FAKE_MONOTONIC=1"];
        words.map(str::to_owned).to_vec()
    };
    OFFSETS.iter().map(words).collect()
}

/// The error of each process' clock in hours; more than a minute beside whole hours fails.
async fn hours_off(fleet: &Fleet) -> Vec<i64> {
    let looks = fleet.order_all(|| Order::Look).await;
    let now = unix_ms() as i64;
    let off = looks.iter().map(|look| look.unix_ms as i64 - now);
    let hours = off.map(|off| {
        let hours = (off as f64 / HOUR_MS as f64).round() as i64;
        assert!((off - hours * HOUR_MS).abs() < CLOSE_MS, "{off} ms");
        hours
    });
    let mut hours: Vec<_> = hours.collect();
    hours.sort_unstable();
    hours
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_an_hour_apart_survive_a_frozen_redis() {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    let way = Way::by(&server.url()).started_with(with_wrong_clocks());
    let mut trial = Trial::start_as("clocks an hour apart, SIGSTOP", &server, way).await;
    assert_eq!(hours_off(trial.fleet()).await, [-1, 0, 1]);
    trial.begin().await;
    server.pause();
    trial.hold(ms(1200)).await;
    server.resume();
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_an_hour_apart_open_and_close_together() {
    const WAIT: Duration = Duration::from_millis(1500);
    let server = OwnServer::start();
    let policy = Policy::builder()
        .wait_duration_in_open_state(WAIT)
        .probe_lease(ms(1000))
        .build()
        .unwrap();
    let name = support::unique("hours");
    let observer = observer_on(&server.url(), &name, &policy);
    let upstream = Upstream::start(1, |_| async { false }).await;
    let setup = Setup {
        redis: server.url(),
        registries: 1,
        circuits: vec![(name, policy)],
        upstream: upstream.port,
        started_with: with_wrong_clocks(),
        ..Setup::default()
    };
    let fleet = Fleet::start(setup, PROCESSES).await;
    assert_eq!(hours_off(&fleet).await, [-1, 0, 1]);
    fleet.serve(0).await;
    for process in 0..PROCESSES {
        let trip = Order::Call {
            registry: 0,
            verdict: Verdict::Trip,
            times: 1,
        };
        let tripped = Instant::now();
        assert_eq!(fleet.order(process, trip).await.admitted, 1);
        let all = async |state, rejects| {
            let looks = fleet.order_all(|| Order::Look).await;
            let mut views = looks.iter().flat_map(|look| &look.views);
            views.all(|view| view.state == state && view.rejects == rejects)
        };
        until("all reject", async || all(State::Open, true).await).await;
        let opened = observer.snapshot().await.unwrap();
        assert_eq!(opened.state, State::Open);
        assert_eq!(opened.until_ms - opened.since_ms, WAIT.as_millis() as u64);
        until("all admit again", async || all(State::Closed, false).await).await;
        assert!(tripped.elapsed() >= WAIT, "nobody is early");
        let closed = observer.snapshot().await.unwrap();
        assert_eq!(
            (closed.state, closed.generation),
            (State::Closed, opened.generation + 2),
            "open, half-open, closed, each once"
        );
        assert!(closed.since_ms >= opened.until_ms, "{closed:?}");
        let off = unix_ms().abs_diff(closed.since_ms);
        assert!(off < CLOSE_MS as u64, "not Redis' time by {off} ms");
    }
    fleet.stop().await;
}
