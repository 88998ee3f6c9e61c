//! What can be commanded. Each command is in the circuit's events: who, when, why, from where.

use std::{collections::BTreeMap, fmt, marker::PhantomData, time::Duration};

use axum::{
    Json,
    extract::{
        Path,
        rejection::{JsonRejection, PathRejection},
    },
    http::{HeaderMap, StatusCode, header},
};
use futures_util::{StreamExt, stream};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Number;

use super::{guard::Operating, problem::Problem};
use crate::{Override, operator::View, store::in_words};

/// The longest override, ms: a year.
const LONGEST_MS: u64 = 31_536_000_000;
/// Below this every whole number has a real one.
const LARGEST_REAL: f64 = (1_u64 << 53) as f64;
/// Circuits that are reset at once.
const AT_ONCE: usize = 16;

type Name = Result<Path<String>, PathRejection>;
type Body<T> = Result<Json<Object<T>>, JsonRejection>;
type Changed = Result<Json<View>, Problem>;

/// A whole number, from 0 on; also written as `300000.0` or `3e5`, which JSON does not tell apart.
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

/// A JSON object; of a type's own, an array of its fields would do as well.
pub(super) struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Fields(PhantomData))
    }
}

struct Fields<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
    }
}

/// Of an override.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Until {
    for_ms: Option<Whole>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    author: String,
}

/// Of everything else.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Words {
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

/// Whoever does not say who they are is known by where they are.
fn said(reason: String, author: String) -> Override {
    let with = Override::because(reason);
    match author.is_empty() {
        true => with,
        false => with.by(author),
    }
}

impl Until {
    fn said(self) -> Result<Override, Problem> {
        let with = said(self.reason, self.author);
        match self.for_ms {
            None => Ok(with),
            Some(Whole(ms @ 1..=LONGEST_MS)) => Ok(with.lasting(Duration::from_millis(ms))),
            Some(Whole(ms)) => Err(Problem::unfit(format!(
                "for_ms is {ms}, but must be from 1 to {LONGEST_MS} ms; leave it out for an override without an end"
            ))),
        }
    }
}

pub(super) async fn force_open(by: Operating, name: Name, body: Body<Until>) -> Changed {
    let (Path(name), Json(Object(body))) = (name?, body?);
    Ok(Json(by.0.force_open(&name, body.said()?).await?))
}

pub(super) async fn disable(by: Operating, name: Name, body: Body<Until>) -> Changed {
    let (Path(name), Json(Object(body))) = (name?, body?);
    Ok(Json(by.0.disable(&name, body.said()?).await?))
}

pub(super) async fn metrics_only(by: Operating, name: Name, body: Body<Until>) -> Changed {
    let (Path(name), Json(Object(body))) = (name?, body?);
    Ok(Json(by.0.metrics_only(&name, body.said()?).await?))
}

pub(super) async fn reset(by: Operating, name: Name, body: Body<Words>) -> Changed {
    let (Path(name), Json(Object(body))) = (name?, body?);
    let with = said(body.reason, body.author);
    Ok(Json(by.0.reset(&name, with).await?))
}

pub(super) async fn store_policy(
    by: Operating,
    name: Name,
    headers: HeaderMap,
    body: Body<Settings>,
) -> Changed {
    let (Path(name), Json(Object(body))) = (name?, body?);
    let expected = expected(&headers)?;
    let mut pairs = Vec::with_capacity(body.set.len());
    for (key, Whole(number)) in &body.set {
        if key.contains(|c: char| !c.is_ascii_graphic() || c == '=') {
            return Err(Problem::unfit(format!("{key:?} is not a setting")));
        }
        pairs.push(format!("{key}={number}"));
    }
    let (pairs, with) = (pairs.join(" "), said(body.reason, body.author));
    let stored = by.0.store_policy(&name, &pairs, expected, with);
    Ok(Json(stored.await?))
}

/// The version that `If-Match` asks for.
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
            "If-Match is to be the policy_version that was seen, in quotes: If-Match: \"3\"",
        )),
    }
}

pub(super) async fn remove_policy(
    by: Operating,
    name: Name,
    headers: HeaderMap,
    body: Result<Option<Json<Object<Words>>>, JsonRejection>,
) -> Changed {
    let (Path(name), body) = (name?, body?);
    let expected = expected(&headers)?;
    let body = body.map_or_else(Words::default, |Json(Object(body))| body);
    let with = said(body.reason, body.author);
    Ok(Json(by.0.store_policy(&name, "", expected, with).await?))
}

#[derive(Default, Serialize)]
pub(super) struct Reset {
    reset: Vec<String>,
    failed: Vec<Failed>,
}

#[derive(Serialize)]
struct Failed {
    name: String,
    error: String,
}

pub(super) async fn reset_all(by: Operating, body: Body<All>) -> Result<Json<Reset>, Problem> {
    let Json(Object(body)) = body?;
    if body.confirm != "reset-all" {
        let words = "this resets every circuit; say \"confirm\": \"reset-all\" to have it done";
        return Err(Problem::unfit(words));
    }
    let with = said(body.reason, body.author);
    with.check()?;
    let names = by.0.names().await?;
    let resets = names.into_iter().map(|name| {
        let (by, with) = (by.0.clone(), with.clone());
        async move {
            let answer = by.reset(name.as_str(), with).await;
            (name, answer)
        }
    });
    let mut answers = stream::iter(resets).buffered(AT_ONCE);
    let mut done = Reset::default();
    while let Some((name, answer)) = answers.next().await {
        let name = name.to_string();
        match answer {
            Ok(_) => done.reset.push(name),
            Err(error) => {
                let error = in_words(&error);
                done.failed.push(Failed { name, error });
            }
        }
    }
    Ok(Json(done))
}
