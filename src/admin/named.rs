//! Circuits by name in the query: `/circuit?name=..` is `/circuits/..`, `/circuit/reset?name=..`
//! resets it.
//!
//! Owns access to names that no path can have: clients resolve `.` and `..` as path segments,
//! however they are encoded.

use std::fmt::Write as _;

use axum::{Router, extract::Request, http::Uri, response::Response, routing::any};
use tower::ServiceExt;
use url::form_urlencoded;

use super::prefix::with_path;

/// Actions below a circuit's path. Each has a route of its own, because a path parameter would be
/// taken as the circuit's name.
const ACTIONS: [&str; 5] = ["force-open", "disable", "metrics-only", "reset", "policy"];

/// Adds routes with the name in the query.
pub(super) fn with(routes: Router) -> Router {
    let inner = routes.clone();
    let by_name = any(move |request: Request| pass_on(inner, request));
    let paths = ACTIONS.iter();
    paths.fold(
        routes.route("/circuit", by_name.clone()),
        |routes, action| routes.route(&format!("/circuit/{action}"), by_name.clone()),
    )
}

/// Forwards the request to the circuit's own path.
async fn pass_on(routes: Router, mut request: Request) -> Response {
    // Without a name the path stays as it is, and the routes answer that nothing is there.
    if let Some(uri) = by_path(request.uri()) {
        *request.uri_mut() = uri;
    }
    match routes.oneshot(request).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

/// The path of the circuit that a query names; the rest of the query stays.
fn by_path(uri: &Uri) -> Option<Uri> {
    let query = uri.query().unwrap_or_default();
    let pairs = || form_urlencoded::parse(query.as_bytes());
    let (_, name) = pairs().find(|(key, _)| key == "name")?;
    let mut path = "/circuits/".to_owned();
    for byte in name.bytes() {
        // Writing to a String cannot fail.
        let _ = write!(path, "%{byte:02X}");
    }
    path += uri.path().strip_prefix("/circuit")?;
    let rest = pairs().filter(|(key, _)| key != "name");
    let rest = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(rest)
        .finish();
    if !rest.is_empty() {
        path += &format!("?{rest}");
    }
    with_path(uri, &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_the_query_is_one_in_the_path() {
        let path = |uri: &str| by_path(&uri.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(path("/circuit?name=.").unwrap(), "/circuits/%2E");
        let reset = "/circuit/reset?name=%2E%2e&force=true";
        assert_eq!(path(reset).unwrap(), "/circuits/%2E%2E/reset?force=true");
        assert_eq!(path("/circuit?name=a/b").unwrap(), "/circuits/%61%2F%62");
        assert_eq!(path("/circuit"), None);
        let whole = "http://ops.example.com/circuit?name=.";
        assert_eq!(path(whole).unwrap(), "http://ops.example.com/circuits/%2E");
    }
}
