//! One server under examination: the only one, or a master of a Cluster.
//!
//! Owns how requests reach it, each with a timeout; judges nothing.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::future::join_all;
use redis::{
    Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind, Value,
    aio::{ConnectionLike, PubSub},
    cluster_routing::{RoutingInfo, SingleNodeRoutingInfo},
    from_redis_value,
};
use tokio::time::timeout;

use super::{
    super::{
        Inner, StoreError, commands::Connection, endpoint::Endpoint, scripts::Operation, slots,
        wire,
    },
    Finding,
};
use crate::model::{Name, Request};

/// How many names are tried to find one that a master serves.
const NAMES: usize = 500_000;

#[derive(Clone)]
pub(super) struct Node {
    pub(super) inner: Arc<Inner>,
    connection: Connection,
    /// The master's address in a Cluster; `None` for a single server and for [`Node::anywhere`].
    at: Option<(String, u16)>,
    pub(super) patience: Duration,
    /// A circuit on this server, deleted after the examination.
    pub(super) circuit: Name,
}

impl Node {
    pub(super) fn of_server(
        inner: &Arc<Inner>,
        connection: Connection,
        patience: Duration,
    ) -> Option<Self> {
        let circuit = scratch(|_| true)?;
        let inner = Arc::clone(inner);
        Some(Self {
            inner,
            connection,
            at: None,
            patience,
            circuit,
        })
    }

    pub(super) fn of_master(
        &self,
        at: &(String, u16),
        serves: impl Fn(u16) -> bool,
    ) -> Option<Self> {
        Some(Self {
            at: Some(at.clone()),
            circuit: scratch(|name| serves(slots::slot(name)))?,
            ..self.clone()
        })
    }

    /// The same, but requests go to whichever server has the key.
    pub(super) fn anywhere(&self) -> Self {
        Self {
            at: None,
            ..self.clone()
        }
    }

    pub(super) fn key(&self) -> String {
        self.inner.prefix.circuit(&self.circuit)
    }

    pub(super) async fn ask(&self, command: &Cmd) -> RedisResult<Value> {
        let answer = async {
            match (self.connection.clone(), &self.at) {
                (Connection::Server(mut connection), _) => {
                    connection.req_packed_command(command).await
                }
                (Connection::Cluster(mut connection), None) => {
                    connection.req_packed_command(command).await
                }
                (Connection::Cluster(mut connection), Some((host, port))) => {
                    let (host, port) = (host.clone(), *port);
                    let node = SingleNodeRoutingInfo::ByAddress { host, port };
                    let node = RoutingInfo::SingleNode(node);
                    connection.route_command(command.clone(), node).await
                }
            }
        };
        let late = |_| {
            Err(RedisError::from(std::io::Error::from(
                std::io::ErrorKind::TimedOut,
            )))
        };
        let answer = timeout(self.patience, answer).await.unwrap_or_else(late);
        answer.and_then(Value::extract_error)
    }

    pub(super) async fn read<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        Ok(from_redis_value(self.ask(command).await?)?)
    }

    /// A section of `INFO`: `field:value` lines.
    pub(super) async fn info(&self, section: &str) -> RedisResult<String> {
        self.read(redis::cmd("INFO").arg(section)).await
    }

    /// One setting of the server.
    pub(super) async fn config(&self, name: &str) -> RedisResult<String> {
        let answer: Vec<String> = self.read(redis::cmd("CONFIG").arg("GET").arg(name)).await?;
        let missing = || RedisError::from((ErrorKind::UnexpectedReturnType, "no such setting"));
        answer.into_iter().nth(1).ok_or_else(missing)
    }

    /// Runs a script on the circuit.
    pub(super) async fn run<T: Request, R: wire::Reply>(
        &self,
        operation: &Operation,
        request: &T,
    ) -> Result<R, StoreError> {
        let request_in_full = wire::encode(request)?;
        let run = operation.general(&self.inner.prefix, &self.circuit, request_in_full);
        let mut answer = self.ask(&run.by_hash()).await;
        let no_script = ErrorKind::Server(ServerErrorKind::NoScript);
        if answer
            .as_ref()
            .is_err_and(|error| error.kind() == no_script)
        {
            answer = self.ask(&run.in_full()).await;
        }
        wire::decode_answer(answer, request.head())
    }

    /// A connection to this server for subscriptions; `None` for a pool without a URL.
    pub(super) async fn subscriber(&self) -> Option<Result<PubSub, StoreError>> {
        let push = self.inner.push.as_ref()?;
        let late = |_| Err(StoreError::Timeout(self.patience));
        let there = self
            .at
            .as_ref()
            .and_then(|(host, port)| push.at(host, *port));
        let endpoint: &Endpoint = there.as_ref().unwrap_or(push);
        let connecting = timeout(self.patience, endpoint.subscriber());
        Some(connecting.await.unwrap_or_else(late))
    }

    /// The address of a master, for display.
    pub(super) fn label(&self) -> Option<String> {
        self.at
            .as_ref()
            .map(|(host, port)| format!("{host}:{port}"))
    }
}

/// Whether there was no answer. An error from the server is an answer.
pub(super) fn is_silence(answer: &RedisResult<Value>) -> bool {
    answer.as_ref().is_err_and(|error| {
        matches!(
            error.kind(),
            ErrorKind::Io | ErrorKind::ClusterConnectionNotFound
        )
    })
}

fn scratch(serves: impl Fn(&Name) -> bool) -> Option<Name> {
    let run = fastrand::u32(..);
    (0..NAMES).find_map(|i| {
        let name = Name::new(&format!("commontrip-doctor-{run:08x}-{i}")).ok()?;
        serves(&name).then_some(name)
    })
}

/// Runs a check on each node and merges the findings.
pub(super) async fn everywhere<F: Future<Output = Finding>>(
    nodes: &[Node],
    look: impl Fn(Node) -> F,
) -> Finding {
    let checks = join_all(nodes.iter().map(|node| look(node.clone()))).await;
    merged(nodes, checks)
}

/// The maximum number of nodes that a finding names.
const NAMED: usize = 3;

/// The worst finding, with the nodes that have it unless all findings are the same.
pub(super) fn merged(nodes: &[Node], checks: Vec<Finding>) -> Finding {
    let labelled = || nodes.iter().map(Node::label).zip(&checks);
    let Some(worst) = checks.iter().max_by_key(|check| check.verdict) else {
        // Without a node there is nothing to check; the `connection` check says so.
        return Finding::note("nodes", "no server was reached".to_owned());
    };
    let mut check = worst.clone();
    if checks.iter().any(|other| other.found != check.found) {
        let there = labelled().filter(|(_, other)| other.verdict == check.verdict);
        let there: Vec<_> = there
            .map(|(label, other)| format!("{}: {}", label.unwrap_or_default(), other.found))
            .collect();
        check.found = there[..there.len().min(NAMED)].join("; ");
        if there.len() > NAMED {
            check
                .found
                .push_str(&format!("; and {} more", there.len() - NAMED));
        }
    }
    for rule in checks.iter().flat_map(|other| &other.missing) {
        if !check.missing.contains(rule) {
            check.missing.push(rule.clone());
        }
    }
    check
}
