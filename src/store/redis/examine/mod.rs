//! Examines a Redis as its user sees it: what works, what does not, and what to do about it.
//!
//! Owns the order of the checks and their texts; changes nothing except a circuit of its own, which
//! it deletes. What the user may not read is a note, never a failure.

mod circuit;
mod circuits;
mod cluster;
mod node;
mod place;
mod rights;
mod server;
mod storage;
mod texts;

use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use self::{
    node::{Node, everywhere, merged},
    place::Place,
    rights::When,
};
use super::{RedisStore, StoreError, commands::Connection, endpoint::Endpoint};

/// How bad a finding is, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// It works now, but may fail later.
    Warning,
    /// The store does not work.
    Failure,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The check's name, one of a fixed set such as `connection` or `rights`.
    pub name: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found, in one line.
    pub found: String,
    /// What it means, if that needs an explanation.
    pub means: Option<String>,
    /// What to do about it.
    pub advice: Option<String>,
    /// ACL rules that the user lacks, such as `+zadd` or `~commontrip:*`.
    pub missing: Vec<String>,
}

impl Finding {
    fn new(name: &'static str, verdict: Verdict, found: String) -> Self {
        Self {
            name,
            verdict,
            found,
            means: None,
            advice: None,
            missing: Vec::new(),
        }
    }

    fn ok(name: &'static str, found: String) -> Self {
        Self::new(name, Verdict::Ok, found)
    }

    fn note(name: &'static str, found: String) -> Self {
        Self::new(name, Verdict::Note, found)
    }

    fn warning(name: &'static str, found: String) -> Self {
        Self::new(name, Verdict::Warning, found)
    }

    fn failure(name: &'static str, found: String) -> Self {
        Self::new(name, Verdict::Failure, found)
    }

    fn means(mut self, words: impl Into<String>) -> Self {
        self.means = Some(words.into());
        self
    }

    fn advice(mut self, words: impl Into<String>) -> Self {
        self.advice = Some(words.into());
        self
    }
}

/// The minimum timeout of one request; slowness has its own check.
const PATIENCE: Duration = Duration::from_secs(3);

impl RedisStore {
    /// Examines the Redis behind this store: whether it can be reached, whether this user has the
    /// rights that the crate needs, and what could lose circuits.
    ///
    /// Runs the scripts on its own circuit, named `commontrip-doctor-...`, and deletes it. Ends in
    /// bounded time: a few seconds at most for each request without an answer.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), commontrip::StoreError> {
    /// let store = commontrip::RedisStore::builder().open("redis://127.0.0.1:6379")?;
    /// for check in store.examine().await {
    ///     println!("{:?} {}: {}", check.verdict, check.name, check.found);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn examine(&self) -> Vec<Finding> {
        let patience = self.0.timeout.max(PATIENCE);
        let endpoint = self.0.connections.endpoint();
        let place = Place::of(endpoint);
        let connecting = timeout(patience, endpoint.connect(patience));
        let connection = match connecting
            .await
            .unwrap_or(Err(StoreError::Timeout(patience)))
        {
            Ok(connection) => connection,
            Err(error) => return vec![texts::unconnected(&place, &error, &self.0.prefix)],
        };
        let is_cluster = matches!(connection, Connection::Cluster(_));
        let Some(first) = Node::of_server(&self.0, connection, patience) else {
            return Vec::new();
        };
        let greeted = server::connection(&first, &place).await;
        if greeted.verdict == Verdict::Failure {
            return vec![greeted];
        }
        let mut checks = vec![greeted];
        let nodes = match is_cluster {
            true => {
                let (check, nodes) = cluster::reach(&first).await;
                checks.push(check);
                nodes
            }
            false => vec![first],
        };
        if nodes.is_empty() {
            return checks;
        }
        checks.push(everywhere(&nodes, move |node| server::version(node, is_cluster)).await);
        let timeout = self.0.timeout;
        checks.push(everywhere(&nodes, move |node| server::latency(node, timeout)).await);
        let user = place.user.clone();
        let needed = needed(endpoint);
        let rights = |node| circuit::rights(node, needed, user.clone());
        checks.push(everywhere(&nodes, rights).await);
        let tried = futures_util::future::join_all(nodes.iter().cloned().map(circuit::life)).await;
        let (lives, pushes) = tried.into_iter().unzip();
        checks.push(merged(&nodes, lives));
        checks.push(merged(&nodes, pushes));
        checks.push(everywhere(&nodes, storage::eviction).await);
        checks.push(everywhere(&nodes, storage::persistence).await);
        checks.push(everywhere(&nodes, server::clock).await);
        checks.push(storage::keys(&nodes).await);
        checks.extend(circuits::checks(&nodes).await);
        checks
    }

    /// Returns the ACL rules of a user who may do what this store does, and nothing else.
    ///
    /// They depend on the prefix and on the address: a Cluster, a Sentinel's service and a database
    /// other than 0 each need a few more. Does not connect.
    ///
    /// ```
    /// let store = commontrip::RedisStore::builder().open("redis://127.0.0.1:6379")?;
    /// let user = format!("ACL SETUSER commontrip reset on >PASSWORD {}", store.acl_rules());
    /// assert!(user.contains(" ~commontrip:* &commontrip:* +del +eval "));
    /// # Ok::<(), commontrip::StoreError>(())
    /// ```
    #[must_use]
    pub fn acl_rules(&self) -> String {
        rights::rules(&self.0.prefix, needed(self.0.connections.endpoint()))
    }
}

#[cfg(feature = "queue")]
impl RedisStore {
    /// Returns the [`acl_rules`](Self::acl_rules) of a user who also uses queues.
    ///
    /// ```
    /// let store = commontrip::RedisStore::builder().open("redis://127.0.0.1:6379")?;
    /// assert!(store.acl_rules_with_queues().contains(" +xreadgroup"));
    /// # Ok::<(), commontrip::StoreError>(())
    /// ```
    #[must_use]
    pub fn acl_rules_with_queues(&self) -> String {
        let needed = needed(self.0.connections.endpoint());
        rights::rules(&self.0.prefix, |when| when == When::Queue || needed(when))
    }
}

/// Which rights the connections of an endpoint need.
fn needed(endpoint: &Endpoint) -> impl Fn(When) -> bool + Copy + Send + 'static {
    let place = Place::of(endpoint);
    let (database, sentinel, cluster) = (place.database != 0, place.is_sentinel, place.is_cluster);
    move |when| match when {
        When::Always => true,
        When::Database => database,
        When::Sentinel => sentinel,
        When::Cluster => cluster,
        // Most stores have no queues; `acl_rules_with_queues` adds these.
        When::Queue => false,
    }
}

/// A note that this user may not read a setting of the server.
fn not_allowed(name: &'static str, what: &str, right: &str) -> Finding {
    let found = format!("not allowed to look at {what}");
    Finding::note(name, found).advice(format!(
        "It is not needed; {right} would let the doctor see it."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_examination_can_be_spawned() {
        fn sendable<T: Send>(_: T) {}
        let store = RedisStore::builder().open("redis://127.0.0.1:1").unwrap();
        sendable(store.examine());
    }

    #[test]
    fn a_cluster_a_sentinel_and_a_database_need_a_little_more() {
        let rules = |url| RedisStore::builder().open(url).unwrap().acl_rules();
        let plain = rules("redis://h");
        assert!(!plain.contains("asking") && !plain.contains("select") && !plain.contains("role"));
        assert!(rules("redis://h/2").contains(" +select"));
        assert!(rules("redis-cluster://h").contains(" +asking +cluster|slots"));
        assert!(rules("redis-sentinel://h?sentinelServiceName=m").contains(" +role"));
    }
}
