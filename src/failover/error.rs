//! Why a chain cannot be built, and why it has not served.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use crate::CallError;

/// Why a [`Failover`](super::Failover) cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// There is no stage.
    #[error("a chain needs at least one stage")]
    NoStage,
    /// Two stages have one name.
    #[error("two stages are called {0:?}; each needs a name of its own")]
    Duplicate(String),
    /// A stage's attempt timeout is 0.
    #[error("the attempt timeout of stage {0:?} is 0; it must be longer")]
    AttemptTimeout(String),
    /// The total timeout is 0.
    #[error("the total timeout is 0; it must be longer")]
    TotalTimeout,
    /// An attempt may take longer than the whole chain, and so would never count as a failure.
    #[error(
        "an attempt of stage {stage:?} may take {attempt:?}, the whole chain only {total:?}; an attempt must fit"
    )]
    DoesNotFit {
        /// The stage.
        stage: String,
        /// Its attempt timeout.
        attempt: Duration,
        /// The total timeout.
        total: Duration,
    },
}

/// What ended a chain that has not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The last stage failed, or was skipped.
    LastStage,
    /// The total timeout, which is told.
    TotalTimeout(Duration),
    /// An error that no other stage would mend: its outcome was [`Success`](crate::Outcome::Success) or
    /// [`Ignored`](crate::Outcome::Ignored).
    CallersError,
}

/// No stage has served; what each said.
#[derive(Debug)]
#[non_exhaustive]
pub struct Exhausted<E> {
    /// What was tried, in order. A stage that was skipped has one entry, its rejection. Empty where the total timeout
    /// came before anything was known.
    pub attempts: Vec<Tried<E>>,
    /// How long the whole took.
    pub elapsed: Duration,
    /// What ended it.
    pub end: End,
}

/// An attempt that did not serve.
#[derive(Debug)]
#[non_exhaustive]
pub struct Tried<E> {
    /// The stage's name.
    pub stage: Arc<str>,
    /// Which attempt of the whole chain it was, from 1. A rejection has the number that the attempt would have had.
    pub number: u32,
    /// What became of it. [`CallError::TimedOut`] has the time that it was given, which may be less than the stage's
    /// where the total timeout ended it.
    pub error: CallError<E>,
}

impl<E> Exhausted<E> {
    /// The newest error of a call's own, if a call failed with one.
    #[must_use]
    pub fn into_failed(self) -> Option<E> {
        let newest_first = self.attempts.into_iter().rev();
        newest_first
            .filter_map(|tried| tried.error.into_failed())
            .next()
    }
}

impl<E: fmt::Display> fmt::Display for Exhausted<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            End::LastStage => write!(f, "no stage served within {:?}", self.elapsed)?,
            End::TotalTimeout(total) => write!(f, "no stage served in the {total:?} there are")?,
            End::CallersError => f.write_str("another stage would fare no better")?,
        }
        for (i, tried) in self.attempts.iter().enumerate() {
            f.write_str(if i == 0 { ": " } else { "; " })?;
            match &tried.error {
                CallError::Rejected(rejection) => write!(f, "{}: {rejection}", tried.stage)?,
                error => write!(f, "{} (attempt {}): {error}", tried.stage, tried.number)?,
            }
        }
        Ok(())
    }
}

impl<E: Error + 'static> Error for Exhausted<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.attempts.last().map(|tried| &tried.error as _)
    }
}
