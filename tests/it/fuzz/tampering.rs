//! What somebody could write into a circuit by hand.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::BASE;
use super::bench::Bench;
use super::bytes::edge;

/// The fields of a circuit's hash.
pub const FIELDS: [&str; 30] = [
    "state",
    "generation",
    "since_ms",
    "until_ms",
    "reason",
    "consecutive_opens",
    "window",
    "window_at",
    "window_calls",
    "window_failures",
    "window_slow",
    "consecutive_failures",
    "probe_successes",
    "probe_failures",
    "ramp_until_ms",
    "retry_after_until_ms",
    "successes_total",
    "failures_total",
    "slow_total",
    "ignored_total",
    "not_permitted_total",
    "last_success_ms",
    "last_failure_ms",
    "override_author",
    "override_reason",
    "policy",
    "replicas",
    "expires_ms",
    "changed",
    "pace_ms",
];

#[derive(Clone, Debug)]
pub enum Tampering {
    Field(&'static str, Vec<u8>),
    NoField(&'static str),
    /// A bucket, and what it holds.
    Bucket(Vec<u8>, Vec<u8>),
    Ring(Vec<u8>),
    /// A sorted set, a member, its score.
    Score(usize, Vec<u8>, &'static str),
    Number(&'static str, Vec<u8>),
    Event(Vec<u8>),
    NoKey(usize),
    Forever(usize),
}

pub fn content() -> impl Strategy<Value = Vec<u8>> {
    let words = select(vec![
        "",
        "x",
        "-1",
        "1.5",
        "nan",
        "inf",
        "-inf",
        "1e308",
        "1e-300",
        "0x10",
        "-0",
        " 7 ",
        "007",
        "9007199254740991",
        "9007199254740993",
        "4503599627370496",
        "99999999999999999999",
        "-99999999999999999999",
        "closed",
        "open",
        "half_open",
        "ajar",
        "metrics_only",
        "disabled",
        "10 calls",
        "7 calls",
        "10x6000ms",
        "5x100ms",
        "0x0ms",
        "-1 calls",
        "1 2 3",
        "9 9",
        "5 3 1",
        "-1 -1",
        "99999999999999999999 1",
        "1e9 1",
        "3 4",
        "window_calls=7",
        "window_ms=0 window_buckets=0",
        "quorum=0 jitter=99",
        "window_buckets=1000 window_ms=1",
        "recovered",
        "window_calls=10000",
        "probe_lease_ms=0 max_wait_duration_in_open_state_ms=0",
    ]);
    prop_oneof![
        8 => words.prop_map(|word| word.as_bytes().to_vec()),
        3 => edge().prop_map(|n| n.to_string().into_bytes()),
        1 => vec(any::<u8>(), 0..12),
        1 => select(vec![200_usize, 5000, 100_000]).prop_map(|length| vec![b'7'; length]),
        1 => select(vec![200_usize, 5000, 100_000]).prop_map(|length| vec![0xff; length]),
    ]
}

pub fn tampering() -> impl Strategy<Value = Tampering> {
    let score = select(vec![
        "inf",
        "-inf",
        "-5",
        "1e300",
        "0",
        "1.5",
        "1735689650000",
    ]);
    let set = select(vec![2_usize, 3, 6, 7]);
    let bucket = prop_oneof![
        Just((BASE - 6000).to_string().into_bytes()),
        Just(BASE.to_string().into_bytes()),
        Just((BASE + 6000).to_string().into_bytes()),
        content(),
    ];
    let replica = select(vec!["q", "p", "r"]);
    let counts = select(vec![
        "99999999999999999999 1",
        "9 9 9",
        "5 3 1",
        "-1 -1",
        "70",
    ]);
    let counts = counts.prop_map(|word| word.as_bytes().to_vec());
    let window = select(vec![
        "window",
        "window_at",
        "window_calls",
        "window_failures",
        "policy",
    ]);
    let number = prop_oneof![0_u64..40, edge()].prop_map(|n| n.to_string().into_bytes());
    let geometry = select(vec![
        "10 calls",
        "10x6000ms",
        "5x100ms",
        "5x6000ms",
        "window_buckets=5",
        "window_calls=7",
    ]);
    let geometry = geometry.prop_map(|word| word.as_bytes().to_vec());
    let number = prop_oneof![number, geometry];
    prop_oneof![
        10 => (select(FIELDS.to_vec()), content()).prop_map(|(field, to)| Tampering::Field(field, to)),
        6 => (window, number).prop_map(|(field, to)| Tampering::Field(field, to)),
        1 => select(FIELDS.to_vec()).prop_map(Tampering::NoField),
        4 => (bucket, prop_oneof![content(), counts]).prop_map(|(bucket, to)| Tampering::Bucket(bucket, to)),
        2 => content().prop_map(Tampering::Ring),
        2 => (set, content(), score).prop_map(|(key, member, score)| Tampering::Score(key, member, score)),
        1 => (replica, content()).prop_map(|(replica, to)| Tampering::Number(replica, to)),
        1 => content().prop_map(Tampering::Event),
        1 => (0_usize..8).prop_map(Tampering::NoKey),
        1 => (0_usize..8).prop_map(Tampering::Forever),
    ]
}

impl Bench {
    /// Writes into the circuit by hand. What would need a key of another type is not done.
    pub fn tamper(&mut self, with: &Tampering) {
        let keys = &self.keys;
        let command = match with {
            Tampering::Field(field, to) => {
                redis::cmd("HSET").arg(&keys[0]).arg(field).arg(to).clone()
            }
            Tampering::NoField(field) => redis::cmd("HDEL").arg(&keys[0]).arg(field).clone(),
            Tampering::Bucket(bucket, to) => {
                redis::cmd("HSET").arg(&keys[1]).arg(bucket).arg(to).clone()
            }
            Tampering::Ring(to) => redis::cmd("APPEND").arg(&keys[1]).arg(to).clone(),
            Tampering::Score(key, member, score) => redis::cmd("ZADD")
                .arg(&keys[*key])
                .arg(score)
                .arg(member)
                .clone(),
            Tampering::Number(replica, to) => redis::cmd("HSET")
                .arg(&keys[4])
                .arg(replica)
                .arg(to)
                .clone(),
            Tampering::Event(text) => redis::cmd("XADD")
                .arg(&keys[5])
                .arg("*")
                .arg("to")
                .arg(text)
                .clone(),
            Tampering::NoKey(key) => redis::cmd("DEL").arg(&keys[*key]).clone(),
            Tampering::Forever(key) => redis::cmd("PERSIST").arg(&keys[*key]).clone(),
        };
        let _ = command.exec(&mut self.redis);
    }
}
