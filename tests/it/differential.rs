//! The scripts and the model, driven by the same random histories.
//!
//! Every reply, every publication and the whole content of Redis must match the model after each
//! step. Only `expires_ms` is excluded, because the model has no expiry. `PROPTEST_CASES` sets the
//! number of histories.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use commontrip::model::{
    Acquire, Circuit, Command, Control, Head, Kind, KindNote, Latencies, Memory, Release, Report,
    Runs, Settled,
};
use commontrip::store::{RedisStore, Store};
use commontrip::{Counts, Name, Policy, Reason, Rules, Snapshot, State};
use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::scripts::{counts_in, keys};
use crate::support::{admin_url, redis_url, unique, unique_prefix};

const CASES: u32 = 600;
/// The last two are starts of the same replica.
const REPLICAS: [&str; 3] = ["a", "b.0000000a", "b.0000000b"];

#[derive(Clone, Debug)]
struct History {
    starts_at: u64,
    policy: Pairs,
    steps: Vec<Step>,
}

/// Settings that differ from their defaults.
#[derive(Clone)]
struct Pairs(Vec<(&'static str, u64)>);

#[derive(Clone)]
struct Step {
    when: When,
    replica: usize,
    memory: Option<Remembered>,
    does: Does,
}

#[derive(Clone, Debug)]
enum When {
    /// This many ms after the previous step.
    After(i64),
    /// This many ms after the end of the state.
    Due(i64),
}

/// The replica's memory, with a generation relative to the circuit's.
#[derive(Clone, Debug)]
struct Remembered {
    newer_by: i64,
    state: State,
    left_ms: i64,
    age: Age,
    opens: u64,
    why: Reason,
    probes: u64,
}

#[derive(Clone, Debug)]
enum Age {
    Ms(u64),
    /// This many ms older than the maximum age at which an open circuit is adopted.
    Beyond(i64),
}

#[derive(Clone, Debug)]
enum Does {
    Acquire(u8),
    Report(Box<Filed>),
    Release(u8),
    Control(Command, u64),
    StorePolicy(Pairs),
    Snapshot,
    DeployPolicy(Pairs),
    LoseCircuit,
}

#[derive(Clone, Debug)]
struct Filed {
    /// Added to the replica's last number: 1 is the next one, less repeats an earlier one.
    seq: i64,
    /// The generation of the counts, relative to the circuit's.
    newer_by: i64,
    counts: [u64; 8],
    late: [u64; 8],
    runs: [u64; 3],
    retry_after_ms: u64,
    trips: u64,
    /// For each settled probe: its index among the probes in flight (a new token if beyond them),
    /// its generation relative to the circuit's, kind, `retry_after_ms`.
    settled: Vec<(u8, i64, u8, u64)>,
    alone_ms: u64,
    /// Latencies in µs, each with its number of calls.
    latencies: Vec<(u64, u64)>,
    /// Kinds of failure: number of the kind, count, and whether it has a detail.
    kinds: Vec<(u8, u64, bool)>,
}

impl Does {
    /// Whether an operator may do it, who has no policy in code and no memory.
    const fn is_an_operators(&self) -> bool {
        matches!(
            self,
            Self::Control(..) | Self::StorePolicy(_) | Self::Snapshot
        )
    }
}

const fn now_and_then(now: u64) -> bool {
    now % 2 == 1
}

/// On one line, so that a failed history is readable.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            when,
            replica,
            memory,
            does,
        } = self;
        write!(f, "{when:?} {}: {does:?}", REPLICAS[*replica])?;
        memory
            .as_ref()
            .map_or(Ok(()), |memory| write!(f, ", {memory:?}"))
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.stored())
    }
}

impl Pairs {
    /// The pairs as a stored policy, without those that would make it invalid.
    fn stored(&self) -> String {
        let mut kept = String::new();
        for (key, value) in &self.0 {
            let more = format!("{kept} {key}={value}");
            if let Ok(valid) = Policy::default().check_stored(&more) {
                kept = valid;
            }
        }
        kept
    }

    fn rules(&self) -> Rules {
        let stored = self.stored();
        let pairs = stored.split_whitespace().filter_map(|p| p.split_once('='));
        let map: BTreeMap<_, u64> = pairs.map(|(k, v)| (k, v.parse().unwrap())).collect();
        let policy: Policy = serde_json::from_value(serde_json::to_value(map).unwrap()).unwrap();
        *policy.rules()
    }
}

fn pairs() -> impl Strategy<Value = Pairs> {
    let pair = prop_oneof![
        6 => prop_oneof![100_u64..1000, 1000_u64..20_000].prop_map(|v| ("window_ms", v)),
        4 => (1_u64..12).prop_map(|v| ("window_buckets", v)),
        4 => prop_oneof![Just(0), 1_u64..12, 12_u64..40].prop_map(|v| ("window_calls", v)),
        6 => (1_u64..8).prop_map(|v| ("minimum_number_of_calls", v)),
        2 => (0_u64..=100).prop_map(|v| ("failure_rate_threshold", v)),
        1 => (0_u64..10).prop_map(|v| ("failure_count_threshold", v)),
        1 => (0_u64..7).prop_map(|v| ("consecutive_failures_threshold", v)),
        1 => (0_u64..2).prop_map(|v| ("minimum_applies_to", v)),
        1 => (0_u64..2).prop_map(|v| ("slow_call_duration_threshold_ms", v)),
        1 => (1_u64..=100).prop_map(|v| ("slow_call_rate_threshold", v)),
        3 => (1_u64..3000).prop_map(|v| ("wait_duration_in_open_state_ms", v)),
        3 => (1_u64..9000).prop_map(|v| ("max_wait_duration_in_open_state_ms", v)),
        2 => (100_u64..400).prop_map(|v| ("backoff_multiplier_percent", v)),
        2 => (0_u64..=100).prop_map(|v| ("jitter", v)),
        3 => prop_oneof![Just(0), 0_u64..3000].prop_map(|v| ("backoff_reset_after_ms", v)),
        2 => (1_u64..4).prop_map(|v| ("permitted_number_of_calls_in_half_open_state", v)),
        3 => (1_u64..4).prop_map(|v| ("success_threshold", v)),
        2 => (1_u64..3).prop_map(|v| ("half_open_failure_threshold", v)),
        3 => (1_u64..5000).prop_map(|v| ("max_wait_duration_in_half_open_state_ms", v)),
        3 => (1_u64..2000).prop_map(|v| ("probe_lease_ms", v)),
        3 => (0_u64..9000).prop_map(|v| ("ramp_duration_ms", v)),
        1 => (0_u64..200).prop_map(|v| ("report_interval_ms", v)),
        6 => (1_u64..5).prop_map(|v| ("quorum", v)),
        1 => (0_u64..3).prop_map(|v| ("latency_recording", v)),
        1 => (0_u64..2).prop_map(|v| ("abandoned_calls", v)),
        1 => (0_u64..2).prop_map(|v| ("history", v)),
    ];
    vec(pair, 0..16).prop_map(Pairs)
}

/// Settings that no script reads.
const OF_REPLICAS: [&str; 5] = [
    "ramp_initial",
    "call_timeout_ms",
    "decision_ttl_ms",
    "abandoned_after_ms",
    "timed_out_calls",
];

#[test]
fn every_setting_that_a_script_reads_is_tried() {
    let source = include_str!("differential.rs");
    for key in Rules::KEYS {
        let tried = source.contains(&format!("(\"{key}\", v)"));
        assert_eq!(tried, !OF_REPLICAS.contains(key), "{key}");
    }
}

/// Windows with shared counts: what a conversion keeps depends on their edges.
fn window() -> impl Strategy<Value = Pairs> {
    let widths = prop::sample::select(vec![1000_u64, 2000, 3000, 6000, 60_000]);
    (widths, 1_u64..7).prop_map(|(ms, buckets)| {
        Pairs(vec![
            ("window_ms", ms),
            ("window_buckets", buckets),
            ("minimum_number_of_calls", 90),
        ])
    })
}

fn when() -> impl Strategy<Value = When> {
    let after = prop_oneof![
        6 => Just(0_i64),
        8 => 1_i64..100,
        6 => 100_i64..2000,
        4 => 2000_i64..20_000,
        1 => 20_000_i64..200_000,
        1 => Just(3_600_001_i64),
        2 => -200_i64..0,
        1 => -100_000_i64..-200,
        1 => prop_oneof![Just(-3_600_000_i64), Just(-10_000_000)],
    ];
    prop_oneof![
        5 => after.prop_map(When::After),
        1 => prop_oneof![Just(-1_i64), Just(0), 0_i64..300].prop_map(When::Due),
    ]
}

fn remembered() -> impl Strategy<Value = Option<Remembered>> {
    let left = prop_oneof![Just(-1_i64), Just(0), 1_i64..20_000];
    let age = prop_oneof![
        4 => prop_oneof![0_u64..10_000, Just(10_000_000)].prop_map(Age::Ms),
        1 => (-1_i64..2).prop_map(Age::Beyond),
    ];
    let state = prop::sample::select(State::ALL.to_vec());
    let why = prop::sample::select(vec![
        Reason::FailureRate,
        Reason::Recovered,
        Reason::Override,
    ]);
    let one = (-2_i64..4, state, left, age, 0_u64..5, why, 0_u64..2).prop_map(
        |(newer_by, state, left_ms, age, opens, why, probes)| Remembered {
            newer_by,
            state,
            left_ms,
            age,
            opens,
            why,
            probes,
        },
    );
    prop::option::weighted(0.08, one)
}

fn counts() -> impl Strategy<Value = [u64; 8]> {
    let few = || prop_oneof![3 => Just(0_u64), 6 => 1_u64..6, 1 => 6_u64..60];
    let abandoned = (prop_oneof![3 => Just(0_u64), 2 => 1_u64..30], 0_u64..60);
    (
        few(),
        few(),
        0_u64..60,
        0_u64..60,
        0_u64..3,
        0_u64..3,
        abandoned,
    )
        .prop_map(
            |(successes, failures, slow_successes, slow_failures, ignored, rejected, abandoned)| {
                let (slow_successes, slow_failures) =
                    (slow_successes.min(successes), slow_failures.min(failures));
                [
                    successes,
                    failures,
                    slow_successes,
                    slow_failures,
                    ignored,
                    rejected,
                    abandoned.0,
                    abandoned.1.min(abandoned.0).min(failures),
                ]
            },
        )
}

fn latencies() -> impl Strategy<Value = Vec<(u64, u64)>> {
    // Few buckets, so that they collide; and any, to cover every place in a slice.
    let micros = prop_oneof![3 => 0_u64..40, 2 => (0_u32..27).prop_flat_map(|p| 0..2_u64 << p)];
    let n = prop_oneof![8 => 1_u64..20, 1 => Just(100_000_000_000)];
    prop_oneof![2 => Just(vec![]), 3 => vec((micros, n), 1..8)]
}

fn kinds() -> impl Strategy<Value = Vec<(u8, u64, bool)>> {
    // More kinds than are kept.
    let n = prop_oneof![8 => 1_u64..20, 1 => Just(100_000_000_000)];
    let kinds = vec((0_u8..24, n, any::<bool>()), 1..9);
    prop_oneof![2 => Just(vec![]), 2 => kinds]
}

fn filed() -> impl Strategy<Value = Filed> {
    let near = || prop_oneof![8 => Just(0_i64), 1 => Just(-1), 1 => Just(1)];
    let kind = prop_oneof![1 => Just(0_u8), 5 => Just(1), 2 => Just(2), 1 => Just(3), 2 => Just(4)];
    let wait = prop_oneof![5 => Just(0_u64), 1 => 1_u64..5000];
    let settled = vec((0_u8..3, near(), kind, wait), 0..4);
    (
        prop_oneof![12 => Just(1_i64), 1 => Just(0), 1 => Just(-1), 1 => Just(4)],
        near(),
        counts(),
        prop_oneof![4 => Just([0; 8]), 1 => counts()],
        [0_u64..7, 0_u64..7, 0_u64..7],
        prop_oneof![5 => Just(0_u64), 1 => 1_u64..20_000],
        prop_oneof![9 => Just(0_u64), 1 => Just(1)],
        settled,
        prop_oneof![6 => Just(0_u64), 2 => 1_u64..20_000, 1 => Just(u64::MAX >> 11)],
        (latencies(), kinds()),
    )
        .prop_map(
            |(
                seq,
                newer_by,
                counts,
                late,
                runs,
                retry_after_ms,
                trips,
                settled,
                alone_ms,
                (latencies, kinds),
            )| {
                let [first, longest, last] = runs.map(|run| run.min(counts[1]));
                Filed {
                    seq,
                    newer_by,
                    counts,
                    late,
                    runs: [first, longest.max(first).max(last), last],
                    retry_after_ms,
                    trips: trips.min(counts[1]),
                    settled,
                    alone_ms,
                    latencies,
                    kinds,
                }
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    let command = prop::sample::select(vec![
        Command::Reset,
        Command::ForceOpen,
        Command::Disable,
        Command::MetricsOnly,
    ]);
    let for_ms = prop_oneof![Just(0_u64), 1_u64..3000];
    let does = prop_oneof![
        14 => (0_u8..4).prop_map(Does::Acquire),
        24 => filed().prop_map(|filed| Does::Report(Box::new(filed))),
        3 => (0_u8..4).prop_map(Does::Release),
        2 => (command, for_ms).prop_map(|(command, for_ms)| Does::Control(command, for_ms)),
        2 => pairs().prop_map(Does::StorePolicy),
        3 => window().prop_map(Does::StorePolicy),
        2 => Just(Does::Snapshot),
        2 => pairs().prop_map(Does::DeployPolicy),
        3 => window().prop_map(Does::DeployPolicy),
        1 => Just(Does::LoseCircuit),
    ];
    (when(), 0..REPLICAS.len(), remembered(), does).prop_map(|(when, replica, memory, does)| Step {
        when,
        replica,
        memory,
        does,
    })
}

fn history() -> impl Strategy<Value = History> {
    // With the low start, a window would begin before time 0.
    let starts_at = prop_oneof![9 => Just(1_735_689_600_000_u64), 1 => Just(1)];
    (starts_at, pairs(), vec(step(), 1..60)).prop_map(|(starts_at, policy, steps)| History {
        starts_at,
        policy,
        steps,
    })
}

/// Both sides of one circuit, and their clock.
struct Pair<'a> {
    store: &'a RedisStore,
    runtime: &'a tokio::runtime::Runtime,
    redis: &'a mut redis::Connection,
    channel: redis::PubSub<'a>,
    prefix: &'a str,
    name: Name,
    model: Circuit,
    now: u64,
    /// Each replica's policy in code, because a deploy reaches one after the other.
    rules: [Rules; 3],
    seqs: [i64; 3],
}

/// A circuit's keys as text: key suffix -> field -> value.
type Held = BTreeMap<&'static str, BTreeMap<String, String>>;

fn differ<T: PartialEq + fmt::Debug>(
    what: &str,
    redis: &T,
    model: &T,
) -> Result<(), TestCaseError> {
    if redis == model {
        return Ok(());
    }
    Err(TestCaseError::fail(format!(
        "{what}\nredis: {redis:?}\nmodel: {model:?}"
    )))
}

impl Pair<'_> {
    /// The head of a replica whose last answer was at `told`.
    fn head(&self, step: &Step, told: u64) -> Head {
        let memory = step
            .memory
            .as_ref()
            .map_or_else(Memory::default, |m| Memory {
                generation: self.generation(m.newer_by),
                state: m.state,
                left_ms: m.left_ms,
                age_ms: match m.age {
                    Age::Ms(ms) => ms,
                    Age::Beyond(ms) => self.memorable_ms(step.replica).saturating_add_signed(ms),
                },
                opens: m.opens,
                author: "ada".into(),
                reason: "remembered".into(),
                why: m.why,
                probes: m.probes,
            });
        let policy = self.rules[step.replica];
        let replica = Head {
            policy,
            ..Head::default()
        };
        let mut seen = self.model.snapshot(&replica, told);
        seen.latency = None;
        seen.code_policy.clear();
        seen.failure_kinds.clear();
        // An answer to a reader may differ from the stored times, and replicas do not remember it.
        let held = self.model.held();
        let stored = |field: &str| {
            let stored = held.get("").and_then(|fields| fields.get(field));
            stored.map_or(0, |stored| stored.parse().unwrap())
        };
        seen.since_ms = stored("since_ms");
        seen.ramp_until_ms = stored("ramp_until_ms");
        seen.undecided = stored("undecided");
        let window = held.get("").and_then(|fields| fields.get("window"));
        let window = window.map_or("", String::as_str);
        [seen.calls, seen.failures, seen.slow] = counts_in(window, "calls");
        Head {
            now_ms: self.now,
            entropy: self.now % 1000,
            replica: REPLICAS[step.replica].into(),
            policy,
            is_operator: false,
            memory,
            // As after a recent answer, so that reports and permits take the fast path where
            // possible.
            seen,
        }
    }

    /// How long an open circuit is remembered under the policy in force.
    fn memorable_ms(&self, replica: usize) -> u64 {
        let stored = self.model.snapshot(&Head::default(), self.now).policy;
        let value = |key: &str, in_code: u64| {
            let mut pairs = stored.split(' ').filter_map(|pair| pair.split_once('='));
            let found = pairs.rfind(|(k, _)| *k == key);
            found.map_or(in_code, |(_, value)| value.parse().unwrap())
        };
        let r = &self.rules[replica];
        let longest = value(
            "wait_duration_in_open_state_ms",
            r.wait_duration_in_open_state_ms,
        )
        .max(value(
            "max_wait_duration_in_open_state_ms",
            r.max_wait_duration_in_open_state_ms,
        ));
        longest
            + longest * value("jitter", r.jitter) / 100
            + value("probe_lease_ms", r.probe_lease_ms)
    }

    /// The expected version of the stored policy: any, the present one, or another.
    fn expects(&self) -> u64 {
        let version = self
            .model
            .snapshot(&Head::default(), self.now)
            .policy_version;
        [0, version + 1, version + 2][(self.now % 3) as usize]
    }

    /// The expected override: any, none, the present generation, or another.
    fn expects_override(&self) -> u64 {
        let seen = self.model.snapshot(&Head::default(), self.now);
        [0, 1, seen.generation + 1, seen.generation + 2][(self.now % 4) as usize]
    }

    fn generation(&self, newer_by: i64) -> u64 {
        let head = Head::default();
        let generation = self.model.snapshot(&head, self.now).generation;
        generation.saturating_add_signed(newer_by)
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let until = self.model.snapshot(&Head::default(), self.now).until_ms;
        let (from, after) = match step.when {
            When::Due(after) if until > 0 => (until, after),
            When::After(after) | When::Due(after) => (self.now, after),
        };
        let told = self.now;
        self.now = from.saturating_add_signed(after).max(1);
        let mut head = self.head(step, told);
        head.is_operator = now_and_then(self.now) && step.does.is_an_operators();
        let (name, now) = (self.name.clone(), self.now);
        match &step.does {
            Does::Acquire(token) => {
                let request = Acquire {
                    head,
                    token: format!("t{token}"),
                };
                let redis = self.runtime.block_on(self.store.acquire(&name, &request));
                differ(
                    "grant",
                    &answered(redis)?,
                    &self.model.acquire(&request, now),
                )?;
            }
            Does::Report(filed) => {
                let report = self.report(step.replica, head, filed);
                let batch = [(name, report)];
                let redis = self.runtime.block_on(self.store.report(&batch));
                let redis = answered(answered(redis)?.remove(0))?;
                differ("reply", &redis, &self.model.report(&batch[0].1, now))?;
            }
            Does::Release(token) => {
                let request = Release {
                    head,
                    token: format!("t{token}"),
                };
                let redis = self.runtime.block_on(self.store.release(&name, &request));
                differ(
                    "reply",
                    &answered(redis)?,
                    &self.model.release(&request, now),
                )?;
            }
            Does::Control(command, for_ms) => {
                let request = Control {
                    head,
                    command: *command,
                    for_ms: *for_ms,
                    author: "eve".into(),
                    reason: "drill".into(),
                    policy: String::new(),
                    expects: self.expects_override(),
                };
                self.control(&request)?;
            }
            Does::StorePolicy(pairs) => {
                let request = Control {
                    head,
                    command: Command::Policy,
                    policy: pairs.stored(),
                    expects: self.expects(),
                    ..Control::default()
                };
                self.control(&request)?;
            }
            Does::Snapshot => {
                let redis = self.runtime.block_on(self.store.snapshot(&name, &head));
                differ(
                    "snapshot",
                    &answered(redis)?,
                    &self.model.snapshot(&head, now),
                )?;
            }
            Does::DeployPolicy(pairs) => self.rules[step.replica] = pairs.rules(),
            Does::LoseCircuit => {
                redis::cmd("DEL").arg(self.keys()).exec(self.redis).unwrap();
                self.model = Circuit::default();
            }
        }
        self.compare()
    }

    fn report(&mut self, replica: usize, head: Head, filed: &Filed) -> Report {
        let counts = |[s, f, ss, sf, i, n, a, af]: [u64; 8]| Counts {
            successes: s,
            failures: f,
            slow_successes: ss,
            slow_failures: sf,
            ignored: i,
            rejected: n,
            abandoned: a,
            abandoned_failures: af,
        };
        let seq = (self.seqs[replica] + filed.seq).max(1);
        self.seqs[replica] = self.seqs[replica].max(seq);
        let kinds = [
            Kind::Ignored,
            Kind::Success,
            Kind::Failure,
            Kind::Trip,
            Kind::Abandoned,
        ];
        let held = self.model.held();
        let out: Vec<_> = held.get(":probes").into_iter().flatten().collect();
        let settled = filed
            .settled
            .iter()
            .map(|(probe, newer_by, kind, wait)| Settled {
                token: match out.get(usize::from(*probe)) {
                    Some((token, _)) => (*token).clone(),
                    None => format!("t{probe}"),
                },
                generation: self.generation(*newer_by),
                kind: kinds[usize::from(*kind)],
                retry_after_ms: *wait,
            });
        let mut latencies = Latencies::default();
        for (micros, n) in &filed.latencies {
            latencies.record(Duration::from_micros(*micros), *n);
        }
        Report {
            seq: seq.unsigned_abs(),
            generation: self.generation(filed.newer_by),
            counts: counts(filed.counts),
            late: counts(filed.late),
            runs: Runs {
                first: filed.runs[0],
                longest: filed.runs[1],
                last: filed.runs[2],
            },
            retry_after_ms: filed.retry_after_ms,
            trips: filed.trips,
            settled: settled.collect(),
            alone_ms: filed.alone_ms,
            latencies,
            kinds: kinds_of(&filed.kinds),
            head,
        }
    }

    fn control(&mut self, request: &Control) -> Result<(), TestCaseError> {
        let redis = self
            .runtime
            .block_on(self.store.control(&self.name, request));
        differ(
            "reply",
            &answered(redis)?,
            &self.model.control(request, self.now),
        )
    }

    fn keys(&self) -> Vec<String> {
        keys(self.prefix, self.name.as_str())
    }

    fn compare(&mut self) -> Result<(), TestCaseError> {
        differ("what is stored", &self.held(), &self.model.held())?;
        let mut expiries = redis::pipe();
        for key in self.keys() {
            expiries.pttl(key);
        }
        let expiries: Vec<i64> = expiries.query(self.redis).unwrap();
        differ("a key that never expires", &expiries.contains(&-1), &false)?;
        let events = self.runtime.block_on(self.store.events(&self.name, 0));
        differ("events", &answered(events)?, &self.model.events_after(0))?;
        for published in self.model.take_published() {
            let message = self.channel.get_message().expect("a publication");
            let (version, heard): (u8, Snapshot) =
                rmp_serde::from_slice(message.get_payload_bytes()).unwrap();
            differ("publication", &(version, heard), &(2, published))?;
        }
        Ok(())
    }

    fn held(&mut self) -> Held {
        let keys = self.keys();
        let kind: String = redis::cmd("TYPE").arg(&keys[1]).query(self.redis).unwrap();
        let read = if kind == "string" { "GET" } else { "HGETALL" };
        let (
            mut circuit,
            window,
            probes,
            replicas,
            seq,
            failing,
            alone,
            latency,
            history,
            code,
            kinds,
        ) = redis::pipe()
            .hgetall(&keys[0])
            .cmd(read)
            .arg(&keys[1])
            .zrange_withscores(&keys[2], 0, -1)
            .zrange_withscores(&keys[3], 0, -1)
            .hgetall(&keys[4])
            .zrange_withscores(&keys[6], 0, -1)
            .zrange_withscores(&keys[7], 0, -1)
            .hgetall(&keys[8])
            .hgetall(&keys[9])
            .hgetall(&keys[10])
            .hgetall(&keys[11])
            .query::<(
                BTreeMap<String, String>,
                redis::Value,
                BTreeMap<String, String>,
                BTreeMap<String, String>,
                BTreeMap<String, String>,
                BTreeMap<String, String>,
                BTreeMap<String, String>,
                BTreeMap<String, String>,
                BTreeMap<String, String>,
                BTreeMap<String, String>,
                BTreeMap<String, String>,
            )>(self.redis)
            .unwrap();
        let window = if read == "GET" {
            let ring: String = redis::from_redis_value(window).unwrap();
            BTreeMap::from([("ring".to_owned(), ring)])
        } else {
            redis::from_redis_value(window).unwrap()
        };
        circuit.remove("expires_ms");
        // A field that returned to its default remains in the hash.
        circuit.retain(|field, value| {
            let default = match field.as_str() {
                "state" | "generation" => return true,
                "reason" => "created",
                _ => "0",
            };
            !value.is_empty() && value != default
        });
        let mut held = Held::from([
            ("", circuit),
            (":window", window),
            (":probes", probes),
            (":replicas", replicas),
            (":seq", seq),
            (":failing", failing),
            (":alone", alone),
            (":latency", latency),
            (":history", history),
            (":code", code),
            (":kinds", kinds),
        ]);
        held.retain(|_, fields| !fields.is_empty());
        held
    }
}

/// Each kind once, as a process records them.
fn kinds_of(numbers: &[(u8, u64, bool)]) -> Vec<KindNote> {
    let mut notes: BTreeMap<u8, KindNote> = BTreeMap::new();
    for (kind, count, detailed) in numbers {
        let note = notes.entry(*kind).or_insert_with(|| KindNote {
            kind: format!("kind-{kind}"),
            ..KindNote::default()
        });
        note.count += count;
        if *detailed {
            note.detail = format!("detail {count} of ü");
        }
    }
    notes.into_values().collect()
}

fn answered<T, E: fmt::Display>(answer: Result<T, E>) -> Result<T, TestCaseError> {
    answer.map_err(|e| TestCaseError::fail(e.to_string()))
}

#[test]
fn the_scripts_do_what_the_model_does() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let prefix = unique_prefix("differential");
    let store = RedisStore::builder()
        .prefix(&prefix)
        .timeout(Duration::from_secs(10))
        .open(redis_url())
        .unwrap();
    let client = redis::Client::open(admin_url()).unwrap();
    let steps = AtomicU64::new(0);
    let several = AtomicU64::new(0);
    let transitions = Mutex::new(BTreeMap::<&str, u64>::new());

    let config = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => Config::default(),
        None => Config::with_cases(CASES),
    };
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        max_shrink_time: 30_000,
        ..config
    });
    let outcome = runner.run(&history(), |history| {
        let mut redis = client.get_connection().unwrap();
        let mut listener = client.get_connection().unwrap();
        listener
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let name = Name::new(&unique("c")).unwrap();
        let mut channel = listener.as_pubsub();
        channel.subscribe(format!("{prefix}:{{{name}}}")).unwrap();
        let mut pair = Pair {
            store: &store,
            runtime: &runtime,
            redis: &mut redis,
            channel,
            prefix: &prefix,
            name,
            model: Circuit::default(),
            now: history.starts_at,
            rules: [history.policy.rules(); 3],
            seqs: [0; 3],
        };
        let taken = history.steps.iter().try_for_each(|step| {
            steps.fetch_add(1, Ordering::Relaxed);
            let held = pair.model.held();
            let windows = held.get("").and_then(|circuit| circuit.get("window_shape"));
            let mixed = windows.is_some_and(|window| window.contains(" + "));
            several.fetch_add(u64::from(mixed), Ordering::Relaxed);
            pair.take(step)
        });
        for event in pair.model.events_after(0) {
            *transitions.lock().entry(event.reason.as_str()).or_default() += 1;
        }
        redis::cmd("DEL").arg(pair.keys()).exec(pair.redis).unwrap();
        taken
    });
    // Written to stderr directly, because the test harness captures `eprintln!`.
    let _ = writeln!(
        io::stderr(),
        "differential: {} steps, {} of them with several windows, transitions {:?}",
        steps.into_inner(),
        several.load(Ordering::Relaxed),
        transitions.into_inner()
    );
    if let Err(difference) = outcome {
        panic!("{difference}");
    }
    assert!(several.into_inner() > 0, "no step had several windows");
}
