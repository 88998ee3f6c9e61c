//! Where a store's connections go.

use redis::{ConnectionAddr, ConnectionInfo};

use super::super::{
    RedisPool,
    access::Access,
    address::{Address, Sentinel},
    endpoint::Endpoint,
};

/// The address of a store, according to its URL or its pool.
pub(super) struct Place {
    /// For display.
    pub(super) words: String,
    pub(super) user: String,
    pub(super) database: i64,
    pub(super) is_tls: bool,
    pub(super) is_cluster: bool,
    pub(super) is_sentinel: bool,
}

impl Place {
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        match endpoint {
            Endpoint::At(address, access) => Self::at(address, access),
            Endpoint::From(pool) => Self {
                words: "a pool of the program's own".to_owned(),
                user: "default".to_owned(),
                database: 0,
                is_tls: false,
                is_cluster: matches!(pool, RedisPool::Cluster(_)),
                is_sentinel: matches!(pool, RedisPool::Sentinel(_)),
            },
        }
    }

    fn at(address: &Address, access: &Access) -> Self {
        let (words, info): (String, Option<&ConnectionInfo>) = match address {
            Address::Server(info) => (format!("one server at {}", info.addr()), Some(info)),
            Address::Cluster(nodes) => {
                let named: Vec<_> = nodes.iter().map(|node| node.addr().to_string()).collect();
                (format!("a Cluster, by {}", named.join(", ")), nodes.first())
            }
            Address::Sentinel(sentinel) => (watched(sentinel), Some(&sentinel.master)),
        };
        let tls = match info.map(ConnectionInfo::addr) {
            Some(ConnectionAddr::TcpTls { insecure: true, .. }) => {
                ", TLS without certificate verification"
            }
            Some(ConnectionAddr::TcpTls { .. }) => ", TLS",
            Some(ConnectionAddr::Unix(_)) => "",
            _ => ", no TLS",
        };
        let settings = info.map(ConnectionInfo::redis_settings);
        let user = access.username.as_deref();
        let user = user.or_else(|| settings.and_then(|settings| settings.username()));
        Self {
            words: format!("{words}{tls}"),
            user: user.unwrap_or("default").to_owned(),
            database: settings.map_or(0, |settings| settings.db()),
            is_tls: tls.starts_with(", TLS"),
            is_cluster: matches!(address, Address::Cluster(_)),
            is_sentinel: matches!(address, Address::Sentinel(_)),
        }
    }
}

fn watched(sentinel: &Sentinel) -> String {
    let nodes: Vec<_> = sentinel.nodes.iter().map(ToString::to_string).collect();
    let service = &sentinel.service;
    format!(
        "the master of {service:?}, by the sentinels {}",
        nodes.join(", ")
    )
}
