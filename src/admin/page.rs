//! The dashboard's page, in one piece, and the description of the API.
//!
//! Owns how the page's parts are joined. Each response has its own nonce, without which the browser
//! runs no script and applies no style.

use std::sync::LazyLock;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::problem::Problem;

/// The parts of the script share one scope, in this order.
const SCRIPTS: [&str; 10] = [
    include_str!("page/words.js"),
    include_str!("page/graph.js"),
    include_str!("page/requests.js"),
    include_str!("page/live.js"),
    include_str!("page/overview.js"),
    include_str!("page/circuit.js"),
    include_str!("page/policy.js"),
    include_str!("page/actions.js"),
    include_str!("page/remove.js"),
    include_str!("page/page.js"),
];

static PAGE: LazyLock<String> = LazyLock::new(|| {
    include_str!("page/page.html")
        .replace("{{style}}", include_str!("page/page.css"))
        .replace("{{script}}", &SCRIPTS.join("\n"))
});

pub(super) async fn page() -> Response {
    let mut random = [0; 16];
    if getrandom::fill(&mut random).is_err() {
        let words = "this machine gives no random numbers, without which the page is not safe";
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, words).into_response();
    }
    let nonce = format!("{:032x}", u128::from_ne_bytes(random));
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let Ok(policy) = HeaderValue::try_from(policy) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
    ];
    (headers, PAGE.replace("{{nonce}}", &nonce)).into_response()
}

/// The OpenAPI description of the API.
pub(super) async fn description() -> impl IntoResponse {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, include_str!("openapi.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole() {
        let page = &**PAGE;
        assert!(!page.contains("{{style}}") && !page.contains("{{script}}"));
        assert_eq!(page.matches("nonce=\"{{nonce}}\"").count(), 2);
        assert_eq!(page.matches("{{").count(), 2);
        assert_eq!(page.matches("<script").count(), 1);
        assert_eq!(page.matches("</script").count(), 1);
        assert_eq!(page.matches("</style").count(), 1);
    }

    #[test]
    fn the_page_has_all_the_parts_that_there_are() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/page");
        let mut scripts = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|end| end == "js") {
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(PAGE.contains(&text), "{} is left out", path.display());
                scripts += 1;
            }
        }
        assert_eq!(scripts, SCRIPTS.len());
    }
}
