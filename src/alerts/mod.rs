//! Alerts: rules that every replica watches, and one of the fleet sends.
//!
//! Owns when a rule is looked at and who sends; the conditions are in [`rule`](self), the sending is a
//! [`Sink`]'s. The store decides who sends: a replica claims an alert before it sends it, and says when
//! it has; when it dies in between, its claim ends and another sends. So an alert is sent once, or, where
//! a sender died at just that moment, twice, and never not at all.

mod rule;
mod watch;
#[cfg(feature = "webhook")]
mod webhook;

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use serde::Serialize;
use tokio::task::JoinHandle;

pub use self::rule::Alert;
#[cfg(feature = "webhook")]
pub use self::webhook::{Webhook, WebhookError};
use crate::{Commontrip, Reason, State};

/// An alert as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Notification {
    /// What has happened, in one sentence.
    pub text: String,
    /// The rule: `opened`, `failure_rate`, `open_for`, `flapping`, `store_away`.
    pub rule: &'static str,
    /// The circuit; `None` for the store.
    pub circuit: Option<String>,
    /// Its state.
    pub state: Option<State>,
    /// Why it is in that state.
    pub reason: Option<Reason>,
    /// Its generation; 0 for the store.
    pub generation: u64,
    /// Failures among the calls of its window, percent.
    pub failure_rate: Option<f64>,
    /// Calls in its window.
    pub calls: u64,
    /// When this was so, Unix ms by the store's clock; for the store, by the replica's.
    pub at_ms: u64,
    /// The same for each delivery of the same alert, whoever sends it.
    pub dedup_key: String,
    /// The replica that sends it.
    pub replica: String,
}

/// Why an alert was not delivered.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// What a [`Sink`] is waited for; it is dropped after 45 s.
pub type Delivery<'a> = Pin<Box<dyn Future<Output = Result<(), SinkError>> + Send + 'a>>;

/// Where alerts go to.
///
/// An error has another replica, or this one, try again a minute later.
pub trait Sink: Send + Sync + 'static {
    /// Delivers one.
    fn send<'a>(&'a self, notification: &'a Notification) -> Delivery<'a>;
}

/// The alerts of one registry; they end with it, or when this is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use commontrip::{Commontrip, alerts::{Alert, Alerts, Delivery, Notification, Sink}};
///
/// struct Log;
///
/// impl Sink for Log {
///     fn send<'a>(&'a self, alert: &'a Notification) -> Delivery<'a> {
///         eprintln!("{}", alert.text);
///         Box::pin(async { Ok(()) })
///     }
/// }
///
/// let circuits = Commontrip::embedded()?;
/// let _alerts = Alerts::to(Log)
///     .on(Alert::opened())
///     .on(Alert::failure_rate(20).cooldown(Duration::from_secs(900)))
///     .start(&circuits);
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "alerts end when this is dropped"]
pub struct Alerts {
    task: JoinHandle<()>,
}

impl Alerts {
    /// Alerts that go to this sink.
    pub fn to(sink: impl Sink) -> AlertsBuilder {
        AlertsBuilder {
            sink: Arc::new(sink),
            alerts: Vec::new(),
        }
    }
}

impl Drop for Alerts {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Says which alerts there are.
#[must_use]
pub struct AlertsBuilder {
    sink: Arc<dyn Sink>,
    alerts: Vec<Alert>,
}

impl fmt::Debug for AlertsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlertsBuilder")
            .field("alerts", &self.alerts)
            .finish_non_exhaustive()
    }
}

impl AlertsBuilder {
    /// Sends this alert too. Of two of one kind the second is another rule only when its numbers differ.
    pub fn on(mut self, alert: Alert) -> Self {
        self.alerts.push(alert);
        self
    }

    /// Watches all circuits of a registry, those too that it gets later. Must be called in a tokio
    /// runtime.
    pub fn start(self, circuits: &Commontrip) -> Alerts {
        let task = tokio::spawn(watch::run(circuits.watch(), self.sink, self.alerts));
        Alerts { task }
    }
}
