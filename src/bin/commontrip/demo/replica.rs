//! One replica: calls the upstream through its circuit breaker and reports what it observed.
//!
//! Runs as a task of the embedded show or as a process. Does not know the show's plan: it learns of
//! outages from the circuit.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use commontrip::{
    CallError, CircuitBreaker, Clock, Commontrip, Outcome, Policy, State, StoreError,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::Instant,
};

use super::upstream::mix;

/// What a replica needs to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// Its name in the show and the fleet is `r{index + 1}`.
    pub index: usize,
    pub redis: Option<String>,
    /// Its name among the replicas that use the store.
    pub name: String,
    pub circuit: String,
    pub policy: Policy,
    pub upstream: SocketAddr,
    pub seed: u64,
    pub call_every_us: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Start,
    Stop,
}

/// What a replica reports. Times are Unix ms by this machine's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// It is ready to start.
    Ready { pid: u32 },
    /// It has learned of the transition to this generation.
    Knew { generation: u64, at_ms: u64 },
    /// It has rejected its first call in this generation.
    Rejects { generation: u64, at_ms: u64 },
    /// Its calls so far.
    Counts(Calls),
    /// It has stopped; its last state and errors.
    Bye {
        state: State,
        generation: u64,
        times_unavailable: u64,
        last_error: Option<String>,
    },
    /// It has ended, and why. Reported by the fleet, not by the replica.
    Gone { how: String },
}

/// Calls of one replica since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    pub ok: u64,
    pub failed: u64,
    pub rejected: u64,
}

impl Calls {
    pub const fn made(self) -> u64 {
        self.ok + self.failed + self.rejected
    }

    pub const fn plus(self, other: Self) -> Self {
        Self {
            ok: self.ok + other.ok,
            failed: self.failed + other.failed,
            rejected: self.rejected + other.rejected,
        }
    }

    /// The calls since an earlier count.
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            ok: self.ok.saturating_sub(earlier.ok),
            failed: self.failed.saturating_sub(earlier.failed),
            rejected: self.rejected.saturating_sub(earlier.rejected),
        }
    }
}

/// Why a replica had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    #[error("the circuit's name is wrong")]
    Name(#[from] commontrip::NameError),
    #[error("the store does not answer")]
    Store(#[from] StoreError),
}

struct Replica {
    me: Assignment,
    breaker: CircuitBreaker,
    clock: Clock,
    idle: Mutex<Vec<BufReader<TcpStream>>>,
    ok: AtomicU64,
    failed: AtomicU64,
    rejected: AtomicU64,
    /// The last generation in which it rejected a call.
    rejects_in: AtomicU64,
    say: mpsc::UnboundedSender<Said>,
}

/// Runs one replica. Ends early when the sender of orders is gone.
pub async fn run(
    registry: Commontrip,
    me: Assignment,
    mut orders: mpsc::UnboundedReceiver<Order>,
    say: mpsc::UnboundedSender<Said>,
) -> Result<(), ReplicaError> {
    let breaker = registry.circuit(&me.circuit, me.policy.clone())?;
    let seen = reach(&registry, &breaker).await?;
    let mut events = breaker.events_after(seen);
    let replica = Arc::new(Replica {
        breaker,
        clock: Clock::system(),
        idle: Mutex::default(),
        ok: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        rejected: AtomicU64::new(0),
        rejects_in: AtomicU64::new(0),
        say,
        me,
    });
    replica.say(Said::Ready {
        pid: std::process::id(),
    });
    let Some(Order::Start) = orders.recv().await else {
        return Ok(());
    };

    let mut dice = fastrand::Rng::with_seed(mix(replica.me.seed, replica.me.index as u64, 0));
    let mean_us = replica.me.call_every_us;
    // 0.5 to 1.5 times the mean.
    let mut pause = || Duration::from_micros(mean_us / 2 + dice.u64(0..=mean_us));
    let mut next_call = Instant::now() + pause();
    let mut counts = tokio::time::interval(Duration::from_millis(100));
    let mut calls = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Start) => {}
                Some(Order::Stop) => break,
                None => return Ok(()),
            },
            Some(event) = events.next() => replica.say(Said::Knew {
                generation: event.generation,
                at_ms: replica.clock.unix_ms(),
            }),
            () = tokio::time::sleep_until(next_call) => {
                next_call += pause();
                number += 1;
                calls.spawn(Arc::clone(&replica).call(number));
                while calls.try_join_next().is_some() {}
            }
            _ = counts.tick() => replica.say(Said::Counts(replica.calls())),
        }
    }
    while calls.join_next().await.is_some() {}
    registry.flush().await;
    replica.say(Said::Counts(replica.calls()));
    let last = replica.breaker.cached();
    let health = registry.health();
    replica.say(Said::Bye {
        state: last.state,
        generation: last.generation,
        times_unavailable: health.times_unavailable,
        last_error: health.last_error,
    });
    registry.shutdown().await;
    Ok(())
}

/// Waits until the store answers and pushes changes; returns the store's generation.
async fn reach(registry: &Commontrip, breaker: &CircuitBreaker) -> Result<u64, StoreError> {
    const TRIES: u32 = 100;
    for _ in 0..TRIES {
        if registry.health().push && breaker.snapshot().await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(breaker.snapshot().await?.generation)
}

impl Replica {
    fn say(&self, said: Said) {
        // An error means that the show is over.
        let _ = self.say.send(said);
    }

    fn calls(&self) -> Calls {
        Calls {
            ok: self.ok.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
        }
    }

    async fn call(self: Arc<Self>, number: u64) {
        let judge = |paid: &io::Result<()>| match paid {
            Ok(()) => Outcome::Success,
            Err(_) => Outcome::failure_of("error answer"),
        };
        let paid = self.breaker.call_with(judge, || async {
            let generation = self.breaker.cached().generation;
            self.pay(number, generation).await
        });
        match paid.await {
            Ok(()) => self.ok.fetch_add(1, Ordering::Relaxed),
            Err(CallError::Rejected(_)) => {
                self.note_rejection();
                self.rejected.fetch_add(1, Ordering::Relaxed)
            }
            Err(_) => self.failed.fetch_add(1, Ordering::Relaxed),
        };
    }

    fn note_rejection(&self) {
        let generation = self.breaker.cached().generation;
        if self.rejects_in.fetch_max(generation, Ordering::Relaxed) < generation {
            let at_ms = self.clock.unix_ms();
            self.say(Said::Rejects { generation, at_ms });
        }
    }

    /// The call that the circuit protects.
    async fn pay(&self, number: u64, generation: u64) -> io::Result<()> {
        let idle = self.idle.lock().pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.me.upstream).await?;
                stream.set_nodelay(true)?;
                BufReader::new(stream)
            }
        };
        let request = format!("pay {} {number} {generation}\n", self.me.index);
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await?;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.idle.lock().push(stream);
        match answer.as_str() {
            "ok\n" => Ok(()),
            _ => Err(io::Error::other("the upstream answered an error")),
        }
    }
}
