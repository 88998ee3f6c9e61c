//! How a circuit stands, for those who choose among several; no lock, no I/O, nothing counted.

use std::sync::atomic::Ordering;

use super::{CircuitBreaker, Rejection, gate::Hold};
use crate::model::State;

/// What a circuit would say to a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Standing {
    /// It admits calls, or this replica has not heard of it yet.
    In,
    /// A probe may be due.
    Due(Rejection),
    /// It admits none.
    Out(Rejection),
}

impl CircuitBreaker {
    /// How it stands, as far as this replica knows.
    pub(crate) fn standing(&self) -> Standing {
        let cell = &self.cell;
        if cell.gate.glance().admits().is_some() {
            return Standing::In;
        }
        match cell.gate.decide(cell.now()) {
            Ok(_) | Err(Hold::Ask) => Standing::In,
            // The recovery ramp has no room for this call: others may pass.
            Err(Hold::Reject(rejection)) if rejection.state == State::Closed => Standing::In,
            // Another call asks already.
            Err(Hold::AskAlone) if !cell.asking.load(Ordering::SeqCst) => {
                Standing::Due(cell.rejection())
            }
            Err(Hold::AskAlone) => Standing::Out(cell.rejection()),
            Err(Hold::Reject(rejection)) => match rejection.state {
                // A permit that was fetched ahead.
                State::HalfOpen if cell.spare.lock().is_some() => Standing::Due(rejection),
                _ => Standing::Out(rejection),
            },
        }
    }

    /// Calls of its window, as last heard, and failures among them.
    pub(crate) fn window(&self) -> (u64, u64) {
        self.cell.gate.window()
    }

    /// What it would tell a call that it rejects now.
    pub(crate) fn rejection(&self) -> Rejection {
        self.cell.rejection()
    }

    /// Counts a call that it would have rejected and nobody else took.
    pub(crate) fn count_rejection(&self) {
        self.cell.tally.reject();
        self.cell.wake_if_parked();
    }
}
