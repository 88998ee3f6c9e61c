//! Streamed answers as server-sent events.

use std::convert::Infallible;

use axum::response::{IntoResponse, Response, Sse, sse::Event};
use futures_util::{StreamExt, stream::BoxStream};
use serde_json::{Value, json};

use super::streaming::Told;

/// Sends `token` events, then `done` with the other fields of a plain answer, or `error`.
pub fn answer(told: BoxStream<'static, Told>) -> Response {
    Sse::new(told.map(|told| Ok::<_, Infallible>(event(told)))).into_response()
}

fn event(told: Told) -> Event {
    let (name, data) = match told {
        Told::Token(text) => ("token", json!({"text": text})),
        Told::Done(answer) => {
            let mut data = json!(answer);
            if let Value::Object(fields) = &mut data {
                // The tokens had the text.
                fields.remove("text");
            }
            ("done", data)
        }
        Told::Broken(provider, words) => {
            let detail = format!("{}: {words}", provider.name());
            ("error", json!({"provider": provider, "detail": detail}))
        }
    };
    Event::default().event(name).data(data.to_string())
}
