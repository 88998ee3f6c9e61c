//! Which replica runs a check, who sees the result, and what happens without the store.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use commontrip::health::{CheckStatus, HealthMonitor};
use commontrip::{Commontrip, MemoryStore};

use super::service::{self, Mode, Service};
use super::{INTERVAL, LONG, asking, registry, replica, start, until_status};
use crate::proxy::Proxy;
use crate::support::{OwnServer, unique_prefix};
use crate::wait::until;

const REPLICAS: usize = 6;

fn on_redis() -> Vec<Commontrip> {
    let prefix = unique_prefix("health");
    (0..REPLICAS).map(|_| replica(&prefix)).collect()
}

fn on_one_memory() -> Vec<Commontrip> {
    let store = MemoryStore::default();
    let replica = |_| Commontrip::builder().store(store.clone()).build().unwrap();
    (0..REPLICAS).map(replica).collect()
}

fn start_all(fleet: &[Commontrip], service: &Service) -> Vec<HealthMonitor> {
    let start = |circuits| start(circuits, asking("postgres", service));
    fleet.iter().map(start).collect()
}

async fn until_asked(service: &Service, times: usize) {
    until("it is asked often", async || service.asked().len() >= times).await;
}

async fn runs_once_an_interval(fleet: Vec<Commontrip>) {
    let service = Service::start().await;
    let began = Instant::now();
    let monitors = start_all(&fleet, &service);
    until_asked(&service, 20).await;
    let asked = service.asked().len();
    // Runs are at least 0.95 intervals apart, and the first is at once.
    let most = began.elapsed().as_millis() / 95 + 1;
    assert!(asked as u128 <= most, "{asked} runs, not {most}");
    let mut runners = BTreeSet::new();
    for monitor in &monitors {
        until_status(monitor, CheckStatus::Healthy).await;
        let seen = monitor.check("postgres").unwrap();
        assert!(!seen.local && seen.runs > 0 && seen.latency_us.is_some());
        assert_eq!((seen.uptime, seen.interval_ms), (Some(100.0), 100));
        runners.insert(seen.replica);
    }
    assert_eq!(runners.len(), 1, "{runners:?}");
    // The others follow its results.
    service.set(Mode::Down);
    for monitor in &monitors {
        until_status(monitor, CheckStatus::Critical).await;
        let seen = monitor.check("postgres").unwrap();
        assert!(seen.why.contains("runs failed: "), "{}", seen.why);
        assert!(seen.consecutive_failures >= 3 && seen.last_pass_ms < seen.last_run_ms);
    }
    service.set(Mode::Up);
    for monitor in &monitors {
        until_status(monitor, CheckStatus::Healthy).await;
    }
}

#[tokio::test]
async fn a_check_runs_once_an_interval_over_the_fleet_and_all_see_it() {
    runs_once_an_interval(on_redis()).await;
}

#[tokio::test]
async fn registries_on_one_memory_store_are_a_fleet_too() {
    runs_once_an_interval(on_one_memory()).await;
}

#[tokio::test]
async fn a_replica_that_stops_lets_another_go_on_at_once_with_what_it_knew() {
    let (service, fleet) = (Service::start().await, on_redis());
    // Its lease alone would last more than two minutes.
    let check = || asking("postgres", &service).timeout(2 * LONG);
    let mut monitors = vec![start(&fleet[0], check())];
    until_asked(&service, 3).await;
    for (i, way) in ["its monitor", "its registry", "dropped"]
        .iter()
        .enumerate()
    {
        monitors.push(start(&fleet[i + 1], check()));
        let before = monitors[0].check("postgres").unwrap();
        match i {
            0 => monitors.remove(0).stop().await,
            1 => {
                fleet[i].shutdown().await;
                drop(monitors.remove(0));
            }
            _ => drop(monitors.remove(0)),
        }
        let asked = service.asked().len();
        until_asked(&service, asked + 2).await;
        until(way, async || {
            let now = monitors[0].check("postgres").unwrap();
            now.replica != before.replica && now.runs > before.runs
        })
        .await;
    }
}

#[tokio::test]
async fn a_replica_that_comes_later_goes_on_with_the_history() {
    let (service, fleet) = (Service::start().await, on_redis());
    let first = start(&fleet[0], asking("postgres", &service));
    until_asked(&service, 5).await;
    first.stop().await;
    let second = start(&fleet[1], asking("postgres", &service));
    until_status(&second, CheckStatus::Healthy).await;
    let seen = second.check("postgres").unwrap();
    assert!(
        seen.runs >= 4 && seen.history.len() as u64 == seen.runs,
        "{seen:?}"
    );
}

#[tokio::test]
async fn without_the_store_each_replica_checks_for_itself_and_says_so() {
    let (service, server) = (Service::start().await, OwnServer::start());
    let mut proxy = Proxy::start(Ipv4Addr::LOCALHOST, server.port()).await;
    let prefix = unique_prefix("health");
    let timeout = Duration::from_millis(500);
    let fleet: Vec<_> = (0..3)
        .map(|_| registry(&proxy.url(), &prefix, timeout))
        .collect();
    let start_one = |(i, circuits)| {
        let port = service.port;
        let check = commontrip::health::Check::new("postgres", move || service::ask(port, i));
        start(circuits, check.interval(INTERVAL).timeout(LONG))
    };
    let monitors: Vec<_> = (0..).zip(&fleet).map(start_one).collect();
    for monitor in &monitors {
        until_status(monitor, CheckStatus::Healthy).await;
    }
    proxy.refuse().await;
    let runners = |asked: Vec<u32>| asked.into_iter().collect::<BTreeSet<_>>();
    let asked = service.asked().len();
    until("each asks", async || {
        runners(service.asked()[asked..].to_vec()).len() == fleet.len()
    })
    .await;
    service.set(Mode::Down);
    for monitor in &monitors {
        until_status(monitor, CheckStatus::Critical).await;
        assert!(monitor.check("postgres").unwrap().local);
    }
    proxy.admit();
    for monitor in &monitors {
        until("the fleet's again", async || {
            !monitor.check("postgres").unwrap().local
        })
        .await;
    }
    let asked = service.asked().len();
    until_asked(&service, asked + 5).await;
    let after = runners(service.asked()[asked + 1..].to_vec());
    assert_eq!(after.len(), 1, "{after:?}");
}

#[tokio::test]
async fn a_store_that_lost_everything_is_told_again() {
    let (service, server) = (Service::start().await, OwnServer::start());
    let circuits = registry(&server.url(), &unique_prefix("health"), LONG);
    let monitor = start(&circuits, asking("postgres", &service));
    until_status(&monitor, CheckStatus::Healthy).await;
    let before = monitor.check("postgres").unwrap().runs;
    let client = redis::Client::open(server.admin_url()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("FLUSHALL")
        .query_async(&mut admin)
        .await
        .unwrap();
    until("it goes on with what it knew", async || {
        monitor.check("postgres").unwrap().runs > before + 1
    })
    .await;
    assert!(monitor.check("postgres").unwrap().history.len() as u64 > before);
    let operator = commontrip::operator::Operator::of(&circuits);
    let seen = operator.check("postgres").await.unwrap();
    assert!(seen.is_some_and(|check| check.runs > before));
}
