//! The integration tests: one binary, so that they link once and share one Redis.

mod breaker;
mod processes;
mod provision;
mod support;
