//! Classifies a response by its head.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{
    HeaderMap, StatusCode,
    header::{DATE, HeaderName, RETRY_AFTER},
};

use crate::{Clock, FailureKind, Outcome};

/// Classifies a response by its head.
///
/// | status | outcome |
/// |---|---|
/// | 429 | failure: the service wants fewer calls |
/// | 501, 505 | success: the service does not support the request, which is no sign of ill health |
/// | any other 5xx | failure |
/// | the rest, 4xx included | success: the service did its work |
///
/// A failure carries its [`retry_after`], whatever its status. Its kind names the status:
/// `status 503`.
///
/// ```
/// use commontrip::{Outcome, http::outcome};
/// use http::{HeaderMap, StatusCode};
///
/// let none = HeaderMap::new();
/// assert_eq!(outcome(StatusCode::OK, &none), Outcome::Success);
/// let failed = outcome(StatusCode::BAD_GATEWAY, &none);
/// assert_eq!(failed.kind().unwrap().to_string(), "status 502");
/// ```
#[must_use]
pub fn outcome(status: StatusCode, headers: &HeaderMap) -> Outcome {
    let failed = match status {
        StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => false,
        status => status.is_server_error(),
    };
    match failed {
        true => {
            let kind = FailureKind::status(status.as_u16());
            Outcome::failure_of(kind).with_retry_after(retry_after(headers))
        }
        false => Outcome::Success,
    }
}

/// How long the header `Retry-After` asks callers to wait: whole seconds, or until a date.
///
/// A date is compared with the response's own `Date`, so that clocks need not agree; without that
/// header, with this host's clock. `None` without the header, and for a past date or an invalid
/// value.
///
/// ```
/// use std::time::Duration;
/// use commontrip::http::retry_after;
///
/// let headers = http::HeaderMap::from_iter([(http::header::RETRY_AFTER, "5".parse()?)]);
/// assert_eq!(retry_after(&headers), Some(Duration::from_secs(5)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if text.bytes().all(|b| b.is_ascii_digit()) {
        Duration::from_secs(text.parse().ok()?)
    } else {
        let until = httpdate::parse_http_date(text).ok()?;
        let now = time(headers, DATE).unwrap_or_else(this_hosts_time);
        until.duration_since(now).ok()?
    };
    (!wait.is_zero()).then_some(wait)
}

fn time(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

fn this_hosts_time() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(Clock::system().unix_ms())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(retry_after: &str, date: Option<&str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry_after.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        super::retry_after(&headers)
    }

    #[test]
    fn both_forms_of_retry_after_are_read_and_nonsense_is_not() {
        const NOON: &str = "Fri, 21 Nov 2025 12:00:00 GMT";
        let seconds = |s| Some(Duration::from_secs(s));
        for (header, date, expected) in [
            ("120", None, seconds(120)),
            (" 7 ", None, seconds(7)),
            ("Fri, 21 Nov 2025 12:01:30 GMT", Some(NOON), seconds(90)),
            ("Friday, 21-Nov-25 12:01:30 GMT", Some(NOON), seconds(90)),
            ("Fri, 21 Nov 2025 11:59:59 GMT", Some(NOON), None),
            (NOON, None, None),
            ("0", None, None),
            ("-5", None, None),
            ("1.5", None, None),
            ("soon", None, None),
            ("", None, None),
            ("99999999999999999999999", None, None),
        ] {
            assert_eq!(after(header, date), expected, "{header:?} {date:?}");
        }
        assert_eq!(super::retry_after(&HeaderMap::new()), None);
        let in_an_hour = httpdate::fmt_http_date(this_hosts_time() + Duration::from_secs(3600));
        let wait = after(&in_an_hour, None).unwrap();
        assert!((3590..=3600).contains(&wait.as_secs()), "{wait:?}");
    }

    #[test]
    fn what_a_status_means() {
        let failed = |status: u16| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, "3".parse().unwrap());
            let outcome = outcome(StatusCode::from_u16(status).unwrap(), &headers);
            let failed = Outcome::failure_of(FailureKind::status(status));
            let failed = failed.with_retry_after(Duration::from_secs(3));
            assert!(outcome == Outcome::Success || outcome == failed);
            outcome != Outcome::Success
        };
        let failures: Vec<_> = (100..=999).filter(|status| failed(*status)).collect();
        let expected = [429].into_iter().chain(500..600);
        let expected: Vec<_> = expected.filter(|s| ![501, 505].contains(s)).collect();
        assert_eq!(failures, expected);
    }
}
