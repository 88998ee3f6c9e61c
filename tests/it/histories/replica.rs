//! A process whose calls are recorded.
//!
//! Owns what is recorded of each call, and when. Invariant: an outcome is recorded before it is
//! settled, and a permit before it is used. So the record of a killed process lacks at most its
//! very last step.

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

/// One in this many calls goes through `call`, which does not tell probes from other calls.
const BY_CALL: u64 = 4;
/// Only something that hangs takes this long.
const HANGS: Duration = Duration::from_secs(30);
const STALL_TICK: Duration = Duration::from_millis(10);

/// Executes the orders. Meant for a single-threaded runtime, so that nothing else runs between an
/// answer and a read.
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

/// Waits for something that should end soon.
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
    /// The sum of all delays of its timers.
    stalled_ns: AtomicU64,
    /// The store's count of outages when all views were last known to be shared.
    shared_at: Mutex<Option<u64>>,
    /// For each circuit: the last recorded view, and failures in a row.
    shown: Mutex<Vec<Option<Sight>>>,
    failing: Mutex<HashMap<usize, u64>>,
    tick: Mutex<Tick>,
}

/// A reading at one moment.
struct Moment {
    at_ns: u64,
    sight: Sight,
    away: bool,
    times_unavailable: u64,
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
            in_touch: health.unavailable_for.is_none() && health.reports_pending == 0,
            times_unavailable: health.times_unavailable,
            away: health.unavailable_for.is_some(),
            last_error: health.last_error,
            ..Answer::default()
        }
    }

    fn look(&self, circuit: usize) -> Moment {
        let seen = self.breakers[circuit].cached();
        let health = self.registry.health();
        let away = health.unavailable_for.is_some();
        let shared = !away && *self.shared_at.lock() == Some(health.times_unavailable);
        Moment {
            at_ns: now_ns(),
            sight: Sight {
                generation: seen.generation,
                state: seen.state,
                shared,
            },
            away,
            times_unavailable: health.times_unavailable,
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

    /// Makes one call with the closure, as most users do.
    async fn call(&self, circuit: usize) {
        let asked_ns = now_ns();
        let stalled_ns = self.stalled_ns.load(Ordering::Relaxed);
        let begun = AtomicU64::new(0);
        let fails = self.load.weather.fails(circuit, asked_ns);
        let answer = self.breakers[circuit]
            .call(|| async {
                begun.store(now_ns(), Ordering::Relaxed);
                // Recorded before the outcome is settled, like everything.
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

    /// Makes one call with a permit that is held for a while.
    async fn permit(&self, circuit: usize, call: u64) {
        let asked = self.look(circuit);
        if self.load.detail {
            self.tell(circuit, &asked, What::Asked(call));
        }
        let stalled_ns = self.stalled_ns.load(Ordering::Relaxed);
        let answer = self.breakers[circuit].acquire().await;
        let moment = self.look(circuit);
        self.note_added(moment.at_ns - asked.at_ns, stalled_ns);
        // If the store was available all the time, the answer is from the store or from its last
        // answer.
        let away = asked.away || moment.away || asked.times_unavailable != moment.times_unavailable;
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
        tick.did[circuit].rejected += 1;
        // With `Reject` this would be the policy's own decision, but tests that check this do not
        // use it.
        tick.wronged += u64::from(rejection.reason == Reason::StoreUnavailable);
    }

    /// Records the time that the breaker added to a call, given the process' delays since the call
    /// began.
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
        tick.times_unavailable = self.registry.health().times_unavailable;
        say(&Line::Tick(tick.clone()));
    }

    /// Has the store confirm everything until now; `false` if it did not.
    async fn confirm(&self) -> bool {
        let did = self.tick.lock().did.clone();
        let before = self.registry.health();
        // The first flush may have resent a report whose answer was lost, while newer outcomes
        // waited.
        self.registry.flush().await;
        self.registry.flush().await;
        let after = self.registry.health();
        let in_touch = before.unavailable_for.is_none()
            && after.unavailable_for.is_none()
            && before.times_unavailable == after.times_unavailable
            && after.reports_pending == 0;
        if in_touch {
            // If the store was back before, every circuit has had an answer now.
            *self.shared_at.lock() = Some(after.times_unavailable);
            for (circuit, totals) in did.iter().enumerate() {
                let moment = self.look(circuit);
                self.tell(circuit, &moment, What::Confirmed(*totals));
            }
            self.tick.lock().confirmed = did;
        }
        in_touch
    }

    /// Measures how much of a wait the machine causes.
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
