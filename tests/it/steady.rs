//! The steady way of the scripts: the same answers and the same keys as the general way, and taken.
//!
//! Two circuits get the same requests, one of them only the general way.

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
use crate::scripts::{connect, invoke, kept, keys, packed, script, steady};
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
    /// What others have counted has not come to the replica.
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

/// What a key holds, in words that do not depend on how it came about.
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

/// The circuit that an answer shows.
fn shown(operation: &str, answer: &[u8]) -> Snapshot {
    let seen = match operation {
        "acquire" => rmp_serde::from_slice::<Grant>(answer).map(|grant| grant.snapshot),
        "snapshot" => {
            rmp_serde::from_slice::<(Snapshot, IgnoredAny, IgnoredAny)>(answer).map(|all| all.0)
        }
        _ => rmp_serde::from_slice(answer),
    };
    seen.unwrap()
}

/// The circuit that an answer of the steady way shows to who has `seen` all but what is new.
fn steadily_shown(answer: &[u8], seen: &Snapshot) -> Snapshot {
    let text = String::from_utf8_lossy(answer.strip_prefix(b"steady|").unwrap());
    let mut fields = text.splitn(3, '|');
    let mut next = || fields.next().unwrap();
    let mut seen = seen.clone();
    seen.now_ms = next().parse().unwrap();
    let n: [_; 10] = kept(next());
    (seen.calls, seen.failures, seen.slow, seen.undecided) = (n[0], n[1], n[2], n[3]);
    (seen.successes_total, seen.failures_total) = (n[4], n[5]);
    (seen.slow_total, seen.ignored_total) = (n[6], n[7]);
    (seen.not_permitted_total, seen.abandoned_total) = (n[8], n[9]);
    let n: [_; 3] = kept(next());
    (seen.consecutive_failures, seen.last_success_ms) = (n[0], n[1]);
    seen.last_failure_ms = n[2];
    seen
}

/// Two circuits that are told the same; the second without briefs.
struct Twins {
    redis: Connection,
    scripts: HashMap<&'static str, Script>,
    circuits: [Vec<String>; 2],
    now: u64,
    seq: u64,
    /// As the last answer showed it.
    seen: Snapshot,
    requests: u64,
    steady: [u64; 2],
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
            let (script, _) = steady(name, &keys("", ""));
            script.load(&mut redis).unwrap();
        }
        let prefix = unique_prefix("steady");
        Self {
            redis,
            scripts: scripts.into(),
            circuits: ["briefed", "plain"].map(|name| keys(&prefix, name)),
            now: BASE,
            seq: 0,
            seen: Snapshot::default(),
            requests: 0,
            steady: [0; 2],
        }
    }

    fn invoke(&mut self, twin: usize, operation: &str, request: &[u8]) -> Vec<u8> {
        let (script, keys) = (&self.scripts[operation], &self.circuits[twin]);
        let answer = invoke(&mut self.redis, script, keys, &[request.to_vec()]);
        answer.unwrap_or_else(|error| panic!("{operation}: {error}"))
    }

    /// Goes the steady way with the first twin; `None` where it is not to be gone.
    fn steadily(&mut self, operation: &str, brief: &[Vec<u8>]) -> Option<Vec<u8>> {
        let (script, keys) = steady(operation, &self.circuits[0]);
        let mut call = redis::cmd("EVALSHA");
        call.arg(script.get_hash()).arg(keys.len());
        let answer = call.arg(keys).arg(brief).query(&mut self.redis);
        answer.unwrap_or_else(|error| panic!("steady {operation}: {error}"))
    }

    fn head(&self, case: &Case, replica: &str) -> Head {
        let mut policy = *Policy::default().rules();
        // A circuit that opens by its first run of failures is seldom steady.
        (policy.window_ms, policy.consecutive_failures_threshold) = (60_000, 0);
        let (key, value) = case.policy;
        let setting = match key {
            "report_interval_ms" => &mut policy.report_interval_ms,
            "ramp_duration_ms" => &mut policy.ramp_duration_ms,
            "failure_count_threshold" => &mut policy.failure_count_threshold,
            "consecutive_failures_threshold" => &mut policy.consecutive_failures_threshold,
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
        self.now = BASE;
        let mut head = self.head(case, "p");
        if case.opened {
            // An override that another replica remembers, and that is over at once.
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

    /// Asks both, and compares what they answer.
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
            not_permitted,
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
                not_permitted,
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
        let answer = brief.and_then(|brief| self.steadily(operation, &brief));
        let steady = answer.is_some();
        let mut seen = match answer {
            Some(answer) => steadily_shown(&answer, &self.seen),
            None => shown(operation, &self.invoke(0, operation, &request)),
        };
        let plain = shown(operation, &self.invoke(1, operation, &request));
        if steady {
            // Who is there is told with the next answer that comes the general way.
            (seen.replicas, seen.pace_ms) = (plain.replicas, plain.pace_ms);
        }
        prop_assert_eq!(&seen, &plain);
        self.seen = plain;
        self.requests += 1;
        self.steady[usize::from(step.acquires)] += u64::from(steady);
        Ok(steady)
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
fn the_steady_way_answers_and_writes_what_the_general_way_does() {
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
    let Twins {
        requests, steady, ..
    } = twins.into_inner();
    say(&format!(
        "steady: {steady:?} reports and acquires of {requests}"
    ));
    assert!(steady[0] > requests / 5 && steady[1] > requests / 100);
}

#[test]
fn a_circuit_that_was_written_into_is_the_same_either_way() {
    // Those that can change while the generation does not.
    let fields = [
        "generation",
        "window",
        "window_at",
        "window_ended",
        "counts",
        "recent",
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
        (last.replica, last.acquires) = ("r", acquires);
        twins.ask(&case, &last)?;
        let shown = [0, 1].map(|twin| twins.snapshot(twin, &case));
        prop_assert_eq!(&shown[0], &shown[1]);
        // A field that cannot be read is written over by the general way alone.
        let [a, b] = [0, 1].map(|twin| twins.all_held(twin).split_off(1));
        prop_assert_eq!(a, b);
        Ok(())
    });
    outcome.unwrap_or_else(|difference| panic!("{difference}"));
    let Twins {
        requests, steady, ..
    } = twins.into_inner();
    say(&format!(
        "steady, written into: {steady:?} reports and acquires of {requests}"
    ));
}

/// The way must not be lost unseen: what is sent by the crate takes it.
#[tokio::test]
async fn what_nearly_every_request_is_goes_the_steady_way() {
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
        // All commands are in it, and the general way has eleven keys.
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
        scripts.iter().filter(|keys| *keys == "11").count()
    };
    // Only the first report finds nothing there; its replica is noted.
    assert_eq!(general(BASE).await, 1);
    assert_eq!(general(BASE + 50).await, 0);
    // A bucket later; the first report ends the last one.
    assert_eq!(general(BASE + 6000).await, 1);
}
