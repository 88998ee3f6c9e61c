//! The admin server over HTTP, as browsers and scripts meet it: a real listener, a real Redis.

mod away;
mod commands;
mod described;
mod limits;
pub mod many;
mod mounted;
mod news;
mod reading;
mod refused;
#[cfg(feature = "cli")]
mod serving;
pub mod site;
