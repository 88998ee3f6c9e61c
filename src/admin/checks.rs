//! Routes that read health checks, and that run one.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;

use super::{App, caller::Operating, given, problem::Problem};
use crate::{
    Name,
    operator::{CheckReport, CheckRunError},
};

/// How long to wait for a run: a response may take at most 10 s.
const WAIT: Duration = Duration::from_secs(9);

#[derive(Serialize)]
pub(super) struct Checks {
    now_ms: u64,
    checks: Vec<CheckReport>,
}

pub(super) async fn checks(State(app): State<App>) -> Result<Json<Checks>, Problem> {
    let (checks, now_ms) = tokio::try_join!(app.operator.checks(), app.operator.now_ms())?;
    app.store.said(now_ms);
    Ok(Json(Checks { now_ms, checks }))
}

pub(super) async fn check(
    State(app): State<App>,
    given::Name(name): given::Name,
) -> Result<Json<CheckReport>, Problem> {
    let found = match Name::new(&name) {
        Ok(_) => app.operator.check(&name).await?,
        Err(_) => None,
    };
    found.map(Json).ok_or_else(|| unknown(&name))
}

pub(super) async fn run(
    by: Operating,
    State(app): State<App>,
    given::Name(name): given::Name,
) -> Result<Json<CheckReport>, Problem> {
    if Name::new(&name).is_err() {
        return Err(unknown(&name));
    }
    let timeout = app.operator.check(&name).await?;
    let timeout = timeout.map(|report| Duration::from_millis(report.timeout_ms));
    let wait = timeout.map(|timeout| (timeout + Duration::from_secs(5)).min(WAIT));
    match by.operator.run_check(&name, wait).await {
        Ok(report) => Ok(Json(report)),
        Err(CheckRunError::Store(error)) => Err(error.into()),
        Err(CheckRunError::Unknown(name)) => Err(unknown(&name)),
        Err(error) => Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, error.to_string())),
    }
}

fn unknown(name: &str) -> Problem {
    let words = format!("there is no check {name:?}");
    Problem::new(StatusCode::NOT_FOUND, words)
}
