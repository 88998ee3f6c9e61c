//! What somebody could write into a circuit by hand.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use redis::Connection;

use super::BASE;
use super::bench::Bench;
use super::bytes::edge;

/// The fields of a circuit's hash.
pub const FIELDS: [&str; 33] = [
    "state",
    "generation",
    "since_ms",
    "opened_ms",
    "open_total_ms",
    "until_ms",
    "reason",
    "consecutive_opens",
    "window",
    "undecided",
    "total",
    "ignored_total",
    "rejected_total",
    "abandoned_total",
    "consecutive_failures",
    "last_success_ms",
    "last_failure_ms",
    "window_shape",
    "bucket_at_ms",
    "ring_position",
    "ended_buckets",
    "ended_undecided",
    "probe_successes",
    "probe_failures",
    "ramp_until_ms",
    "retry_after_until_ms",
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
    /// A bucket and its content.
    Bucket(Vec<u8>, Vec<u8>),
    Ring(Vec<u8>),
    /// A slice of latencies and its content.
    Slice(Vec<u8>, Vec<u8>),
    /// A kind of failure and its content.
    Kind(Vec<u8>, Vec<u8>),
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
        "1 2 3 4 5",
        "1 2 3 4 99999999999999999999",
        "9 9",
        "5 3 1",
        "5 5 1 2",
        "-1 -1",
        "calls=9 failures=3 slow=1",
        "calls=9 failures=9 slow=4503599627370495",
        "calls=4503599627370495 failures=9 slow=0",
        "calls=9 failures=3 slow=99999999999999999999",
        "calls=9 failures=3",
        "calls=-9 failures=3 slow=1",
        "successes=80 failures=3 slow=1",
        "successes=4503599627370495 failures=4503599627370495 slow=0",
        "successes=80 failures=3 slow=1 ",
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
    // The slices of valid requests begin every 12 s after the circuit was set up.
    let starts = (0_u64..9).prop_map(|n| (BASE + 6000 * n).to_string().into_bytes());
    let start = prop_oneof![4 => starts, 1 => content()];
    let slice = select(vec![
        "16:5 17:12",
        "17:12 16:5",
        "16:5  17:12",
        "16:5 ",
        "16:",
        "368:1",
        "16:0",
        "367:4503599627370495",
        "16:4503599627370496",
        "16:99999999999999999999",
        "1:1:1:1",
    ]);
    let slice = slice.prop_map(|text| text.as_bytes().to_vec());
    let kind = prop_oneof![4 => Just(b"timeout".to_vec()), 1 => content()];
    let kept = select(vec![
        "count=2 last=1735689600000 minute=2 before=0",
        "count=2 last=1735689600000 minute=2 before=0 a detail",
        "count=4503599627370495 last=4503599627370495 minute=4503599627370495 before=4503599627370495",
        "count=4503599627370496 last=1 minute=1 before=1",
        "count=-1 last=1 minute=1 before=1",
        "count=1 last=0 minute=0",
    ]);
    let kept = kept.prop_map(|text| text.as_bytes().to_vec());
    let replica = select(vec!["q", "p", "r"]);
    let counts = select(vec![
        "99999999999999999999 1",
        "9 9 9",
        "5 3 1",
        "5 3 1 2",
        "-1 -1",
        "70",
    ]);
    let counts = counts.prop_map(|word| word.as_bytes().to_vec());
    let window = select(vec![
        "window_shape",
        "bucket_at_ms",
        "ring_position",
        "undecided",
        "ended_undecided",
        "consecutive_failures",
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
        4 => (start, prop_oneof![content(), slice]).prop_map(|(start, to)| Tampering::Slice(start, to)),
        3 => (kind, prop_oneof![content(), kept]).prop_map(|(kind, to)| Tampering::Kind(kind, to)),
        2 => (set, content(), score).prop_map(|(key, member, score)| Tampering::Score(key, member, score)),
        1 => (replica, content()).prop_map(|(replica, to)| Tampering::Number(replica, to)),
        1 => content().prop_map(Tampering::Event),
        1 => (0_usize..9).prop_map(Tampering::NoKey),
        1 => (0_usize..9).prop_map(Tampering::Forever),
    ]
}

impl Bench {
    pub fn tamper(&mut self, with: &Tampering) {
        with.write(&mut self.redis, &self.keys);
    }
}

impl Tampering {
    /// Writes into a circuit by hand. Skips a write that would need a key of another type.
    pub fn write(&self, redis: &mut Connection, keys: &[String]) {
        let command = match self {
            Self::Field(field, to) => redis::cmd("HSET").arg(&keys[0]).arg(field).arg(to).clone(),
            Self::NoField(field) => redis::cmd("HDEL").arg(&keys[0]).arg(field).clone(),
            Self::Bucket(bucket, to) => {
                redis::cmd("HSET").arg(&keys[1]).arg(bucket).arg(to).clone()
            }
            Self::Slice(start, to) => redis::cmd("HSET").arg(&keys[8]).arg(start).arg(to).clone(),
            Self::Kind(kind, to) => redis::cmd("HSET").arg(&keys[11]).arg(kind).arg(to).clone(),
            Self::Ring(to) => redis::cmd("APPEND").arg(&keys[1]).arg(to).clone(),
            Self::Score(key, member, score) => redis::cmd("ZADD")
                .arg(&keys[*key])
                .arg(score)
                .arg(member)
                .clone(),
            Self::Number(replica, to) => redis::cmd("HSET")
                .arg(&keys[4])
                .arg(replica)
                .arg(to)
                .clone(),
            Self::Event(text) => redis::cmd("XADD")
                .arg(&keys[5])
                .arg("*")
                .arg("to")
                .arg(text)
                .clone(),
            Self::NoKey(key) => redis::cmd("DEL").arg(&keys[*key]).clone(),
            Self::Forever(key) => redis::cmd("PERSIST").arg(&keys[*key]).clone(),
        };
        let _ = command.exec(redis);
    }
}
