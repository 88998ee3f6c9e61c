//! The probe limit while Redis repeatedly loses all data.
//!
//! The called service counts probes. The circuit waits for at least a `probe_lease`, which is the
//! condition of the guarantee.

use std::time::Instant;

use commontrip::{OnStoreFailure, Policy};

use crate::processes::{
    fleet::{Fleet, PATIENCE},
    ms, until,
    upstream::Upstream,
    wire::{Order, Setup, View},
};
use crate::support::{self, OwnServer};

use super::{
    quiet,
    trial::{operator, say},
};

const PROCESSES: usize = 4;
const PERMITTED: u64 = 2;
const FLUSHES: u32 = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_redis_gives_no_probe_too_many() {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    let mut redis = operator(&server).await;
    let policy = Policy::builder()
        .permitted_number_of_calls_in_half_open_state(PERMITTED)
        .wait_duration_in_open_state(ms(250))
        .probe_lease(ms(250))
        // An emptied Redis opens a half-open circuit for the rest of this time.
        .max_wait_duration_in_half_open_state(ms(400))
        .minimum_number_of_calls(5)
        .report_interval(ms(20))
        .decision_ttl(ms(20))
        // A replica without Redis would otherwise send probes by its own decision.
        .on_store_failure(OnStoreFailure::Reject)
        .build()
        .unwrap();
    let upstream = Upstream::start(1, |_| async { false }).await;
    let setup = Setup {
        redis: server.url(),
        registries: 1,
        circuits: vec![(support::unique("emptied"), policy)],
        upstream: upstream.port,
        ..Setup::default()
    };
    let fleet = Fleet::start(setup, PROCESSES).await;
    fleet.serve(60).await;
    let generations = async || {
        let looks = fleet.order_all(|| Order::Look).await;
        let views = looks.iter().flat_map(|look| &look.views);
        views.map(|view| view.generation).collect::<Vec<_>>()
    };
    let mut before = generations().await;
    let (mut flushes, mut probes, since) = (0, 0, Instant::now());
    while flushes < FLUSHES {
        let tally = &upstream.tallies()[0];
        // In the middle of a half-open state: a replica holds a probe now, or did just now.
        if tally.taken > probes {
            say(&mut redis, "FLUSHALL").await;
            (flushes, probes) = (flushes + 1, tally.taken);
        }
        let now = generations().await;
        let back = now.iter().zip(&before).any(|(now, before)| now < before);
        assert!(!back, "a generation goes back: {before:?}, then {now:?}");
        before = now;
        assert!(
            since.elapsed() < PATIENCE,
            "stuck after {flushes} of {FLUSHES}"
        );
        tokio::time::sleep(ms(fastrand::u64(1..20))).await;
    }
    fleet.serve(0).await;
    until("every process is admitted", async || {
        let looks = fleet.order_all(|| Order::Look).await;
        let mut views = looks.iter().flat_map(|look| &look.views);
        views.all(|view: &View| !view.rejects)
    })
    .await;
    fleet.stop().await;
    let tally = &upstream.tallies()[0];
    let (most, taken, late) = (tally.most as u64, tally.taken, tally.late);
    // The limit was reached, otherwise the test shows nothing.
    assert!(most > 0 && taken > u64::from(FLUSHES));
    assert!(
        most <= PERMITTED,
        "{most} probes at once, {PERMITTED} are permitted"
    );
    let told = format!(
        "faults: FLUSHALL {flushes} times while probes are out: {taken} probes, {most} at once, {late} after their lease, generation {}",
        before.iter().max().unwrap_or(&0)
    );
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{told}\n").as_bytes());
}
