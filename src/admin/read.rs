//! Routes that read: circuits, health, status.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    App,
    caller::Access,
    given::{Asked, Count, Name},
    options::Caller,
    problem::Problem,
    stored::StoreHealth,
    tokens::{Holder, Role},
};
use crate::{
    State as CircuitState, StoreError,
    operator::{Ask, ChecksByStatus, Details, Survey, View},
    store::in_words,
};

/// Maximum slices of a circuit's past.
const MOST_SLICES: usize = 360;
/// Maximum circuits per page.
const MOST_OF_A_PAGE: usize = 1000;

#[derive(Deserialize)]
pub(super) struct Listed {
    state: Option<CircuitState>,
    q: Option<String>,
    history: Option<Count>,
    limit: Option<Count>,
    cursor: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Circuits {
    pub(super) now_ms: u64,
    pub(super) circuits: Vec<View>,
    /// Why circuits are missing.
    pub(super) incomplete: Option<String>,
    /// The cursor of the next page.
    pub(super) next: Option<String>,
}

pub(super) async fn circuits(
    State(app): State<App>,
    Asked(listed): Asked<Listed>,
) -> Result<Json<Circuits>, Problem> {
    let mut ask = Ask::all(listed.history.map_or(0, |Count(slices)| slices));
    if ask.slices > MOST_SLICES {
        let slices = ask.slices;
        let words = format!("history is {slices}, but must be from 0 to {MOST_SLICES} slices");
        return Err(Problem::new(StatusCode::BAD_REQUEST, words));
    }
    let limit = listed.limit.map(|Count(limit)| limit);
    if let Some(limit) = limit
        && !(1..=MOST_OF_A_PAGE).contains(&limit)
    {
        let words = format!("limit is {limit}, but must be from 1 to {MOST_OF_A_PAGE} circuits");
        return Err(Problem::new(StatusCode::BAD_REQUEST, words));
    }
    ask.after = listed.cursor.unwrap_or_default();
    // A cursor implies pages.
    let of_a_page = (!ask.after.is_empty()).then_some(MOST_OF_A_PAGE);
    ask.limit = limit.or(of_a_page);
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

/// Why circuits are missing from a survey, in one line.
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
    Name(name): Name,
) -> Result<Json<Details>, Problem> {
    Ok(Json(app.operator.details(&name).await?))
}

#[derive(Serialize)]
struct Health {
    healthy: bool,
    total: usize,
    open: Vec<String>,
    half_open: Vec<String>,
    forced_open: Vec<String>,
    checks: ChecksByStatus,
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
    let checks = app.checks(&store).await;
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
        checks,
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
    you: You,
    store: StoreHealth,
    circuits: ByState,
    checks: ChecksByStatus,
    replicas: u64,
    calls: u64,
    failures: u64,
    rejected_total: u64,
    incomplete: Option<String>,
}

/// The caller of a request.
#[derive(Serialize)]
struct You {
    /// The name of the caller's token.
    name: Option<String>,
    /// The role of the caller's token: `read` or `command`.
    role: Option<String>,
}

impl You {
    fn are(access: &Access) -> Self {
        let (name, role) = match access.caller() {
            Err(_) => (None, None),
            Ok(Caller::Owner) => (None, Some(Role::Command)),
            Ok(Caller::Named(Holder { name, role, .. }, _)) => {
                (Some(name.to_string()), Some(*role))
            }
        };
        Self {
            name,
            role: role.map(|role| role.to_string()),
        }
    }
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

/// Answers even while the store is unavailable; unknown numbers are then 0.
pub(super) async fn status(State(app): State<App>, access: Access) -> Json<Status> {
    let (store, survey) = app.look().await;
    let survey = survey.unwrap_or_default();
    let circuits = &survey.circuits;
    let sum = |number: fn(&View) -> u64| circuits.iter().map(number).sum();
    let replicas = circuits.iter().map(|view| view.snapshot.replicas).max();
    let checks = app.checks(&store).await;
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        now_ms: app.store.now_ms(),
        read_only: app.options.is_read_only(),
        you: You::are(&access),
        store,
        circuits: ByState::of(circuits),
        checks,
        replicas: replicas.unwrap_or(0),
        calls: sum(|view| view.snapshot.calls),
        failures: sum(|view| view.snapshot.failures),
        rejected_total: sum(|view| view.snapshot.rejected_total),
        incomplete: missing(&survey),
    })
}

impl App {
    /// The store's time, and the circuits.
    async fn all(&self, ask: &Ask) -> Result<(u64, Survey), StoreError> {
        let survey = self.operator.survey(ask).await?;
        let now_ms = self.operator.time_of(&survey.circuits).await?;
        self.store.said(now_ms);
        Ok((now_ms, survey))
    }

    /// Health checks by status; all 0 if they cannot be read.
    async fn checks(&self, store: &StoreHealth) -> ChecksByStatus {
        match store.ok {
            true => self.operator.checks().await.map_or_else(
                |_| ChecksByStatus::default(),
                |checks| ChecksByStatus::of(&checks),
            ),
            false => ChecksByStatus::default(),
        }
    }

    /// The store's health, and every circuit if they can be read.
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
