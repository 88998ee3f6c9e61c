//! A worker: waits for a job and for a permit to run it, then takes the job.
//!
//! Owns when Redis is asked: once every `poll` while no job is due, never while the circuit
//! rejects. Invariant: a take is never cancelled half-way, because a job taken that way would be
//! stuck until its lease ends.

use std::{fmt, future::Future, pin::pin, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use tokio::{
    select,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    Backoff, Failure, Job, Queue,
    run::{Run, Taken},
};
use crate::{CircuitBreaker, Permit, Rejection, StoreError, breaker::replica_name, model::FOREVER};

/// How soon a rejecting circuit is asked again, at the earliest and at the latest: an operator may
/// have closed it.
const LEAST_WAIT: Duration = Duration::from_millis(50);
const MOST_WAIT: Duration = Duration::from_secs(1);
/// How long to wait after another worker took the job first.
const BEATEN: Duration = Duration::from_millis(100);
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// Runs a queue's jobs as a circuit permits; made by [`Queue::worker`].
///
/// Each attempt is a call through the circuit: it needs a permit (as a probe while the circuit is
/// half-open), its result is recorded, and it is dropped as failed after the policy's
/// `call_timeout`. A rejection is not an attempt.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{RedisStore, queue::{Job, Queue}};
///
/// let store = RedisStore::builder().open("redis://127.0.0.1:6379")?;
/// let ads = Queue::<String>::builder(&store, "ads").build()?;
/// # let payments = commontrip::Commontrip::embedded()?.circuit("ads", Default::default())?;
/// let worker = ads.worker(&payments, async |job: Job<String>| {
///     println!("{}, attempt {}", job.body, job.attempt);
///     Ok::<_, std::io::Error>(())
/// });
/// worker.concurrency(4).run(tokio::signal::ctrl_c()).await;
/// # Ok(()) }
/// ```
#[must_use = "a worker does nothing until it is run"]
pub struct Worker<T, H, E> {
    pub(super) queue: Queue<T>,
    pub(super) breaker: CircuitBreaker,
    pub(super) handler: H,
    pub(super) classify: Box<dyn Fn(&E) -> Failure + Send + Sync>,
    name: String,
    concurrency: usize,
    poll: Duration,
    grace: Duration,
    pub(super) lease: Duration,
    pub(super) most_attempts: u32,
    pub(super) backoff: Backoff,
}

impl<T, H, E> fmt::Debug for Worker<T, H, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("queue", &self.queue.name())
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<T> Queue<T> {
    /// Makes a worker that runs this queue's jobs with `handler`, each through this circuit.
    ///
    /// `Ok` completes a job. An error is worth another attempt, unless [`Worker::classify`] decides
    /// otherwise; so is a panic.
    pub fn worker<H, Fut, E>(&self, breaker: &CircuitBreaker, handler: H) -> Worker<T, H, E>
    where
        H: Fn(Job<T>) -> Fut,
        Fut: Future<Output = Result<(), E>>,
    {
        Worker {
            queue: self.clone(),
            breaker: breaker.clone(),
            handler,
            classify: Box::new(|_| Failure::retry()),
            name: replica_name(),
            concurrency: 1,
            poll: Duration::from_secs(1),
            grace: Duration::from_secs(30),
            lease: Duration::from_secs(30),
            most_attempts: 10,
            backoff: Backoff::default(),
        }
    }
}

impl<T, H, E> Worker<T, H, E> {
    /// Sets how an error of the handler is treated. By default, every error is worth another
    /// attempt.
    pub fn classify(mut self, classify: impl Fn(&E) -> Failure + Send + Sync + 'static) -> Self {
        self.classify = Box::new(classify);
        self
    }

    /// Sets how many jobs run at once. At least 1, which is the default.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.concurrency = jobs.max(1);
        self
    }

    /// Sets how many attempts a job has before it becomes a dead letter. At least 1, default 10.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.most_attempts = attempts.max(1);
        self
    }

    /// Sets how long a job waits for its next attempt: a random time of up to `first` after the
    /// first attempt, twice that after each further one, at most `longest`. Default 1 s and 10 min.
    /// A `retry_after` is added to the delay.
    pub fn backoff(self, first: Duration, longest: Duration) -> Self {
        self.backoff_with(Backoff::exponential(first, 2.0, longest))
    }

    /// Same as [`backoff`](Self::backoff), with any factor, without jitter, or with a fixed delay.
    pub fn backoff_with(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets how long the worker holds a job without renewing its lease; it renews the lease three
    /// times in that period. When a worker dies, another one takes its job after this time. A
    /// worker that cannot reach Redis for nine tenths of this time drops the jobs it runs. At least
    /// 100 ms and at most a year, default 30 s.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.clamp(SHORTEST_LEASE, FOREVER);
        self
    }

    /// Sets how often an idle worker looks for jobs of other processes. At least 10 ms, default
    /// 1 s.
    pub fn poll(mut self, every: Duration) -> Self {
        self.poll = every.max(Duration::from_millis(10));
        self
    }

    /// Sets how long running jobs may go on when the worker stops. Then they are dropped and become
    /// available to other workers, without using an attempt. Default 30 s.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets the worker's name in a job's record; by default the host name and the process ID.
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.chars().take(100).collect();
        self
    }
}

impl<T, H, Fut, E> Worker<T, H, E>
where
    T: DeserializeOwned + Send + 'static,
    H: Fn(Job<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: fmt::Display + Send + 'static,
{
    /// Runs jobs until `until` is ready, and then waits for running jobs.
    ///
    /// Does not stop while Redis is unavailable; it continues when Redis is back. If the returned
    /// future is dropped, its running jobs are dropped too, and other workers take them after their
    /// leases.
    pub async fn run<U>(self, until: impl Future<Output = U>) {
        let mut until = pin!(until);
        let worker = Arc::new(self);
        let ending = watch::Sender::new(false);
        let mut bell = worker.queue.0.enqueued.subscribe();
        let mut jobs = JoinSet::new();
        let mut next = Next::Unknown;
        loop {
            while jobs.try_join_next().is_some() {}
            let leave = async {
                if jobs.len() >= worker.concurrency {
                    jobs.join_next().await;
                }
                worker.work(next, &mut bell).await;
                worker.leave().await
            };
            let permit = select! {
                biased;
                _ = &mut until => break,
                permit = leave => permit,
            };
            next = match worker.take().await {
                Ok(Some((taken, more))) => {
                    let run = Run::new(Arc::clone(&worker), taken, permit, ending.subscribe());
                    jobs.spawn(run.end());
                    // If no more jobs are ready, look for one before taking a permit: an unused
                    // probe permit blocks other callers.
                    match more {
                        0 => Next::Unknown,
                        _ => Next::Likely,
                    }
                }
                Ok(None) => {
                    permit.put_back();
                    Next::After(BEATEN)
                }
                Err(error) => {
                    permit.put_back();
                    let (error, queue) = (crate::store::in_words(&error), worker.queue.name());
                    tracing::warn!(%error, queue, "no job could be taken");
                    Next::After(worker.poll)
                }
            };
        }
        let all = async { while jobs.join_next().await.is_some() {} };
        if timeout(worker.grace, all).await.is_err() {
            ending.send_replace(true);
            while jobs.join_next().await.is_some() {}
        }
    }
}

/// What the worker knows about the next job.
#[derive(Clone, Copy)]
enum Next {
    /// Nothing.
    Unknown,
    /// There was one just now.
    Likely,
    /// There is no point in looking earlier than this.
    After(Duration),
}

impl<T, H, E> Worker<T, H, E> {
    /// Waits until a job can be taken.
    async fn work(&self, next: Next, bell: &mut watch::Receiver<u64>) {
        match next {
            Next::Unknown => {}
            Next::Likely => return,
            Next::After(pause) => select! {
                _ = bell.changed() => {}
                () = sleep(pause) => {}
            },
        }
        loop {
            bell.borrow_and_update();
            let wait = match self.queue.stats().await {
                Ok(stats) => match u64::try_from(stats.next_ms) {
                    Ok(next_ms) if next_ms <= stats.now_ms => return,
                    Ok(next_ms) => Duration::from_millis(next_ms - stats.now_ms).min(self.poll),
                    Err(_) => self.poll,
                },
                Err(_) => self.poll,
            };
            select! {
                _ = bell.changed() => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// Waits until the circuit permits a call.
    async fn leave(&self) -> Permit {
        loop {
            // A waiting worker makes no call, so a rejection here does not count as a rejected
            // call.
            match self.breaker.acquire_uncounted().await {
                Ok(permit) => return permit,
                Err(Rejection { retry_after, .. }) => {
                    let wait = retry_after.unwrap_or(MOST_WAIT);
                    sleep(wait.clamp(LEAST_WAIT, MOST_WAIT)).await;
                }
            }
        }
    }

    async fn take(&self) -> Result<Option<(Taken, u64)>, StoreError> {
        let shared = &self.queue.0;
        let token = format!("{:032x}", fastrand::u128(..));
        // Before the request is sent; the lease begins later, when Redis reads the request.
        let sent = Instant::now();
        let most_dead = shared.settings.most_dead;
        let (lease, most) = (self.lease, self.most_attempts);
        let taken = shared
            .place
            .take(&self.name, &token, lease, most, most_dead);
        let taken = taken.await?;
        Ok(taken.map(|(told, more)| (Taken::new(told, token, sent), more)))
    }
}
