//! MessagePack both ways, and Redis' errors in our words.
//!
//! Invariant: bytes from Redis never panic, whatever they are. Twin: `picture` in
//! `lua/lib/circuit.lua`.

use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    model::{Event, Reason, Snapshot, State},
    store::StoreError,
};

/// The largest reply that is read; a snapshot takes some hundred bytes.
const LARGEST: usize = 64 * 1024;
/// What a publication begins with.
const VERSION: u8 = 1;

pub(super) fn encode<T: Serialize>(request: &T) -> Result<Vec<u8>, StoreError> {
    rmp_serde::to_vec(request).map_err(|e| StoreError::Refused(format!("cannot be encoded: {e}")))
}

pub(super) fn decode<T: DeserializeOwned>(reply: &[u8]) -> Result<T, StoreError> {
    if reply.len() > LARGEST {
        let size = reply.len();
        return Err(StoreError::Unreadable(format!(
            "{size} bytes is more than {LARGEST}"
        )));
    }
    rmp_serde::from_slice(reply).map_err(|e| StoreError::Unreadable(e.to_string()))
}

/// A script's answer.
pub(super) fn decode_answer<T: DeserializeOwned>(
    answer: RedisResult<Value>,
) -> Result<T, StoreError> {
    match answer.map_err(error)? {
        Value::BulkString(bytes) => decode(&bytes),
        _ => Err(StoreError::Unreadable("it is not MessagePack".to_owned())),
    }
}

/// A publication; `None` when another version of the crate made it.
pub(super) fn decode_publication(message: &[u8]) -> Option<Snapshot> {
    match decode::<(u8, Snapshot)>(message) {
        Ok((VERSION, snapshot)) => Some(snapshot),
        _ => None,
    }
}

/// An entry of the event stream; `None` when it is not one of ours.
pub(super) fn event(fields: &Value) -> Option<Event> {
    let pairs = match fields {
        Value::Array(items) => items,
        _ => return None,
    };
    let text = |name: &str| {
        pairs
            .chunks_exact(2)
            .find_map(|pair| match (&pair[0], &pair[1]) {
                (Value::BulkString(key), Value::BulkString(value)) if key == name.as_bytes() => {
                    Some(String::from_utf8_lossy(value).into_owned())
                }
                _ => None,
            })
    };
    let number = |name: &str| text(name)?.parse::<u64>().ok();
    Some(Event {
        generation: number("generation")?,
        from: State::from_word(&text("from")?)?,
        to: State::from_word(&text("to")?)?,
        reason: Reason::from_word(&text("reason")?)?,
        at_ms: number("at_ms")?,
        until_ms: number("until_ms")?,
        consecutive_opens: number("consecutive_opens")?,
        calls: number("calls")?,
        failures: number("failures")?,
        slow: number("slow")?,
        by: text("by")?,
        note: text("note")?,
    })
}

/// Whether an error is one that a connection, not Redis, has made, or a server that has become a
/// replica: another connection may fare better.
pub(super) fn is_of_the_connection(answer: &RedisResult<Value>) -> bool {
    answer.as_ref().is_err_and(|error| {
        error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) || broke(error)
    })
}

fn broke(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Io | ErrorKind::ClusterConnectionNotFound
    ) || error.is_connection_dropped()
}

/// Codes with which a server says that it can serve nobody now, beside those that the client knows.
const UNABLE: [&str; 7] = [
    "OOM",
    "BUSY",
    "MISCONF",
    "NOREPLICAS",
    "NOAUTH",
    "WRONGPASS",
    "NOPROTO",
];
/// Codes of our scripts for what is wrong in itself.
const INVALID: [&str; 2] = ["EREQUEST", "EARITY"];
/// How a script is told that its user lacks a right: by Redis 7.0; by 7.2 and later, and Valkey.
const UNABLE_IN_SCRIPT: [&str; 2] = [
    "The user executing the script can't",
    "ACL failure in script",
];
/// What is said before the server's words when a right is lacking.
pub(super) const LACKS_A_RIGHT: &str =
    "the ACL user lacks a right, which `commontrip doctor` names: ";

pub(super) fn error(error: RedisError) -> StoreError {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, Moved, NoPerm, ReadOnly};
    if broke(&error) {
        return StoreError::unreachable(error);
    }
    let words = error.to_string();
    match error.kind() {
        ErrorKind::Server(Moved) => StoreError::Unable(format!(
            "it is part of a Cluster, which needs a redis-cluster:// URL: {words}"
        )),
        ErrorKind::Server(NoPerm) => StoreError::Unable(format!("{LACKS_A_RIGHT}{words}")),
        ErrorKind::Server(BusyLoading | ClusterDown | MasterDown | ReadOnly)
        | ErrorKind::AuthenticationFailed
        | ErrorKind::MasterNameNotFoundBySentinel
        | ErrorKind::NoValidReplicasFoundBySentinel
        | ErrorKind::RESP3NotSupported => StoreError::Unable(words),
        _ if error.code().is_some_and(|code| UNABLE.contains(&code)) => StoreError::Unable(words),
        _ if error.code().is_some_and(|code| INVALID.contains(&code)) => StoreError::Invalid(words),
        _ if UNABLE_IN_SCRIPT.iter().any(|said| words.contains(said)) => {
            StoreError::Unable(format!("{LACKS_A_RIGHT}{words}"))
        }
        _ => StoreError::Refused(words),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Grant;

    proptest! {
        #[test]
        fn hostile_bytes_are_an_error_and_never_a_panic(bytes: Vec<u8>) {
            let _ = decode::<Snapshot>(&bytes);
            let _ = decode::<Grant>(&bytes);
            let _ = decode_publication(&bytes);
        }
    }

    #[test]
    fn a_right_that_a_script_lacks_is_said_so_by_every_server() {
        for said in [
            "The user executing the script can't run this command or subcommand script: f1, on @user_script:1.",
            "ACL failure in script: User ana has no permissions to run the 'zadd' command script: f1, on @user_script:1.",
        ] {
            let said = redis::make_extension_error("ERR".to_owned(), Some(said.to_owned()));
            let error = error(said);
            assert!(
                error.is_away() && error.to_string().contains(LACKS_A_RIGHT),
                "{error}"
            );
        }
    }

    #[test]
    fn a_snapshot_survives_the_wire() {
        let snapshot = Snapshot {
            state: State::HalfOpen,
            generation: 7,
            policy: "jitter=3".into(),
            ..Snapshot::default()
        };
        assert_eq!(
            decode::<Snapshot>(&encode(&snapshot).unwrap()).unwrap(),
            snapshot
        );
        assert!(decode::<Snapshot>(&vec![0; LARGEST + 1]).is_err());
    }
}
