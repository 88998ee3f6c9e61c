//! A fleet of real processes on one Redis: what no test within one process can show.
//!
//! Each process is this program again (see [`CHILDS_TEST`]); they die with the test. Redis is asked beside the crate,
//! and probes are counted by the service that they call, so that the crate does not judge itself.
//! `COMMONTRIP_TEST_ROUNDS` (half-open rounds a circuit, default 40) makes the long run longer.
//! No bound here is about speed: they are what "never" means on a machine with other things to do.

mod child;
mod fleet;
mod upstream;
mod wire;

use std::{
    env,
    io::Write,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use commontrip::{CircuitBreaker, Commontrip, Event, OnStoreFailure, Policy, Reason, State};
use parking_lot::Mutex;

use self::{
    fleet::{Fleet, Life, PATIENCE},
    upstream::Upstream,
    wire::{Answer, Order, Setup, Totals, Verdict, View},
};
use crate::support;

/// The test that the processes run, of this program: it lets them be replicas, and is a test like the others for all
/// else. There is no test that only processes run, which would seem to pass when nobody has started it.
const CHILDS_TEST: &str =
    "processes::a_replica_that_starts_while_the_circuit_is_open_rejects_and_resets_nothing";

const PROCESSES: usize = 8;
/// A trip reaches everybody within this time. It takes about a millisecond.
const REACH: Duration = Duration::from_secs(5);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn say(words: &str) {
    // Past the harness, which would show it only of a test that failed.
    let _ = writeln!(std::io::stderr(), "processes: {words}");
}

fn setup(registries: usize, circuits: Vec<(String, Policy)>) -> Setup {
    Setup {
        redis: support::redis_url().to_owned(),
        registries,
        circuits,
        upstream: 0,
    }
}

/// A breaker of the test's own, which makes no calls.
fn observer(name: &str, policy: &Policy) -> CircuitBreaker {
    observer_on(support::redis_url(), name, policy)
}

fn observer_on(redis: &str, name: &str, policy: &Policy) -> CircuitBreaker {
    let registry = Commontrip::builder().redis(redis).store_timeout(ms(3000));
    let registry = registry.build().unwrap();
    registry.circuit(name, policy.clone()).unwrap()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(
            since.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(ms(10)).await;
    }
}

async fn redis_connection() -> redis::aio::MultiplexedConnection {
    connection_to(support::redis_url()).await
}

async fn connection_to(url: &str) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(url).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// Whether every process was admitted everywhere when it last called.
async fn admits_all(fleet: &Fleet) -> bool {
    let answers = fleet.order_all(|| Order::Look).await;
    let admits = |view: &View| view.state == State::Closed && !view.rejects;
    answers.iter().all(|a| a.views.iter().all(admits))
}

fn key(name: &str, part: &str) -> String {
    format!("commontrip:{{{name}}}:{part}")
}

/// Fields of the circuit's event stream as Redis has them, oldest first: generation, from, to.
async fn stream(name: &str) -> Vec<(u64, String, String)> {
    let mut redis = redis_connection().await;
    let mut read = redis::cmd("XRANGE");
    let read = read.arg(key(name, "events")).arg("-").arg("+");
    let entries: Vec<(String, std::collections::HashMap<String, String>)> =
        read.query_async(&mut redis).await.unwrap();
    let fields = |entry: &std::collections::HashMap<String, String>| {
        let generation = entry["generation"].parse().unwrap();
        (generation, entry["from"].clone(), entry["to"].clone())
    };
    entries.iter().map(|(_, entry)| fields(entry)).collect()
}

fn percentiles(mut times: Vec<u64>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let n = times.len();
    format!(
        "p50 {} ms, p99 {} ms, max {} ms of {n}",
        at(50),
        at(99),
        at(100)
    )
}

// --- Trips --------------------------------------------------------------------------------------

#[tokio::test]
async fn a_replica_that_starts_while_the_circuit_is_open_rejects_and_resets_nothing() {
    if child::is_wanted() {
        return child::run().await;
    }
    let name = support::unique("late-start");
    let policy = Policy::builder()
        .wait_duration_in_open_state(Duration::from_secs(600))
        .on_store_failure(OnStoreFailure::Allow)
        .build()
        .unwrap();
    let breaker = observer(&name, &policy);
    let fleet = Fleet::start(setup(1, vec![(name.clone(), policy)]), 1).await;
    let call = |verdict| Order::Call {
        registry: 0,
        verdict,
        times: 1,
    };
    assert_eq!(fleet.order(0, call(Verdict::Trip)).await.admitted, 1);
    until("it is open", async || {
        breaker.snapshot().await.unwrap().state == State::Open
    })
    .await;
    fleet.order(0, Order::Flush).await;
    let before = breaker.snapshot().await.unwrap();

    fleet.grow(PROCESSES).await;
    let answers = fleet.order_all(|| call(Verdict::Success)).await;
    let told: Vec<_> = answers.iter().map(|a| (a.admitted, a.rejected)).collect();
    assert_eq!(
        told,
        [(0, 1); PROCESSES + 1],
        "(admitted, rejected) of a first call"
    );

    fleet.stop().await;
    let after = breaker.snapshot().await.unwrap();
    let kept = |seen: &commontrip::Snapshot| {
        let opened = (seen.state, seen.generation, seen.since_ms, seen.until_ms);
        (opened, seen.consecutive_opens, seen.calls, seen.failures)
    };
    assert_eq!(kept(&after), kept(&before));
    assert_eq!(after.not_permitted_total, PROCESSES as u64 + 1);
    assert_eq!(stream(&name).await.len(), 1);
}

#[tokio::test]
async fn every_trip_reaches_every_process() {
    const TRIPS: usize = 20;
    let name = support::unique("reach");
    let policy = Policy::builder()
        .wait_duration_in_open_state(Duration::from_secs(600))
        .build()
        .unwrap();
    let breaker = observer(&name, &policy);
    let fleet = Fleet::start(setup(1, vec![(name.clone(), policy)]), PROCESSES).await;
    fleet.serve(0).await;
    let mut events = breaker.events_after(0);
    let mut reached = Vec::new();
    for trip in 0..TRIPS {
        until("all processes are admitted", async || {
            admits_all(&fleet).await
        })
        .await;
        let call = Order::Call {
            registry: 0,
            verdict: Verdict::Trip,
            times: 1,
        };
        assert_eq!(fleet.order(trip % PROCESSES, call).await.admitted, 1);
        let opened = tokio::time::timeout(PATIENCE, events.next()).await;
        let opened = opened.expect("a trip opens the circuit").unwrap();
        assert_eq!((opened.to, opened.reason), (State::Open, Reason::Tripped));
        let latencies = || {
            let rejection = |life: &Life| {
                let mut seen = life.seen.iter();
                let seen = seen.find(|s| s.generation == opened.generation && s.rejects)?;
                Some(seen.at_ms.saturating_sub(opened.at_ms))
            };
            fleet.lives().iter().map(rejection).collect::<Vec<_>>()
        };
        let since = Instant::now();
        while since.elapsed() < REACH && latencies().contains(&None) {
            tokio::time::sleep(ms(5)).await;
        }
        let latencies = latencies();
        assert!(
            !latencies.contains(&None),
            "trip {trip} did not reach every process within {REACH:?}: {latencies:?}"
        );
        reached.extend(latencies.into_iter().flatten());
        breaker.reset().await.unwrap();
        let closed = tokio::time::timeout(PATIENCE, events.next()).await;
        let closed = closed.expect("a reset is an event").unwrap();
        assert_eq!(closed.generation, opened.generation + 1);
    }
    fleet.stop().await;
    let reached = percentiles(reached);
    say(&format!(
        "{TRIPS} trips reached {PROCESSES} processes: {reached}"
    ));
}

#[tokio::test]
async fn failures_spread_too_thin_for_any_replica_open_the_circuit() {
    const REGISTRIES: usize = 2;
    const REPLICAS: u64 = 20;
    const EACH: u64 = 9;
    let name = support::unique("thin");
    let policy = Policy::builder()
        .no_failure_rate_threshold()
        .failure_count_threshold(REPLICAS * EACH)
        .wait_duration_in_open_state(Duration::from_secs(600))
        .sliding_window_time(Duration::from_secs(3600), 10)
        .build()
        .unwrap();
    let breaker = observer(&name, &policy);
    let fleet = setup(REGISTRIES, vec![(name, policy)]);
    let fleet = Fleet::start(fleet, REPLICAS as usize / REGISTRIES).await;
    let fail = |registry, times| Order::Call {
        registry,
        verdict: Verdict::Failure,
        times,
    };
    // All at once, but for the last failure of the last replica.
    fleet.order_all(|| fail(0, EACH)).await;
    fleet.order_all(|| fail(1, EACH - 1)).await;
    for process in 1..REPLICAS as usize / REGISTRIES {
        fleet.order(process, fail(1, 1)).await;
    }
    fleet.order_all(|| Order::Flush).await;
    let almost = breaker.snapshot().await.unwrap();
    assert_eq!(
        (almost.state, almost.failures),
        (State::Closed, REPLICAS * EACH - 1)
    );
    fleet.order(0, fail(1, 1)).await;
    fleet.order(0, Order::Flush).await;
    let opened = breaker.snapshot().await.unwrap();
    assert_eq!(
        (opened.state, opened.reason, opened.failures),
        (State::Open, Reason::FailureCount, REPLICAS * EACH)
    );
    fleet.stop().await;
}

// --- Probes -------------------------------------------------------------------------------------

#[tokio::test]
async fn a_probe_that_outlives_its_lease_settles_nothing() {
    let name = support::unique("outlived");
    let policy = Policy::builder()
        .wait_duration_in_open_state(ms(50))
        .probe_lease(ms(150))
        .permitted_number_of_calls_in_half_open_state(1)
        .success_threshold(1)
        .decision_ttl(ms(10))
        .build()
        .unwrap();
    let breaker = observer(&name, &policy);
    let fleet = Fleet::start(setup(1, vec![(name.clone(), policy)]), 2).await;
    let trip = Order::Call {
        registry: 0,
        verdict: Verdict::Trip,
        times: 1,
    };
    fleet.order(0, trip).await;
    fleet.order(0, Order::Flush).await;
    until("a process has the probe", async || {
        fleet.order(0, Order::Hold).await.admitted == 1
    })
    .await;
    // A second one only after the first one's lease: it is never given back.
    until("another process has the next probe", async || {
        fleet.order(1, Order::Hold).await.admitted == 1
    })
    .await;
    let before = breaker.snapshot().await.unwrap();
    for verdict in [Verdict::Success, Verdict::Failure] {
        fleet.order(0, Order::Settle(verdict)).await;
        fleet.order(0, Order::Flush).await;
        let after = breaker.snapshot().await.unwrap();
        assert_eq!(
            (
                after.state,
                after.generation,
                after.probe_successes,
                after.probe_failures
            ),
            (State::HalfOpen, before.generation, 0, 0),
            "a late {verdict:?} settled something"
        );
        if verdict == Verdict::Success {
            // The second process' lease runs out likewise, and the first has the turn again.
            until("the first process has a probe again", async || {
                fleet.order(0, Order::Hold).await.admitted == 1
            })
            .await;
            until("and loses it", async || {
                fleet.order(1, Order::Hold).await.admitted == 1
            })
            .await;
        }
    }
    // Not within its lease for certain, but some probe is in the end.
    until("a probe that is in time closes the circuit", async || {
        if fleet.order(1, Order::Hold).await.admitted == 1 {
            fleet.order(1, Order::Settle(Verdict::Success)).await;
            fleet.order(1, Order::Flush).await;
        }
        breaker.snapshot().await.unwrap().state == State::Closed
    })
    .await;
    assert_eq!(
        breaker.snapshot().await.unwrap().generation,
        before.generation + 1
    );
    fleet.stop().await;
}

/// The circuits of the long run: every limit with short and long waits, and with half-opens that end undecided.
fn stormy(index: usize) -> Policy {
    let policy = Policy::builder()
        .permitted_number_of_calls_in_half_open_state(1 + index as u64 % 3)
        // Shorter than a probe may take: the next half-open finds those of the last one still out.
        .wait_duration_in_open_state(ms([40, 60, 90][index % 3]))
        .probe_lease(ms([150, 220, 300, 180][index % 4]))
        .max_wait_duration_in_half_open_state(ms([60_000, 500][index % 2]))
        .minimum_number_of_calls(5)
        .report_interval(ms(20))
        .decision_ttl(ms(20))
        // A replica that lost Redis would probe for itself.
        .on_store_failure(OnStoreFailure::Reject);
    policy.build().unwrap()
}

/// What happened to one circuit, heard by somebody who did not take part.
struct Watched {
    name: String,
    policy: Policy,
    breaker: CircuitBreaker,
    events: Arc<Mutex<Vec<Event>>>,
    /// Most unexpired leases that Redis had at one moment.
    most_leases: Arc<AtomicU64>,
}

impl Watched {
    fn new(index: usize) -> Watched {
        let (name, policy) = (support::unique("storm"), stormy(index));
        let breaker = observer(&name, &policy);
        let (events, most_leases) = (Arc::default(), Arc::new(AtomicU64::new(0)));
        let mut heard = breaker.events_after(0);
        let keep: Arc<Mutex<Vec<Event>>> = Arc::clone(&events);
        tokio::spawn(async move {
            while let Some(event) = heard.next().await {
                keep.lock().push(event);
            }
        });
        let most = Arc::clone(&most_leases);
        let probes = key(&name, "probes");
        tokio::spawn(async move {
            let now = "local t = redis.call('TIME'); \
                       local now = t[1] * 1000 + math.floor(t[2] / 1000); \
                       return redis.call('ZCOUNT', KEYS[1], '(' .. string.format('%.0f', now), '+inf')";
            let now = redis::Script::new(now);
            let mut redis = redis_connection().await;
            loop {
                let leases: u64 = now.key(&probes).invoke_async(&mut redis).await.unwrap();
                most.fetch_max(leases, Ordering::Relaxed);
                tokio::time::sleep(ms(10)).await;
            }
        });
        Watched {
            name,
            policy,
            breaker,
            events,
            most_leases,
        }
    }

    fn permitted(&self) -> u64 {
        self.policy
            .rules()
            .permitted_number_of_calls_in_half_open_state
    }

    fn leases(&self) -> u64 {
        self.most_leases.load(Ordering::Relaxed)
    }

    fn count(&self, state: State) -> u64 {
        let events = self.events.lock();
        events.iter().filter(|event| event.to == state).count() as u64
    }

    fn generation(&self) -> u64 {
        self.events.lock().last().map_or(0, |last| last.generation)
    }

    async fn unsettled(&self) -> u64 {
        let mut redis = redis_connection().await;
        let mut count = redis::cmd("ZCARD");
        count.arg(key(&self.name, "probes"));
        count.query_async(&mut redis).await.unwrap()
    }

    /// Every transition is one event, follows from the one before, and is heard once.
    async fn assert_history(&self) {
        let newest = self.breaker.snapshot().await.unwrap().generation;
        until("the newest event is heard", async || {
            self.generation() == newest
        })
        .await;
        let heard: Vec<_> = {
            let events = self.events.lock();
            let word = |event: &Event| {
                (
                    event.generation,
                    event.from.to_string(),
                    event.to.to_string(),
                )
            };
            events.iter().map(word).collect()
        };
        let mut before = "closed";
        for (i, (generation, from, to)) in heard.iter().enumerate() {
            assert_eq!(*generation, i as u64 + 1, "generations of {}", self.name);
            assert_eq!(from, before, "generation {generation} of {}", self.name);
            let legal = [
                ("closed", "open"),
                ("open", "half_open"),
                ("half_open", "open"),
                ("half_open", "closed"),
            ];
            assert!(
                legal.contains(&(from, to)),
                "generation {generation} of {}: {from} -> {to}",
                self.name
            );
            before = to;
        }
        let kept = stream(&self.name).await;
        assert_eq!(kept[..], heard[heard.len() - kept.len()..], "{}", self.name);
    }
}

/// Sees to it that every opening was noticed by every process that lived long enough afterwards.
fn assert_openings_reached(watched: &[Watched], lives: &[Life], end_ms: u64) {
    let reach = REACH.as_millis() as u64;
    for (circuit, watched) in watched.iter().enumerate() {
        for opened in watched.events.lock().iter().filter(|e| e.to == State::Open) {
            for life in lives {
                let end_ms = life.killed_ms.unwrap_or(end_ms);
                if opened.at_ms < life.ready_ms || end_ms < opened.at_ms + reach {
                    continue;
                }
                let mut seen = life.seen.iter().filter(|seen| seen.circuit == circuit);
                let noticed = |seen: &&wire::Seen| {
                    seen.generation >= opened.generation && seen.at_ms <= opened.at_ms + reach
                };
                assert!(
                    seen.any(|seen| noticed(&seen)),
                    "process {} did not notice generation {} of {} within {REACH:?}",
                    life.process,
                    opened.generation,
                    watched.name
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_stay_within_the_limit_whoever_dies() {
    const CIRCUITS: usize = 8;
    const KILLS: u64 = 25;
    let rounds: u64 = env::var("COMMONTRIP_TEST_ROUNDS").map_or(40, |n| n.parse().unwrap());
    let began = Instant::now();
    let watched: Vec<_> = (0..CIRCUITS).map(Watched::new).collect();
    let circuits = watched.iter().map(|w| (w.name.clone(), w.policy.clone()));
    let circuits = circuits.collect();

    // One call in so many costs its caller's life, a moment after it began.
    let killing = Arc::new(Mutex::new(true));
    let of_upstream: Arc<OnceLock<Arc<Fleet>>> = Arc::default();
    let upstream = Upstream::start(CIRCUITS, {
        let (killing, fleet) = (Arc::clone(&killing), Arc::clone(&of_upstream));
        move |process| {
            let chosen = *killing.lock() && fastrand::u8(..100) < 4;
            let fleet = chosen.then(|| fleet.get().cloned()).flatten();
            async move {
                let Some(fleet) = fleet else { return false };
                tokio::time::sleep(ms(fastrand::u64(..50))).await;
                fleet.replace(process).await
            }
        }
    })
    .await;
    let fleet = Setup {
        upstream: upstream.port,
        ..setup(1, circuits)
    };
    let fleet = Arc::new(Fleet::start(fleet, PROCESSES).await);
    of_upstream.get_or_init(|| Arc::clone(&fleet));
    fleet.serve(55).await;

    let within_limit = || {
        for (watched, tally) in watched.iter().zip(upstream.tallies()) {
            let permitted = watched.permitted();
            let (name, leases) = (&watched.name, watched.leases());
            let most = tally.most;
            assert!(
                most as u64 <= permitted,
                "{most} probes at once on {name}, where {permitted} are permitted"
            );
            assert!(
                leases <= permitted,
                "{leases} leases at once on {name}, where {permitted} are permitted"
            );
        }
    };
    let mut progress = (0, Instant::now());
    loop {
        within_limit();
        let least = watched.iter().map(|w| w.count(State::HalfOpen)).min();
        let least = least.unwrap_or_default();
        if least >= rounds && fleet.kills() >= KILLS {
            break;
        }
        let done = least + fleet.kills();
        if done > progress.0 {
            progress = (done, Instant::now());
        }
        let states: Vec<_> = watched.iter().map(|w| w.breaker.state()).collect();
        assert!(
            progress.1.elapsed() < PATIENCE,
            "a circuit is stuck: {least} rounds, {states:?}"
        );
        tokio::time::sleep(ms(20)).await;
    }
    *killing.lock() = false;
    let stormed = began.elapsed();

    // Nothing is stuck: with the service in good health every process is admitted everywhere ...
    fleet.serve(0).await;
    until("every circuit admits every process", async || {
        admits_all(&fleet).await
    })
    .await;
    // ... and the next trip and recovery, in which nobody dies, leaves no lease, not one of the dead.
    let opened = || watched.iter().map(|w| w.count(State::Open));
    let before: Vec<_> = opened().collect();
    fleet.serve(100).await;
    until("every circuit has opened again", async || {
        opened().zip(&before).all(|(now, before)| now > *before)
    })
    .await;
    fleet.serve(0).await;
    until("every circuit admits every process again", async || {
        admits_all(&fleet).await
    })
    .await;
    for watched in &watched {
        until("no lease is left", async || watched.unsettled().await == 0).await;
    }

    let end_ms = wire::unix_ms();
    let kills = fleet.kills();
    let away: u64 = fleet.stop().await.iter().map(|a| a.times_away).sum();
    within_limit();
    for watched in &watched {
        watched.assert_history().await;
    }
    assert_openings_reached(&watched, &fleet.lives(), end_ms);

    let rounds: u64 = watched.iter().map(|w| w.count(State::HalfOpen)).sum();
    let recoveries: u64 = watched.iter().map(|w| w.count(State::Closed)).sum();
    say(&format!(
        "{rounds} half-open rounds, {recoveries} recoveries, {kills} kills of probe holders in {stormed:.1?}; Redis away {away} times"
    ));
    for permitted in 1..=3 {
        let of = |w: &Watched| w.permitted() == permitted;
        let tallies = upstream.tallies();
        let tallies = tallies.iter().zip(&watched).filter(|(_, w)| of(w));
        let tallies: Vec<_> = tallies.map(|(tally, _)| tally).collect();
        let most = tallies.iter().map(|t| t.most).max().unwrap_or_default();
        let alive = tallies.iter().map(|t| t.most_alive).max();
        let taken: u64 = tallies.iter().map(|t| t.taken).sum();
        let late: u64 = tallies.iter().map(|t| t.late).sum();
        let leases = watched.iter().filter(|w| of(w)).map(|w| w.leases()).max();
        say(&format!(
            "{permitted} permitted: at most {most} out at the upstream ({alive:?} alive), {leases:?} leases in Redis; {taken} probes called, {late} too late to count"
        ));
        // The limit was pressed, or the test has shown nothing.
        assert_eq!(most as u64, permitted, "as many at once as are permitted");
    }
}

// --- Counts -------------------------------------------------------------------------------------

/// Lets a fleet of 24 replicas call until its circuits have seen so many generations, while `meanwhile` is done over and
/// over; then compares what Redis has counted with what the processes have.
async fn totals_agree(redis: &str, generations: u64, mut meanwhile: impl AsyncFnMut()) {
    let circuit = |i| (support::unique("totals"), stormy(i));
    let circuits: Vec<_> = (0..2).map(circuit).collect();
    let upstream = Upstream::start(circuits.len(), |_| async { false }).await;
    let fleet = Setup {
        redis: redis.to_owned(),
        upstream: upstream.port,
        ..setup(3, circuits.clone())
    };
    let fleet = Fleet::start(fleet, PROCESSES).await;
    let observer = |(name, policy): &(String, _)| observer_on(redis, name, policy);
    let observers: Vec<_> = circuits.iter().map(observer).collect();
    let generation = async |observer: &CircuitBreaker| {
        let seen = observer.snapshot().await;
        seen.map_or(0, |seen| seen.generation)
    };
    fleet.serve(60).await;
    until("the circuits have seen enough generations", async || {
        meanwhile().await;
        for observer in &observers {
            if generation(observer).await < generations {
                return false;
            }
        }
        true
    })
    .await;
    // A shutdown sends what there is, once: whoever has not noticed yet that his connection broke is to notice before.
    fleet.serve(0).await;
    until("every process has Redis again", async || {
        fleet.order_all(|| Order::Flush).await;
        let answers = fleet.order_all(|| Order::Look).await;
        answers.iter().all(|answer| answer.in_touch) && admits_all(&fleet).await
    })
    .await;
    let answers: Vec<Answer> = fleet.stop().await;
    for (circuit, observer) in observers.iter().enumerate() {
        let mut did = Totals::default();
        for totals in answers.iter().map(|answer| answer.totals[circuit]) {
            did.successes += totals.successes;
            did.failures += totals.failures;
            did.ignored += totals.ignored;
            did.not_permitted += totals.not_permitted;
        }
        let seen = observer.snapshot().await.unwrap();
        let counted = Totals {
            successes: seen.successes_total,
            failures: seen.failures_total,
            ignored: seen.ignored_total,
            not_permitted: seen.not_permitted_total,
        };
        assert_eq!(counted, did, "{}", observer.name());
        let away: u64 = answers.iter().map(|answer| answer.times_away).sum();
        say(&format!(
            "counted in {} generations: {counted:?}; Redis away {away} times",
            seen.generation
        ));
    }
}

#[tokio::test]
async fn lifetime_totals_are_what_all_processes_did() {
    totals_agree(support::redis_url(), 30, async || ()).await;
}

#[tokio::test]
async fn lifetime_totals_are_exact_though_connections_break() {
    let server = support::OwnServer::start();
    let mut redis = connection_to(&server.url()).await;
    let mut breaks = 0;
    totals_agree(&server.url(), 60, async || {
        // In the middle of whatever they do: some have asked, and never hear the answer.
        let mut kill = redis::cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("normal");
        breaks += kill.query_async::<u64>(&mut redis).await.unwrap();
        tokio::time::sleep(ms(fastrand::u64(20..200))).await;
    })
    .await;
    say(&format!("{breaks} connections were broken"));
}
