//! The life of a process whose calls are recorded.
//!
//! Owns what is said about each call, and when. Invariant: an outcome is said before it is settled, and a permit before it
//! is used; so what a killed process did was said, but for its very last step.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use commontrip::{CallError, CircuitBreaker, Commontrip, Outcome, Permit, Reason, Rejection};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::record::{End, Got, Load, Record, Sight, Tick, What, now_ns};
use crate::processes::{
    child::say,
    wire::{Answer, Line, Order, Setup, Totals, View},
};

/// One call in so many goes through `call`, which does not tell a probe from others.
const BY_CALL: u64 = 4;
/// Nothing here takes so long, unless it takes for ever.
const HANGS: Duration = Duration::from_secs(30);
const STALL_TICK: Duration = Duration::from_millis(10);

/// Does as the orders say; meant for a runtime of one thread, so that nothing else runs between an answer and a look.
pub async fn run(setup: Setup, load: Load, mut orders: mpsc::UnboundedReceiver<Order>) {
    let replica = Arc::new(Replica::new(&setup, load));
    say(&Line::Answer(Answer::default()));
    let mut tasks = Vec::new();
    let mut ticks = None;
    while let Some(order) = orders.recv().await {
        match order {
            Order::Serve { .. } => {
                for circuit in 0..replica.breakers.len() {
                    for _ in 0..replica.load.workers {
                        tasks.push(tokio::spawn(Arc::clone(&replica).work(circuit)));
                    }
                }
                ticks = Some(tokio::spawn(Arc::clone(&replica).tick()));
                tokio::spawn(Arc::clone(&replica).feel_stalls());
                say(&Line::Answer(Answer::default()));
            }
            Order::Look => say(&Line::Answer(replica.answer())),
            Order::Stop => {
                replica.stopping.store(true, Ordering::Relaxed);
                for task in tasks.drain(..) {
                    ends("a call", task).await.expect("no call panics");
                }
                if let Some(ticks) = ticks.take() {
                    ends("a flush", ticks).await.expect("no flush panics");
                }
                let since_ns = now_ns();
                while !replica.confirm().await {
                    let (health, waited) = (replica.registry.health(), now_ns() - since_ns);
                    assert!(
                        waited < HANGS.as_nanos() as u64,
                        "nothing is confirmed any more: {health:?}"
                    );
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                replica.say_tick();
                let answer = replica.answer();
                ends("the shutdown", replica.registry.shutdown()).await;
                return say(&Line::Answer(answer));
            }
            other => panic!("a recorded process takes no {other:?}"),
        }
    }
}

/// Waits for something that takes a moment.
async fn ends<T>(what: &str, waits: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(HANGS, waits).await;
    ended.unwrap_or_else(|_| panic!("{what} does not end"))
}

struct Replica {
    registry: Commontrip,
    breakers: Vec<CircuitBreaker>,
    load: Load,
    stopping: AtomicBool,
    calls: AtomicU64,
    /// By how much its timers were late so far, in sum.
    stalled_ns: AtomicU64,
    /// How often the store had been away when all views were last known to be shared.
    shared_at: Mutex<Option<u64>>,
    /// By circuit: what was last said of it, failures in a row.
    shown: Mutex<Vec<Option<Sight>>>,
    failing: Mutex<HashMap<usize, u64>>,
    tick: Mutex<Tick>,
}

/// What is known at one moment.
struct Moment {
    at_ns: u64,
    sight: Sight,
    away: bool,
    times_away: u64,
}

impl Replica {
    fn new(setup: &Setup, load: Load) -> Replica {
        let timeout = Duration::from_millis(load.store_timeout_ms);
        let registry = Commontrip::builder()
            .redis(&setup.redis)
            .store_timeout(timeout);
        let registry = registry.build().expect("the URL is one");
        let circuit = |(name, policy): &(String, _)| {
            registry
                .circuit(name, Clone::clone(policy))
                .expect("a name")
        };
        let breakers: Vec<_> = setup.circuits.iter().map(circuit).collect();
        Replica {
            load,
            stopping: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            stalled_ns: AtomicU64::new(0),
            shared_at: Mutex::new(None),
            shown: Mutex::new(vec![None; breakers.len()]),
            failing: Mutex::default(),
            tick: Mutex::new(Tick {
                did: vec![Totals::default(); breakers.len()],
                confirmed: vec![Totals::default(); breakers.len()],
                ..Tick::default()
            }),
            registry,
            breakers,
        }
    }

    fn answer(&self) -> Answer {
        let health = self.registry.health();
        let view = |breaker: &CircuitBreaker| {
            let seen = breaker.cached();
            View {
                state: seen.state,
                generation: seen.generation,
                rejects: false,
            }
        };
        Answer {
            views: self.breakers.iter().map(view).collect(),
            totals: self.tick.lock().did.clone(),
            in_touch: health.away_for.is_none() && health.reports_pending == 0,
            times_away: health.times_away,
            away: health.away_for.is_some(),
            last_error: health.last_error,
            ..Answer::default()
        }
    }

    fn look(&self, circuit: usize) -> Moment {
        let seen = self.breakers[circuit].cached();
        let health = self.registry.health();
        let away = health.away_for.is_some();
        let shared = !away && *self.shared_at.lock() == Some(health.times_away);
        Moment {
            at_ns: now_ns(),
            sight: Sight {
                generation: seen.generation,
                state: seen.state,
                shared,
            },
            away,
            times_away: health.times_away,
        }
    }

    fn tell(&self, circuit: usize, moment: &Moment, what: What) {
        self.shown.lock()[circuit] = Some(moment.sight);
        say(&Line::Did(Record {
            at_ns: moment.at_ns,
            circuit,
            sight: moment.sight,
            what,
        }));
    }

    async fn work(self: Arc<Self>, circuit: usize) {
        while !self.stopping.load(Ordering::Relaxed) {
            let call = self.calls.fetch_add(1, Ordering::Relaxed);
            if !self.load.detail && call.is_multiple_of(BY_CALL) {
                self.call(circuit).await;
            } else {
                self.permit(circuit, call).await;
            }
            let pause = fastrand::u64(1..=self.load.pause_ms);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// One call through the closure, as most users make it.
    async fn call(&self, circuit: usize) {
        let asked_ns = now_ns();
        let stalled_ns = self.stalled_ns.load(Ordering::Relaxed);
        let begun = AtomicU64::new(0);
        let fails = self.load.weather.fails(circuit, asked_ns);
        let answer = self.breakers[circuit]
            .call(|| async {
                begun.store(now_ns(), Ordering::Relaxed);
                // Before the outcome is settled, like everything that is recorded.
                let end = if fails { End::Failure } else { End::Success };
                self.count(circuit, end);
                if fails { Err(()) } else { Ok(()) }
            })
            .await;
        let begun = match begun.into_inner() {
            0 => now_ns(),
            begun => begun,
        };
        self.note_added(begun - asked_ns, stalled_ns);
        match answer {
            Ok(()) | Err(CallError::Failed(())) => {}
            Err(CallError::Rejected(rejection)) => self.count_rejection(circuit, &rejection),
            Err(_) => self.tick.lock().wronged += 1,
        }
    }

    /// One call by a permit that is held for a while.
    async fn permit(&self, circuit: usize, call: u64) {
        let asked = self.look(circuit);
        if self.load.detail {
            self.tell(circuit, &asked, What::Asked(call));
        }
        let stalled_ns = self.stalled_ns.load(Ordering::Relaxed);
        let answer = self.breakers[circuit].acquire().await;
        let moment = self.look(circuit);
        self.note_added(moment.at_ns - asked.at_ns, stalled_ns);
        // Who was in touch all the time was answered by the store, or from its last answer.
        let away = asked.away || moment.away || asked.times_away != moment.times_away;
        let answered = |got, local| What::Answered { call, got, local };
        match answer {
            Err(rejection) => {
                self.count_rejection(circuit, &rejection);
                if self.load.detail {
                    let local = away || rejection.local;
                    self.tell(circuit, &moment, answered(Got::Rejected, local));
                } else if self.shown.lock()[circuit] != Some(moment.sight) {
                    self.tell(circuit, &moment, What::Looked);
                }
            }
            Ok(permit) if permit.is_probe() => {
                if !self.load.detail {
                    self.tell(circuit, &asked, What::Asked(call));
                }
                self.tell(circuit, &moment, answered(Got::Probe, away));
                let lease = self.breakers[circuit].policy().rules().probe_lease_ms;
                tokio::time::sleep(Duration::from_millis(fastrand::u64(2..lease * 6 / 10))).await;
                self.settle(circuit, call, permit, true);
            }
            Ok(permit) => {
                if self.load.detail {
                    self.tell(circuit, &moment, answered(Got::Plain, away));
                } else if self.shown.lock()[circuit] != Some(moment.sight) {
                    self.tell(circuit, &moment, What::Looked);
                }
                if fastrand::u8(..4) == 0 {
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(1..5))).await;
                }
                self.settle(circuit, call, permit, self.load.detail);
            }
        }
    }

    fn settle(&self, circuit: usize, call: u64, permit: Permit, is_record: bool) {
        let moment = self.look(circuit);
        let end = if fastrand::u8(..100) < self.load.dropped {
            End::Ignored
        } else if self.load.weather.fails(circuit, moment.at_ns) {
            End::Failure
        } else {
            End::Success
        };
        if is_record {
            self.tell(circuit, &moment, What::Settles(call, end));
        }
        self.count(circuit, end);
        match end {
            End::Success => permit.success(),
            End::Failure => permit.failure(),
            End::Ignored => permit.record(Outcome::Ignored),
        }
    }

    fn count(&self, circuit: usize, end: End) {
        let mut failing = self.failing.lock();
        let run = failing.entry(circuit).or_default();
        let mut tick = self.tick.lock();
        match end {
            End::Success => *run = 0,
            End::Failure => *run += 1,
            End::Ignored => {}
        }
        tick.unprotected = tick.unprotected.max(*run);
        let did = &mut tick.did[circuit];
        match end {
            End::Success => did.successes += 1,
            End::Failure => did.failures += 1,
            End::Ignored => did.ignored += 1,
        }
    }

    fn count_rejection(&self, circuit: usize, rejection: &Rejection) {
        self.failing.lock().insert(circuit, 0);
        let mut tick = self.tick.lock();
        tick.did[circuit].not_permitted += 1;
        // With `Reject` the policy asks for it; it is not used where this is looked at.
        tick.wronged += u64::from(rejection.reason == Reason::StoreAway);
    }

    /// Notes the time that the breaker took over a call, and since whose beginning this process has stalled so long.
    fn note_added(&self, added_ns: u64, stalled_ns: u64) {
        let stalled_ns = self.stalled_ns.load(Ordering::Relaxed) - stalled_ns;
        let mut tick = self.tick.lock();
        tick.calls += 1;
        tick.worst_added_ns = tick.worst_added_ns.max(added_ns);
        let beyond_ms = (added_ns / 1_000_000).saturating_sub(self.load.store_timeout_ms);
        tick.added_50 += u64::from(beyond_ms > 50);
        tick.held_up += u64::from(beyond_ms > 500 + stalled_ns / 1_000_000);
    }

    async fn tick(self: Arc<Self>) {
        while !self.stopping.load(Ordering::Relaxed) {
            self.confirm().await;
            self.say_tick();
            tokio::time::sleep(Duration::from_millis(self.load.tick_ms)).await;
        }
    }

    fn say_tick(&self) {
        let mut tick = self.tick.lock();
        tick.at_ns = now_ns();
        tick.times_away = self.registry.health().times_away;
        say(&Line::Tick(tick.clone()));
    }

    /// Has the store confirm what was done until now; `false` when it did not.
    async fn confirm(&self) -> bool {
        let did = self.tick.lock().did.clone();
        let before = self.registry.health();
        // The first may have sent again a report whose answer was lost, and what came later waited.
        self.registry.flush().await;
        self.registry.flush().await;
        let after = self.registry.health();
        let in_touch = before.away_for.is_none()
            && after.away_for.is_none()
            && before.times_away == after.times_away
            && after.reports_pending == 0;
        if in_touch {
            // Whoever was back before has now been told about every circuit.
            *self.shared_at.lock() = Some(after.times_away);
            for (circuit, totals) in did.iter().enumerate() {
                let moment = self.look(circuit);
                self.tell(circuit, &moment, What::Confirmed(*totals));
            }
            self.tick.lock().confirmed = did;
        }
        in_touch
    }

    /// How much of a wait is the machine's doing.
    async fn feel_stalls(self: Arc<Self>) {
        loop {
            let before = now_ns();
            tokio::time::sleep(STALL_TICK).await;
            let late = (now_ns() - before).saturating_sub(STALL_TICK.as_nanos() as u64);
            self.stalled_ns.fetch_add(late, Ordering::Relaxed);
            let mut tick = self.tick.lock();
            tick.worst_stall_ns = tick.worst_stall_ns.max(late);
        }
    }
}
