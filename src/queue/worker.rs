//! A worker: waits for a job and for leave to run it, and takes it then.
//!
//! Owns when Redis is asked: while nothing is due once in `poll`; while the circuit rejects not at all. Invariant: a
//! take is never given up half-way, for what it took would lie until its lease ends.

use std::{fmt, future::Future, pin::pin, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use tokio::{
    select,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    Failure, Job, Queue,
    job::Told,
    run::{Run, Taken},
};
use crate::{
    CircuitBreaker, Permit, Rejection, StoreError,
    breaker::replica_name,
    model::{FOREVER, millis},
};

/// How soon a rejecting circuit is asked again at the earliest, and at the latest: an operator may have closed it.
const LEAST_WAIT: Duration = Duration::from_millis(50);
const MOST_WAIT: Duration = Duration::from_secs(1);
/// After another worker was quicker.
const BEATEN: Duration = Duration::from_millis(100);
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// Runs jobs of a queue as a circuit permits; made by [`Queue::worker`].
///
/// Each attempt is a call through the circuit: it is made with a permit (a probe's where the circuit is half-open), its
/// result is recorded, and it is dropped as failed after the policy's `call_timeout`. A rejection is no attempt.
#[must_use = "a worker works once it is run"]
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
    pub(super) backoff: Duration,
    pub(super) longest_backoff: Duration,
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
    /// A worker that runs this queue's jobs with `handler`, each through this circuit.
    ///
    /// `Ok` is the end of a job. An error is worth another attempt, unless [`Worker::classify`] says otherwise; so is a
    /// panic.
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
            backoff: Duration::from_secs(1),
            longest_backoff: Duration::from_secs(600),
        }
    }
}

impl<T, H, E> Worker<T, H, E> {
    /// Says what an error of the handler means. By default each is worth another attempt.
    pub fn classify(mut self, classify: impl Fn(&E) -> Failure + Send + Sync + 'static) -> Self {
        self.classify = Box::new(classify);
        self
    }

    /// How many jobs it runs at once. At least 1, which is the default.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.concurrency = jobs.max(1);
        self
    }

    /// How often a job is tried before it becomes a dead letter. At least 1, default 10.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.most_attempts = attempts.max(1);
        self
    }

    /// How long a job waits for its next attempt: a random time of up to `first` after the first attempt, twice as much
    /// after each further one, never more than `longest`. Default 1 s and 10 min. A longer `retry_after` counts.
    pub const fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = first;
        self.longest_backoff = longest;
        self
    }

    /// For how long a job is the worker's without a word from it; thrice in that time it says a word. When a worker dies,
    /// its job is taken by another after this time; when a worker cannot reach Redis for nine tenths of it, it drops
    /// what it runs. At least 100 ms and at most a year, default 30 s.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.clamp(SHORTEST_LEASE, FOREVER);
        self
    }

    /// How often to look for jobs of other processes while there is nothing to do. At least 10 ms, default 1 s.
    pub fn poll(mut self, every: Duration) -> Self {
        self.poll = every.max(Duration::from_millis(10));
        self
    }

    /// How long jobs that run may go on when the worker is to end; then they are dropped and ready for another worker,
    /// without an attempt less. Default 30 s.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How the worker is called in a job's record; by default the host and the process' number.
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
    /// Runs jobs until `until` is ready, and then waits for those that run.
    ///
    /// Does not end for a Redis that is away; it goes on when that is back. When the future that this returns is dropped,
    /// so are its jobs, which others take after their leases.
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
                    // A permit that nobody needs is a probe's that others wait for.
                    match more {
                        0 => Next::Unknown,
                        _ => Next::Likely,
                    }
                }
                Ok(None) => Next::After(BEATEN),
                Err(error) => {
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

/// What is known of the next job.
#[derive(Clone, Copy)]
enum Next {
    /// Nothing.
    Unknown,
    /// There was one just now.
    Likely,
    /// It is of no use to look before so long.
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
            match self.breaker.acquire().await {
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
        let request = (
            &self.name,
            &token,
            millis(self.lease),
            self.most_attempts,
            shared.settings.most_dead,
        );
        // The lease begins when Redis reads this, which is later.
        let sent = Instant::now();
        let script = &shared.scripts.take;
        let answer = shared.ask(script, &request);
        let taken: Option<(Told, u64)> = answer.await?;
        Ok(taken.map(|(told, more)| (Taken::new(told, token, sent), more)))
    }
}
