//! Why a call did not succeed.

use std::{fmt, time::Duration};

use crate::model::{Reason, State};
use crate::store::StoreError;

/// A call was not permitted. Not a fault: the circuit did its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// The state of the circuit.
    pub state: State,
    /// Why the circuit is in that state, or what stands in the way of this call.
    pub reason: Reason,
    /// How long to wait before a call may pass; `None` where nobody can know (an override
    /// without an end).
    pub retry_after: Option<Duration>,
    /// The decision is this replica's own: the store is away, or the replica is open for itself
    /// because the fleet lacks a `quorum`.
    pub local: bool,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "call not permitted: the circuit is {} ({})",
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

/// Why a protected call did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E> {
    /// The call was not made.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The call was dropped after `call_timeout`.
    #[error("the call took longer than {0:?}")]
    TimedOut(Duration),
    /// The call's own error.
    #[error("{0}")]
    Failed(#[source] E),
}

impl<E> CallError<E> {
    /// The rejection, when the call was not made.
    #[must_use]
    pub const fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            _ => None,
        }
    }

    /// The call's own error, when it has one.
    #[must_use]
    pub fn into_failed(self) -> Option<E> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}

/// Why a [`Commontrip`](crate::Commontrip) or a circuit could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no tokio runtime here.
    #[error("no tokio runtime: call this from within one")]
    NoRuntime,
    /// The store's settings are wrong.
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    /// A replica's name is wrong.
    #[error("{0:?} cannot name a replica: use 1 to 100 printable characters without spaces")]
    Replica(String),
}

/// Why an operator's command was not carried out, or a circuit not shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The store did not do it, or its answer was lost.
    #[error("the store did not confirm the command")]
    Store(#[from] StoreError),
    /// The policy to be stored is wrong.
    #[error("the policy is not valid")]
    Policy(#[from] crate::model::PolicyError),
    /// An author or a reason is too long.
    #[error("the {what} has {bytes} bytes, but at most {most} are kept")]
    Text {
        /// Which of the two.
        what: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        most: usize,
    },
    /// No circuit can have that name.
    #[error(transparent)]
    Name(#[from] crate::model::NameError),
    /// The store has not heard of the circuit.
    #[error("there is no circuit {0:?}")]
    Unknown(String),
    /// Somebody else has changed the stored policy meanwhile.
    #[error(
        "the stored policy is at version {found}, not {expected}: somebody else has changed it"
    )]
    Conflict {
        /// The version that was to be replaced.
        expected: u64,
        /// The version that is stored.
        found: u64,
    },
}
