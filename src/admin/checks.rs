//! What can be read of health checks.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
};
use serde::Serialize;

use super::{App, problem::Problem};
use crate::{Name, operator::CheckReport};

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
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<CheckReport>, Problem> {
    let Path(name) = name?;
    let found = match Name::new(&name) {
        Ok(_) => app.operator.check(&name).await?,
        Err(_) => None,
    };
    match found {
        Some(check) => Ok(Json(check)),
        None => {
            let words = format!("there is no check {name:?}");
            Err(Problem::new(StatusCode::NOT_FOUND, words))
        }
    }
}
