//! Alerts as JSON to a URL.
//!
//! Owns the request, its time limits and what is tried again.

use std::{fmt, time::Duration};

use reqwest_0_12::{
    self as reqwest, Client, StatusCode, Url,
    header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect::Policy as Redirects,
};

use super::{Delivery, Notification, Sink, SinkError};

/// How long one try may take.
const TRY: Duration = Duration::from_secs(5);
/// Tries, and the pause after the first, which doubles: all end within the 45 s that a sink has.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);
/// The longest that a receiver may ask to be left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Posts each alert as JSON: the fields of [`Notification`], of which `text` is what Slack and its kin
/// show.
///
/// A try takes 5 s at most; what does not answer, or answers with 408, 429 or 5xx, is tried 5 times, with
/// pauses of 0.5 s and twice as long each time, or as long as `Retry-After` says (up to 5 s). Each try
/// has the header `Idempotency-Key`: the alert's `dedup_key`. Redirects are not followed.
pub struct Webhook {
    url: Url,
    client: Client,
    headers: HeaderMap,
}

/// Why there is no such webhook.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// It is no URL, or not one that can be posted to.
    #[error("a webhook wants a URL such as https://example.com/hook: {0}")]
    Url(String),
    /// A header's name or value cannot be sent.
    #[error("{0:?} cannot be sent as a header")]
    Header(String),
    /// The client cannot be made.
    #[error("the HTTP client cannot be made")]
    Client(#[source] reqwest::Error),
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
    /// # Errors
    /// [`WebhookError::Url`], [`WebhookError::Client`].
    pub fn new(url: &str) -> Result<Self, WebhookError> {
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
        let key = HeaderValue::from_str(
            &notification
                .dedup_key
                .replace(|c: char| !c.is_ascii_graphic(), "_"),
        );
        let mut request = self.client.post(self.url.clone());
        request = request.headers(self.headers.clone()).json(notification);
        if let Ok(key) = key {
            request = request.header("idempotency-key", key);
        }
        // Without the URL, which is a secret.
        let answer = request.send().await.map_err(|error| Failed {
            why: format!("it cannot be reached: {}", error.without_url()),
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

    async fn deliver(&self, notification: &Notification) -> Result<(), SinkError> {
        let mut pause = PAUSE;
        let mut tries = 1;
        while let Err(Failed { why, again }) = self.post(notification).await {
            match again {
                Some(wait) if tries < TRIES => tokio::time::sleep(wait.max(pause)).await,
                _ => return Err(format!("the webhook did not take it: {why}").into()),
            }
            pause *= 2;
            tries += 1;
        }
        Ok(())
    }
}

/// Why a try failed, and whether, and when at the earliest, another may do.
struct Failed {
    why: String,
    again: Option<Duration>,
}

impl Sink for Webhook {
    fn send<'a>(&'a self, notification: &'a Notification) -> Delivery<'a> {
        Box::pin(self.deliver(notification))
    }
}
