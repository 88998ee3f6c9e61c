//! Opens connections: to one server, to a Sentinel's master, to a Cluster, or from a pool.
//!
//! Owns no connection. The caller bounds every wait.

use std::{fmt, time::Duration};

use deadpool_redis::{cluster, sentinel};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ProtocolVersion,
    aio::{MultiplexedConnection, PubSub},
    cluster::ClusterClientBuilder,
    sentinel::{SentinelClientBuilder, SentinelServerType},
};

#[cfg(feature = "tls")]
use super::access::is_tls;
use super::{
    StoreError,
    access::Access,
    address::{Address, Sentinel},
    commands::Connection,
    wire,
};
use crate::store::in_words;

/// How often a Cluster's client tries a command, not counting redirections, and how long it waits
/// between two tries: they must fit into the default `store_timeout`.
const CLUSTER_TRIES: u32 = 2;
const CLUSTER_WAIT_MS: (u64, u64) = (5, 10);

/// Your own pool, for the connections of a [`RedisStore`](crate::RedisStore).
///
/// Any deadpool-redis pool converts with `into()`. The store takes one connection out of the pool
/// permanently, and another when that one fails.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::Commontrip;
/// use deadpool_redis::{Config, Runtime};
///
/// let url = "redis://127.0.0.1:6379";
/// let pool = Config::from_url(url).create_pool(Some(Runtime::Tokio1))?;
/// let circuits = Commontrip::builder().redis_pool(pool, Some(url)).build()?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum RedisPool {
    /// A pool of one server.
    Server(deadpool_redis::Pool),
    /// A pool of the master that a Sentinel knows.
    Sentinel(sentinel::Pool),
    /// A pool of a Cluster.
    Cluster(cluster::Pool),
}

impl fmt::Debug for RedisPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A pool's own Debug shows the password.
        f.write_str(match self {
            Self::Server(_) => "RedisPool::Server",
            Self::Sentinel(_) => "RedisPool::Sentinel",
            Self::Cluster(_) => "RedisPool::Cluster",
        })
    }
}

impl From<deadpool_redis::Pool> for RedisPool {
    fn from(pool: deadpool_redis::Pool) -> Self {
        Self::Server(pool)
    }
}

impl From<sentinel::Pool> for RedisPool {
    fn from(pool: sentinel::Pool) -> Self {
        Self::Sentinel(pool)
    }
}

impl From<cluster::Pool> for RedisPool {
    fn from(pool: cluster::Pool) -> Self {
        Self::Cluster(pool)
    }
}

/// Where connections come from.
#[derive(Clone)]
pub(super) enum Endpoint {
    At(Box<Address>, Access),
    From(RedisPool),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address, _) => address.fmt(f),
            Self::From(_) => f.write_str("the pool"),
        }
    }
}

impl Endpoint {
    /// Adds this endpoint's address to a connection error.
    pub(super) fn named(&self, error: StoreError) -> StoreError {
        let at = self.to_string();
        match error {
            StoreError::Unreachable(source) => {
                StoreError::unreachable(format!("{at}: {}", in_words(&*source)))
            }
            StoreError::Unable(why) => StoreError::Unable(format!("{at}: {why}")),
            StoreError::Timeout(after) => {
                StoreError::unreachable(format!("{at}: no connection within {after:?}"))
            }
            other => other,
        }
    }

    /// A connection for commands.
    pub(super) async fn connect(&self, patience: Duration) -> Result<Connection, StoreError> {
        match self {
            Self::At(address, access) => match &**address {
                Address::Cluster(nodes) => {
                    let client = cluster_client(nodes, access, patience)?;
                    let connection = client.get_async_connection().await;
                    connection.map(Connection::Cluster).map_err(wire::error)
                }
                one => open(&one_server(one, access).await?)
                    .await
                    .map(Connection::Server),
            },
            Self::From(RedisPool::Server(pool)) => {
                let borrowed = pool.get().await.map_err(StoreError::unreachable)?;
                Ok(Connection::Server(deadpool_redis::Connection::take(
                    borrowed,
                )))
            }
            Self::From(RedisPool::Sentinel(pool)) => {
                let borrowed = pool.get().await.map_err(StoreError::unreachable)?;
                Ok(Connection::Server(sentinel::Connection::take(borrowed)))
            }
            Self::From(RedisPool::Cluster(pool)) => {
                let borrowed = pool.get().await.map_err(StoreError::unreachable)?;
                Ok(Connection::Cluster(cluster::Connection::take(borrowed)))
            }
        }
    }

    /// One node of this Cluster; `None` if this is not a Cluster.
    pub(super) fn at(&self, host: &str, port: u16) -> Option<Self> {
        let Self::At(address, access) = self else {
            return None;
        };
        let node = address.node(host, port)?;
        Some(Self::At(Box::new(node), access.clone()))
    }

    /// A connection for subscriptions. A Cluster forwards publications to all of its nodes, so any
    /// node will do.
    pub(super) async fn subscriber(&self) -> Result<PubSub, StoreError> {
        let Self::At(address, access) = self else {
            return Err(StoreError::Unsupported("a pool cannot push".to_owned()));
        };
        let client = one_server(address, access).await?;
        // Every server and every proxy speaks RESP2.
        let info = client.get_connection_info();
        let settings = info.redis_settings().clone();
        let settings = settings.set_protocol(ProtocolVersion::RESP2);
        let client = Client::open(info.clone().set_redis_settings(settings));
        let pubsub = client.map_err(wire::error)?.get_async_pubsub().await;
        pubsub.map_err(wire::error)
    }
}

/// A client of the server, of the Sentinel's master, or of some node of the Cluster.
async fn one_server(address: &Address, access: &Access) -> Result<Client, StoreError> {
    match address {
        Address::Server(info) => access.client(access.admit(info)?),
        Address::Cluster(nodes) => {
            let node = fastrand::choice(nodes);
            let node = node.ok_or_else(|| StoreError::unreachable("a cluster without nodes"))?;
            access.client(access.admit(node)?)
        }
        Address::Sentinel(sentinel) => master(sentinel, access).await,
    }
}

async fn open(client: &Client) -> Result<MultiplexedConnection, StoreError> {
    // Callers have their own timeouts.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    connection.await.map_err(wire::error)
}

/// Asks the sentinels in random order, so that one that hangs does not always come first.
async fn master(sentinel: &Sentinel, access: &Access) -> Result<Client, StoreError> {
    let mut nodes = sentinel.nodes.clone();
    fastrand::shuffle(&mut nodes);
    let info = access.admit(&sentinel.master)?;
    let mut client = sentinel_client(nodes, sentinel, &info, access)?;
    client.async_get_client().await.map_err(wire::error)
}

fn sentinel_client(
    nodes: Vec<redis::ConnectionAddr>,
    sentinel: &Sentinel,
    master: &ConnectionInfo,
    #[cfg_attr(not(feature = "tls"), expect(unused_variables))] access: &Access,
) -> Result<redis::sentinel::SentinelClient, StoreError> {
    let settings = master.redis_settings();
    let builder = SentinelClientBuilder::new(nodes, &sentinel.service, SentinelServerType::Master);
    let mut builder = builder.map_err(wire::error)?;
    builder = builder
        .set_client_to_redis_db(settings.db())
        .set_client_to_redis_protocol(settings.protocol());
    if let Some(username) = settings.username() {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = settings.password() {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(username) = &sentinel.username {
        builder = builder.set_client_to_sentinel_username(username);
    }
    if let Some(password) = &sentinel.password {
        builder = builder.set_client_to_sentinel_password(password);
    }
    #[cfg(feature = "tls")]
    if let redis::ConnectionAddr::TcpTls { insecure, .. } = master.addr() {
        let mode = match insecure {
            true => redis::TlsMode::Insecure,
            false => redis::TlsMode::Secure,
        };
        builder = builder.set_client_to_redis_tls_mode(mode);
        if let Some(certificates) = access.certificates()? {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
    }
    builder.build().map_err(wire::error)
}

fn cluster_client(
    nodes: &[ConnectionInfo],
    access: &Access,
    patience: Duration,
) -> Result<redis::cluster::ClusterClient, StoreError> {
    let nodes: Result<Vec<_>, _> = nodes.iter().map(|node| access.admit(node)).collect();
    let nodes = nodes?;
    #[cfg(feature = "tls")]
    let certificates = match nodes.iter().any(|node| is_tls(node.addr())) {
        true => access.certificates()?,
        false => None,
    };
    #[cfg_attr(not(feature = "tls"), expect(unused_mut))]
    let mut builder = ClusterClientBuilder::new(nodes)
        .connection_timeout(patience / 2)
        .overall_response_timeout(None)
        .retries(CLUSTER_TRIES)
        .min_retry_wait(CLUSTER_WAIT_MS.0)
        .max_retry_wait(CLUSTER_WAIT_MS.1);
    #[cfg(feature = "tls")]
    if let Some(certificates) = certificates {
        builder = builder.certs(certificates);
    }
    builder.build().map_err(wire::error)
}
