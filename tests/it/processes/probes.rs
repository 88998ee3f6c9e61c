//! Probes: never more at once than permitted, whoever dies; none blocks the circuit.
//!
//! Owns the long run and its report; the upstream counts.

use std::{
    env,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use commontrip::{CircuitBreaker, Event, Policy, State};
use parking_lot::Mutex;

use super::{
    PROCESSES, REACH, admits_all,
    fleet::{Fleet, Life, PATIENCE},
    key, ms, observer, redis_connection, say, setup, stormy, stream, until,
    upstream::Upstream,
    wire::{self, Order, Setup, Verdict},
};
use crate::support;

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
    // A second probe only after the first one's lease, because the first is never given back.
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
            // The second process' lease also expires, and it is the first one's turn again.
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
    // A probe may miss its lease, but in the end one does not.
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

/// The history of one circuit, recorded by an observer that makes no calls.
struct Watched {
    name: String,
    policy: Policy,
    breaker: CircuitBreaker,
    events: Arc<Mutex<Vec<Event>>>,
    /// The maximum number of unexpired leases in Redis at one moment.
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

    /// Checks that every transition is one event, follows from the previous one, and is reported
    /// once.
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

/// Checks that every opening reached every process that lived long enough afterwards.
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

    // Some calls kill their caller, a moment after they begin.
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

    // Nothing is stuck: with a healthy service every process is admitted everywhere ...
    fleet.serve(0).await;
    until("every circuit admits every process", async || {
        admits_all(&fleet).await
    })
    .await;
    // ... and the next trip and recovery, in which no process dies, leave no lease, not even one of
    // a killed process.
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
    let away: u64 = fleet.stop().await.iter().map(|a| a.times_unavailable).sum();
    within_limit();
    for watched in &watched {
        watched.assert_history().await;
    }
    assert_openings_reached(&watched, &fleet.lives(), end_ms);

    let rounds: u64 = watched.iter().map(|w| w.count(State::HalfOpen)).sum();
    let recoveries: u64 = watched.iter().map(|w| w.count(State::Closed)).sum();
    say(&format!(
        "{rounds} half-open rounds, {recoveries} recoveries, {kills} kills of probe holders in {stormed:.1?}; Redis unavailable {away} times"
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
        // The limit was reached, otherwise the test shows nothing.
        assert_eq!(most as u64, permitted, "as many at once as are permitted");
    }
}
