//! What a user must be allowed: the one list of it, and how each right is tried.
//!
//! Owns the list; the README shows it, the tests' user has it and nothing else, `examine` tries it.
//! Invariant: the list is exactly what the scripts, this room and the client send; a test reads
//! their sources. Trying writes nothing: a right is checked before the command is carried out.

use redis::Cmd;

use super::super::keys::Prefix;

/// When a right is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum When {
    Always,
    /// A database other than 0 is chosen.
    Database,
    /// Sentinel says who the master is.
    Sentinel,
    Cluster,
    /// The store has queues.
    Queue,
}

/// How a right is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Try {
    /// On its own, with these words.
    Plain(&'static str),
    /// On a key that is not there, followed by these words.
    Key(&'static str),
    /// On a stream that is not there, with a group that is not there.
    Stream,
    /// On the index.
    Index(&'static str),
    /// As a script with one key.
    Script(&'static str),
    /// To a channel.
    Channel(&'static str),
    /// On a connection for subscriptions.
    Subscription,
    /// By connecting: without it there is no connection to try anything on.
    Connecting,
}

/// One command and how to try it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Right {
    /// As an ACL rule writes it, without its plus.
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

/// All of it, in the order of the alphabet.
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
    // What is no number: an error, but only once the right was looked at.
    of_queues("hincrby", Try::Key("f x")),
    right("hlen", Try::Key("")),
    right("hmget", Try::Key("f")),
    // Fields without values: an error, but only once the right was looked at.
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
    // Only where there is something already, which there is not.
    right("set", Try::Key("v XX")),
    // Nothing written at 0 creates no key.
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
    /// The command that shows whether the right is there; `None` where none can be sent alone.
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

/// The ACL rules of a user who may do what is needed and nothing else.
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

/// The rule that is lacking, when a server says that one is; in a script it says so without the
/// usual code.
pub(super) fn lacking(words: &str, prefix: &Prefix) -> Option<String> {
    // Redis 7.0 says it in its own way, 7.2 and later and Valkey in another.
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
            include_str!("../../../../lua/keeping/lease.lua"),
            include_str!("../../../../lua/lib/circuit.lua"),
            include_str!("../../../../lua/lib/hash.lua"),
            include_str!("../../../../lua/lib/latency.lua"),
            include_str!("../../../../lua/lib/prelude.lua"),
            include_str!("../../../../lua/lib/quorum.lua"),
            include_str!("../../../../lua/lib/window.lua"),
            include_str!("../../../../lua/release.lua"),
            include_str!("../../../../lua/report.lua"),
            include_str!("../../../../lua/snapshot.lua"),
            include_str!("../../../../lua/steady/acquire.lua"),
            include_str!("../../../../lua/steady/report.lua"),
        ]);
        for source in [
            include_str!("../endpoint.rs"),
            include_str!("../keeping.rs"),
            include_str!("../line.rs"),
            include_str!("../listen.rs"),
            include_str!("../mod.rs"),
            include_str!("../past.rs"),
        ] {
            named(source, "redis::cmd(\"", &mut sent);
        }
        named(include_str!("../scripts.rs"), "self.command(\"", &mut sent);
        assert!(sent.len() > 20, "{sent:?}");
        // `CLUSTER SLOTS` is the one of its subcommands.
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
        named(include_str!("../outer.rs"), "redis::cmd(\"", &mut sent);
        // `XGROUP CREATE` is the one of its subcommands.
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
