//! The task of one check in one replica.
//!
//! Owns whose turn it is: the lease in the store decides, each interval anew. Who has it runs the check and
//! keeps the report; the others read that. While the store is away, each runs the check for itself.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
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

/// How often a check's place in the index is renewed.
const INDEX_EVERY: Duration = Duration::from_secs(60);
/// How long one replica at a time may take to change the index.
const INDEX_LEASE_MS: u64 = 5_000;
/// How soon a circuit that is not closed is looked at again, where no run is due before.
const SOONEST: Duration = Duration::from_secs(1);

pub(super) struct Runner {
    watch: Watch,
    operator: Operator,
    check: Check,
    /// Who asks for the lease: this monitor of this replica.
    owner: String,
    board: Arc<Board>,
    place: usize,
    /// As far as this replica knows.
    report: CheckReport,
    /// Whether the last look at the lease said that it is this one's.
    has_lease: bool,
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
            indexed: None,
        }
    }

    /// Goes on until the monitor or the registry ends, and then lets another replica go on at once.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let watch = self.watch.clone();
        let ended = async {
            tokio::select! {
                // Also when the monitor is gone.
                _ = stop.wait_for(|stop| *stop) => {}
                () = watch.ended() => {}
            }
        };
        tokio::select! {
            () = ended => {}
            () = self.go_on() => {}
        }
        let key = CheckReport::key(&self.check.name);
        // Without it the lease ends by itself.
        let _ = self.watch.store().lease(&key, &self.owner, 0).await;
    }

    async fn go_on(&mut self) {
        let interval = self.check.interval;
        // A fleet that starts at once does not ask at once.
        let mut due = Instant::now() + interval.mul_f64(fastrand::f64() / 10.0);
        let mut next = due;
        loop {
            sleep_until(next).await;
            let now = Instant::now();
            let is_due = next == due;
            if is_due {
                due = now + interval.mul_f64(0.95 + fastrand::f64() / 10.0);
            }
            let soon = self.round(is_due).await;
            next = soon.map_or(due, |soon| due.min(now + soon.max(SOONEST)));
        }
    }

    /// Looks whose turn it is, and does what follows; when to look again, where that may be before the next
    /// run is due.
    async fn round(&mut self, is_due: bool) -> Option<Duration> {
        let had_lease = self.has_lease;
        let lease = self.lease().await;
        self.has_lease = matches!(lease, Ok(true));
        match lease {
            Ok(true) => {
                // What others found before, also while this one was without the store.
                if !had_lease && let Ok(Some(report)) = self.read().await {
                    self.report = report;
                }
                self.ask(is_due, false).await
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
                    "without the store this replica checks for itself"
                );
                self.ask(is_due, true).await
            }
        }
    }

    /// Renewed at each look, which is an interval apart, or as long as a run takes; so it holds through a
    /// look that comes late.
    async fn lease(&self) -> Result<bool, StoreError> {
        let lease = self.check.interval * 2 + self.check.timeout;
        let key = CheckReport::key(&self.check.name);
        let store = self.watch.store();
        store.lease(&key, &self.owner, millis(lease)).await
    }

    async fn read(&self) -> Result<Option<CheckReport>, StoreError> {
        CheckReport::read(self.watch.store(), &self.check.name).await
    }

    /// Runs the check and files what it said; with the circuit's leave, where there is one and it gives it.
    /// When no run is due, only as a probe of the circuit.
    async fn ask(&mut self, is_due: bool, local: bool) -> Option<Duration> {
        let leave = match &self.check.circuit {
            Some(circuit) => Some(circuit.acquire().await),
            None => None,
        };
        if !is_due && !matches!(&leave, Some(Ok(permit)) if permit.is_probe()) {
            return leave?.err()?.retry_after;
        }
        let ran = self.check.run().await;
        let at_ms = match local {
            true => self.watch.unix_ms(),
            false => match self.operator.now_ms().await {
                Ok(now_ms) => now_ms,
                Err(_) => self.watch.unix_ms(),
            },
        };
        let mut run = CheckRun::default();
        (run.at_ms, run.passed, run.took_us) = (at_ms, ran.error.is_none(), ran.took_us);
        self.file(run, ran.error);
        self.report.local = local;
        let bad = self.check.thresholds.is_bad(&run);
        let critical = self.report.status == CheckStatus::Critical;
        let next = leave.and_then(|leave| settle(leave, bad, critical));
        match local {
            true => self.show(),
            false => self.keep().await,
        }
        next
    }

    fn file(&mut self, run: CheckRun, error: Option<String>) {
        let (check, report) = (&self.check, &mut self.report);
        report.circuit = check.circuit.as_ref().map(|c| c.name().to_owned());
        report.replica = self.watch.replica().to_owned();
        report.interval_ms = millis(check.interval);
        report.timeout_ms = millis(check.timeout);
        report.last_run_ms = run.at_ms;
        report.latency_us = Some(run.took_us);
        report.runs = report.runs.saturating_add(1);
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
        check.thresholds.judge(report);
    }

    /// Keeps the report for the others, and shows it here.
    async fn keep(&mut self) {
        if let Err(error) = self.write().await {
            self.report.local = true;
            let (check, error) = (&self.check.name, in_words(&error));
            tracing::debug!(check, error, "the store did not take what a check said");
        }
        self.show();
    }

    async fn write(&mut self) -> Result<(), StoreError> {
        let (store, name) = (self.watch.store(), &self.check.name);
        let key = CheckReport::key(name);
        store.keep(&key, &encode(&self.report)?, KEPT_MS).await?;
        if self.indexed.is_some_and(|at| at.elapsed() < INDEX_EVERY) {
            return Ok(());
        }
        // One at a time, for else of two names one would be lost. Who has no turn comes back.
        if store.lease(INDEX, &self.owner, INDEX_LEASE_MS).await? {
            let mut names: Index = index(store).await?;
            let now_ms = self.report.last_run_ms;
            names.retain(|_, at| now_ms.saturating_sub(*at) < KEPT_MS);
            names.insert(name.clone(), now_ms);
            store.keep(INDEX, &encode(&names)?, KEPT_MS).await?;
            store.lease(INDEX, &self.owner, 0).await?;
            self.indexed = Some(Instant::now());
        }
        Ok(())
    }

    fn show(&self) {
        self.board.put(self.place, self.report.clone());
    }
}

/// Tells the circuit what a run means for it; when to run again, where that is not an interval later.
fn settle(leave: Result<Permit, Rejection>, bad: bool, critical: bool) -> Option<Duration> {
    match leave {
        Ok(permit) if permit.is_probe() => {
            permit.record(match bad {
                true => Outcome::failure(),
                false => Outcome::Success,
            });
            Some(SOONEST)
        }
        // One bad run, and not what is remembered of former ones: after it has recovered, the circuit stays
        // closed while the history is still full of failures.
        Ok(permit) if bad && critical => {
            permit.record(Outcome::trip());
            Some(SOONEST)
        }
        Ok(permit) => {
            permit.record(Outcome::Ignored);
            None
        }
        // It is open: so long, and then it is probed.
        Err(rejection) => rejection.retry_after,
    }
}

fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    rmp_serde::to_vec_named(value).map_err(|e| StoreError::Invalid(e.to_string()))
}
