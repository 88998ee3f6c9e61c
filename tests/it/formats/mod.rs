//! Releases that share a Redis: what each writes, and that a rolling deploy loses nothing.

mod recorded;
mod rolling;
