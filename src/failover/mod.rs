//! An ordered chain of stages: the first that answers serves.
//!
//! Owns the order, the waits and the time limits; what a stage's circuit decides is the circuit's own.
//! Invariant: no attempt without the leave of its stage's circuit, and nothing after the total timeout.
//!
//! With the feature `metrics` on, each call counts in `circuit_breaker_failover_total` of the `metrics` crate's
//! recorder, with the labels `stage` (that served it, or `none`), `fallback` (`true`, `false`) and `result`: `served`,
//! `exhausted`, `timeout` (the total one), `callers_error`.

mod builder;
mod chain;
#[cfg(feature = "metrics")]
mod count;
mod error;
mod stage;
mod walk;

pub use self::{
    builder::FailoverBuilder,
    chain::{Attempt, Failover, Served},
    error::{ChainError, End, Exhausted, Tried},
    stage::Stage,
};
