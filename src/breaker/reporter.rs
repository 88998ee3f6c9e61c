//! The task that brings outcomes to the store.
//!
//! Owns the pace: a circuit's outcomes leave at the pace that the last answer asked for, at once
//! when they are urgent, and together with other circuits' in one pipeline. What is recorded while
//! a report is under way waits for the next. A circuit without news is parked and costs nothing.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use super::{
    cell::Cell,
    registry::{Shared, stopped},
};
use crate::{
    model::{Name, Release, Report},
    store::StoreError,
};

/// A wait that never ends in practice.
const IDLE: Duration = Duration::from_secs(3600);

pub(super) async fn run(
    shared: Arc<Shared>,
    mut flushes: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let next = round(&shared, false).await;
        tokio::select! {
            () = shared.wake.notified() => {}
            () = sleep_until(next) => {}
            Some(done) = flushes.recv() => {
                round(&shared, true).await;
                let _ = done.send(());
            }
            () = stopped(&mut stop) => {
                shared.last_try().await;
                round(&shared, true).await;
                let unsent = |cell: &&Arc<Cell>| cell.is_away() || cell.outbox.lock().pending.is_some();
                let unsent = shared.cells().iter().filter(unsent).count();
                if unsent > 0 {
                    tracing::warn!(circuits = unsent, "outcomes are lost: the store is away at shutdown");
                }
                return shared.forget();
            }
        }
    }
}

/// Sends what is due, or `everything`; says when the next is due.
async fn round(shared: &Arc<Shared>, everything: bool) -> Instant {
    let cells = if everything {
        shared.cells()
    } else {
        shared.active.lock().clone()
    };
    let now = Instant::now();
    let mut next = now + IDLE;
    let mut batch: Vec<(Arc<Cell>, Report)> = Vec::new();
    for cell in cells {
        let asked = cell.urgent.swap(false, Ordering::SeqCst) || cell.stale.load(Ordering::SeqCst);
        let due = cell.due();
        if !everything && !asked && due > now {
            next = next.min(due);
            continue;
        }
        if cell.is_away() {
            let busy = cell.report_locally();
            cell.stale.store(false, Ordering::SeqCst);
            cell.outbox.lock().last = Some(now);
            if busy {
                next = next.min(cell.due());
            } else {
                park(shared, &cell);
            }
        } else if let Some(report) = cell.report() {
            batch.push((cell, report));
        } else if cell.outbox.lock().releases.is_empty() {
            park(shared, &cell);
        }
    }
    if !batch.is_empty() {
        send(shared, &batch).await;
        let due = batch.iter().map(|(cell, _)| cell.due()).min();
        next = next.min(due.unwrap_or(next));
    }
    release(shared).await;
    next
}

impl Cell {
    /// When the next report may leave.
    fn due(&self) -> Instant {
        let outbox = self.outbox.lock();
        let pace = match outbox.pace_ms {
            0 => self.policy.load().rules.report_interval_ms,
            pace => pace,
        };
        outbox
            .last
            .map_or_else(Instant::now, |last| last + Duration::from_millis(pace))
    }

    fn is_quiet(&self) -> bool {
        let outbox = self.outbox.lock();
        let for_store = !outbox.late.is_empty()
            || !outbox.settled.is_empty()
            || self.stale.load(Ordering::SeqCst);
        self.tally.counts().is_empty()
            && outbox.settled_locally.is_empty()
            && !self.urgent.load(Ordering::SeqCst)
            && (self.is_away() || !for_store)
    }
}

/// Stops looking after a circuit, unless something was recorded in the same moment.
fn park(shared: &Arc<Shared>, cell: &Arc<Cell>) {
    shared
        .active
        .lock()
        .retain(|other| !Arc::ptr_eq(other, cell));
    cell.parked.store(true, Ordering::SeqCst);
    if !cell.is_quiet() {
        shared.activate(cell);
    }
}

async fn send(shared: &Arc<Shared>, batch: &[(Arc<Cell>, Report)]) {
    let reports: Vec<(Name, Report)> = batch
        .iter()
        .map(|(cell, report)| (cell.name.clone(), report.clone()))
        .collect();
    let answers = match shared.in_time(shared.store.report(&reports)).await {
        Ok(answers) => answers,
        Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
    };
    let now = Instant::now();
    for ((cell, _), answer) in batch.iter().zip(answers) {
        cell.outbox.lock().last = Some(now);
        match answer {
            Ok(snapshot) => {
                cell.delivered(snapshot.pace_ms);
                cell.take_shared(&snapshot);
            }
            Err(StoreError::Invalid(why)) => cell.lose_report(&why),
            Err(error) => shared.store_failed(cell, &error),
        }
    }
}

/// Gives back probe permits whose calls said nothing.
async fn release(shared: &Arc<Shared>) {
    for cell in shared.cells() {
        while !cell.is_away() {
            let Some(token) = cell.outbox.lock().releases.pop() else {
                break;
            };
            let request = Release {
                head: cell.head(),
                token,
            };
            let answer = shared.store.release(&cell.name, &request);
            match shared.in_time(answer).await {
                Ok(snapshot) => cell.take_shared(&snapshot),
                Err(error) => {
                    cell.outbox.lock().releases.push(request.token);
                    shared.store_failed(&cell, &error);
                }
            }
        }
    }
}
