//! Error responses: `application/problem+json`, RFC 9457.
//!
//! Owns the status of each error. [`explain`] turns every error from elsewhere (the framework, a
//! limit, a panic) into a problem, so that there is no other kind.

use std::any::Any;

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus::TEXT_FORMAT;
use serde::Serialize;

use super::{ANSWERS_WITHIN, AT_ONCE, open_metrics};
use crate::{ControlError, StoreError, store::in_words};

const PROBLEM_JSON: &str = "application/problem+json";

/// An error response.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    header: Option<(HeaderName, HeaderValue)>,
}

/// A problem as JSON.
#[derive(Serialize)]
struct Written<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            header: None,
        }
    }

    pub(super) fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, HeaderValue::from_static(value)));
        self
    }

    /// There are too many concurrent requests.
    pub(super) fn busy() -> Self {
        let words = format!(
            "{AT_ONCE} requests are in progress, which is the maximum; try again in a second"
        );
        Self::new(StatusCode::SERVICE_UNAVAILABLE, words).with(header::RETRY_AFTER, "1")
    }

    /// The values of a request have the right type but are not acceptable.
    pub(super) fn unfit(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let written = Written {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        let mut response = (self.status, Json(written)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.extend(self.header);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let status = match error.is_unavailable() {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, in_words(&error))
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let status = match error {
            ControlError::Store(error) => return error.into(),
            // No circuit has an invalid name, so none can be found.
            ControlError::Name(_) | ControlError::Unknown(_) => StatusCode::NOT_FOUND,
            ControlError::Conflict { .. } => StatusCode::PRECONDITION_FAILED,
            ControlError::InUse { .. } | ControlError::Overridden { .. } => StatusCode::CONFLICT,
            ControlError::Policy(_)
            | ControlError::Text { .. }
            | ControlError::Unrecorded { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, in_words(&error))
    }
}

/// The response after a panic in a handler. The message of the panic is logged, not sent.
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("?"), "an admin request panicked");
    let words = "this should not have happened; the server's log says more";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, words).into_response()
}

/// Turns an error response into a problem, unless it already is one.
pub(super) fn explain(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_error = status.is_client_error() || status.is_server_error();
    let ours = [
        PROBLEM_JSON,
        "application/json",
        TEXT_FORMAT,
        open_metrics::KIND,
    ];
    if !is_error || kind.is_some_and(|kind| ours.iter().any(|ours| kind == ours)) {
        return response;
    }
    let detail = match status {
        StatusCode::SERVICE_UNAVAILABLE => format!(
            "this took too long and was given up after {} s; a command may or may not have been carried out",
            ANSWERS_WITHIN.as_secs()
        ),
        _ => "this request cannot be answered".to_owned(),
    };
    let (mut parts, _) = response.into_parts();
    let mut answer = Problem::new(status, detail).into_response();
    parts.headers.remove(header::CONTENT_TYPE);
    parts.headers.remove(header::CONTENT_LENGTH);
    answer.headers_mut().extend(parts.headers);
    answer
}
