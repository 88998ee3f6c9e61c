//! Access checks, and the headers of every response.
//!
//! Owns the checks of `Host` (against DNS rebinding) and `Origin` (against other sites' pages),
//! whether reading needs a token, and the headers that restrict browsers. `caller` owns the tokens.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{self, HeaderName},
        uri::{Authority, Uri},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Options, caller::Access, forwarded::Forwarded, problem::Problem};

/// Headers of every response. A response may have its own `Content-Security-Policy`.
const HEADERS: [(HeaderName, &str); 7] = [
    (header::CACHE_CONTROL, "no-store"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'",
    ),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// Adds [`HEADERS`] to a response.
pub(super) fn shield(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        let is_own = name == header::CONTENT_SECURITY_POLICY && headers.contains_key(&name);
        if !is_own {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

/// Paths that need no token, because they have no data.
const FOR_EVERYBODY: [&str; 2] = ["/", "/openapi.json"];

/// Admits requests by host, origin and token, and attaches the caller to them.
pub(super) async fn guard(
    State(options): State<Arc<Options>>,
    mut request: Request,
    next: Next,
) -> Response {
    let forwarded = options.forwarded(request.headers(), request.extensions());
    if let Err(problem) = admit(&options, &request, &forwarded) {
        return problem.into_response();
    }
    let access = Access::of(&options, request.headers(), forwarded.client);
    let is_open = !options.requires_token() || FOR_EVERYBODY.contains(&request.uri().path());
    if !is_open && let Err(problem) = access.caller() {
        return problem.into_response();
    }
    request.extensions_mut().insert(access);
    next.run(request).await
}

/// Checks the host and the origin of a request.
fn admit(options: &Options, request: &Request, forwarded: &Forwarded) -> Result<(), Problem> {
    let mut host = host(request.headers(), request.uri())?;
    match forwarded.host() {
        Some(Ok(forwarded)) => {
            // A page can send any `X-Forwarded-Host`, and some proxies pass it on, but not any
            // `Host`. A proxy that replaces the `Host` may use a name of its own network, which has
            // no dot; no site has such a name.
            if host.host().contains('.') {
                answers(options, &host)?;
            }
            host = forwarded;
        }
        Some(Err(given)) => {
            let words = format!("X-Forwarded-Host is {given:?}, which is not a host");
            return Err(Problem::new(StatusCode::BAD_REQUEST, words));
        }
        None => {}
    }
    answers(options, &host)?;
    let reads = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    match request.headers().get(header::ORIGIN) {
        Some(origin) if !reads => is_own(origin, &host, forwarded, options),
        _ => Ok(()),
    }
}

/// Checks that the server answers to a host.
fn answers(options: &Options, host: &Authority) -> Result<(), Problem> {
    let host = host.host();
    if options.answers_to(host) {
        return Ok(());
    }
    let words = format!(
        "this server does not answer to the name {host:?}; if it should, {}",
        allow(host)
    );
    Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, words))
}

/// How to allow a host.
fn allow(host: &str) -> String {
    format!("start it with --allow-host {host} (in code: Options::allow_host)")
}

/// The host by which the server was reached.
fn host(headers: &HeaderMap, uri: &Uri) -> Result<Authority, Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok().and_then(|host| host.parse().ok()),
        // HTTP/2 has the host in the URI.
        (None, _) => uri.authority().cloned(),
        _ => None,
    };
    let words = "a request needs one Host header";
    named.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, words))
}

/// Checks that an origin is this server's own, or allowed.
fn is_own(
    origin: &HeaderValue,
    host: &Authority,
    forwarded: &Forwarded,
    options: &Options,
) -> Result<(), Problem> {
    let refused = |words| Err(Problem::new(StatusCode::FORBIDDEN, words));
    let uri = origin.to_str().ok().and_then(|text| text.parse().ok());
    let page = uri.as_ref().and_then(Uri::authority);
    let Some(page) = page else {
        return refused("a page of another origin cannot command here".to_owned());
    };
    if options.names(page.host()) {
        return Ok(());
    }
    let scheme = uri.as_ref().and_then(Uri::scheme_str);
    let usual = match scheme {
        Some("https") => 443,
        _ => 80,
    };
    let port = |of: &Authority| of.port_u16().unwrap_or(usual);
    let by_scheme = forwarded
        .proto
        .as_deref()
        .is_none_or(|proto| Some(proto) == scheme);
    let by_name = page.host().eq_ignore_ascii_case(host.host()) && port(page) == port(host);
    if by_scheme && by_name {
        return Ok(());
    }
    refused(format!(
        "a page of another origin, {}, cannot command here: this server was reached as {host}; if a proxy with the \
         page's name is before it, {}",
        origin.to_str().unwrap_or_default(),
        allow(page.host())
    ))
}
