//! The one connection in use: made in the background, shared by all, replaced when it fails.
//!
//! Owns that connection and, in a Cluster, who serves which slot. Invariant: at most one is being
//! made at a time, and whoever waits for it may stop waiting without ending it: connecting may take
//! longer than any call would wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{
    Cmd, Pipeline, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster_async::ClusterConnection,
    cluster_routing::{RoutingInfo, SingleNodeRoutingInfo},
};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{StoreError, endpoint::Endpoint, slots::Slots, wire};

/// How long connecting may take at least; it goes on when nobody waits any more. Less than the
/// second after which a lost SYN is sent again: a new attempt is there sooner when a partition ends.
const PATIENCE: Duration = Duration::from_millis(500);
/// Waits before the next attempt when a server turns connections away, as at `maxclients`: that
/// costs it more than one that finds nobody. Each is lengthened at random by up to a half.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The shortest time between two attempts to replace a Cluster's connection that is in use.
const PAUSE: Duration = Duration::from_millis(250);

/// A connection for commands.
#[derive(Clone)]
pub(super) enum Line {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Line {
    /// Sends commands at once; one answer each, in their order.
    ///
    /// # Errors
    /// When the connection as a whole failed. In a Cluster each command fails for itself, and what
    /// is not answered by the deadline too.
    pub(super) async fn send(
        &mut self,
        commands: &[Cmd],
        deadline: Instant,
    ) -> RedisResult<Vec<RedisResult<Value>>> {
        match self {
            Self::Server(connection) => {
                let mut pipeline = Pipeline::with_capacity(commands.len());
                pipeline.ignore_errors();
                for command in commands {
                    pipeline.add_command(command.clone());
                }
                pipeline.query_async(connection).await
            }
            Self::Cluster(connection) => {
                let send = |command| {
                    let mut connection = connection.clone();
                    async move {
                        let answer = connection.req_packed_command(command);
                        let answer = timeout_at(deadline, answer).await;
                        let late = |_| Err(std::io::Error::from(TIMED_OUT).into());
                        answer.unwrap_or_else(late).and_then(Value::extract_error)
                    }
                };
                Ok(join_all(commands.iter().map(send)).await)
            }
        }
    }
}

const TIMED_OUT: std::io::ErrorKind = std::io::ErrorKind::TimedOut;

/// The connection in use.
#[derive(Clone)]
pub(super) struct Up {
    number: u64,
    pub(super) line: Line,
    slots: Option<Arc<Slots>>,
}

impl Up {
    /// Whether every master of a Cluster answers. A connection that lacks one stops for all while
    /// it looks for that one; one that waits for its answers does not.
    async fn is_whole(&self) -> bool {
        let (Line::Cluster(connection), Some(slots)) = (&self.line, &self.slots) else {
            return true;
        };
        let ping = |(host, port): &(String, u16)| {
            let (host, port) = (host.clone(), *port);
            let node = RoutingInfo::SingleNode(SingleNodeRoutingInfo::ByAddress { host, port });
            let mut connection = connection.clone();
            async move {
                let answer = connection.route_command(redis::cmd("PING"), node);
                answer
                    .await
                    .is_ok_and(|answer| answer.extract_error().is_ok())
            }
        };
        let answers = join_all(slots.masters.iter().map(ping));
        let answers = timeout(PATIENCE, answers).await;
        answers.is_ok_and(|answers| !answers.contains(&false))
    }
}

#[derive(Clone)]
enum State {
    None,
    Dialling,
    Up(Up),
    /// And until when there is no other attempt.
    Failed(StoreError, Instant),
}

pub(super) struct Lines {
    endpoint: Endpoint,
    patience: Duration,
    state: watch::Sender<State>,
    /// The last pause, if the last attempt was followed by one.
    paused: Mutex<Option<Duration>>,
    replacing: AtomicBool,
}

impl Lines {
    pub(super) fn new(endpoint: Endpoint, timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            patience: (timeout * 4).max(PATIENCE),
            state: watch::channel(State::None).0,
            paused: Mutex::default(),
            replacing: AtomicBool::new(false),
        })
    }

    /// Where connections come from.
    pub(super) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The connection in use, or the next one.
    pub(super) async fn get(self: &Arc<Self>) -> Result<Up, StoreError> {
        let mut state = self.state.subscribe();
        let idle = self.state.send_if_modified(|state| {
            let idle = match state {
                State::None => true,
                State::Failed(_, until) => Instant::now() >= *until,
                State::Dialling | State::Up(_) => false,
            };
            if idle {
                *state = State::Dialling;
            }
            idle
        });
        if idle {
            let lines = Arc::clone(self);
            tokio::spawn(async move { Dialling(lines).run().await });
        }
        let settled = state.wait_for(|state| matches!(state, State::Up(_) | State::Failed(..)));
        match settled.await.as_deref() {
            Ok(State::Up(up)) => Ok(up.clone()),
            Ok(State::Failed(error, _)) => Err(error.clone()),
            _ => Err(StoreError::unreachable("the store is gone")),
        }
    }

    /// Something that was sent on this connection failed: nobody knows what it is worth.
    ///
    /// A server's is let go. A Cluster's may still reach the other nodes: it stays in use until
    /// there is a new one.
    pub(super) fn doubt(self: &Arc<Self>, up: &Up) {
        match up.line {
            Line::Server(_) => {
                self.state.send_if_modified(|state| {
                    let same = matches!(state, State::Up(other) if other.number == up.number);
                    if same {
                        *state = State::None;
                    }
                    same
                });
            }
            Line::Cluster(_) => {
                // Without a runtime there is nobody left to use it.
                let Ok(runtime) = Handle::try_current() else {
                    return;
                };
                if !self.replacing.swap(true, Ordering::SeqCst) {
                    let lines = Arc::clone(self);
                    runtime.spawn(async move { Replacing(lines).run().await });
                }
            }
        }
    }

    /// Which part of a Cluster serves a slot; 0 where nobody knows.
    pub(super) fn shard(&self, slot: u16) -> u16 {
        match &*self.state.borrow() {
            State::Up(Up {
                slots: Some(slots), ..
            }) => slots.shard(slot),
            _ => 0,
        }
    }

    /// Whether the Cluster's masters are others than those that the connection in use knows.
    fn is_moved(&self, new: &Up) -> bool {
        let whole = new.slots.as_ref().is_some_and(|slots| slots.is_whole());
        match &*self.state.borrow() {
            State::Up(up) => whole && up.slots != new.slots,
            _ => true,
        }
    }

    /// How long to wait after an attempt before the next.
    fn pause(&self, dialled: &Result<Up, StoreError>) -> Duration {
        let turned_away = dialled.as_ref().is_err_and(wire::is_turned_away);
        let mut paused = self.paused.lock();
        let next = paused.map_or(FIRST_PAUSE, |last| (last * 2).min(LONGEST_PAUSE));
        *paused = turned_away.then_some(next);
        let pause = paused.unwrap_or_default();
        pause.mul_f64(fastrand::f64().mul_add(0.5, 1.0))
    }

    async fn dial(&self) -> Result<Up, StoreError> {
        let dial = async {
            let mut line = self.endpoint.connect(self.patience).await?;
            let slots = match &mut line {
                Line::Server(_) => None,
                Line::Cluster(connection) => {
                    let slots = redis::cmd("CLUSTER").arg("SLOTS").to_owned();
                    let answer = connection.req_packed_command(&slots).await;
                    Some(Arc::new(Slots::read(&answer.map_err(wire::error)?)))
                }
            };
            Ok(Up {
                number: fastrand::u64(..),
                line,
                slots,
            })
        };
        let dialled = timeout(self.patience, dial).await;
        dialled.unwrap_or(Err(StoreError::Timeout(self.patience)))
    }
}

/// The making of the first connection, or of one after a failure; whatever becomes of it, those
/// who wait are told.
struct Dialling(Arc<Lines>);

impl Dialling {
    async fn run(self) {
        let dialled = self.0.dial().await;
        let pause = self.0.pause(&dialled);
        self.0.state.send_replace(match dialled {
            Ok(up) => State::Up(up),
            Err(error) => State::Failed(error, Instant::now() + pause),
        });
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        self.0.state.send_if_modified(|state| {
            let cut_off = matches!(state, State::Dialling);
            if cut_off {
                *state = State::None;
            }
            cut_off
        });
    }
}

/// The making of a connection while another is in use.
struct Replacing(Arc<Lines>);

impl Replacing {
    async fn run(self) {
        if let Ok(up) = self.0.dial().await
            && (self.0.is_moved(&up) || up.is_whole().await)
        {
            self.0.state.send_replace(State::Up(up));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Drop for Replacing {
    fn drop(&mut self) {
        self.0.replacing.store(false, Ordering::SeqCst);
    }
}
