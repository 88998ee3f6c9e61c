//! One call's way through the stages.
//!
//! Owns what comes after what: a pause, an attempt, another one, the next stage.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Attempt, Stage, Tried};
use crate::{CallError, Outcome, retry::next_wait};

/// One call on its way through the stages.
pub(super) struct Walk<C, F, E> {
    pub(super) total: Duration,
    pub(super) deadline: Instant,
    /// Attempts made.
    pub(super) made: u32,
    pub(super) tried: Vec<Tried<E>>,
    pub(super) classify: C,
    pub(super) call: F,
}

/// What comes after a stage.
pub(super) enum Step<T> {
    Served(T),
    Next,
    CallersError,
    OutOfTime,
}

impl<C, F, E> Walk<C, F, E> {
    pub(super) async fn stage<Fut, T>(&mut self, place: usize, stage: &Stage) -> Step<T>
    where
        C: FnMut(&Result<T, E>) -> Outcome,
        F: FnMut(Attempt) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        // The pause is for what was tried, and a stage that is about to be skipped is not waited for.
        let pauses = self.made > 0 && stage.breaker.expected_rejection().is_none();
        if pauses {
            self.wait(stage.pause_before).await;
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
            self.wait(wait).await;
        }
    }

    /// Waits, until the total timeout at the latest.
    async fn wait(&self, pause: Duration) {
        if !pause.is_zero() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            sleep(pause.min(left)).await;
        }
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
