//! One process of the fleet: a service with its replicas' breakers.
//!
//! Owns what a call does, not when it is made. Invariant: it ends as soon as its stdin closes, so
//! none outlives the test.

use std::{
    env,
    io::{BufRead, Write},
    panic, process,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use commontrip::{CircuitBreaker, Commontrip, Outcome, Permit, Snapshot, State};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};

use super::load::Load;
use super::wire::{Answer, Line, Order, ROLE, Seen, Setup, Totals, Verdict, View, unix_ms};
use crate::histories::replica;

/// Calls in 100 that are dropped without an outcome.
const DROPPED: u8 = 8;
/// Long, because Redis is slow here only if the machine is.
const STORE_TIMEOUT_MS: u64 = 3000;

/// Whether this process was started to be a replica.
pub fn is_wanted() -> bool {
    env::var_os(ROLE).is_some()
}

/// Executes the orders on stdin.
///
/// Meant for a single-threaded runtime, so that nothing else runs between a permit and a read of
/// the cache, except at an `await`.
pub async fn run() {
    // Otherwise a panic within a task would go unnoticed.
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        print(panic);
        process::exit(101);
    }));
    let mut orders = orders();
    let Some(Order::Setup(setup)) = orders.recv().await else {
        panic!("the first order is the setup");
    };
    if let Some(load) = setup.load.clone() {
        return replica::run(setup, load, orders).await;
    }
    let service = Arc::new(Service::new(setup));
    say(&Line::Answer(Answer::default()));
    let mut workers = Vec::new();
    let mut held = None;
    while let Some(order) = orders.recv().await {
        let last = matches!(order, Order::Stop);
        let answer = service.obey(order, &mut workers, &mut held).await;
        say(&Line::Answer(answer));
        if last {
            return;
        }
    }
}

fn orders() -> mpsc::UnboundedReceiver<Order> {
    let (sender, orders) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let order = serde_json::from_str(&line).expect("orders are JSON");
            let _ = sender.send(order);
        }
        process::exit(0);
    });
    orders
}

/// Writes a line to the parent. The harness writes to the same stream, so a line break comes first.
pub fn say(line: &Line) {
    let text = serde_json::to_string(line).expect("lines can be JSON");
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "\n{text}").and_then(|()| out.flush());
    if written.is_err() {
        process::exit(0);
    }
}

struct Service {
    registries: Vec<Commontrip>,
    /// By registry, then by circuit.
    breakers: Vec<Vec<CircuitBreaker>>,
    upstream: u16,
    failures: AtomicU8,
    stopping: AtomicBool,
    views: Mutex<Vec<Vec<View>>>,
    totals: Mutex<Vec<Totals>>,
    load: Mutex<Option<Load>>,
}

impl Service {
    fn new(setup: Setup) -> Service {
        let timeout = setup.store_timeout_ms.unwrap_or(STORE_TIMEOUT_MS);
        let registry = |_| {
            let registry = Commontrip::builder()
                .redis(&setup.redis)
                .store_timeout(Duration::from_millis(timeout));
            registry
                .build()
                .expect("the URL is that of a running Redis")
        };
        let registries: Vec<_> = (0..setup.registries).map(registry).collect();
        let breakers = |registry: &Commontrip| {
            let circuit = |(name, policy): &(String, _)| {
                registry
                    .circuit(name, Clone::clone(policy))
                    .expect("a name")
            };
            setup.circuits.iter().map(circuit).collect::<Vec<_>>()
        };
        let breakers: Vec<_> = registries.iter().map(breakers).collect();
        let unseen = View {
            state: State::Closed,
            generation: 0,
            rejects: false,
        };
        Service {
            views: Mutex::new(vec![vec![unseen; setup.circuits.len()]; registries.len()]),
            totals: Mutex::new(vec![Totals::default(); setup.circuits.len()]),
            registries,
            breakers,
            upstream: setup.upstream,
            failures: AtomicU8::new(0),
            stopping: AtomicBool::new(false),
            load: Mutex::new(None),
        }
    }

    async fn obey(
        self: &Arc<Self>,
        order: Order,
        workers: &mut Vec<JoinHandle<()>>,
        held: &mut Option<Permit>,
    ) -> Answer {
        let mut answer = Answer::default();
        match order {
            Order::Setup(_) => panic!("there was a setup already"),
            Order::Call {
                registry,
                verdict,
                times,
            } => {
                for _ in 0..times {
                    match self.breakers[registry][0].acquire().await {
                        Ok(permit) => {
                            permit.record(outcome(verdict));
                            answer.admitted += 1;
                        }
                        Err(_) => answer.rejected += 1,
                    }
                }
            }
            Order::Hold => match self.breakers[0][0].acquire().await {
                Ok(permit) => {
                    *held = Some(permit);
                    answer.admitted = 1;
                }
                Err(_) => answer.rejected = 1,
            },
            Order::Settle(verdict) => held
                .take()
                .expect("a permit is held")
                .record(outcome(verdict)),
            Order::Flush => {
                for registry in &self.registries {
                    registry.flush().await;
                }
            }
            Order::Serve { failures } => {
                self.failures.store(failures, Ordering::Relaxed);
                if workers.is_empty() {
                    for registry in 0..self.breakers.len() {
                        for circuit in 0..self.breakers[registry].len() {
                            workers.push(tokio::spawn(Arc::clone(self).serve(registry, circuit)));
                        }
                    }
                }
            }
            Order::Drive { failing } => {
                let mut load = self.load.lock();
                let load = load.get_or_insert_with(|| Load::start(&self.breakers[0]));
                answer.measured = load.change(&failing);
            }
            Order::Look => {
                answer.views = match &*self.load.lock() {
                    Some(load) => load.views(),
                    None => self.views.lock().iter().flatten().copied().collect(),
                };
                let mut health = self.registries.iter().map(Commontrip::health);
                answer.away = health.any(|h| h.unavailable_for.is_some());
                answer.times_unavailable = self.times_unavailable();
                answer.last_error = self.registries.iter().find_map(|r| r.health().last_error);
                answer.unix_ms = unix_ms();
                let mut health = self.registries.iter().map(Commontrip::health);
                answer.in_touch =
                    health.all(|h| h.unavailable_for.is_none() && h.reports_pending == 0);
            }
            Order::Stop => {
                self.stopping.store(true, Ordering::Relaxed);
                for worker in workers.drain(..) {
                    worker.await.expect("no call panics");
                }
                let load = self.load.lock().take();
                if let Some(load) = load {
                    load.stop().await;
                }
                answer.times_unavailable = self.times_unavailable();
                for registry in &self.registries {
                    registry.shutdown().await;
                }
                answer.totals.clone_from(&self.totals.lock());
            }
        }
        answer
    }

    fn times_unavailable(&self) -> u64 {
        let away = |registry: &Commontrip| registry.health().times_unavailable;
        self.registries.iter().map(away).sum()
    }

    async fn serve(self: Arc<Self>, registry: usize, circuit: usize) {
        let breaker = self.breakers[registry][circuit].clone();
        while !self.stopping.load(Ordering::Relaxed) {
            let before = breaker.cached();
            let asked_ms = unix_ms();
            let answer = breaker.acquire().await;
            let after = breaker.cached();
            self.tell(registry, circuit, &after, answer.is_err());
            match answer {
                Err(_) => self.totals.lock()[circuit].rejected += 1,
                Ok(permit) => {
                    if is_probe(&before, &after) {
                        let lease = breaker.policy().rules().probe_lease_ms;
                        self.call_upstream(circuit, asked_ms, lease).await;
                    }
                    self.end(circuit, permit);
                }
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..6))).await;
        }
    }

    fn tell(&self, registry: usize, circuit: usize, after: &Snapshot, rejects: bool) {
        let mut views = self.views.lock();
        let view = &mut views[registry][circuit];
        view.state = after.state;
        if (view.generation, view.rejects) != (after.generation, rejects) {
            (view.generation, view.rejects) = (after.generation, rejects);
            say(&Line::Seen(Seen {
                registry,
                circuit,
                generation: after.generation,
                rejects,
                at_ms: unix_ms(),
            }));
        }
    }

    /// Makes the call of a probe. Settles the permit only after the upstream has confirmed that it
    /// no longer counts the call.
    async fn call_upstream(&self, circuit: usize, asked_ms: u64, lease_ms: u64) {
        let address = ("127.0.0.1", self.upstream);
        let mut call = TcpStream::connect(address)
            .await
            .expect("the upstream is there");
        // The lease begins when Redis grants it, which is not before the request.
        let (circuit, deadline) = (circuit as u64, asked_ms + lease_ms);
        call.write_u64(u64::from(process::id())).await.unwrap();
        call.write_u64(circuit).await.unwrap();
        call.write_u64(deadline).await.unwrap();
        call.read_u8().await.expect("the upstream takes the call");
        let work = fastrand::u64(2..lease_ms * 6 / 10);
        tokio::time::sleep(Duration::from_millis(work)).await;
        call.write_u8(0).await.unwrap();
        call.read_u8().await.expect("the upstream ends the call");
    }

    fn end(&self, circuit: usize, permit: Permit) {
        let mut totals = self.totals.lock();
        let totals = &mut totals[circuit];
        if fastrand::u8(..100) < DROPPED {
            totals.ignored += 1;
            permit.record(Outcome::Ignored);
        } else if fastrand::u8(..100) < self.failures.load(Ordering::Relaxed) {
            totals.failures += 1;
            permit.failure();
        } else {
            totals.successes += 1;
            permit.success();
        }
    }
}

fn outcome(verdict: Verdict) -> Outcome {
    match verdict {
        Verdict::Success => Outcome::Success,
        Verdict::Failure => Outcome::failure(),
        Verdict::Trip => Outcome::trip(),
    }
}

/// Whether a permit that was given between two snapshots is certainly a probe's: no closed
/// generation is between them.
fn is_probe(before: &Snapshot, after: &Snapshot) -> bool {
    let since_open = before.state == State::Open && after.generation == before.generation + 1;
    let same = before.state == State::HalfOpen && after.generation == before.generation;
    after.state == State::HalfOpen && (since_open || same)
}
