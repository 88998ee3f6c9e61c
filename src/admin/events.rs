//! The news as a stream of server-sent events.
//!
//! Owns the names of event kinds and which events a subscriber gets;
//! [`NewsFeed`](crate::operator::NewsFeed) gathers the news.

use std::convert::Infallible;

use axum::{
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{
    App, STREAMS,
    caller::Access,
    given::Asked,
    options::Caller,
    problem::Problem,
    read::{Circuits, missing},
    serve::Closing,
    stored::StoreHealth,
};
use crate::{
    Name,
    operator::{News, NewsStream},
};

#[derive(Deserialize)]
pub(super) struct About {
    name: Option<String>,
}

pub(super) async fn events(
    State(app): State<App>,
    closing: Option<axum::Extension<Closing>>,
    access: Access,
    Asked(about): Asked<About>,
) -> Result<Response, Problem> {
    let permit = app.streams.clone().try_acquire_owned();
    let permit = permit.map_err(|_| {
        let words = format!("all {STREAMS} event streams are in use; try again later");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, words).with(header::RETRY_AFTER, "10")
    })?;
    let let_in_by = match app.options.requires_token() {
        true => Some(access.caller()?.clone()),
        false => None,
    };
    let subscriber = Subscriber {
        news: app.live.subscribe(),
        let_in_by,
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
        // A proxy that buffers responses would delay the news.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let events = Sse::new(events).keep_alive(KeepAlive::default());
    Ok((headers, events).into_response())
}

struct Subscriber {
    news: NewsStream,
    app: App,
    /// The token that admitted the subscriber, if reading needs one.
    let_in_by: Option<Caller>,
    /// The only circuit to report; all circuits if `None`.
    about: Option<String>,
    closing: Option<watch::Receiver<bool>>,
    /// The store's health as last sent.
    store: Option<StoreHealth>,
    _permit: OwnedSemaphorePermit,
}

/// Completes when the server shuts down; never if nothing announces that.
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
    /// Whether the token that admitted the subscriber is still valid.
    fn may_watch(&self) -> bool {
        let token = self.let_in_by.as_ref();
        token.is_none_or(|token| self.app.options.still_knows(token))
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let news = tokio::select! {
                () = end(&mut self.closing) => return None,
                () = self.app.operator.ended() => return None,
                news = self.news.next() => news,
            };
            if !self.may_watch() {
                return None;
            }
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
            News::Circuits(survey) => {
                let incomplete = missing(&survey);
                let mut circuits = survey.circuits;
                let now_ms = match self.app.operator.time_of(&circuits).await {
                    Ok(now_ms) => now_ms,
                    Err(_) => self.app.store.now_ms(),
                };
                self.app.store.said(now_ms);
                circuits.retain(|view| self.watches(&view.name));
                let circuits = Circuits {
                    now_ms,
                    circuits,
                    incomplete,
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

/// An event with this value as JSON; `None` if it cannot be serialized, which does not happen here.
fn event(kind: &'static str, of: &impl Serialize) -> Option<Event> {
    Event::default().event(kind).json_data(of).ok()
}
