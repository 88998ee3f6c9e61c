//! The scripts with hostile bytes, and on circuits that somebody has written into.
//!
//! A request is answered or refused by its code; a refusal leaves every key as it was, byte for byte, and nothing
//! leaves a circuit that a right request finds broken. `PROPTEST_CASES` sets the number of cases.

use std::collections::HashMap;
use std::time::Duration;

use commontrip::model::{Acquire, Command, Control, Counts, Grant, Head, Report, Rules};
use commontrip::store::{RedisStore, Store};
use commontrip::{Name, Policy, Snapshot, State};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use redis::{Connection, RedisError, Script};

use crate::scripts::{
    OPERATIONS, Part, connect, dumped, expiries, invoke, keys, packed, request, script,
};
use crate::support::{redis_url, unique};

const BASE: u64 = 1_735_689_600_000;
/// When the requests come that are right: some time after the circuit was set up.
const LATER: u64 = BASE + 40_000;

// Bytes.

/// Any MessagePack value; texts hold any bytes.
#[derive(Clone, Debug)]
enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(Vec<u8>),
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Raw(Vec<u8>),
}

impl Value {
    fn bytes(&self) -> Vec<u8> {
        let sized = |marker: u8, length: usize| {
            let mut bytes = vec![marker];
            bytes.extend((length as u32).to_be_bytes());
            bytes
        };
        match self {
            Self::Nil => vec![0xc0],
            Self::Bool(value) => packed(value),
            Self::Int(value) => packed(value),
            Self::Uint(value) => packed(value),
            Self::Float(value) => packed(value),
            Self::Text(text) => [sized(0xdb, text.len()), text.clone()].concat(),
            Self::Array(values) => {
                let values = values.iter().flat_map(Self::bytes);
                sized(0xdd, self.len()).into_iter().chain(values).collect()
            }
            Self::Map(pairs) => {
                let pairs = pairs
                    .iter()
                    .flat_map(|(k, v)| [k.bytes(), v.bytes()].concat());
                sized(0xdf, self.len()).into_iter().chain(pairs).collect()
            }
            Self::Raw(bytes) => bytes.clone(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Array(values) => values.len(),
            Self::Map(pairs) => pairs.len(),
            _ => 1,
        }
    }
}

/// Numbers at which something could break.
fn edge() -> impl Strategy<Value = u64> {
    let powers = (0_u32..64, -1_i64..2).prop_map(|(p, by)| (1_u64 << p).wrapping_add_signed(by));
    prop_oneof![0_u64..40, powers, BASE - 100_000..BASE + 100_000]
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let words = select(vec![
        "closed",
        "open",
        "half_open",
        "metrics_only",
        "reset",
        "policy",
        "force_open",
        "r",
        "q",
        "token",
        "",
        "quorum=3",
        "window_ms=0",
        "window_calls=10000",
        "window_calls=1 jitter=100",
    ]);
    prop_oneof![
        4 => words.prop_map(|word| word.as_bytes().to_vec()),
        2 => vec(any::<u8>(), 0..20),
        1 => (0_usize..5000).prop_map(|length| vec![b'x'; length]),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Nil),
        1 => any::<bool>().prop_map(Value::Bool),
        1 => any::<i64>().prop_map(Value::Int),
        4 => edge().prop_map(Value::Uint),
        1 => edge().prop_map(|n| Value::Int((n as i64).wrapping_neg())),
        1 => any::<f64>().prop_map(Value::Float),
        3 => text().prop_map(Value::Text),
        1 => vec(any::<u8>(), 0..8).prop_map(Value::Raw),
    ];
    leaf.prop_recursive(3, 40, 16, |inner| {
        prop_oneof![
            3 => vec(inner.clone(), 0..16).prop_map(Value::Array),
            1 => vec((inner.clone(), inner), 0..8).prop_map(Value::Map),
        ]
    })
}

/// A change of bytes; places are taken modulo the length.
#[derive(Clone, Debug)]
enum Edit {
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Cut(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, to)| Edit::Set(at, to)),
        1 => (any::<usize>(), any::<u8>()).prop_map(|(at, new)| Edit::Insert(at, new)),
        1 => any::<usize>().prop_map(Edit::Remove),
        1 => any::<usize>().prop_map(Edit::Cut),
    ]
}

fn edited(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let length = bytes.len();
        match *edit {
            Edit::Insert(at, new) => bytes.insert(at % (length + 1), new),
            _ if length == 0 => {}
            Edit::Set(at, to) => bytes[at % length] = to,
            Edit::Remove(at) => drop(bytes.remove(at % length)),
            Edit::Cut(at) => bytes.truncate(at % length),
        }
    }
    bytes
}

#[derive(Clone, Debug)]
enum Payload {
    Bytes(Vec<u8>),
    Value(Value),
    /// A right request with these of its values replaced.
    Replaced(Vec<(usize, Value)>),
    /// A right request with these of its numbers, or the text that is there, replaced by one that may do.
    Nudged(Vec<(usize, u64, Vec<u8>)>),
    /// A right request with these of its bytes changed.
    Edited(Vec<Edit>),
}

fn payload() -> impl Strategy<Value = Payload> {
    let number = prop_oneof![3 => 0_u64..1001, 1 => 0_u64..31_536_000_000, 1 => edge()];
    prop_oneof![
        1 => vec(any::<u8>(), 0..200).prop_map(Payload::Bytes),
        1 => value().prop_map(Payload::Value),
        4 => vec((any::<usize>(), value()), 1..4).prop_map(Payload::Replaced),
        8 => vec((any::<usize>(), number, text()), 1..6).prop_map(Payload::Nudged),
        3 => vec(edit(), 1..4).prop_map(Payload::Edited),
    ]
}

fn size(part: &Part) -> usize {
    match part {
        Part::One(_) => 1,
        Part::Many(parts) => 1 + parts.iter().map(size).sum::<usize>(),
    }
}

/// Replaces the n-th value, counted through all depths.
fn replace(part: &mut Part, n: usize, by: &Value) {
    if n == 0 {
        *part = Part::One(by.bytes());
        return;
    }
    let mut n = n - 1;
    if let Part::Many(parts) = part {
        for part in parts {
            if n < size(part) {
                return replace(part, n, by);
            }
            n -= size(part);
        }
    }
}

/// The values that hold no others.
fn leaves(part: &mut Part) -> Vec<&mut Part> {
    match part {
        Part::Many(parts) => parts.iter_mut().flat_map(leaves).collect(),
        one => vec![one],
    }
}

impl Payload {
    fn bytes(&self, operation: &str) -> Vec<u8> {
        let mut right = request(operation, LATER);
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Value(value) => value.bytes(),
            Self::Replaced(replacements) => {
                for (n, by) in replacements {
                    // The request itself is one of its values: `Value` does that.
                    let n = 1 + n % (size(&right) - 1).max(1);
                    replace(&mut right, n, by);
                }
                right.bytes()
            }
            Self::Nudged(nudges) => {
                for (n, number, word) in nudges {
                    let mut leaves = leaves(&mut right);
                    let n = n % leaves.len();
                    if let Part::One(bytes) = &mut *leaves[n] {
                        let is_text = bytes[0] & 0xe0 == 0xa0;
                        let by = if is_text {
                            Value::Text(word.clone())
                        } else {
                            Value::Uint(*number)
                        };
                        *bytes = by.bytes();
                    }
                }
                right.bytes()
            }
            Self::Edited(edits) => edited(right.bytes(), edits),
        }
    }
}

// Circuits.

/// What a circuit is doing when the hostile request comes.
#[derive(Clone, Copy, Debug)]
enum Doing {
    Nothing,
    Counting,
    CountingCalls,
    Failing,
    BeingOpen,
    Probing,
    BeingForced,
}

fn doing() -> impl Strategy<Value = Doing> {
    select(vec![
        Doing::Nothing,
        Doing::Counting,
        Doing::CountingCalls,
        Doing::Failing,
        Doing::BeingOpen,
        Doing::Probing,
        Doing::BeingForced,
    ])
}

struct Bench {
    redis: Connection,
    scripts: HashMap<&'static str, Script>,
    keys: Vec<String>,
}

type Checked<T = ()> = Result<T, TestCaseError>;

fn fail<T>(what: impl Into<String>) -> Checked<T> {
    Err(TestCaseError::fail(what.into()))
}

impl Bench {
    fn new(name: &str) -> Self {
        let mut redis = connect(redis_url());
        let scripts = OPERATIONS.map(|operation| {
            let script = script(operation);
            script.load(&mut redis).unwrap();
            (operation, script)
        });
        Self {
            redis,
            scripts: scripts.into(),
            keys: keys(&unique(name), "c"),
        }
    }

    fn invoke(&mut self, operation: &str, bytes: Vec<u8>) -> Result<Vec<u8>, RedisError> {
        invoke(
            &mut self.redis,
            &self.scripts[operation],
            &self.keys,
            &[bytes],
        )
    }

    fn set_up(&mut self, doing: Doing) {
        redis::cmd("DEL")
            .arg(&self.keys)
            .exec(&mut self.redis)
            .unwrap();
        let mut policy = *Policy::default().rules();
        policy.quorum = 2;
        if let Doing::CountingCalls = doing {
            policy.window_calls = 10;
        }
        let head = |replica: &str, at: u64| Head {
            now_ms: BASE + at,
            replica: replica.into(),
            policy,
            ..Head::default()
        };
        let report = |replica: &str, trips: u64| {
            packed(Report {
                head: head(replica, 0),
                seq: 1,
                counts: Counts {
                    successes: 8,
                    failures: trips.max(2),
                    slow_successes: 1,
                    ..Counts::default()
                },
                trips,
                alone_ms: 500,
                ..Report::default()
            })
        };
        let trips = u64::from(matches!(doing, Doing::BeingOpen | Doing::Probing));
        if let Doing::Nothing = doing {
            return;
        }
        self.invoke("report", report("q", trips)).unwrap();
        if let Doing::Failing | Doing::BeingOpen | Doing::Probing = doing {
            self.invoke("report", report("p", trips)).unwrap();
        }
        if let Doing::Probing = doing {
            let token = "token".into();
            let head = head("q", 30_000);
            self.invoke("acquire", packed(Acquire { head, token }))
                .unwrap();
        }
        if let Doing::BeingForced = doing {
            let control = Control {
                head: head("q", 1),
                command: Command::ForceOpen,
                author: "ada".into(),
                ..Control::default()
            };
            self.invoke("control", packed(control)).unwrap();
        }
    }

    /// An answer that can be read; what it says of the window adds up.
    fn readable(operation: &str, answer: &[u8]) -> Checked<Snapshot> {
        let read = match operation {
            "acquire" => rmp_serde::from_slice::<Grant>(answer).map(|grant| grant.snapshot),
            _ => rmp_serde::from_slice::<Snapshot>(answer),
        };
        let seen = read.map_err(|e| TestCaseError::fail(format!("{operation} answered {e}")))?;
        if answer.len() > 64 * 1024 {
            return fail(format!("{operation} answered {} bytes", answer.len()));
        }
        Ok(seen)
    }

    /// Every operation, asked as it should be, answers.
    fn all_answer(&mut self) -> Checked {
        for operation in [
            "snapshot", "report", "acquire", "release", "report", "snapshot",
        ] {
            match self.invoke(operation, request(operation, LATER).bytes()) {
                Ok(answer) => Self::readable(operation, &answer).map(drop)?,
                Err(error) => return fail(format!("{operation}: {error}")),
            }
        }
        Ok(())
    }

    fn reset(&mut self) -> Checked<Snapshot> {
        let head = Head {
            now_ms: LATER,
            replica: "operator".into(),
            policy: Rules::default(),
            ..Head::default()
        };
        let command = Command::Reset;
        let request = Control {
            head,
            command,
            ..Control::default()
        };
        match self.invoke("control", packed(request)) {
            Ok(answer) => Self::readable("control", &answer),
            Err(error) => fail(format!("reset: {error}")),
        }
    }

    /// The window's totals are the sum of its parts, and every key has a TTL.
    fn adds_up(&mut self) -> Checked {
        let fields: HashMap<Vec<u8>, Vec<u8>> = redis::cmd("HGETALL")
            .arg(&self.keys[0])
            .query(&mut self.redis)
            .unwrap();
        let field = |name: &str| {
            let text = fields
                .get(name.as_bytes())
                .map_or("0".into(), |t| String::from_utf8_lossy(t));
            text.parse::<i64>()
                .unwrap_or_else(|_| panic!("{name} is {text}"))
        };
        let totals = ["window_calls", "window_failures", "window_slow"].map(field);
        let kind: String = redis::cmd("TYPE")
            .arg(&self.keys[1])
            .query(&mut self.redis)
            .unwrap();
        let mut parts = [0; 3];
        match kind.as_str() {
            "hash" => {
                let buckets: HashMap<String, String> = redis::cmd("HGETALL")
                    .arg(&self.keys[1])
                    .query(&mut self.redis)
                    .unwrap();
                for bucket in buckets.values() {
                    for (sum, n) in parts.iter_mut().zip(bucket.split(' ')) {
                        *sum += n.parse::<i64>().unwrap();
                    }
                }
            }
            "string" => {
                let ring: String = redis::cmd("GET")
                    .arg(&self.keys[1])
                    .query(&mut self.redis)
                    .unwrap();
                let count = |set: &str| ring.chars().filter(|c| set.contains(*c)).count() as i64;
                parts = [ring.len() as i64, count("fF"), count("SF")];
            }
            _ => {}
        }
        if totals != parts {
            return fail(format!("totals {totals:?}, parts {parts:?}"));
        }
        let expiries = expiries(&mut self.redis, &self.keys);
        if expiries.contains(&-1) {
            return fail(format!("a key that never expires: {expiries:?}"));
        }
        Ok(())
    }
}

fn run<S: Strategy>(cases: u32, strategy: &S, test: impl FnMut(S::Value) -> Checked)
where
    S::Value: std::fmt::Debug,
{
    let config = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => Config::default(),
        None => Config::with_cases(cases),
    };
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        max_shrink_time: 20_000,
        ..config
    });
    let test = std::cell::RefCell::new(test);
    if let Err(failure) = runner.run(strategy, |case| (*test.borrow_mut())(case)) {
        panic!("{failure}");
    }
}

#[test]
fn a_hostile_request_is_answered_or_refused_and_breaks_nothing() {
    let mut bench = Bench::new("fuzz");
    let (mut answered, mut refused) = (0, 0);
    let strategy = (doing(), select(OPERATIONS.to_vec()), vec(payload(), 1..4));
    run(1000, &strategy, |(doing, operation, payloads)| {
        bench.set_up(doing);
        for payload in payloads {
            let before = dumped(&mut bench.redis, &bench.keys);
            match bench.invoke(operation, payload.bytes(operation)) {
                Ok(answer) => {
                    answered += 1;
                    Bench::readable(operation, &answer)?;
                }
                Err(error) => {
                    refused += 1;
                    if error.code() != Some("EREQUEST") {
                        return fail(format!("{operation}: {error}"));
                    }
                    let after = dumped(&mut bench.redis, &bench.keys);
                    prop_assert!(before == after, "{operation} wrote and refused: {error}");
                }
            }
            bench.adds_up()?;
        }
        bench.all_answer()?;
        bench.adds_up()
    });
    assert!(answered > 100 && refused > 100, "{answered}, {refused}");
}

// Circuits that somebody has written into.

/// The fields of a circuit's hash.
const FIELDS: [&str; 30] = [
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
enum Tampering {
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

fn content() -> impl Strategy<Value = Vec<u8>> {
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

fn tampering() -> impl Strategy<Value = Tampering> {
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
        content(),
    ];
    let replica = select(vec!["q", "p", "r"]);
    prop_oneof![
        10 => (select(FIELDS.to_vec()), content()).prop_map(|(field, to)| Tampering::Field(field, to)),
        1 => select(FIELDS.to_vec()).prop_map(Tampering::NoField),
        3 => (bucket, content()).prop_map(|(bucket, to)| Tampering::Bucket(bucket, to)),
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
    fn tamper(&mut self, with: &Tampering) {
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

#[test]
fn a_circuit_that_was_written_into_answers_and_a_reset_makes_it_right() {
    let mut bench = Bench::new("tampered");
    let strategy = (doing(), vec(tampering(), 1..5));
    run(700, &strategy, |(doing, tamperings)| {
        bench.set_up(doing);
        for tampering in &tamperings {
            bench.tamper(tampering);
        }
        let window: String = redis::cmd("TYPE")
            .arg(&bench.keys[1])
            .query(&mut bench.redis)
            .unwrap();
        let calls: Option<String> = redis::cmd("HGET")
            .arg(&bench.keys[0])
            .arg("window")
            .query(&mut bench.redis)
            .unwrap_or_default();
        let fits =
            calls.is_none_or(|w| (w.ends_with("ms") && window != "string") || window == "none");
        if fits {
            bench.all_answer()?;
        } else if let Err(error) = bench.all_answer() {
            // A window of the other kind is a key of another type.
            prop_assert!(error.to_string().contains("WRONGTYPE"), "{error}");
        }
        let seen = bench.reset()?;
        prop_assert_eq!(
            (seen.state, seen.calls, seen.failures),
            (State::Closed, 0, 0)
        );
        bench.adds_up()?;
        bench.all_answer()?;
        bench.adds_up()
    });
}

#[test]
fn a_key_of_another_type_is_an_error_that_says_so_until_the_key_is_deleted() {
    let mut bench = Bench::new("retyped");
    let kinds = select(vec!["SET", "LPUSH", "SADD", "ZADD", "HSET"]);
    let strategy = (doing(), 0_usize..8, kinds, select(OPERATIONS.to_vec()));
    run(200, &strategy, |(doing, key, kind, operation)| {
        bench.set_up(doing);
        let name = bench.keys[key].clone();
        let mut write = redis::cmd(kind);
        write.arg(&name);
        match kind {
            "ZADD" => write.arg(1).arg("x"),
            "HSET" => write.arg("x").arg("y"),
            _ => write.arg("x"),
        };
        redis::cmd("DEL").arg(&name).exec(&mut bench.redis).unwrap();
        write.exec(&mut bench.redis).unwrap();
        for operation in [operation, "report", "acquire", "control"] {
            match bench.invoke(operation, request(operation, LATER).bytes()) {
                Ok(answer) => Bench::readable(operation, &answer).map(drop)?,
                Err(error) => prop_assert_eq!(error.code(), Some("WRONGTYPE"), "{}", error),
            }
        }
        redis::cmd("DEL").arg(&name).exec(&mut bench.redis).unwrap();
        bench.all_answer()?;
        bench.reset()?;
        bench.all_answer()?;
        bench.adds_up()
    });
}

#[tokio::test]
async fn a_stranger_in_the_index_hides_no_circuit() {
    let prefix = unique("index");
    let store = RedisStore::builder()
        .prefix(&prefix)
        .timeout(Duration::from_secs(10));
    let store = store.open(redis_url()).unwrap();
    let head = Head {
        replica: "r".into(),
        ..Head::default()
    };
    let report = Report {
        head,
        seq: 1,
        ..Report::default()
    };
    store
        .report(&[(Name::new("c").unwrap(), report)])
        .await
        .unwrap();
    let mut index = redis::cmd("ZADD");
    index.arg(format!("{prefix}:circuits"));
    index.arg(1).arg(b"\xff").arg(2).arg("a\nb").arg(3).arg("");
    index.exec(&mut connect(redis_url())).unwrap();
    assert_eq!(store.circuits().await.unwrap(), ["c"]);
}
