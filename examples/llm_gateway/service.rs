//! The gateway over HTTP.
//!
//! Owns the routes and the shape of answers; [`Gateway`] does the work.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State, rejection::JsonRejection},
    http::{HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use commontrip::{admin, operator::Operator};
use serde_json::{Value, json};

use super::{
    chat::Chat,
    embeddings::{Texts, Vectors},
    gateway::Gateway,
    lab::{Error, Stubs},
    local::Patient,
    problem::Problem,
    provider::Provider,
    sse,
    stubs::Mode,
};

#[derive(Clone)]
struct Service {
    gateway: Arc<Gateway>,
    stubs: Arc<Stubs>,
}

/// The routes of one replica.
pub fn router(gateway: Arc<Gateway>, stubs: Arc<Stubs>) -> Result<Router, Error> {
    let options = admin::Options::new().token_from_env("COMMONTRIP_ADMIN_TOKEN")?;
    let dashboard = admin::router(Operator::of(&gateway.circuits), options);
    Ok(Router::new()
        .route("/v1/chat", post(chat))
        .route("/v1/chat/patient", post(chat_patiently))
        .route("/v1/embeddings", post(embed))
        .route("/health", get(health))
        .route("/stats", get(stats))
        .route("/metrics", get(metrics))
        .route("/stubs/{provider}/{mode}", post(break_stub))
        .fallback(|| async {
            Problem::new(StatusCode::NOT_FOUND, "there is no such route".to_owned())
        })
        .with_state(Service { gateway, stubs })
        .nest_service("/admin", dashboard))
}

async fn chat(
    State(service): State<Service>,
    question: Result<Json<Chat>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(chat) =
        question.map_err(|wrong| Problem::new(StatusCode::BAD_REQUEST, wrong.body_text()))?;
    if chat.stream {
        return Ok(sse::answer(service.gateway.stream(chat).await?));
    }
    let answer = service.gateway.chat(chat).await?;
    let told = [
        ("x-llm-provider", answer.provider.name().to_owned()),
        ("x-llm-model", answer.model.clone()),
        ("x-llm-attempt", answer.attempt.to_string()),
        ("x-llm-elapsed-ms", answer.elapsed_ms.to_string()),
        ("x-llm-fallback", answer.fallback.to_string()),
        ("x-llm-cached", answer.cached.to_string()),
    ];
    let mut response = Json(answer).into_response();
    for (name, value) in told {
        // A provider's name for its model may not be a valid header value.
        if let Ok(value) = HeaderValue::from_str(&value) {
            response
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
    }
    Ok(response)
}

async fn chat_patiently(
    State(service): State<Service>,
    question: Result<Json<Chat>, JsonRejection>,
) -> Result<Json<Patient>, Problem> {
    let Json(chat) =
        question.map_err(|wrong| Problem::new(StatusCode::BAD_REQUEST, wrong.body_text()))?;
    Ok(Json(service.gateway.chat_patiently(chat).await?))
}

async fn embed(
    State(service): State<Service>,
    texts: Result<Json<Texts>, JsonRejection>,
) -> Result<Json<Vectors>, Problem> {
    let Json(texts) =
        texts.map_err(|wrong| Problem::new(StatusCode::BAD_REQUEST, wrong.body_text()))?;
    Ok(Json(service.gateway.embed(texts).await?))
}

/// The statistics of embeddings, and the health of the local server.
async fn stats(State(service): State<Service>) -> Json<Value> {
    let gateway = &service.gateway;
    let breaker = gateway.embeddings.breaker();
    let checks = gateway.monitor.checks();
    let checks = checks.iter().map(
        |check| json!({"name": check.name, "status": check.status.as_str(), "why": check.why}),
    );
    Json(json!({
        "replica": gateway.name(),
        "embeddings": gateway.embeddings.stats(),
        "circuit": {"name": breaker.name(), "state": breaker.state().as_str()},
        "checks": checks.collect::<Vec<_>>(),
    }))
}

/// Returns 200 as long as at least one provider may be asked.
async fn health(State(service): State<Service>) -> Response {
    let gateway = &service.gateway;
    let admits = |state| {
        !matches!(
            state,
            commontrip::State::Open | commontrip::State::ForcedOpen
        )
    };
    let open = gateway
        .breakers()
        .all(|(_, breaker)| !admits(breaker.state()));
    let providers: Vec<_> = gateway
        .breakers()
        .map(|(provider, breaker)| {
            json!({
                "provider": provider,
                "circuit": breaker.name(),
                "state": breaker.state().as_str(),
            })
        })
        .collect();
    let body = json!({
        "status": if open { "down" } else { "ok" },
        "replica": gateway.name(),
        "store": if gateway.circuits.health().unavailable_for.is_some() { "unavailable" } else { "ok" },
        "providers": providers,
    });
    let status = if open {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    (status, Json(body)).into_response()
}

async fn metrics(State(service): State<Service>) -> String {
    service.gateway.prometheus.run_upkeep();
    service.gateway.prometheus.render()
}

/// Breaks or repairs a provider's stub.
async fn break_stub(
    State(service): State<Service>,
    Path((provider, mode)): Path<(Provider, Mode)>,
) -> String {
    service.stubs.of(provider).set(mode).await;
    format!("{} is in mode {mode:?}\n", provider.name())
}
