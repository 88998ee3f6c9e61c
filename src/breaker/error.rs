//! Why a call did not succeed.

use std::{fmt, time::Duration};

use crate::model::{Reason, State};
use crate::store::StoreError;

/// A rejected call. Not a fault: the circuit did its job.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// # payments.force_open(Default::default()).await?;
/// let rejection = payments.acquire().await.expect_err("the circuit is open");
/// println!("{rejection}; again after {:?}", rejection.retry_after);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// The state of the circuit.
    pub state: State,
    /// Why the circuit is in that state, or what prevents this call.
    pub reason: Reason,
    /// How long to wait before a call may pass; `None` if that is unknown (an override without an
    /// end).
    pub retry_after: Option<Duration>,
    /// Whether this replica decided alone: the store is unavailable, or the replica's local circuit
    /// is open because the fleet lacks a `quorum`.
    pub local: bool,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "call rejected: the circuit is {} ({})",
            self.state, self.reason
        )?;
        if let Some(wait) = self.retry_after {
            write!(f, ", retry after {wait:?}")?;
        }
        if self.local {
            f.write_str(", decided by this replica alone")?;
        }
        Ok(())
    }
}

impl std::error::Error for Rejection {}

/// A call was dropped after this `call_timeout`.
///
/// ```
/// use std::time::Duration;
/// use commontrip::TimedOut;
///
/// assert_eq!(TimedOut(Duration::from_secs(2)).to_string(), "the call took longer than 2s");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the call took longer than {0:?}")]
pub struct TimedOut(pub Duration);

/// Why a protected call did not succeed.
///
/// Implements [`Error`](std::error::Error) if `E` does, with the message and the source of what
/// happened. For an `E` that does not, such as `anyhow::Error` or `Box<dyn Error>`, use
/// [`into_boxed`](Self::into_boxed) or [`flatten`](Self::flatten).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::CallError;
///
/// match payments.call(|| async { "x".parse::<u32>() }).await {
///     Ok(number) => println!("{number}"),
///     Err(CallError::Rejected(rejection)) => println!("not made: {rejection}"),
///     Err(CallError::TimedOut(limit)) => println!("took longer than {limit:?}"),
///     Err(CallError::Failed(error)) => println!("failed: {error}"),
///     Err(error) => println!("{error}"),
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E> {
    /// The call was not made.
    // Not transparent, so that the rejection appears in the source chain.
    #[error("{0}")]
    Rejected(#[from] Rejection),
    /// The call was dropped after `call_timeout`.
    #[error("the call took longer than {0:?}")]
    TimedOut(Duration),
    /// The call's own error.
    #[error(transparent)]
    Failed(E),
}

impl<E> CallError<E> {
    /// The rejection, if the call was not made.
    #[must_use]
    pub const fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            _ => None,
        }
    }

    /// Converts whichever error occurred into a `T` that can hold each of them: `anyhow::Error`, a
    /// boxed error, or an enum of your own.
    ///
    /// ```
    /// use commontrip::{CallError, CircuitBreaker};
    ///
    /// async fn charge(payments: &CircuitBreaker) -> anyhow::Result<u32> {
    ///     let charged = payments.call(async || anyhow::Ok(42)).await;
    ///     charged.map_err(CallError::flatten)
    /// }
    /// ```
    #[must_use]
    pub fn flatten<T>(self) -> T
    where
        T: From<Rejection> + From<TimedOut> + From<E>,
    {
        match self {
            Self::Rejected(rejection) => rejection.into(),
            Self::TimedOut(after) => TimedOut(after).into(),
            Self::Failed(error) => error.into(),
        }
    }

    /// [`flatten`](Self::flatten) to a boxed error.
    ///
    /// ```
    /// use std::error::Error;
    /// use commontrip::{CallError, CircuitBreaker};
    ///
    /// type Boxed = Box<dyn Error + Send + Sync>;
    ///
    /// async fn charge(payments: &CircuitBreaker) -> Result<u32, Boxed> {
    ///     let charged = payments
    ///         .call(async || Err::<u32, Boxed>("no such account".into()))
    ///         .await
    ///         .map_err(CallError::into_boxed)?;
    ///     Ok(charged + 1)
    /// }
    /// ```
    #[must_use]
    pub fn into_boxed(self) -> Box<dyn std::error::Error + Send + Sync>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match self {
            Self::Rejected(rejection) => rejection.into(),
            Self::TimedOut(after) => TimedOut(after).into(),
            Self::Failed(error) => error.into(),
        }
    }

    /// The call's own error, if there is one.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// let failed = payments.call(|| async { Err::<(), _>("no such account") }).await;
    /// assert_eq!(failed.unwrap_err().into_failed(), Some("no such account"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn into_failed(self) -> Option<E> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}

/// Why a [`Commontrip`](crate::Commontrip) or a circuit could not be created.
///
/// ```
/// use commontrip::{BuildError, Commontrip};
///
/// assert!(matches!(Commontrip::embedded(), Err(BuildError::NoRuntime)));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no tokio runtime.
    #[error("no tokio runtime: call this from within one")]
    NoRuntime,
    /// The store's settings are invalid.
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    /// The replica's name is invalid.
    #[error("{0:?} is not a valid replica name: use 1 to 100 printable characters without spaces")]
    Replica(String),
}

/// Why an operator's command was not carried out, or a circuit could not be shown.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::ControlError;
///
/// let wrong = payments.store_policy("failure_rate_threshold=200").await;
/// assert!(matches!(wrong, Err(ControlError::Policy(_))));
/// # Ok(()) }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The store did not carry out the command, or its answer was lost.
    #[error("the store did not confirm the command")]
    Store(#[from] StoreError),
    /// The policy to store is invalid.
    #[error("the policy is not valid")]
    Policy(#[from] crate::model::PolicyError),
    /// An author or a reason is too long.
    #[error("the {what} has {bytes} bytes, but at most {most} are kept")]
    Text {
        /// Which of the two: `author` or `reason`.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The maximum length.
        most: usize,
    },
    /// No circuit can have that name.
    #[error(transparent)]
    Name(#[from] crate::model::NameError),
    /// The store does not know the circuit.
    #[error("there is no circuit {0:?}")]
    Unknown(String),
    /// Somebody else has changed the stored policy in the meantime.
    #[error(
        "the stored policy is at version {found}, not {expected}: somebody else has changed it"
    )]
    Conflict {
        /// The version that the command was to replace.
        expected: u64,
        /// The version that is stored.
        found: u64,
    },
    /// The override in force is not the one that the command was to replace
    /// ([`Override::replacing`](crate::Override::replacing)). Nothing was changed.
    #[error("{}", in_force(*.state, .author, .reason, *.generation))]
    Overridden {
        /// The state in force; not an override if the expected one has ended.
        state: crate::State,
        /// Who set it.
        author: String,
        /// Why.
        reason: String,
        /// Its generation.
        generation: u64,
    },
    /// The recorded history cannot show what the circuit would have done under this setting.
    #[error("{setting} is {value}, but {why}")]
    Unrecorded {
        /// The setting.
        setting: &'static str,
        /// Its value, in words.
        value: String,
        /// What is recorded, and at which resolution.
        why: String,
    },
    /// The circuit cannot be removed because replicas use it.
    #[error("the circuit is in use: replica {replica:?} was last seen {ago_ms} ms ago")]
    InUse {
        /// The replica that reported last.
        replica: String,
        /// How long ago that replica was last seen, ms.
        ago_ms: u64,
    },
}

/// The message of [`ControlError::Overridden`].
fn in_force(state: crate::State, author: &str, reason: &str, generation: u64) -> String {
    match state.is_override() {
        true => format!(
            "nothing was changed: another override is in force, {state} by {author:?} for {reason:?} (generation {generation})"
        ),
        false => format!(
            "nothing was changed: the override that was to be replaced has ended, and the circuit is {state}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::{error::Error, io};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("no answer")]
    struct NoAnswer(#[source] io::Error);

    fn chain(error: &dyn Error) -> Vec<String> {
        let rest = error.source().map_or_else(Vec::new, chain);
        [vec![error.to_string()], rest].concat()
    }

    #[test]
    fn a_report_says_everything_once() {
        let failed = || CallError::Failed(NoAnswer(io::Error::other("reset by peer")));
        assert_eq!(chain(&failed()), ["no answer", "reset by peer"]);
        let boxed = failed().into_boxed();
        assert_eq!(chain(&*boxed), ["no answer", "reset by peer"]);
        let why = StoreError::unreachable(io::Error::other("refused by the host"));
        let said = chain(&BuildError::from(why)).join("; ");
        assert_eq!(said.matches("refused by the host").count(), 1, "{said}");
    }

    #[test]
    fn errors_that_are_none_are_flattened() {
        type Call = CallError<anyhow::Error>;
        let failed = Call::Failed(anyhow::anyhow!("no such account"));
        assert_eq!(
            failed.flatten::<anyhow::Error>().to_string(),
            "no such account"
        );
        let late: anyhow::Error = Call::TimedOut(Duration::from_secs(2)).flatten();
        assert_eq!(late.downcast_ref(), Some(&TimedOut(Duration::from_secs(2))));
        let boxed = CallError::Failed(Box::<dyn Error + Send + Sync>::from("late")).into_boxed();
        assert_eq!(boxed.to_string(), "late");
    }
}
