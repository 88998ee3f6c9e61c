//! What one replica knows about the alerts of one health check.
//!
//! Owns when a check is visited again, and the texts of its alerts. The report says when the check
//! last had each status, so a status is alerted however short it is. A check and a circuit may have
//! the same name, because their claims have different rules.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Action, Alert, Notification,
    context::Context,
    key::dedup_key,
    log::Span,
    progress::Progress,
    rule::Kind,
    send::{Sending, Sent},
};
use crate::{
    Name, StoreError,
    model::{Claim, ClaimStep, Phase},
    operator::{CheckPeriod, CheckReport},
    store::in_words,
};

/// The pause before a store that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(10);

pub(super) struct OfCheck {
    pub(super) progress: Progress,
    /// The periods in the report at the last visit; `None` before the first.
    seen: Option<[CheckPeriod; 2]>,
}

impl OfCheck {
    pub(super) fn new(name: Name, rules: usize) -> Self {
        Self {
            progress: Progress::new(name, rules),
            seen: None,
        }
    }

    /// Whether to visit the check. A local report says nothing about the fleet.
    pub(super) fn wants_visit(&self, report: &CheckReport) -> bool {
        let due = self.progress.due.is_some_and(|due| due <= Instant::now());
        let news = report.runs > 0 && self.seen != Some([report.unhealthy, report.critical]);
        !report.local && (news || due)
    }

    pub(super) fn note(&mut self, sent: &Sent, alerts: &[Alert]) {
        self.progress.note(sent, alerts);
    }

    /// Claims the alerts to send.
    pub(super) async fn visit(&mut self, context: &Context, report: &CheckReport) -> Vec<Sending> {
        self.progress.due = None;
        let mut sendings = Vec::new();
        if let Err(error) = self.look(context, report, &mut sendings).await {
            self.progress.wake(AGAIN);
            let (check, error) = (&report.name, in_words(&error));
            tracing::debug!(%error, check, "alerts could not be checked: the store failed");
        }
        sendings
    }

    async fn look(
        &mut self,
        context: &Context,
        report: &CheckReport,
        sendings: &mut Vec<Sending>,
    ) -> Result<(), StoreError> {
        let begins = self.seen.is_none();
        for (rule, alert) in context.settings.alerts.iter().enumerate() {
            let Some(period) = period(alert, report) else {
                continue;
            };
            if begins {
                self.begin(rule, context, period).await?;
            }
            let memory = &self.progress.rules[rule];
            if memory.sends {
                continue;
            }
            let now_ms = report.last_run_ms;
            let spans = spans(period, memory.told, now_ms);
            let notify = |span: &Span, action| notification(context, alert, report, span, action);
            let claimed = self
                .progress
                .claim_next(rule, context, now_ms, spans, &notify);
            sendings.extend(claimed.await?);
        }
        self.seen = Some([report.unhealthy, report.critical]);
        Ok(())
    }

    /// Continues from the fleet's progress. Conditions that ended before the fleet had alerts are
    /// not sent.
    async fn begin(
        &mut self,
        rule: usize,
        context: &Context,
        period: CheckPeriod,
    ) -> Result<(), StoreError> {
        let look = Claim::new(&context.settings.alerts[rule].key(), 0, ClaimStep::Look);
        let name = &self.progress.name;
        let known = context.watch.store().claim(name, &look).await?;
        let memory = &mut self.progress.rules[rule];
        memory.told = match known.phase {
            Phase::Triggered | Phase::Resolving => Some(known.episode),
            _ => None,
        };
        memory.floor = match known.phase {
            Phase::Unknown if period.lasts() => period.since_ms,
            Phase::Unknown => period.since_ms + 1,
            Phase::Over => known.episode + 1,
            _ => known.episode,
        };
        Ok(())
    }
}

/// The last period in which a rule about checks held; `None` for other rules.
const fn period(alert: &Alert, report: &CheckReport) -> Option<CheckPeriod> {
    match alert.kind {
        Kind::CheckWarning => Some(report.unhealthy),
        Kind::CheckCritical => Some(report.critical),
        _ => None,
    }
}

fn spans(period: CheckPeriod, told: Option<u64>, now_ms: u64) -> Vec<Span> {
    let span = |id, end_ms| Span {
        id,
        due_ms: 0,
        end_ms,
        began: None,
        ended: None,
    };
    // A period that the report no longer has is over.
    let told = told.filter(|told| *told != period.since_ms);
    let mut spans: Vec<_> = told
        .map(|told| span(told, Some(now_ms)))
        .into_iter()
        .collect();
    if period.since_ms > 0 {
        let end_ms = (!period.lasts()).then_some(period.until_ms);
        spans.push(span(period.since_ms, end_ms));
    }
    spans
}

fn notification(
    context: &Context,
    alert: &Alert,
    report: &CheckReport,
    span: &Span,
    action: Action,
) -> Notification {
    let (check, status) = (&report.name, report.status.as_str());
    let was = match alert.kind {
        Kind::CheckCritical => "critical",
        _ => "not healthy",
    };
    let lasted = |end_ms: u64| Duration::from_secs(end_ms.saturating_sub(span.id) / 1000);
    let text = match (action, span.end_ms) {
        (Action::Resolve, end_ms) => format!(
            "check {check} has recovered: it was {was} for {:?}, and is {status}",
            lasted(end_ms.unwrap_or(report.last_run_ms))
        ),
        (Action::Trigger, Some(end_ms)) => {
            let error = report.last_error.as_deref().unwrap_or("no reason given");
            format!("check {check} was {was} for {:?}: {error}", lasted(end_ms))
        }
        (Action::Trigger, None) => format!("check {check} is {status}: {}", report.why),
    };
    let of = Some((check.as_str(), span.id));
    Notification {
        text,
        rule: alert.rule(),
        action,
        circuit: None,
        check: Some(check.clone()),
        check_status: Some(report.status),
        state: None,
        reason: None,
        generation: 0,
        failure_rate: None,
        calls: 0,
        at_ms: match action {
            Action::Trigger => span.id,
            Action::Resolve => span.end_ms.unwrap_or(report.last_run_ms),
        },
        dedup_key: dedup_key(context.watch.store().namespace(), of, &alert.key()),
        replica: context.watch.replica().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_and_is_no_longer_there_ends_before_what_is_new() {
        let mut period = CheckPeriod::default();
        assert_eq!(spans(period, None, 9), []);
        period.go_on(true, 5);
        let ids = |spans: Vec<Span>| -> Vec<_> {
            spans.iter().map(|span| (span.id, span.end_ms)).collect()
        };
        assert_eq!(ids(spans(period, Some(5), 9)), [(5, None)]);
        period.go_on(false, 7);
        assert_eq!(ids(spans(period, Some(5), 9)), [(5, Some(7))]);
        period.go_on(true, 7);
        period.go_on(true, 8);
        assert_eq!(ids(spans(period, Some(5), 9)), [(5, Some(9)), (7, None)]);
        // A clock that was set back.
        period.go_on(false, 3);
        period.go_on(true, 3);
        assert_eq!(ids(spans(period, None, 9)), [(8, None)]);
    }
}
