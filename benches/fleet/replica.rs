//! One replica: its own registry, calls at random times, and a log of them.
//!
//! The same code runs in a process and as one of many tasks. Invariant: a call's time at the
//! upstream lies within the time for which it holds its permit, so calls in flight never exceed
//! permits.

use std::sync::Arc;

use commontrip::{CircuitBreaker, Commontrip, State};
use parking_lot::Mutex;
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    servers::ms,
    upstream::Upstream,
    wire::{Call, End, Log, Seen, Setup, View, now_us},
};

pub struct Replica {
    registry: Commontrip,
    caller: Arc<Caller>,
    arrivals: JoinHandle<()>,
    /// The last state that `watch` has seen.
    state: Mutex<State>,
}

struct Caller {
    breaker: CircuitBreaker,
    upstream: Arc<Upstream>,
    log: Mutex<Log>,
}

impl Replica {
    pub fn start(setup: &Setup, number: usize, upstream: Arc<Upstream>) -> Replica {
        let registry = Commontrip::builder()
            .redis(&setup.redis)
            .replica(&format!("replica-{number}"))
            // Redis is slow here only because the machine is, and a replica that considers it
            // unavailable would send probes by its own decision.
            .store_timeout(ms(1_000));
        let registry = registry.build().expect("the URL is that of a Redis");
        let breaker = registry.circuit(&setup.circuit, setup.policy.clone());
        let caller = Arc::new(Caller {
            breaker: breaker.expect("it is a name"),
            upstream,
            log: Mutex::default(),
        });
        Replica {
            arrivals: tokio::spawn(arrive(Arc::clone(&caller), setup.rate)),
            state: Mutex::new(caller.breaker.state()),
            registry,
            caller,
        }
    }

    /// Logs a change of the state by which it decides.
    pub fn watch(&self) {
        let state = self.caller.breaker.state();
        let mut before = self.state.lock();
        if *before != state {
            *before = state;
            let at_us = now_us();
            self.caller.log.lock().seen.push(Seen { at_us, state });
        }
    }

    pub fn view(&self) -> View {
        let health = self.registry.health();
        View {
            state: self.caller.breaker.state(),
            push: health.push,
            away: health.unavailable_for.is_some(),
            times_unavailable: health.times_unavailable,
            last_error: health.last_error,
        }
    }

    pub fn take(&self) -> Log {
        std::mem::take(&mut *self.caller.log.lock())
    }

    pub async fn stop(&self) {
        self.arrivals.abort();
        self.registry.shutdown().await;
    }
}

/// Calls do not wait for each other, as with many users.
async fn arrive(caller: Arc<Caller>, rate: f64) {
    let mut due = Instant::now();
    loop {
        due += ms(1_000).mul_f64(-(1.0 - fastrand::f64()).ln() / rate);
        tokio::time::sleep_until(due).await;
        tokio::spawn(Arc::clone(&caller).call(due.elapsed().as_micros() as u64));
    }
}

impl Caller {
    async fn call(self: Arc<Self>, late_us: u64) {
        let asked_us = now_us();
        let answer = self.breaker.acquire().await;
        let begun_us = now_us();
        let mut call = Call {
            late_us,
            decision_us: begun_us - asked_us,
            begun_us,
            ended_us: begun_us,
            end: End::Rejected,
            probe: false,
        };
        if let Ok(permit) = answer {
            call.probe = permit.is_probe();
            let result = self.upstream.call().await;
            call.ended_us = now_us();
            if result.is_ok() {
                call.end = End::Succeeded;
                permit.success();
            } else {
                call.end = End::Failed;
                permit.failure();
            }
        }
        self.log.lock().calls.push(call);
    }
}
