//! Errors of protected calls as axum responses.

use axum_core::response::{IntoResponse, Response};

use super::response::{rejected, timed_out};
use crate::{CallError, Rejection, TimedOut};

impl IntoResponse for Rejection {
    /// Same as [`rejected`]: 503 with `Retry-After`.
    fn into_response(self) -> Response {
        rejected(&self)
    }
}

impl IntoResponse for TimedOut {
    /// Same as [`timed_out`]: 504.
    fn into_response(self) -> Response {
        timed_out(self.0)
    }
}

impl<E: IntoResponse> IntoResponse for CallError<E> {
    /// 503 for a rejection, 504 for a call that took too long, otherwise the response of the call's
    /// own error.
    fn into_response(self) -> Response {
        match self {
            Self::Rejected(rejection) => rejection.into_response(),
            Self::TimedOut(after) => TimedOut(after).into_response(),
            Self::Failed(error) => error.into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Commontrip, Override, Policy};

    #[tokio::test]
    async fn a_handler_returns_what_became_of_its_call() {
        let circuits = Commontrip::embedded().unwrap();
        let circuit = circuits.circuit("payments", Policy::default()).unwrap();
        let with = Override::because("test").lasting(Duration::from_secs(30));
        circuit.force_open(with).await.unwrap();
        let answer = circuit.call(async || Err::<(), _>("no such account")).await;
        let response = answer.unwrap_err().into_response();
        assert_eq!(response.status(), 503);
        let after: u64 = response.headers()["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=30).contains(&after));
        let late = CallError::<&str>::TimedOut(Duration::from_secs(2));
        assert_eq!(late.into_response().status(), 504);
        assert_eq!(CallError::Failed("own").into_response().status(), 200);
    }
}
