//! One circuit breaker for every replica of a service, shared through Redis.

mod breaker;
pub mod model;
pub mod store;

pub use breaker::*;
pub use model::{
    Counts, Event, Name, NameError, OnStoreFailure, Outcome, Policy, PolicyBuilder, PolicyError,
    Reason, Rules, Snapshot, State,
};
pub use store::{Clock, MemoryStore, RedisStore, RedisStoreBuilder, Store, StoreError};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
