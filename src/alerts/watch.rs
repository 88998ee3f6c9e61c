//! The task that looks at a registry's circuits, claims what is to be sent, and sends it.
//!
//! Owns how often the store is asked: where a rule may hold, and then every ten seconds at most.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{Alert, Notification, Sink, SinkError, rule::Kind};
use crate::{
    Name, Snapshot, StoreError,
    breaker::Watch,
    model::{Claim, Head},
    store::in_words,
};

const LOOK: Duration = Duration::from_secs(1);
/// How long a claim lasts, and how long a sink may take, which is less.
const CLAIM_MS: u64 = 60_000;
const DELIVERY: Duration = Duration::from_secs(45);
/// How soon the store is asked again at the earliest.
const AGAIN: Duration = Duration::from_secs(10);
/// Replicas that see the same ask one after another, each so long after the one before on average.
const APART_MS: u64 = 2;

struct Watcher {
    sink: Arc<dyn Sink>,
    alerts: Vec<Alert>,
    /// Rule and circuit -> when the store may be asked for it.
    ask_at: HashMap<(usize, Name), Instant>,
    /// Circuit -> the newest time of the store's clock that was seen, and when.
    seen_at: HashMap<Name, (u64, Instant)>,
    /// Rule -> when this replica said that the store is away.
    said_away: HashMap<usize, Instant>,
    sending: JoinSet<()>,
}

pub(super) async fn run(watch: Watch, sink: Arc<dyn Sink>, alerts: Vec<Alert>) {
    let mut watcher = Watcher {
        sink,
        alerts,
        ask_at: HashMap::new(),
        seen_at: HashMap::new(),
        said_away: HashMap::new(),
        sending: JoinSet::new(),
    };
    let mut every = interval(LOOK);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        while watcher.sending.try_join_next().is_some() {}
        if watch.has_ended() {
            return;
        }
        watcher.look(&watch);
    }
}

impl Watcher {
    fn look(&mut self, watch: &Watch) {
        let now = Instant::now();
        let seen = watch.circuits();
        let known: HashSet<&Name> = seen.iter().map(|(name, _)| name).collect();
        self.seen_at.retain(|name, _| known.contains(name));
        self.ask_at.retain(|(_, name), _| known.contains(name));
        for (name, snapshot) in &seen {
            let at = self.seen_at.entry(name.clone()).or_insert((0, now));
            if snapshot.now_ms > at.0 {
                *at = (snapshot.now_ms, now);
            }
            let elapsed = u64::try_from(now.duration_since(at.1).as_millis()).unwrap_or(0);
            let now_ms = at.0 + elapsed;
            for i in 0..self.alerts.len() {
                self.consider(watch, i, name, snapshot, now_ms);
            }
        }
        self.consider_store(watch);
    }

    fn consider(&mut self, watch: &Watch, i: usize, name: &Name, seen: &Snapshot, now_ms: u64) {
        let key = (i, name.clone());
        if seen.now_ms == 0 || !self.alerts[i].may_hold(seen, now_ms) {
            self.ask_at.remove(&key);
            return;
        }
        let now = Instant::now();
        let spread = Duration::from_millis(fastrand::u64(..=seen.replicas * APART_MS));
        let at = *self.ask_at.entry(key.clone()).or_insert(now + spread);
        if now < at {
            return;
        }
        self.ask_at.insert(key, now + AGAIN + spread);
        let asking = Asking {
            watch: watch.clone(),
            sink: Arc::clone(&self.sink),
            alert: self.alerts[i].clone(),
            name: name.clone(),
        };
        self.sending.spawn(asking.ask());
    }

    /// Nobody can be asked who says that the store is away, so each replica does.
    fn consider_store(&mut self, watch: &Watch) {
        let health = watch.health();
        for (i, alert) in self.alerts.iter().enumerate() {
            let Kind::StoreAway { time } = alert.kind else {
                continue;
            };
            let long = health.away_for.filter(|away_for| *away_for >= time);
            let Some(away_for) = long else {
                continue;
            };
            let now = Instant::now();
            let before = self.said_away.get(&i);
            if before.is_some_and(|said| now.duration_since(*said) < alert.cooldown) {
                continue;
            }
            self.said_away.insert(i, now);
            let why = health.last_error.as_deref().unwrap_or("no answer");
            let notification = Notification {
                text: format!(
                    "the store of the circuits has been away for {:?}: {why}",
                    Duration::from_secs(away_for.as_secs())
                ),
                rule: alert.rule(),
                circuit: None,
                state: None,
                reason: None,
                generation: 0,
                failure_rate: None,
                calls: 0,
                at_ms: watch.unix_ms(),
                dedup_key: "commontrip/store_away".to_owned(),
                replica: watch.replica().to_owned(),
            };
            let sink = Arc::clone(&self.sink);
            self.sending.spawn(async move {
                if let Err(error) = deliver(&*sink, &notification).await {
                    tracing::error!(%error, alert = notification.rule, "an alert was not delivered");
                }
            });
        }
    }
}

/// One rule that may hold of one circuit.
struct Asking {
    watch: Watch,
    sink: Arc<dyn Sink>,
    alert: Alert,
    name: Name,
}

impl Asking {
    async fn ask(self) {
        let circuit = self.name.as_str();
        match self.claimed().await {
            Ok(None) => {}
            Ok(Some((claim, notification))) => match deliver(&*self.sink, &notification).await {
                Ok(()) => {
                    let cooldown = self.alert.cooldown.as_millis();
                    let cooldown = u64::try_from(cooldown).unwrap_or(u64::MAX).min(YEAR_MS);
                    if let Err(error) = self.claim(&claim.sent(cooldown)).await {
                        let error = in_words(&error);
                        tracing::warn!(%error, circuit, "an alert was delivered, and may be once more");
                    }
                }
                Err(error) => {
                    tracing::error!(%error, circuit, alert = self.alert.rule(), "an alert was not delivered");
                }
            },
            // Asked again soon.
            Err(error) => {
                let error = in_words(&error);
                tracing::debug!(%error, circuit, "the store was not asked for an alert");
            }
        }
    }

    /// What to send, if it is this replica's to send.
    async fn claimed(&self) -> Result<Option<(Claim, Notification)>, StoreError> {
        let store = self.watch.store();
        let head = Head {
            replica: self.watch.replica().to_owned(),
            is_operator: true,
            ..Head::default()
        };
        let seen = store.snapshot(&self.name, &head).await?;
        let record = store.events(&self.name, 0).await?;
        let Some(episode) = self.alert.episode(&seen, &record) else {
            return Ok(None);
        };
        let claim = Claim::new(&self.alert.key(), episode, CLAIM_MS);
        if self.claim(&claim).await? > 0 {
            return Ok(None);
        }
        let notification = Notification {
            text: self.alert.text(self.name.as_str(), &seen),
            rule: self.alert.rule(),
            circuit: Some(self.name.to_string()),
            state: Some(seen.state),
            reason: Some(seen.reason),
            generation: seen.generation,
            failure_rate: seen.failure_rate(),
            calls: seen.calls,
            at_ms: seen.now_ms,
            dedup_key: format!("commontrip/{}/{}/{episode}", self.name, claim.rule),
            replica: self.watch.replica().to_owned(),
        };
        Ok(Some((claim, notification)))
    }

    async fn claim(&self, claim: &Claim) -> Result<u64, StoreError> {
        self.watch.store().claim(&self.name, claim).await
    }
}

const YEAR_MS: u64 = 365 * 86_400_000;

async fn deliver(sink: &dyn Sink, notification: &Notification) -> Result<(), SinkError> {
    match timeout(DELIVERY, sink.send(notification)).await {
        Ok(delivered) => delivered,
        Err(_) => Err(format!("it took longer than {DELIVERY:?}").into()),
    }
}
