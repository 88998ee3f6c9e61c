//! Properties of the model that always hold.
//!
//! Each test runs random histories on one [`Circuit`], and compares it with a recount that shares
//! no code with it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use commontrip::model::{
    Acquire, Circuit, Command, Control, Counts, Head, Kind, Permission, Policy, Release, Report,
    Rules, Settled, Snapshot, State,
};
use proptest::prelude::*;

const BASE: u64 = 1_735_689_600_000;

/// One event of a history.
#[derive(Clone, Debug)]
enum Act {
    /// Time passes, ms.
    Wait(u64),
    Acquire,
    /// The n-th given permit settles: within or after its lease, once or again.
    Settle(usize, Kind),
    Release(usize),
    Report {
        replica: u8,
        /// How many generations the report is behind.
        behind: u64,
        counts: Counts,
        trips: u64,
    },
    Control(Command, u64),
}

fn counts() -> impl Strategy<Value = Counts> {
    let few = || prop_oneof![3 => Just(0u64), 2 => 1..4u64, 1 => 4..40u64];
    let share = || 0..=4u64;
    let calls = (few(), few(), share(), share());
    let others = (few(), few(), few(), share());
    (calls, others).prop_map(
        |((s, f, ss, sf), (ignored, rejected, abandoned, af))| Counts {
            successes: s,
            failures: f,
            slow_successes: s * ss / 4,
            slow_failures: f * sf / 4,
            ignored,
            rejected,
            abandoned,
            abandoned_failures: (abandoned * af / 4).min(f),
        },
    )
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        1 => Just(Kind::Ignored),
        3 => Just(Kind::Success),
        2 => Just(Kind::Failure),
        1 => Just(Kind::Trip),
        1 => Just(Kind::Abandoned),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        Just(Command::Reset),
        Just(Command::ForceOpen),
        Just(Command::Disable),
        Just(Command::MetricsOnly),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let wait = prop_oneof![0..50u64, 50..400u64, 400..3000u64];
    let trips = prop_oneof![9 => Just(0u64), 1 => Just(1u64)];
    let behind = prop_oneof![4 => Just(0u64), 1 => 1..3u64];
    prop_oneof![
        4 => wait.prop_map(Act::Wait),
        5 => Just(Act::Acquire),
        4 => (0..8usize, kind()).prop_map(|(n, kind)| Act::Settle(n, kind)),
        1 => (0..8usize).prop_map(Act::Release),
        4 => (0..3u8, behind, counts(), trips)
            .prop_map(|(replica, behind, counts, trips)| Act::Report { replica, behind, counts, trips }),
        1 => (command(), prop_oneof![Just(0u64), 1..1000u64]).prop_map(|(c, for_ms)| Act::Control(c, for_ms)),
    ]
}

fn history() -> impl Strategy<Value = Vec<Act>> {
    prop::collection::vec(act(), 1..120)
}

fn rules() -> impl Strategy<Value = Rules> {
    let window = prop_oneof![Just(0u64), 1..20u64];
    let length = prop_oneof![
        Just((1000u64, 10u64)),
        Just((300, 3)),
        Just((7, 7)),
        Just((999, 4))
    ];
    (
        window,
        length,
        0..3u64,
        1..4u64,
        1..4u64,
        1..3u64,
        0..=50u64,
    )
        .prop_map(
            |(calls, (ms, buckets), condition, permitted, successes, failures, jitter)| {
                let mut rules = Rules::default();
                rules.window_calls = calls;
                (rules.window_ms, rules.window_buckets) = (ms, buckets);
                rules.minimum_number_of_calls = 10;
                match condition {
                    0 => rules.failure_count_threshold = 6,
                    1 => rules.consecutive_failures_threshold = 4,
                    _ => rules.slow_call_duration_threshold_ms = 9,
                }
                rules.wait_duration_in_open_state_ms = 300;
                rules.backoff_multiplier_percent = 150;
                rules.max_wait_duration_in_open_state_ms = 1000;
                rules.backoff_reset_after_ms = 700;
                rules.jitter = jitter;
                rules.permitted_number_of_calls_in_half_open_state = permitted;
                rules.success_threshold = successes;
                rules.half_open_failure_threshold = failures;
                rules.max_wait_duration_in_half_open_state_ms = 800;
                rules.probe_lease_ms = 250;
                rules.ramp_duration_ms = 100;
                rules
            },
        )
}

/// A circuit under a history, and an observer's notes of it.
struct World {
    circuit: Circuit,
    rules: Rules,
    now: u64,
    seqs: HashMap<u8, u64>,
    /// Permits in the order of their issue: token, generation.
    permits: Vec<(String, u64)>,
    /// Permits in flight: token -> end of the lease.
    out: HashMap<String, u64>,
    last_report: Option<Report>,
}

/// The effect of one act.
struct Step {
    before: Snapshot,
    after: Snapshot,
    /// The number of published transitions.
    published: usize,
    report: Option<Report>,
}

impl World {
    fn new(rules: Rules) -> Self {
        Self {
            circuit: Circuit::default(),
            rules,
            now: BASE,
            seqs: HashMap::new(),
            permits: Vec::new(),
            out: HashMap::new(),
            last_report: None,
        }
    }

    fn head(&self, replica: u8) -> Head {
        Head {
            now_ms: 0,
            entropy: self.now % 1000,
            replica: format!("r{replica}"),
            policy: self.rules,
            ..Head::default()
        }
    }

    fn look(&self) -> Snapshot {
        self.circuit.snapshot(&self.head(0), self.now)
    }

    fn empty_report(&mut self, replica: u8) -> Report {
        let head = self.head(replica);
        let seq = self.seqs.entry(replica).or_default();
        *seq += 1;
        Report {
            head,
            seq: *seq,
            generation: self.look().generation,
            ..Report::default()
        }
    }

    /// The permit of an act: a recent one.
    fn permit(&self, n: usize) -> Option<(String, u64)> {
        self.permits.iter().rev().nth(n).cloned()
    }

    fn file(&mut self, report: Report) -> Snapshot {
        let after = self.circuit.report(&report, self.now);
        for settled in &report.settled {
            self.out.remove(&settled.token);
        }
        self.last_report = Some(report);
        after
    }

    fn acquire(&mut self) -> (Permission, Snapshot) {
        let token = format!("t{}", self.permits.len());
        let request = Acquire {
            head: self.head(0),
            token: token.clone(),
        };
        let grant = self.circuit.acquire(&request, self.now);
        if grant.permission == Permission::Probe {
            let lease = self.now + self.rules.probe_lease_ms;
            self.out.insert(token.clone(), lease);
            self.permits.push((token, grant.snapshot.generation));
        }
        (grant.permission, grant.snapshot)
    }

    fn settle(&mut self, (token, generation): (String, u64), kind: Kind) -> Snapshot {
        let mut report = self.empty_report(0);
        report.settled.push(Settled {
            token,
            generation,
            kind,
            retry_after_ms: 0,
        });
        self.file(report)
    }

    fn act(&mut self, act: &Act) -> Step {
        let before = self.look();
        self.circuit.take_published();
        let mut report = None;
        let after = match act {
            Act::Wait(ms) => {
                self.now += ms;
                self.look()
            }
            Act::Acquire => self.acquire().1,
            Act::Settle(n, kind) => match self.permit(*n) {
                Some(permit) => self.settle(permit, *kind),
                None => before.clone(),
            },
            Act::Release(n) => match self.permit(*n) {
                Some((token, _)) => {
                    self.out.remove(&token);
                    let head = self.head(0);
                    self.circuit.release(&Release { head, token }, self.now)
                }
                None => before.clone(),
            },
            Act::Report {
                replica,
                behind,
                counts,
                trips,
            } => {
                let mut filed = self.empty_report(*replica);
                filed.generation = filed.generation.saturating_sub(*behind);
                (filed.counts, filed.trips) = (*counts, *trips);
                report = Some(filed.clone());
                self.file(filed)
            }
            Act::Control(command, for_ms) => {
                let head = self.head(0);
                let request = Control {
                    head,
                    command: *command,
                    for_ms: *for_ms,
                    author: "ann".into(),
                    ..Control::default()
                };
                self.circuit.control(&request, self.now)
            }
        };
        Step {
            before,
            after,
            published: self.circuit.take_published().len(),
            report,
        }
    }

    fn live(&self) -> usize {
        self.out.values().filter(|end| **end > self.now).count()
    }
}

/// A snapshot without the fields that change although nothing happened.
fn still(snapshot: &Snapshot) -> Snapshot {
    let mut still = snapshot.clone();
    (still.now_ms, still.pace_ms, still.open_total_ms) = (0, 0, 0);
    still
}

/// A snapshot also without lifetime totals.
fn without_totals(snapshot: &Snapshot) -> Snapshot {
    let mut rest = still(snapshot);
    (rest.successes_total, rest.failures_total, rest.slow_total) = (0, 0, 0);
    (rest.ignored_total, rest.rejected_total) = (0, 0);
    rest.abandoned_total = 0;
    (rest.last_success_ms, rest.last_failure_ms) = (0, 0);
    // Also without the replicas present, and those with an open local circuit.
    (rest.replicas, rest.alone) = (0, 0);
    rest
}

fn totals(snapshot: &Snapshot) -> [u64; 6] {
    [
        snapshot.successes_total,
        snapshot.failures_total,
        snapshot.slow_total,
        snapshot.ignored_total,
        snapshot.rejected_total,
        snapshot.abandoned_total,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn never_more_probes_out_than_permitted(rules in rules(), history in history()) {
        let permitted = rules.permitted_number_of_calls_in_half_open_state as usize;
        let mut world = World::new(rules);
        for act in &history {
            let step = world.act(act);
            prop_assert!(world.live() <= permitted, "{} live after {act:?}", world.live());
            if matches!(step.after.state, State::Open | State::HalfOpen) {
                prop_assert_eq!(step.after.probes as usize, world.live(), "{:?}", act);
            }
        }
    }

    #[test]
    fn each_transition_is_one_generation_one_event_and_one_publication(rules in rules(), history in history()) {
        let mut world = World::new(rules);
        for act in &history {
            let step = world.act(act);
            let (from, to) = (step.before.generation, step.after.generation);
            prop_assert!(from <= to);
            let events = world.circuit.events_after(from);
            let begun: Vec<_> = events.iter().map(|e| e.generation).collect();
            prop_assert_eq!(begun, (from + 1..=to).collect::<Vec<_>>());
            prop_assert_eq!(step.published as u64, to - from);
            if from == to {
                prop_assert_eq!(step.before.state, step.after.state);
            }
            let mut state = step.before.state;
            for event in &events {
                prop_assert_eq!(event.from, state);
                prop_assert_eq!(event.at_ms, world.now);
                state = event.to;
            }
            prop_assert_eq!(state, step.after.state);
        }
    }

    #[test]
    fn another_generations_report_moves_only_totals(
        rules in rules(), history in history(), counts in counts(), behind in 1..5u64, trips in 0..2u64,
    ) {
        let mut world = World::new(rules);
        for act in &history {
            world.act(act);
        }
        // Applies due transitions and slides the window, so that only the late report can change
        // anything.
        let empty = world.empty_report(0);
        let before = world.file(empty);
        for generation in [before.generation.checked_sub(behind), Some(before.generation + behind)] {
            let Some(generation) = generation else { continue };
            let mut late = world.empty_report(1);
            (late.generation, late.counts, late.trips) = (generation, counts, trips);
            (late.late, late.retry_after_ms) = (counts, 10_000);
            let after = world.file(late);
            prop_assert_eq!(without_totals(&before), without_totals(&after));
        }
    }

    #[test]
    fn a_replayed_report_changes_nothing(rules in rules(), history in history()) {
        let mut world = World::new(rules);
        for act in &history {
            world.act(act);
            let Some(report) = world.last_report.clone() else { continue };
            // Ends an expired override and slides the window: both are due anyway.
            let empty = world.empty_report(9);
            let before = world.circuit.report(&empty, world.now);
            let after = world.circuit.report(&report, world.now);
            prop_assert_eq!(still(&before), still(&after));
        }
    }

    #[test]
    fn totals_are_the_sum_of_what_was_reported(rules in rules(), history in history()) {
        let mut world = World::new(rules);
        let mut sum = [0; 6];
        for act in &history {
            let step = world.act(act);
            if let Some(Report { counts: c, .. }) = step.report {
                let new = [c.successes, c.failures, c.slow_successes + c.slow_failures, c.ignored, c.rejected, c.abandoned];
                for (sum, new) in sum.iter_mut().zip(new) {
                    *sum += new;
                }
            }
            prop_assert_eq!(totals(&step.after), sum);
        }
    }

    #[test]
    fn closed_can_be_reached_again_from_anywhere(rules in rules(), history in history()) {
        let mut world = World::new(rules);
        for act in &history {
            world.act(act);
        }
        if world.look().until_ms == 0 && world.look().state.is_override() {
            // Only an operator may end it.
            world.act(&Act::Control(Command::Reset, 0));
        }
        let mut tries = 0;
        while world.look().state != State::Closed {
            tries += 1;
            prop_assert!(tries < 50, "stuck in {:?}", world.look());
            let seen = world.look();
            match world.acquire() {
                (Permission::Probe, _) => {
                    let permit = world.permit(0).unwrap();
                    world.settle(permit, Kind::Success);
                }
                (Permission::Rejected, after) if after.state == State::HalfOpen => {
                    world.now += world.rules.probe_lease_ms;
                }
                _ => world.now = world.now.max(seen.until_ms),
            }
        }
    }

    #[test]
    fn a_time_window_is_a_recount_of_its_buckets(
        (length, buckets) in prop_oneof![Just((1000u64, 10u64)), Just((300, 3)), Just((7, 7)), Just((999, 4)), Just((50, 1))],
        batches in prop::collection::vec((prop_oneof![6 => 0..200u64, 1 => 200..3000u64], counts()), 1..80),
    ) {
        let mut rules = Rules::default();
        rules.failure_rate_threshold = 0;
        rules.consecutive_failures_threshold = 0;
        (rules.window_ms, rules.window_buckets) = (length, buckets);
        let mut world = World::new(rules);
        let mut noted: Vec<(u64, Counts)> = Vec::new();
        let width = length / buckets;
        for (wait, counts) in batches {
            world.now += wait;
            let recount = |noted: &[(u64, Counts)], now: u64| {
                // The bucket of `now` and the ones before it: `buckets` in total.
                let oldest = (now / width + 1 - buckets) * width;
                let within = noted.iter().filter(|(at, _)| *at >= oldest);
                within.fold([0; 4], |[c, f, s, u], (_, b)| {
                    [c + b.calls(), f + b.failures, s + b.slow(), u + b.abandoned - b.abandoned_failures]
                })
            };
            let seen = world.look();
            prop_assert_eq!([seen.calls, seen.failures, seen.slow, seen.undecided], recount(&noted, world.now));
            noted.push((world.now, counts));
            let mut report = world.empty_report(0);
            report.counts = counts;
            let seen = world.file(report);
            prop_assert_eq!([seen.calls, seen.failures, seen.slow, seen.undecided], recount(&noted, world.now));
        }
    }

    #[test]
    fn a_count_window_holds_exactly_the_last_outcomes(
        length in 1..30u64,
        outcomes in prop::collection::vec((any::<bool>(), any::<bool>()), 1..120),
    ) {
        let mut rules = Rules::default();
        (rules.failure_rate_threshold, rules.window_calls) = (0, length);
        rules.consecutive_failures_threshold = 0;
        let mut world = World::new(rules);
        let mut ring = VecDeque::new();
        for (failed, slow) in outcomes {
            let mut report = world.empty_report(0);
            let slow_one = u64::from(slow);
            report.counts = if failed {
                Counts { failures: 1, slow_failures: slow_one, ..Counts::default() }
            } else {
                Counts { successes: 1, slow_successes: slow_one, ..Counts::default() }
            };
            let seen = world.file(report);
            ring.push_back((failed, slow));
            if ring.len() as u64 > length {
                ring.pop_front();
            }
            let failures = ring.iter().filter(|(failed, _)| *failed).count() as u64;
            let slows = ring.iter().filter(|(_, slow)| *slow).count() as u64;
            prop_assert_eq!([seen.calls, seen.failures, seen.slow], [ring.len() as u64, failures, slows]);
        }
    }

    #[test]
    fn a_batch_in_a_count_window_keeps_its_share(length in 1..200u64, before in counts(), batch in counts()) {
        let mut rules = Rules::default();
        (rules.failure_rate_threshold, rules.window_calls) = (0, length);
        rules.consecutive_failures_threshold = 0;
        let mut world = World::new(rules);
        for counts in [before, batch] {
            let mut report = world.empty_report(0);
            report.counts = counts;
            world.file(report);
        }
        let seen = world.look();
        let calls = batch.successes + batch.failures;
        prop_assert_eq!(seen.calls, length.min(calls + before.successes + before.failures));
        if calls + before.successes + before.failures <= length {
            prop_assert_eq!(seen.failures, batch.failures + before.failures);
            prop_assert_eq!(seen.slow, batch.slow() + before.slow());
        } else if calls >= length {
            // Only the tail of the batch is in the ring; its share of failures is exact to one
            // call.
            let share = length as f64 * batch.failures as f64 / calls as f64;
            prop_assert!((seen.failures as f64 - share).abs() <= 1.0, "{} of {share}", seen.failures);
        }
    }

    #[test]
    fn a_policy_comes_back_from_a_file(
        rate in 1..=100u64, calls in 1..=10_000u64, wait in 1..=86_400_000u64, factor in 100..=10_000u64,
        jitter in 0..=100u64, permitted in 1..=1000u64,
    ) {
        let policy = Policy::builder()
            .failure_rate_threshold(rate)
            .sliding_window_count(calls)
            .wait_duration_in_open_state(Duration::from_millis(wait))
            .backoff(factor as f64 / 100.0, Duration::from_millis(wait))
            .jitter(jitter)
            .permitted_number_of_calls_in_half_open_state(permitted)
            .build()
            .unwrap();
        prop_assert_eq!(policy.rules().backoff_multiplier_percent, factor);
        let file = serde_json::to_string(&policy).unwrap();
        prop_assert_eq!(serde_json::from_str::<Policy>(&file).unwrap(), policy);
    }
}
