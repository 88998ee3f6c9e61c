//! Real processes: the one that runs a check is killed, and another goes on.

use std::collections::BTreeSet;
use std::env;
use std::io::Read;
use std::process::{Child, Command, Stdio, id};
use std::time::{Duration, Instant};

use commontrip::health::Check;

use super::service::{self, Service};
use super::{INTERVAL, registry, start};
use crate::support::{redis_url, unique_prefix};
use crate::wait::until;

/// Tells a process of this program what it is: Redis' URL, the prefix, and the service's port.
const ROLE: &str = "COMMONTRIP_TEST_HEALTH_REPLICA";
const TIMEOUT: Duration = Duration::from_millis(800);

/// A replica, until its stdin ends.
async fn be_replica(role: &str) {
    let words: Vec<_> = role.split('\n').collect();
    let (url, prefix, port) = (words[0], words[1], words[2].parse().unwrap());
    let circuits = registry(url, prefix, Duration::from_secs(10));
    let check = Check::new("postgres", move || service::ask(port, id()));
    let _monitor = start(&circuits, check.interval(INTERVAL).timeout(TIMEOUT));
    let end = || std::io::stdin().read_to_end(&mut Vec::new());
    tokio::task::spawn_blocking(end).await.unwrap().unwrap();
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn when_the_process_that_runs_a_check_is_killed_another_goes_on() {
    if let Ok(role) = env::var(ROLE) {
        return be_replica(&role).await;
    }
    let service = Service::start().await;
    let prefix = unique_prefix("health-processes");
    let role = [redis_url(), &prefix, &service.port.to_string()].join("\n");
    let this = "health::processes::when_the_process_that_runs_a_check_is_killed_another_goes_on";
    let spawn = |_| {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([this, "--exact", "--nocapture"]);
        command.env(ROLE, &role).stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Process(command.spawn().unwrap())
    };
    let mut processes: Vec<_> = (0..3).map(spawn).collect();
    while processes.len() > 1 {
        let from = service.asked().len();
        until("it is asked", async || service.asked().len() >= from + 5).await;
        let asked = service.asked();
        // The one before may have been asking when it was killed.
        let runners: BTreeSet<_> = asked[from + 1..].iter().copied().collect();
        assert_eq!(runners.len(), 1, "{asked:?}");
        let runner = asked[asked.len() - 1];
        let place = processes.iter().position(|p| p.0.id() == runner);
        drop(processes.remove(place.expect("one of these")));
        let (killed, before) = (Instant::now(), service.asked().len());
        until("another goes on", async || service.asked().len() > before).await;
        assert_ne!(service.asked()[before], runner);
        // Not before the lease was over: it was renewed an interval ago, or less, for 2 intervals and the timeout.
        let moved = killed.elapsed();
        assert!(moved >= TIMEOUT, "{moved:?}");
    }
}
