//! A server's responses to requests that are not served.

use std::time::Duration;

use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};

use crate::Rejection;

/// The response to a request that a circuit rejects: 503, with `Retry-After` in whole seconds (at
/// least 1) and problem+json (RFC 9457) that repeats them. The seconds are omitted if it is unknown
/// when calls are admitted again.
///
/// Names neither the circuit nor why it is open.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{Commontrip, Override, Policy};
///
/// let payments = Commontrip::embedded()?.circuit("payments", Policy::default())?;
/// payments.force_open(Override::default()).await?;
/// let rejection = payments.acquire().await.unwrap_err();
/// let response: http::Response<String> = rejection.into();
/// assert_eq!(response.status(), 503);
/// # Ok(()) }
/// ```
#[must_use]
pub fn rejected<B: From<String>>(rejection: &Rejection) -> Response<B> {
    let seconds = rejection.retry_after.map(|wait| {
        let more = u64::from(wait.subsec_nanos() > 0);
        wait.as_secs().saturating_add(more).max(1)
    });
    let retry_after = seconds.map_or_else(String::new, |s| format!(r#","retry_after":{s}"#));
    let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, &retry_after);
    if let Some(seconds) = seconds {
        let seconds = HeaderValue::from(seconds);
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
    response
}

/// The response to a request whose call was dropped after `call_timeout`: 504, with problem+json.
///
/// ```
/// use std::time::Duration;
/// use commontrip::http::timed_out;
///
/// let response = timed_out::<String>(Duration::from_secs(2));
/// assert_eq!(response.status(), http::StatusCode::GATEWAY_TIMEOUT);
/// ```
#[must_use]
pub fn timed_out<B: From<String>>(limit: Duration) -> Response<B> {
    let limit = format!(r#","limit_ms":{}"#, limit.as_millis());
    problem(StatusCode::GATEWAY_TIMEOUT, &limit)
}

fn problem<B: From<String>>(status: StatusCode, more: &str) -> Response<B> {
    let (number, title) = (status.as_u16(), status.canonical_reason());
    let title = title.unwrap_or_default();
    let body = format!(r#"{{"type":"about:blank","title":"{title}","status":{number}{more}}}"#);
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// Same as [`rejected`].
impl<B: From<String>> From<Rejection> for Response<B> {
    fn from(rejection: Rejection) -> Self {
        rejected(&rejection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reason, State};

    fn answer(retry_after: Option<Duration>) -> Response<String> {
        rejected(&Rejection {
            state: State::Open,
            reason: Reason::Tripped,
            retry_after,
            local: false,
        })
    }

    #[test]
    fn seconds_are_rounded_up_and_at_least_one() {
        for (wait_ms, expected) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (29_500, "30")] {
            let response = answer(Some(Duration::from_millis(wait_ms)));
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()[RETRY_AFTER], expected);
            let end = format!(r#""status":503,"retry_after":{expected}}}"#);
            assert!(response.body().ends_with(&end), "{}", response.body());
        }
    }

    #[test]
    fn nobody_knows_when() {
        let response = answer(None);
        assert!(!response.headers().contains_key(RETRY_AFTER));
        assert!(response.body().ends_with(r#""status":503}"#));
    }
}
