//! The rights that a user needs: the one list of them, and how each right is tried.
//!
//! Owns the list: `docs/redis.md` shows it, the tests' user has exactly these rights, `examine`
//! tries them. Invariant: the list is exactly what the scripts, this room and the client send; a
//! test reads their sources. Trying writes nothing: Redis checks the right before it executes the
//! command.

use redis::Cmd;

use super::super::keys::Prefix;

/// When a right is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum When {
    Always,
    /// A database other than 0 is chosen.
    Database,
    /// A Sentinel provides the master's address.
    Sentinel,
    Cluster,
    /// The store has queues.
    Queue,
}

/// How a right is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Try {
    /// Without a key, with these arguments.
    Plain(&'static str),
    /// On a key that does not exist, followed by these arguments.
    Key(&'static str),
    /// On a stream and with a group that do not exist.
    Stream,
    /// On the index, followed by these arguments.
    Index(&'static str),
    /// As this script, with one key.
    Script(&'static str),
    /// To a channel, followed by these arguments.
    Channel(&'static str),
    /// On a connection for subscriptions.
    Subscription,
    /// By connecting: without this right there is no connection to try anything on.
    Connecting,
}

/// One command and how to try it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Right {
    /// As in an ACL rule, without its plus.
    pub(super) command: &'static str,
    pub(super) when: When,
    pub(super) how: Try,
}

const fn right(command: &'static str, how: Try) -> Right {
    let when = When::Always;
    Right { command, when, how }
}

const fn of_queues(command: &'static str, how: Try) -> Right {
    let when = When::Queue;
    Right { command, when, how }
}

/// All rights, in alphabetical order.
pub(super) const RIGHTS: [Right; 40] = [
    Right {
        command: "asking",
        when: When::Cluster,
        how: Try::Plain(""),
    },
    Right {
        command: "cluster|slots",
        when: When::Cluster,
        how: Try::Connecting,
    },
    right("del", Try::Key("")),
    right("eval", Try::Script("return 1")),
    right(
        "evalsha",
        Try::Script("0000000000000000000000000000000000000000"),
    ),
    right("get", Try::Key("")),
    right("getrange", Try::Key("0 0")),
    right("hdel", Try::Key("f")),
    right("hget", Try::Key("f")),
    right("hgetall", Try::Key("")),
    // `x` is not a number: an error, but only after Redis has checked the right.
    of_queues("hincrby", Try::Key("f x")),
    right("hlen", Try::Key("")),
    right("hmget", Try::Key("f")),
    // A field without a value: an error, but only after Redis has checked the right.
    right("hset", Try::Key("f v f")),
    right("pexpire", Try::Key("1")),
    right("ping", Try::Plain("")),
    right("publish", Try::Channel("-")),
    Right {
        command: "role",
        when: When::Sentinel,
        how: Try::Connecting,
    },
    Right {
        command: "select",
        when: When::Database,
        how: Try::Connecting,
    },
    // `XX` sets only a key that exists, and this one does not.
    right("set", Try::Key("v XX")),
    // An empty value at offset 0 creates no key.
    right("setrange", Try::Key("0 ''")),
    right("subscribe", Try::Subscription),
    right("time", Try::Plain("")),
    right("unsubscribe", Try::Subscription),
    of_queues("xack", Try::Key("g 1-1")),
    right("xadd", Try::Key("NOMKSTREAM * f v")),
    of_queues("xdel", Try::Key("1-1")),
    of_queues("xgroup|create", Try::Key("g 0")),
    of_queues("xlen", Try::Key("")),
    of_queues("xrange", Try::Key("- + COUNT 1")),
    of_queues("xreadgroup", Try::Stream),
    right("xrevrange", Try::Key("+ - COUNT 1")),
    right("zadd", Try::Key("XX 0 m")),
    right("zcard", Try::Key("")),
    right("zcount", Try::Key("0 0")),
    right("zrange", Try::Index("0 0")),
    right("zrangebyscore", Try::Key("0 0")),
    right("zrem", Try::Key("m")),
    right("zremrangebyscore", Try::Key("0 0")),
    right("zscore", Try::Key("m")),
];

impl Right {
    /// The command that tests for the right; `None` if the right is tested in another way.
    pub(super) fn trial(&self, key: &str, index: &str) -> Option<Cmd> {
        let mut words = self.command.split('|');
        let mut command = redis::cmd(words.next().unwrap_or_default());
        for word in words {
            command.arg(word);
        }
        let words = match self.how {
            Try::Plain(words) => words,
            Try::Key(words) | Try::Channel(words) => {
                command.arg(key);
                words
            }
            Try::Stream => {
                command.arg("GROUP").arg("g").arg("g").arg("STREAMS");
                command.arg(key).arg(">");
                ""
            }
            Try::Index(words) => {
                command.arg(index);
                words
            }
            Try::Script(script) => {
                command.arg(script).arg(1).arg(key);
                ""
            }
            Try::Subscription | Try::Connecting => return None,
        };
        for word in words.split_whitespace() {
            command.arg(word.trim_matches('\''));
        }
        Some(command)
    }
}

/// The ACL rules of a user who has the needed rights and no others.
pub(in super::super) fn rules(prefix: &Prefix, needed: impl Fn(When) -> bool) -> String {
    let mut rules = format!("{} {}", keys(prefix), channels(prefix));
    for right in RIGHTS.iter().filter(|right| needed(right.when)) {
        rules.push_str(" +");
        rules.push_str(right.command);
    }
    rules
}

pub(super) fn keys(prefix: &Prefix) -> String {
    format!("~{}:*", prefix.pattern())
}

pub(super) fn channels(prefix: &Prefix) -> String {
    format!("&{}:*", prefix.pattern())
}

/// The missing ACL rule, if a server's error says that a right is missing. In a script, that error
/// does not have the usual code.
pub(super) fn lacking(words: &str, prefix: &Prefix) -> Option<String> {
    // Redis 7.0 has its own wording; 7.2 and later and Valkey share another.
    let known = [
        "NOPERM",
        "NoPerm",
        "ACL failure",
        "permissions",
        "The user executing the script can't",
    ];
    if !known.iter().any(|known| words.contains(known)) {
        return None;
    }
    if let Some((_, rest)) = words.split_once("to run the '") {
        return Some(format!("+{}", rest.split('\'').next()?));
    }
    if words.contains("channel") {
        return Some(channels(prefix));
    }
    words.contains(" key").then(|| keys(prefix))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Commands that a source names after `marker`.
    fn named(source: &str, marker: &str, found: &mut BTreeSet<String>) {
        for rest in source.split(marker).skip(1) {
            let word = rest.split(['\'', '"']).next().unwrap();
            found.insert(word.to_lowercase());
        }
    }

    fn sent_by_scripts(sources: &[&str]) -> BTreeSet<String> {
        let mut sent = BTreeSet::new();
        for source in sources {
            named(source, "redis.call('", &mut sent);
            named(source, "redis.pcall('", &mut sent);
        }
        sent
    }

    fn listed(of: impl Fn(When) -> bool) -> BTreeSet<String> {
        let rights = RIGHTS.iter().filter(|right| of(right.when));
        rights.map(|right| right.command.to_owned()).collect()
    }

    #[test]
    fn the_list_is_what_the_scripts_and_this_room_send_and_nothing_else() {
        let mut sent = sent_by_scripts(&[
            include_str!("../../../../lua/acquire.lua"),
            include_str!("../../../../lua/alerts/claim.lua"),
            include_str!("../../../../lua/control.lua"),
            include_str!("../../../../lua/key_value/group.lua"),
            include_str!("../../../../lua/key_value/keep.lua"),
            include_str!("../../../../lua/key_value/lease.lua"),
            include_str!("../../../../lua/lib/circuit.lua"),
            include_str!("../../../../lua/lib/hash.lua"),
            include_str!("../../../../lua/lib/history.lua"),
            include_str!("../../../../lua/lib/in_use.lua"),
            include_str!("../../../../lua/lib/kinds.lua"),
            include_str!("../../../../lua/lib/latency.lua"),
            include_str!("../../../../lua/lib/prelude.lua"),
            include_str!("../../../../lua/lib/quorum.lua"),
            include_str!("../../../../lua/lib/window.lua"),
            include_str!("../../../../lua/lib/windows.lua"),
            include_str!("../../../../lua/release.lua"),
            include_str!("../../../../lua/report.lua"),
            include_str!("../../../../lua/snapshot.lua"),
            include_str!("../../../../lua/fast_path/acquire.lua"),
            include_str!("../../../../lua/fast_path/report.lua"),
        ]);
        for source in [
            include_str!("../endpoint.rs"),
            include_str!("../group.rs"),
            include_str!("../key_value.rs"),
            include_str!("../connection.rs"),
            include_str!("../listen.rs"),
            include_str!("../mod.rs"),
            include_str!("../records.rs"),
        ] {
            named(source, "redis::cmd(\"", &mut sent);
        }
        named(include_str!("../scripts.rs"), "self.command(\"", &mut sent);
        assert!(sent.len() > 20, "{sent:?}");
        // `CLUSTER SLOTS` is the only subcommand in use.
        assert!(sent.remove("cluster"));
        let client = [
            "asking",
            "cluster|slots",
            "role",
            "select",
            "subscribe",
            "unsubscribe",
        ];
        sent.extend(client.map(str::to_owned));
        assert_eq!(listed(|when| when != When::Queue), sent);
        assert!(RIGHTS.is_sorted_by(|a, b| a.command < b.command));
    }

    #[test]
    fn queues_need_what_their_scripts_send_beside_that_and_nothing_else() {
        let mut sent = sent_by_scripts(&[
            include_str!("../../../../lua/queue/enqueue.lua"),
            include_str!("../../../../lua/queue/lib/jobs.lua"),
            include_str!("../../../../lua/queue/list.lua"),
            include_str!("../../../../lua/queue/renew.lua"),
            include_str!("../../../../lua/queue/settle.lua"),
            include_str!("../../../../lua/queue/stats.lua"),
            include_str!("../../../../lua/queue/steer.lua"),
            include_str!("../../../../lua/queue/take.lua"),
        ]);
        named(include_str!("../requests.rs"), "redis::cmd(\"", &mut sent);
        // `XGROUP CREATE` is the only subcommand in use.
        assert!(sent.remove("xgroup"));
        sent.insert("xgroup|create".to_owned());
        let always = listed(|when| when == When::Always);
        let more: BTreeSet<_> = sent.difference(&always).cloned().collect();
        assert_eq!(listed(|when| when == When::Queue), more);
    }

    #[test]
    fn what_a_server_says_is_read_as_the_rule_that_is_lacking() {
        let prefix = Prefix::new("shop").unwrap();
        let said = [
            // Redis 7.0; in scripts it does not say which command.
            (
                "NOPERM this user has no permissions to run the 'cluster|slots' command",
                Some("+cluster|slots"),
            ),
            (
                "NOPERM this user has no permissions to access one of the keys used as arguments",
                Some("~shop:*"),
            ),
            (
                "NOPERM this user has no permissions to access one of the channels used as arguments",
                Some("&shop:*"),
            ),
            (
                "ERR The user executing the script can't run this command or subcommand",
                None,
            ),
            (
                "ERR The user executing the script can't access at least one of the keys mentioned",
                Some("~shop:*"),
            ),
            // Redis 8.0, Valkey 8.1.
            (
                "NOPERM User ana has no permissions to run the 'ping' command",
                Some("+ping"),
            ),
            ("NOPERM No permissions to access a key", Some("~shop:*")),
            (
                "ERR ACL failure in script: User ana has no permissions to run the 'zadd' command",
                Some("+zadd"),
            ),
            (
                "ERR ACL failure in script: No permissions to access a channel",
                Some("&shop:*"),
            ),
            ("NOSCRIPT No matching script", None),
            (
                "WRONGTYPE Operation against a key holding the wrong kind of value",
                None,
            ),
        ];
        for (words, rule) in said {
            assert_eq!(lacking(words, &prefix).as_deref(), rule, "{words}");
        }
    }

    #[test]
    fn a_prefix_is_no_pattern() {
        let prefix = Prefix::new("a*b [c]").unwrap();
        assert_eq!(keys(&prefix), "~a\\*b?\\[c\\]:*");
    }
}
