//! Updates as lines of JSON: `{"event": "circuit", "data": {...}}`, with the names and shapes of
//! the admin server's stream.

use commontrip::{
    Event, Name,
    operator::{News, NewsStream, View},
};
use serde::Serialize;
use serde_json::json;

use crate::out::{Done, Failure, tell_line};

#[derive(Serialize)]
struct Line {
    event: &'static str,
    data: serde_json::Value,
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    #[serde(flatten)]
    event: &'a Event,
}

/// Writes the updates until the reader is gone.
pub async fn write(mut news: NewsStream, only: Option<Name>) -> Done {
    loop {
        if let Some(line) = line(news.next().await, only.as_ref()) {
            tell_line(&line?)?;
        }
    }
}

/// The line of an update; `None` if it concerns another circuit.
fn line(news: News, only: Option<&Name>) -> Option<Result<Line, Failure>> {
    let wanted = |name: &Name| only.is_none_or(|only| only == name);
    let (event, data) = match news {
        News::Circuits(all) => {
            let views = &all.circuits;
            let now_ms = views.iter().map(|view| view.snapshot.now_ms).max();
            let views: Vec<&View> = views.iter().filter(|view| wanted(&view.name)).collect();
            let data = json!({ "now_ms": now_ms.unwrap_or(0), "circuits": views, "incomplete": all.incomplete });
            ("circuits", Ok(data))
        }
        News::Circuit(view) => {
            wanted(&view.name).then_some(())?;
            ("circuit", serde_json::to_value(&*view))
        }
        News::Gone(name) => {
            wanted(&name).then_some(())?;
            ("gone", Ok(json!({ "name": name.as_str() })))
        }
        News::Entry(name, event) => {
            wanted(&name).then_some(())?;
            let (name, event) = (name.as_str(), &*event);
            ("entry", serde_json::to_value(Entry { name, event }))
        }
        News::Store(answer) => {
            let us = answer
                .as_ref()
                .ok()
                .map(|took| u64::try_from(took.as_micros()).ok());
            let error = answer.err();
            (
                "store",
                Ok(
                    json!({ "ok": error.is_none(), "error": error, "answered_in_us": us.flatten() }),
                ),
            )
        }
        News::Tick(now_ms) => ("tick", Ok(json!({ "now_ms": now_ms }))),
        _ => return None,
    };
    let line = data.map(|data| Line { event, data });
    Some(line.map_err(Failure::from))
}
