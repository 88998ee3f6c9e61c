//! Local errors: calls that never reached the upstream, or that this side ended.
//!
//! Owns the list of local errors and the search through causes. Every other error is the
//! upstream's. Knows nothing of outcomes.

use std::{any::Any, error::Error, io, sync::Arc};

use hyper_util::client::legacy;
use tokio::sync::{AcquireError, TryAcquireError};
use tower::{
    BoxError,
    buffer::error::{Closed, ServiceError},
    load_shed::error::Overloaded,
};

use crate::{CallError, Rejection};

pub(super) type Cause<'a> = &'a (dyn Error + 'static);

/// What a value is, if it is an error: boxed, or of a type that is known here.
pub(super) enum Seen<'a> {
    Rejected,
    TimedOut,
    Error(Cause<'a>),
    Unknown,
}

pub(super) fn look<E: 'static>(error: &E) -> Seen<'_> {
    macro_rules! known {
        ($($known:ty: $as_error:expr,)+) => {
            $(
                let as_error: fn(&$known) -> Cause<'_> = $as_error;
                if let Some(error) = (error as &dyn Any).downcast_ref::<$known>() {
                    return Seen::Error(as_error(error));
                }
                if let Some(call) = (error as &dyn Any).downcast_ref::<CallError<$known>>() {
                    return match call {
                        CallError::Rejected(_) => Seen::Rejected,
                        CallError::TimedOut(_) => Seen::TimedOut,
                        CallError::Failed(error) => Seen::Error(as_error(error)),
                    };
                }
            )+
        };
    }
    known! {
        BoxError: |error| &**error,
        Box<dyn Error>: |error| &**error,
        Arc<dyn Error + Send + Sync>: |error| error,
        Overloaded: |error| error,
        Closed: |error| error,
        ServiceError: |error| error,
        io::Error: |error| error,
        legacy::Error: |error| error,
        hyper::Error: |error| error,
        h2::Error: |error| error,
        std::convert::Infallible: |error| error,
    }
    #[cfg(feature = "reqwest")]
    known! {
        reqwest::Error: |error| error,
    }
    Seen::Unknown
}

/// [`is_ours`] for a value that may be an error.
pub(crate) fn may_be_ours<E: 'static>(error: &E) -> bool {
    match look(error) {
        Seen::Rejected => true,
        Seen::Error(error) => is_ours(error),
        Seen::TimedOut | Seen::Unknown => false,
    }
}

/// Whether an error, or one of its causes, is local.
pub(crate) fn is_ours(error: Cause<'_>) -> bool {
    causes(error)
        .find_map(|error| {
            if let Some(broken) = error.downcast_ref::<ServiceError>() {
                // The buffer's worker failed; if a connection caused that, the upstream is at
                // fault.
                return Some(!causes(broken).any(is_of_a_connection));
            }
            is_known(error).then_some(true)
        })
        .unwrap_or(false)
}

/// Whether an error, or one of its causes, is a circuit's rejection.
#[cfg(feature = "tower")]
pub(crate) fn is_rejection(error: Cause<'_>) -> bool {
    causes(error).any(|error| error.is::<Rejection>())
}

/// Iterates over an error and its causes.
pub(super) fn causes(error: Cause<'_>) -> impl Iterator<Item = Cause<'_>> {
    std::iter::successors(Some(error), |error| cause(*error))
}

/// [`Error::source`], or what some errors have instead.
fn cause(error: Cause<'_>) -> Option<Cause<'_>> {
    if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        return Some(&**shared);
    }
    // `source` of an `io::Error` skips the error that it wraps.
    if let Some(inside) = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        return Some(inside);
    }
    error.source()
}

fn is_known(error: Cause<'_>) -> bool {
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        // The body or the runtime on this side failed.
        return error.is_user();
    }
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        return is_by_this_side(error);
    }
    if let Some(error) = error.downcast_ref::<legacy::Error>() {
        // Such a request is never sent; all other errors have a cause.
        return !error.is_connect() && error.source().is_none();
    }
    error.is::<Overloaded>()
        || error.is::<Closed>()
        || error.is::<Rejection>()
        || error.is::<AcquireError>()
        || error.is::<TryAcquireError>()
}

/// Whether this side ended the stream (for instance because its body failed) or misused it.
fn is_by_this_side(error: &h2::Error) -> bool {
    let ended = error.is_reset() || error.is_go_away();
    match error.reason() {
        Some(_) => ended && !error.is_remote() && !error.is_library(),
        None => !error.is_io(),
    }
}

/// Whether the system or a protocol reported the error, and not code on this side.
fn is_of_a_connection(error: Cause<'_>) -> bool {
    let io = error.downcast_ref::<io::Error>().map(io::Error::kind);
    io.is_some_and(|kind| kind != io::ErrorKind::Other)
        || error.is::<h2::Error>()
        || error.downcast_ref().is_some_and(legacy::Error::is_connect)
}
