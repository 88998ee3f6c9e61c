//! Who gets in, and what every answer carries.
//!
//! Owns `Host` (against names that lead here from elsewhere), `Origin` (against other sites' pages), the
//! token, and the headers that keep browsers from doing more than they are to.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, FromRequestParts, Request, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{self, HeaderName},
        request::Parts,
        uri::{Authority, Uri},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{App, Options, problem::Problem};
use crate::operator::Operator;

/// What every answer carries, unless it says otherwise.
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

/// Adds the headers.
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

/// Lets in whom the names allow.
pub(super) async fn guard(
    State(options): State<Arc<Options>>,
    request: Request,
    next: Next,
) -> Response {
    let host = match host(request.headers(), request.uri()) {
        Ok(host) => host,
        Err(problem) => return problem.into_response(),
    };
    if !options.answers_to(host.host()) {
        let words = format!(
            "this server does not answer to the name {:?}; if it should, start it with --allow-host {0} \
             (in code: Options::allow_host)",
            host.host()
        );
        return Problem::new(StatusCode::MISDIRECTED_REQUEST, words).into_response();
    }
    let reads = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    let origin = request.headers().get(header::ORIGIN);
    if !reads && origin.is_some_and(|origin| !is_own(origin, &host, &options)) {
        let words = "a page of another origin cannot command here; if a proxy with that name is before this \
                     server, allow its name";
        return Problem::new(StatusCode::FORBIDDEN, words).into_response();
    }
    next.run(request).await
}

/// By which name the server was reached.
fn host(headers: &HeaderMap, uri: &Uri) -> Result<Authority, Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok().and_then(|host| host.parse().ok()),
        // HTTP/2 has it there.
        (None, _) => uri.authority().cloned(),
        _ => None,
    };
    let words = "a request needs one Host header";
    named.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, words))
}

/// Whether a page of this origin is one of ours.
fn is_own(origin: &HeaderValue, host: &Authority, options: &Options) -> bool {
    let origin = origin.to_str().ok();
    let Some(origin) = origin.and_then(|origin| origin.parse::<Uri>().ok()) else {
        return false;
    };
    let Some(of_page) = origin.authority() else {
        return false;
    };
    let usual = match origin.scheme_str() {
        Some("https") => 443,
        _ => 80,
    };
    let port = |of: &Authority| of.port_u16().unwrap_or(usual);
    let same = of_page.host().eq_ignore_ascii_case(host.host()) && port(of_page) == port(host);
    same || options.names(of_page.host())
}

/// Who may command, as which operator.
pub(super) struct Operating(pub(super) Operator);

impl FromRequestParts<App> for Operating {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if app.options.is_read_only() {
            let words = "this server has no token and so is read-only; start it with one to command (--token-file \
                         or COMMONTRIP_ADMIN_TOKEN)";
            return Err(Problem::new(StatusCode::FORBIDDEN, words));
        }
        let unknown = |words, challenge| {
            let problem = Problem::new(StatusCode::UNAUTHORIZED, words);
            problem.with(header::WWW_AUTHENTICATE, challenge)
        };
        let given = parts.headers.get(header::AUTHORIZATION);
        let given = given.and_then(|given| bearer(given.as_bytes()));
        let Some(token) = given else {
            let words = "a command needs the token: Authorization: Bearer <token>";
            return Err(unknown(words, r#"Bearer realm="commontrip""#));
        };
        if !app.options.accepts(token) {
            let challenge = r#"Bearer realm="commontrip", error="invalid_token""#;
            return Err(unknown("the token is wrong", challenge));
        }
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let operator = peer.map(|ConnectInfo(peer)| {
            let from = format!("http from {}", peer.ip().to_canonical());
            app.operator.from(&from)
        });
        Ok(Self(operator.unwrap_or_else(|| app.operator.clone())))
    }
}

/// The token of `Bearer <token>`; the word in any case.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (word, token) = header.split_at_checked(7)?;
    let token = token.trim_ascii();
    (word.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}
