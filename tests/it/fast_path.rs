//! The scripts' fast path: gives the same answers and keys as the full path, and is used.
//!
//! Two circuits get the same requests, one of them only on the full path.

use std::collections::{BTreeMap, HashMap};

use commontrip::model::{Acquire, Grant, Head, Memory, Report, Request, Runs};
use commontrip::store::{RedisStore, Store};
use commontrip::{Counts, Name, Policy, Snapshot, State};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use redis::{Connection, Script};
use serde::de::IgnoredAny;

use crate::fuzz::{Tampering, content};
use crate::scripts::{connect, counts_in, fast_path, invoke, keys, packed, script};
use crate::support::{OwnServer, admin_url, say, unique_prefix};

const BASE: u64 = 1_735_689_600_000;

#[derive(Clone, Debug)]
struct Step {
    after: u64,
    replica: &'static str,
    counts: [u64; 8],
    runs: [u64; 3],
    news: bool,
    generation: u64,
    acquires: bool,
    /// The replica has not learned what others counted.
    unaware: bool,
}

#[derive(Clone, Debug)]
struct Case {
    policy: (&'static str, u64),
    failure_rate: u64,
    slow: bool,
    opened: bool,
    steps: Vec<Step>,
}

fn step() -> impl Strategy<Value = Step> {
    let few = || prop_oneof![2 => Just(0_u64), 5 => 1_u64..40];
    let counts = (0_u64..60, few(), few(), few(), few(), few());
    let after = prop_oneof![12 => 0_u64..300, 2 => 300_u64..9000, 1 => 9000_u64..90_000_000];
    let one_in_ten = || prop::bool::weighted(0.1);
    let runs = [0_u64..7, 0_u64..7, 0_u64..7];
    (
        after,
        select(vec!["r", "q"]),
        (counts, 0_u64..4, 0_u64..4),
        runs,
        one_in_ten(),
        0_u64..20,
        one_in_ten(),
        any::<bool>(),
    )
        .prop_map(
            |(
                after,
                replica,
                ((s, f, ss, sf, i, n), a, af),
                runs,
                seen,
                generation,
                acquires,
                unaware,
            )| {
                Step {
                    after,
                    replica,
                    counts: [s, f, ss.min(s), sf.min(f), i, n, a, af],
                    runs: runs.map(|run| run.min(f)),
                    news: !seen,
                    generation: generation / 19,
                    acquires,
                    unaware,
                }
            },
        )
}

fn case() -> impl Strategy<Value = Case> {
    let policy = select(vec![
        ("report_interval_ms", 100),
        ("report_interval_ms", 0),
        ("ramp_duration_ms", 60_000),
        ("failure_count_threshold", 300),
        ("consecutive_failures_threshold", 9),
        ("minimum_applies_to", 1),
        ("slow_call_rate_threshold", 60),
        ("window_buckets", 7),
        ("window_calls", 50),
        ("quorum", 2),
    ]);
    let rate = select(vec![0, 50, 80, 100]);
    (
        policy,
        rate,
        any::<bool>(),
        prop::bool::weighted(0.3),
        vec(step(), 1..30),
    )
        .prop_map(|(policy, failure_rate, slow, opened, steps)| Case {
            policy,
            failure_rate,
            slow,
            opened,
            steps,
        })
}

/// The content of a key, in a form that does not depend on its history.
fn held(redis: &mut Connection, key: &str) -> BTreeMap<String, String> {
    let kind: String = redis::cmd("TYPE").arg(key).query(redis).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let pairs: Vec<(Vec<u8>, Vec<u8>)> = match kind.as_str() {
        "hash" => redis::cmd("HGETALL").arg(key).query(redis).unwrap(),
        "zset" => {
            let mut all = redis::cmd("ZRANGE");
            all.arg(key).arg(0).arg(-1).arg("WITHSCORES");
            all.query(redis).unwrap()
        }
        "string" => {
            let ring = redis::cmd("GET").arg(key).query(redis).unwrap();
            vec![(b"ring".to_vec(), ring)]
        }
        "stream" => {
            let length: u64 = redis::cmd("XLEN").arg(key).query(redis).unwrap();
            vec![(b"events".to_vec(), length.to_string().into_bytes())]
        }
        _ => vec![],
    };
    pairs.into_iter().map(|(k, v)| (text(k), text(v))).collect()
}

/// The snapshot in an answer.
fn shown(operation: &str, answer: &[u8]) -> Snapshot {
    let seen = match operation {
        "acquire" => rmp_serde::from_slice::<Grant>(answer).map(|grant| grant.snapshot),
        "snapshot" => {
            type Whole = (Snapshot, IgnoredAny, IgnoredAny, IgnoredAny);
            rmp_serde::from_slice::<Whole>(answer).map(|all| all.0)
        }
        _ => rmp_serde::from_slice(answer),
    };
    seen.unwrap()
}

/// The snapshot in a fast-path answer, for a replica that knows `seen`.
fn fast_shown(answer: &[String], seen: &Snapshot) -> Snapshot {
    let mut seen = seen.clone();
    assert_eq!(answer[0], "fast");
    seen.now_ms = answer[1].parse().unwrap();
    for pair in answer[2..].chunks(2) {
        let number = || pair[1].parse().unwrap();
        match pair[0].as_str() {
            "window" => [seen.calls, seen.failures, seen.slow] = counts_in(&pair[1], "calls"),
            "total" => {
                [seen.successes_total, seen.failures_total, seen.slow_total] =
                    counts_in(&pair[1], "successes");
            }
            "undecided" => seen.undecided = number(),
            "ignored_total" => seen.ignored_total = number(),
            "rejected_total" => seen.rejected_total = number(),
            "abandoned_total" => seen.abandoned_total = number(),
            "consecutive_failures" => seen.consecutive_failures = number(),
            "last_success_ms" => seen.last_success_ms = number(),
            "last_failure_ms" => seen.last_failure_ms = number(),
            other => panic!("{other}"),
        }
    }
    seen
}

/// Two circuits that get the same requests; the second gets no briefs.
struct Twins {
    redis: Connection,
    scripts: HashMap<&'static str, Script>,
    circuits: [Vec<String>; 2],
    now: u64,
    seq: u64,
    /// The snapshot of the last answer.
    seen: Snapshot,
    requests: u64,
    fast: [u64; 2],
    tampered: bool,
}

impl Twins {
    fn new() -> Self {
        let mut redis = connect(admin_url());
        let scripts = ["report", "acquire", "snapshot"].map(|name| {
            let script = script(name);
            script.load(&mut redis).unwrap();
            (name, script)
        });
        for name in ["report", "acquire"] {
            let (script, _) = fast_path(name, &keys("", ""));
            script.load(&mut redis).unwrap();
        }
        let prefix = unique_prefix("fast-path");
        Self {
            redis,
            scripts: scripts.into(),
            circuits: ["briefed", "plain"].map(|name| keys(&prefix, name)),
            now: BASE,
            seq: 0,
            seen: Snapshot::default(),
            requests: 0,
            fast: [0; 2],
            tampered: false,
        }
    }

    fn invoke(&mut self, twin: usize, operation: &str, request: &[u8]) -> Vec<u8> {
        let (script, keys) = (&self.scripts[operation], &self.circuits[twin]);
        let answer = invoke(&mut self.redis, script, keys, &[request.to_vec()]);
        answer.unwrap_or_else(|error| panic!("{operation}: {error}"))
    }

    /// Sends the fast path's script for the first twin; `None` if the full path is needed.
    fn on_fast_path(&mut self, operation: &str, brief: &[Vec<u8>]) -> Option<Vec<String>> {
        let (script, keys) = fast_path(operation, &self.circuits[0]);
        let mut call = redis::cmd("EVALSHA");
        call.arg(script.get_hash()).arg(keys.len());
        let answer = call.arg(keys).arg(brief).query(&mut self.redis);
        answer.unwrap_or_else(|error| panic!("fast path {operation}: {error}"))
    }

    fn head(&self, case: &Case, replica: &str) -> Head {
        let mut policy = *Policy::default().rules();
        // A circuit that opens at its first run of failures seldom takes the fast path.
        (policy.window_ms, policy.consecutive_failures_threshold) = (60_000, 0);
        let (key, value) = case.policy;
        let setting = match key {
            "report_interval_ms" => &mut policy.report_interval_ms,
            "ramp_duration_ms" => &mut policy.ramp_duration_ms,
            "failure_count_threshold" => &mut policy.failure_count_threshold,
            "consecutive_failures_threshold" => &mut policy.consecutive_failures_threshold,
            "minimum_applies_to" => {
                policy.consecutive_failures_threshold = 9;
                &mut policy.minimum_applies_to
            }
            "slow_call_rate_threshold" => &mut policy.slow_call_rate_threshold,
            "window_buckets" => &mut policy.window_buckets,
            "window_calls" => &mut policy.window_calls,
            _ => &mut policy.quorum,
        };
        *setting = value;
        policy.failure_rate_threshold = case.failure_rate;
        policy.slow_call_duration_threshold_ms = u64::from(case.slow);
        Head {
            now_ms: self.now,
            replica: replica.into(),
            policy,
            seen: self.seen.clone(),
            ..Head::default()
        }
    }

    fn begin(&mut self, case: &Case) {
        for keys in &self.circuits {
            redis::cmd("DEL").arg(keys).exec(&mut self.redis).unwrap();
        }
        (self.now, self.tampered) = (BASE, false);
        let mut head = self.head(case, "p");
        if case.opened {
            // An override that another replica remembers, and that ends at once.
            head.memory = Memory {
                generation: 3,
                state: State::Disabled,
                left_ms: 1,
                ..Memory::default()
            };
        }
        let first = packed(Report {
            head,
            seq: 1,
            ..Report::default()
        });
        for twin in 0..2 {
            self.seen = shown("report", &self.invoke(twin, "report", &first));
        }
    }

    /// Sends a request to both, and compares their answers.
    fn ask(&mut self, case: &Case, step: &Step) -> Result<bool, TestCaseError> {
        self.now += step.after;
        self.seq += u64::from(step.news);
        let mut head = self.head(case, step.replica);
        if step.unaware {
            (head.seen.calls, head.seen.failures, head.seen.slow) = (0, 0, 0);
            head.seen.consecutive_failures = 0;
        }
        let [
            successes,
            failures,
            slow_successes,
            slow_failures,
            ignored,
            rejected,
            abandoned,
            abandoned_failures,
        ] = step.counts;
        let [first, longest, last] = step.runs;
        let report = Report {
            head: head.clone(),
            seq: self.seq.max(1),
            generation: step.generation + if case.opened { 5 } else { 0 },
            counts: Counts {
                successes,
                failures,
                slow_successes,
                slow_failures,
                ignored,
                rejected,
                abandoned,
                abandoned_failures: abandoned_failures.min(abandoned).min(failures),
            },
            runs: Runs {
                first,
                longest: longest.max(first).max(last),
                last,
            },
            ..Report::default()
        };
        let acquire = Acquire {
            head,
            token: "t".into(),
        };
        let (operation, request, brief) = match step.acquires {
            true => ("acquire", packed(&acquire), acquire.brief()),
            false => ("report", packed(&report), report.brief()),
        };
        let answer = brief.and_then(|brief| self.on_fast_path(operation, &brief));
        let fast = answer.is_some();
        let plain = shown(operation, &self.invoke(1, operation, &request));
        // Values written by hand reach the replica only with the next answer of the full path.
        let last_seen = if self.tampered { &plain } else { &self.seen };
        let mut seen = match answer {
            Some(answer) => fast_shown(&answer, last_seen),
            None => shown(operation, &self.invoke(0, operation, &request)),
        };
        if fast {
            // The number of replicas arrives only with the next answer of the full path.
            (seen.replicas, seen.pace_ms) = (plain.replicas, plain.pace_ms);
        }
        prop_assert_eq!(&seen, &plain);
        self.seen = plain;
        self.requests += 1;
        self.fast[usize::from(step.acquires)] += u64::from(fast);
        Ok(fast)
    }

    fn all_held(&mut self, twin: usize) -> Vec<BTreeMap<String, String>> {
        let keys = self.circuits[twin].clone();
        keys.iter().map(|key| held(&mut self.redis, key)).collect()
    }

    fn snapshot(&mut self, twin: usize, case: &Case) -> Snapshot {
        let look = packed(self.head(case, "p"));
        shown("snapshot", &self.invoke(twin, "snapshot", &look))
    }
}

fn runner(cases: u32) -> TestRunner {
    let config = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => Config::default(),
        None => Config::with_cases(cases),
    };
    TestRunner::new(Config {
        failure_persistence: None,
        max_shrink_time: 30_000,
        ..config
    })
}

#[test]
fn the_fast_path_answers_and_writes_what_the_full_path_does() {
    let twins = std::cell::RefCell::new(Twins::new());
    let outcome = runner(300).run(&case(), |case| {
        let twins = &mut *twins.borrow_mut();
        twins.begin(&case);
        for step in &case.steps {
            twins.ask(&case, step)?;
            prop_assert_eq!(twins.all_held(0), twins.all_held(1));
        }
        Ok(())
    });
    outcome.unwrap_or_else(|difference| panic!("{difference}"));
    let Twins { requests, fast, .. } = twins.into_inner();
    say(&format!(
        "fast path: {fast:?} reports and acquires of {requests}"
    ));
    // Usually 22 % and 6 %; the cases are random.
    assert!(fast[0] > requests / 8 && fast[1] > requests / 100);
}

#[test]
fn a_circuit_that_was_written_into_is_the_same_either_way() {
    // Fields that can change without a new generation.
    let fields = [
        "generation",
        "window",
        "undecided",
        "total",
        "ignored_total",
        "rejected_total",
        "abandoned_total",
        "consecutive_failures",
        "last_failure_ms",
        "window_shape",
        "bucket_at_ms",
        "ended_buckets",
        "ended_undecided",
        "policy",
        "expires_ms",
    ];
    let field =
        (select(fields.to_vec()), content()).prop_map(|(field, to)| Tampering::Field(field, to));
    let number = content().prop_map(|to| Tampering::Number("r", to));
    let twins = std::cell::RefCell::new(Twins::new());
    let tampering = prop_oneof![9 => field, 1 => number];
    let strategy = (case(), tampering, step(), any::<bool>());
    let outcome = runner(600).run(&strategy, |(case, tampering, mut last, acquires)| {
        let twins = &mut *twins.borrow_mut();
        twins.begin(&case);
        for step in &case.steps {
            twins.ask(&case, step)?;
        }
        for keys in twins.circuits.clone() {
            tampering.write(&mut twins.redis, &keys);
        }
        twins.tampered = true;
        (last.replica, last.acquires) = ("r", acquires);
        twins.ask(&case, &last)?;
        let shown = [0, 1].map(|twin| twins.snapshot(twin, &case));
        prop_assert_eq!(&shown[0], &shown[1]);
        // Only the full path overwrites a field that cannot be read.
        let [a, b] = [0, 1].map(|twin| twins.all_held(twin).split_off(1));
        prop_assert_eq!(a, b);
        Ok(())
    });
    outcome.unwrap_or_else(|difference| panic!("{difference}"));
    let Twins { requests, fast, .. } = twins.into_inner();
    say(&format!(
        "fast path, written into: {fast:?} reports and acquires of {requests}"
    ));
    assert!(fast[0] > 0 && fast[1] > 0);
}

/// Checks that requests of the crate itself take the fast path.
#[tokio::test]
async fn what_nearly_every_request_is_takes_the_fast_path() {
    let server = OwnServer::start();
    let mut redis = connect(&server.admin_url());
    let store = RedisStore::builder().open(&server.url()).unwrap();
    let name = Name::new("payments").unwrap();
    let mut seen = Snapshot::default();
    for (setting, value) in [("slowlog-log-slower-than", 0), ("slowlog-max-len", 10_000)] {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET")
            .arg(setting)
            .arg(value)
            .exec(&mut redis)
            .unwrap();
    }
    let mut general = async |now: u64| {
        redis::cmd("SLOWLOG").arg("RESET").exec(&mut redis).unwrap();
        for n in 0..50 {
            let head = Head {
                now_ms: now + n,
                replica: "r".into(),
                policy: *Policy::default().rules(),
                seen: seen.clone(),
                ..Head::default()
            };
            let counts = Counts {
                successes: 90,
                failures: 10,
                slow_failures: 1,
                ..Counts::default()
            };
            let report = Report {
                head: head.clone(),
                seq: now + n,
                counts,
                ..Report::default()
            };
            let answers = store.report(&[(name.clone(), report)]).await.unwrap();
            seen = answers[0].as_ref().unwrap().clone();
            assert_eq!(seen.state, State::Closed);
            let acquire = Acquire {
                head: Head {
                    seen: seen.clone(),
                    ..head
                },
                token: "t".into(),
            };
            store.acquire(&name, &acquire).await.unwrap();
        }
        // The log has all commands; a script on the full path has twelve keys.
        let mut log = redis::cmd("SLOWLOG");
        let log: Vec<Vec<redis::Value>> = log.arg("GET").arg(-1).query(&mut redis).unwrap();
        let words = log.into_iter().map(|mut entry| {
            let words: Vec<Vec<u8>> = redis::from_redis_value(entry.swap_remove(3)).unwrap();
            words
                .into_iter()
                .map(|w| String::from_utf8_lossy(&w).into_owned())
                .collect::<Vec<_>>()
        });
        let scripts = words.filter(|words| words[0] == "EVALSHA");
        let scripts: Vec<_> = scripts.map(|words| words[2].clone()).collect();
        assert!(scripts.len() >= 100, "{scripts:?}");
        scripts.iter().filter(|keys| *keys == "12").count()
    };
    // Only the first report finds no keys. It also notes its replica.
    assert_eq!(general(BASE).await, 1);
    assert_eq!(general(BASE + 50).await, 0);
    // A bucket later, the first report ends the last bucket.
    assert_eq!(general(BASE + 6000).await, 1);
}
