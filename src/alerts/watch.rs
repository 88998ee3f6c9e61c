//! The task that watches a registry's circuits.
//!
//! Owns when a circuit is visited: when its generation is new, when a rule asks for it, and when a
//! rate rises or falls. [`circuit`](super::circuit) owns what a visit finds, [`send`](super::send)
//! how it is sent. Also owns the alerts about the store itself, which need no claim.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

#[cfg(feature = "health")]
use super::check::OfCheck;
use super::{
    Action, AlertSettings, Notification,
    circuit::Circuit,
    context::Context,
    key::dedup_key,
    rule::Kind,
    send::{Sending, Sent, insist},
};
use crate::{Name, Snapshot, breaker::Watch};

const LOOK: Duration = Duration::from_secs(1);
/// The average time between the visits of replicas that hear the same news, ms.
const APART_MS: u64 = 2;
/// Concurrent visits.
const VISITS: usize = 16;

struct Watcher {
    context: Context,
    /// `None` while the circuit is being visited.
    circuits: HashMap<Name, Option<Circuit>>,
    /// As `circuits`.
    #[cfg(feature = "health")]
    checks: HashMap<Name, Option<OfCheck>>,
    visits: JoinSet<(Visited, Vec<Sending>)>,
    turns: Arc<Semaphore>,
    sendings: JoinSet<Sent>,
    /// Outcomes of alerts of circuits that are being visited.
    sent: Vec<Sent>,
    /// This replica's alerts about the store, by rule.
    stores: HashMap<usize, OfStore>,
    of_store: JoinSet<(usize, Action, bool)>,
}

/// What was visited.
enum Visited {
    Circuit(Box<Circuit>),
    #[cfg(feature = "health")]
    Check(OfCheck),
}

/// One rule's alerts about the store.
#[derive(Default)]
struct OfStore {
    said: Option<Instant>,
    told: bool,
    sends: bool,
}

pub(super) async fn run(watch: Watch, settings: Arc<AlertSettings>) {
    let mut watcher = Watcher {
        context: Context { watch, settings },
        circuits: HashMap::new(),
        #[cfg(feature = "health")]
        checks: HashMap::new(),
        visits: JoinSet::new(),
        turns: Arc::new(Semaphore::new(VISITS)),
        sendings: JoinSet::new(),
        sent: Vec::new(),
        stores: HashMap::new(),
        of_store: JoinSet::new(),
    };
    let mut every = interval(LOOK);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => {
                if watcher.context.watch.has_ended() {
                    return;
                }
                watcher.look();
                watcher.look_at_store();
                #[cfg(feature = "health")]
                watcher.look_at_checks();
            }
            Some(Ok((visited, sendings))) = watcher.visits.join_next() => {
                watcher.visited(visited, sendings);
            }
            Some(Ok(sent)) = watcher.sendings.join_next() => {
                watcher.sent.push(sent);
                watcher.note_sent();
            }
            Some(Ok((rule, action, delivered))) = watcher.of_store.join_next() => {
                let store = watcher.stores.entry(rule).or_default();
                store.sends = false;
                store.told = action == Action::Trigger && (delivered || store.told);
            }
        }
    }
}

impl Watcher {
    fn look(&mut self) {
        let heard: HashMap<Name, Snapshot> = self.context.watch.circuits().into_iter().collect();
        self.circuits.retain(|name, _| heard.contains_key(name));
        for (name, seen) in heard {
            self.visit(name, &seen);
        }
    }

    fn visit(&mut self, name: Name, seen: &Snapshot) {
        let alerts = &self.context.settings.alerts;
        let known = self.circuits.entry(name.clone());
        let known = known.or_insert_with(|| Some(Circuit::new(name, alerts.len())));
        let Some(mut circuit) = known.take_if(|circuit| circuit.wants_visit(alerts, seen)) else {
            return;
        };
        let context = self.context.clone();
        let spread = Duration::from_millis(fastrand::u64(..=seen.replicas * APART_MS));
        let (heard, turns) = (seen.generation, Arc::clone(&self.turns));
        self.visits.spawn(async move {
            sleep(spread).await;
            // The semaphore is never closed.
            let _turn = turns.acquire().await;
            let sendings = circuit.visit(&context, heard).await;
            (Visited::Circuit(Box::new(circuit)), sendings)
        });
    }

    fn visited(&mut self, visited: Visited, sendings: Vec<Sending>) {
        // This includes alerts of a circuit that is no longer used: they are claimed.
        for sending in sendings {
            self.sendings.spawn(sending.send());
        }
        match visited {
            Visited::Circuit(circuit) => {
                if let Some(known) = self.circuits.get_mut(&circuit.progress.name) {
                    *known = Some(*circuit);
                }
            }
            #[cfg(feature = "health")]
            Visited::Check(check) => {
                self.checks.insert(check.progress.name.clone(), Some(check));
            }
        }
        self.note_sent();
    }

    fn note_sent(&mut self) {
        let (circuits, alerts) = (&mut self.circuits, &self.context.settings.alerts);
        #[cfg(feature = "health")]
        let checks = &mut self.checks;
        self.sent.retain(|sent| {
            #[cfg(feature = "health")]
            if sent.of_check {
                return match checks.get_mut(&sent.name) {
                    Some(Some(check)) => {
                        check.note(sent, alerts);
                        false
                    }
                    known => known.is_some(),
                };
            }
            match circuits.get_mut(&sent.name) {
                Some(None) => true,
                Some(Some(circuit)) => {
                    circuit.note(sent, alerts);
                    false
                }
                None => false,
            }
        });
    }

    #[cfg(feature = "health")]
    fn look_at_checks(&mut self) {
        let settings = &self.context.settings;
        let reports = settings.checks.iter().flat_map(|board| board.reports());
        for report in reports {
            // The names of a monitor's checks are valid.
            let Ok(name) = Name::new(&report.name) else {
                continue;
            };
            let known = self.checks.entry(name.clone());
            let rules = settings.alerts.len();
            let known = known.or_insert_with(|| Some(OfCheck::new(name, rules)));
            let Some(mut check) = known.take_if(|check| check.wants_visit(&report)) else {
                continue;
            };
            let (context, turns) = (self.context.clone(), Arc::clone(&self.turns));
            self.visits.spawn(async move {
                // The semaphore is never closed.
                let _turn = turns.acquire().await;
                let sendings = check.visit(&context, &report).await;
                (Visited::Check(check), sendings)
            });
        }
    }

    /// Without the store, replicas cannot agree on a sender, so each one sends that it is
    /// unavailable.
    fn look_at_store(&mut self) {
        let (watch, settings) = (&self.context.watch, &self.context.settings);
        let health = watch.health();
        for (rule, alert) in settings.alerts.iter().enumerate() {
            let Kind::StoreUnavailable { time } = alert.kind else {
                continue;
            };
            let store = self.stores.entry(rule).or_default();
            if store.sends {
                continue;
            }
            let quiet = store
                .said
                .is_some_and(|said| said.elapsed() < alert.quiet());
            let (action, text) = match health.unavailable_for {
                Some(unavailable_for) if unavailable_for >= time && !quiet => {
                    let why = health.last_error.as_deref().unwrap_or("no answer");
                    let unavailable_for = Duration::from_secs(unavailable_for.as_secs());
                    let text = format!(
                        "the store of the circuits has been unavailable for {unavailable_for:?}: {why}"
                    );
                    store.said = Some(Instant::now());
                    (Action::Trigger, text)
                }
                None if store.told && settings.resolved => (
                    Action::Resolve,
                    "the store of the circuits is back".to_owned(),
                ),
                None => {
                    store.told = false;
                    continue;
                }
                _ => continue,
            };
            store.sends = true;
            let notification = Notification {
                text,
                rule: alert.rule(),
                action,
                circuit: None,
                check: None,
                check_status: None,
                state: None,
                reason: None,
                generation: 0,
                failure_rate: None,
                calls: 0,
                at_ms: watch.unix_ms(),
                dedup_key: dedup_key(watch.store().namespace(), None, &alert.key()),
                replica: watch.replica().to_owned(),
            };
            let settings = Arc::clone(settings);
            self.of_store.spawn(async move {
                let delivered = insist(&settings, &notification).await;
                (rule, action, delivered)
            });
        }
    }
}
