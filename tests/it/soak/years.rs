//! Many circuits, for any time: clock steps, pauses, kills, rolling restarts between two policies.
//!
//! Owns what a fleet of registries in one process must guarantee: calls to healthy services are
//! never rejected, failing services are cut off and return, every outcome is counted once, and
//! nothing grows (connections, descriptors, tasks, memory). `COMMONTRIP_TEST_SOAK_SECONDS` makes it
//! longer than the default of 10 s. The test runs in its own process, because other tests open
//! descriptors at any time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use commontrip::{CallError, Commontrip, Policy};
use tokio::{sync::RwLock, task::JoinHandle};

use super::say;
use crate::{
    histories::number,
    leaks::{Count, is_elsewhere},
    processes::ms,
    readings::memory,
    steps::Stepping,
    support, wait,
};

const REPLICAS: usize = 3;
const CIRCUITS: usize = 1000;
/// The circuits whose services fail now and then; every second call is to one of them.
const FRAIL: usize = 6;
const WORKERS: usize = 4;
/// Far more than the longest wait of both policies; a step of the clock may cost one wait.
const RECOVERY: Duration = Duration::from_secs(15);
/// A step from one side to the other is shorter than the hour after which a replica's numbers are
/// forgotten. Beyond that, a report that is sent again because its answer was lost would count
/// twice.
const STEP: i64 = 1500;
/// The permitted growth of memory between the first and the last third of a run, KiB.
const SLACK_KIB: u64 = 32 * 1024;

/// The policies that are deployed in turn.
fn policy(turn: usize) -> Policy {
    let policy = Policy::builder()
        .sliding_window_time(Duration::from_secs([5, 60][turn % 2]), 10)
        .minimum_number_of_calls(10)
        .permitted_number_of_calls_in_half_open_state([1, 3][turn % 2])
        .wait_duration_in_open_state(ms(1000))
        .probe_lease(ms(1000))
        .max_wait_duration_in_half_open_state(ms(5000));
    policy.build().unwrap()
}

#[derive(Default)]
struct Tally {
    successes: AtomicU64,
    failures: AtomicU64,
    /// Rejections for services that never fail.
    wronged: AtomicU64,
    /// Rejections and admitted calls for services that do.
    rejected: AtomicU64,
    admitted: AtomicU64,
}

struct Replica {
    circuits: Commontrip,
    workers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

struct Fleet {
    url: String,
    names: Vec<String>,
    tally: Arc<Tally>,
    /// Whether the services that fail now and then are failing at present.
    failing: Arc<AtomicBool>,
    replicas: RwLock<Vec<Replica>>,
    deployed: AtomicU64,
}

impl Fleet {
    fn replica(&self, turn: usize) -> Replica {
        let circuits = Commontrip::builder()
            .redis(&self.url)
            .store_timeout(ms(500))
            .build()
            .unwrap();
        let taken = self.names.iter();
        let taken: Vec<_> = taken
            .map(|name| circuits.circuit(name, policy(turn)).unwrap())
            .collect();
        let (taken, stop) = (Arc::new(taken), Arc::new(AtomicBool::new(false)));
        let worker = |_| {
            let (taken, stop) = (Arc::clone(&taken), Arc::clone(&stop));
            let (tally, failing) = (Arc::clone(&self.tally), Arc::clone(&self.failing));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let frail = fastrand::bool();
                    let at = match frail {
                        true => fastrand::usize(..FRAIL),
                        false => fastrand::usize(FRAIL..CIRCUITS),
                    };
                    let fails = frail && failing.load(Ordering::Relaxed);
                    let called = taken[at]
                        .call(|| async { if fails { Err(()) } else { Ok(()) } })
                        .await;
                    let count = match called {
                        Ok(()) => &tally.successes,
                        Err(CallError::Failed(())) => &tally.failures,
                        Err(_) if frail => &tally.rejected,
                        Err(_) => &tally.wronged,
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                    if frail && called.is_ok() {
                        tally.admitted.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(ms(fastrand::u64(2..8))).await;
                }
            })
        };
        let workers = (0..WORKERS).map(worker).collect();
        Replica {
            circuits,
            workers,
            stop,
        }
    }

    /// Replaces the oldest replica with one that has the other policy.
    async fn roll(&self) {
        let turn = self.deployed.fetch_add(1, Ordering::Relaxed) as usize;
        let new = self.replica(turn);
        let mut replicas = self.replicas.write().await;
        replicas.push(new);
        if replicas.len() > REPLICAS {
            let oldest = replicas.remove(0);
            drop(replicas);
            end(oldest).await;
        }
    }

    /// Whether every replica has its store.
    async fn is_well(&self) -> bool {
        let replicas = self.replicas.read().await;
        let mut all = replicas.iter().map(|replica| replica.circuits.health());
        all.all(|health| health.circuits_unavailable == 0 && health.push)
    }
}

async fn end(replica: Replica) {
    replica.stop.store(true, Ordering::Relaxed);
    for worker in replica.workers {
        worker.await.unwrap();
    }
    let lost = replica
        .circuits
        .shutdown_timeout(Duration::from_secs(20))
        .await;
    assert!(lost.is_empty(), "{lost:?}");
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    Ahead,
    Back,
    Pause,
    Kill,
    ClientKill,
    ScriptFlush,
    Outage,
    Roll,
}

const TROUBLES: [Trouble; 8] = [
    Trouble::Ahead,
    Trouble::Outage,
    Trouble::Pause,
    Trouble::Roll,
    Trouble::Back,
    Trouble::Kill,
    Trouble::ClientKill,
    Trouble::ScriptFlush,
];

async fn suffer(trouble: Trouble, stage: &Stepping, fleet: &Fleet) {
    let redis = || redis::Client::open(stage.server.admin_url()).unwrap();
    let tell = |words: &[&str]| {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command
            .exec(&mut redis().get_connection().unwrap())
            .unwrap();
    };
    let tally = &fleet.tally;
    match trouble {
        Trouble::Ahead => stage.step_to(STEP).await,
        Trouble::Back => stage.step_to(-STEP).await,
        Trouble::Pause => {
            stage.server.pause();
            tokio::time::sleep(ms(fastrand::u64(100..1500))).await;
            stage.server.resume();
        }
        Trouble::Kill => {
            tokio::task::block_in_place(|| stage.server.kill());
            tokio::time::sleep(ms(fastrand::u64(100..1000))).await;
            tokio::task::block_in_place(|| stage.server.restart());
        }
        Trouble::ClientKill => {
            tell(&["CLIENT", "KILL", "TYPE", "normal"]);
            tell(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        }
        Trouble::ScriptFlush => tell(&["SCRIPT", "FLUSH"]),
        Trouble::Outage => {
            let rejected = tally.rejected.load(Ordering::Relaxed);
            fleet.failing.store(true, Ordering::Relaxed);
            wait::until("calls to failing services are rejected", async || {
                tally.rejected.load(Ordering::Relaxed) > rejected + 50
            })
            .await;
            fleet.failing.store(false, Ordering::Relaxed);
        }
        Trouble::Roll => fleet.roll().await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn years_of_steps_pauses_kills_and_deploys_leave_nothing_behind() {
    let name = "soak::years::years_of_steps_pauses_kills_and_deploys_leave_nothing_behind";
    if is_elsewhere(name).await {
        return;
    }
    let seconds = number("COMMONTRIP_TEST_SOAK_SECONDS", 10);
    let stage = Stepping::start(0, &["--appendonly", "yes", "--appendfsync", "always"]);
    let fleet = Fleet {
        url: stage.server.url(),
        names: (0..CIRCUITS).map(|_| support::unique("years")).collect(),
        tally: Arc::default(),
        failing: Arc::default(),
        replicas: RwLock::default(),
        deployed: AtomicU64::new(0),
    };
    for _ in 0..REPLICAS {
        fleet.roll().await;
    }
    let (began, mut samples, mut survived) = (Instant::now(), Vec::new(), 0);
    let tally = Arc::clone(&fleet.tally);
    while began.elapsed() < Duration::from_secs(seconds) || survived < TROUBLES.len() {
        let trouble = TROUBLES[survived % TROUBLES.len()];
        suffer(trouble, &stage, &fleet).await;
        let over = Instant::now();
        wait::until("every replica has its store again", async || {
            fleet.is_well().await
        })
        .await;
        // The services that fail now and then are healthy, so their circuits close again.
        let admits = async || {
            let rejected = tally.rejected.load(Ordering::Relaxed);
            let admitted = tally.admitted.load(Ordering::Relaxed);
            tokio::time::sleep(ms(300)).await;
            tally.rejected.load(Ordering::Relaxed) == rejected
                && tally.admitted.load(Ordering::Relaxed) > admitted
        };
        wait::until("all circuits are closed", admits).await;
        assert!(
            over.elapsed() < RECOVERY,
            "{trouble:?}: {:?}",
            over.elapsed()
        );
        let wronged = tally.wronged.load(Ordering::Relaxed);
        assert_eq!(wronged, 0, "{trouble:?}: healthy services were rejected");
        survived += 1;
        // A new connection each time, because servers are killed.
        let held = Count::of([&stage.server]).await.now().await;
        samples.push((held, memory()));
    }

    let replicas = std::mem::take(&mut *fleet.replicas.write().await);
    for replica in replicas {
        end(replica).await;
    }
    let after = Commontrip::builder()
        .redis(&fleet.url)
        .store_timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    let (mut successes, mut failures) = (0, 0);
    for name in &fleet.names {
        let seen = after
            .circuit(name, policy(0))
            .unwrap()
            .snapshot()
            .await
            .unwrap();
        successes += seen.successes_total;
        failures += seen.failures_total;
    }
    let done = [&tally.successes, &tally.failures].map(|count| count.load(Ordering::Relaxed));
    assert_eq!([successes, failures], done, "every outcome is counted once");

    let third = samples.len() / 3;
    let most = |samples: &[(crate::leaks::Held, u64)]| {
        let of = |part: fn(&(crate::leaks::Held, u64)) -> u64| {
            samples.iter().map(part).max().unwrap_or(0)
        };
        [
            of(|(held, _)| held.connections as u64),
            of(|(held, _)| held.descriptors as u64),
            of(|(held, _)| held.tasks as u64),
            of(|(_, memory)| *memory),
        ]
    };
    let (first, last) = (
        most(&samples[..third]),
        most(&samples[samples.len() - third..]),
    );
    let rejected = tally.rejected.load(Ordering::Relaxed);
    say(&format!(
        "years: {seconds} s, {survived} troubles, {CIRCUITS} circuits; {} successes, {} failures, {rejected} rejections, \
         0 of healthy services; connections, descriptors, tasks, KiB at most: first third {first:?}, last third {last:?}",
        done[0], done[1],
    ));
    for (what, at) in ["connections", "descriptors", "tasks"].iter().zip(0..) {
        assert!(
            last[at] <= first[at] + 2,
            "{what} grow: {first:?}, {last:?}"
        );
    }
    assert!(
        last[3] <= first[3] + SLACK_KIB,
        "memory grows: {first:?}, {last:?}"
    );
}
