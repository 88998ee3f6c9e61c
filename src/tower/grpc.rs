//! What gRPC's answers mean, whose status comes after the body.

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

/// gRPC by its status, which is in the headers of an answer without a body, and else in the trailers.
///
/// | status | outcome |
/// |---|---|
/// | `UNKNOWN` 2, `DEADLINE_EXCEEDED` 4, `RESOURCE_EXHAUSTED` 8, `INTERNAL` 13, `UNAVAILABLE` 14, `DATA_LOSS` 15 | failure |
/// | `CANCELLED` 1 | ignored: the caller's doing |
/// | `OK` 0, the rest | success: the service did its work |
/// | none at the end, a number above 16, no number | failure, as `UNKNOWN` |
///
/// `UNKNOWN` is what servers answer when their code throws. A failure carries `grpc-retry-pushback-ms`,
/// if that is above 0. An answer whose HTTP status is not 200 is judged as
/// [`http::outcome`](crate::http::outcome) says.
///
/// The permit is held to the end of the stream, which is also what is timed: choose `probe_lease`
/// above the longest stream, or guard long streams one by one (the feature `stream`). A stream that
/// is dropped before its end is a dropped permit: an abandoned call. `call_timeout` ends the wait
/// for the headers only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grpc;

impl<Req, B: Body, E> Classifier<Req, Response<B>, E> for Grpc {
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
    trailers.map_or(Outcome::failure(), by_status)
}

/// The outcome by the status in these headers or trailers.
pub(super) fn by_status(headers: &HeaderMap) -> Outcome {
    let status = headers.get(STATUS).and_then(|value| value.to_str().ok());
    match status.and_then(|status| status.parse::<u16>().ok()) {
        Some(1) => Outcome::Ignored,
        Some(2 | 4 | 8 | 13..=15) | Some(17..) | None => Outcome::Failure {
            retry_after: pushback(headers),
        },
        Some(_) => Outcome::Success,
    }
}

/// Negative, and nonsense, means that nothing is to be tried again: no time.
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
        for code in [
            "2", "4", "8", "13", "14", "15", "17", "99999", "-1", "x", "",
        ] {
            assert_eq!(outcome(code, None), Outcome::failure(), "{code:?}");
        }
        assert_eq!(outcome("1", None), Outcome::Ignored);
        assert_eq!(by_status(&HeaderMap::new()), Outcome::failure());
    }

    #[test]
    fn a_pushback_is_carried_and_nonsense_is_not() {
        let carried = |ms| Outcome::Failure {
            retry_after: Some(Duration::from_millis(ms)),
        };
        assert_eq!(outcome("8", Some("1500")), carried(1500));
        assert_eq!(outcome("14", Some("20")), carried(20));
        for nonsense in ["-1", "0", "soon", "", "1.5", "99999999999999999999999"] {
            assert_eq!(outcome("14", Some(nonsense)), Outcome::failure());
        }
    }
}
