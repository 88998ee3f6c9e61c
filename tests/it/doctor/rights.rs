//! Rights: the documented list, each one revoked, and what the crate itself reports then.

use std::{fmt::Write as _, sync::Arc};

use commontrip::{Commontrip, Policy, RedisStore, RedisStoreBuilder};
use parking_lot::Mutex;
use tracing::{field, span};

use super::{Findings, examined, keys, tell};
use crate::{
    support::{self, OwnServer},
    topology::cluster_servers::Cluster,
    wait::until,
};

fn rules(url: &str) -> String {
    RedisStore::builder().open(url).unwrap().acl_rules()
}

/// Creates the user again with these rules, except one.
fn grant(server: &OwnServer, rules: &str, but: &str) {
    let rules: Vec<_> = rules.split(' ').filter(|rule| *rule != but).collect();
    let () = tell(
        server,
        &format!("ACL SETUSER ana reset on >word {}", rules.join(" ")),
    );
}

fn url(server: &OwnServer) -> String {
    format!("redis://ana:word@127.0.0.1:{}/", server.port())
}

#[test]
fn the_page_shows_the_list() {
    let page = include_str!("../../../docs/redis.md");
    let shown = |from: &str| {
        let shown = page
            .split_once(from)
            .unwrap_or_else(|| panic!("{from} is not in docs/redis.md"));
        let end = shown.1.find("\n```").unwrap();
        let words = shown.1[..end]
            .split_whitespace()
            .filter(|word| *word != "\\");
        words
            .map(|word| word.trim_matches('\'').to_owned())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        shown("redis-cli ACL SETUSER commontrip reset on '>PASSWORD'"),
        rules("redis://any")
    );
    let plain = rules("redis://any");
    for (url, more) in [
        ("redis://any/1", "| a database other than 0 | `+select` |"),
        (
            "redis-sentinel://any?sentinelServiceName=any",
            "| Sentinel | `+role` |",
        ),
        (
            "redis-cluster://any",
            "| a Cluster | `+asking +cluster|slots` |",
        ),
    ] {
        let rules = rules(url);
        let extra: Vec<_> = rules
            .split(' ')
            .filter(|rule| !plain.split(' ').any(|p| p == *rule))
            .collect();
        // Cells of a table escape their bars.
        let more = more.replace("cluster|slots", "cluster\\|slots");
        assert!(page.contains(&more), "{more}");
        assert!(
            more.contains(&extra.join(" ").replace('|', "\\|")),
            "{extra:?} {more}"
        );
    }
}

#[test]
fn the_page_shows_what_queues_need_beside_and_the_program_prints_it() {
    let store = RedisStore::builder().open("redis://any").unwrap();
    let (plain, all) = (store.acl_rules(), store.acl_rules_with_queues());
    let plain: Vec<_> = plain.split(' ').collect();
    let extra: Vec<_> = all
        .split(' ')
        .filter(|rule| !plain.contains(rule))
        .collect();
    let row = extra.join(" ").replace('|', "\\|");
    let page = include_str!("../../../docs/redis.md");
    assert!(
        page.contains(&format!("prints these too) | `{row}` |")),
        "{row}"
    );
    let printed = std::process::Command::new(env!("CARGO_BIN_EXE_commontrip"))
        .args(["doctor", "--acl", "--queues", "--redis", "redis://any"])
        .env_remove("COMMONTRIP_REDIS_PREFIX")
        .output();
    assert_eq!(printed.unwrap().stdout, format!("{all}\n").into_bytes());
}

#[test]
fn the_documented_user_lacks_nothing_and_leaves_nothing_behind() {
    let server = OwnServer::start();
    grant(&server, &rules("redis://any"), "");
    let found = Findings::at(&url(&server), &[]);
    assert_eq!(found.status, 0, "{found:#?}");
    assert_eq!(
        found.with("note"),
        ["eviction", "persistence", "keys"],
        "{found:#?}"
    );
    assert!(found.words("eviction").contains("not allowed to look"));
    assert_eq!(found.with("warning"), [""; 0]);
    assert_eq!(keys(&server), [""; 0]);
}

#[test]
fn each_right_that_is_taken_away_is_named_and_no_other() {
    let server = OwnServer::start();
    let rules = rules("redis://any/1");
    let mut taken = 0;
    for right in rules.split(' ') {
        grant(&server, &rules, right);
        let found = Findings::at(&format!("{}1", url(&server)), &[]);
        assert_eq!(found.missing(), [right], "{found:#?}");
        assert_eq!(found.status, 1, "{right}");
        assert_eq!(keys(&server), [""; 0], "{right}");
        taken += 1;
    }
    assert!(taken > 25, "{taken}");
}

#[tokio::test]
async fn in_a_cluster_the_node_that_lacks_a_right_is_named() {
    let cluster = Cluster::start(3, false).await;
    let rules = rules("redis-cluster://any");
    let by_user = cluster.url().replace(&support::userinfo(), "ana:word");
    for right in ["", "+asking", "+zadd", "&commontrip:*", "+cluster|slots"] {
        for (i, node) in cluster.nodes.iter().enumerate() {
            // The client asks any node for the slots.
            let but = if i == 1 || right == "+cluster|slots" {
                right
            } else {
                ""
            };
            grant(node, &rules, but);
        }
        let found = examined(&by_user, &[]).await;
        if right.is_empty() {
            assert_eq!(found.status, 0, "{found:#?}");
            assert!(
                found
                    .words("cluster")
                    .contains("3 of the masters without a replica")
            );
            continue;
        }
        assert_eq!(found.missing(), [right], "{found:#?}");
        assert_eq!(found.status, 1, "{right}");
        if right != "+cluster|slots" {
            let node = format!(
                "127.0.0.1:{}: user ana lacks {right}",
                cluster.nodes[1].port()
            );
            assert!(found.words("rights").contains(&node), "{found:#?}");
        }
    }
}

#[tokio::test]
async fn through_a_sentinel_role_is_needed_and_named() {
    let master = OwnServer::start();
    let config = format!("sentinel monitor main 127.0.0.1 {} 1\n", master.port());
    let sentinel = OwnServer::start_as(&config, &["--sentinel"]);
    let url = format!(
        "redis-sentinel://ana:word@127.0.0.1:{}?sentinelServiceName=main",
        sentinel.port()
    );
    let rules = rules(&url);
    grant(&master, &rules, "");
    let found = examined(&url, &[]).await;
    assert_eq!(found.status, 0, "{found:#?}");
    assert!(
        found.words("connection").contains("the master of \"main\""),
        "{found:#?}"
    );
    grant(&master, &rules, "+role");
    let found = examined(&url, &[]).await;
    assert_eq!(
        (found.missing(), found.status),
        (vec!["+role".to_owned()], 1),
        "{found:#?}"
    );
}

/// Collects logged warnings.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl field::Visit for Log {
    fn record_debug(&mut self, field: &field::Field, value: &dyn std::fmt::Debug) {
        let _ = writeln!(self.0.lock(), "{}: {value:?}", field.name());
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN && metadata.target().starts_with("commontrip")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

fn builder() -> RedisStoreBuilder {
    RedisStore::builder().timeout(std::time::Duration::from_secs(4))
}

#[tokio::test]
async fn health_and_the_log_say_that_a_right_is_missing_and_who_names_it() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let server = OwnServer::start();
    let rules = rules("redis://any");
    for right in ["+evalsha", "+hset", "+publish", "~commontrip:*"] {
        grant(&server, &rules, right);
        log.0.lock().clear();
        let circuits = Commontrip::builder().store(builder().open(&url(&server)).unwrap());
        let circuits = circuits.build().unwrap();
        let breaker = circuits
            .circuit("payments", Policy::consecutive(2).unwrap())
            .unwrap();
        // The calls themselves succeed in any case.
        for _ in 0..3 {
            let _ = breaker.call(async || Err::<(), _>(())).await;
        }
        until("it says why", async || {
            let _ = breaker.call(async || Err::<(), _>(())).await;
            let said = circuits.health().last_error.unwrap_or_default();
            said.contains("the ACL user lacks a right, which `commontrip doctor` names")
        })
        .await;
        let logged = log.0.lock().clone();
        assert!(
            logged.contains("lacks a right, which `commontrip doctor` names"),
            "{right}: {logged}"
        );
        assert!(
            logged.contains("the store is unavailable"),
            "{right}: {logged}"
        );
        circuits.shutdown().await;
        let () = tell(&server, "FLUSHALL");
    }
}
