//! Errors in plain words, with what to do.
//!
//! Owns a table of errors from servers, the client and the system. Other errors are shown
//! unchanged.

use super::{
    super::{StoreError, keys::Prefix, wire::LACKS_A_RIGHT},
    Finding,
    place::Place,
    rights::lacking,
};
use crate::store::in_words;

/// What an error contains, in lowercase; what it means; what to do. The first match applies.
const KNOWN: &[(&[&str], &str, &str)] = &[
    (
        &["connection refused"],
        "Nothing listens at that host and port.",
        "Start Redis, or correct the host and port; check for a firewall that rejects connections.",
    ),
    (
        &[
            "failed to lookup address",
            "name or service not known",
            "no such host",
            "temporary failure in name resolution",
        ],
        "The host name cannot be resolved.",
        "Correct the name, or the DNS of this machine or container.",
    ),
    (
        &["no such file or directory (os error 2)"],
        "There is no such socket.",
        "Correct the path in redis+unix://, or set unixsocket in the server's configuration.",
    ),
    (
        &["network is unreachable", "no route to host"],
        "There is no route to that host.",
        "See to the network, the VPN or the security group between here and there.",
    ),
    (
        &[
            "password cannot be read",
            "certificate cannot be read",
            "key cannot be read",
        ],
        "A file that was named cannot be read.",
        "Correct the path, or the permissions of the file.",
    ),
    (
        &[
            "wrongpass",
            "authentication failed",
            "invalid username-password",
        ],
        "The user or the password is wrong, or the user is switched off.",
        "Correct them: --username, COMMONTRIP_REDIS_PASSWORD, --password-file or the URL. ACL GETUSER NAME shows the user.",
    ),
    (
        &["noauth", "authentication required"],
        "It requires a password, and none was given.",
        "Give one: COMMONTRIP_REDIS_PASSWORD, --password-file or redis://USER:PASSWORD@HOST.",
    ),
    (
        &[
            "unknownissuer",
            "unknown issuer",
            "unknown ca",
            "self-signed",
            "self signed",
        ],
        "Its certificate is not signed by a trusted CA.",
        "Name the CA that did: --tls-ca FILE.",
    ),
    (
        &["notvalidforname", "not valid for name"],
        "Its certificate is for another host name.",
        "Use the name that the certificate is for, or have one made for this name.",
    ),
    (
        &["expired"],
        "Its certificate has expired.",
        "Have it renewed.",
    ),
    (
        &[
            "certificaterequired",
            "certificate required",
            "handshakefailure",
            "handshake failure",
        ],
        "It wants to see a certificate of ours.",
        "Give one: --tls-cert FILE --tls-key FILE.",
    ),
    (
        &["invalidcontenttype", "corrupt message", "invalidmessage"],
        "It does not speak TLS on that port.",
        "Use redis:// in place of rediss://, or the server's tls-port.",
    ),
    (
        &["certificate"],
        "Its certificate, or ours, is not taken.",
        "See to --tls-ca, --tls-cert and --tls-key.",
    ),
    (
        &["cluster support disabled"],
        "It is one server and no Cluster.",
        "Use redis:// in place of redis-cluster://.",
    ),
    (
        &["moved ", "moved:"],
        "It is one node of a Cluster, and the circuit lives on another.",
        "Use redis-cluster://HOST:PORT in place of redis://.",
    ),
    (
        &[
            "master name not found",
            "no valid master",
            "masternamenotfound",
            "no good sentinel",
        ],
        "No sentinel that answers knows a master of that name.",
        "Correct ?sentinelServiceName=; SENTINEL MASTERS on a sentinel lists the names.",
    ),
    (
        &["loading"],
        "It has started and reads its data.",
        "Wait; INFO persistence on the server shows how long (loading_eta_seconds).",
    ),
    (
        &["readonly"],
        "It is a replica, and takes no writes.",
        "Use the master's address, or redis-sentinel:// so that it is always found.",
    ),
    (
        &["oom ", "oom:"],
        "It is out of memory and takes no writes.",
        "Raise maxmemory, or take other data elsewhere.",
    ),
    (
        &["misconf"],
        "It cannot save to its disk and so takes no writes.",
        "See its log and its disk; CONFIG SET stop-writes-on-bgsave-error no lets it continue.",
    ),
    (
        &["busy ", "busy:"],
        "A script, not one of ours, keeps it busy.",
        "SCRIPT KILL, or FUNCTION KILL, ends it.",
    ),
    (
        &["clusterdown", "masterdown", "noreplicas"],
        "Its master or a part of its Cluster is down.",
        "Bring that back; CLUSTER INFO and INFO replication on the server show what is missing.",
    ),
    (
        &["select is not allowed"],
        "A Cluster has database 0 only.",
        "Take the number off the URL's end.",
    ),
    (
        &["db index is out of range"],
        "It has fewer databases.",
        "Choose a lower number at the URL's end, or raise `databases` in its configuration.",
    ),
    (
        &["unknown command"],
        "This server, or its provider, does not allow that.",
        "Ask whoever runs it to allow the command.",
    ),
    (
        &["max number of clients"],
        "It has reached its client limit.",
        "Raise maxclients, or see who holds so many connections: CLIENT LIST.",
    ),
    (
        &["protected mode"],
        "It answers its own machine only, because it has no password.",
        "Give its users passwords, or have it bind an address of your network.",
    ),
    (
        &[
            "connection reset",
            "broken pipe",
            "end of file",
            "early eof",
            "closed",
        ],
        "It closed the connection without an error message.",
        "If it speaks TLS on that port, use rediss://; else look for a proxy or a limit in between.",
    ),
    (
        &["timed out", "did not answer within", "deadline has elapsed"],
        "It does not answer: it hangs, or a firewall drops what we send.",
        "Try redis-cli PING on its own machine; then look at the network between.",
    ),
];

/// The message of an error with those of its causes.
pub(super) fn of(error: &StoreError) -> String {
    let words = match error {
        StoreError::Unable(words) | StoreError::Refused(words) => words.clone(),
        StoreError::Unreachable(source) => in_words(source),
        other => other.to_string(),
    };
    words.replace(LACKS_A_RIGHT, "")
}

/// A failure, with an explanation if its error is known.
pub(super) fn explained(name: &'static str, found: &str, words: &str) -> Finding {
    let check = Finding::failure(name, found.to_owned());
    let small = words.to_lowercase();
    let fits = |needles: &[&str]| needles.iter().any(|needle| small.contains(needle));
    if small.contains("noperm")
        || small.contains("acl failure")
        || small.contains("user executing the script")
    {
        return check.means("The user lacks a right.").advice("See rights.");
    }
    match KNOWN.iter().find(|(needles, ..)| fits(needles)) {
        Some((_, means, advice)) => check.means(*means).advice(*advice),
        None => check,
    }
}

/// The finding when there is no connection, so nothing else can be checked.
pub(super) fn unconnected(place: &Place, error: &StoreError, prefix: &Prefix) -> Finding {
    let words = of(error);
    let name = "connection";
    let found = format!("{}, user {}: {words}", place.words, place.user);
    let Some(rule) = lacking(&words, prefix) else {
        let check = explained(name, &found, &words);
        return match error {
            // A server without TLS takes our handshake for commands, and waits for the rest of
            // them.
            StoreError::Timeout(_) if place.is_tls => check
                .means("It does not answer: it hangs, a firewall drops what we send, or it does not speak TLS on that port.")
                .advice("Try redis:// in place of rediss://, or the server's tls-port; then look at the network between."),
            _ => check,
        };
    };
    let mut check = Finding::failure(name, format!("{found}; user {} lacks {rule}", place.user));
    check = check.means("Without this right there is no connection to look further.");
    check = check.advice(format!(
        "As an administrator: ACL SETUSER {} {rule}",
        place.user
    ));
    check.missing.push(rule);
    check
}
