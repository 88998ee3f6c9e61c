//! The quorum as a property: the model against a recount that shares no code with it.
//!
//! `transitions/quorum.txt` has the individual cases.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use commontrip::model::{
    Acquire, Circuit, Command, Control, Counts, Head, Kind, Permission, Reason, Report, Rules,
    Settled, Snapshot, State,
};
use proptest::prelude::*;

const BASE: u64 = 1_735_689_600_000;

#[derive(Clone, Debug)]
enum Act {
    Wait(u64),
    Report(u8, Counts, u64),
    /// A report under an older generation.
    Late(u8, u64),
    /// Waits until probes are permitted, and settles one.
    Probe(Kind),
    Control(Command),
    Quorum(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let few = || prop_oneof![2 => Just(0_u64), 2 => 1_u64..4];
    let counts = (few(), few(), 0_u64..3).prop_map(|(successes, failures, slow)| Counts {
        successes,
        failures,
        slow_successes: slow.min(successes),
        ..Counts::default()
    });
    let wait = prop_oneof![0_u64..500, 500_u64..6000, 6000_u64..40_000];
    let trips = prop_oneof![5 => Just(0_u64), 1 => Just(1)];
    let kind = prop::sample::select(vec![Kind::Success, Kind::Failure, Kind::Trip]);
    let command = prop::sample::select(vec![
        Command::Reset,
        Command::MetricsOnly,
        Command::ForceOpen,
    ]);
    prop_oneof![
        6 => wait.prop_map(Act::Wait),
        14 => (0_u8..5, counts, trips).prop_map(|(r, counts, trips)| Act::Report(r, counts, trips)),
        1 => (0_u8..5, few()).prop_map(|(r, failures)| Act::Late(r, failures)),
        3 => kind.prop_map(Act::Probe),
        1 => command.prop_map(Act::Control),
        1 => (1_u64..5).prop_map(Act::Quorum),
    ]
}

fn rules() -> impl Strategy<Value = Rules> {
    let window = prop_oneof![Just((0_u64, 8000_u64)), Just((0, 30_000)), Just((9, 8000))];
    (window, 0_u64..4, 1_u64..5).prop_map(|((calls, ms), condition, quorum)| {
        let mut rules = Rules::default();
        (rules.window_calls, rules.window_ms) = (calls, ms);
        rules.minimum_number_of_calls = 4;
        match condition {
            0 => rules.failure_count_threshold = 3,
            1 => rules.consecutive_failures_threshold = 3,
            2 => rules.slow_call_duration_threshold_ms = 9,
            _ => {}
        }
        rules.success_threshold = 1;
        rules.probe_lease_ms = 300;
        rules.wait_duration_in_open_state_ms = 300;
        rules.quorum = quorum;
        rules
    })
}

/// A circuit, and an observer's notes of the fleet.
struct Fleet {
    circuit: Circuit,
    rules: Rules,
    quorum: u64,
    now: u64,
    seqs: HashMap<u8, u64>,
    /// Which replica failed when, since the window began.
    failed: Vec<(u8, u64)>,
    /// Which replica reported when.
    reported: Vec<(u8, u64)>,
}

impl Fleet {
    fn new(rules: Rules) -> Self {
        Self {
            circuit: Circuit::default(),
            rules,
            quorum: rules.quorum,
            now: BASE,
            seqs: HashMap::new(),
            failed: Vec::new(),
            reported: Vec::new(),
        }
    }

    fn head(&self, replica: u8) -> Head {
        Head {
            now_ms: 0,
            entropy: 0,
            replica: format!("r{replica}"),
            policy: self.rules,
            ..Head::default()
        }
    }

    fn look(&self) -> Snapshot {
        self.circuit.snapshot(&self.head(0), self.now)
    }

    fn file(&mut self, replica: u8, fill: impl FnOnce(&mut Report)) -> Snapshot {
        let seq = self.seqs.entry(replica).or_default();
        *seq += 1;
        let mut report = Report {
            seq: *seq,
            head: self.head(replica),
            generation: self.look().generation,
            ..Report::default()
        };
        fill(&mut report);
        self.reported.push((replica, self.now));
        self.circuit.report(&report, self.now)
    }

    fn control(&mut self, command: Command, policy: String) -> Snapshot {
        let request = Control {
            head: self.head(0),
            command,
            policy,
            ..Control::default()
        };
        self.circuit.control(&request, self.now)
    }

    fn within(&self, noted: &[(u8, u64)], ms: u64) -> u64 {
        let recent = noted.iter().filter(|(_, at)| at + ms > self.now);
        recent.map(|(r, _)| r).collect::<BTreeSet<_>>().len() as u64
    }

    fn act(&mut self, act: &Act) -> Snapshot {
        let before = self.look();
        let records = matches!(before.state, State::Closed | State::MetricsOnly);
        let after = match act {
            Act::Wait(ms) => {
                self.now += ms;
                self.look()
            }
            Act::Report(replica, counts, trips) => {
                let slow = self.rules.slow_call_duration_threshold_ms > 0 && counts.slow() > 0;
                if records && self.quorum > 1 && (counts.failures > 0 || slow) {
                    self.failed.push((*replica, self.now));
                }
                self.file(*replica, |report| {
                    report.counts = *counts;
                    report.trips = (*trips).min(counts.failures);
                })
            }
            Act::Late(replica, failures) => self.file(*replica, |report| {
                report.generation += 1;
                report.counts.failures = *failures;
            }),
            Act::Probe(kind) => {
                self.now = self.now.max(before.until_ms);
                let token = format!("t{}", self.now);
                let request = Acquire {
                    head: self.head(0),
                    token: token.clone(),
                };
                let grant = self.circuit.acquire(&request, self.now);
                if grant.permission != Permission::Probe {
                    return grant.snapshot;
                }
                let (generation, kind) = (grant.snapshot.generation, *kind);
                self.file(0, |report| {
                    report.settled.push(Settled {
                        retry_after_ms: 0,
                        token,
                        generation,
                        kind,
                    });
                })
            }
            Act::Control(command) => self.control(*command, String::new()),
            Act::Quorum(quorum) => {
                self.quorum = *quorum;
                self.control(Command::Policy, format!("quorum={quorum}"))
            }
        };
        let begins = matches!(after.state, State::Closed | State::MetricsOnly);
        if begins && after.generation != before.generation {
            self.failed.clear();
        }
        after
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn the_fleet_never_opens_with_fewer_failing_replicas_than_the_quorum(
        rules in rules(), history in prop::collection::vec(act(), 1..150),
    ) {
        let mut fleet = Fleet::new(rules);
        for act in &history {
            let before = fleet.look();
            let after = fleet.act(act);
            let failing = fleet.within(&fleet.failed, rules.window_ms);
            if fleet.quorum > 1 && !matches!(act, Act::Quorum(_)) {
                prop_assert_eq!(after.failing, failing, "{:?}", act);
            }
            let trip = matches!(
                after.reason,
                Reason::FailureRate | Reason::FailureCount | Reason::ConsecutiveFailures
                    | Reason::SlowCallRate | Reason::Tripped
            );
            if before.state == State::Closed && after.state == State::Open && trip && fleet.quorum > 1 {
                let there = fleet.within(&fleet.reported, rules.window_ms.max(15_000));
                let needed = fleet.quorum.min(there);
                prop_assert!(failing >= needed, "{failing} of {needed} at {act:?}");
            }
        }
    }

    #[test]
    fn as_many_failing_replicas_as_the_quorum_open_the_fleet(
        quorum in 1_u64..6, more in 0_u64..3, order in Just([3_u8, 0, 4, 1, 5, 2, 6, 7]).prop_shuffle(),
    ) {
        let mut rules = Rules::default();
        (rules.failure_count_threshold, rules.quorum) = (1, quorum);
        let mut fleet = Fleet::new(rules);
        for replica in order {
            fleet.file(replica, |_| {});
        }
        for (nth, replica) in (1..).zip(order) {
            fleet.now += 1;
            let seen = fleet.file(replica, |report| report.counts.failures = 1 + more);
            let open = nth >= quorum;
            prop_assert_eq!(seen.state == State::Open, open, "{} of {}", nth, quorum);
            if open {
                break;
            }
        }
    }

    #[test]
    fn with_a_quorum_of_one_nothing_is_noted(
        mut rules in rules(), history in prop::collection::vec(act(), 1..80), alone in 1_u64..9000,
    ) {
        rules.quorum = 1;
        let mut fleet = Fleet::new(rules);
        for act in &history {
            if matches!(act, Act::Quorum(_)) {
                continue;
            }
            fleet.act(act);
            let seen = fleet.file(1, |report| report.alone_ms = alone);
            prop_assert_eq!((seen.failing, seen.alone), (0, 0));
        }
        let held: BTreeMap<_, _> = fleet.circuit.held();
        prop_assert!(!held.contains_key(":failing") && !held.contains_key(":alone"));
    }
}
