//! What the result of a call says about a provider.

use std::time::Duration;

use commontrip::{FailureKind, Outcome};
use genai::webc;
use serde_json::Value;

/// Classifies the result of a call for the provider's circuit.
pub fn verdict<T>(result: &genai::Result<T>) -> Outcome {
    match result {
        Ok(_) => Outcome::Success,
        Err(error) => failed(error),
    }
}

/// Like [`verdict`], for an error.
pub fn failed(error: &genai::Error) -> Outcome {
    let retry_after = retry_after(error);
    let status = error.status().map(|status| status.as_u16());
    let kind = status.map_or(FailureKind::of("no answer"), FailureKind::status);
    match status {
        // Such an error says nothing about the provider.
        _ if is_the_callers(error) => Outcome::Ignored,
        // Waiting does not repair a wrong key or a missing model.
        Some(400 | 401 | 403 | 404) => Outcome::trip_of(kind),
        // A provider that says when to retry would reject every replica's calls until then.
        Some(429) if retry_after.is_some() => Outcome::trip_of(kind).with_retry_after(retry_after),
        _ => Outcome::failure_of(kind).with_retry_after(retry_after),
    }
}

/// Whether it is the caller's own mistake, which another provider would reject as well.
fn is_the_callers(error: &genai::Error) -> bool {
    let status = error.status().map(|status| status.as_u16());
    matches!(status, Some(400 | 413 | 422)) && !is_wrong_key(error)
}

/// When the provider wants to be asked again: `Retry-After` in seconds, or Google's field in the
/// body.
pub fn retry_after(error: &genai::Error) -> Option<Duration> {
    let header = error.headers().and_then(|all| all.get("retry-after"));
    if let Some(header) = header {
        return header.to_str().ok()?.parse().ok().map(Duration::from_secs);
    }
    let body = body(error)?;
    let details = body.pointer("/error/details")?.as_array()?;
    let delay = details.iter().find_map(|d| d.get("retryDelay"))?.as_str()?;
    let seconds = delay.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// The provider's own message, without genai's text around it.
pub fn said(error: &genai::Error) -> String {
    let body = body(error);
    let pointers = ["/error/message", "/error", "/message"];
    let said = body.as_ref().and_then(|body| {
        let mut found = pointers.iter().filter_map(|pointer| body.pointer(pointer));
        found.find_map(Value::as_str)
    });
    match (error.status(), said) {
        (Some(status), Some(words)) => format!("{}: {words}", status.as_u16()),
        (Some(status), None) => status.to_string(),
        // An error event in a stream that had started well.
        (None, Some(words)) => words.to_owned(),
        (None, _) if is_unreachable(error) => "it cannot be reached".to_owned(),
        (None, _) if matches!(error, genai::Error::WebStream { .. }) => {
            "its stream broke off".to_owned()
        }
        (None, _) => "it gives no answer that can be read".to_owned(),
    }
}

/// Google answers a wrong key like an invalid request.
fn is_wrong_key(error: &genai::Error) -> bool {
    let reason = body(error).and_then(|body| {
        let details = body.pointer("/error/details")?.as_array()?.clone();
        details.into_iter().find_map(|d| d.get("reason").cloned())
    });
    reason.is_some_and(|reason| reason == "API_KEY_INVALID")
}

fn is_unreachable(error: &genai::Error) -> bool {
    match error {
        genai::Error::WebModelCall {
            webc_error: webc::Error::Reqwest(_),
            ..
        }
        | genai::Error::WebAdapterCall {
            webc_error: webc::Error::Reqwest(_),
            ..
        } => true,
        genai::Error::WebStream { error, .. } => error
            .downcast_ref::<reqwest::Error>()
            .is_some_and(reqwest::Error::is_connect),
        _ => false,
    }
}

fn body(error: &genai::Error) -> Option<Value> {
    match error {
        genai::Error::WebModelCall {
            webc_error: webc::Error::ResponseFailedStatus { body, .. },
            ..
        }
        | genai::Error::HttpError { body, .. } => serde_json::from_str(body).ok(),
        genai::Error::ChatResponse { body, .. } => Some(body.clone()),
        _ => None,
    }
}
