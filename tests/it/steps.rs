//! Redis' clock steps by an hour either way, or a server with another clock is promoted.
//!
//! Uses a real server whose wall clock is shifted by a value in a file. Nothing else knows of it.

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use commontrip::{CallError, CircuitBreaker, Commontrip, Override, Permit, Policy, State};

use crate::proxy::Proxy;
use crate::support::{OwnServer, tool, unique};
use crate::wait::until;

const BACK: i64 = -3600;
const FORWARD: i64 = 3600;
/// The longest wait of the policy.
const WAIT: Duration = Duration::from_secs(2);

/// Replaces the functions that Redis reads the time from; adds the seconds from a file. libfaketime
/// does not work with Redis' allocator, which reads the time before symbols can be looked up.
const SHIFT: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long long *ahead;
__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("CLOCK_AHEAD"), O_RDONLY);
    ahead = mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
}
int clock_gettime(clockid_t which, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, which, at);
    if (!failed && ahead && which == CLOCK_REALTIME) at->tv_sec += *ahead;
    return failed;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"#;

/// A server, and the file with its clock's offset.
pub struct Stepping {
    pub server: OwnServer,
    folder: PathBuf,
}

impl Stepping {
    pub fn start(ahead: i64, args: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(unique("commontrip-clock"));
        fs::create_dir(&folder).unwrap();
        let [source, shift, program] =
            ["shift.c", "shift.so", "server"].map(|name| folder.join(name));
        fs::write(&source, SHIFT).unwrap();
        let mut compile = Command::new(tool("cc", "gcc").unwrap());
        compile.args(["-shared", "-fPIC", "-o"]).arg(&shift);
        assert!(compile.arg(&source).status().unwrap().success());
        let redis = tool("redis-server", "redis-server").unwrap();
        let text = format!(
            "#!/bin/sh\nCLOCK_AHEAD={} LD_PRELOAD={} exec {} \"$@\"\n",
            folder.join("ahead").display(),
            shift.display(),
            redis.display()
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        set(&folder, ahead);
        let server = OwnServer::start_by(&program, args);
        Self { server, folder }
    }

    /// Sets the clock this many seconds ahead of the right time.
    pub async fn step_to(&self, ahead: i64) {
        set(&self.folder, ahead);
        until("the clock has stepped", async || {
            self.seconds_ahead().abs_diff(ahead) < 600
        })
        .await;
    }

    fn seconds_ahead(&self) -> i64 {
        let client = redis::Client::open(self.server.admin_url()).unwrap();
        let mut connection = client.get_connection().unwrap();
        let (seconds, _): (i64, i64) = redis::cmd("TIME").query(&mut connection).unwrap();
        seconds - crate::processes::wire::unix_ms() as i64 / 1000
    }

    fn replica(&self, policy: &Policy) -> (Commontrip, CircuitBreaker) {
        replica(&self.server.url(), policy)
    }
}

impl Drop for Stepping {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn set(folder: &Path, ahead: i64) {
    let mut file = fs::OpenOptions::new();
    let file = file.write(true).create(true).truncate(false);
    let file = file.open(folder.join("ahead")).unwrap();
    // In place, because the server has the file mapped.
    file.write_all_at(&ahead.to_ne_bytes(), 0).unwrap();
}

fn replica(url: &str, policy: &Policy) -> (Commontrip, CircuitBreaker) {
    let built = Commontrip::builder().redis(url);
    let built = built.store_timeout(Duration::from_millis(500));
    let circuits = built.build().unwrap();
    let breaker = circuits.circuit("c", policy.clone()).unwrap();
    (circuits, breaker)
}

fn policy() -> Policy {
    Policy::builder()
        .wait_duration_in_open_state(WAIT)
        .backoff(1.0, WAIT)
        .probe_lease(Duration::from_secs(1))
        .max_wait_duration_in_half_open_state(WAIT)
        .permitted_number_of_calls_in_half_open_state(1)
        .success_threshold(1)
        .build()
        .unwrap()
}

/// Makes one successful call. A rejection never asks for a wait longer than the maximum.
async fn call(breaker: &CircuitBreaker) -> bool {
    match breaker.call(async || Ok::<_, ()>(())).await {
        Ok(()) => true,
        Err(CallError::Rejected(rejection)) => {
            let longest = WAIT + Duration::from_millis(500);
            assert!(
                rejection.retry_after.is_none_or(|wait| wait <= longest),
                "{rejection:?}"
            );
            false
        }
        Err(other) => panic!("{other:?}"),
    }
}

async fn trip(breaker: &CircuitBreaker) {
    let permit = permit(breaker).await;
    permit.record(commontrip::Outcome::trip());
    until("it is open in Redis", async || {
        breaker
            .snapshot()
            .await
            .is_ok_and(|seen| seen.state == State::Open)
    })
    .await;
}

async fn permit(breaker: &CircuitBreaker) -> Permit {
    loop {
        match breaker.acquire().await {
            Ok(permit) => return permit,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Calls pass again, here and in a new replica.
async fn recovers(stepping: &str, breaker: &CircuitBreaker, fresh: &CircuitBreaker) {
    let start = Instant::now();
    for breaker in [fresh, breaker] {
        until("calls pass", async || call(breaker).await).await;
    }
    crate::support::say(&format!(
        "{stepping}: calls pass after {:?}",
        start.elapsed()
    ));
    until("it is closed", async || {
        call(breaker).await
            && breaker
                .snapshot()
                .await
                .is_ok_and(|seen| seen.state == State::Closed)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_circuit_survives_a_step_either_way() {
    for step in [BACK, FORWARD] {
        let redis = Stepping::start(0, &[]);
        let (_circuits, breaker) = redis.replica(&policy());
        assert!(call(&breaker).await);
        trip(&breaker).await;
        redis.step_to(step).await;
        let (_others, fresh) = redis.replica(&policy());
        recovers(&format!("open, {step} s"), &breaker, &fresh).await;
        let seen = breaker.snapshot().await.unwrap();
        assert!(seen.since_ms <= seen.now_ms, "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_probe_holds_its_place_no_longer_after_a_step() {
    for step in [BACK, FORWARD] {
        let redis = Stepping::start(0, &[]);
        let (_circuits, breaker) = redis.replica(&policy());
        trip(&breaker).await;
        // Simulates a process that dies.
        std::mem::forget(permit(&breaker).await);
        assert_eq!(breaker.snapshot().await.unwrap().state, State::HalfOpen);
        redis.step_to(step).await;
        let (_others, fresh) = redis.replica(&policy());
        recovers(&format!("half-open, {step} s"), &breaker, &fresh).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_override_ends_in_time_after_a_step_back() {
    let redis = Stepping::start(0, &[]);
    let (_circuits, breaker) = redis.replica(&policy());
    let with = Override::because("drill").lasting(WAIT);
    breaker.force_open(with).await.unwrap();
    redis.step_to(BACK).await;
    let (_others, fresh) = redis.replica(&policy());
    recovers("forced open, back", &breaker, &fresh).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_circuit_counts_and_trips_after_a_step_either_way() {
    let redis = Stepping::start(0, &[]);
    let rate = Policy::builder()
        .consecutive_failures_threshold(5)
        .ramp(WAIT, 50)
        .wait_duration_in_open_state(WAIT)
        .backoff(1.0, WAIT)
        .probe_lease(Duration::from_secs(1))
        .permitted_number_of_calls_in_half_open_state(1)
        .success_threshold(1)
        .build()
        .unwrap();
    let (_circuits, breaker) = redis.replica(&rate);
    let (_others, other) = redis.replica(&rate);
    for step in [BACK, 0, FORWARD, 0] {
        assert!(call(&other).await);
        redis.step_to(step).await;
        until("failures open it for all", async || {
            let _ = breaker.call(async || Err::<(), _>(())).await;
            other
                .snapshot()
                .await
                .is_ok_and(|seen| seen.state == State::Open)
        })
        .await;
        // Through half-open and a ramp.
        redis.step_to(0).await;
        until("it is closed, and admits all", async || {
            let mut all = true;
            for _ in 0..20 {
                all &= call(&other).await;
            }
            let seen = other.snapshot().await.unwrap();
            all && seen.state == State::Closed && seen.ramp_until_ms <= seen.now_ms
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_server_whose_clock_is_another_lengthens_no_wait() {
    for ahead in [BACK, FORWARD] {
        for half_open in [false, true] {
            let master = Stepping::start(0, &[]);
            let port = master.server.port().to_string();
            let follower = Stepping::start(ahead, &["--replicaof", "127.0.0.1", &port]);
            let proxy = Proxy::start(std::net::Ipv4Addr::LOCALHOST, master.server.port()).await;
            let (circuits, breaker) = replica(&proxy.url(), &policy());
            trip(&breaker).await;
            if half_open {
                std::mem::forget(permit(&breaker).await);
            }
            let client = redis::Client::open(follower.server.admin_url()).unwrap();
            let mut admin = client.get_connection().unwrap();
            let generation = breaker.snapshot().await.unwrap().generation.to_string();
            until("it is replicated", async || {
                let mut get = redis::cmd("HGET");
                get.arg("commontrip:{c}").arg("generation");
                get.query::<Option<String>>(&mut admin).unwrap() == Some(generation.clone())
            })
            .await;
            redis::cmd("REPLICAOF")
                .arg("NO")
                .arg("ONE")
                .exec(&mut admin)
                .unwrap();
            proxy.turn_to(follower.server.port());
            until("it is found", async || {
                let _ = call(&breaker).await;
                circuits.health().unavailable_for.is_none()
            })
            .await;
            let (_others, fresh) = replica(&proxy.url(), &policy());
            recovers(
                &format!("promoted, {ahead} s, half-open {half_open}"),
                &breaker,
                &fresh,
            )
            .await;
        }
    }
}
