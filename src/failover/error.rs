//! Why a chain cannot be built, and why it did not serve.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use crate::CallError;

/// Why a [`Failover`](super::Failover) cannot be built.
///
/// ```
/// use commontrip::failover::Failover;
///
/// assert!(Failover::builder().build().is_err()); // no stage
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// There is no stage.
    #[error("a chain needs at least one stage")]
    NoStage,
    /// Two stages have the same name.
    #[error("two stages are named {0:?}; each needs its own name")]
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

/// What ended a chain that did not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The last stage failed, or was skipped.
    LastStage,
    /// The total timeout, with its duration.
    TotalTimeout(Duration),
    /// An error that no other stage would fix: its outcome was [`Success`](crate::Outcome::Success)
    /// or [`Ignored`](crate::Outcome::Ignored).
    CallersError,
}

/// No stage served; has the error of each attempt.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::failover::{Failover, Stage};
///
/// let chain = Failover::builder().stage(Stage::new("cloud", &payments)).build()?;
/// let exhausted = chain.call(|_| async { Err::<(), _>("down") }).await.unwrap_err();
/// for tried in &exhausted.attempts {
///     println!("{}, attempt {}: {:?}", tried.stage, tried.number, tried.error);
/// }
/// assert_eq!(exhausted.into_failed(), Some("down"));
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Exhausted<E> {
    /// The attempts, in order. A skipped stage has one entry, its rejection. Empty if the total
    /// timeout came before any result.
    pub attempts: Vec<Tried<E>>,
    /// How long the whole call took.
    pub elapsed: Duration,
    /// What ended the chain.
    pub end: End,
    pub(super) retry_after: Option<Duration>,
}

/// An attempt that did not serve.
#[derive(Debug)]
#[non_exhaustive]
pub struct Tried<E> {
    /// The stage's name.
    pub stage: Arc<str>,
    /// The number of the attempt in the whole chain, from 1. A rejection has the number that the
    /// attempt would have had.
    pub number: u32,
    /// Why it did not serve. [`CallError::TimedOut`] has the time that the attempt was given, which
    /// is less than the stage's limit if the total timeout ended it.
    pub error: CallError<E>,
}

impl<E> Exhausted<E> {
    /// How long to wait, from the end of the chain, until the first stage may admit a call again:
    /// for the `Retry-After` of a response.
    ///
    /// The shortest time that the stages gave: the `retry_after` of a rejection or a failure, or
    /// how long a circuit that has just opened stays open. A stage that failed without giving a
    /// time, and whose circuit still admits calls, may be tried immediately. `None` if no stage
    /// gave a time, and after [`End::CallersError`], which waiting does not fix.
    ///
    /// Callers that are given the same time return together, so add jitter for each.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The last error of a call itself, if there is one.
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
            End::TotalTimeout(total) => {
                write!(f, "no stage served within the total timeout of {total:?}")?
            }
            End::CallersError => {
                f.write_str("the error is the caller's own, so no other stage was tried")?
            }
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
