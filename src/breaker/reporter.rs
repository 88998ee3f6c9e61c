//! The task that brings outcomes to the store.
//!
//! Owns the pace: a circuit's outcomes leave at the pace that the last answer asked for, at once
//! when they are urgent, and together with other circuits' in one pipeline: those that are nearly
//! due go along, and so circuits of one pace fall into step. What is recorded while a report is
//! under way waits for the next. A circuit without news is parked and costs nothing.
//! Invariants: however many circuits there are, a batch carries at most [`BATCH`] and at most
//! [`FLIGHTS`] are under way, each with a deadline of its own; a circuit is in one of them at most.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    cell::Cell,
    ending::Reporting,
    registry::{Shared, stopped},
};
use crate::{
    model::{Name, Release, Report, Snapshot},
    store::StoreError,
};

/// Reports that go together, and how many such batches are under way at once. A report costs Redis
/// some 50 µs on the full path, so two batches take a small part of the default `store_timeout`.
pub(super) const BATCH: usize = 64;
const FLIGHTS: usize = 2;
/// Reports a second of one process: with more circuits than that allows, the pace is slower.
const PER_SECOND: u64 = 5000;
/// How long the circuits are not looked through again, for each of them, unless one is due.
const LOOK_EACH: Duration = Duration::from_micros(5);
/// How often everything is sent at the end while the store answers.
const PASSES: u32 = 3;
/// How long after an attempt to send everything at the end the rest is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// A wait that never ends in practice.
const IDLE: Duration = Duration::from_secs(3600);
/// How long after parking a circuit it is looked at again: far longer than what a processor has
/// written can stay unseen by the others.
const SECOND_LOOK: Duration = Duration::from_millis(10);

pub(super) async fn run(
    reporting: Reporting,
    mut flushes: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut reporter = Reporter::new(Arc::clone(&reporting.0));
    let shared = &reporting.0;
    loop {
        let next = reporter.round();
        tokio::select! {
            Some(landed) = reporter.flights.join_next() => reporter.land(landed.ok()),
            () = shared.wake.notified() => {}
            () = sleep_until(next) => {}
            Some(done) = flushes.recv() => {
                reporter.send_everything().await;
                let _ = done.send(());
            }
            () = stopped(&mut stop) => return reporter.end().await,
        }
    }
}

/// A circuit whose report, or permits to be given back, are under way.
struct Aboard(Arc<Cell>, Option<Report>);

impl Aboard {
    fn new(cell: Arc<Cell>, report: Option<Report>) -> Self {
        cell.aboard.store(true, Ordering::SeqCst);
        Self(cell, report)
    }
}

impl Drop for Aboard {
    fn drop(&mut self) {
        self.0.aboard.store(false, Ordering::SeqCst);
    }
}

struct Reporter {
    shared: Arc<Shared>,
    /// Circuits that are not parked, and maybe some that are by now.
    busy: Vec<Arc<Cell>>,
    /// What leaves next, and what after that.
    urgent: VecDeque<Arc<Cell>>,
    due: VecDeque<Arc<Cell>>,
    flights: JoinSet<Vec<Aboard>>,
    /// Circuits that were parked, and since when, oldest first.
    parked: VecDeque<(Instant, Arc<Cell>)>,
    /// When the circuits were looked through, and when the next one is due.
    looked: Instant,
    next: Instant,
    /// When idle circuits are let go next.
    sweep: Instant,
}

impl Reporter {
    fn new(shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        Self {
            sweep: now + shared.sweep_every(),
            shared,
            busy: Vec::new(),
            urgent: VecDeque::new(),
            due: VecDeque::new(),
            flights: JoinSet::new(),
            parked: VecDeque::new(),
            looked: now,
            next: now + IDLE,
        }
    }

    /// Sends what is due, as far as there is room; says when there is more to do.
    fn round(&mut self) -> Instant {
        self.look_again();
        let asked = std::mem::take(&mut *self.shared.asked.lock());
        for cell in asked {
            cell.asked.store(false, Ordering::SeqCst);
            cell.parked.store(false, Ordering::SeqCst);
            if !cell.listed.swap(true, Ordering::SeqCst) {
                self.busy.push(Arc::clone(&cell));
            }
            self.look(&cell);
        }
        let now = Instant::now();
        if now >= self.sweep {
            self.look_through();
            self.shared.let_go();
            self.sweep = now + self.shared.sweep_every();
        } else if now >= self.next || self.is_loading() && now >= self.looked + self.apart() {
            self.look_through();
        }
        self.depart();
        let next = match self.is_loading() {
            // The next landing makes room.
            true => self.sweep,
            false => self.next.min(self.sweep),
        };
        let second_look = self.parked.front().map(|(since, _)| *since + SECOND_LOOK);
        next.min(second_look.unwrap_or(next))
    }

    fn is_loading(&self) -> bool {
        !self.urgent.is_empty() || !self.due.is_empty()
    }

    fn apart(&self) -> Duration {
        LOOK_EACH * u32::try_from(self.busy.len()).unwrap_or(u32::MAX)
    }

    /// Looks whether a circuit's report is due.
    fn look(&mut self, cell: &Arc<Cell>) {
        if cell.aboard.load(Ordering::SeqCst) {
            // It is looked at when it lands.
        } else if cell.urgent.load(Ordering::SeqCst) {
            self.urgent.push_back(Arc::clone(cell));
        } else if cell.is_asked_for() {
            self.due.push_back(Arc::clone(cell));
        } else {
            let now = Instant::now();
            let due = cell.due(now);
            match due.earliest <= now {
                true => self.due.push_back(Arc::clone(cell)),
                false => self.next = self.next.min(due.latest),
            }
        }
    }

    /// Looks through all that are not parked for what is due.
    fn look_through(&mut self) {
        // What waits is found once more.
        self.urgent.clear();
        self.due.clear();
        self.looked = Instant::now();
        self.next = self.looked + IDLE;
        let mut busy = std::mem::take(&mut self.busy);
        busy.retain(|cell| {
            let parked = cell.parked.load(Ordering::SeqCst);
            match parked {
                true => cell.listed.store(false, Ordering::SeqCst),
                false => self.look(cell),
            }
            !parked
        });
        self.busy = busy;
        let least = self.busy.len() as u64 * 1000 / PER_SECOND;
        self.shared.least_pace_ms.store(least, Ordering::Relaxed);
    }

    /// A caller that counted in the same moment may not have seen that the circuit was parked, nor
    /// the reporter what it counted: a fence at each call, which would show them, costs more than
    /// all the rest of it. A little later both can be seen.
    fn look_again(&mut self) {
        while let Some((since, cell)) = self.parked.front() {
            if since.elapsed() < SECOND_LOOK {
                return;
            }
            if !cell.is_quiet() {
                self.shared.activate(cell);
            }
            self.parked.pop_front();
        }
    }

    /// Sends what was found while there is room.
    fn depart(&mut self) {
        while self.flights.len() < FLIGHTS {
            let mut batch = Vec::new();
            while batch.len() < BATCH
                && let Some(cell) = self.urgent.pop_front().or_else(|| self.due.pop_front())
            {
                batch.extend(self.board(cell, false));
            }
            if batch.is_empty() {
                return;
            }
            self.flights.spawn(fly(Arc::clone(&self.shared), batch));
        }
    }

    /// What a circuit has to say to the store; a circuit without anything is parked.
    fn board(&mut self, cell: Arc<Cell>, everything: bool) -> Option<Aboard> {
        if cell.aboard.load(Ordering::SeqCst) {
            return None;
        }
        let now = Instant::now();
        let asked = cell.urgent.swap(false, Ordering::SeqCst) || cell.is_asked_for();
        let due = cell.due(now);
        if !everything && !asked && due.earliest > now {
            self.next = self.next.min(due.latest);
            return None;
        }
        if cell.is_away() {
            let busy = cell.report_locally();
            cell.stale.store(false, Ordering::SeqCst);
            cell.outbox.lock().last = Some(now);
            if busy {
                self.next = self.next.min(cell.due(now).latest);
                return None;
            }
        } else {
            let report = cell.report(everything);
            if report.is_some() || !cell.outbox.lock().releases.is_empty() {
                return Some(Aboard::new(cell, report));
            }
        }
        cell.parked.store(true, Ordering::SeqCst);
        self.parked.push_back((now, cell));
        None
    }

    /// A batch was answered, or has failed.
    fn land(&mut self, landed: Option<Vec<Aboard>>) {
        for aboard in landed.into_iter().flatten() {
            let cell = Arc::clone(&aboard.0);
            drop(aboard);
            self.look(&cell);
        }
    }

    /// Sends all that was recorded so far, and waits for the answers.
    async fn send_everything(&mut self) {
        self.settle().await;
        let mut cells = self.shared.cells().into_iter();
        loop {
            while self.flights.len() < FLIGHTS {
                let boarding = cells.by_ref().filter_map(|cell| self.board(cell, true));
                let batch: Vec<_> = boarding.take(BATCH).collect();
                if batch.is_empty() {
                    break;
                }
                self.flights.spawn(fly(Arc::clone(&self.shared), batch));
            }
            match self.flights.join_next().await {
                Some(landed) => self.land(landed.ok()),
                None => return,
            }
        }
    }

    /// Waits for what is under way.
    async fn settle(&mut self) {
        while let Some(landed) = self.flights.join_next().await {
            self.land(landed.ok());
        }
    }

    /// Sends what there is, in the time that there is for it.
    async fn end(mut self) {
        let shared = Arc::clone(&self.shared);
        for cell in shared.cells() {
            cell.put_back_spare();
        }
        let send = async {
            self.settle().await;
            let mut passes = 0;
            loop {
                shared.last_try().await;
                self.send_everything().await;
                let cells = shared.cells();
                let is_sent =
                    |cell: &Arc<Cell>| cell.tally.is_empty() && !cell.outbox.lock().is_pending();
                let is_away = cells.iter().any(|cell| cell.is_away());
                passes += u32::from(!is_away);
                // Who still calls is not waited for.
                if !is_away && (passes == PASSES || cells.iter().all(is_sent)) {
                    return;
                }
                // The store is away, and may be back in time; or what was sent is a report whose
                // answer was lost, and what was counted since is to be sent yet.
                sleep(TRY_AGAIN).await;
            }
        };
        // What is under way then is not waited for.
        let _ = timeout(shared.patience(), send).await;
    }
}

/// When a report leaves: between the two if another's does.
struct Due {
    earliest: Instant,
    latest: Instant,
}

impl Cell {
    /// When the next report leaves.
    fn due(&self, now: Instant) -> Due {
        let outbox = self.outbox.lock();
        let pace = match outbox.pace_ms {
            0 => self.policy.load().rules.report_interval_ms,
            pace => pace,
        };
        let pace = Duration::from_millis(pace);
        let [earliest, latest] = [pace * 9 / 10, pace]
            .map(|pace| outbox.last.map_or(now, |last| last + pace))
            .map(|due| outbox.alarm.map_or(due, |alarm| alarm.min(due)));
        Due { earliest, latest }
    }

    /// Whether something is to leave, whatever the pace.
    fn is_asked_for(&self) -> bool {
        self.stale.load(Ordering::SeqCst)
            || !self.is_away() && !self.outbox.lock().releases.is_empty()
    }

    pub(super) fn is_quiet(&self) -> bool {
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

/// Files the reports of a batch, and gives back its permits.
async fn fly(shared: Arc<Shared>, mut batch: Vec<Aboard>) -> Vec<Aboard> {
    let report = |aboard: &mut Aboard| Some((Arc::clone(&aboard.0), aboard.1.take()?));
    let reports: Vec<_> = batch.iter_mut().filter_map(report).collect();
    if !reports.is_empty() {
        send(&shared, &reports).await;
    }
    for aboard in &batch {
        release(&shared, &aboard.0).await;
    }
    batch
}

async fn send(shared: &Arc<Shared>, batch: &[(Arc<Cell>, Report)]) {
    let asked = Instant::now();
    let answers = shared.file(batch).await;
    let now = Instant::now();
    let mut failed = Vec::new();
    for ((cell, report), answer) in batch.iter().zip(answers) {
        cell.outbox.lock().last = Some(now);
        if let Err(error) = cell.answered(report.seq, answer, asked) {
            failed.push((cell, error));
        }
    }
    shared.store_failed(&failed);
}

impl Cell {
    /// Takes an answer; gives back the error that concerns more than this report.
    fn answered(
        self: &Arc<Self>,
        number: u64,
        answer: Result<Snapshot, StoreError>,
        asked: Instant,
    ) -> Result<(), StoreError> {
        match answer {
            Ok(snapshot) => {
                self.delivered(number, snapshot.pace_ms);
                self.take_shared(&snapshot, asked);
            }
            Err(StoreError::Invalid(why)) => self.lose_report(number, &why),
            Err(error) => return Err(error),
        }
        Ok(())
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
                if let Err(error) = self.answered(number, answer, asked) {
                    self.shared.store_failed(&[(self, error)]);
                }
            }
        }
        if !self.outbox.lock().releases.is_empty() {
            self.shared.attend(self);
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
                shared.store_failed(&[(cell, error)]);
            }
        }
    }
}
