//! One run of a job: its lease, its handler, its end.
//!
//! Invariant: the handler is polled only while this run has the job for sure, by the clock of this process, which began to
//! count before Redis did. What its lease outlived is dropped, and its end is not told.

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
use crate::{
    Outcome, Permit,
    model::{FOREVER, millis},
    store::in_words,
};

/// How long Redis is left alone before it is told of an end once more.
const AGAIN: Duration = Duration::from_millis(200);
/// The most that is kept of an error, bytes.
const LONGEST_ERROR: usize = 1000;

/// A job that was taken, and the proof of it.
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
    /// Until when the job is this run's.
    until: Instant,
    ending: watch::Receiver<bool>,
}

/// How the handler ended.
enum End<E> {
    Returned(Result<(), E>),
    Panicked(String),
    /// After the circuit's `call_timeout`.
    TimedOut(Duration),
    /// Dropped, for the worker is to end.
    Released,
    /// Dropped, for the job is no longer this run's.
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

    /// Runs the job, and tells the circuit and the queue how it ended.
    pub(super) async fn end(mut self) {
        let Some(Told(_, record, payload)) = self.told.take() else {
            return;
        };
        let body = match rmp_serde::from_slice(&payload) {
            Ok(body) => body,
            Err(error) => {
                drop(self.permit);
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
            End::Released | End::Lost => {
                drop(permit);
                if matches!(end, End::Lost) {
                    let queue = worker.queue.name();
                    tracing::warn!(queue, job = %id, "a job was dropped: its lease was lost");
                    return;
                }
                let settling = Settling::new(&worker.queue, id, token, until);
                return settling
                    .settle("release", Duration::ZERO, String::new())
                    .await;
            }
        };
        permit.record(failure.as_ref().map_or(Outcome::Success, |f| f.0.outcome()));
        let settling = Settling::new(&worker.queue, id, token, until);
        match failure {
            None => settling.settle("done", Duration::ZERO, String::new()).await,
            Some((Failure::Retry { retry_after }, words)) if attempt < worker.most_attempts => {
                let delay = worker
                    .pause_after(attempt)
                    .max(retry_after.unwrap_or_default());
                settling.settle("retry", delay, words).await;
            }
            Some((_, words)) => settling.settle("bury", Duration::ZERO, words).await,
        }
    }

    /// Runs the handler for as long as the job is this run's.
    async fn watched(&mut self, job: Job<T>) -> End<E> {
        let worker = Arc::clone(&self.worker);
        let limit = worker.breaker.policy().call_timeout();
        let overdue = Instant::now() + limit.unwrap_or(FOREVER);
        // In the future, so that a handler that panics before its first `await` is caught as well.
        let handled = async { (worker.handler)(job).await };
        let mut handled = pin!(AssertUnwindSafe(handled).catch_unwind());
        let mut renewal = pin!(self.renewed());
        let mut until = self.until;
        let mut ending = self.ending.clone();
        let end = loop {
            let guarded = poll_fn(|context| match Instant::now() < until {
                true => handled.as_mut().poll(context).map(Some),
                // A process that stood still finds its timers late; its handler must not go on meanwhile.
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

    /// Waits until the lease is due to be renewed, and renews it: until when the job is this run's then; `None` when it is
    /// no longer.
    fn renewed(&self) -> impl Future<Output = Option<Instant>> + Send + use<T, H, Fut, E> {
        let queue = self.worker.queue.clone();
        let (id, token, lease) = (self.id.clone(), self.token.clone(), self.worker.lease);
        async move {
            sleep(lease / 3).await;
            loop {
                let sent = Instant::now();
                match queue.renew(&id, &token, lease).await {
                    Ok(true) => return Some(sent + sure(lease)),
                    Ok(false) => return None,
                    // Its end comes by itself.
                    Err(_) => sleep(lease / 10).await,
                }
            }
        }
    }
}

/// The part of a lease that a worker relies on: its clock and Redis' may differ in speed, and to drop a handler takes time.
fn sure(lease: Duration) -> Duration {
    lease * 9 / 10
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the handler panicked: {}", text.unwrap_or("without words"))
}

impl<T, H, E> Worker<T, H, E> {
    /// How long to wait after so many attempts: exponential, with full jitter.
    fn pause_after(&self, attempt: u32) -> Duration {
        let factor = 2_u32.saturating_pow(attempt.saturating_sub(1));
        let most = self.backoff.saturating_mul(factor);
        Duration::from_millis(fastrand::u64(..=millis(most.min(self.longest_backoff))))
    }
}

impl<T> Queue<T> {
    async fn renew(
        &self,
        id: &JobId,
        token: &str,
        lease: Duration,
    ) -> Result<bool, crate::StoreError> {
        let shared = &self.0;
        let request = (id.as_str(), token, millis(lease));
        let script = &shared.scripts.renew;
        let answer = shared.tell(script, &request);
        answer.await
    }
}

/// The end of a run, as the queue is told of it.
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

    /// Tells it, again and again until the lease ends: then the job is taken anew.
    async fn settle(self, how: &str, delay: Duration, mut error: String) {
        let mut end = error.len().min(LONGEST_ERROR);
        while !error.is_char_boundary(end) {
            end -= 1;
        }
        error.truncate(end);
        let shared = &self.queue.0;
        let (id, queue) = (self.id.as_str(), self.queue.name());
        let keep_ms = millis(shared.settings.keep);
        let most_dead = shared.settings.most_dead;
        let request = (
            id,
            &self.token,
            how,
            millis(delay),
            &error,
            keep_ms,
            most_dead,
        );
        let script = &shared.scripts.settle;
        loop {
            let answer = shared.tell(script, &request);
            match answer.await {
                Ok(true) => return,
                Ok(false) => {
                    tracing::debug!(queue, job = id, how, "a job was settled already");
                    return;
                }
                Err(error) if Instant::now() + AGAIN >= self.until => {
                    let error = in_words(&error);
                    tracing::warn!(%error, queue, job = id, how, "a job's end was not told: it runs again");
                    return;
                }
                Err(_) => sleep(AGAIN).await,
            }
        }
    }
}
