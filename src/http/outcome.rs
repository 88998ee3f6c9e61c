//! What the head of an answer says of the service.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{
    HeaderMap, StatusCode,
    header::{DATE, HeaderName, RETRY_AFTER},
};

use crate::{Clock, Outcome};

/// What the head of an answer says of the service that gave it.
///
/// | status | outcome |
/// |---|---|
/// | 429 | failure: the service wants fewer calls |
/// | 501, 505 | success: it will never do what was asked, which is no sign of ill health |
/// | any other 5xx | failure |
/// | the rest, 4xx included | success: the service did its work |
///
/// A failure carries what [`retry_after`] says, whatever its status.
#[must_use]
pub fn outcome(status: StatusCode, headers: &HeaderMap) -> Outcome {
    let failed = match status {
        StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => false,
        status => status.is_server_error(),
    };
    match failed {
        true => Outcome::Failure {
            retry_after: retry_after(headers),
        },
        false => Outcome::Success,
    }
}

/// How long the header `Retry-After` asks to wait: whole seconds, or until a time.
///
/// A time is compared with the header `Date`, so that no two clocks are, and with this host's clock
/// where there is none. `None` without the header, for a time that is past, and for nonsense.
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
            let retry_after = Some(Duration::from_secs(3));
            assert!(outcome == Outcome::Success || outcome == Outcome::Failure { retry_after });
            outcome != Outcome::Success
        };
        let failures: Vec<_> = (100..=999).filter(|status| failed(*status)).collect();
        let expected = [429].into_iter().chain(500..600);
        let expected: Vec<_> = expected.filter(|s| ![501, 505].contains(s)).collect();
        assert_eq!(failures, expected);
    }
}
