//! Invokes the scripts with arbitrary bytes.
//!
//! Owns requests whose parts a test can replace one by one. The scripts are read from `lua/` and
//! joined as the store joins them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use commontrip::{Policy, Rules};
use redis::{Connection, RedisResult, Script, Value};

pub const OPERATIONS: [&str; 5] = ["acquire", "control", "release", "report", "snapshot"];
pub const PARTS: [&str; 12] = [
    "",
    ":window",
    ":probes",
    ":replicas",
    ":seq",
    ":events",
    ":failing",
    ":alone",
    ":latency",
    ":history",
    ":code",
    ":kinds",
];

pub fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The numbers in a field of counts: `window` and `ended_buckets`, which begin with `calls`, or
/// `total` with `successes`. Zeros if the field is malformed, as the scripts read it.
pub fn counts_in(field: &str, first: &str) -> [u64; 3] {
    let digits = field.split(|c: char| !c.is_ascii_digit());
    let read: Vec<u64> = digits.filter_map(|digits| digits.parse().ok()).collect();
    let Ok([x, y, z]) = <[u64; 3]>::try_from(read) else {
        return [0; 3];
    };
    let form = format!("{first}={x} failures={y} slow={z}");
    let possible = form == field && [x, y, z].iter().all(|n| *n < 1 << 52);
    if possible { [x, y, z] } else { [0; 3] }
}

/// A script as the store sends it.
pub fn script(name: &str) -> Script {
    Script::new(&text(name))
}

pub fn text(name: &str) -> String {
    let lib = |part| read(&format!("lua/lib/{part}.lua"));
    format!(
        "{}local function operate()\n{}{}{}{}{}{}{}{}{}{}end\nreturn operate()\n",
        lib("prelude"),
        lib("hash"),
        lib("window"),
        lib("windows"),
        lib("latency"),
        lib("history"),
        lib("quorum"),
        lib("in_use"),
        lib("kinds"),
        lib("circuit"),
        read(&format!("lua/{name}.lua")),
    )
}

/// The script and keys that the store tries first if a request has a brief.
pub fn fast_path(name: &str, keys: &[String]) -> (Script, Vec<String>) {
    let taken = match name {
        "report" => vec![keys[0].clone(), keys[4].clone()],
        _ => vec![keys[0].clone(), keys[2].clone()],
    };
    (
        Script::new(&read(&format!("lua/fast_path/{name}.lua"))),
        taken,
    )
}

pub fn connect(url: &str) -> Connection {
    let client = redis::Client::open(url).unwrap();
    client.get_connection().unwrap()
}

pub fn keys(prefix: &str, name: &str) -> Vec<String> {
    let key = |part| format!("{prefix}:{{{name}}}{part}");
    PARTS.iter().map(key).collect()
}

pub fn packed<T: serde::Serialize>(value: T) -> Vec<u8> {
    rmp_serde::to_vec(&value).unwrap()
}

pub fn array(items: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0xdd];
    bytes.extend((items.len() as u32).to_be_bytes());
    bytes.extend(items.concat());
    bytes
}

/// A value of a request: a single value, or an array.
#[derive(Clone)]
pub enum Part {
    One(Vec<u8>),
    Many(Vec<Part>),
}

impl Part {
    pub fn of<T: serde::Serialize>(value: T) -> Self {
        Self::One(packed(value))
    }

    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::One(bytes) => bytes.clone(),
            Self::Many(parts) => array(&parts.iter().map(Self::bytes).collect::<Vec<_>>()),
        }
    }

    /// All variants of this in which one value, at any depth, is replaced.
    pub fn replaced(&self, by: &[u8]) -> Vec<Self> {
        let mut variants = vec![Self::One(by.to_vec())];
        if let Self::Many(parts) = self {
            for (i, part) in parts.iter().enumerate() {
                for variant in part.replaced(by) {
                    let mut parts = parts.clone();
                    parts[i] = variant;
                    variants.push(Self::Many(parts));
                }
            }
        }
        variants
    }
}

pub fn request(operation: &str, now: u64) -> Part {
    let numbers = |n: &[u64]| Part::Many(n.iter().map(Part::of).collect());
    let policy = rmp_serde::to_vec(Policy::default().rules()).unwrap();
    let mut policy: Vec<u64> = rmp_serde::from_slice(&policy).unwrap();
    let quorum = Rules::KEYS.iter().position(|key| *key == "quorum");
    policy[quorum.unwrap()] = 2;
    let memory = [
        Part::of(1),
        Part::of("closed"),
        Part::of(-1),
        Part::of(20),
        Part::of(0),
        Part::of("ada"),
        Part::of("why"),
        Part::of("override"),
        Part::of(0),
    ];
    let mut parts = vec![
        Part::of(now),
        Part::of(7),
        Part::of("r"),
        numbers(&policy),
        Part::Many(memory.to_vec()),
    ];
    match operation {
        "acquire" | "release" => parts.push(Part::of("token")),
        "control" => parts.extend(
            [
                Part::of("force_open"),
                Part::of(1000),
                Part::of("ada"),
                Part::of("why"),
                Part::of("jitter=5"),
                Part::of(0),
            ]
            .to_vec(),
        ),
        "report" => parts.extend([
            Part::of(2),
            Part::of(0),
            numbers(&[5, 2, 1, 1, 0, 0, 3, 1]),
            numbers(&[1, 1, 0, 0, 0, 0, 1, 0]),
            numbers(&[1, 1, 0]),
            Part::of(0),
            Part::of(0),
            Part::Many(vec![Part::Many(vec![
                Part::of("token"),
                Part::of(0),
                Part::of(1),
                Part::of(0),
            ])]),
            Part::of(500),
            numbers(&[16, 5, 17, 12]),
            Part::Many(vec![Part::Many(vec![
                Part::of("status 503"),
                Part::of(3),
                Part::of("a detail"),
            ])]),
        ]),
        _ => {}
    }
    Part::Many(parts)
}

/// Invokes a script with any arguments. Fails if it takes long, or if its error has no code.
pub fn invoke(
    redis: &mut Connection,
    script: &Script,
    keys: &[String],
    args: &[Vec<u8>],
) -> RedisResult<Vec<u8>> {
    let mut call = redis::cmd("EVALSHA");
    call.arg(script.get_hash())
        .arg(keys.len())
        .arg(keys)
        .arg(args);
    let began = Instant::now();
    let answer = call.query(redis);
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    answer
}

/// What is stored under the keys. Not by DUMP, which shows the order of a large hash's fields:
/// Redis changes it at any time.
pub fn dumped(redis: &mut Connection, keys: &[String]) -> Vec<Value> {
    let mut types = redis::pipe();
    for key in keys {
        types.cmd("TYPE").arg(key);
    }
    let types: Vec<String> = types.query(redis).unwrap();
    let mut all = redis::pipe();
    for (key, kind) in keys.iter().zip(&types) {
        match kind.as_str() {
            "hash" => all.cmd("HGETALL").arg(key),
            "zset" => all.cmd("ZRANGE").arg(key).arg(0).arg(-1).arg("WITHSCORES"),
            "stream" => all.cmd("XRANGE").arg(key).arg("-").arg("+"),
            "string" | "none" => all.cmd("GET").arg(key),
            other => panic!("no script makes a {other}"),
        };
    }
    let values: Vec<Value> = all.query(redis).unwrap();
    let sorted = |(value, kind): (Value, String)| match value {
        Value::Array(fields) if kind == "hash" => {
            let mut pairs: Vec<_> = fields.chunks(2).map(|pair| format!("{pair:?}")).collect();
            pairs.sort();
            Value::SimpleString(pairs.join(" "))
        }
        other => other,
    };
    values.into_iter().zip(types).map(sorted).collect()
}

pub fn expiries(redis: &mut Connection, keys: &[String]) -> Vec<i64> {
    let mut all = redis::pipe();
    for key in keys {
        all.cmd("PTTL").arg(key);
    }
    all.query(redis).unwrap()
}
