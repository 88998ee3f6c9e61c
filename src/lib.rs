//! One circuit breaker for every replica of a service, shared through Redis at the price of a
//! local one.
//!
//! Take a [`Commontrip`] once per process, [`CircuitBreaker`]s from it by name, and make calls
//! through them. A call decides from a cached word and counts its outcome in memory; states,
//! rolling counters and probe permits live in Redis and move only in atomic scripts.
//!
//! - [`Commontrip::redis`], [`Commontrip::builder`], [`Commontrip::embedded`]: where circuits live
//! - [`CircuitBreaker::call`], [`call_sync`](CircuitBreaker::call_sync),
//!   [`acquire`](CircuitBreaker::acquire), [`Protect`]: making calls
//! - [`Policy`]: when a circuit opens, for how long, how it closes
//! - [`Outcome`]: what became of a call; [`Rejection`]: why it was not made
//! - [`CircuitBreaker::events`], [`snapshot`](CircuitBreaker::snapshot): looking at a circuit
//! - [`CircuitBreaker::force_open`], `disable`, `metrics_only`, `reset`: operating the fleet
//! - [`Operator`](operator::Operator): the same from outside, and everything that there is to see
//! - [`Commontrip::stats`], [`Commontrip::health`]: what this process has seen
//!
//! The README has the guarantees and their limits, ARCHITECTURE.md the way of a call.
//! [`model`] is the circuit as a pure machine, [`store`] the trait behind both stores.
//!
//! Feature `admin`: `admin`, a dashboard and an HTTP API to mount in an axum app. Feature `cli`: the `commontrip`
//! program, with which operators look at circuits and steer them. Feature `metrics`: `metrics::Exporter`, which gives
//! the statistics to any exporter of the `metrics` crate. Nothing else depends on any of them.

#[cfg(feature = "admin")]
pub mod admin;
#[cfg(feature = "alerts")]
pub mod alerts;
mod breaker;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod model;
pub mod operator;
pub mod store;

pub use breaker::{
    BuildError, CallError, CircuitBreaker, CircuitStats, Commontrip, CommontripBuilder,
    ControlError, Events, Health, Observer, Override, Permit, ProbeStats, Protect, Rejection,
    Transition,
};
pub use model::{
    Counts, Event, Latencies, LatencyRecording, Name, NameError, OnStoreFailure, Outcome,
    Percentiles, Policy, PolicyBuilder, PolicyError, Reason, Rules, Snapshot, State,
};
pub use store::{Clock, MemoryStore, RedisPool, RedisStore, RedisStoreBuilder, Store, StoreError};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
