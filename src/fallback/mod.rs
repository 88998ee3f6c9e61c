//! What to answer when a call fails or is rejected.
//!
//! Owns the ways to an answer without the call: a value, a computed one ([`Fallback`]), the last good one
//! ([`LastGood`]). Invariant: each answer tells how it came about, and a stale one never passes for a new
//! one.

mod instead;
mod kept;
mod last_good;

pub use self::{
    instead::{Fallback, Recovered},
    last_good::{Answer, LastGood, LastGoodBuilder, LastGoodError, Source},
};
