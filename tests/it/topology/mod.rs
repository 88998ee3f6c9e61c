//! Redis in real deployments: Cluster, Sentinel, TLS, passwords, each with real servers that the
//! test starts.

mod access;
mod cluster;
pub mod cluster_servers;
mod sentinel;
#[cfg(feature = "tls")]
pub mod tls;

use std::time::Duration;

use commontrip::{CallError, CircuitBreaker, Commontrip, CommontripBuilder, Policy};
use redis::{AsyncConnectionConfig, FromRedisValue, RedisResult, aio::MultiplexedConnection};

pub use self::sentinel::Watched;
use crate::wait::until;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Reports often and forgets slowly: 10 consecutive failures open it, for an hour.
fn policy() -> Policy {
    let policy = Policy::builder()
        .minimum_number_of_calls(10)
        .wait_duration_in_open_state(Duration::from_secs(3600))
        .probe_lease(Duration::from_secs(60))
        .report_interval(ms(20))
        .decision_ttl(ms(50));
    policy.build().unwrap()
}

/// A registry with a timeout that a busy machine does not exceed.
fn registry(url: &str) -> CommontripBuilder {
    Commontrip::builder().redis(url).store_timeout(ms(500))
}

async fn call(breaker: &CircuitBreaker, ok: bool) -> Result<(), CallError<()>> {
    breaker
        .call(|| async { if ok { Ok(()) } else { Err(()) } })
        .await
}

/// Makes failing calls until the circuit rejects.
async fn trip(breaker: &CircuitBreaker) {
    until("it opens", async || {
        matches!(call(breaker, false).await, Err(CallError::Rejected(_)))
    })
    .await;
}

async fn admin(port: u16) -> MultiplexedConnection {
    connect(port).await.unwrap()
}

async fn connect(port: u16) -> RedisResult<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
    let patient = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(10)))
        .set_response_timeout(Some(Duration::from_secs(10)));
    client
        .get_multiplexed_async_connection_with_config(&patient)
        .await
}

/// Sends one command, given as a string of words.
async fn tell<T: FromRedisValue>(port: u16, command: &str) -> T {
    let answer = try_to_tell(port, command).await;
    answer.unwrap_or_else(|err| panic!("{command} on {port}: {err}"))
}

/// The same to a server that may close connections, such as one that is being promoted.
async fn try_to_tell<T: FromRedisValue>(port: u16, command: &str) -> RedisResult<T> {
    let mut words = command.split_whitespace();
    let mut cmd = redis::cmd(words.next().unwrap());
    for word in words {
        cmd.arg(word);
    }
    cmd.query_async(&mut connect(port).await?).await
}
