//! What one replica knows about the alerts of one circuit.
//!
//! Owns the part of the circuit's record that was read, and what follows from it for each rule. A
//! visit reads the new transitions in the store's record, so it misses none, however short a state
//! was. Then it claims the alerts to send, which [`progress`](super::progress) owns.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Action, Alert, Notification,
    context::Context,
    key::dedup_key,
    log::{Log, Span, Step},
    progress::{Memory, Progress},
    send::{Sending, Sent},
};
use crate::{
    Name, Reason, Snapshot, StoreError,
    model::{Claim, ClaimStep, FOREVER, Head, Phase, millis},
};

/// The minimum pause before the store is asked again without a new generation.
const AGAIN: Duration = Duration::from_secs(10);
/// How often a replica of the fleet visits a circuit without news: replicas without calls may hear
/// none.
const IDLE: Duration = Duration::from_secs(30);

pub(super) struct Circuit {
    pub(super) progress: Progress,
    /// The generation up to which the record was read; `None` before the first visit.
    read: Option<u64>,
    log: Log,
    /// When the circuit was last visited.
    visited: Option<Instant>,
    /// How many replicas share the idle visits.
    replicas: u64,
}

impl Circuit {
    pub(super) fn new(name: Name, rules: usize) -> Self {
        Self {
            progress: Progress::new(name, rules),
            read: None,
            log: Log::default(),
            visited: None,
            replicas: 1,
        }
    }

    /// Whether to visit the circuit, by what the replica itself knows.
    pub(super) fn wants_visit(&self, alerts: &[Alert], seen: &Snapshot) -> bool {
        let lately = self.visited.is_some_and(|at| at.elapsed() < AGAIN);
        let idle = IDLE * u32::try_from(self.replicas).unwrap_or(u32::MAX).max(1);
        let idle = self.visited.is_none_or(|at| at.elapsed() > idle);
        let news = self.read.is_some_and(|read| seen.generation > read);
        let lost = self.read.is_some_and(|read| seen.generation < read);
        let changed = |(alert, memory): (&Alert, &Memory)| {
            alert.rate_holds(seen) != memory.told.is_some() && alert.is_rate() && !memory.sends
        };
        let rates = alerts.iter().zip(&self.progress.rules).any(changed);
        let due = self.progress.due.is_some_and(|due| due <= Instant::now());
        news || due || idle || (lost || rates) && !lately
    }

    pub(super) fn note(&mut self, sent: &Sent, alerts: &[Alert]) {
        self.progress.note(sent, alerts);
    }

    /// Reads the rest of the record, and claims the alerts to send.
    ///
    /// `heard` is the generation that the replica itself uses, which the store may have lost.
    pub(super) async fn visit(&mut self, context: &Context, heard: u64) -> Vec<Sending> {
        (self.visited, self.progress.due) = (Some(Instant::now()), None);
        let mut sendings = Vec::new();
        if let Err(error) = self.look(context, heard, &mut sendings).await {
            self.progress.wake(AGAIN);
            let (circuit, error) = (self.progress.name.as_str(), crate::store::in_words(&error));
            tracing::debug!(%error, circuit, "alerts could not be checked: the store failed");
        }
        sendings
    }

    async fn look(
        &mut self,
        context: &Context,
        heard: u64,
        sendings: &mut Vec<Sending>,
    ) -> Result<(), StoreError> {
        let store = context.watch.store();
        let head = Head {
            replica: context.watch.replica().to_owned(),
            is_operator: true,
            ..Head::default()
        };
        // Read the state first: the record then has everything that led to it.
        let mut seen = store.snapshot(&self.progress.name, &head).await?;
        if self
            .read
            .is_some_and(|read| seen.generation.max(heard) < read)
        {
            // Both the store and this replica have lost it, so its history starts again.
            (self.read, self.log) = (None, Log::default());
            for memory in &mut self.progress.rules {
                (memory.floor, memory.told) = (0, None);
            }
        }
        let record = store
            .events(&self.progress.name, self.read.unwrap_or(0))
            .await?;
        for event in record.iter().filter(|event| event.is_transition()) {
            self.log.push(Step::from(event));
        }
        if self.read.is_some() && record.iter().any(|event| event.reason == Reason::Adopted) {
            self.remind(context).await?;
        }
        // Transitions between the two reads must not be in the future.
        seen.now_ms = seen.now_ms.max(self.log.newest_ms());
        if self.read.is_none() {
            if seen.opened_ms > 0 {
                self.log.began_at(seen.opened_ms);
            }
            self.begin(context, &seen).await?;
        }
        let read = self.read.unwrap_or(0).max(self.log.newest());
        self.read = Some(read.max(seen.generation));
        self.replicas = seen.replicas;
        for rule in 0..self.progress.rules.len() {
            if !self.progress.rules[rule].sends {
                sendings.extend(self.claim_next(rule, context, &seen).await?);
            }
            let at = context.settings.alerts[rule].changes_at(&self.log, seen.now_ms);
            if let Some(at) = at {
                self.progress
                    .wake(Duration::from_millis(at.saturating_sub(seen.now_ms)));
            }
        }
        Ok(())
    }

    /// Restores the record of alerts in a store that has lost everything, because replicas that
    /// start now know none.
    async fn remind(&self, context: &Context) -> Result<(), StoreError> {
        for (memory, alert) in self.progress.rules.iter().zip(&context.settings.alerts) {
            if let Some(told) = memory.told {
                let quiet = millis(alert.quiet().min(FOREVER));
                let claim = Claim::new(&alert.key(), told, ClaimStep::Triggered).of("", quiet);
                context
                    .watch
                    .store()
                    .claim(&self.progress.name, &claim)
                    .await?;
            }
        }
        Ok(())
    }

    /// Continues from the fleet's progress. Conditions that ended before the fleet had alerts are
    /// not sent.
    async fn begin(&mut self, context: &Context, seen: &Snapshot) -> Result<(), StoreError> {
        for (rule, alert) in context.settings.alerts.iter().enumerate() {
            if alert.is_about_checks() || self.log.is_empty() && !alert.is_rate() {
                continue;
            }
            let look = Claim::new(&alert.key(), 0, ClaimStep::Look);
            let known = context
                .watch
                .store()
                .claim(&self.progress.name, &look)
                .await?;
            // An opening that lasts is not the one whose alert is over.
            let same = match known.phase {
                Phase::Unknown => false,
                Phase::Over => !self.log.lasts(),
                _ => true,
            };
            if same && alert.is_about_openings() {
                self.log.began_in(known.episode);
            }
            let memory = &mut self.progress.rules[rule];
            memory.told = match known.phase {
                Phase::Triggered | Phase::Resolving => Some(known.episode),
                _ => None,
            };
            memory.floor = match known.phase {
                _ if alert.is_rate() => 0,
                Phase::Unknown => {
                    let spans = alert.spans(&self.log, seen, None);
                    let lasts = spans.iter().find(|span| span.end_ms.is_none());
                    lasts.map_or(self.log.newest() + 1, |span| span.id)
                }
                Phase::Over => known.episode + 1,
                _ => known.episode,
            };
        }
        Ok(())
    }

    /// Claims the next alert of a rule, if this replica is to send it.
    async fn claim_next(
        &mut self,
        rule: usize,
        context: &Context,
        seen: &Snapshot,
    ) -> Result<Option<Sending>, StoreError> {
        let alert = &context.settings.alerts[rule];
        let spans = alert.spans(&self.log, seen, self.progress.rules[rule].told);
        let name = self.progress.name.clone();
        let notify = |span: &Span, action| notification(&name, context, alert, seen, span, action);
        let claimed = self
            .progress
            .claim_next(rule, context, seen.now_ms, spans, &notify);
        claimed.await
    }
}

fn notification(
    name: &Name,
    context: &Context,
    alert: &Alert,
    seen: &Snapshot,
    span: &Span,
    action: Action,
) -> Notification {
    let circuit = name.as_str();
    let (text, step) = match action {
        Action::Trigger => (alert.text(circuit, seen, span), span.began),
        Action::Resolve => (alert.text_resolved(circuit, seen, span), span.ended),
    };
    // An opening is described as it began, so that every sender sends the same.
    let step = step.filter(|_| alert.is_opened());
    let namespace = context.watch.store().namespace();
    Notification {
        text,
        rule: alert.rule(),
        action,
        circuit: Some(name.to_string()),
        check: None,
        check_status: None,
        state: Some(step.map_or(seen.state, |step| step.to)),
        reason: Some(step.map_or(seen.reason, |step| step.reason)),
        generation: step.map_or(seen.generation, |step| step.generation),
        failure_rate: step.map_or_else(|| seen.failure_rate(), |step| step.failure_rate()),
        calls: step.map_or(seen.calls, |step| step.calls),
        at_ms: step.map_or(seen.now_ms, |step| step.at_ms),
        dedup_key: dedup_key(namespace, Some((circuit, span.id)), &alert.key()),
        replica: context.watch.replica().to_owned(),
    }
}
