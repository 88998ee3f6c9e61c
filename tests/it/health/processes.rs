//! Real processes: the one that runs a check is killed, and another continues.

use std::collections::BTreeSet;
use std::process::id;
use std::time::{Duration, Instant};

use commontrip::health::{Check, CheckStatus};
use commontrip::operator::Operator;
use commontrip::{Policy, State};

use super::service::{self, Mode, Service};
use super::{INTERVAL, registry, replica, start, until_status};
use crate::role::{Process, role, until_let_go};
use crate::support::{redis_url, unique_prefix};
use crate::wait::until;

const TIMEOUT: Duration = Duration::from_millis(800);

/// A replica that lives until it is released; `role` is Redis' URL, the prefix and the service's
/// port. Its check opens its circuit at once.
async fn be_replica(role: &str) {
    let words: Vec<_> = role.split('\n').collect();
    let (url, prefix, port) = (words[0], words[1], words[2].parse().unwrap());
    let circuits = registry(url, prefix, Duration::from_secs(10));
    let circuit = circuits.circuit("postgres", policy()).unwrap();
    let check = Check::new("postgres", move || service::ask(port, id()));
    let check = check.failure_threshold(1).circuit(&circuit);
    let _monitor = start(&circuits, check.interval(INTERVAL).timeout(TIMEOUT));
    until_let_go().await;
}

fn policy() -> Policy {
    let policy = Policy::builder().report_interval(Duration::from_millis(10));
    policy.build().unwrap()
}

#[tokio::test]
async fn when_the_process_that_runs_a_check_is_killed_another_goes_on() {
    if let Some(role) = role() {
        return be_replica(&role).await;
    }
    let service = Service::start().await;
    let prefix = unique_prefix("health-processes");
    let role = [redis_url(), &prefix, &service.port.to_string()].join("\n");
    let this = "health::processes::when_the_process_that_runs_a_check_is_killed_another_goes_on";
    let spawn = |_| Process::start(this, &role);
    let mut processes: Vec<_> = (0..3).map(spawn).collect();
    while processes.len() > 1 {
        let from = service.asked().len();
        until("it is asked", async || service.asked().len() >= from + 5).await;
        let asked = service.asked();
        // The previous runner may have been calling the service when it was killed.
        let runners: BTreeSet<_> = asked[from + 1..].iter().copied().collect();
        assert_eq!(runners.len(), 1, "{asked:?}");
        let runner = asked[asked.len() - 1];
        let place = processes.iter().position(|p| p.id() == runner);
        drop(processes.remove(place.expect("one of these")));
        let (killed, before) = (Instant::now(), service.asked().len());
        until("another goes on", async || service.asked().len() > before).await;
        assert_ne!(service.asked()[before], runner);
        // Not before the end of the lease, which was renewed at most an interval ago for 2
        // intervals and the timeout.
        let moved = killed.elapsed();
        assert!(moved >= TIMEOUT, "{moved:?}");
    }
}

/// The process that runs the check is suspended during a run, for longer than its lease, and then
/// resumes.
#[tokio::test]
async fn a_run_that_outlived_its_lease_moves_neither_the_report_nor_the_circuit() {
    if let Some(role) = role() {
        return be_replica(&role).await;
    }
    let service = Service::start().await;
    let prefix = unique_prefix("health-processes");
    let role = [redis_url(), &prefix, &service.port.to_string()].join("\n");
    let this =
        "health::processes::a_run_that_outlived_its_lease_moves_neither_the_report_nor_the_circuit";
    let paused = Process::start(this, &role);
    until("it is asked", async || service.asked().len() >= 3).await;
    // The next run hangs, and its process is suspended.
    service.set(Mode::Hung);
    let from = service.asked().len();
    until("it hangs", async || service.asked().len() > from).await;
    paused.signal("-STOP");
    service.set(Mode::Up);
    let circuits = replica(&prefix);
    let circuit = circuits.circuit("postgres", policy()).unwrap();
    let port = service.port;
    let check = Check::new("postgres", move || service::ask(port, 0));
    let check = check.circuit(&circuit).interval(INTERVAL).timeout(TIMEOUT);
    let monitor = start(&circuits, check);
    let own = service.asked().len();
    until("another goes on", async || service.asked().len() >= own + 3).await;
    until_status(&monitor, CheckStatus::Healthy).await;
    let before = monitor.check("postgres").unwrap();
    let paused_asked = service.asked().iter().filter(|who| **who != 0).count();
    paused.signal("-CONT");
    // Long enough for many of its polls, in each of which it would have reported its result.
    until("the other has gone on", async || {
        monitor.check("postgres").unwrap().runs >= before.runs + 20
    })
    .await;
    circuits.flush().await;
    let seen = circuit.snapshot().await.unwrap();
    assert_eq!((seen.state, seen.generation), (State::Closed, 0));
    let operator = Operator::of(&circuits);
    assert!(operator.events("postgres").await.unwrap().is_empty());
    let kept = operator.check("postgres").await.unwrap().unwrap();
    assert_eq!(kept.failures, 0, "{kept:?}");
    assert_eq!(kept.replica, before.replica);
    let asked = service.asked().iter().filter(|who| **who != 0).count();
    assert_eq!(asked, paused_asked, "it runs the check no more");
}
