//! An ordered chain of stages: the first one that succeeds serves the call.
//!
//! Owns the order, the waits and the time limits; each stage's circuit decides whether it admits a
//! call. Invariant: no attempt without a permit of its stage's circuit, and none after the total
//! timeout.
//!
//! With the feature `metrics`, each call is counted in `circuit_breaker_failover_total` of the
//! `metrics` crate's recorder, with the labels `stage` (the one that served it, or `none`),
//! `fallback` (`true`, `false`) and `result`: `served`, `exhausted`, `timeout` (the total timeout),
//! `callers_error`.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use commontrip::{Commontrip, Policy, failover::{Failover, Stage}};
//!
//! let circuits = Commontrip::embedded()?;
//! let cloud = circuits.circuit("cloud", Policy::default())?;
//! let local = circuits.circuit("local", Policy::default())?;
//! let chain = Failover::builder()
//!     .stage(Stage::new("cloud", &cloud))
//!     .stage(Stage::new("local", &local))
//!     .build()?;
//! let served = chain
//!     .call(|attempt| async move { if &*attempt.name == "cloud" { Err("down") } else { Ok(42) } })
//!     .await
//!     .expect("the second stage answers");
//! assert!(served.fallback && served.value == 42);
//! # Ok(()) }
//! ```

mod builder;
mod chain;
#[cfg(feature = "metrics")]
mod count;
mod error;
mod retry_after;
mod stage;
mod walk;

pub use self::{
    builder::FailoverBuilder,
    chain::{Attempt, Failover, Served},
    error::{ChainError, End, Exhausted, Tried},
    stage::Stage,
};
