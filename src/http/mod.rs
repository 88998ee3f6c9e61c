//! What HTTP's messages mean to a circuit, with the types of the crate `http` 1.
//!
//! Owns the meaning of statuses and of `Retry-After`, when a body is whole, names of hosts, and
//! answers to requests that a circuit rejects; knows nothing of clients and servers.
//!
//! - [`outcome`]: what an answer's head says of the service; [`retry_after`]: how long it wants to be left
//!   alone
//! - [`host`]: a key for [`KeyedCircuits`](crate::keyed::KeyedCircuits)
//! - [`rejected`], [`timed_out`]: answers of a server, also as `Response::from(rejection)`

#[cfg(any(feature = "reqwest", feature = "tower"))]
mod body;
mod host;
mod outcome;
mod response;

#[cfg(any(feature = "reqwest", feature = "tower"))]
pub use self::body::SettlingBody;
#[cfg(any(feature = "reqwest", feature = "tower"))]
pub(crate) use self::body::settle_with_body;
pub use self::{
    host::host,
    outcome::{outcome, retry_after},
    response::{rejected, timed_out},
};
