//! The news as a stream of server-sent events.
//!
//! Owns what the kinds of events are called and which of them a subscriber gets; gathering them is
//! [`Live`](crate::operator::Live)'s.

use std::convert::Infallible;

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderName, StatusCode, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{App, problem::Problem, read::Circuits, serve::Closing, stored::StoreHealth};
use crate::{
    Name,
    operator::{News, Tidings},
};

#[derive(Deserialize)]
pub(super) struct About {
    name: Option<String>,
}

pub(super) async fn events(
    State(app): State<App>,
    closing: Option<axum::Extension<Closing>>,
    about: Result<Query<About>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(about) = about?;
    let permit = app.streams.clone().try_acquire_owned();
    let permit = permit.map_err(|_| {
        let words = "as many watch the news as this server lets; try again in a while";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, words).with(header::RETRY_AFTER, "10")
    })?;
    let subscriber = Subscriber {
        tidings: app.live.subscribe(),
        app,
        about: about.name,
        closing: closing.map(|axum::Extension(Closing(closing))| closing),
        store: None,
        _permit: permit,
    };
    let events = stream::unfold(subscriber, |mut subscriber| async {
        let event = subscriber.next().await?;
        Some((Ok::<_, Infallible>(event), subscriber))
    });
    let headers = [
        // A proxy that gathers answers before it passes them on would make news old.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let events = Sse::new(events).keep_alive(KeepAlive::default());
    Ok((headers, events).into_response())
}

/// Somebody who watches.
struct Subscriber {
    tidings: Tidings,
    app: App,
    /// The one circuit that they watch.
    about: Option<String>,
    closing: Option<watch::Receiver<bool>>,
    /// What they were told of the store.
    store: Option<StoreHealth>,
    _permit: OwnedSemaphorePermit,
}

/// The end, when the server ends; where that is not known, never.
async fn end(closing: &mut Option<watch::Receiver<bool>>) {
    match closing {
        Some(closing) => drop(closing.wait_for(|closing| *closing).await),
        None => std::future::pending().await,
    }
}

#[derive(Serialize)]
struct Gone<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    #[serde(flatten)]
    event: &'a crate::Event,
}

#[derive(Serialize)]
struct Tick {
    now_ms: u64,
}

impl Subscriber {
    /// What they are told next; `None` at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let news = tokio::select! {
                () = end(&mut self.closing) => return None,
                () = self.app.operator.ended() => return None,
                news = self.tidings.next() => news,
            };
            if let Some(event) = self.tell(news).await {
                return Some(event);
            }
        }
    }

    fn watches(&self, name: &Name) -> bool {
        let about = self.about.as_deref();
        about.is_none_or(|about| about == name.as_str())
    }

    async fn tell(&mut self, news: News) -> Option<Event> {
        match news {
            News::Circuits(mut circuits) => {
                let now_ms = match self.app.operator.time_of(&circuits).await {
                    Ok(now_ms) => now_ms,
                    Err(_) => self.app.store.now_ms(),
                };
                self.app.store.said(now_ms);
                circuits.retain(|view| self.watches(&view.name));
                let circuits = Circuits {
                    now_ms,
                    circuits,
                    incomplete: None,
                    next: None,
                };
                event("circuits", &circuits)
            }
            News::Circuit(view) if self.watches(&view.name) => event("circuit", &*view),
            News::Gone(name) if self.watches(&name) => {
                let name = name.as_str();
                event("gone", &Gone { name })
            }
            News::Entry(name, entry) if self.watches(&name) => {
                let (name, event_) = (name.as_str(), &*entry);
                event(
                    "entry",
                    &Entry {
                        name,
                        event: event_,
                    },
                )
            }
            News::Store(answer) => {
                let health = match answer {
                    Ok(took) => self.app.store.answered(took),
                    Err(why) => self.app.store.failed(why),
                };
                let same = self
                    .store
                    .as_ref()
                    .is_some_and(|told| (told.ok, &told.error) == (health.ok, &health.error));
                if same {
                    return None;
                }
                let event = event("store", &health);
                self.store = Some(health);
                event
            }
            News::Tick(now_ms) => {
                self.app.store.said(now_ms);
                event("tick", &Tick { now_ms })
            }
            News::Circuit(_) | News::Gone(_) | News::Entry(..) => None,
        }
    }
}

/// An event with these words; what cannot be written in JSON, which is nothing of ours, is left out.
fn event(kind: &'static str, of: &impl Serialize) -> Option<Event> {
    Event::default().event(kind).json_data(of).ok()
}
