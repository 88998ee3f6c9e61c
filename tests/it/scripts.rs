//! The scripts, invoked with any bytes.
//!
//! Owns requests in parts that a test can replace one by one; the scripts are read from `lua/` and joined as the store
//! joins them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use commontrip::{Policy, Rules};
use redis::{Connection, RedisResult, Script};

pub const OPERATIONS: [&str; 5] = ["acquire", "control", "release", "report", "snapshot"];
pub const PARTS: [&str; 11] = [
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
];

pub fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The numbers in a circuit's field `counts`, window 3 and total 5, or in `recent`: run, last success
/// and failure; zeros where it is not of its form, as the scripts read it.
pub fn kept<const N: usize>(field: &str) -> [u64; N] {
    let digits = field.split(|c: char| !c.is_ascii_digit());
    let read: Vec<u64> = digits.filter_map(|digits| digits.parse().ok()).collect();
    let Ok(numbers) = <[u64; N]>::try_from(read) else {
        return [0; N];
    };
    let form = match numbers.as_slice() {
        [x, y, z, w, a, b, c, d, e, f] => {
            format!("window={x}/{y}/{z}/{w} total={a}/{b}/{c}/{d}/{e}/{f}")
        }
        [run, success, failure] => format!("run={run} success={success} failure={failure}"),
        _ => String::new(),
    };
    let possible = form == field && numbers.iter().all(|n| *n < 1 << 52);
    if possible { numbers } else { [0; N] }
}

/// A script as the store sends it.
pub fn script(name: &str) -> Script {
    Script::new(&text(name))
}

pub fn text(name: &str) -> String {
    let lib = |part| read(&format!("lua/lib/{part}.lua"));
    format!(
        "{}local function operate()\n{}{}{}{}{}{}{}{}end\nreturn operate()\n",
        lib("prelude"),
        lib("hash"),
        lib("window"),
        lib("windows"),
        lib("latency"),
        lib("quorum"),
        lib("in_use"),
        lib("circuit"),
        read(&format!("lua/{name}.lua")),
    )
}

/// What the store sends first where a request has a brief, and the keys that it takes.
pub fn steady(name: &str, keys: &[String]) -> (Script, Vec<String>) {
    let taken = match name {
        "report" => vec![keys[0].clone(), keys[4].clone()],
        _ => vec![keys[0].clone(), keys[2].clone()],
    };
    (Script::new(&read(&format!("lua/steady/{name}.lua"))), taken)
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

/// A value of a request: one that stands alone, or an array of them.
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

    /// Every variant of this with one value, at whatever depth, replaced.
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
        ]),
        _ => {}
    }
    Part::Many(parts)
}

/// Invokes a script with any arguments; fails when it takes long or its error has no code.
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

pub fn dumped(redis: &mut Connection, keys: &[String]) -> Vec<Option<Vec<u8>>> {
    let mut all = redis::pipe();
    for key in keys {
        all.cmd("DUMP").arg(key);
    }
    all.query(redis).unwrap()
}

pub fn expiries(redis: &mut Connection, keys: &[String]) -> Vec<i64> {
    let mut all = redis::pipe();
    for key in keys {
        all.cmd("PTTL").arg(key);
    }
    all.query(redis).unwrap()
}
