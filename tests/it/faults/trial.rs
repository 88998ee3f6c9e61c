//! One fault and what must hold before, during and after it.
//!
//! Owns the fleet, its circuits and the assertions; the tests own the faults. There are three
//! circuits: one with a healthy upstream, one whose upstream fails as soon as the fault begins, and
//! one that was tripped earlier. In every fault:
//! - a call ends as the circuit says, whatever happens to Redis: the healthy circuit admits all
//!   calls, the tripped one none, and the failing one rejects in every process while the fault
//!   still lasts;
//! - at most one call of a process waits for Redis, and the breaker's own overhead does not change;
//! - the store becomes unavailable only as often as there is a reason;
//! - afterwards all processes and Redis agree, and no generation has decreased.

mod judge;

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use commontrip::{Outcome, Policy, State};

use crate::processes::{
    connection_to,
    fleet::Fleet,
    ms, observer_on, until,
    wire::{Answer, Measured, Order, Setup},
};
use crate::support::{self, OwnServer};

pub const PROCESSES: usize = 3;
/// The default.
const STORE_TIMEOUT: Duration = Duration::from_millis(50);
const UNDISTURBED: Duration = Duration::from_millis(600);
/// The maximum time until a failing upstream is noticed. It takes half a second, because failures
/// must outnumber the earlier successes.
const PROTECTION: Duration = Duration::from_secs(5);
/// The maximum time until all agree after a fault. The goal is one second.
const AGREEMENT: Duration = Duration::from_secs(5);

/// How many additional times the store may be unavailable because a busy machine delays its
/// answers.
const SLOW: u64 = 5;

const FAILING: usize = 1;
const TRIPPED: usize = 2;

pub struct Trial {
    fault: &'static str,
    /// The URL at which the test itself reaches Redis, not the one that the processes use.
    server: String,
    names: Vec<String>,
    fleet: Fleet,
    tripped: bool,
    /// How often a process may find the store unavailable.
    away: RangeInclusive<u64>,
    unavailable_before: Vec<u64>,
    asks: bool,
    generations: Vec<u64>,
    undisturbed: Vec<Measured>,
    during: Vec<Measured>,
    began: Instant,
    protected: Option<Duration>,
}

/// The settings of the processes.
pub struct Way {
    url: String,
    started_with: Vec<Vec<String>>,
    decision_ttl: Duration,
    /// Calls have to ask Redis even if it is healthy.
    asks: bool,
}

impl Way {
    pub fn by(url: &str) -> Way {
        Way {
            url: url.to_owned(),
            started_with: Vec::new(),
            decision_ttl: ms(250),
            asks: false,
        }
    }

    /// Starts processes with these command prefixes, in turn.
    pub fn started_with(mut self, words: Vec<Vec<String>>) -> Way {
        self.started_with = words;
        self
    }

    /// A user without the right to subscribe, and a `decision_ttl` so short that calls ask before
    /// the reporter does.
    pub async fn without_push(server: &OwnServer, port: u16) -> Way {
        let mut redis = operator(server).await;
        say(
            &mut redis,
            "ACL SETUSER deaf on >secret ~* &* +@all -subscribe",
        )
        .await;
        Way {
            decision_ttl: ms(20),
            asks: true,
            ..Way::by(&format!("redis://deaf:secret@127.0.0.1:{port}/"))
        }
    }
}

impl Trial {
    /// Starts processes that reach the server by this URL, lets them make calls, and measures them
    /// undisturbed.
    pub async fn start(fault: &'static str, server: &OwnServer, url: &str) -> Trial {
        Trial::start_as(fault, server, Way::by(url)).await
    }

    /// The same with other settings.
    pub async fn start_as(fault: &'static str, server: &OwnServer, way: Way) -> Trial {
        let asks = way.asks;
        let (circuits, setup) = setup(way);
        let (tripped, policy) = &circuits[TRIPPED];
        let observer = observer_on(&server.url(), tripped, policy);
        let permit = observer.acquire().await.unwrap();
        permit.record(Outcome::trip());
        until("it is open", async || {
            observer.snapshot().await.unwrap().state == State::Open
        })
        .await;
        drop(observer);
        let mut trial = Trial::of(fault, server.admin_url(), circuits, setup, true).await;
        trial.asks = asks;
        trial.fleet.order_all(|| drive(&[])).await;
        until("the processes have heard of the circuits", async || {
            let answers = trial.fleet.order_all(|| Order::Look).await;
            let knows = |a: &Answer| a.in_touch && a.views[TRIPPED].state == State::Open;
            answers.iter().all(knows)
        })
        .await;
        trial.measure_undisturbed(&[]).await;
        trial
    }

    /// Starts processes without a server; the trial begins with the fault.
    pub async fn start_without_server(fault: &'static str, server: &OwnServer) -> Trial {
        let (circuits, setup) = setup(Way::by(&server.url()));
        let mut trial = Trial::of(fault, server.admin_url(), circuits, setup, false).await;
        trial.begin().await;
        trial
    }

    async fn of(
        fault: &'static str,
        server: String,
        circuits: Vec<(String, Policy)>,
        setup: Setup,
        tripped: bool,
    ) -> Trial {
        let names: Vec<_> = circuits.into_iter().map(|(name, _)| name).collect();
        Trial {
            fault,
            server,
            generations: vec![0; names.len()],
            names,
            fleet: Fleet::start(setup, PROCESSES).await,
            tripped,
            away: 1..=1,
            unavailable_before: vec![0; PROCESSES],
            asks: false,
            undisturbed: Vec::new(),
            during: Vec::new(),
            began: Instant::now(),
            protected: None,
        }
    }

    /// Sets how often a process may find the store unavailable in this fault. Default: once.
    pub fn unavailable(mut self, times: RangeInclusive<u64>) -> Trial {
        self.away = times;
        self
    }

    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    async fn measure_undisturbed(&mut self, failing: &[usize]) {
        self.fleet.order_all(|| drive(failing)).await;
        tokio::time::sleep(UNDISTURBED).await;
        self.undisturbed = self.measured(failing).await;
    }

    async fn measured(&self, failing: &[usize]) -> Vec<Measured> {
        let answers = self.fleet.order_all(|| drive(failing)).await;
        answers.into_iter().map(|a| a.measured).collect()
    }

    /// Starts the measurement of the fault; one upstream begins to fail.
    pub async fn begin(&mut self) {
        if self.tripped {
            let looks = self.fleet.order_all(|| Order::Look).await;
            self.unavailable_before = looks
                .iter()
                .map(|a| a.times_unavailable - u64::from(a.away))
                .collect();
            let stored = self.stored().await.expect("Redis answers");
            self.generations = stored.iter().map(|(_, generation)| *generation).collect();
        }
        self.fleet.order_all(|| drive(&[FAILING])).await;
        self.began = Instant::now();
    }

    /// Lets the fault last for this time, and until every process is protected from the failing
    /// upstream.
    pub async fn hold(&mut self, time: Duration) {
        self.hold_while(time, async || ()).await;
    }

    /// The same with a repeated action.
    pub async fn hold_while(&mut self, time: Duration, mut again: impl AsyncFnMut()) {
        while self.protected.is_none() || self.began.elapsed() < time {
            again().await;
            let looks = self.fleet.order_all(|| Order::Look).await;
            let rejects = looks.iter().all(|a| a.views[FAILING].rejects);
            if self.protected.is_none() && rejects {
                self.protected = Some(self.began.elapsed());
            }
            assert!(
                self.protected.is_some() || self.began.elapsed() < PROTECTION,
                "{}: not every process rejects calls of the failing upstream after {PROTECTION:?}",
                self.fault
            );
            tokio::time::sleep(ms(10)).await;
        }
        self.during = self.measured(&[FAILING]).await;
    }

    /// Ends the trial after the fault: waits until all agree, measures, stops the processes and
    /// reports errors.
    pub async fn end(mut self) {
        let agreed = self.agreement().await;
        let after = self.measured(&[FAILING]).await;
        for (during, after) in self.during.iter_mut().zip(after) {
            for (sum, told) in during.told.iter_mut().zip(after.told) {
                *sum += told;
            }
            // Calls that ask a recovered Redis wait as long as the machine makes them. The control
            // asks nobody, so it does not show that.
            if !self.asks {
                during.breaker.add(after.breaker);
                during.control.add(after.control);
            }
        }
        if self.undisturbed.is_empty() {
            self.measure_undisturbed(&[FAILING]).await;
        }
        let looks = self.fleet.order_all(|| Order::Look).await;
        let away = looks.iter().zip(&self.unavailable_before);
        let away: Vec<_> = away
            .map(|(a, before)| a.times_unavailable - before)
            .collect();
        self.fleet.stop().await;
        self.print(&away, agreed);
        let mut wrong = Vec::new();
        self.judge_answers(&mut wrong);
        self.judge_times(&away, &mut wrong);
        for (process, times) in away.iter().enumerate() {
            let (expected, error) = (&self.away, &looks[process].last_error);
            // A machine that stands still for 50 ms rightly makes the store unavailable.
            let slow = error
                .as_ref()
                .is_some_and(|e| e.contains("did not answer within"));
            let most = expected.end() + SLOW * u64::from(slow);
            if times < expected.start() || *times > most {
                wrong.push(format!(
                    "process {process}: the store was unavailable {times} times, not {expected:?}; last error: {error:?}"
                ));
            }
        }
        if agreed > AGREEMENT {
            wrong.push(format!(
                "no agreement within {AGREEMENT:?}, but after {agreed:?}"
            ));
        }
        assert!(
            wrong.is_empty(),
            "{}:\n  {}",
            self.fault,
            wrong.join("\n  ")
        );
    }

    /// How long it takes until every process has Redis again and all report the same state of every
    /// circuit.
    async fn agreement(&self) -> Duration {
        let since = Instant::now();
        let mut agreed = None;
        // They must agree for a while, not by chance.
        let lasting = ms(200);
        loop {
            let looks = self.fleet.order_all(|| Order::Look).await;
            let stored = self.stored().await;
            let now = since.elapsed();
            if self.agree(&looks, stored.as_deref()) {
                let at = *agreed.get_or_insert(now);
                if now >= at + lasting {
                    return at;
                }
            } else {
                agreed = None;
            }
            assert!(
                now < AGREEMENT * 4,
                "{}: no agreement at all. Redis: {stored:?}; processes: {:?}",
                self.fault,
                looks.iter().map(|a| (a.away, &a.views)).collect::<Vec<_>>()
            );
            tokio::time::sleep(ms(10)).await;
        }
    }

    fn agree(&self, looks: &[Answer], stored: Option<&[(State, u64)]>) -> bool {
        let Some(stored) = stored else { return false };
        let tripped = if self.tripped {
            State::Open
        } else {
            State::Closed
        };
        let wanted = [State::Closed, State::Open, tripped];
        let kept = stored.iter().zip(&self.generations);
        let kept = kept.zip(wanted);
        let kept = kept
            .into_iter()
            .all(|(((state, generation), before), wanted)| {
                *state == wanted && generation >= before
            });
        let same = |look: &Answer| {
            let seen = look.views.iter().map(|v| (v.state, v.generation));
            !look.away && seen.eq(stored.iter().copied())
        };
        kept && looks.iter().all(same)
    }

    /// The circuits in Redis, read directly; `None` if it does not answer.
    async fn stored(&self) -> Option<Vec<(State, u64)>> {
        let client = redis::Client::open(self.server.clone()).unwrap();
        let mut redis = client.get_multiplexed_async_connection().await.ok()?;
        let mut read = redis::pipe();
        for name in &self.names {
            let key = format!("commontrip:{{{name}}}");
            read.cmd("HMGET").arg(key).arg("state").arg("generation");
        }
        let read: Vec<(Option<String>, Option<u64>)> = read.query_async(&mut redis).await.ok()?;
        // Fields at their default are not stored.
        let circuit = |(state, generation): (Option<String>, Option<u64>)| {
            let state = state.map_or(State::Closed, |word| word.parse().unwrap());
            (state, generation.unwrap_or(0))
        };
        Some(read.into_iter().map(circuit).collect())
    }
}

fn drive(failing: &[usize]) -> Order {
    Order::Drive {
        failing: failing.to_vec(),
    }
}

fn setup(way: Way) -> (Vec<(String, Policy)>, Setup) {
    let policy = Policy::builder()
        .wait_duration_in_open_state(Duration::from_secs(600))
        .decision_ttl(way.decision_ttl);
    // Opens soon after earlier successes, but not before each process has seen a failure of its
    // own.
    let quick = policy
        .clone()
        .sliding_window_time(ms(1000), 10)
        .no_consecutive_failures_threshold();
    let circuits = [
        ("healthy", policy.clone()),
        ("failing", quick),
        ("tripped", policy),
    ];
    let circuits = circuits.map(|(name, policy)| (support::unique(name), policy.build().unwrap()));
    let setup = Setup {
        redis: way.url,
        registries: 1,
        circuits: circuits.to_vec(),
        store_timeout_ms: Some(STORE_TIMEOUT.as_millis() as u64),
        started_with: way.started_with,
        ..Setup::default()
    };
    (circuits.to_vec(), setup)
}

/// A connection with all rights.
pub async fn operator(server: &OwnServer) -> redis::aio::MultiplexedConnection {
    connection_to(&server.admin_url()).await
}

/// Sends a command, given as words separated by spaces.
pub async fn say(redis: &mut redis::aio::MultiplexedConnection, words: &str) {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().expect("a word"));
    for word in words {
        command.arg(word);
    }
    command.exec_async(redis).await.unwrap();
}
