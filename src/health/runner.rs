//! The task of one check in one replica.
//!
//! Owns which replica runs the check: each interval, the lease in the store decides. Its holder
//! runs the check and keeps the report; the other replicas read the report. While the store is
//! unavailable, each replica runs the check for itself. Invariant: a run changes the circuit and
//! the report only while its replica has the lease. The store checks the lease when it writes the
//! report, and the circuit is told after that.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use super::{board::Board, check::Check};
use crate::{
    Outcome, Permit, Rejection, StoreError,
    breaker::Watch,
    model::millis,
    operator::{CheckReport, CheckRun, CheckStatus, INDEX, Index, KEPT_MS, Operator, index},
    store::in_words,
};

/// How often a check's entry in the index is renewed.
const INDEX_EVERY: Duration = Duration::from_secs(60);
/// How long a replica may hold the lease that it needs to change the index.
const INDEX_LEASE_MS: u64 = 5_000;
/// The earliest time to look again at a circuit that is not closed, unless a run is due before.
const SOONEST: Duration = Duration::from_secs(1);

/// How often the replica with the lease looks for requests of other processes.
const WANTED_LOOKS: Duration = Duration::from_secs(1);

/// Requests a run. The answer is its report, or `None` if another replica has to run the check.
pub(super) type Asker = mpsc::UnboundedSender<oneshot::Sender<Option<CheckReport>>>;
type Asked = mpsc::UnboundedReceiver<oneshot::Sender<Option<CheckReport>>>;

pub(super) struct Runner {
    watch: Watch,
    operator: Operator,
    check: Check,
    /// The owner of the lease: this monitor in this replica.
    owner: String,
    board: Arc<Board>,
    place: usize,
    /// The report as this replica knows it.
    report: CheckReport,
    /// Whether this replica had the lease when it last asked.
    has_lease: bool,
    /// Whether the last round ran the check.
    has_run: bool,
    /// When the run that is now being made was requested.
    wanted_ms: Option<u64>,
    indexed: Option<Instant>,
}

impl Runner {
    pub(super) fn new(
        watch: Watch,
        operator: Operator,
        check: Check,
        board: Arc<Board>,
        place: usize,
    ) -> Self {
        let owner = format!("{}/{:08x}", watch.replica(), fastrand::u32(..));
        let report = board.report(place);
        Self {
            watch,
            operator,
            check,
            owner,
            board,
            place,
            report,
            has_lease: false,
            has_run: false,
            wanted_ms: None,
            indexed: None,
        }
    }

    /// Continues until the monitor or the registry ends, and then returns the lease, so that
    /// another replica can take over at once.
    pub(super) async fn run(mut self, asked: Asked, mut stop: watch::Receiver<bool>) {
        let watch = self.watch.clone();
        let ended = async {
            tokio::select! {
                // Also when the monitor is dropped.
                _ = stop.wait_for(|stop| *stop) => {}
                () = watch.ended() => {}
            }
        };
        tokio::select! {
            () = ended => {}
            () = self.go_on(asked) => {}
        }
        let key = CheckReport::key(&self.check.name);
        // If this fails, the lease expires on its own.
        let _ = self.watch.store().lease(&key, &self.owner, 0).await;
    }

    async fn go_on(&mut self, mut asked: Asked) {
        let interval = self.check.interval;
        // A random delay, so that a fleet that starts together does not ask together.
        let mut due = Instant::now() + interval.mul_f64(fastrand::f64() / 10.0);
        let (mut next, mut look) = (due, Instant::now() + WANTED_LOOKS);
        loop {
            let (is_due, answer) = tokio::select! {
                () = sleep_until(next) => (next == due, None),
                () = sleep_until(look), if self.has_lease => {
                    look = Instant::now() + WANTED_LOOKS;
                    self.wanted_ms = self.wanted().await;
                    if self.wanted_ms.is_none() {
                        continue;
                    }
                    (true, None)
                }
                // Disabled once the monitor is dropped.
                Some(answer) = asked.recv() => (true, Some(answer)),
            };
            let now = Instant::now();
            if is_due {
                due = now + interval.mul_f64(0.95 + fastrand::f64() / 10.0);
            }
            self.has_run = false;
            let soon = self.round(is_due).await;
            self.wanted_ms = None;
            if let Some(answer) = answer {
                // The caller may be gone.
                let _ = answer.send(self.has_run.then(|| self.report.clone()));
            }
            next = soon.map_or(due, |soon| due.min(now + soon.max(SOONEST)));
        }
    }

    /// Returns when a pending run was requested. If the store does not answer, the next look asks
    /// again.
    async fn wanted(&self) -> Option<u64> {
        let wanted = self.report.wanted(self.watch.store()).await;
        wanted.ok().flatten()
    }

    /// Asks for the lease, and runs the check or reads its report. Returns how soon to look again,
    /// if that may be before the next run is due.
    async fn round(&mut self, is_due: bool) -> Option<Duration> {
        let had_lease = self.has_lease;
        // Taken before the store is asked, so the lease does not end earlier.
        let until = Instant::now() + self.lease_time();
        let lease = self.lease().await;
        self.has_lease = matches!(lease, Ok(true));
        match lease {
            Ok(true) => {
                // Continue from the others' last report, also after the store was unavailable.
                if !had_lease && let Ok(Some(report)) = self.read().await {
                    self.report = report;
                }
                self.ask(is_due, Some(until)).await
            }
            Ok(false) => {
                if let Ok(Some(report)) = self.read().await {
                    self.report = report;
                    self.show();
                }
                None
            }
            Err(error) => {
                let (check, error) = (&self.check.name, in_words(&error));
                tracing::debug!(
                    check,
                    error,
                    "the store is unavailable: this replica runs the check for itself"
                );
                self.ask(is_due, None).await
            }
        }
    }

    fn lease_time(&self) -> Duration {
        self.check.interval * 2 + self.check.timeout
    }

    /// Renewed every round. Rounds are an interval apart, or as long as a run takes, so the lease
    /// outlasts a round that comes late.
    async fn lease(&self) -> Result<bool, StoreError> {
        let key = CheckReport::key(&self.check.name);
        let store = self.watch.store();
        let lease = millis(self.lease_time());
        store.lease(&key, &self.owner, lease).await
    }

    async fn read(&self) -> Result<Option<CheckReport>, StoreError> {
        CheckReport::read(self.watch.store(), &self.check.name).await
    }

    /// Runs the check and keeps its report. If the check has a circuit, the run holds a permit when
    /// the circuit grants one. When no run is due, runs only as a probe of the circuit.
    ///
    /// `until` is when this replica's lease ends; `None` if it runs the check for itself alone.
    async fn ask(&mut self, is_due: bool, until: Option<Instant>) -> Option<Duration> {
        let leave = match &self.check.circuit {
            Some(circuit) => Some(circuit.acquire_uncounted().await.map(Leave::of)),
            None => None,
        };
        if !is_due && !matches!(&leave, Some(Ok(leave)) if leave.is_probe()) {
            return leave?.err()?.retry_after;
        }
        let ran = self.check.run().await;
        let at_ms = match until {
            None => self.watch.unix_ms(),
            Some(_) => match self.operator.now_ms().await {
                Ok(now_ms) => now_ms,
                Err(_) => self.watch.unix_ms(),
            },
        };
        let mut run = CheckRun::default();
        (run.at_ms, run.passed, run.took_us) = (at_ms, ran.error.is_none(), ran.took_us);
        let report = self.filed(run, ran.error);
        let is_mine = match until {
            None => {
                self.report = report;
                self.report.local = true;
                self.show();
                true
            }
            Some(until) => self.keep(report, until).await,
        };
        if !is_mine {
            // Another replica has the lease and runs the check.
            let check = &self.check.name;
            tracing::warn!(check, "a run outlived its lease and was discarded");
            self.has_lease = false;
            return None;
        }
        self.has_run = true;
        let bad = self.check.thresholds.is_bad(&run);
        let critical = self.report.status == CheckStatus::Critical;
        leave.and_then(|leave| settle(leave, bad, critical))
    }

    /// Returns the report with one more run.
    fn filed(&self, run: CheckRun, error: Option<String>) -> CheckReport {
        let (check, mut report) = (&self.check, self.report.clone());
        report.local = false;
        report.circuit = check.circuit.as_ref().map(|c| c.name().to_owned());
        report.replica = self.watch.replica().to_owned();
        report.interval_ms = millis(check.interval);
        report.timeout_ms = millis(check.timeout);
        report.last_run_ms = run.at_ms;
        report.latency_us = Some(run.took_us);
        report.runs = report.runs.saturating_add(1);
        report.requested_ms = self.wanted_ms.unwrap_or(report.requested_ms);
        match error {
            None => {
                report.last_pass_ms = run.at_ms;
                report.consecutive_failures = 0;
            }
            Some(error) => {
                report.last_error = Some(error);
                report.consecutive_failures = report.consecutive_failures.saturating_add(1);
                report.failures = report.failures.saturating_add(1);
            }
        }
        report.history.push(run);
        let beyond = report.history.len().saturating_sub(check.history);
        report.history.drain(..beyond);
        check.thresholds.judge(&mut report);
        let (status, at_ms) = (report.status, run.at_ms);
        report
            .unhealthy
            .go_on(status >= CheckStatus::Warning, at_ms);
        report
            .critical
            .go_on(status == CheckStatus::Critical, at_ms);
        report
    }

    /// Keeps a report in the store and shows it here; does neither and returns `false` if the lease
    /// is over.
    async fn keep(&mut self, mut report: CheckReport, until: Instant) -> bool {
        match self.write(&report).await {
            Ok(true) => {}
            Ok(false) => return false,
            Err(error) => {
                report.local = true;
                let (check, error) = (&self.check.name, in_words(&error));
                tracing::debug!(
                    check,
                    error,
                    "the store did not accept the report of a check"
                );
            }
        }
        // If the store could not check the lease, the clock does.
        if Instant::now() >= until {
            return false;
        }
        self.report = report;
        self.show();
        true
    }

    /// Writes a report while this replica has the lease; returns whether it had.
    async fn write(&mut self, report: &CheckReport) -> Result<bool, StoreError> {
        let (store, name) = (self.watch.store(), &self.check.name);
        let key = CheckReport::key(name);
        let bytes = encode(report)?;
        let kept = store.keep_leased(&key, &self.owner, &bytes, KEPT_MS);
        if !kept.await? {
            return Ok(false);
        }
        if self.indexed.is_some_and(|at| at.elapsed() < INDEX_EVERY) {
            return Ok(true);
        }
        // One replica at a time, because concurrent changes would overwrite each other. A replica
        // that does not get the lease, or loses it, tries again after its next run.
        if store.lease(INDEX, &self.owner, INDEX_LEASE_MS).await? {
            let mut names: Index = index(store).await?;
            let now_ms = report.last_run_ms;
            names.retain(|_, at| now_ms.saturating_sub(*at) < KEPT_MS);
            names.insert(name.clone(), now_ms);
            let bytes = encode(&names)?;
            let kept = store.keep_leased(INDEX, &self.owner, &bytes, KEPT_MS);
            if kept.await? {
                store.lease(INDEX, &self.owner, 0).await?;
                self.indexed = Some(Instant::now());
            }
        }
        Ok(true)
    }

    fn show(&self) {
        self.board.put(self.place, self.report.clone());
    }
}

/// A circuit's permit for a run. A run without effect on the circuit, including one that is dropped
/// half-way, gives the permit back: it was not a user's call, so it is not counted.
struct Leave(Option<Permit>);

impl Leave {
    const fn of(permit: Permit) -> Self {
        Self(Some(permit))
    }

    fn is_probe(&self) -> bool {
        self.0.as_ref().is_some_and(Permit::is_probe)
    }

    fn record(mut self, outcome: Outcome) {
        if let Some(permit) = self.0.take() {
            permit.record(outcome);
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Some(permit) = self.0.take() {
            permit.put_back();
        }
    }
}

/// The failure kind of a bad run.
const HEALTH_CHECK: &str = "health check";

/// Records a run in the circuit. Returns how soon to run again, if that is not an interval later.
fn settle(leave: Result<Leave, Rejection>, bad: bool, critical: bool) -> Option<Duration> {
    match leave {
        Ok(leave) if leave.is_probe() => {
            leave.record(match bad {
                true => Outcome::failure_of(HEALTH_CHECK),
                false => Outcome::Success,
            });
            Some(SOONEST)
        }
        // Requires that this run was bad, too: after recovery, the circuit stays closed although
        // the history is still full of failures.
        Ok(leave) if bad && critical => {
            leave.record(Outcome::trip_of(HEALTH_CHECK));
            Some(SOONEST)
        }
        Ok(_) => None,
        // The circuit is open; run again when it can be probed.
        Err(rejection) => rejection.retry_after,
    }
}

fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    rmp_serde::to_vec_named(value).map_err(|e| StoreError::Encoding(e.to_string()))
}
