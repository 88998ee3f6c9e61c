//! Classifies gRPC responses, whose status comes after the body.

use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};
use http_body::Body;

use super::{Classifier, classifier::answered};
use crate::{
    Outcome, Permit,
    http::{SettlingBody, outcome},
};

pub(super) const STATUS: &str = "grpc-status";
pub(super) const PUSHBACK: &str = "grpc-retry-pushback-ms";
pub(super) const UNAVAILABLE: u16 = 14;
pub(super) const DEADLINE_EXCEEDED: u16 = 4;
/// The failure kind of a response without a status.
const NO_STATUS: &str = "no status";

/// Classifies gRPC responses by their status, which is in the headers of a response without a body,
/// and otherwise in the trailers.
///
/// | status | outcome |
/// |---|---|
/// | `CANCELLED` 1, `UNKNOWN` 2, `DEADLINE_EXCEEDED` 4, `RESOURCE_EXHAUSTED` 8, `INTERNAL` 13, `UNAVAILABLE` 14, `DATA_LOSS` 15 | failure |
/// | `OK` 0, the rest | success: the service did its work |
/// | none at the end, a number above 16, not a number | failure |
///
/// The kind of a failure is the name of its status (`unavailable`, `deadline exceeded`), `unknown`
/// for an invalid status, or `no status`. Servers answer `UNKNOWN` when their code throws. tonic's
/// servers answer `CANCELLED` when they exceed their own time limit; a caller that cancels a call
/// drops it and gets no response. A failure carries `grpc-retry-pushback-ms`, if that is above 0. A
/// response whose HTTP status is not 200 is classified by [`http::outcome`](crate::http::outcome).
///
/// The permit is held, and the latency measured, until the end of the stream: set `probe_lease`
/// above the longest stream, or guard long streams individually (the feature `stream`). A stream
/// that is dropped before its end is a dropped permit: an abandoned call. `call_timeout` limits the
/// wait for the headers only.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::tower::{CircuitBreakerLayer, Grpc};
///
/// let layer = CircuitBreakerLayer::new(payments).classifier(Grpc);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Grpc;

impl<Req, B: Body, E: 'static> Classifier<Req, Response<B>, E> for Grpc {
    type Asked = ();
    type Response = Response<SettlingBody<B>>;

    fn asked(&self, _: &Req) {}

    fn settle(
        &self,
        (): (),
        result: Result<Response<B>, E>,
        permit: Permit,
    ) -> Result<Self::Response, E> {
        let (response, permit) = answered(result, permit)?;
        let headers = response.headers();
        let known = if response.status() != StatusCode::OK {
            Some(outcome(response.status(), headers))
        } else if headers.contains_key(STATUS) {
            Some(by_status(headers))
        } else {
            None
        };
        Ok(response.map(|body| SettlingBody::new(body, permit, by_trailers, None, known)))
    }
}

fn by_trailers(trailers: Option<&HeaderMap>) -> Outcome {
    trailers.map_or_else(|| Outcome::failure_of(NO_STATUS), by_status)
}

/// The outcome for the status in these headers or trailers.
pub(super) fn by_status(headers: &HeaderMap) -> Outcome {
    let status = headers.get(STATUS).and_then(|value| value.to_str().ok());
    let kind = match status.map(str::parse::<u16>) {
        None => NO_STATUS,
        Some(Ok(1)) => "cancelled",
        Some(Ok(4)) => "deadline exceeded",
        Some(Ok(8)) => "resource exhausted",
        Some(Ok(13)) => "internal",
        Some(Ok(14)) => "unavailable",
        Some(Ok(15)) => "data loss",
        Some(Ok(2 | 17..) | Err(_)) => "unknown",
        Some(Ok(_)) => return Outcome::Success,
    };
    Outcome::failure_of(kind).with_retry_after(pushback(headers))
}

/// A negative or invalid value means "do not retry", which carries no time.
fn pushback(headers: &HeaderMap) -> Option<Duration> {
    let ms: u64 = headers.get(PUSHBACK)?.to_str().ok()?.parse().ok()?;
    (ms > 0).then(|| Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: &str, pushback: Option<&str>) -> Outcome {
        let mut headers = HeaderMap::new();
        headers.insert(STATUS, status.parse().unwrap());
        if let Some(ms) = pushback {
            headers.insert(PUSHBACK, ms.parse().unwrap());
        }
        by_status(&headers)
    }

    #[test]
    fn what_a_status_means() {
        for code in [0, 3, 5, 6, 7, 9, 10, 11, 12, 16] {
            assert_eq!(outcome(&code.to_string(), None), Outcome::Success, "{code}");
        }
        for (code, kind) in [
            ("1", "cancelled"),
            ("2", "unknown"),
            ("4", "deadline exceeded"),
            ("8", "resource exhausted"),
            ("13", "internal"),
            ("14", "unavailable"),
            ("15", "data loss"),
            ("17", "unknown"),
            ("99999", "unknown"),
            ("-1", "unknown"),
            ("x", "unknown"),
            ("", "unknown"),
        ] {
            assert_eq!(outcome(code, None), Outcome::failure_of(kind), "{code:?}");
        }
        let none = Outcome::failure_of("no status");
        assert_eq!(by_status(&HeaderMap::new()), none);
    }

    #[test]
    fn a_pushback_is_carried_and_nonsense_is_not() {
        let carried = |code, ms| outcome(code, Some(ms)).retry_after();
        assert_eq!(carried("8", "1500"), Some(Duration::from_millis(1500)));
        assert_eq!(carried("14", "20"), Some(Duration::from_millis(20)));
        for nonsense in ["-1", "0", "soon", "", "1.5", "99999999999999999999999"] {
            assert_eq!(carried("14", nonsense), None);
        }
    }
}
