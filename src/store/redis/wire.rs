//! Requests and answers in MessagePack, and Redis' errors as the store's.
//!
//! Invariant: no bytes from Redis cause a panic. Twin: `picture` in `lua/lib/circuit.lua`.

use std::fmt;

use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, DeserializeOwned, Visitor},
};

use super::fast_path;
use crate::{
    model::{Grant, Head, Kinds, Latencies, MOST_GENERATIONS, Permission, Snapshot, text},
    store::StoreError,
};

/// The largest reply that is decoded, bytes; a snapshot takes a few hundred.
const LARGEST: usize = 64 * 1024;
/// The most bytes of latencies beside it: the script limits the number and the length of slices.
const LARGEST_SLICES: usize = 1000 * 8 * 1024;
/// The version at the start of a publication.
const VERSION: u8 = 2;

pub(super) fn encode<T: Serialize>(request: &T) -> Result<Vec<u8>, StoreError> {
    rmp_serde::to_vec(request).map_err(|e| StoreError::Encoding(e.to_string()))
}

/// A script's answer.
pub(super) trait Reply: DeserializeOwned {
    /// The largest answer that is decoded, bytes.
    const LARGEST: usize = LARGEST;

    /// The answer of the fast path, which only a closed circuit gives.
    fn of_fast_path(snapshot: Snapshot) -> Self;

    /// The same with numbers that can be added up without overflow.
    fn bounded(self) -> Self;
}

impl Reply for Snapshot {
    fn of_fast_path(snapshot: Snapshot) -> Self {
        snapshot
    }

    fn bounded(self) -> Self {
        self.bounded()
    }
}

impl Reply for Grant {
    fn of_fast_path(snapshot: Snapshot) -> Self {
        Self {
            permission: Permission::Permitted,
            snapshot: Snapshot {
                pace_ms: 0,
                ..snapshot
            },
        }
    }

    fn bounded(self) -> Self {
        Self {
            snapshot: self.snapshot.bounded(),
            ..self
        }
    }
}

/// The answer of the script `snapshot`: a snapshot, the latencies of its window, the policy in
/// code, and pairs of a kind of failure and its record.
#[derive(Debug, Deserialize)]
pub(super) struct Whole(
    Snapshot,
    Vec<Slice>,
    #[serde(deserialize_with = "text")] String,
    Vec<Text>,
);

impl Reply for Whole {
    const LARGEST: usize = LARGEST + LARGEST_SLICES;

    fn of_fast_path(snapshot: Snapshot) -> Self {
        Self(snapshot, Vec::new(), String::new(), Vec::new())
    }

    fn bounded(self) -> Self {
        Self(self.0.bounded(), self.1, self.2, self.3)
    }
}

impl From<Whole> for Snapshot {
    fn from(Whole(snapshot, slices, code_policy, kinds): Whole) -> Self {
        let mut all = Latencies::default();
        slices.iter().for_each(|Slice(one)| all.merge(one));
        let pairs = kinds.chunks_exact(2);
        let kinds = Kinds::read(pairs.map(|pair| (pair[0].0.as_str(), pair[1].0.as_str())));
        Self {
            latency: all.percentiles(),
            code_policy,
            failure_kinds: kinds.seen(snapshot.now_ms),
            ..snapshot
        }
    }
}

/// A text from the store.
#[derive(Debug, Deserialize)]
struct Text(#[serde(deserialize_with = "text")] String);

/// Latencies as Redis holds them; unreadable ones count as empty.
#[derive(Debug)]
struct Slice(Latencies);

impl<'de> Deserialize<'de> for Slice {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Slice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Slice, E> {
                Ok(Slice(Latencies::read(text).unwrap_or_default()))
            }

            fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<Slice, E> {
                Ok(Slice(Latencies::default()))
            }
        }

        from.deserialize_str(Text)
    }
}

fn decode<T: DeserializeOwned>(reply: &[u8], largest: usize) -> Result<T, StoreError> {
    if reply.len() > largest {
        let size = reply.len();
        return Err(StoreError::Unreadable(format!(
            "{size} bytes is more than {largest}"
        )));
    }
    rmp_serde::from_slice(reply).map_err(|e| StoreError::Unreadable(e.to_string()))
}

/// Decodes a script's answer.
pub(super) fn decode_answer<T: Reply>(
    answer: RedisResult<Value>,
    head: &Head,
) -> Result<T, StoreError> {
    match answer.map_err(error)? {
        Value::Array(answer) => {
            let snapshot = fast_path::decode(&answer, head).map(T::of_fast_path);
            let unreadable =
                || StoreError::Unreadable("it is not an answer of the fast path".to_owned());
            snapshot.map(T::bounded).ok_or_else(unreadable)
        }
        Value::BulkString(bytes) => decode(&bytes, T::LARGEST).map(T::bounded),
        _ => Err(StoreError::Unreadable("it is not MessagePack".to_owned())),
    }
}

/// Decodes a publication; `None` if another version of the crate, or something else, published it.
pub(super) fn decode_publication(message: &[u8]) -> Option<Snapshot> {
    match decode::<(u8, Snapshot)>(message, LARGEST) {
        Ok((VERSION, snapshot)) if snapshot.generation <= MOST_GENERATIONS => {
            Some(snapshot.bounded())
        }
        _ => None,
    }
}

/// Whether an error comes from the connection and not from Redis, or from a server that has become
/// a replica: another connection may succeed.
pub(super) fn is_of_the_connection(answer: &RedisResult<Value>) -> bool {
    answer.as_ref().is_err_and(|error| {
        error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) || broke(error)
    })
}

/// Whether a server is running and has turned away a new connection. Usually the client only sees
/// that the connection was closed.
pub(super) fn is_turned_away(error: &StoreError) -> bool {
    match error {
        StoreError::Unable(why) => why.contains(FULL) || why.contains(NOT_LET_IN),
        StoreError::Unreachable(why) => {
            let why = why.downcast_ref::<RedisError>();
            why.is_some_and(RedisError::is_connection_dropped)
        }
        _ => false,
    }
}

fn broke(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Io | ErrorKind::ClusterConnectionNotFound
    ) || error.is_connection_dropped()
}

/// Error codes of a server that cannot serve requests now, in addition to those that the client
/// knows.
const UNABLE: [&str; 6] = [
    "OOM",
    "BUSY",
    "MISCONF",
    "NOREPLICAS",
    "WRONGPASS",
    "NOPROTO",
];
/// Precedes the server's message if it requires a password and none was given.
const NO_PASSWORD: &str = "it asks for a password, and none was given: ";
/// A server's message before it closes a connection beyond its `maxclients`, and the client's
/// message for that and for a wrong password.
const FULL: &str = "max number of clients";
const NOT_LET_IN: &str = "authentication failed";
/// Error codes of our scripts for invalid requests.
const INVALID: [&str; 2] = ["EREQUEST", "EARITY"];
/// How Redis 7.0, and 7.2 and later and Valkey, tell a script that its user lacks a right.
const UNABLE_IN_SCRIPT: [&str; 2] = [
    "The user executing the script can't",
    "ACL failure in script",
];
/// Precedes the server's message if a right is missing.
pub(super) const LACKS_A_RIGHT: &str =
    "the ACL user lacks a right, which `commontrip doctor` names: ";

pub(super) fn error(error: RedisError) -> StoreError {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, Moved, NoPerm, ReadOnly};
    if broke(&error) {
        return StoreError::unreachable(error);
    }
    let words = error.to_string();
    // Redis cuts off a long unauthenticated request with a protocol error.
    if error.code() == Some("NOAUTH") || words.contains("unauthenticated") {
        return StoreError::Unable(format!("{NO_PASSWORD}{words}"));
    }
    match error.kind() {
        ErrorKind::Parse => {
            StoreError::unreachable("the server at this address does not answer like Redis")
        }
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
        _ if words.contains(FULL) => StoreError::Unable(words),
        _ if error.code().is_some_and(|code| INVALID.contains(&code)) => StoreError::Invalid(words),
        _ if error.code() == Some("EFORMAT") => StoreError::NewerFormat(words),
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
    use crate::model::{Acquire, Circuit, Counts, Head, Report, Rules};
    use crate::model::{Reason, State};

    fn full() -> Snapshot {
        Snapshot {
            state: State::HalfOpen,
            generation: 7,
            until_ms: 1_735_689_600_000,
            reason: Reason::WaitElapsed,
            override_author: "ada".into(),
            policy: "jitter=3".into(),
            calls: 300,
            failures: 70_000,
            ..Snapshot::default()
        }
    }

    /// Checks that code downstream can add up these numbers.
    fn can_be_used(seen: &Snapshot) {
        assert!(seen.failures <= seen.calls && seen.slow <= seen.calls);
        assert!(seen.generation + seen.consecutive_opens < 1 << 53);
        assert!(seen.now_ms + seen.until_ms + seen.ramp_until_ms < 1 << 54);
        assert!(seen.pace_ms <= 3_600_000 && seen.policy.len() <= 4096);
        let mut circuit = Circuit::resume(seen, &Rules::default(), 5);
        let mut head = Head::default();
        head.policy.failure_rate_threshold = 1;
        let counts = Counts {
            successes: 1,
            failures: 9,
            ..Counts::default()
        };
        for now in [0, 5, 1_735_689_600_000] {
            let generation = seen.generation;
            let report = Report {
                head: head.clone(),
                seq: now + 1,
                generation,
                counts,
                ..Report::default()
            };
            circuit.report(&report, now);
            let (head, token) = (head.clone(), "t".into());
            circuit.acquire(&Acquire { head, token }, now);
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_an_error_and_never_a_panic(bytes: Vec<u8>) {
            let _ = decode::<Snapshot>(&bytes, LARGEST);
            let _ = decode::<Grant>(&bytes, LARGEST);
            let _ = decode_publication(&bytes);
            let _ = decode_answer::<Snapshot>(Ok(Value::BulkString(bytes.clone())), &Head::default());
            let _ = decode_answer::<Whole>(Ok(Value::BulkString(bytes)), &Head::default());
        }

        #[test]
        fn changed_bytes_are_an_error_or_something_that_can_be_used(
            changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6), cut in prop::option::of(any::<usize>()),
        ) {
            let change = |mut bytes: Vec<u8>| {
                for (at, to) in &changes {
                    let length = bytes.len();
                    bytes[at % length] = *to;
                }
                bytes.truncate(cut.map_or(bytes.len(), |at| at % (bytes.len() + 1)));
                bytes
            };
            let answer = |bytes| Ok(Value::BulkString(change(bytes)));
            if let Ok(seen) = decode_answer::<Snapshot>(answer(encode(&full()).unwrap()), &Head::default()) {
                can_be_used(&seen);
            }
            let kinds = ["timeout", "count=2 last=5 minute=2 before=0 said", "error", "x"];
            let slices = ["5:3 17:4503599627370495", "17:x", "5:4503599627370495"];
            if let Ok(whole) = decode_answer::<Whole>(answer(encode(&(full(), slices, "jitter=5", kinds)).unwrap()), &Head::default()) {
                can_be_used(&whole.into());
            }
            if let Ok(seen) = decode_answer::<Grant>(answer(encode(&(2, full())).unwrap()), &Head::default()) {
                can_be_used(&seen.snapshot);
            }
            if let Some(seen) = decode_publication(&change(encode(&(VERSION, full())).unwrap())) {
                can_be_used(&seen);
            }
        }

        #[test]
        fn any_numbers_and_texts_of_a_snapshot_can_be_used(
            numbers in prop::collection::vec(prop_oneof![any::<u64>(), Just(u64::MAX), 0_u64..9], 34), word in prop::collection::vec(any::<u8>(), 0..20),
            (state, reason) in (0_usize..6, 0_usize..17), stored in prop_oneof![
                Just(""), Just("failure_rate_threshold=31536000000 backoff_multiplier_percent=31536000000"),
                Just("window_calls=10000 wait_duration_in_open_state_ms=31536000000 jitter=100"),
            ],
        ) {
            let mut bytes = vec![0xdc, 0, 35];
            for (i, number) in numbers.iter().enumerate() {
                match i {
                    0 => bytes.extend(encode(&State::ALL[state]).unwrap()),
                    5 => bytes.extend(encode(&Reason::ALL[reason]).unwrap()),
                    // Lua's strings are texts on the wire, whatever bytes they have.
                    15 | 16 => {
                        bytes.extend([0xd9, word.len() as u8]);
                        bytes.extend(&word);
                    }
                    17 => bytes.extend(encode(&stored).unwrap()),
                    _ => bytes.extend(encode(number).unwrap()),
                }
            }
            bytes.extend(encode(&stored).unwrap());
            let seen = decode_answer::<Snapshot>(Ok(Value::BulkString(bytes)), &Head::default());
            can_be_used(&seen.unwrap());
        }
    }

    #[test]
    fn slices_that_cannot_be_read_are_empty_ones() {
        let slices = ["5:3 17:1", "17:0", "", "5:1"];
        let mut bytes = encode(&(full(), slices, "", [""; 0])).unwrap();
        let last = bytes.len() - 5;
        let seen = |bytes: &[u8]| {
            let whole =
                decode_answer::<Whole>(Ok(Value::BulkString(bytes.to_vec())), &Head::default());
            let snapshot = Snapshot::from(whole.unwrap());
            snapshot
                .latency
                .map(|l| (l.count, l.p50.as_micros(), l.p99.as_micros()))
        };
        assert_eq!(seen(&bytes), Some((5, 5, 17)));
        bytes[last] = 0xff;
        assert_eq!(seen(&bytes), Some((4, 5, 17)), "what is not UTF-8 neither");
        assert_eq!(seen(&encode(&(full(), [""], "", [""; 0])).unwrap()), None);
        let none = encode(&full()).unwrap();
        assert!(decode_answer::<Whole>(Ok(Value::BulkString(none)), &Head::default()).is_err());
    }

    #[test]
    fn kinds_that_cannot_be_read_are_left_out() {
        let kinds = [
            "Timeout",
            "count=1 last=1 minute=0 before=0",
            "connect",
            "count=1 last=1 minute=0",
            "error",
            "count=1 last=1 minute=0 before=0 said ü",
            "without a text",
        ];
        let bytes = encode(&(full(), [""; 0], "", kinds)).unwrap();
        let whole = decode_answer::<Whole>(Ok(Value::BulkString(bytes)), &Head::default());
        let seen = Snapshot::from(whole.unwrap()).failure_kinds;
        let seen: Vec<_> = seen
            .iter()
            .map(|s| (&*s.kind, s.count, &*s.detail))
            .collect();
        assert_eq!(seen, [("error", 1, "said ü")]);
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
                error.is_unavailable() && error.to_string().contains(LACKS_A_RIGHT),
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
            decode::<Snapshot>(&encode(&snapshot).unwrap(), LARGEST).unwrap(),
            snapshot
        );
        assert!(decode::<Snapshot>(&vec![0; LARGEST + 1], LARGEST).is_err());
    }
}
