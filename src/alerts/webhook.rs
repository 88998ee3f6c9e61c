//! Alerts as JSON to a URL.
//!
//! Owns the request, its time limits and its retries; [`format`](super::format) owns the body.

use std::{fmt, time::Duration};

use reqwest_012::{
    Client, StatusCode, Url,
    header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect::Policy as Redirects,
};

use super::{Action, Delivery, Notification, Sink, SinkError, format::Format, masked::masked};
use crate::store::in_words;

/// How long one try may take.
const TRY: Duration = Duration::from_secs(5);
/// The number of tries, and the pause after the first, which doubles: all tries end within the 45 s
/// that a sink has.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause that a receiver may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The URL of PagerDuty's Events API.
const PAGERDUTY: &str = "https://events.pagerduty.com/v2/enqueue";

/// Posts each alert as JSON: [`new`](Self::new) posts the fields of [`Notification`],
/// [`slack`](Self::slack) and [`pagerduty`](Self::pagerduty) the formats of these services.
///
/// A try takes at most 5 s. If the receiver does not answer, or answers with 408, 429 or 5xx, it is
/// tried up to 5 times. The pause is 0.5 s and doubles each time, or as long as `Retry-After` says
/// if that is longer (up to 5 s). Each try has the header `Idempotency-Key`: the alert's
/// `dedup_key`, followed by `/resolve` in a resolve message. Redirects are not followed. URLs, keys
/// and headers are secrets and appear in no log or error.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::alerts::{Alert, Alerts, Webhook};
///
/// let hook = Webhook::new("https://alerts.example.com/hook")?.header("authorization", "Bearer 42")?;
/// let _alerts = Alerts::to(hook).on(Alert::opened()).start(&circuits);
/// # Ok(()) }
/// ```
pub struct Webhook {
    url: Url,
    format: Format,
    client: Client,
    headers: HeaderMap,
}

/// Why a webhook cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// It is not a URL, or not one with `http:` or `https:`.
    #[error("a webhook needs a URL such as https://example.com/hook: {0}")]
    Url(String),
    /// A header's name or value cannot be sent.
    #[error("{0:?} cannot be sent as a header")]
    Header(String),
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be made")]
    Client(#[source] reqwest_012::Error),
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The path and the headers are secrets.
        f.debug_struct("Webhook")
            .field("host", &self.url.host_str())
            .finish_non_exhaustive()
    }
}

impl Webhook {
    /// A webhook at a URL, `http:` or `https:`.
    ///
    /// Resolve messages are sent only if
    /// [`AlertsBuilder::resolved`](super::AlertsBuilder::resolved) says so.
    ///
    /// # Errors
    /// [`WebhookError::Url`], [`WebhookError::Client`].
    pub fn new(url: &str) -> Result<Self, WebhookError> {
        Self::of(url, Format::Plain)
    }

    /// A Slack incoming webhook: `text` and `blocks`, with names escaped so that `<!channel>` in a
    /// name mentions nobody.
    ///
    /// Resolve messages are sent only if
    /// [`AlertsBuilder::resolved`](super::AlertsBuilder::resolved) says so.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn slack(url: &str) -> Result<Self, WebhookError> {
        Self::of(url, Format::Slack)
    }

    /// PagerDuty's Events API v2, with the routing key of a service's integration.
    ///
    /// Incidents are resolved when their condition is over, unless
    /// [`AlertsBuilder::resolved`](super::AlertsBuilder::resolved) says otherwise.
    ///
    /// # Errors
    /// [`WebhookError::Client`].
    pub fn pagerduty(routing_key: &str) -> Result<Self, WebhookError> {
        Self::pagerduty_at(PAGERDUTY, routing_key)
    }

    /// [`pagerduty`](Self::pagerduty) at another URL, such as
    /// `https://events.eu.pagerduty.com/v2/enqueue`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn pagerduty_at(url: &str, routing_key: &str) -> Result<Self, WebhookError> {
        let routing_key = routing_key.to_owned();
        Self::of(url, Format::PagerDuty { routing_key })
    }

    fn of(url: &str, format: Format) -> Result<Self, WebhookError> {
        let parsed = Url::parse(url).map_err(|e| WebhookError::Url(e.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            let scheme = parsed.scheme();
            return Err(WebhookError::Url(format!("{scheme}: is not http or https")));
        }
        let client = Client::builder()
            .timeout(TRY)
            .redirect(Redirects::none())
            .user_agent(concat!("commontrip/", env!("CARGO_PKG_VERSION")));
        Ok(Self {
            url: parsed,
            format,
            client: client.build().map_err(WebhookError::Client)?,
            headers: HeaderMap::new(),
        })
    }

    /// Adds a header, such as `Authorization`.
    ///
    /// # Errors
    /// [`WebhookError::Header`] when it cannot be sent.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, WebhookError> {
        let wrong = || WebhookError::Header(name.to_owned());
        let key: HeaderName = name.parse().map_err(|_| wrong())?;
        let mut value: HeaderValue = value.parse().map_err(|_| wrong())?;
        value.set_sensitive(true);
        self.headers.insert(key, value);
        Ok(self)
    }

    async fn post(&self, notification: &Notification) -> Result<(), Failed> {
        let mut key = notification.dedup_key.clone();
        if notification.action == Action::Resolve {
            key.push_str("/resolve");
        }
        let mut request = self.client.post(self.url.clone());
        request = request.headers(self.headers.clone());
        request = request.json(&self.format.body(notification));
        if let Ok(key) = HeaderValue::from_str(&key) {
            request = request.header("idempotency-key", key);
        }
        // Without the URL, which is a secret.
        let answer = request.send().await.map_err(|error| Failed {
            why: format!("it cannot be reached: {}", self.words(error)),
            again: Some(Duration::ZERO),
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let later = status.is_server_error()
            || matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
            );
        let wait = answer.headers().get(RETRY_AFTER);
        let wait = wait.and_then(|value| value.to_str().ok()?.parse().ok());
        let wait = Duration::from_secs(wait.unwrap_or(0)).min(LONGEST_PAUSE);
        Err(Failed {
            why: format!("it answered {status}"),
            again: later.then_some(wait),
        })
    }

    /// An error with its causes, without secrets.
    fn words(&self, error: reqwest_012::Error) -> String {
        let mut words = masked(&in_words(&error.without_url()));
        if let Format::PagerDuty { routing_key } = &self.format
            && !routing_key.is_empty()
        {
            words = words.replace(routing_key, "***");
        }
        words
    }

    async fn deliver(&self, notification: &Notification) -> Result<(), SinkError> {
        let mut pause = PAUSE;
        let mut tries = 1;
        while let Err(Failed { why, again }) = self.post(notification).await {
            match again {
                Some(wait) if tries < TRIES => tokio::time::sleep(wait.max(pause)).await,
                _ => return Err(format!("the webhook did not accept the alert: {why}").into()),
            }
            pause *= 2;
            tries += 1;
        }
        Ok(())
    }
}

/// Why a try failed. `again` is the minimum pause before the next try; `None` if there is to be
/// none.
struct Failed {
    why: String,
    again: Option<Duration>,
}

impl Sink for Webhook {
    fn send<'a>(&'a self, notification: &'a Notification) -> Delivery<'a> {
        Box::pin(self.deliver(notification))
    }

    fn wants_resolved(&self) -> bool {
        matches!(self.format, Format::PagerDuty { .. })
    }
}
