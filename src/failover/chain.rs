//! The chain: walks its stages until one serves.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{ChainError, End, Exhausted, Stage, Tried};
use crate::{CallError, Outcome, retry::next_wait};

/// As good as without end, and small enough to be added to any time.
const FOR_EVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// An ordered chain of stages; the first that answers serves.
///
/// A stage whose circuit is open is skipped at once. Cheap to clone, `Send` and `Sync`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::{io, time::Duration};
/// use commontrip::{Commontrip, Policy, failover::{Failover, Stage}};
///
/// let circuits = Commontrip::embedded()?;
/// let cloud = circuits.circuit("cloud", Policy::default())?;
/// let local = circuits.circuit("local", Policy::default())?;
/// let chain = Failover::builder()
///     .stage(Stage::new("cloud", &cloud).attempt_timeout(Duration::from_secs(10)))
///     .stage(Stage::new("local", &local).attempt_timeout(Duration::from_secs(30)).retries(1))
///     .total_timeout(Duration::from_secs(60))
///     .build()?;
///
/// let served = chain
///     .call(|attempt| async move {
///         match &*attempt.name {
///             "cloud" => Err(io::Error::other("no route")),
///             _ => Ok("an answer"),
///         }
///     })
///     .await?;
/// assert_eq!((served.value, &*served.stage, served.attempt), ("an answer", "local", 2));
/// assert!(served.fallback);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Failover {
    stages: Arc<[Stage]>,
    total_timeout: Duration,
}

/// Describes a chain.
#[derive(Clone, Debug)]
#[must_use]
pub struct FailoverBuilder {
    stages: Vec<Stage>,
    total_timeout: Duration,
}

/// The attempt that a call is to make.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The stage's place in the chain, from 0.
    pub stage: usize,
    /// The stage's name.
    pub name: Arc<str>,
    /// Which attempt of the whole chain it is, from 1.
    pub number: u32,
}

/// A value, and how it was served.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served<T> {
    /// The value.
    pub value: T,
    /// The name of the stage that served it.
    pub stage: Arc<str>,
    /// Which attempt of the whole chain served it, from 1; skipped stages make none.
    pub attempt: u32,
    /// How long the whole took, waits included.
    pub elapsed: Duration,
    /// Whether another stage than the first served it.
    pub fallback: bool,
}

impl Failover {
    /// A chain without stages as yet, and without a total timeout.
    pub const fn builder() -> FailoverBuilder {
        FailoverBuilder {
            stages: Vec::new(),
            total_timeout: FOR_EVER,
        }
    }

    /// Makes a call by the first stage that answers; `Ok` counts as a success, `Err` as a failure.
    ///
    /// Dropping the future drops the attempt, which its circuit takes as any dropped call.
    ///
    /// # Errors
    /// [`Exhausted`] when no stage has served, with what each said.
    pub async fn call<F, Fut, T, E>(&self, call: F) -> Result<Served<T>, Exhausted<E>>
    where
        F: FnMut(Attempt) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let by_result = |result: &Result<T, E>| match result {
            Ok(_) => Outcome::Success,
            Err(_) => Outcome::failure(),
        };
        self.call_with(by_result, call).await
    }

    /// [`call`](Self::call); `classify` says what a result means.
    ///
    /// An `Ok` is served, whatever it counts as. An `Err` that is a [`Success`](Outcome::Success) or
    /// [`Ignored`](Outcome::Ignored) is the caller's own, which no other stage would mend: it ends the chain
    /// at once. A [`Failure`](Outcome::Failure) is tried again as the stage says, and a
    /// [`Trip`](Outcome::Trip) is not; then comes the next stage.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_with<C, F, Fut, T, E>(
        &self,
        classify: C,
        call: F,
    ) -> Result<Served<T>, Exhausted<E>>
    where
        C: FnMut(&Result<T, E>) -> Outcome,
        F: FnMut(Attempt) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let started = Instant::now();
        let mut walk = Walk {
            total: self.total_timeout,
            deadline: started + self.total_timeout,
            made: 0,
            tried: Vec::new(),
            classify,
            call,
        };
        let mut end = End::LastStage;
        for (place, stage) in self.stages.iter().enumerate() {
            match walk.stage(place, stage).await {
                Step::Served(value) => {
                    return Ok(Served {
                        value,
                        stage: Arc::clone(&stage.name),
                        attempt: walk.made,
                        elapsed: started.elapsed(),
                        fallback: place > 0,
                    });
                }
                Step::Next => {}
                Step::CallersError => {
                    end = End::CallersError;
                    break;
                }
                Step::OutOfTime => {
                    end = End::TotalTimeout(self.total_timeout);
                    break;
                }
            }
        }
        Err(Exhausted {
            attempts: walk.tried,
            elapsed: started.elapsed(),
            end,
        })
    }
}

/// One call on its way through the stages.
struct Walk<C, F, E> {
    total: Duration,
    deadline: Instant,
    /// Attempts made.
    made: u32,
    tried: Vec<Tried<E>>,
    classify: C,
    call: F,
}

/// What comes after a stage.
enum Step<T> {
    Served(T),
    Next,
    CallersError,
    OutOfTime,
}

impl<C, F, E> Walk<C, F, E> {
    async fn stage<Fut, T>(&mut self, place: usize, stage: &Stage) -> Step<T>
    where
        C: FnMut(&Result<T, E>) -> Outcome,
        F: FnMut(Attempt) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        // The pause is for what was tried, and a stage that is about to be skipped is not waited for.
        let pauses = self.made > 0 && stage.breaker.expected_rejection().is_none();
        if pauses && !self.wait(stage.pause_before).await {
            return Step::OutOfTime;
        }
        let mut waits = stage.waits();
        loop {
            let Some((outcome, result)) = self.attempt(place, stage).await else {
                return Step::OutOfTime;
            };
            let error = match result {
                Ok(value) => return Step::Served(value),
                Err(error) => error,
            };
            let rejected = matches!(error, CallError::Rejected(_));
            self.tried.push(Tried {
                stage: Arc::clone(&stage.name),
                number: self.made + u32::from(rejected),
                error,
            });
            if rejected {
                return Step::Next;
            }
            if matches!(outcome, Outcome::Success | Outcome::Ignored) {
                return Step::CallersError;
            }
            let next = next_wait(&stage.breaker, outcome, Duration::ZERO, || waits.next());
            let Some(wait) = next else {
                return Step::Next;
            };
            if !self.wait(wait).await {
                return Step::OutOfTime;
            }
        }
    }

    /// Waits; `false` where the total timeout came first.
    async fn wait(&self, pause: Duration) -> bool {
        if pause.is_zero() {
            return true;
        }
        let until = Instant::now() + pause;
        sleep_until(until.min(self.deadline)).await;
        until < self.deadline
    }

    /// One attempt, and what it counts as; `None` where the total timeout came first.
    ///
    /// A dropped attempt was given less than its time, so its circuit takes it as any dropped call.
    async fn attempt<Fut, T>(
        &mut self,
        place: usize,
        stage: &Stage,
    ) -> Option<(Outcome, Result<T, CallError<E>>)>
    where
        C: FnMut(&Result<T, E>) -> Outcome,
        F: FnMut(Attempt) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let started = Instant::now();
        if started >= self.deadline {
            return None;
        }
        let before = self.made;
        let limit = stage.limit(self.total);
        let Self {
            made,
            classify,
            call,
            ..
        } = self;
        // The limit is within the circuit, so that it takes what is over it as a failure.
        let mut outcome = Outcome::failure();
        let classify = |result: &Result<Result<T, E>, _>| {
            if let Ok(result) = result {
                outcome = classify(result);
            }
            outcome
        };
        let call = || {
            *made += 1;
            let attempt = Attempt {
                stage: place,
                name: Arc::clone(&stage.name),
                number: *made,
            };
            timeout(limit, call(attempt))
        };
        let protected = stage.breaker.call_with(classify, call);
        let Ok(result) = timeout_at(self.deadline, protected).await else {
            if self.made > before {
                self.tried.push(Tried {
                    stage: Arc::clone(&stage.name),
                    number: self.made,
                    error: CallError::TimedOut(self.deadline - started),
                });
            }
            return None;
        };
        let result = match result {
            Ok(result) => result.map_err(CallError::Failed),
            Err(CallError::Failed(_)) => Err(CallError::TimedOut(limit)),
            Err(CallError::TimedOut(limit)) => Err(CallError::TimedOut(limit)),
            Err(CallError::Rejected(rejection)) => Err(CallError::Rejected(rejection)),
        };
        Some((outcome, result))
    }
}

impl FailoverBuilder {
    /// Adds a stage, after those that there are.
    pub fn stage(mut self, stage: Stage) -> Self {
        self.stages.push(stage);
        self
    }

    /// Sets how long the whole may take: attempts, pauses and what circuits ask of their store. Above 0;
    /// without it there is no limit but those of the stages.
    pub const fn total_timeout(mut self, timeout: Duration) -> Self {
        self.total_timeout = timeout;
        self
    }

    /// Makes the chain.
    ///
    /// # Errors
    /// [`ChainError`] when there is no stage, two have one name, or a timeout is 0 or does not fit.
    pub fn build(self) -> Result<Failover, ChainError> {
        let total = self.total_timeout.min(FOR_EVER);
        if self.stages.is_empty() {
            return Err(ChainError::NoStage);
        }
        if total.is_zero() {
            return Err(ChainError::TotalTimeout);
        }
        let mut names = HashSet::new();
        for stage in &self.stages {
            if !names.insert(Arc::clone(&stage.name)) {
                return Err(ChainError::Duplicate(stage.name.to_string()));
            }
            let attempt = stage.limit(total);
            if attempt.is_zero() {
                return Err(ChainError::AttemptTimeout(stage.name.to_string()));
            }
            if attempt > total {
                let stage = stage.name.to_string();
                return Err(ChainError::DoesNotFit {
                    stage,
                    attempt,
                    total,
                });
            }
        }
        Ok(Failover {
            stages: self.stages.into(),
            total_timeout: total,
        })
    }
}
