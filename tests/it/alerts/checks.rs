//! Alerts of health checks: one for the fleet, however many replicas watch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use commontrip::Commontrip;
use commontrip::alerts::{Action, Alert, Alerts};
use commontrip::health::{Check, CheckStatus, HealthMonitor};

use super::{Inbox, a_while, replica};
use crate::support::{unique, unique_prefix};
use crate::wait::until;

/// A fleet that checks one service, and its alerts.
struct Fleet {
    up: Arc<AtomicBool>,
    check: String,
    inbox: Inbox,
    prefix: String,
    members: Vec<(Commontrip, HealthMonitor, Alerts)>,
}

impl Fleet {
    fn new() -> Fleet {
        Fleet {
            up: Arc::new(AtomicBool::new(true)),
            check: unique("postgres"),
            inbox: Inbox::default(),
            prefix: unique_prefix("alerts-checks"),
            members: Vec::new(),
        }
    }

    fn join(&mut self, cooldown: Duration) {
        let (circuits, _) = replica(&self.prefix, "payments");
        let up = Arc::clone(&self.up);
        let check = Check::new(&self.check, move || {
            let up = up.load(Ordering::SeqCst);
            async move { if up { Ok(()) } else { Err("no route") } }
        });
        let check = check.interval(Duration::from_millis(200));
        let monitor = HealthMonitor::builder(&circuits).check(check);
        let monitor = monitor.start().unwrap();
        let alerts = Alerts::to(self.inbox.clone())
            .on(Alert::opened())
            .on(Alert::check_warning().cooldown(cooldown))
            .on(Alert::check_critical().cooldown(cooldown))
            .resolved(true)
            .checks(&monitor)
            .start(&circuits);
        self.members.push((circuits, monitor, alerts));
    }

    async fn until_all(&self, status: CheckStatus) {
        until("all see it", async || {
            let of = |(_, monitor, _): &(_, HealthMonitor, _)| monitor.status() == status;
            self.members.iter().all(of)
        })
        .await;
    }

    fn set(&self, up: bool) {
        self.up.store(up, Ordering::SeqCst);
    }

    /// Rules and actions, in the order in which they were sent.
    fn sent(&self) -> Vec<(&'static str, &'static str)> {
        let sent = self.inbox.delivered.lock();
        sent.iter().map(|n| (n.rule, n.action.as_str())).collect()
    }
}

#[tokio::test]
async fn a_check_is_alerted_once_for_the_fleet_and_so_is_its_recovery() {
    let mut fleet = Fleet::new();
    (0..3).for_each(|_| fleet.join(Duration::ZERO));
    fleet.until_all(CheckStatus::Healthy).await;
    a_while().await;
    fleet.set(false);
    fleet.until_all(CheckStatus::Critical).await;
    until("both are sent", async || fleet.sent().len() >= 2).await;
    // A later replica finds that they were sent.
    fleet.join(Duration::ZERO);
    a_while().await;
    let mut sent = fleet.sent();
    sent.sort_unstable();
    let trigger = Action::Trigger.as_str();
    assert_eq!(
        sent,
        [("check_critical", trigger), ("check_warning", trigger)]
    );
    let critical = fleet.inbox.delivered.lock().clone();
    let critical = critical
        .iter()
        .find(|n| n.rule == "check_critical")
        .unwrap();
    assert_eq!(critical.check.as_deref(), Some(&*fleet.check));
    assert_eq!(critical.check_status, Some(CheckStatus::Critical));
    assert_eq!((critical.circuit.as_deref(), critical.state), (None, None));
    let begins = format!("check {} is critical: the last ", fleet.check);
    assert!(critical.text.starts_with(&begins), "{}", critical.text);
    assert!(
        critical.text.ends_with("runs failed: no route"),
        "{}",
        critical.text
    );
    let key = format!(
        "{}/{}/check_critical/{}",
        fleet.prefix, fleet.check, critical.at_ms
    );
    assert_eq!(critical.dedup_key, key);

    fleet.set(true);
    fleet.until_all(CheckStatus::Healthy).await;
    until("both are over", async || fleet.sent().len() >= 4).await;
    a_while().await;
    let over = fleet.inbox.delivered.lock().clone();
    assert_eq!(over.len(), 4, "{over:?}");
    let over = over[2..]
        .iter()
        .find(|n| n.rule == "check_critical")
        .unwrap();
    assert_eq!((over.action, &over.dedup_key), (Action::Resolve, &key));
    assert_eq!(over.check_status, Some(CheckStatus::Healthy));
    let begins = format!("check {} has recovered: it was critical for ", fleet.check);
    assert!(over.text.starts_with(&begins), "{}", over.text);
    // A new outage is a new alert.
    fleet.set(false);
    until("they are sent again", async || fleet.sent().len() >= 6).await;
}

#[tokio::test]
async fn within_a_cooldown_a_check_is_alerted_once() {
    let mut fleet = Fleet::new();
    (0..2).for_each(|_| fleet.join(Duration::from_secs(3600)));
    fleet.until_all(CheckStatus::Healthy).await;
    a_while().await;
    for times in 0..2 {
        fleet.set(false);
        fleet.until_all(CheckStatus::Critical).await;
        if times == 0 {
            until("both are sent", async || fleet.sent().len() >= 2).await;
        }
        fleet.set(true);
        fleet.until_all(CheckStatus::Healthy).await;
        until("both are over", async || fleet.sent().len() >= 4).await;
    }
    a_while().await;
    assert_eq!(fleet.sent().len(), 4, "{:?}", fleet.sent());
}
