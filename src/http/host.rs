//! The host of a request.

use std::borrow::Cow;

use http::{Request, header::HOST, uri::Authority};

/// The key of a request without a host.
const UNKNOWN: &str = "unknown";

/// Returns a request's host in lower case, with its port unless that is the scheme's default:
/// `api.example.com`, `api.example.com:8443`, `[::1]:8080`; `unknown` if the request has no host.
///
/// The host comes from the URI, or otherwise from the header `Host`. If the scheme is unknown, both
/// 80 and 443 are omitted.
///
/// ```
/// use commontrip::http::host;
///
/// let request = http::Request::get("http://api.example.com:8080/users").body(())?;
/// println!("{}", host(&request));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn host<B>(request: &Request<B>) -> Cow<'_, str> {
    let uri = request.uri();
    if let Some(authority) = uri.authority() {
        return key(uri.scheme_str(), authority);
    }
    let header = request.headers().get(HOST);
    let authority = header.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    match authority {
        Some(authority) => Cow::Owned(key(None, &authority).into_owned()),
        None => Cow::Borrowed(UNKNOWN),
    }
}

fn key<'a>(scheme: Option<&str>, authority: &'a Authority) -> Cow<'a, str> {
    let host = authority.host();
    let host = match host.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    };
    match (authority.port_u16(), scheme) {
        (None, _) | (Some(80), Some("http") | None) | (Some(443), Some("https") | None) => host,
        (Some(port), _) => Cow::Owned(format!("{host}:{port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uri: &str, header: Option<&str>) -> String {
        let mut request = Request::builder().uri(uri);
        if let Some(header) = header {
            request = request.header(HOST, header);
        }
        host(&request.body(()).unwrap()).into_owned()
    }

    #[test]
    fn a_host_has_one_key() {
        for (uri, header, expected) in [
            ("http://api.example.com/a", None, "api.example.com"),
            ("http://API.example.com:80/b?c", None, "api.example.com"),
            ("https://api.example.com:443/", None, "api.example.com"),
            ("https://api.example.com:80/", None, "api.example.com:80"),
            ("http://me:secret@a.example:81/", None, "a.example:81"),
            ("http://[::1]:8080/", None, "[::1]:8080"),
            ("http://a.example/", Some("b.example"), "a.example"),
            ("/path", Some("B.example:8443"), "b.example:8443"),
            ("/path", Some("b.example:443"), "b.example"),
            ("/path", Some("no host"), UNKNOWN),
            ("/path", None, UNKNOWN),
        ] {
            assert_eq!(of(uri, header), expected, "{uri} {header:?}");
        }
    }
}
