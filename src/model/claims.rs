//! Which replica sends an alert, and what became of it.
//!
//! Owns which replica may send an alert: one of the fleet, and another one when its claim has
//! expired. A claim carries a token, so a sender that was frozen cannot report for its successor.
//! Knows no states of circuits. Twin: `lua/alerts/claim.lua`.

use std::collections::HashMap;

use serde::{Serialize, Serializer};

/// One step in sending an alert: a question, or the result of a delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClaimStep {
    /// Asks what is known of the rule. Changes nothing.
    #[default]
    Look,
    /// Asks for the claim to send the trigger. The same token extends its claim.
    Trigger,
    /// Asks for the claim to send the resolve message of a delivered trigger. The same token
    /// extends its claim.
    Resolve,
    /// The trigger was delivered: no other trigger of the rule for `for_ms`.
    Triggered,
    /// The resolve message was delivered.
    Resolved,
    /// The sender gave up: no other trigger of the rule for `for_ms`.
    GaveUp,
}

impl Serialize for ClaimStep {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

/// A request to send an alert, or the result of sending it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Claim {
    /// Unix ms, for tests; 0 = the store's clock.
    pub now_ms: u64,
    /// The rule, 1 to 200 bytes.
    pub rule: String,
    /// The occasion of the alert, such as the generation in which a circuit opened. Later episodes
    /// have larger numbers.
    pub episode: u64,
    /// The step.
    pub step: ClaimStep,
    /// How long the claim lasts; after a delivery, how long the rule sends no other trigger.
    pub for_ms: u64,
    /// Identifies the sender for this alert only: up to 64 letters and digits.
    pub token: String,
    /// Whether an episode may be triggered again, `for_ms` after the last time.
    pub again: bool,
}

impl Claim {
    /// Creates a step for an episode of a rule, without a time and a token.
    #[must_use]
    pub fn new(rule: &str, episode: u64, step: ClaimStep) -> Self {
        Self {
            rule: rule.to_owned(),
            episode,
            step,
            ..Self::default()
        }
    }

    /// Sets the token and the time.
    #[must_use]
    pub fn of(mut self, token: &str, for_ms: u64) -> Self {
        token.clone_into(&mut self.token);
        self.for_ms = for_ms;
        self
    }
}

/// The progress of the last alert of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Nothing is known of the rule.
    #[default]
    Unknown,
    /// A replica is sending its trigger.
    Triggering,
    /// Its trigger was delivered.
    Triggered,
    /// A replica is sending its resolve message.
    Resolving,
    /// Its resolve message was delivered, or its sender gave up.
    Over,
}

impl Phase {
    const ALL: [Self; 5] = [
        Self::Unknown,
        Self::Triggering,
        Self::Triggered,
        Self::Resolving,
        Self::Over,
    ];

    const fn is_sending(self) -> bool {
        matches!(self, Self::Triggering | Self::Resolving)
    }
}

/// The decision about a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The caller may send, or its result is recorded.
    Granted,
    /// Another replica is sending an alert of the rule.
    Taken,
    /// The rule's cooldown is running.
    Cooling,
    /// There is nothing to send, or the caller no longer has the claim.
    #[default]
    Settled,
}

impl Verdict {
    const ALL: [Self; 4] = [Self::Granted, Self::Taken, Self::Cooling, Self::Settled];
}

/// The answer to a claim: the verdict, and the state of the rule before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claimed {
    /// The decision.
    pub verdict: Verdict,
    /// When to ask again, ms; 0 if asking again is of no use.
    pub wait_ms: u64,
    /// The last episode of the rule before this claim.
    pub episode: u64,
    /// The progress of that episode.
    pub phase: Phase,
}

impl Claimed {
    /// Reads the reply of the script: verdict, wait, episode, phase.
    pub(crate) fn read([verdict, wait_ms, episode, phase]: [u64; 4]) -> Option<Self> {
        let place = |n: u64| usize::try_from(n).ok();
        Some(Self {
            verdict: *Verdict::ALL.get(place(verdict)?)?,
            wait_ms,
            episode,
            phase: *Phase::ALL.get(place(phase)?)?,
        })
    }
}

#[derive(Clone, Debug, Default)]
struct Known {
    episode: u64,
    phase: Phase,
    /// When the sender's claim expires.
    until: u64,
    /// When the cooldown ends.
    quiet: u64,
    token: String,
}

/// Rule -> its last alert.
#[derive(Clone, Debug, Default)]
pub struct Claims(HashMap<String, Known>);

impl Claims {
    /// Carries out a claim, at `now` by the store's clock.
    pub fn claim(&mut self, claim: &Claim, now: u64) -> Claimed {
        let known = self.0.get(&claim.rule).cloned().unwrap_or_default();
        let (verdict, wait_ms) = match claim.step {
            ClaimStep::Look => (Verdict::Settled, 0),
            ClaimStep::Trigger => known.trigger(claim, now),
            ClaimStep::Resolve => known.resolve(claim, now),
            _ => known.told(claim),
        };
        let answer = Claimed {
            verdict,
            wait_ms,
            episode: known.episode,
            phase: known.phase,
        };
        if verdict == Verdict::Granted {
            let known = known.after(claim, now);
            self.0.insert(claim.rule.clone(), known);
        }
        answer
    }
}

impl Known {
    /// How long another sender's claim lasts; 0 without one.
    fn taken_for(&self, claim: &Claim, now: u64) -> u64 {
        let other = self.phase.is_sending() && self.token != claim.token;
        if other {
            self.until.saturating_sub(now)
        } else {
            0
        }
    }

    fn trigger(&self, claim: &Claim, now: u64) -> (Verdict, u64) {
        if self.phase == Phase::Unknown {
            return (Verdict::Granted, 0);
        }
        if claim.episode < self.episode {
            return (Verdict::Settled, 0);
        }
        let same = claim.episode == self.episode;
        if same && !claim.again && self.phase != Phase::Triggering {
            return (Verdict::Settled, 0);
        }
        let taken = self.taken_for(claim, now);
        if taken > 0 {
            return (Verdict::Taken, taken);
        }
        // A sender that continues a trigger has already waited.
        let goes_on = same && self.phase == Phase::Triggering;
        match self.quiet.saturating_sub(now) {
            quiet if quiet > 0 && !goes_on => (Verdict::Cooling, quiet),
            _ => (Verdict::Granted, 0),
        }
    }

    fn resolve(&self, claim: &Claim, now: u64) -> (Verdict, u64) {
        // The store has lost what the caller knows.
        if self.phase == Phase::Unknown {
            return (Verdict::Granted, 0);
        }
        if claim.episode != self.episode || self.phase == Phase::Over {
            return (Verdict::Settled, 0);
        }
        match self.taken_for(claim, now) {
            0 => (Verdict::Granted, 0),
            taken => (Verdict::Taken, taken),
        }
    }

    fn told(&self, claim: &Claim) -> (Verdict, u64) {
        let own =
            self.phase.is_sending() && self.episode == claim.episode && self.token == claim.token;
        match own || self.phase == Phase::Unknown {
            true => (Verdict::Granted, 0),
            false => (Verdict::Settled, 0),
        }
    }

    fn after(self, claim: &Claim, now: u64) -> Self {
        let sending = |phase| (phase, now.saturating_add(claim.for_ms), claim.token.clone());
        let quiet = now.saturating_add(claim.for_ms);
        let (phase, until, token) = match claim.step {
            ClaimStep::Trigger => sending(Phase::Triggering),
            ClaimStep::Resolve => sending(Phase::Resolving),
            ClaimStep::Triggered => (Phase::Triggered, 0, String::new()),
            _ => (Phase::Over, 0, String::new()),
        };
        let quiet = match claim.step {
            ClaimStep::Triggered | ClaimStep::GaveUp => self.quiet.max(quiet),
            _ => self.quiet,
        };
        Self {
            episode: claim.episode,
            phase,
            until,
            quiet,
            token,
        }
    }
}
