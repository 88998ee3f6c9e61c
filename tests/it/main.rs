//! The integration tests: one binary, so that they link once and share one Redis.

mod away;
mod breaker;
mod calls;
mod provision;
mod support;
