//! Resources that a process still holds after faults and after its registries have ended.
//!
//! Counts connections as Redis sees them, this process' file descriptors, and its runtime's tasks.
//! Invariant: each test runs in its own process (this program again), because other tests open
//! descriptors at any time.

use std::{
    env, fmt, fs,
    io::{self, Write},
    process::Stdio,
    time::Duration,
};

use commontrip::{CircuitBreaker, Commontrip, Outcome, Override, Policy};
use redis::aio::MultiplexedConnection;
use tokio::{process::Command, runtime::Handle};

use crate::{
    support::{self, OwnServer},
    topology::{Watched, cluster_servers::Cluster},
    wait::until,
};

/// Set in the environment of a process that runs one test only.
const ALONE: &str = "COMMONTRIP_TEST_ALONE";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Runs a test of this program, named by its path, in a new process. Returns `false` in that
/// process.
pub async fn is_elsewhere(test: &str) -> bool {
    if env::var_os(ALONE).is_some() {
        return false;
    }
    let program = env::current_exe().expect("a test knows its program");
    let ended = Command::new(program)
        .args([test, "--exact", "--nocapture"])
        .env(ALONE, "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ended = ended.await.expect("this program starts");
    // Bypasses the harness, which shows output of failed tests only.
    let _ = io::stderr().write_all(&ended.stderr);
    let said = [ended.stdout, ended.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    let passed = ended.status.success() && said[0].contains("1 passed");
    assert!(passed, "{}\n{}", said[0], said[1]);
    true
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub connections: usize,
    pub descriptors: usize,
    pub tasks: usize,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Held {
            connections,
            descriptors,
            tasks,
        } = self;
        write!(
            f,
            "{connections} connections, {descriptors} descriptors, {tasks} tasks"
        )
    }
}

/// Counts the resources that this process holds on these servers.
pub struct Count(Vec<MultiplexedConnection>);

impl Count {
    pub async fn of(servers: impl IntoIterator<Item = &OwnServer>) -> Count {
        let mut redis = Vec::new();
        for server in servers {
            let client = redis::Client::open(server.admin_url()).unwrap();
            // However busy the server is.
            let config = redis::AsyncConnectionConfig::new()
                .set_connection_timeout(None)
                .set_response_timeout(None);
            let connection = client.get_multiplexed_async_connection_with_config(&config);
            redis.push(connection.await.unwrap());
        }
        Count(redis)
    }

    pub async fn now(&mut self) -> Held {
        let mut connections = 0;
        for redis in &mut self.0 {
            let mut list = redis::cmd("CLIENT");
            list.arg("LIST").arg("TYPE");
            for kind in ["normal", "pubsub"] {
                let mut list = list.clone();
                let listed: String = list.arg(kind).query_async(redis).await.unwrap();
                connections += listed
                    .lines()
                    .filter(|l| !l.contains("user=default"))
                    .count();
            }
        }
        Held {
            connections,
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            tasks: Handle::current().metrics().num_alive_tasks(),
        }
    }

    /// Waits until the process holds no more than before.
    pub async fn returns_to(&mut self, before: Held) {
        let mut now = self.now().await;
        for _ in 0..500 {
            if now == before {
                return;
            }
            tokio::time::sleep(ms(10)).await;
            now = self.now().await;
        }
        panic!("there is {now:?} where there was {before:?}");
    }
}

async fn call(breaker: &CircuitBreaker) {
    let _ = breaker.call(|| async { Ok::<_, ()>(()) }).await;
}

/// Waits until a registry is connected to its Redis and receives changes.
async fn in_touch(registry: &Commontrip, breaker: &CircuitBreaker) {
    until("it is in touch", async || {
        call(breaker).await;
        let health = registry.health();
        health.unavailable_for.is_none() && health.push
    })
    .await;
    registry.flush().await;
}

fn quick() -> Policy {
    let policy = Policy::builder().report_interval(ms(20));
    policy.build().unwrap()
}

/// A connected registry, and what its process holds.
async fn begin(url: &str, count: &mut Count) -> (Commontrip, CircuitBreaker, Held) {
    let registry = Commontrip::redis(url).unwrap();
    let breaker = registry.circuit("c", quick()).unwrap();
    in_touch(&registry, &breaker).await;
    // Resources that only the connecting needed are freed soon.
    tokio::time::sleep(ms(300)).await;
    let held = count.now().await;
    (registry, breaker, held)
}

#[tokio::test]
async fn a_redis_that_pauses_again_and_again_costs_no_connection() {
    if is_elsewhere("leaks::a_redis_that_pauses_again_and_again_costs_no_connection").await {
        return;
    }
    let server = OwnServer::start();
    let mut count = Count::of([&server]).await;
    let (registry, breaker, before) = begin(&server.url(), &mut count).await;
    for _ in 0..60 {
        server.pause();
        for _ in 0..10 {
            call(&breaker).await;
            tokio::time::sleep(ms(20)).await;
        }
        server.resume();
        in_touch(&registry, &breaker).await;
    }
    assert!(
        registry.health().times_unavailable > 30,
        "{:?}",
        registry.health()
    );
    count.returns_to(before).await;
    drop((registry, breaker));
    let alone = Held {
        connections: 0,
        descriptors: before.descriptors - 2,
        tasks: before.tasks - 4,
    };
    count.returns_to(alone).await;
}

#[tokio::test]
async fn killed_connections_and_servers_leave_nothing_behind() {
    if is_elsewhere("leaks::killed_connections_and_servers_leave_nothing_behind").await {
        return;
    }
    let server = OwnServer::start();
    let mut count = Count::of([&server]).await;
    let (registry, breaker, before) = begin(&server.url(), &mut count).await;
    for _ in 0..40 {
        let mut kill = redis::cmd("CLIENT");
        kill.arg(&["KILL", "USER", support::user::USER]);
        let _: u64 = kill.query_async(&mut count.0[0]).await.unwrap();
        in_touch(&registry, &breaker).await;
    }
    count.returns_to(before).await;
    for _ in 0..5 {
        server.kill();
        for _ in 0..20 {
            call(&breaker).await;
            tokio::time::sleep(ms(20)).await;
        }
        server.restart();
        in_touch(&registry, &breaker).await;
    }
    // The counting connection was cut, too.
    let mut count = Count::of([&server]).await;
    count.returns_to(before).await;
}

#[tokio::test]
async fn a_failover_leaves_nothing_behind() {
    if is_elsewhere("leaks::a_failover_leaves_nothing_behind").await {
        return;
    }
    let watched = Watched::start().await;
    let servers = [&watched.master, &watched.replica];
    let mut count = Count::of(servers).await;
    let (registry, breaker, before) = begin(&watched.url(), &mut count).await;
    watched.master.kill();
    until("it is noticed", async || {
        call(&breaker).await;
        registry.health().unavailable_for.is_some()
    })
    .await;
    in_touch(&registry, &breaker).await;
    let mut count = Count::of([&watched.replica]).await;
    // One of the counting connections has lost its server.
    let before = Held {
        descriptors: before.descriptors - 1,
        tasks: before.tasks - 1,
        ..before
    };
    count.returns_to(before).await;
}

/// What happens to a registry just before it is dropped.
#[derive(Clone, Copy, Debug)]
enum End {
    Dropped,
    Shutdown,
    /// A call was rejected just before.
    Rejected,
    /// A call is rejected after `shutdown()`.
    RejectedAfter,
    /// A permit outlives `shutdown()`.
    PermitAfter,
    /// A circuit is created and called after `shutdown()`.
    CircuitAfter,
    /// A probe's permit was fetched, but no call took it.
    Fetched,
    /// Transitions are being followed.
    Followed,
    /// The store is unavailable.
    Unavailable,
}

const ENDS: [End; 9] = [
    End::Dropped,
    End::Shutdown,
    End::Rejected,
    End::RejectedAfter,
    End::PermitAfter,
    End::CircuitAfter,
    End::Fetched,
    End::Followed,
    End::Unavailable,
];

/// Creates a registry, uses it and drops it.
async fn live(url: &str, dead: &str, end: End) {
    let url = if matches!(end, End::Unavailable) {
        dead
    } else {
        url
    };
    let registry = Commontrip::redis(url).unwrap();
    let breaker = registry.circuit("c", quick()).unwrap();
    call(&breaker).await;
    match end {
        End::Dropped => {}
        End::Shutdown => {
            registry.shutdown().await;
        }
        End::Rejected => {
            let open = registry.circuit("open", quick()).unwrap();
            let _ = open.acquire().await;
            let _ = open.try_acquire();
        }
        End::RejectedAfter => {
            let open = registry.circuit("open", quick()).unwrap();
            let _ = open.acquire().await;
            registry.shutdown().await;
            let _ = (open.try_acquire(), open.acquire().await);
        }
        End::PermitAfter => {
            let permit = breaker.acquire().await;
            registry.shutdown().await;
            drop(permit);
        }
        End::CircuitAfter => {
            registry.shutdown().await;
            let late = registry.circuit("late", quick()).unwrap();
            call(&late).await;
            if let Ok(permit) = late.acquire().await {
                permit.record(Outcome::trip());
            }
        }
        End::Fetched => {
            let due = registry.circuit("due", quick()).unwrap();
            let _ = due.acquire().await;
            // Rejected; a probe's permit is being fetched.
            drop(due.try_acquire());
            tokio::time::sleep(ms(2)).await;
        }
        End::Followed => {
            registry.on_event(|_, _| {});
            let _events = breaker.events().await;
        }
        End::Unavailable => {
            let _ = breaker.acquire().await;
        }
    }
}

#[tokio::test]
async fn a_thousand_registries_leave_nothing_behind() {
    if is_elsewhere("leaks::a_thousand_registries_leave_nothing_behind").await {
        return;
    }
    let (server, dead) = (OwnServer::start(), OwnServer::start());
    dead.kill();
    let observer = Commontrip::builder().redis(&server.url());
    let observer = observer.store_timeout(ms(5000)).build().unwrap();
    let open = observer.circuit("open", quick()).unwrap();
    open.force_open(Override::default()).await.unwrap();
    // Permanently half-open: its probes are permitted and never settled.
    let policy = Policy::builder()
        .wait_duration_in_open_state(ms(1))
        .probe_lease(ms(60_000))
        .permitted_number_of_calls_in_half_open_state(1000)
        .success_threshold(1000)
        .max_wait_duration_in_half_open_state(Duration::from_secs(3600));
    let due = observer.circuit("due", policy.build().unwrap()).unwrap();
    due.acquire().await.unwrap().record(Outcome::trip());
    observer.shutdown().await;
    drop((observer, open, due));

    let mut count = Count::of([&server]).await;
    // Shared resources that the first runs leave behind, such as sockets of the runtime, are not
    // leaks.
    for end in ENDS {
        live(&server.url(), &dead.url(), end).await;
    }
    until("they are gone", async || count.now().await.connections == 0).await;
    tokio::time::sleep(ms(1500)).await;
    let before = count.now().await;
    for end in ENDS.into_iter().cycle().take(1000) {
        live(&server.url(), &dead.url(), end).await;
    }
    count.returns_to(before).await;
}

#[tokio::test]
async fn registries_of_a_cluster_leave_nothing_behind() {
    if is_elsewhere("leaks::registries_of_a_cluster_leave_nothing_behind").await {
        return;
    }
    let cluster = Cluster::start(3, false).await;
    let mut count = Count::of(&cluster.nodes).await;
    let before = count.now().await;
    for _ in 0..20 {
        let registry = Commontrip::builder()
            .redis(&cluster.url())
            .store_timeout(ms(500));
        let registry = registry.build().unwrap();
        let breaker = registry.circuit("c", quick()).unwrap();
        in_touch(&registry, &breaker).await;
    }
    count.returns_to(before).await;
    let (registry, breaker, before) = begin(&cluster.url(), &mut count).await;
    for _ in 0..10 {
        cluster.nodes[0].pause();
        for i in 0..40 {
            let circuit = registry.circuit(&format!("c{}", i % 6), quick()).unwrap();
            call(&circuit).await;
            tokio::time::sleep(ms(10)).await;
        }
        cluster.nodes[0].resume();
        in_touch(&registry, &breaker).await;
    }
    count.returns_to(before).await;
}
