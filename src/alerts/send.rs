//! Sending one alert.
//!
//! Owns how long delivery is tried, and what is recorded about it. Invariant: the sink is polled
//! only while this replica certainly holds the claim, by the clock of this process, which starts to
//! count before the store does. The store accepts no outcome for another replica's claim.

use std::{
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::{FutureExt, future::join};
use tokio::{
    select,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Action, AlertSettings, Notification, Sink, SinkError, context::Context, key::dedup_key,
    masked::masked,
};
use crate::{
    Name, StoreError,
    breaker::Watch,
    model::{Claim, ClaimStep, Claimed, FOREVER, Phase, Verdict, millis},
    store::in_words,
};

/// How long a claim lasts unless its sender extends it. If the sender dies, another replica
/// continues after this time.
pub(super) const CLAIM: Duration = Duration::from_secs(20);
/// How often a claim is extended.
const PROLONG: Duration = Duration::from_secs(5);
/// How long one delivery may take.
const DELIVERY: Duration = Duration::from_secs(45);
/// The pause after the first failed delivery; it doubles with each further one, up to the longest.
const PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The pause before a store that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// An alert that this replica has claimed.
pub(super) struct Sending {
    watch: Watch,
    settings: Arc<AlertSettings>,
    name: Name,
    rule: usize,
    claim: Claim,
    notification: Notification,
    /// An earlier alert of the rule that was never resolved.
    unended: Option<Notification>,
}

/// The outcome of a [`Sending`].
pub(super) struct Sent {
    pub(super) name: Name,
    /// Whether the name is a check's instead of a circuit's.
    #[cfg(feature = "health")]
    pub(super) of_check: bool,
    pub(super) rule: usize,
    pub(super) episode: u64,
    pub(super) action: Action,
    pub(super) ended: Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Delivered,
    /// Delivery was tried until the time limit.
    GaveUp,
    /// This replica no longer holds the claim.
    Lost,
}

impl Sending {
    pub(super) fn new(
        context: &Context,
        name: Name,
        rule: usize,
        claim: Claim,
        notification: Notification,
    ) -> Self {
        Self {
            watch: context.watch.clone(),
            settings: Arc::clone(&context.settings),
            name,
            rule,
            claim,
            notification,
            unended: None,
        }
    }

    /// First resolves an earlier alert that the store knows and the record no longer has.
    pub(super) fn after(mut self, context: &Context, before: &Claimed) -> Self {
        let told = matches!(before.phase, Phase::Triggered | Phase::Resolving);
        if told && before.episode < self.claim.episode && context.settings.resolved {
            let namespace = context.watch.store().namespace();
            let of = Some((self.name.as_str(), before.episode));
            self.unended = Some(Notification {
                text: match self.notification.check {
                    None => format!("circuit {}: an earlier alert is over", self.name),
                    Some(_) => format!("check {}: an earlier alert is over", self.name),
                },
                action: Action::Resolve,
                generation: before.episode,
                dedup_key: dedup_key(namespace, of, &self.claim.rule),
                ..self.notification.clone()
            });
        }
        self
    }

    pub(super) async fn send(self) -> Sent {
        let ended = self.ended().await;
        Sent {
            #[cfg(feature = "health")]
            of_check: self.notification.check.is_some(),
            name: self.name,
            rule: self.rule,
            episode: self.claim.episode,
            action: self.notification.action,
            ended,
        }
    }

    async fn ended(&self) -> Ended {
        // The claim began earlier, when the store read it, so extend it first.
        let mut until = Instant::now();
        if !self.prolonged(&mut until).await {
            return Ended::Lost;
        }
        let told = async {
            let alert = insist(&self.settings, &self.notification);
            let Some(unended) = &self.unended else {
                return alert.await;
            };
            let began = Instant::now();
            match deliver(&*self.settings.sink, unended).await {
                Ok(()) => alert.await,
                // The receiver may still accept the alert, so the alert does not wait.
                Err(error) => {
                    let resolved = insist_after(error, began, &self.settings, unended);
                    join(resolved, alert).await.1
                }
            }
        };
        let mut told = pin!(told);
        let delivered = loop {
            let guarded = poll_fn(|context| match Instant::now() < until {
                true => told.as_mut().poll(context).map(Some),
                // A process that was suspended sees its timers late.
                false => Poll::Ready(None),
            });
            let told = select! {
                biased;
                () = sleep_until(until - (CLAIM - PROLONG)) => None,
                told = guarded => told,
            };
            match told {
                Some(delivered) => break delivered,
                None if self.prolonged(&mut until).await => {}
                None => {
                    let (circuit, alert) = (self.name.as_str(), self.notification.rule);
                    tracing::warn!(
                        circuit,
                        alert,
                        "another replica sends an alert that took too long"
                    );
                    return Ended::Lost;
                }
            }
        };
        self.tell(delivered).await;
        match delivered {
            true => Ended::Delivered,
            false => Ended::GaveUp,
        }
    }

    /// Extends the claim, and returns whether this replica still holds it.
    async fn prolonged(&self, until: &mut Instant) -> bool {
        loop {
            let asked = Instant::now();
            match self.ask(&self.claim).await {
                Ok(answer) => {
                    *until = asked + CLAIM;
                    return answer.verdict == Verdict::Granted;
                }
                Err(_) if Instant::now() + AGAIN < *until => sleep(AGAIN).await,
                Err(_) => return false,
            }
        }
    }

    /// Records the outcome in the store.
    async fn tell(&self, delivered: bool) {
        let alert = &self.settings.alerts[self.rule];
        let mut claim = self.claim.clone();
        claim.step = match (delivered, self.notification.action) {
            (false, _) => ClaimStep::GaveUp,
            (true, Action::Trigger) => ClaimStep::Triggered,
            (true, Action::Resolve) => ClaimStep::Resolved,
        };
        claim.for_ms = match self.notification.action {
            Action::Trigger => millis(alert.quiet().min(FOREVER)),
            Action::Resolve => 0,
        };
        let mut error = match self.ask(&claim).await {
            Ok(_) => return,
            Err(error) => error,
        };
        // Try for as long as the claim lasts.
        for _ in 0..CLAIM.as_secs() {
            sleep(AGAIN).await;
            error = match self.ask(&claim).await {
                Ok(_) => return,
                Err(error) => error,
            };
        }
        let (error, circuit) = (in_words(&error), self.name.as_str());
        tracing::warn!(%error, circuit, "an alert was sent and may be sent again: the delivery could not be recorded in the store");
    }

    async fn ask(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.watch.store().claim(&self.name, claim).await
    }
}

/// Delivers an alert, with as many tries as that takes; `false` if it was given up.
pub(super) async fn insist(settings: &AlertSettings, notification: &Notification) -> bool {
    let began = Instant::now();
    match deliver(&*settings.sink, notification).await {
        Ok(()) => true,
        Err(error) => insist_after(error, began, settings, notification).await,
    }
}

/// As [`insist`], after a first try at the time `began` that failed.
async fn insist_after(
    mut error: SinkError,
    began: Instant,
    settings: &AlertSettings,
    notification: &Notification,
) -> bool {
    let give_up_at = began + settings.give_up_after.min(FOREVER);
    let mut pause = PAUSE;
    loop {
        let why = masked(&in_words(&*error));
        let circuit = notification.circuit.as_deref().unwrap_or_default();
        let check = notification.check.as_deref();
        let (alert, action) = (notification.rule, notification.action.as_str());
        // No jitter: full jitter could miss the time limit by much, and each alert of a fleet comes
        // from one replica anyway.
        if Instant::now() + pause >= give_up_at {
            let tried_for = settings.give_up_after;
            tracing::error!(error = %why, circuit, check, alert, action, ?tried_for, "an alert was not delivered, and is given up");
            return false;
        }
        tracing::warn!(error = %why, circuit, check, alert, action, again_in = ?pause, "an alert was not delivered yet");
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        match deliver(&*settings.sink, notification).await {
            Ok(()) => return true,
            Err(again) => error = again,
        }
    }
}

async fn deliver(sink: &dyn Sink, notification: &Notification) -> Result<(), SinkError> {
    // A sink that panics has not delivered.
    let sent = AssertUnwindSafe(async { sink.send(notification).await }).catch_unwind();
    match timeout(DELIVERY, sent).await {
        Ok(Ok(delivered)) => delivered,
        Ok(Err(_)) => Err("the sink panicked".into()),
        Err(_) => Err(format!("it took longer than {DELIVERY:?}").into()),
    }
}
