//! The task that sends outcomes to the store.
//!
//! Owns the pace. A circuit's outcomes leave at the pace that the last answer asked for, or at once
//! if they are urgent. They share a pipeline with those of other circuits, including circuits that
//! are nearly due, so circuits of one pace fall into step. Outcomes recorded while a report is in
//! flight wait for the next one. A circuit without news is parked and costs nothing.
//! Invariants: however many circuits there are, a batch carries a bounded number and at most
//! [`FLIGHTS`] are in flight, each with its own deadline; a circuit is in at most one of them.

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
    ending::Reporting,
    inner::CircuitInner,
    shared::{Shared, stopped},
};
use crate::{
    model::{Name, Release, Report, Snapshot},
    store::StoreError,
};

/// Batches of reports in flight at once. A report costs Redis some 50 µs on the full path, so two
/// batches take a small part of the default `store_timeout`.
const FLIGHTS: usize = 2;
/// Reports a second of one process; with more circuits than that allows, the pace is slower.
const PER_SECOND: u64 = 5000;
/// The minimum time between two passes over all circuits, for each circuit, unless one is due.
const LOOK_EACH: Duration = Duration::from_micros(5);
/// How many times everything is sent at the end while the store answers.
const PASSES: u32 = 3;
/// How long to wait between two attempts to send everything at the end.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// A wait that never ends in practice.
const IDLE: Duration = Duration::from_secs(3600);
/// How long after parking a circuit to look at it again: far longer than what one processor has
/// written can stay invisible to the others.
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

/// A circuit whose report, or whose permits to give back, are in flight.
struct Aboard(Arc<CircuitInner>, Option<Report>);

impl Aboard {
    fn new(inner: Arc<CircuitInner>, report: Option<Report>) -> Self {
        inner.aboard.store(true, Ordering::SeqCst);
        Self(inner, report)
    }
}

impl Drop for Aboard {
    fn drop(&mut self) {
        self.0.aboard.store(false, Ordering::SeqCst);
    }
}

struct Reporter {
    shared: Arc<Shared>,
    /// Circuits that are not parked, and maybe some that have been parked since.
    busy: Vec<Arc<CircuitInner>>,
    /// The circuits that leave next, and those after them.
    urgent: VecDeque<Arc<CircuitInner>>,
    due: VecDeque<Arc<CircuitInner>>,
    /// How many circuits have left since the circuits were last looked through.
    left: usize,
    flights: JoinSet<Vec<Aboard>>,
    /// Parked circuits with the time of parking, oldest first.
    parked: VecDeque<(Instant, Arc<CircuitInner>)>,
    /// When the circuits were last looked through, and when the next one is due.
    looked: Instant,
    next: Instant,
    /// When idle circuits are removed next.
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
            left: 0,
            flights: JoinSet::new(),
            parked: VecDeque::new(),
            looked: now,
            next: now + IDLE,
        }
    }

    /// Sends what is due, as far as there is room; returns when there is more to do.
    fn round(&mut self) -> Instant {
        self.look_again();
        let asked = std::mem::take(&mut *self.shared.asked.lock());
        for inner in asked {
            inner.asked.store(false, Ordering::SeqCst);
            inner.parked.store(false, Ordering::SeqCst);
            if !inner.listed.swap(true, Ordering::SeqCst) {
                self.busy.push(Arc::clone(&inner));
            }
            self.look(&inner);
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

    /// Checks whether a circuit's report is due.
    fn look(&mut self, inner: &Arc<CircuitInner>) {
        if inner.aboard.load(Ordering::SeqCst) {
            // It is looked at when it lands.
        } else if inner.urgent.load(Ordering::SeqCst) {
            self.urgent.push_back(Arc::clone(inner));
        } else if inner.is_asked_for() {
            self.due.push_back(Arc::clone(inner));
        } else {
            let now = Instant::now();
            let due = inner.due(now);
            match due.earliest <= now {
                true => self.due.push_back(Arc::clone(inner)),
                false => self.next = self.next.min(due.latest),
            }
        }
    }

    /// Checks all circuits that are not parked.
    fn look_through(&mut self) {
        // Waiting circuits are found again.
        self.urgent.clear();
        self.due.clear();
        self.looked = Instant::now();
        self.next = self.looked + IDLE;
        let mut busy = std::mem::take(&mut self.busy);
        // Those that have left go to the end, so that a slow store serves all in turn.
        let left = std::mem::take(&mut self.left).min(busy.len());
        busy.rotate_left(left);
        busy.retain(|inner| {
            let parked = inner.parked.load(Ordering::SeqCst);
            match parked {
                true => inner.listed.store(false, Ordering::SeqCst),
                false => self.look(inner),
            }
            !parked
        });
        self.busy = busy;
        let least = self.busy.len() as u64 * 1000 / PER_SECOND;
        self.shared.least_pace_ms.store(least, Ordering::Relaxed);
    }

    /// A caller that counted at the same moment may not have seen that the circuit was parked, and
    /// the reporter may not have seen the count. A fence in each call would prevent that, but costs
    /// more than the rest of the call. A little later, both are visible.
    fn look_again(&mut self) {
        while let Some((since, inner)) = self.parked.front() {
            if since.elapsed() < SECOND_LOOK {
                return;
            }
            if !inner.is_quiet() {
                self.shared.activate(inner);
            }
            self.parked.pop_front();
        }
    }

    /// Sends the circuits that were found, while there is room.
    fn depart(&mut self) {
        while self.flights.len() < FLIGHTS {
            let mut batch = Vec::new();
            while batch.len() < self.shared.batch_size.get()
                && let Some(inner) = self.urgent.pop_front().or_else(|| self.due.pop_front())
            {
                self.left += 1;
                batch.extend(self.board(inner, false));
            }
            if batch.is_empty() {
                return;
            }
            self.flights.spawn(fly(Arc::clone(&self.shared), batch));
        }
    }

    /// What a circuit has to send; parks a circuit without anything to send.
    fn board(&mut self, inner: Arc<CircuitInner>, everything: bool) -> Option<Aboard> {
        if inner.aboard.load(Ordering::SeqCst) {
            return None;
        }
        let now = Instant::now();
        let asked = inner.urgent.swap(false, Ordering::SeqCst) || inner.is_asked_for();
        let due = inner.due(now);
        if !everything && !asked && due.earliest > now {
            self.next = self.next.min(due.latest);
            return None;
        }
        if inner.is_unavailable() {
            let busy = inner.report_locally();
            inner.stale.store(false, Ordering::SeqCst);
            inner.outbox.lock().last = Some(now);
            if busy {
                self.next = self.next.min(inner.due(now).latest);
                return None;
            }
        } else {
            let report = inner.report(everything);
            if report.is_some() || !inner.outbox.lock().releases.is_empty() {
                return Some(Aboard::new(inner, report));
            }
        }
        inner.parked.store(true, Ordering::SeqCst);
        self.parked.push_back((now, inner));
        None
    }

    /// Handles a batch that was answered or has failed.
    fn land(&mut self, landed: Option<Vec<Aboard>>) {
        for aboard in landed.into_iter().flatten() {
            let inner = Arc::clone(&aboard.0);
            drop(aboard);
            self.look(&inner);
        }
    }

    /// Sends everything recorded so far, and waits for the answers.
    async fn send_everything(&mut self) {
        self.settle().await;
        let mut inners = self.shared.inners().into_iter();
        loop {
            while self.flights.len() < FLIGHTS {
                let size = self.shared.batch_size.get();
                let boarding = inners.by_ref().filter_map(|inner| self.board(inner, true));
                let batch: Vec<_> = boarding.take(size).collect();
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

    /// Waits for the batches in flight.
    async fn settle(&mut self) {
        while let Some(landed) = self.flights.join_next().await {
            self.land(landed.ok());
        }
    }

    /// Sends what is left, within the time allowed.
    async fn end(mut self) {
        let shared = Arc::clone(&self.shared);
        for inner in shared.inners() {
            inner.put_back_spare();
        }
        let send = async {
            self.settle().await;
            let mut passes = 0;
            loop {
                shared.last_try().await;
                self.send_everything().await;
                let inners = shared.inners();
                let is_sent = |inner: &Arc<CircuitInner>| {
                    inner.tally.is_empty() && inner.outbox.lock().is_done()
                };
                let is_unavailable = inners.iter().any(|inner| inner.is_unavailable());
                passes += u32::from(!is_unavailable);
                // Does not wait for callers that still make calls.
                if !is_unavailable && (passes == PASSES || inners.iter().all(is_sent)) {
                    return;
                }
                // Either the store is unavailable, and may be back in time; or the report just sent
                // was one whose answer had been lost, and later counts are still to be sent.
                sleep(TRY_AGAIN).await;
            }
        };
        // Does not wait for what is still in flight then.
        let _ = timeout(shared.patience(), send).await;
    }
}

/// When a report leaves: at `latest`, or from `earliest` on if another circuit's report leaves.
struct Due {
    earliest: Instant,
    latest: Instant,
}

impl CircuitInner {
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

    /// Whether something must leave, whatever the pace.
    fn is_asked_for(&self) -> bool {
        self.stale.load(Ordering::SeqCst)
            || !self.is_unavailable() && !self.outbox.lock().releases.is_empty()
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
            && (self.is_unavailable() || !for_store)
    }
}

impl Shared {
    /// Files reports; returns one answer for each.
    pub(super) async fn file(
        &self,
        batch: &[(Arc<CircuitInner>, Report)],
    ) -> Vec<Result<Snapshot, StoreError>> {
        let reports: Vec<(Name, Report)> = batch
            .iter()
            .map(|(inner, report)| (inner.name.clone(), report.clone()))
            .collect();
        let began = Instant::now();
        let answers = self.in_time(self.store.report(&reports)).await;
        let took = began.elapsed();
        self.outage.note_round_trip(took);
        self.batch_size.note(batch.len(), took, self.store_timeout);
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
        };
        for ((inner, _), answer) in batch.iter().zip(&answers) {
            inner.noted.lock().note_report(answer.is_ok(), took);
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

async fn send(shared: &Arc<Shared>, batch: &[(Arc<CircuitInner>, Report)]) {
    let asked = Instant::now();
    let answers = shared.file(batch).await;
    let now = Instant::now();
    let mut failed = Vec::new();
    for ((inner, report), answer) in batch.iter().zip(answers) {
        inner.outbox.lock().last = Some(now);
        if let Err(error) = inner.answered(report.seq, answer, asked) {
            failed.push((inner, error));
        }
    }
    shared.store_failed(&failed);
}

impl CircuitInner {
    /// Handles an answer; returns an error if it concerns more than this report.
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

    /// Files outcomes in a store of this process: first the unanswered report, then what was
    /// recorded after it.
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

    /// Files what was recorded before the store is asked.
    pub(super) async fn file_first(self: &Arc<Self>) {
        for _ in 0..2 {
            let Some(report) = self.report(false) else {
                return;
            };
            send(&self.shared, &[(Arc::clone(self), report)]).await;
            if self.is_unavailable() {
                return;
            }
        }
    }
}

/// Gives back probe permits whose calls had no outcome.
async fn release(shared: &Arc<Shared>, inner: &Arc<CircuitInner>) {
    while !inner.is_unavailable() {
        let Some(token) = inner.outbox.lock().releases.pop() else {
            break;
        };
        let request = Release {
            head: inner.head(),
            token,
        };
        let asked = Instant::now();
        let answer = shared.store.release(&inner.name, &request);
        match shared.in_time(answer).await {
            Ok(snapshot) => inner.take_shared(&snapshot, asked),
            Err(error) => {
                inner.outbox.lock().releases.push(request.token);
                shared.store_failed(&[(inner, error)]);
            }
        }
    }
}
