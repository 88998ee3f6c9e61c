//! The path under which a proxy serves this server.
//!
//! Owns how the prefix is removed from a request's path. A path without the prefix is served as it
//! is: some proxies remove it themselves, and health probes reach the server directly.

use std::sync::Arc;

use axum::{Router, extract::Request, http::Uri, response::Response};
use tower::ServiceExt;

use super::Options;

/// Serves the routes below the prefix as well, if there can be one.
pub(super) fn with(routes: Router, options: Arc<Options>) -> Router {
    match options.may_have_prefix() {
        true => Router::new().fallback(move |request| pass_on(routes, options, request)),
        false => routes,
    }
}

async fn pass_on(routes: Router, options: Arc<Options>, mut request: Request) -> Response {
    let forwarded = options.forwarded(request.headers(), request.extensions());
    let prefix = forwarded.prefix.as_deref().or(options.prefix());
    if let Some(uri) = prefix.and_then(|prefix| below(prefix, request.uri())) {
        *request.uri_mut() = uri;
    }
    match routes.oneshot(request).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

/// The URI below the prefix; `None` if it is elsewhere.
fn below(prefix: &str, uri: &Uri) -> Option<Uri> {
    let rest = uri.path().strip_prefix(prefix)?;
    let path = match rest {
        "" => "/",
        rest if rest.starts_with('/') => rest,
        _ => return None,
    };
    let query = uri.query().map(|query| format!("?{query}"));
    with_path(uri, &format!("{path}{}", query.unwrap_or_default()))
}

/// The URI with another path and query. Its host remains: HTTP/2 has it only there.
pub(super) fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.parse().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_taken_off_where_it_is() {
        let path = |uri: &str| below("/breakers", &uri.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(path("/breakers").unwrap(), "/");
        assert_eq!(path("/breakers/").unwrap(), "/");
        assert_eq!(
            path("/breakers/circuits/%2E?x=%20").unwrap(),
            "/circuits/%2E?x=%20"
        );
        assert_eq!(
            path("https://ops.example.com/breakers/circuits?x").unwrap(),
            "https://ops.example.com/circuits?x"
        );
        assert_eq!(path("/breakersx"), None);
        assert_eq!(path("/circuits"), None);
    }
}
