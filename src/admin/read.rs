//! What can be read: circuits, health, status.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{App, problem::Problem, stored::StoreHealth};
use crate::{
    State as CircuitState, StoreError,
    operator::{Ask, Details, Survey, View},
    store::in_words,
};

/// The most slices of a circuit's past.
const MOST_SLICES: usize = 360;
/// The most circuits of a page.
const MOST_OF_A_PAGE: usize = 1000;

#[derive(Deserialize)]
pub(super) struct Listed {
    state: Option<CircuitState>,
    q: Option<String>,
    history: Option<usize>,
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Circuits {
    pub(super) now_ms: u64,
    pub(super) circuits: Vec<View>,
    /// Why some are missing.
    pub(super) incomplete: Option<String>,
    /// The cursor of the next page.
    pub(super) next: Option<String>,
}

pub(super) async fn circuits(
    State(app): State<App>,
    listed: Result<Query<Listed>, QueryRejection>,
) -> Result<Json<Circuits>, Problem> {
    let Query(listed) = listed?;
    let mut ask = Ask::all(listed.history.unwrap_or(0));
    if ask.slices > MOST_SLICES {
        let slices = ask.slices;
        let words = format!("history is {slices}, but must be from 0 to {MOST_SLICES} slices");
        return Err(Problem::new(StatusCode::BAD_REQUEST, words));
    }
    if let Some(limit) = listed.limit
        && !(1..=MOST_OF_A_PAGE).contains(&limit)
    {
        let words = format!("limit is {limit}, but must be from 1 to {MOST_OF_A_PAGE} circuits");
        return Err(Problem::new(StatusCode::BAD_REQUEST, words));
    }
    ask.after = listed.cursor.unwrap_or_default();
    // A cursor is of a page.
    let of_a_page = (!ask.after.is_empty()).then_some(MOST_OF_A_PAGE);
    ask.limit = listed.limit.or(of_a_page);
    ask.part = listed.q.unwrap_or_default();
    ask.state = listed.state;
    let (now_ms, survey) = app.all(&ask).await?;
    Ok(Json(Circuits {
        now_ms,
        incomplete: missing(&survey),
        next: survey.next.map(|name| name.to_string()),
        circuits: survey.circuits,
    }))
}

/// Why circuits are missing from what was read, in one line.
pub(super) fn missing(of: &Survey) -> Option<String> {
    let unreadable = of.unreadable.first().map(|(name, error)| {
        let all = of.unreadable.len();
        format!(
            "{all} cannot be read, such as `{name}`: {}",
            in_words(error)
        )
    });
    let words: Vec<_> = of.incomplete.iter().cloned().chain(unreadable).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

pub(super) async fn circuit(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Details>, Problem> {
    let Path(name) = name?;
    Ok(Json(app.operator.details(&name).await?))
}

#[derive(Serialize)]
struct Health {
    healthy: bool,
    total: usize,
    open: Vec<String>,
    half_open: Vec<String>,
    forced_open: Vec<String>,
    incomplete: Option<String>,
    store: StoreHealth,
}

pub(super) async fn health(State(app): State<App>) -> Response {
    let (store, survey) = app.look().await;
    let survey = survey.unwrap_or_default();
    let circuits = &survey.circuits;
    let in_state = |state| -> Vec<String> {
        let found = circuits.iter();
        let found = found.filter(|view| view.snapshot.state == state);
        found.map(|view| view.name.to_string()).collect()
    };
    let [open, half_open, forced_open] = [
        CircuitState::Open,
        CircuitState::HalfOpen,
        CircuitState::ForcedOpen,
    ]
    .map(in_state);
    let status = match store.ok {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let health = Health {
        healthy: store.ok && open.is_empty() && half_open.is_empty() && forced_open.is_empty(),
        total: circuits.len(),
        open,
        half_open,
        forced_open,
        incomplete: missing(&survey),
        store,
    };
    (status, Json(health)).into_response()
}

#[derive(Serialize)]
pub(super) struct Status {
    version: &'static str,
    now_ms: u64,
    read_only: bool,
    store: StoreHealth,
    circuits: ByState,
    replicas: u64,
    calls: u64,
    failures: u64,
    not_permitted_total: u64,
    incomplete: Option<String>,
}

#[derive(Default, Serialize)]
struct ByState {
    total: usize,
    closed: usize,
    open: usize,
    half_open: usize,
    forced_open: usize,
    disabled: usize,
    metrics_only: usize,
}

impl ByState {
    fn of(circuits: &[View]) -> Self {
        let mut by = Self::default();
        for view in circuits {
            by.total += 1;
            *match view.snapshot.state {
                CircuitState::Closed => &mut by.closed,
                CircuitState::Open => &mut by.open,
                CircuitState::HalfOpen => &mut by.half_open,
                CircuitState::ForcedOpen => &mut by.forced_open,
                CircuitState::Disabled => &mut by.disabled,
                CircuitState::MetricsOnly => &mut by.metrics_only,
            } += 1;
        }
        by
    }
}

/// Answers also while the store is away: what is not known is 0 then.
pub(super) async fn status(State(app): State<App>) -> Json<Status> {
    let (store, survey) = app.look().await;
    let survey = survey.unwrap_or_default();
    let circuits = &survey.circuits;
    let sum = |number: fn(&View) -> u64| circuits.iter().map(number).sum();
    let replicas = circuits.iter().map(|view| view.snapshot.replicas).max();
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        now_ms: app.store.now_ms(),
        read_only: app.options.is_read_only(),
        store,
        circuits: ByState::of(circuits),
        replicas: replicas.unwrap_or(0),
        calls: sum(|view| view.snapshot.calls),
        failures: sum(|view| view.snapshot.failures),
        not_permitted_total: sum(|view| view.snapshot.not_permitted_total),
        incomplete: missing(&survey),
    })
}

impl App {
    /// Circuits, and the store's time.
    async fn all(&self, ask: &Ask) -> Result<(u64, Survey), StoreError> {
        let survey = self.operator.survey(ask).await?;
        let now_ms = self.operator.time_of(&survey.circuits).await?;
        self.store.said(now_ms);
        Ok((now_ms, survey))
    }

    /// Every circuit where the store tells of them, and how long one answer takes.
    pub(super) async fn look(&self) -> (StoreHealth, Option<Survey>) {
        let asked = Instant::now();
        let (health, there) = self.store.take(asked, self.operator.ping().await);
        if there.is_none() {
            return (health, None);
        }
        match self.all(&Ask::default()).await {
            Ok((_, survey)) => (health, Some(survey)),
            Err(error) => self.store.take(asked, Err(error)),
        }
    }
}
