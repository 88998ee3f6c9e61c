//! An ordered chain of stages: the first that answers serves.
//!
//! Owns the order, the waits and the time limits; what a stage's circuit decides is the circuit's own.
//! Invariant: no attempt without the leave of its stage's circuit, and nothing after the total timeout.

mod chain;
mod error;
mod stage;

pub use self::{
    chain::{Attempt, Failover, FailoverBuilder, Served},
    error::{ChainError, End, Exhausted, Tried},
    stage::Stage,
};
