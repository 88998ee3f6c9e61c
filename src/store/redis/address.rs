//! The address of a Redis, from a URL: one server, a Sentinel's service, a Cluster.
//!
//! Owns the URL's forms; opens nothing. Errors never show the URL, because it may contain a
//! password.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use url::Url;

/// A parsed URL.
#[derive(Clone)]
pub(super) enum Address {
    Server(ConnectionInfo),
    Sentinel(Sentinel),
    /// Seed nodes, all with the same settings.
    Cluster(Vec<ConnectionInfo>),
}

#[derive(Clone)]
pub(super) struct Sentinel {
    pub(super) nodes: Vec<ConnectionAddr>,
    pub(super) service: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    /// The settings for connections to the master. Its address is only a placeholder: the first
    /// sentinel's.
    pub(super) master: ConnectionInfo,
}

impl fmt::Display for Address {
    /// Host and port, never a password: `127.0.0.1:6379`, database 3 as `127.0.0.1:6379/3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |nodes: Vec<String>| nodes.join(",");
        match self {
            Self::Server(info) => match info.redis_settings().db() {
                0 => write!(f, "{}", info.addr()),
                db => write!(f, "{}/{db}", info.addr()),
            },
            Self::Sentinel(sentinel) => {
                let nodes = sentinel.nodes.iter().map(ToString::to_string);
                write!(
                    f,
                    "{} of the sentinels {}",
                    sentinel.service,
                    all(nodes.collect())
                )
            }
            Self::Cluster(nodes) => {
                let nodes = nodes.iter().map(|node| node.addr().to_string());
                write!(f, "the cluster {}", all(nodes.collect()))
            }
        }
    }
}

const FORMS: &str = "redis://, rediss://, redis+unix://, redis-sentinel://, rediss-sentinel://, \
                     redis-cluster:// or rediss-cluster://";

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("it must begin with {FORMS}"))?;
        let plain = match scheme {
            "redis-sentinel" | "redis-cluster" => "redis",
            "rediss-sentinel" | "rediss-cluster" => "rediss",
            "redis" | "rediss" | "redis+unix" | "unix" | "valkey" | "valkeys" | "valkey+unix" => {
                return connection_info(text).map(Self::Server);
            }
            _ => return Err(format!("{scheme}:// is not one of {FORMS}")),
        };
        let mut url = Url::parse(&format!("{plain}://{rest}")).map_err(|e| e.to_string())?;
        let sentinel = scheme.ends_with("-sentinel");
        if sentinel && url.port().is_none() {
            // `set_port` fails only without a host, which the next step reports.
            let _ = url.set_port(Some(26379));
        }
        let parts = Parts::take(&mut url, sentinel)?;
        let first = connection_info(url.as_str())?;
        let mut nodes = vec![first.addr().clone()];
        for node in &parts.nodes {
            nodes.push(beside(first.addr(), node)?);
        }
        if !sentinel {
            let node = |addr| first.clone().set_addr(addr);
            return Ok(Self::Cluster(nodes.into_iter().map(node).collect()));
        }
        let service = parts
            .service
            .ok_or("a sentinel URL names the service: ?sentinelServiceName=mymaster")?;
        Ok(Self::Sentinel(Sentinel {
            nodes,
            service,
            username: parts.username,
            password: parts.password,
            master: first,
        }))
    }

    /// One node of a Cluster, with the settings of the URL's first node; `None` if this is not a
    /// Cluster.
    pub(super) fn node(&self, host: &str, port: u16) -> Option<Self> {
        let Self::Cluster(nodes) = self else {
            return None;
        };
        let first = nodes.first()?;
        let addr = placed(first.addr(), host.to_owned(), port);
        Some(Self::Cluster(vec![first.clone().set_addr(addr)]))
    }
}

fn connection_info(url: &str) -> Result<ConnectionInfo, String> {
    if cfg!(not(feature = "tls")) && (url.starts_with("rediss") || url.starts_with("valkeys")) {
        return Err("TLS needs commontrip's feature \"tls\"".to_owned());
    }
    let info = url.into_connection_info();
    info.map_err(|e| e.to_string())
}

/// Another host and port with the first node's settings.
fn placed(first: &ConnectionAddr, host: String, port: u16) -> ConnectionAddr {
    match first.clone() {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure,
            tls_params,
        },
        _ => ConnectionAddr::Tcp(host, port),
    }
}

/// The query parameters of Sentinel and Cluster URLs.
#[derive(Default)]
struct Parts {
    nodes: Vec<String>,
    service: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl Parts {
    /// Removes our parameters from the URL, so that the client's own parser can read the rest.
    fn take(url: &mut Url, sentinel: bool) -> Result<Self, String> {
        let mut parts = Self::default();
        let mut rest = Vec::new();
        for (key, value) in url.query_pairs().into_owned() {
            match key.as_str() {
                "node" => parts.nodes.push(value),
                "sentinelServiceName" if sentinel => parts.service = Some(value),
                "sentinelUsername" if sentinel => parts.username = Some(value),
                "sentinelPassword" if sentinel => parts.password = Some(value),
                "protocol" => rest.push((key, value)),
                _ => return Err(format!("{key} is not a parameter of such a URL")),
            }
        }
        url.set_query(None);
        if !rest.is_empty() {
            url.query_pairs_mut().extend_pairs(rest);
        }
        Ok(parts)
    }
}

/// The address of another node (`host:port`), with the first node's settings.
fn beside(first: &ConnectionAddr, node: &str) -> Result<ConnectionAddr, String> {
    let (host, port) = node
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
        .filter(|(host, _)| !host.is_empty())
        .ok_or_else(|| format!("node={node}: it must be host:port"))?;
    let host = host.trim_matches(['[', ']']).to_owned();
    Ok(placed(first, host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(nodes: &[ConnectionInfo]) -> Vec<String> {
        nodes.iter().map(|n| n.addr().to_string()).collect()
    }

    #[test]
    fn a_cluster_is_known_by_some_of_its_nodes() {
        let url = "redis-cluster://ana:secret@a:7000?node=b:7001&node=[::1]:7002&protocol=resp3";
        let Ok(Address::Cluster(nodes)) = Address::parse(url) else {
            panic!("not a cluster");
        };
        assert_eq!(addresses(&nodes), ["a:7000", "b:7001", "::1:7002"]);
        for node in nodes {
            assert_eq!(node.redis_settings().username(), Some("ana"));
            assert_eq!(node.redis_settings().password(), Some("secret"));
            assert_eq!(
                node.redis_settings().protocol(),
                redis::ProtocolVersion::RESP3
            );
        }
    }

    #[test]
    fn a_sentinel_url_names_the_service_and_both_passwords() {
        let url = "redis-sentinel://ana:secret@s1/3?node=s2:26380\
                   &sentinelServiceName=main&sentinelUsername=watch&sentinelPassword=word";
        let Ok(Address::Sentinel(sentinel)) = Address::parse(url) else {
            panic!("not a sentinel");
        };
        let nodes: Vec<_> = sentinel.nodes.iter().map(ToString::to_string).collect();
        assert_eq!(nodes, ["s1:26379", "s2:26380"]);
        assert_eq!(sentinel.service, "main");
        assert_eq!(sentinel.username.as_deref(), Some("watch"));
        assert_eq!(sentinel.password.as_deref(), Some("word"));
        assert_eq!(sentinel.master.redis_settings().db(), 3);
        assert_eq!(sentinel.master.redis_settings().password(), Some("secret"));
    }

    #[test]
    fn a_wrong_url_is_told_what_would_be_right_and_never_shown() {
        let wrong = [
            ("localhost:6379", "it must begin with redis://"),
            ("http://:hidden@h", "http:// is not one of redis://"),
            ("redis-sentinel://:hidden@h", "?sentinelServiceName="),
            ("redis-cluster://:hidden@h?node=b", "it must be host:port"),
            (
                "redis-cluster://:hidden@h?colour=b",
                "colour is not a parameter",
            ),
            ("redis://:hidden@h/x", "Invalid database number"),
        ];
        for (url, why) in wrong {
            let Err(said) = Address::parse(url) else {
                panic!("{url} was taken");
            };
            assert!(said.contains(why), "{url}: {said}");
            assert!(!said.contains("hidden"), "{said}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_is_said_by_the_scheme() {
        for url in [
            "rediss-cluster://a?node=b:1",
            "rediss-sentinel://a?node=b:1&sentinelServiceName=x",
        ] {
            let nodes = match Address::parse(url) {
                Ok(Address::Cluster(nodes)) => nodes.iter().map(|n| n.addr().clone()).collect(),
                Ok(Address::Sentinel(sentinel)) => sentinel.nodes,
                _ => panic!("{url}"),
            };
            let tls = |node: &ConnectionAddr| matches!(node, ConnectionAddr::TcpTls { .. });
            assert!(nodes.iter().all(tls), "{url}");
        }
    }
}
