//! The condition of a circuit, for code that chooses among several; does no I/O and counts nothing.

use std::sync::atomic::Ordering;

use super::{CircuitBreaker, Rejection, gate::NotAdmitted};
use crate::model::State;

/// How a circuit would treat a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Condition {
    /// The circuit admits calls, or this replica has not heard of it yet.
    Admits,
    /// A probe may be due.
    ProbeDue(Rejection),
    /// The circuit rejects calls.
    Rejects(Rejection),
}

impl CircuitBreaker {
    /// The circuit's condition, as far as this replica knows.
    pub(crate) fn condition(&self) -> Condition {
        let inner = &self.inner;
        if inner.gate.word().admits().is_some() {
            return Condition::Admits;
        }
        match inner.gate.decide(inner.now()) {
            Ok(_) | Err(NotAdmitted::Ask) => Condition::Admits,
            // Only the recovery ramp has no room for this call: others may pass.
            Err(NotAdmitted::Reject(rejection)) if rejection.state == State::Closed => {
                Condition::Admits
            }
            // Unless another call is already asking.
            Err(NotAdmitted::AskAlone) if !inner.asking.load(Ordering::SeqCst) => {
                Condition::ProbeDue(inner.rejection())
            }
            Err(NotAdmitted::AskAlone) => Condition::Rejects(inner.rejection()),
            Err(NotAdmitted::Reject(rejection)) => match rejection.state {
                // A permit was fetched ahead.
                State::HalfOpen if inner.spare.lock().is_some() => Condition::ProbeDue(rejection),
                _ => Condition::Rejects(rejection),
            },
        }
    }

    /// Calls in the circuit's window as last received, and failures among them.
    pub(crate) fn window(&self) -> (u64, u64) {
        self.inner.gate.window()
    }

    /// The rejection that a call would receive now.
    pub(crate) fn rejection(&self) -> Rejection {
        self.inner.rejection()
    }

    /// Counts a call that the circuit would have rejected and that no other circuit took.
    pub(crate) fn count_rejection(&self) {
        self.inner.tally.reject();
        self.inner.wake_if_parked();
    }
}
