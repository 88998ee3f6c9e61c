//! The task that brings outcomes to the store.
//!
//! Owns the pace: a circuit's outcomes leave at the pace that the last answer asked for, at once
//! when they are urgent, and together with other circuits' in one pipeline: those that are nearly
//! due go along, and so circuits of one pace fall into step. What is recorded while a report is
//! under way waits for the next. A circuit without news is parked and costs nothing.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use super::{
    cell::Cell,
    registry::{Shared, stopped},
};
use crate::{
    model::{Name, Release, Report, Snapshot},
    store::StoreError,
};

/// A wait that never ends in practice.
const IDLE: Duration = Duration::from_secs(3600);
/// How long after parking a circuit it is looked at again: far longer than what a processor has
/// written can stay unseen by the others.
const SECOND_LOOK: Duration = Duration::from_millis(10);

/// Circuits that were parked, and since when, oldest first.
type Parked = VecDeque<(Instant, Arc<Cell>)>;

pub(super) async fn run(
    shared: Arc<Shared>,
    mut flushes: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut parked = Parked::new();
    loop {
        let next = round(&shared, false, &mut parked).await;
        tokio::select! {
            () = shared.wake.notified() => {}
            () = sleep_until(next) => {}
            Some(done) = flushes.recv() => {
                round(&shared, true, &mut parked).await;
                let _ = done.send(());
            }
            () = stopped(&mut stop) => {
                shared.last_try().await;
                round(&shared, true, &mut parked).await;
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
async fn round(shared: &Arc<Shared>, everything: bool, parked: &mut Parked) -> Instant {
    look_again(shared, parked);
    let cells = if everything {
        shared.cells()
    } else {
        shared.active.lock().clone()
    };
    let now = Instant::now();
    let mut next = now + IDLE;
    let mut batch: Vec<(Arc<Cell>, Report)> = Vec::new();
    let mut quiet = Vec::new();
    for cell in &cells {
        let asked = cell.urgent.swap(false, Ordering::SeqCst) || cell.stale.load(Ordering::SeqCst);
        let due = cell.due();
        if !everything && !asked && due.earliest > now {
            next = next.min(due.latest);
            continue;
        }
        if cell.is_away() {
            let busy = cell.report_locally();
            cell.stale.store(false, Ordering::SeqCst);
            cell.outbox.lock().last = Some(now);
            if busy {
                next = next.min(cell.due().latest);
            } else {
                quiet.push(Arc::clone(cell));
            }
        } else if let Some(report) = cell.report(everything) {
            batch.push((Arc::clone(cell), report));
        } else if cell.outbox.lock().releases.is_empty() {
            quiet.push(Arc::clone(cell));
        }
    }
    shared.park(&quiet);
    parked.extend(quiet.into_iter().map(|cell| (now, cell)));
    if !batch.is_empty() {
        send(shared, &batch).await;
        let due = batch.iter().map(|(cell, _)| cell.due().latest).min();
        next = next.min(due.unwrap_or(next));
    }
    for cell in &cells {
        release(shared, cell).await;
    }
    let second_look = parked.front().map(|(since, _)| *since + SECOND_LOOK);
    next.min(second_look.unwrap_or(next))
}

/// When a report leaves: between the two if another's does.
struct Due {
    earliest: Instant,
    latest: Instant,
}

impl Cell {
    /// When the next report leaves.
    fn due(&self) -> Due {
        let outbox = self.outbox.lock();
        let pace = match outbox.pace_ms {
            0 => self.policy.load().rules.report_interval_ms,
            pace => pace,
        };
        let pace = Duration::from_millis(pace);
        let [earliest, latest] = [pace * 9 / 10, pace]
            .map(|pace| outbox.last.map_or_else(Instant::now, |last| last + pace))
            .map(|due| outbox.alarm.map_or(due, |alarm| alarm.min(due)));
        Due { earliest, latest }
    }

    fn is_quiet(&self) -> bool {
        let outbox = self.outbox.lock();
        let for_store = !outbox.late.is_empty()
            || !outbox.settled.is_empty()
            || !outbox.releases.is_empty()
            || self.stale.load(Ordering::SeqCst);
        self.tally.is_empty()
            && outbox.settled_locally.is_empty()
            && !self.urgent.load(Ordering::SeqCst)
            && (self.is_away() || !for_store)
    }
}

/// A caller that counted in the same moment may not have seen that the circuit was parked, nor the
/// reporter what it counted: a fence at each call, which would show them, costs more than all the
/// rest of it. A little later both can be seen.
fn look_again(shared: &Arc<Shared>, parked: &mut Parked) {
    while let Some((since, cell)) = parked.front() {
        if since.elapsed() < SECOND_LOOK {
            return;
        }
        if !cell.is_quiet() {
            shared.activate(cell);
        }
        parked.pop_front();
    }
}

impl Shared {
    /// Files reports; one answer each.
    pub(super) async fn file(
        &self,
        batch: &[(Arc<Cell>, Report)],
    ) -> Vec<Result<Snapshot, StoreError>> {
        let reports: Vec<(Name, Report)> = batch
            .iter()
            .map(|(cell, report)| (cell.name.clone(), report.clone()))
            .collect();
        let began = Instant::now();
        let answers = self.in_time(self.store.report(&reports)).await;
        let took = began.elapsed();
        self.link.note_round_trip(took);
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
        };
        for ((cell, _), answer) in batch.iter().zip(&answers) {
            cell.noted.lock().note_report(answer.is_ok(), took);
        }
        answers
    }
}

async fn send(shared: &Arc<Shared>, batch: &[(Arc<Cell>, Report)]) {
    let asked = Instant::now();
    let answers = shared.file(batch).await;
    let now = Instant::now();
    for ((cell, report), answer) in batch.iter().zip(answers) {
        cell.outbox.lock().last = Some(now);
        cell.answered(report.seq, answer, asked);
    }
}

impl Cell {
    fn answered(
        self: &Arc<Self>,
        number: u64,
        answer: Result<Snapshot, StoreError>,
        asked: Instant,
    ) {
        match answer {
            Ok(snapshot) => {
                self.delivered(number, snapshot.pace_ms);
                self.take_shared(&snapshot, asked);
            }
            Err(StoreError::Invalid(why)) => self.lose_report(number, &why),
            Err(error) => self.shared.store_failed(self, &error),
        }
    }

    /// Files what was recorded in a store of this process: what awaits its answer elsewhere, and
    /// what came after it.
    pub(super) fn file_here(self: &Arc<Self>) {
        for _ in 0..2 {
            let Some(report) = self.report(false) else {
                break;
            };
            let (number, asked) = (report.seq, Instant::now());
            let batch = [(self.name.clone(), report)];
            let Some(Ok(answers)) = self.shared.store.report(&batch).now_or_never() else {
                break;
            };
            for answer in answers {
                self.noted
                    .lock()
                    .note_report(answer.is_ok(), Duration::ZERO);
                self.answered(number, answer, asked);
            }
        }
        if !self.outbox.lock().releases.is_empty() {
            self.shared.activate(self);
            self.shared.wake.notify_one();
        }
    }

    /// Files what was recorded before a question is asked.
    pub(super) async fn file_first(self: &Arc<Self>) {
        for _ in 0..2 {
            let Some(report) = self.report(false) else {
                return;
            };
            send(&self.shared, &[(Arc::clone(self), report)]).await;
            if self.is_away() {
                return;
            }
        }
    }
}

/// Gives back probe permits whose calls said nothing.
async fn release(shared: &Arc<Shared>, cell: &Arc<Cell>) {
    while !cell.is_away() {
        let Some(token) = cell.outbox.lock().releases.pop() else {
            break;
        };
        let request = Release {
            head: cell.head(),
            token,
        };
        let asked = Instant::now();
        let answer = shared.store.release(&cell.name, &request);
        match shared.in_time(answer).await {
            Ok(snapshot) => cell.take_shared(&snapshot, asked),
            Err(error) => {
                cell.outbox.lock().releases.push(request.token);
                shared.store_failed(cell, &error);
            }
        }
    }
}
