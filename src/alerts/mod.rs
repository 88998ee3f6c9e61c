//! Alerts: every replica evaluates the rules, and one replica of the fleet sends.
//!
//! Owns the user's settings and the interface of a [`Sink`]. The store decides which replica sends:
//! a replica claims an alert before it sends it, extends the claim while it tries, and records the
//! outcome. If it dies or hangs, its claim expires and another replica sends. So an alert is sent
//! once, or twice under one `dedup_key` if a sender dies between the delivery and its record. An
//! alert is given up only after [`AlertsBuilder::give_up_after`], and that is logged.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use commontrip::{Commontrip, alerts::{Alert, Alerts, Webhook}};
//!
//! let circuits = Commontrip::embedded()?;
//! let _alerts = Alerts::to(Webhook::slack("https://hooks.slack.com/services/T0/B0/X")?)
//!     .on(Alert::opened())
//!     .start(&circuits);
//! # Ok(()) }
//! ```

#[cfg(feature = "health")]
mod check;
mod circuit;
mod context;
#[cfg(feature = "webhook")]
mod format;
mod key;
mod log;
mod masked;
mod progress;
mod rule;
mod send;
mod watch;
#[cfg(feature = "webhook")]
mod webhook;

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::task::JoinHandle;

pub use self::rule::Alert;
#[cfg(feature = "webhook")]
pub use self::webhook::{Webhook, WebhookError};
use crate::{Commontrip, Reason, State, operator::CheckStatus};

/// Whether an alert begins or ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// The condition has begun, or still holds.
    #[default]
    Trigger,
    /// The condition is over.
    Resolve,
}

impl Action {
    /// The action as a word: `trigger` or `resolve`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trigger => "trigger",
            Self::Resolve => "resolve",
        }
    }
}

/// An alert as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Notification {
    /// What has happened, in one sentence.
    pub text: String,
    /// The rule: `opened`, `failure_rate`, `open_for`, `flapping`, `store_unavailable`,
    /// `check_warning`, `check_critical`.
    pub rule: &'static str,
    /// Whether it begins or ends.
    pub action: Action,
    /// The circuit; `None` for the store and for checks.
    pub circuit: Option<String>,
    /// The health check; `None` for circuits and the store.
    pub check: Option<String>,
    /// The check's status.
    pub check_status: Option<CheckStatus>,
    /// The circuit's state.
    pub state: Option<State>,
    /// Why the circuit is in that state.
    pub reason: Option<Reason>,
    /// The circuit's generation; 0 for the store and for checks.
    pub generation: u64,
    /// Failures among the calls of the circuit's window, percent.
    pub failure_rate: Option<f64>,
    /// Calls in the circuit's window.
    pub calls: u64,
    /// The time of this, Unix ms by the store's clock, or by the replica's for alerts about the
    /// store. For a check, when its status began or ended.
    pub at_ms: u64,
    /// Identifies the alert: the same for every delivery and for the resolve message, from every
    /// sender. At most 255 bytes, ASCII.
    pub dedup_key: String,
    /// The replica that sends it.
    pub replica: String,
}

/// Why an alert was not delivered.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// The future of a delivery by a [`Sink`]; it is dropped after 45 s.
pub type Delivery<'a> = Pin<Box<dyn Future<Output = Result<(), SinkError>> + Send + 'a>>;

/// A receiver of alerts.
///
/// A failed delivery is tried again, with pauses of 2 s to 30 s, until it succeeds or the alert is
/// [given up](AlertsBuilder::give_up_after). Errors are logged with their causes, but only with the
/// scheme and host of URLs.
///
/// ```
/// use commontrip::alerts::{Delivery, Notification, Sink};
///
/// struct Log;
///
/// impl Sink for Log {
///     fn send<'a>(&'a self, alert: &'a Notification) -> Delivery<'a> {
///         eprintln!("{}", alert.text);
///         Box::pin(async { Ok(()) })
///     }
/// }
/// ```
pub trait Sink: Send + Sync + 'static {
    /// Delivers a notification.
    fn send<'a>(&'a self, notification: &'a Notification) -> Delivery<'a>;

    /// Whether the sink receives resolve messages, unless [`AlertsBuilder::resolved`] says
    /// otherwise.
    ///
    /// Default `false`: a receiver that ignores `action` would show such a message as another
    /// alert.
    fn wants_resolved(&self) -> bool {
        false
    }
}

/// The alerts of one registry. They end with the registry, or when this is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
    /// Begins to build alerts that go to this sink.
    pub fn to(sink: impl Sink) -> AlertsBuilder {
        AlertsBuilder {
            settings: AlertSettings {
                resolved: sink.wants_resolved(),
                sink: Arc::new(sink),
                alerts: Vec::new(),
                give_up_after: Duration::from_secs(900),
                #[cfg(feature = "health")]
                checks: Vec::new(),
            },
        }
    }
}

/// The alerts to send, and where to send them.
struct AlertSettings {
    sink: Arc<dyn Sink>,
    alerts: Vec<Alert>,
    resolved: bool,
    give_up_after: Duration,
    /// The boards of the monitors whose checks are watched.
    #[cfg(feature = "health")]
    checks: Vec<Arc<crate::health::Board>>,
}

impl Drop for Alerts {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A builder of [`Alerts`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::alerts::{Alert, Alerts, Webhook};
///
/// let _alerts = Alerts::to(Webhook::slack("https://hooks.slack.com/services/T0/B0/X")?)
///     .on(Alert::opened())
///     .resolved(true)
///     .start(&circuits);
/// # Ok(()) }
/// ```
#[must_use]
pub struct AlertsBuilder {
    settings: AlertSettings,
}

impl fmt::Debug for AlertsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlertsBuilder")
            .field("alerts", &self.settings.alerts)
            .field("resolved", &self.settings.resolved)
            .field("give_up_after", &self.settings.give_up_after)
            .finish_non_exhaustive()
    }
}

impl AlertsBuilder {
    /// Adds an alert. Two alerts of one kind are different rules only if their numbers differ.
    pub fn on(mut self, alert: Alert) -> Self {
        self.settings.alerts.push(alert);
        self
    }

    /// Sets whether the end of an alert is sent too, with the same `dedup_key` and
    /// [`Action::Resolve`].
    ///
    /// The default is what the sink [wants](Sink::wants_resolved): on for PagerDuty, off for
    /// others. A cooldown does not delay it.
    pub const fn resolved(mut self, resolved: bool) -> Self {
        self.settings.resolved = resolved;
        self
    }

    /// Sets how long a sender tries to deliver an alert before it gives up and logs an error.
    /// Default 15 min.
    ///
    /// There is at least one try. A replica that takes over from a dead sender starts over.
    pub const fn give_up_after(mut self, time: Duration) -> Self {
        self.settings.give_up_after = time;
        self
    }

    /// Also watches the checks of this monitor, for [`Alert::check_warning`] and
    /// [`Alert::check_critical`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # struct Log;
    /// # impl commontrip::alerts::Sink for Log {
    /// #     fn send<'a>(
    /// #         &'a self, _: &'a commontrip::alerts::Notification,
    /// #     ) -> commontrip::alerts::Delivery<'a> { Box::pin(async { Ok(()) }) }
    /// # }
    /// use commontrip::{Commontrip, alerts::{Alert, Alerts}, health::{Check, HealthMonitor}};
    ///
    /// let circuits = Commontrip::embedded()?;
    /// let monitor = HealthMonitor::builder(&circuits)
    ///     .check(Check::tcp("orders-db", "db.internal:5432"))
    ///     .start()?;
    /// let _alerts = Alerts::to(Log).on(Alert::check_critical()).checks(&monitor).start(&circuits);
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "health")]
    pub fn checks(mut self, monitor: &crate::health::HealthMonitor) -> Self {
        self.settings.checks.push(monitor.board());
        self
    }

    /// Watches all circuits of a registry, including later ones. Must be called in a tokio runtime.
    pub fn start(self, circuits: &Commontrip) -> Alerts {
        let task = tokio::spawn(watch::run(circuits.watch(), Arc::new(self.settings)));
        Alerts { task }
    }
}
