//! A circuit in some state, the scripts, and the assertions about it.

use std::collections::HashMap;
use std::time::Duration;

use commontrip::Policy;
use commontrip::Snapshot;
use commontrip::model::{
    Acquire, Command, Control, Counts, Grant, Head, KindNote, Latencies, Report, Rules,
};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseError;
use redis::{Connection, RedisError, Script};
use serde::de::IgnoredAny;

use super::{BASE, LATER};
use crate::scripts::{
    OPERATIONS, Part, connect, counts_in, expiries, invoke, keys, packed, request, script,
};
use crate::support::{admin_url, unique_prefix};

/// What a circuit is doing when the hostile request arrives.
#[derive(Clone, Copy, Debug)]
pub enum Doing {
    Nothing,
    Counting,
    CountingCalls,
    Failing,
    BeingOpen,
    Probing,
    BeingForced,
}

pub fn doing() -> impl Strategy<Value = Doing> {
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

pub struct Bench {
    pub redis: Connection,
    scripts: HashMap<&'static str, Script>,
    pub keys: Vec<String>,
    window_calls: u64,
    seq: u64,
    now: u64,
}

/// A complete snapshot answer: its latencies and kinds are texts that may hold any bytes.
type Whole = (Snapshot, Vec<IgnoredAny>, IgnoredAny, Vec<IgnoredAny>);

/// The memory of a replica without one.
pub fn memoryless() -> Part {
    let numbers = |n: &[i64]| n.iter().map(Part::of).collect::<Vec<_>>();
    let mut parts = numbers(&[0, 0, 0, 0]);
    parts.insert(1, Part::of("closed"));
    parts.extend([Part::of(""), Part::of(""), Part::of("created"), Part::of(0)]);
    Part::Many(parts)
}

pub type Checked<T = ()> = Result<T, TestCaseError>;

pub fn fail<T>(what: impl Into<String>) -> Checked<T> {
    Err(TestCaseError::fail(what.into()))
}

impl Bench {
    pub fn new(name: &str) -> Self {
        let mut redis = connect(admin_url());
        let scripts = OPERATIONS.map(|operation| {
            let script = script(operation);
            script.load(&mut redis).unwrap();
            (operation, script)
        });
        Self {
            redis,
            scripts: scripts.into(),
            keys: keys(&unique_prefix(name), "c"),
            window_calls: 0,
            seq: 1,
            now: LATER,
        }
    }

    pub fn invoke(&mut self, operation: &str, bytes: Vec<u8>) -> Result<Vec<u8>, RedisError> {
        invoke(
            &mut self.redis,
            &self.scripts[operation],
            &self.keys,
            &[bytes],
        )
    }

    pub fn set_up(&mut self, doing: Doing) {
        redis::cmd("DEL")
            .arg(&self.keys)
            .exec(&mut self.redis)
            .unwrap();
        let mut policy = *Policy::default().rules();
        policy.quorum = 2;
        self.now = LATER;
        self.window_calls = match doing {
            Doing::CountingCalls => 10,
            _ => 0,
        };
        policy.window_calls = self.window_calls;
        let head = |replica: &str, at: u64| Head {
            now_ms: BASE + at,
            replica: replica.into(),
            policy,
            ..Head::default()
        };
        let mut seen = Latencies::default();
        for (ms, n) in [(3, 5), (20, 4), (800, 1)] {
            seen.record(Duration::from_millis(ms), n);
        }
        let report = |replica: &str, trips: u64| {
            packed(Report {
                head: head(replica, 0),
                seq: 1,
                counts: Counts {
                    successes: 8,
                    failures: trips.max(2),
                    slow_successes: 1,
                    abandoned: 3,
                    abandoned_failures: 1,
                    ..Counts::default()
                },
                trips,
                alone_ms: 500,
                latencies: seen.clone(),
                kinds: vec![KindNote {
                    kind: "timeout".into(),
                    count: 2,
                    detail: String::new(),
                }],
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

    /// A valid request: the circuit's generation and policy, and a new number.
    pub fn right(&mut self, operation: &str) -> Part {
        // Everything leaves a window of 60 s within one round.
        self.now += 12_000;
        let mut look = request("snapshot", self.now);
        if let Part::Many(parts) = &mut look {
            parts[4] = memoryless();
        }
        // A key of another type is an error, which the caller checks.
        let seen = self.invoke("snapshot", look.bytes()).ok();
        let seen = seen.and_then(|answer| rmp_serde::from_slice::<Whole>(&answer).ok());
        let generation = seen.map_or(0, |seen| seen.0.generation);
        let mut request = request(operation, self.now);
        let Part::Many(parts) = &mut request else {
            unreachable!("a request is an array")
        };
        if let Part::Many(policy) = &mut parts[3] {
            policy[2] = Part::of(self.window_calls);
        }
        parts[4] = memoryless();
        if operation == "report" {
            self.seq += 1;
            (parts[5], parts[6]) = (Part::of(self.seq), Part::of(generation));
        }
        request
    }

    pub fn set_time(&mut self, now: u64) {
        self.now = now;
    }

    /// Checks that an answer is readable, and its window consistent.
    pub fn readable(operation: &str, answer: &[u8]) -> Checked<Snapshot> {
        let read = match operation {
            "acquire" => rmp_serde::from_slice::<Grant>(answer).map(|grant| grant.snapshot),
            "snapshot" => rmp_serde::from_slice::<Whole>(answer).map(|whole| whole.0),
            _ => rmp_serde::from_slice::<Snapshot>(answer),
        };
        let seen = read.map_err(|e| TestCaseError::fail(format!("{operation} answered {e}")))?;
        // A snapshot also has latencies.
        let most = if operation == "snapshot" {
            1 << 23
        } else {
            1 << 16
        };
        if answer.len() > most {
            return fail(format!("{operation} answered {} bytes", answer.len()));
        }
        if seen.generation > 1 << 51 {
            return fail("a replica that remembers this generation would be refused");
        }
        Ok(seen)
    }

    /// Checks that every operation answers a valid request.
    pub fn all_answer(&mut self) -> Checked {
        for operation in [
            "snapshot", "snapshot", "report", "acquire", "release", "report", "snapshot",
        ] {
            let right = self.right(operation).bytes();
            match self.invoke(operation, right) {
                Ok(answer) => Self::readable(operation, &answer).map(drop)?,
                Err(error) => return fail(format!("{operation}: {error}")),
            }
        }
        Ok(())
    }

    pub fn reset(&mut self) -> Checked<Snapshot> {
        let head = Head {
            now_ms: self.now,
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

    /// Checks that the window's totals are the sum of its parts, and that every key has a TTL.
    pub fn adds_up(&mut self) -> Checked {
        let fields: HashMap<Vec<u8>, Vec<u8>> = redis::cmd("HGETALL")
            .arg(&self.keys[0])
            .query(&mut self.redis)
            .unwrap();
        let text = |name: &str| {
            let text = fields.get(name.as_bytes());
            text.map_or("".into(), |t| String::from_utf8_lossy(t))
        };
        let counts = |words: &str, undecided: &str| {
            let [calls, failures, slow] = counts_in(&text(words), "calls");
            let undecided = text(undecided).parse::<u64>().unwrap_or(0);
            [calls, failures, slow, undecided].map(|n| n as i64)
        };
        let mut whole = counts("window", "undecided");
        let ended = counts("ended_buckets", "ended_undecided");
        let kind: String = redis::cmd("TYPE")
            .arg(&self.keys[1])
            .query(&mut self.redis)
            .unwrap();
        let mut parts = [0; 4];
        let shapes = fields.get(b"window_shape".as_slice());
        let several = shapes.is_some_and(|shapes| shapes.contains(&b'+'));
        match kind.as_str() {
            "hash" if several => {
                let windows: HashMap<String, String> = redis::cmd("HGETALL")
                    .arg(&self.keys[1])
                    .query(&mut self.redis)
                    .unwrap();
                for (shape, packed) in windows.iter().filter(|(shape, _)| shape.ends_with("ms")) {
                    let whole = sums_of(packed, 1);
                    let parts = sums_of(packed, 2);
                    if whole != parts {
                        return fail(format!("{shape}: totals {whole:?}, parts {parts:?}"));
                    }
                }
                (whole, parts) = ([0; 4], [0; 4]);
            }
            "hash" => {
                // The newest bucket is the total minus the ended buckets, but the total of an open
                // circuit is what opened it.
                let recorded = ended.iter().zip(&whole).take(3);
                let opened = [b"open".as_slice(), b"half_open"];
                let opened = fields
                    .get(b"state".as_slice())
                    .is_some_and(|s| opened.contains(&&s[..]));
                if !opened && recorded.into_iter().any(|(ended, whole)| ended > whole) {
                    return fail(format!("ended {ended:?}, whole {whole:?}"));
                }
                whole = ended;
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
                // Undecided calls are not in the ring.
                parts = [ring.len() as i64, count("fF"), count("SF"), whole[3]];
            }
            _ => whole = ended,
        }
        if whole != parts {
            return fail(format!("totals {whole:?}, parts {parts:?}"));
        }
        let expiries = expiries(&mut self.redis, &self.keys);
        if expiries.contains(&-1) {
            return fail(format!("a key that never expires: {expiries:?}"));
        }
        Ok(())
    }
}

/// Adds up the counts of one of several windows: its totals (1) or its buckets (2).
fn sums_of(packed: &str, part: usize) -> [i64; 4] {
    let mut sums = [0; 4];
    let part = packed.split('|').nth(part).unwrap_or_default();
    for bucket in part.split(',') {
        let counts = bucket.rsplit('=').next().unwrap_or_default();
        for (sum, n) in sums.iter_mut().zip(counts.split_whitespace()) {
            *sum += n.parse::<i64>().unwrap();
        }
    }
    sums
}
