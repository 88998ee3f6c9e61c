//! Health checks: one replica of the fleet runs each, all see it, and a circuit follows it. On a
//! real Redis, with a real service and real processes.

mod asked;
mod circuit;
mod fleet;
mod processes;
mod runs;
mod service;
mod shown;

use std::time::Duration;

use commontrip::health::{Check, CheckStatus, HealthMonitor};
use commontrip::{Commontrip, RedisStore};

use self::service::{Mode, Service};
use crate::support::redis_url;
use crate::wait::until;

/// The interval of the checks in these tests.
const INTERVAL: Duration = Duration::from_millis(100);
/// A timeout far beyond any busy moment.
const LONG: Duration = Duration::from_secs(60);

fn registry(url: &str, prefix: &str, timeout: Duration) -> Commontrip {
    let store = RedisStore::builder().prefix(prefix).timeout(timeout);
    let store = store.open(url).unwrap();
    let circuits = Commontrip::builder().store(store);
    circuits.build().unwrap()
}

/// A replica of the fleet with this prefix.
fn replica(prefix: &str) -> Commontrip {
    registry(redis_url(), prefix, Duration::from_secs(10))
}

/// A check that calls the service, with enough time for each run.
fn asking(name: &str, service: &Service) -> Check {
    let port = service.port;
    let check = Check::new(name, move || service::ask(port, 0));
    check.interval(INTERVAL).timeout(LONG)
}

fn start(circuits: &Commontrip, check: Check) -> HealthMonitor {
    let monitor = HealthMonitor::builder(circuits).check(check);
    monitor.start().unwrap()
}

async fn until_status(monitor: &HealthMonitor, status: CheckStatus) {
    until(&format!("it is {}", status.as_str()), async || {
        monitor.status() == status
    })
    .await;
}
