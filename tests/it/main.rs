//! The integration tests: one binary, so that they link once and share one Redis.

mod differential;
mod provision;
mod support;
