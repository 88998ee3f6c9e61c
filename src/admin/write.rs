//! Routes that command. Each command is recorded in the circuit's events: who, when, why, from
//! where.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    http::{HeaderMap, StatusCode, header},
};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Number;

use super::{
    caller::Operating,
    given::{Asked, Body, Name},
    problem::Problem,
};
use crate::{ControlError, Override, model::Command, operator::View, store::in_words};

/// Maximum duration of an override, ms: a year.
const LONGEST_MS: u64 = 31_536_000_000;
/// Below this, an `f64` can hold every whole number.
const LARGEST_REAL: f64 = (1_u64 << 53) as f64;
/// Circuits reset concurrently.
const AT_ONCE: usize = 16;

type Changed = Result<Json<View>, Problem>;

/// A whole number from 0, which may also be written as `300000.0` or `3e5`: in JSON these are the
/// same.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "Number")]
struct Whole(u64);

impl TryFrom<Number> for Whole {
    type Error = String;

    fn try_from(number: Number) -> Result<Self, String> {
        let real = number
            .as_f64()
            .filter(|real| real.fract() == 0.0 && (0.0..LARGEST_REAL).contains(real));
        let whole = number.as_u64().or_else(|| real.map(|real| real as u64));
        let words = || format!("{number} is not a whole number from 0 on");
        whole.map(Self).ok_or_else(words)
    }
}

/// The body of an override.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Until {
    for_ms: Option<Whole>,
    replaces: Option<Whole>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    author: String,
}

/// The body of a reset, and of a removal of the stored policy.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OverrideBody {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    author: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    set: BTreeMap<String, Whole>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    author: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct All {
    confirm: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    author: String,
}

impl Until {
    fn said(self, by: &Operating) -> Result<Override, Problem> {
        let mut with = Override::from(by.note(self.reason, self.author)?);
        if let Some(Whole(generation)) = self.replaces {
            with = with.replacing(generation);
        }
        match self.for_ms {
            None => Ok(with),
            Some(Whole(ms @ 1..=LONGEST_MS)) => Ok(with.lasting(Duration::from_millis(ms))),
            Some(Whole(ms)) => Err(Problem::unfit(format!(
                "for_ms is {ms}, but must be from 1 to {LONGEST_MS} ms; leave it out for an override without an end"
            ))),
        }
    }
}

/// Sets the override of a command.
pub(super) async fn set(
    command: Command,
    by: Operating,
    Name(name): Name,
    Body(body): Body<Until>,
) -> Changed {
    let with = body.said(&by)?;
    Ok(Json(by.operator.set(&name, command, with).await?))
}

pub(super) async fn reset(
    by: Operating,
    Name(name): Name,
    Body(body): Body<OverrideBody>,
) -> Changed {
    let with = by.note(body.reason, body.author)?;
    Ok(Json(by.operator.reset(&name, with).await?))
}

/// The query of a removal.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Removal {
    #[serde(default)]
    force: bool,
}

pub(super) async fn remove(by: Operating, Name(name): Name, Asked(how): Asked<Removal>) -> Changed {
    Ok(Json(by.operator.remove(&name, how.force).await?))
}

pub(super) async fn store_policy(
    by: Operating,
    Name(name): Name,
    headers: HeaderMap,
    Body(body): Body<Settings>,
) -> Changed {
    let expected = expected(&headers)?;
    let mut pairs = Vec::with_capacity(body.set.len());
    for (key, Whole(number)) in &body.set {
        if key.contains(|c: char| !c.is_ascii_graphic() || c == '=') {
            return Err(Problem::unfit(format!("{key:?} is not a setting")));
        }
        pairs.push(format!("{key}={number}"));
    }
    let (pairs, with) = (pairs.join(" "), by.note(body.reason, body.author)?);
    let stored = by.operator.store_policy(&name, &pairs, expected, with);
    Ok(Json(stored.await?))
}

/// The version that `If-Match` requires.
fn expected(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(given) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = given.to_str().unwrap_or_default().trim();
    let bare = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    match bare.unwrap_or(text).parse() {
        _ if text == "*" => Ok(None),
        Ok(version) => Ok(Some(version)),
        Err(_) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "If-Match must be the policy_version that you last read, in quotes: If-Match: \"3\"",
        )),
    }
}

pub(super) async fn remove_policy(
    by: Operating,
    Name(name): Name,
    headers: HeaderMap,
    Body(body): Body<OverrideBody>,
) -> Changed {
    let expected = expected(&headers)?;
    let with = by.note(body.reason, body.author)?;
    Ok(Json(
        by.operator.store_policy(&name, "", expected, with).await?,
    ))
}

#[derive(Serialize)]
pub(super) struct Reset {
    reset: Vec<String>,
    failed: Vec<Failed>,
    /// Why other circuits were left out.
    incomplete: Option<String>,
}

#[derive(Serialize)]
struct Failed {
    name: String,
    error: String,
}

pub(super) async fn reset_all(
    by: Operating,
    Body(body): Body<All>,
) -> Result<Json<Reset>, Problem> {
    if body.confirm != "reset-all" {
        let words = "this resets every circuit; say \"confirm\": \"reset-all\" to have it done";
        return Err(Problem::unfit(words));
    }
    let with = by.note(body.reason, body.author)?;
    with.check()?;
    let (names, incomplete) = by.operator.index().await?;
    let resets = names.into_iter().map(|name| {
        let (by, with) = (by.operator.clone(), with.clone());
        async move {
            let answer = by.reset(name.as_str(), with).await;
            (name, answer)
        }
    });
    let mut answers = stream::iter(resets).buffered(AT_ONCE);
    let mut done = Reset {
        reset: Vec::new(),
        failed: Vec::new(),
        incomplete,
    };
    while let Some((name, answer)) = answers.next().await {
        let name = name.to_string();
        match answer {
            Ok(_) => done.reset.push(name),
            // It has expired or was removed, but its name is still listed.
            Err(ControlError::Unknown(_)) => {}
            Err(error) => {
                let error = in_words(&error);
                done.failed.push(Failed { name, error });
            }
        }
    }
    Ok(Json(done))
}
