#![allow(missing_docs, dead_code, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]
#[path = "it/delegate.rs"]
mod delegate;
#[path = "it/many.rs"]
mod many;
#[path = "it/support.rs"]
mod support;
#[path = "it/traces.rs"]
mod traces;
#[path = "it/wait.rs"]
mod wait;
