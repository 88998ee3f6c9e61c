//! The progress of the alerts of one circuit, or of one check, in one replica.
//!
//! Owns which alert of each rule is claimed next. Invariant: the alerts of one rule are sent in
//! order, a resolve message after its trigger.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Action, Alert, Notification,
    context::Context,
    log::Span,
    send::{CLAIM, Ended, Sending, Sent},
};
use crate::{
    Name, StoreError,
    model::{Claim, ClaimStep, Claimed, Phase, Verdict, millis},
};

/// Makes the notification about a period.
pub(super) type Notify<'a> = &'a (dyn Fn(&Span, Action) -> Notification + Sync);

pub(super) struct Progress {
    /// The name under which the store keeps the claims.
    pub(super) name: Name,
    pub(super) rules: Vec<Memory>,
    /// When to visit it even without news.
    pub(super) due: Option<Instant>,
}

/// What the replica knows about one rule.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// Episodes before this generation are finished.
    pub(super) floor: u64,
    /// The episode that was alerted and is not known to be over.
    pub(super) told: Option<u64>,
    /// Whether this replica is sending.
    pub(super) sends: bool,
}

impl Progress {
    pub(super) fn new(name: Name, rules: usize) -> Self {
        Self {
            name,
            rules: vec![Memory::default(); rules],
            due: None,
        }
    }

    /// Notes the outcome of an alert that this replica sent.
    pub(super) fn note(&mut self, sent: &Sent, alerts: &[Alert]) {
        let memory = &mut self.rules[sent.rule];
        memory.sends = false;
        match (sent.ended, sent.action) {
            // The store knows the outcome.
            (Ended::Lost, _) => {}
            (Ended::Delivered, Action::Trigger) => memory.told = Some(sent.episode),
            (Ended::GaveUp, _) | (Ended::Delivered, Action::Resolve) => {
                memory.finish(sent.episode, &alerts[sent.rule]);
            }
        }
        self.due = Some(Instant::now());
    }

    /// Claims the next alert of a rule, if this replica is to send it.
    pub(super) async fn claim_next(
        &mut self,
        rule: usize,
        context: &Context,
        now_ms: u64,
        spans: Vec<Span>,
        notify: Notify<'_>,
    ) -> Result<Option<Sending>, StoreError> {
        let alert = &context.settings.alerts[rule];
        let longest_ms = millis(context.settings.give_up_after);
        for span in spans {
            if span.id < self.rules[rule].floor {
                continue;
            }
            let told = self.rules[rule].told == Some(span.id);
            if !told || alert.repeats() && span.end_ms.is_none() {
                let old = |end| now_ms.saturating_sub(end) > longest_ms;
                if span.end_ms.is_some_and(old) {
                    self.rules[rule].finish(span.id, alert);
                    continue;
                }
                if span.due_ms > now_ms {
                    self.wake(Duration::from_millis(span.due_ms - now_ms));
                    break;
                }
                let (claim, answer) = self.ask(context, alert, &span, ClaimStep::Trigger).await?;
                match (answer.verdict, answer.phase) {
                    (Verdict::Granted, _) => {
                        let sending = self.sending(context, rule, &span, claim, notify);
                        return Ok(Some(sending.after(context, &answer)));
                    }
                    (Verdict::Cooling, _) if span.end_ms.is_some() => {
                        self.rules[rule].finish(span.id, alert);
                        continue;
                    }
                    (Verdict::Taken | Verdict::Cooling, phase) => {
                        // A rate has no record, so its alert must be remembered here.
                        let is_told = phase == Phase::Triggered || alert.is_rate();
                        if is_told && answer.episode == span.id {
                            self.rules[rule].told = Some(span.id);
                        }
                        self.wake(Duration::from_millis(answer.wait_ms));
                        break;
                    }
                    (Verdict::Settled, Phase::Triggered | Phase::Resolving)
                        if answer.episode == span.id =>
                    {
                        self.rules[rule].told = Some(span.id);
                    }
                    (Verdict::Settled, _) => {
                        self.rules[rule].finish(span.id, alert);
                        continue;
                    }
                }
            }
            if span.end_ms.is_none() {
                break;
            }
            if !context.settings.resolved {
                self.rules[rule].finish(span.id, alert);
                continue;
            }
            let (claim, answer) = self.ask(context, alert, &span, ClaimStep::Resolve).await?;
            match answer.verdict {
                Verdict::Granted => {
                    return Ok(Some(self.sending(context, rule, &span, claim, notify)));
                }
                Verdict::Taken => {
                    self.wake(Duration::from_millis(answer.wait_ms));
                    break;
                }
                _ => self.rules[rule].finish(span.id, alert),
            }
        }
        Ok(None)
    }

    async fn ask(
        &self,
        context: &Context,
        alert: &Alert,
        span: &Span,
        step: ClaimStep,
    ) -> Result<(Claim, Claimed), StoreError> {
        let token = format!("{:032x}", fastrand::u128(..));
        let mut claim = Claim::new(&alert.key(), span.id, step).of(&token, millis(CLAIM));
        claim.again = alert.repeats() && span.end_ms.is_none();
        let answer = context.watch.store().claim(&self.name, &claim).await?;
        Ok((claim, answer))
    }

    fn sending(
        &mut self,
        context: &Context,
        rule: usize,
        span: &Span,
        claim: Claim,
        notify: Notify<'_>,
    ) -> Sending {
        self.rules[rule].sends = true;
        let action = match claim.step {
            ClaimStep::Resolve => Action::Resolve,
            _ => Action::Trigger,
        };
        let notification = notify(span, action);
        Sending::new(context, self.name.clone(), rule, claim, notification)
    }

    /// Schedules a visit after this time at the latest.
    pub(super) fn wake(&mut self, after: Duration) {
        let at = Instant::now() + after;
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

impl Memory {
    /// Marks an episode as finished.
    pub(super) fn finish(&mut self, episode: u64, alert: &Alert) {
        self.told = None;
        // A rate can be high again in the same generation.
        if !alert.is_rate() {
            self.floor = self.floor.max(episode + 1);
        }
    }
}
