//! A circuit that follows a check: it opens and closes without a single call of a user.

use std::time::Duration;

use commontrip::health::{CheckStatus, HealthMonitor};
use commontrip::{CircuitBreaker, Commontrip, Override, Policy, Reason, State};

use super::service::{Mode, Service};
use super::{asking, replica, start, until_status};
use crate::support::unique_prefix;
use crate::wait::until;

fn policy(wait_ms: u64) -> Policy {
    Policy::builder()
        .wait_duration_in_open_state(Duration::from_millis(wait_ms))
        .report_interval(Duration::from_millis(10))
        .build()
        .unwrap()
}

/// Two replicas with the circuit and the check.
fn fleet(service: &Service, policy: &Policy) -> Vec<(Commontrip, CircuitBreaker, HealthMonitor)> {
    let prefix = unique_prefix("health-circuit");
    let one = |_| {
        let circuits = replica(&prefix);
        let circuit = circuits.circuit("postgres", policy.clone()).unwrap();
        let check = asking("postgres", service).circuit(&circuit);
        let monitor = start(&circuits, check);
        (circuits, circuit, monitor)
    };
    (0..2).map(one).collect()
}

async fn until_state(breaker: &CircuitBreaker, state: State) {
    until(state.as_str(), async || {
        breaker.snapshot().await.unwrap().state == state
    })
    .await;
}

#[tokio::test]
async fn a_circuit_opens_and_closes_by_its_check_without_a_call_of_a_user() {
    let service = Service::start().await;
    let fleet = fleet(&service, &policy(300));
    let circuit = &fleet[0].1;
    for (_, _, monitor) in &fleet {
        until_status(monitor, CheckStatus::Healthy).await;
        let seen = monitor.check("postgres").unwrap();
        assert_eq!(seen.circuit.as_deref(), Some("postgres"));
    }
    service.set(Mode::Down);
    until_state(circuit, State::Open).await;
    // It stays open: the probe of each half-open state is the check, which fails.
    until("it has opened again", async || {
        circuit.snapshot().await.unwrap().consecutive_opens >= 3
    })
    .await;
    for (_, circuit, _) in &fleet {
        until("every replica rejects", async || {
            circuit.try_acquire().is_err()
        })
        .await;
    }
    service.set(Mode::Up);
    until_state(circuit, State::Closed).await;
    let closed = circuit.snapshot().await.unwrap();
    assert_eq!(closed.reason, Reason::Recovered);
    let record = commontrip::operator::Operator::of(&fleet[0].0);
    let record = record.events("postgres").await.unwrap();
    assert_eq!(
        (record[0].to, record[0].reason),
        (State::Open, Reason::Tripped)
    );
    let reopened = &record[1..record.len() - 1];
    assert!(
        reopened
            .iter()
            .all(|e| matches!(e.reason, Reason::WaitElapsed | Reason::ProbeFailed)),
        "{reopened:?}"
    );
}

#[tokio::test]
async fn an_open_circuit_is_probed_when_its_wait_is_over_and_not_an_interval_later() {
    let service = Service::start().await;
    service.set(Mode::Down);
    let circuits = replica(&unique_prefix("health-circuit"));
    let circuit = circuits.circuit("postgres", policy(500)).unwrap();
    // Far longer than the test waits; the first run comes within a tenth of this interval.
    let check = asking("postgres", &service).interval(Duration::from_secs(60));
    let check = check.failure_threshold(1).circuit(&circuit);
    let monitor = start(&circuits, check);
    until_state(&circuit, State::Open).await;
    service.set(Mode::Up);
    until_state(&circuit, State::Closed).await;
    // The first run, and the two probes that close the circuit.
    until("the runs are told", async || {
        monitor.check("postgres").unwrap().runs >= 3
    })
    .await;
}

#[tokio::test]
async fn what_is_remembered_of_an_outage_does_not_open_a_recovered_circuit() {
    let service = Service::start().await;
    let circuits = replica(&unique_prefix("health-circuit"));
    let circuit = circuits.circuit("postgres", policy(200)).unwrap();
    let check = asking("postgres", &service).circuit(&circuit);
    // With a history of 1000 runs it stays critical long after the recovery.
    let monitor = start(&circuits, check.history(1000).error_rate(1, 2));
    service.set(Mode::Down);
    until_state(&circuit, State::Open).await;
    until("many failures", async || {
        monitor.check("postgres").unwrap().failures >= 6
    })
    .await;
    service.set(Mode::Up);
    until_state(&circuit, State::Closed).await;
    let closed = circuit.snapshot().await.unwrap().generation;
    let before = monitor.check("postgres").unwrap().runs;
    until("five more runs", async || {
        monitor.check("postgres").unwrap().runs >= before + 5
    })
    .await;
    assert_eq!(monitor.status(), CheckStatus::Critical);
    circuits.flush().await;
    let after = circuit.snapshot().await.unwrap();
    assert_eq!((after.state, after.generation), (State::Closed, closed));
}

#[tokio::test]
async fn fewer_failures_than_the_threshold_open_nothing_and_healthy_runs_count_as_no_calls() {
    let service = Service::start().await;
    let circuits = replica(&unique_prefix("health-circuit"));
    let circuit = circuits.circuit("postgres", policy(60_000)).unwrap();
    let check = asking("postgres", &service).circuit(&circuit);
    let monitor = start(&circuits, check.failure_threshold(1_000_000));
    until_status(&monitor, CheckStatus::Healthy).await;
    service.set(Mode::Down);
    until("failures", async || {
        monitor.check("postgres").unwrap().failures >= 6
    })
    .await;
    circuits.flush().await;
    let seen = circuit.snapshot().await.unwrap();
    assert_eq!((seen.state, seen.generation), (State::Closed, 0));
    assert_eq!((seen.calls, seen.failures_total), (0, 0));
    assert_eq!(seen.ignored_total, 0);
}

#[tokio::test]
async fn runs_are_no_calls_of_users_and_none_that_were_rejected() {
    let service = Service::start().await;
    let circuits = replica(&unique_prefix("health-circuit"));
    let circuit = circuits.circuit("postgres", policy(3_600_000)).unwrap();
    let check = asking("postgres", &service).circuit(&circuit);
    let monitor = start(&circuits, check);
    let more = async |n| {
        let before = monitor.check("postgres").unwrap().runs;
        until("more runs", async || {
            monitor.check("postgres").unwrap().runs >= before + n
        })
        .await;
    };
    more(5).await;
    circuit
        .force_open(Override::because("drill"))
        .await
        .unwrap();
    more(5).await;
    circuit.reset().await.unwrap();
    service.set(Mode::Down);
    until_state(&circuit, State::Open).await;
    more(5).await;
    monitor.stop().await;
    circuits.flush().await;
    let stats = circuits.stats().remove(0);
    let counted = (
        stats.rejected,
        stats.ignored,
        stats.undecided(),
        stats.successes,
    );
    assert_eq!(counted, (0, 0, 0, 0), "{stats:?}");
    let seen = circuit.snapshot().await.unwrap();
    assert_eq!((seen.rejected_total, seen.ignored_total), (0, 0));
    // The run that opened the circuit counts as a failure, like any other trip.
    assert_eq!(stats.failures, 1);
}

#[tokio::test]
async fn an_operators_override_is_left_alone_and_the_check_goes_on() {
    let service = Service::start().await;
    let circuits = replica(&unique_prefix("health-circuit"));
    let circuit = circuits.circuit("postgres", policy(100)).unwrap();
    let check = asking("postgres", &service).circuit(&circuit);
    let monitor = start(&circuits, check);
    until_status(&monitor, CheckStatus::Healthy).await;
    for forced in [State::ForcedOpen, State::Disabled] {
        let with = Override::because("drill");
        let set = match forced {
            State::ForcedOpen => circuit.force_open(with).await,
            _ => circuit.disable(with).await,
        };
        let generation = set.unwrap().generation;
        for (mode, status) in [
            (Mode::Down, CheckStatus::Critical),
            (Mode::Up, CheckStatus::Healthy),
        ] {
            service.set(mode);
            until_status(&monitor, status).await;
        }
        circuits.flush().await;
        let seen = circuit.snapshot().await.unwrap();
        assert_eq!((seen.state, seen.generation), (forced, generation));
    }
}
