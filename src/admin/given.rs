//! Extractors for a request: the name in its path, a query, a JSON body.
//!
//! Owns the error messages; the framework's own do not mention this server's limits.

use std::{error::Error, fmt, marker::PhantomData};

use axum::{
    Json,
    body::Bytes,
    extract::{
        FromRequest, FromRequestParts, Path, Query, Request,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{LONGEST_BODY, problem::Problem};

fn unreadable(words: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, words)
}

/// The cause and the field, without the framework's own words.
fn cause(rejection: &dyn Error) -> String {
    let mut at = rejection;
    loop {
        let text = at.to_string();
        match at.source() {
            Some(source) if text.starts_with("Failed to ") => at = source,
            _ => return text,
        }
    }
}

/// The name in the path.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let found = Path::from_request_parts(parts, state).await;
        let words = "the name in the path is not UTF-8, percent-encoded";
        found
            .map(|Path(name)| Self(name))
            .map_err(|_| unreadable(words))
    }
}

/// The query.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let found: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        found
            .map(|Query(asked)| Self(asked))
            .map_err(|error| unreadable(format!("the query cannot be read: {}", cause(&error))))
    }
}

/// A whole number in a query.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Count(pub(super) usize);

impl TryFrom<String> for Count {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let words = |_| format!("{text:?} is not a whole number from 0 on");
        text.parse().map(Self).map_err(words)
    }
}

/// The JSON object in the body; an empty body is an empty object.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|error| match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let words =
                    format!("the body has more than {LONGEST_BODY} bytes, the most that is read");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, words)
            }
            _ => unreadable("the body is incomplete"),
        })?;
        let given: &[u8] = match &*bytes {
            [] => b"{}",
            _ if is_json => &bytes,
            _ => {
                let words = "the body must be JSON, with Content-Type: application/json";
                return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, words));
            }
        };
        match Json::<Object<T>>::from_bytes(given) {
            Ok(Json(Object(body))) => Ok(Self(body)),
            Err(error @ JsonRejection::JsonDataError(_)) => Err(Problem::unfit(format!(
                "the body is not valid: {}",
                cause(&error)
            ))),
            Err(error) => Err(unreadable(format!(
                "the body is not JSON: {}",
                cause(&error)
            ))),
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// A JSON object: a type on its own would also accept an array of its fields.
struct Object<T>(T);

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
