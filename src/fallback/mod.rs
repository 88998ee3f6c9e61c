//! Answers for calls that fail or are rejected.
//!
//! Owns the alternatives to a call's own value: a fixed value, a computed one ([`Fallback`]) and
//! the last good one ([`LastGood`]). Invariant: each answer reports where it came from, and a stale
//! value is always marked as stale.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use commontrip::{Commontrip, Policy, fallback::Fallback};
//!
//! let rates = Commontrip::embedded()?.circuit("rates", Policy::default())?;
//! let rate = rates.call(|| async { Err::<f64, _>("down") }).await.fallback(1.0);
//! assert_eq!((rate.value, rate.is_fallback()), (1.0, true));
//! # Ok(()) }
//! ```

mod builder;
mod copies;
mod last_good;
mod lru;
mod substitute;
mod values;
mod warned;
mod writes;

pub use self::{
    builder::{LastGoodBuilder, LastGoodError},
    last_good::{Answer, LastGood, Source},
    substitute::{Fallback, Recovered},
};
