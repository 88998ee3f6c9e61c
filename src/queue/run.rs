//! One run of a job: its lease, its handler, its end.
//!
//! Invariant: the handler is polled only while this run certainly holds the job. That is measured
//! by this process' clock, which starts counting before Redis' does. A handler that outlives its
//! lease is dropped. The circuit ignores an end that comes too late, and the queue accepts it only
//! while no other run has the job.

use std::{
    any::Any,
    fmt,
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::FutureExt;
use serde::de::DeserializeOwned;
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{Failure, Job, JobId, Queue, Worker, job::Told};
use crate::{Outcome, Permit, model::FOREVER, store::in_words};

/// How long to wait before an end is reported to Redis again.
const AGAIN: Duration = Duration::from_millis(200);
/// The most bytes of an error that are kept.
const LONGEST_ERROR: usize = 1000;

/// A job that was taken, with the token that proves it.
#[derive(Debug)]
pub(super) struct Taken {
    told: Told,
    token: String,
    sent: Instant,
}

impl Taken {
    pub(super) const fn new(told: Told, token: String, sent: Instant) -> Self {
        Self { told, token, sent }
    }
}

pub(super) struct Run<T, H, E> {
    worker: Arc<Worker<T, H, E>>,
    id: JobId,
    token: String,
    told: Option<Told>,
    permit: Permit,
    /// Until when this run holds the job.
    until: Instant,
    ending: watch::Receiver<bool>,
}

/// How the handler ended.
enum End<E> {
    Returned(Result<(), E>),
    Panicked(String),
    /// After the circuit's `call_timeout`.
    TimedOut(Duration),
    /// Dropped because the worker is stopping.
    Released,
    /// Dropped because this run no longer holds the job.
    Lost,
}

impl<T, H, Fut, E> Run<T, H, E>
where
    T: DeserializeOwned + Send + 'static,
    H: Fn(Job<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: fmt::Display + Send + 'static,
{
    pub(super) fn new(
        worker: Arc<Worker<T, H, E>>,
        taken: Taken,
        permit: Permit,
        ending: watch::Receiver<bool>,
    ) -> Self {
        Self {
            until: taken.sent + sure(worker.lease),
            worker,
            id: JobId::of(taken.told.0.clone()),
            token: taken.token,
            told: Some(taken.told),
            permit,
            ending,
        }
    }

    /// Runs the job, and reports to the circuit and the queue how it ended.
    pub(super) async fn end(mut self) {
        let Some(Told(_, record, payload)) = self.told.take() else {
            return;
        };
        let body = match rmp_serde::from_slice(&payload) {
            Ok(body) => body,
            Err(error) => {
                // No call was made.
                self.permit.put_back();
                let words = format!("it cannot be decoded: {error}");
                let settling = Settling::new(&self.worker.queue, self.id, self.token, self.until);
                return settling.settle("bury", Duration::ZERO, words).await;
            }
        };
        let attempt = record.attempts;
        let job = Job {
            id: self.id.clone(),
            key: Some(record.key).filter(|key| !key.is_empty()),
            attempt,
            age: Duration::from_millis(record.at_ms.saturating_sub(record.enqueued_ms)),
            body,
        };
        let end = self.watched(job).await;
        let Self {
            worker,
            id,
            token,
            permit,
            until,
            ..
        } = self;
        let failure = match &end {
            End::Returned(Ok(())) => None,
            End::Returned(Err(error)) => Some(((worker.classify)(error), error.to_string())),
            End::Panicked(words) => Some((Failure::retry(), words.clone())),
            End::TimedOut(limit) => {
                let words = format!("it took longer than {limit:?}");
                Some((Failure::retry(), words))
            }
            End::Lost => {
                // The job's next run shows how the service is; a lost lease says nothing about it.
                permit.record(Outcome::Ignored);
                let queue = worker.queue.name();
                tracing::warn!(queue, job = %id, "a job was dropped: its lease was lost");
                return;
            }
            End::Released => {
                drop(permit);
                let settling = Settling::new(&worker.queue, id, token, until);
                return settling
                    .settle("release", Duration::ZERO, String::new())
                    .await;
            }
        };
        // If this run ended too late and another run has the job, the queue rejects this result and
        // the other run's outcome counts.
        permit.record(match Instant::now() < until {
            true => failure.as_ref().map_or(Outcome::Success, |f| f.0.outcome()),
            false => Outcome::Ignored,
        });
        let settling = Settling::new(&worker.queue, id, token, until);
        match failure {
            None => settling.settle("done", Duration::ZERO, String::new()).await,
            Some((Failure::Retry { retry_after }, words)) if attempt < worker.most_attempts => {
                // The backoff is added to `retry_after`, so that jobs which were given the same
                // delay do not all return at once.
                let told = retry_after.unwrap_or_default();
                let delay = told.saturating_add(worker.backoff.after(attempt, fastrand::f64()));
                settling.settle("retry", delay, words).await;
            }
            Some((_, words)) => settling.settle("bury", Duration::ZERO, words).await,
        }
    }

    /// Runs the handler while this run holds the job.
    async fn watched(&mut self, job: Job<T>) -> End<E> {
        let worker = Arc::clone(&self.worker);
        let limit = worker.breaker.policy().call_timeout();
        let overdue = Instant::now() + limit.unwrap_or(FOREVER);
        // Called inside the future, so that a panic before the handler's first `await` is caught as
        // well.
        let handled = async { (worker.handler)(job).await };
        let mut handled = pin!(AssertUnwindSafe(handled).catch_unwind());
        let mut renewal = pin!(self.renewed());
        let mut until = self.until;
        let mut ending = self.ending.clone();
        let end = loop {
            let guarded = poll_fn(|context| match Instant::now() < until {
                true => handled.as_mut().poll(context).map(Some),
                // After a freeze of the process, timers fire late; the handler must not continue
                // before they do.
                false => Poll::Ready(None),
            });
            select! {
                biased;
                () = sleep_until(until) => break End::Lost,
                renewed = &mut renewal => match renewed {
                    Some(longer) => {
                        until = longer;
                        renewal.set(self.renewed());
                    }
                    None => break End::Lost,
                },
                handled = guarded => break match handled {
                    None => End::Lost,
                    Some(Ok(result)) => End::Returned(result),
                    Some(Err(panic)) => End::Panicked(panicked(&*panic)),
                },
                () = sleep_until(overdue) => break End::TimedOut(limit.unwrap_or_default()),
                _ = ending.wait_for(|ending| *ending) => break End::Released,
            }
        };
        self.until = until;
        end
    }

    /// Waits until the lease is due for renewal, and renews it. Returns until when this run then
    /// holds the job; `None` when it no longer holds it.
    fn renewed(&self) -> impl Future<Output = Option<Instant>> + Send + use<T, H, Fut, E> {
        let queue = self.worker.queue.clone();
        let (id, token, lease) = (self.id.clone(), self.token.clone(), self.worker.lease);
        async move {
            sleep(lease / 3).await;
            loop {
                let sent = Instant::now();
                match queue.0.place.renew(id.as_str(), &token, lease).await {
                    Ok(true) => return Some(sent + sure(lease)),
                    Ok(false) => return None,
                    // Keep trying: `watched` stops when the lease expires.
                    Err(_) => sleep(lease / 10).await,
                }
            }
        }
    }
}

/// The part of a lease that a worker relies on: its clock and Redis' clock may differ in speed, and
/// dropping a handler takes time.
fn sure(lease: Duration) -> Duration {
    lease * 9 / 10
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the handler panicked: {}", text.unwrap_or("without words"))
}

/// Reports the end of a run to the queue.
struct Settling<'a, T> {
    queue: &'a Queue<T>,
    id: JobId,
    token: String,
    until: Instant,
}

impl<'a, T> Settling<'a, T> {
    const fn new(queue: &'a Queue<T>, id: JobId, token: String, until: Instant) -> Self {
        Self {
            queue,
            id,
            token,
            until,
        }
    }

    /// Reports the end, and retries until the lease expires; after that, the job is taken again.
    async fn settle(self, how: &str, delay: Duration, mut error: String) {
        let mut end = error.len().min(LONGEST_ERROR);
        while !error.is_char_boundary(end) {
            end -= 1;
        }
        error.truncate(end);
        let shared = &self.queue.0;
        let (id, queue) = (self.id.as_str(), self.queue.name());
        let (keep, most_dead) = (shared.settings.keep, shared.settings.most_dead);
        let run = (id, self.token.as_str(), how);
        loop {
            let answer = shared.place.settle(run, delay, &error, keep, most_dead);
            match answer.await {
                Ok(true) => return,
                Ok(false) => {
                    tracing::debug!(queue, job = id, how, "a job was settled already");
                    return;
                }
                Err(error) if Instant::now() + AGAIN >= self.until => {
                    let error = in_words(&error);
                    tracing::warn!(%error, queue, job = id, how, "the result of a job could not be reported: the job runs again");
                    return;
                }
                Err(_) => sleep(AGAIN).await,
            }
        }
    }
}
