//! The one connection in use: made in the background, shared by all callers, replaced when it
//! fails.
//!
//! Owns that connection and, in a Cluster, which master serves which slot. Invariant: at most one
//! connection is being made at a time, and a caller that stops waiting for it does not end it:
//! connecting may take longer than any call would wait.

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
    aio::ConnectionLike,
    cluster_routing::{RoutingInfo, SingleNodeRoutingInfo},
};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout},
};

use super::{StoreError, commands::Connection, endpoint::Endpoint, slots::Slots, wire};

/// The minimum timeout of connecting, which continues even if nobody waits any more. It is shorter
/// than the second after which a lost SYN is sent again, so that a new attempt succeeds sooner when
/// a partition ends.
const PATIENCE: Duration = Duration::from_millis(500);
/// Pauses before the next attempt when a server turns connections away, as at `maxclients`:
/// rejecting a connection costs the server more than an attempt that reaches nobody. Each pause is
/// lengthened at random by up to a half.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The shortest time between two attempts to replace a Cluster's connection that is in use.
const PAUSE: Duration = Duration::from_millis(250);

/// The connection in use.
#[derive(Clone)]
pub(super) struct Connected {
    number: u64,
    pub(super) connection: Connection,
    slots: Option<Arc<Slots>>,
}

impl Connected {
    /// Whether every master of a Cluster answers. A connection that lacks a master stops all
    /// requests while it looks for that master; a connection that waits for the master's answers
    /// does not.
    async fn is_whole(&self) -> bool {
        let (Connection::Cluster(connection), Some(slots)) = (&self.connection, &self.slots) else {
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
    Connected(Connected),
    /// The error, and when the next attempt may start.
    Failed(StoreError, Instant),
}

pub(super) struct Connections {
    endpoint: Endpoint,
    patience: Duration,
    state: watch::Sender<State>,
    /// The last pause, if the last attempt was followed by one.
    paused: Mutex<Option<Duration>>,
    replacing: AtomicBool,
}

impl Connections {
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

    /// Returns the connection in use, or waits for the next one.
    pub(super) async fn get(self: &Arc<Self>) -> Result<Connected, StoreError> {
        let mut state = self.state.subscribe();
        let idle = self.state.send_if_modified(|state| {
            let idle = match state {
                State::None => true,
                State::Failed(_, until) => Instant::now() >= *until,
                State::Dialling | State::Connected(_) => false,
            };
            if idle {
                *state = State::Dialling;
            }
            idle
        });
        if idle {
            let connections = Arc::clone(self);
            tokio::spawn(async move { Dialling(connections).run().await });
        }
        let settled =
            state.wait_for(|state| matches!(state, State::Connected(_) | State::Failed(..)));
        match settled.await.as_deref() {
            Ok(State::Connected(up)) => Ok(up.clone()),
            Ok(State::Failed(error, _)) => Err(error.clone()),
            _ => Err(StoreError::unreachable("the store is gone")),
        }
    }

    /// Reports that a request on this connection failed, so its state is unknown.
    ///
    /// A connection to a server is dropped. A Cluster's connection may still reach the other nodes,
    /// so it stays in use until there is a new one.
    pub(super) fn doubt(self: &Arc<Self>, up: &Connected) {
        match up.connection {
            Connection::Server(_) => {
                self.state.send_if_modified(|state| {
                    let same =
                        matches!(state, State::Connected(other) if other.number == up.number);
                    if same {
                        *state = State::None;
                    }
                    same
                });
            }
            Connection::Cluster(_) => {
                // Without a runtime, nobody is left to use a new connection.
                let Ok(runtime) = Handle::try_current() else {
                    return;
                };
                if !self.replacing.swap(true, Ordering::SeqCst) {
                    let connections = Arc::clone(self);
                    runtime.spawn(async move { Replacing(connections).run().await });
                }
            }
        }
    }

    /// The number of the Cluster's master that serves a slot; 0 if unknown.
    pub(super) fn shard(&self, slot: u16) -> u16 {
        match &*self.state.borrow() {
            State::Connected(Connected {
                slots: Some(slots), ..
            }) => slots.shard(slot),
            _ => 0,
        }
    }

    /// Whether a new connection sees a complete Cluster that differs from what the one in use
    /// knows.
    fn is_moved(&self, new: &Connected) -> bool {
        let whole = new.slots.as_ref().is_some_and(|slots| slots.is_whole());
        match &*self.state.borrow() {
            State::Connected(up) => whole && up.slots != new.slots,
            _ => true,
        }
    }

    /// How long to pause after this attempt.
    fn pause(&self, dialled: &Result<Connected, StoreError>) -> Duration {
        let turned_away = dialled.as_ref().is_err_and(wire::is_turned_away);
        let mut paused = self.paused.lock();
        let next = paused.map_or(FIRST_PAUSE, |last| (last * 2).min(LONGEST_PAUSE));
        *paused = turned_away.then_some(next);
        let pause = paused.unwrap_or_default();
        pause.mul_f64(fastrand::f64().mul_add(0.5, 1.0))
    }

    async fn dial(&self) -> Result<Connected, StoreError> {
        let dial = async {
            let mut connection = self.endpoint.connect(self.patience).await?;
            let slots = match &mut connection {
                Connection::Server(_) => None,
                Connection::Cluster(connection) => {
                    let slots = redis::cmd("CLUSTER").arg("SLOTS").to_owned();
                    let answer = connection.req_packed_command(&slots).await;
                    Some(Arc::new(Slots::read(&answer.map_err(wire::error)?)))
                }
            };
            Ok(Connected {
                number: fastrand::u64(..),
                connection,
                slots,
            })
        };
        let dialled = timeout(self.patience, dial).await;
        dialled.unwrap_or(Err(StoreError::Timeout(self.patience)))
    }
}

/// Makes a connection when there is none. On success, on failure and when dropped, it notifies the
/// callers that wait.
struct Dialling(Arc<Connections>);

impl Dialling {
    async fn run(self) {
        let dialled = self.0.dial().await;
        let pause = self.0.pause(&dialled);
        self.0.state.send_replace(match dialled {
            Ok(up) => State::Connected(up),
            Err(error) => {
                let error = self.0.endpoint.named(error);
                State::Failed(error, Instant::now() + pause)
            }
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

/// Makes a connection while another is in use.
struct Replacing(Arc<Connections>);

impl Replacing {
    async fn run(self) {
        if let Ok(up) = self.0.dial().await
            && (self.0.is_moved(&up) || up.is_whole().await)
        {
            self.0.state.send_replace(State::Connected(up));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Drop for Replacing {
    fn drop(&mut self) {
        self.0.replacing.store(false, Ordering::SeqCst);
    }
}

/// Calls [`Connections::doubt`] on drop, unless it was dispelled.
pub(super) struct Doubt<'a>(&'a Arc<Connections>, Option<Connected>);

impl<'a> Doubt<'a> {
    pub(super) fn of(connections: &'a Arc<Connections>, up: &Connected) -> Self {
        Self(connections, Some(up.clone()))
    }

    pub(super) fn dispel(mut self) {
        self.1 = None;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if let Some(up) = &self.1 {
            self.0.doubt(up);
        }
    }
}
