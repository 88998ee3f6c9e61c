//! The admin server over HTTP, as browsers and scripts use it: a real listener, a real Redis.

mod away;
mod commands;
mod compressed;
mod described;
mod limits;
pub mod many;
mod mounted;
mod named;
mod news;
#[cfg(feature = "cli")]
pub mod proxied;
mod reading;
mod refused;
mod scraped;
#[cfg(feature = "cli")]
pub mod serving;
pub mod site;
pub mod tokens;
