//! One circuit breaker for every replica of a service, shared through Redis at the cost of a local
//! one.
//!
//! Create one [`Commontrip`] per process, get [`CircuitBreaker`]s from it by name, and make calls
//! through them. A call reads a cached decision and counts its outcome in memory. States, rolling
//! counters and probe permits live in Redis and change only in atomic scripts.
//!
//! # Example
//!
//! ```
//! use std::{io, time::Duration};
//!
//! use commontrip::{CallError, Commontrip, Policy, State};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Circuits of this process alone; `Commontrip::redis(url)` shares them with the other replicas.
//! let circuits = Commontrip::embedded()?;
//! let policy = Policy::builder()
//!     .failure_rate_threshold(50)
//!     .minimum_number_of_calls(2)
//!     .wait_duration_in_open_state(Duration::from_secs(30))
//!     .build()?;
//! let payments = circuits.circuit("payments", policy)?;
//!
//! let charge = || async { Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused)) };
//! for _ in 0..2 {
//!     assert!(matches!(payments.call(charge).await, Err(CallError::Failed(_))));
//! }
//! circuits.flush().await;
//! assert_eq!(payments.state(), State::Open);
//!
//! // From now on no call is made, by any replica, until the wait is over.
//! match payments.call(charge).await {
//!     Err(CallError::Rejected(rejection)) => assert!(rejection.retry_after.is_some()),
//!     other => panic!("{other:?}"),
//! }
//! # Ok(()) }
//! ```
//!
//! # Overview
//!
//! - [`Commontrip::redis`], [`Commontrip::builder`], [`Commontrip::embedded`]: where circuits live
//! - [`CircuitBreaker::call`], [`call_sync`](CircuitBreaker::call_sync),
//!   [`acquire`](CircuitBreaker::acquire), [`Protect`]: making calls
//! - [`Policy`]: when a circuit opens, for how long, how it closes
//! - [`Outcome`]: what a call's result means; [`Rejection`]: why a call was not made
//! - [`CircuitBreaker::events`], [`snapshot`](CircuitBreaker::snapshot): inspecting a circuit
//! - [`CircuitBreaker::force_open`], [`disable`](CircuitBreaker::disable),
//!   [`metrics_only`](CircuitBreaker::metrics_only), [`reset`](CircuitBreaker::reset): operating
//!   the fleet
//! - [`operator::Operator`]: the same from outside, for every circuit of a store
//! - [`Commontrip::stats`], [`Commontrip::health`]: what this process has seen
//! - [`model`]: the circuit as a pure state machine; [`store`]: the trait behind both stores
//!
//! # Features
//!
//! No feature changes how calls are decided. None is on by default.
//!
//! | feature | what it adds | guide |
//! |---|---|---|
//! | `tower` | [`tower::CircuitBreakerLayer`] | [`guide::tower`] |
//! | `reqwest` | [`reqwest::CircuitBreakerMiddleware`] | [`guide::reqwest`] |
//! | `keyed` | [`keyed::KeyedCircuits`], circuits by keys from requests | [`guide::tower`] |
//! | `http` | [`http`], the meaning of HTTP responses | [`guide::tower`] |
//! | `axum` | `IntoResponse` for rejections and call errors | [`guide::tower`] |
//! | `stream` | [`stream`], calls that return a stream | [`guide::streams`] |
//! | `retry` | [`retry`], retries that respect the circuit | [`guide::retry`] |
//! | `failover` | [`failover::Failover`], an ordered chain of providers | [`guide::failover`] |
//! | `fallback` | [`fallback`], static and computed fallbacks, last good answers | [`guide::fallback`] |
//! | `queue` | [`queue::Queue`], durable work for later | [`guide::queue`] |
//! | `health` | [`health::HealthMonitor`], checks by one replica of the fleet | [`guide::health`] |
//! | `balance` | [`balance::CircuitSet`], several equal upstreams | [`guide::balance`] |
//! | `config` | [`config::Config`], policies from files and the environment | [`guide::config`] |
//! | `test-util` | [`test_util`], fleets, faults and assertions for tests | [`guide::test_util`] |
//! | `metrics` | [`metrics::Exporter`], statistics for the `metrics` facade | [`guide::metrics`] |
//! | `otel` | [`otel`], OpenTelemetry metrics, and spans of calls | [`guide::otel`] |
//! | `alerts` | [`alerts`], alert rules; one replica of the fleet sends each alert | [`guide::alerts`] |
//! | `health-http` | [`health::Check::http`], a URL as a check | [`guide::health`] |
//! | `webhook` | [`alerts::Webhook`], alerts as JSON to a URL | [`guide::alerts`] |
//! | `admin` | [`admin`], a dashboard and an HTTP API for an axum app | [`guide::operations`] |
//! | `cli` | the `commontrip` program | [`guide::operations`] |
//! | `tls` | `rediss://` addresses | [`guide::redis`] |
//!
//! [`guide`] has a page for each of them, and pages on [policies](guide::policy) and
//! [costs](guide::costs). The guarantees and their limits are in [`guide::guarantees`].

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "admin")]
pub mod admin;
#[cfg(feature = "alerts")]
pub mod alerts;
#[cfg(feature = "balance")]
pub mod balance;
mod breaker;
#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "failover")]
pub mod failover;
#[cfg(feature = "fallback")]
pub mod fallback;
#[cfg(any(doc, doctest))]
pub mod guide;
#[cfg(feature = "health")]
pub mod health;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "keyed")]
pub mod keyed;
#[cfg(feature = "metrics")]
pub mod metrics;
// Its public types are at the root, in `store` and in `operator`; tests use the module itself.
#[doc(hidden)]
pub mod model;
pub mod operator;
#[cfg(feature = "otel")]
pub mod otel;
#[cfg(feature = "queue")]
pub mod queue;
#[cfg(feature = "reqwest")]
pub mod reqwest;
#[cfg(feature = "retry")]
pub mod retry;
#[cfg(any(feature = "metrics", feature = "otel"))]
mod series;
pub mod store;
#[cfg(feature = "stream")]
pub mod stream;
#[cfg(feature = "test-util")]
pub mod test_util;
#[cfg(feature = "tower")]
pub mod tower;

pub use breaker::{
    BuildError, CallError, CircuitBreaker, CircuitStats, CircuitSummary, Commontrip,
    CommontripBuilder, ControlError, Events, FallbackKind, FallbackStats, Note, Observer, Override,
    Permit, ProbeStats, Protect, RegistryHealth, Rejection, TimedOut, Transition, Unsent,
};
#[doc(inline)]
pub use model::{
    AbandonedCalls, Counts, Event, FailureKind, KindCount, Latencies, LatencyRecording,
    MinimumAppliesTo, Name, NameError, OnStoreFailure, Outcome, Percentiles, Policy, PolicyBuilder,
    PolicyError, Reason, Rules, Snapshot, State, TimedOutCalls, UnknownWord,
};
#[doc(inline)]
pub use store::{Clock, MemoryStore, RedisPool, RedisStore, RedisStoreBuilder, Store, StoreError};

/// What most programs use: `use commontrip::prelude::*;`.
///
/// ```
/// use commontrip::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let users = Commontrip::embedded()?.circuit("users", Policy::default())?;
/// let id = async { "7".parse::<u32>() }.protect(&users).await?;
/// assert_eq!((id, users.state()), (7, State::Closed));
/// # Ok(()) }
/// ```
pub mod prelude {
    pub use crate::{
        CallError, CircuitBreaker, Commontrip, Outcome, Permit, Policy, Protect, Rejection, State,
    };
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
