//! A connection for commands: to one server, or to a Cluster.
//!
//! Owns how several commands are sent together, and which of them fail together.

use std::io;

use futures_util::future::join_all;
use redis::{
    Cmd, Pipeline, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster_async::ClusterConnection,
};
use tokio::time::{Instant, timeout_at};

const TIMED_OUT: io::ErrorKind = io::ErrorKind::TimedOut;

/// A connection for commands.
#[derive(Clone)]
pub(super) enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Sends commands together. Returns one answer for each, in their order.
    ///
    /// # Errors
    /// If the connection as a whole failed. In a Cluster each command fails on its own, also if it
    /// is not answered by the deadline.
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
                        let late = |_| Err(io::Error::from(TIMED_OUT).into());
                        answer.unwrap_or_else(late).and_then(Value::extract_error)
                    }
                };
                Ok(join_all(commands.iter().map(send)).await)
            }
        }
    }
}
