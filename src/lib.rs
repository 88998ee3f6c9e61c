//! One circuit breaker for every replica of a service, shared through Redis.

pub mod model;
pub mod store;

pub use model::{
    Counts, Event, Name, NameError, OnStoreFailure, Outcome, Policy, PolicyBuilder, PolicyError,
    Reason, Rules, Snapshot, State,
};
