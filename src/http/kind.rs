//! The failure kind of a call's error.
//!
//! Owns the names; inspects the types of errors, never their messages.

use std::io;

use hyper_util::client::legacy;

use super::local_error::{Cause, Seen, causes, look};
use crate::FailureKind;

/// The kind of all other errors.
const ERROR: &str = "error";

/// The kind of a value that may be an error.
pub(crate) fn kind_of<E: 'static>(error: &E) -> FailureKind {
    match look(error) {
        Seen::TimedOut => "timeout".into(),
        Seen::Error(error) => kind_of_error(error),
        Seen::Rejected | Seen::Unknown => ERROR.into(),
    }
}

/// The kind of an error, from the error itself and its causes.
pub(crate) fn kind_of_error(error: Cause<'_>) -> FailureKind {
    let connects = causes(error).any(|error| {
        let client = error.downcast_ref::<legacy::Error>();
        client.is_some_and(legacy::Error::is_connect)
    });
    let known = causes(error).find_map(known);
    FailureKind::of(match known {
        Some("timeout") => "timeout",
        _ if connects => "connect",
        Some(known) => known,
        None => ERROR,
    })
}

fn known(error: Cause<'_>) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        if error.is_timeout() {
            return Some("timeout");
        }
        return error.is_incomplete_message().then_some("ended early");
    }
    if error.is::<tokio::time::error::Elapsed>() || error.is::<tower::timeout::error::Elapsed>() {
        return Some("timeout");
    }
    match error.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::TimedOut => Some("timeout"),
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::AddrNotAvailable => Some("connect"),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => Some("connection reset"),
        io::ErrorKind::UnexpectedEof => Some("ended early"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tower::BoxError;

    use super::*;

    #[test]
    fn the_kind_is_what_the_system_reported_wherever_it_is_in_the_error() {
        let kind = |kind: io::ErrorKind| {
            let error: BoxError = io::Error::other(io::Error::from(kind)).into();
            kind_of(&error).to_string()
        };
        assert_eq!(kind(io::ErrorKind::TimedOut), "timeout");
        assert_eq!(kind(io::ErrorKind::ConnectionRefused), "connect");
        assert_eq!(kind(io::ErrorKind::BrokenPipe), "connection reset");
        assert_eq!(kind(io::ErrorKind::UnexpectedEof), "ended early");
        assert_eq!(kind(io::ErrorKind::PermissionDenied), "error");
        let boxed: BoxError = tower::timeout::error::Elapsed::new().into();
        assert_eq!(kind_of(&boxed).to_string(), "timeout");
        assert_eq!(kind_of(&"of a type that nobody knows").to_string(), "error");
    }
}
