//! Releases that share a Redis: what each writes, and that a roll-out loses nothing.

mod recorded;
mod rolling;
