//! What a proxy says about a request.
//!
//! Owns which proxies are trusted, and how `X-Forwarded-For`, `-Host`, `-Proto` and `-Prefix` are
//! read. If there are several hosts, schemes or prefixes, the last one counts, because the trusted
//! proxy added it.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::ConnectInfo,
    http::{Extensions, HeaderMap, uri::Authority},
};
use ipnet::IpNet;

/// The trusted proxies.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies(Vec<IpNet>);

impl Proxies {
    pub(super) fn add(&mut self, net: IpNet) {
        self.0.push(net);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|net| net.contains(&address))
    }

    /// What is known about a request from its peer address and, if the peer is trusted, its
    /// headers.
    pub(super) fn see(&self, headers: &HeaderMap, extensions: &Extensions) -> Forwarded {
        let peer = extensions.get::<ConnectInfo<SocketAddr>>();
        let Some(peer) = peer.map(|ConnectInfo(peer)| peer.ip().to_canonical()) else {
            return Forwarded::default();
        };
        if !self.trusts(peer) {
            return Forwarded {
                client: Some(peer),
                ..Forwarded::default()
            };
        }
        let last = |name| listed(headers, name).next_back();
        Forwarded {
            client: Some(self.client(peer, headers)),
            host: last("x-forwarded-host").map(str::to_owned),
            proto: last("x-forwarded-proto").map(str::to_ascii_lowercase),
            prefix: last("x-forwarded-prefix").and_then(prefix),
        }
    }

    /// The nearest address that is not a trusted proxy's.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer;
        for hop in listed(headers, "x-forwarded-for").rev() {
            let Some(hop) = address(hop) else { break };
            client = hop;
            if !self.trusts(client) {
                break;
            }
        }
        client
    }
}

/// What the connection and trusted proxies say about a request.
#[derive(Debug, Default)]
pub(super) struct Forwarded {
    /// The client's address.
    pub(super) client: Option<IpAddr>,
    host: Option<String>,
    /// The scheme with which it reached the proxy.
    pub(super) proto: Option<String>,
    /// The path under which the proxy serves this server.
    pub(super) prefix: Option<String>,
}

impl Forwarded {
    /// The host by which the proxy was reached; an error if it is not a valid host.
    pub(super) fn host(&self) -> Option<Result<Authority, &str>> {
        let host = self.host.as_deref()?;
        Some(host.parse().map_err(|_| host))
    }
}

/// The entries of a list header, which may span several lines.
fn listed<'a>(headers: &'a HeaderMap, name: &str) -> impl DoubleEndedIterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter();
    let entries = lines.flat_map(|line| line.to_str().unwrap_or_default().split(','));
    entries.map(str::trim).filter(|entry| !entry.is_empty())
}

/// Parses an address, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let with_port = || text.parse().ok().map(|at: SocketAddr| at.ip());
    let found = bare.parse().ok().or_else(with_port);
    found.map(|address: IpAddr| address.to_canonical())
}

/// A path without the trailing slash; `None` for the root and for anything but a plain path.
pub(super) fn prefix(path: &str) -> Option<String> {
    let path = path.trim_end_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
    let is_path = path.starts_with('/') && path.chars().all(plain) && !path.contains("//");
    let climbs = path.split('/').any(|part| part == "." || part == "..");
    (is_path && !climbs).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies() -> Proxies {
        let mut proxies = Proxies::default();
        for net in ["10.0.0.0/8", "127.0.0.1/32", "fd00::/8"] {
            proxies.add(net.parse().unwrap());
        }
        proxies
    }

    fn seen(peer: &str, given: &[(&'static str, &str)]) -> Forwarded {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, value.parse().unwrap());
        }
        let mut extensions = Extensions::new();
        let peer: IpAddr = peer.parse().unwrap();
        extensions.insert(ConnectInfo(SocketAddr::new(peer, 4711)));
        proxies().see(&headers, &extensions)
    }

    fn client(peer: &str, hops: &str) -> String {
        seen(peer, &[("x-forwarded-for", hops)])
            .client
            .unwrap()
            .to_string()
    }

    #[test]
    fn the_client_is_the_nearest_that_is_no_trusted_proxy() {
        assert_eq!(client("10.0.0.1", "203.0.113.7"), "203.0.113.7");
        assert_eq!(client("::ffff:10.0.0.1", "203.0.113.7"), "203.0.113.7");
        // An entry that the client itself sent is further away.
        assert_eq!(client("10.0.0.1", "1.1.1.1, 203.0.113.7"), "203.0.113.7");
        assert_eq!(client("10.0.0.1", "203.0.113.7, 10.0.0.2"), "203.0.113.7");
        assert_eq!(client("10.0.0.1", "10.0.0.3,10.0.0.2"), "10.0.0.3");
        assert_eq!(client("10.0.0.1", "203.0.113.7:1234"), "203.0.113.7");
        assert_eq!(client("10.0.0.1", "[2001:db8::1]:80"), "2001:db8::1");
        assert_eq!(client("fd00::1", "2001:db8::1"), "2001:db8::1");
        assert_eq!(client("10.0.0.1", "203.0.113.7, unknown"), "10.0.0.1");
        assert_eq!(client("10.0.0.1", ""), "10.0.0.1");
    }

    #[test]
    fn nobody_else_is_believed() {
        let all = [
            ("x-forwarded-for", "10.0.0.9"),
            ("x-forwarded-host", "ops.example.com"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-prefix", "/breakers"),
        ];
        let seen_ = seen("203.0.113.7", &all);
        assert_eq!(seen_.client.unwrap().to_string(), "203.0.113.7");
        assert!(seen_.host().is_none() && seen_.proto.is_none() && seen_.prefix.is_none());
        let seen_ = seen("10.1.2.3", &all);
        assert_eq!(seen_.host().unwrap().unwrap(), "ops.example.com");
        assert_eq!(seen_.proto.as_deref(), Some("https"));
        assert_eq!(seen_.prefix.as_deref(), Some("/breakers"));
        let two = [
            ("x-forwarded-host", "evil.com"),
            ("x-forwarded-host", "a, ops"),
        ];
        assert_eq!(seen("10.1.2.3", &two).host().unwrap().unwrap(), "ops");
    }

    #[test]
    fn a_prefix_is_a_plain_path() {
        assert_eq!(prefix("/breakers/").unwrap(), "/breakers");
        assert_eq!(prefix("/ops/breakers").unwrap(), "/ops/breakers");
        for bad in [
            "",
            "/",
            "breakers",
            "//evil.com",
            "/a//b",
            "/../x",
            "/a b",
            "/a?b",
            "/<x>",
        ] {
            assert_eq!(prefix(bad), None, "{bad}");
        }
    }
}
