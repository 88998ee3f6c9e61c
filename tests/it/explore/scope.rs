//! The scope of an exploration, and its rules: bounds, policy, and deliberate faults.

use commontrip::model::Rules;

/// One step of time, ms.
pub const TICK: u64 = 1000;

/// The bounds of one exploration.
///
/// Time, calls and transitions are unbounded: states that differ only in their age are one state.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    pub name: &'static str,
    pub replicas: usize,
    /// Probes that the fleet may have in flight at once.
    pub permitted: u64,
    pub success_threshold: u64,
    /// In ticks.
    pub wait: u64,
    pub lease: u64,
    pub half_open: u64,
    /// Probes that one replica may have running at once.
    pub calls: usize,
    /// Outcomes that one replica may have unsent, in addition to those in the report in flight.
    pub unsent: usize,
    /// How many messages may be late, repeated or lost.
    pub messages: u8,
    /// How many replicas may die.
    pub crashes: u8,
    /// How often the store may be emptied, and the newest generation at which it may be.
    pub empties: u8,
    pub emptied_up_to: u64,
    /// How many commands an operator may send.
    pub commands: u8,
    pub broken: Option<Broken>,
}

impl Scope {
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            replicas: 3,
            permitted: 1,
            success_threshold: 1,
            wait: 2,
            lease: 2,
            half_open: 2,
            calls: 1,
            unsent: 1,
            messages: 0,
            crashes: 0,
            empties: 0,
            emptied_up_to: 3,
            commands: 0,
            broken: None,
        }
    }

    pub fn rules(&self) -> Rules {
        let mut rules = Rules::default();
        rules.failure_rate_threshold = 0;
        rules.consecutive_failures_threshold = 0;
        rules.failure_count_threshold = 1;
        rules.wait_duration_in_open_state_ms = self.wait * TICK;
        rules.max_wait_duration_in_open_state_ms = self.wait * TICK;
        rules.probe_lease_ms = self.lease * TICK;
        rules.max_wait_duration_in_half_open_state_ms = self.half_open * TICK;
        rules.permitted_number_of_calls_in_half_open_state = self.permitted;
        rules.success_threshold = self.success_threshold;
        rules
    }

    /// The maximum age of a recent memory, ms.
    pub const fn recent_ms(&self) -> u64 {
        (self.wait + self.lease) * TICK
    }

    pub fn is_broken(&self, how: Broken) -> bool {
        self.broken == Some(how)
    }
}

/// A rule that is broken deliberately, from outside the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The store forgets outstanding probes at each transition.
    ForgetsProbes,
    /// An adopted open state ends at once.
    SkipsTheWait,
    /// Replicas' memories are treated as old.
    HoldsMemoriesOld,
    /// Replicas' memories are ignored.
    IgnoresMemories,
    /// Every report number counts as new.
    ForgetsNumbers,
    /// Every report and every probe's outcome is treated as one of the present generation.
    TakesAnyGeneration,
    /// Every probe's outcome is treated as that of a probe in flight.
    TakesAnyToken,
    /// A probe that never ends keeps its permit forever.
    NeverReaps,
    /// A transition is published twice.
    PublishesTwice,
    /// A replica adopts older generations.
    TakesOlderNews,
    /// A replica whose store has returned adopts the first state it receives.
    TakesAnyNewsWhenBack,
    /// A replica gives a resent report a new number.
    RenumbersReports,
    /// A replica forgets an unanswered report.
    ForgetsReports,
}

/// What must hold in every state or on every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    ProbeLimit,
    OtherGenerationsMoveNothing,
    GenerationNeverGoesBack,
    ExactlyOnce,
    ClosesAgain,
    StaysOpen,
    OneEventATransition,
}

#[derive(Debug)]
pub struct Violation {
    pub rule: Rule,
    pub what: String,
}

pub fn check(holds: bool, rule: Rule, what: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds {
        Ok(())
    } else {
        let what = what();
        Err(Violation { rule, what })
    }
}
