//! One call's path through the stages.
//!
//! Owns the sequence: a pause, an attempt, retries, the next stage.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Attempt, Stage, Tried, retry_after::Said};
use crate::{CallError, Outcome, retry::next_wait};

/// One call on its path through the stages.
pub(super) struct Walk<C, F, E> {
    pub(super) total: Duration,
    pub(super) deadline: Instant,
    /// Attempts made so far.
    pub(super) made: u32,
    pub(super) tried: Vec<Tried<E>>,
    /// What each stage so far reported about when to try it again.
    pub(super) said: Vec<Said>,
    pub(super) classify: C,
    pub(super) call: F,
}

/// What follows a stage.
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
        // No pause if nothing was tried before, or if the stage is about to be skipped.
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
            let rejection = error.rejection().copied();
            let rejected = rejection.is_some();
            self.said.resize(place + 1, Said::Nothing);
            self.said[place] = match (rejection, &outcome) {
                (Some(rejection), _) => Said::rejected(rejection.retry_after),
                (None, Outcome::Failure { .. } | Outcome::Trip { .. }) => {
                    Said::after(outcome.retry_after())
                }
                (None, _) => Said::Nothing,
            };
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
            let next = next_wait(&stage.breaker, &outcome, Duration::ZERO, || waits.next());
            let Some(wait) = next else {
                return Step::Next;
            };
            self.wait(wait).await;
        }
    }

    /// Waits, but not past the total timeout.
    async fn wait(&self, pause: Duration) {
        if !pause.is_zero() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            sleep(pause.min(left)).await;
        }
    }

    /// Makes one attempt. Returns its result and outcome; `None` if the total timeout came first.
    ///
    /// An attempt that the total timeout drops had less than its own limit, so its circuit treats
    /// it like any dropped call.
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
        // The limit is applied inside the circuit, which therefore counts a timeout as a failure.
        let mut outcome = Outcome::failure_of("timeout");
        let classify = |result: &Result<Result<T, E>, _>| {
            if let Ok(result) = result {
                outcome = classify(result);
            }
            outcome.clone()
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
