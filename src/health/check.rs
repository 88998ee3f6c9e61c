//! One check: what it asks, how often, and its limits.
//!
//! Owns the check's settings and how a run ends: always in time.

use std::{error::Error, fmt, future::Future, pin::Pin, time::Duration};

use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, timeout},
};

use super::{
    HealthError,
    judge::{Thresholds, micros},
};
use crate::{CircuitBreaker, Name, store::in_words};

/// The longest error text that is kept, bytes.
const LONGEST_ERROR: usize = 300;

type Answer = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// A check that one replica of the fleet runs.
///
/// ```
/// use std::time::Duration;
/// use commontrip::health::Check;
/// use tokio::net::TcpStream;
///
/// let postgres = Check::new("postgres", || async {
///     TcpStream::connect("db.internal:5432").await.map(|_| ())
/// })
/// .interval(Duration::from_secs(5))
/// .timeout(Duration::from_secs(1))
/// .latency(Duration::from_millis(100), Duration::from_millis(500));
/// ```
#[must_use = "a check runs only after a monitor that has it is started"]
pub struct Check {
    pub(super) name: String,
    ask: Box<dyn Fn() -> Answer + Send + Sync>,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) history: usize,
    pub(super) thresholds: Thresholds,
    pub(super) circuit: Option<CircuitBreaker>,
}

/// How one run ended.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) error: Option<String>,
    pub(super) took_us: u64,
}

impl Check {
    /// Makes a check with this name. A run passes with `Ok`; an error, a panic or a run past the
    /// timeout is a failure.
    ///
    /// The name has 1 to 200 bytes, no control characters and no braces, and is the same in every
    /// replica.
    pub fn new<F, Fut, E>(name: &str, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let ask = move || -> Answer {
            let asked = check();
            Box::pin(async move {
                let answer = asked.await;
                answer.map_err(|error| in_words(&*error.into()))
            })
        };
        Self {
            name: name.to_owned(),
            ask: Box::new(ask),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            history: 60,
            thresholds: Thresholds {
                failures: 3,
                latency: None,
                error_rate: None,
            },
            circuit: None,
        }
    }

    /// Sets how often the fleet runs the check: the time between the starts of two runs, give or
    /// take 5 %.
    ///
    /// Range: 10 ms to 1 h. Default 10 s.
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets how long a run may take; a longer one is dropped and has failed.
    ///
    /// Range: 1 ms to 10 min. Default 5 s.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how many runs are kept; uptime, p95 and the error rate are computed from these.
    ///
    /// Range: 1 to 1000. Default 60.
    pub const fn history(mut self, runs: usize) -> Self {
        self.history = runs;
        self
    }

    /// Sets how many runs in a row must fail for the check to be critical; fewer are a warning.
    ///
    /// Range: from 1. Default 3.
    pub const fn failure_threshold(mut self, runs: u32) -> Self {
        self.thresholds.failures = runs;
        self
    }

    /// Sets the 95th percentile of passed runs at which the check's status is warning, and
    /// critical.
    ///
    /// Off by default.
    pub const fn latency(mut self, warning: Duration, critical: Duration) -> Self {
        self.thresholds.latency = Some((warning, critical));
        self
    }

    /// Sets the percentage of failed runs among the kept ones at which the check's status is
    /// warning, and critical.
    ///
    /// Compared with `>=`, once there are 5 runs. Range: 1 to 100. Off by default.
    pub const fn error_rate(mut self, warning: u8, critical: u8) -> Self {
        self.thresholds.error_rate = Some((warning, critical));
        self
    }

    /// Lets the check open and close a circuit for the fleet.
    ///
    /// A bad run (it failed, or took critically long) that leaves the check critical opens the
    /// circuit, like [`Outcome::Trip`](crate::Outcome::Trip). While the circuit is open, the check
    /// runs as soon as the wait is over, and then as a probe of the half-open circuit until the
    /// circuit closes or opens again: recovery needs no other calls. Other runs do not count as
    /// calls or as rejected calls.
    pub fn circuit(mut self, circuit: &CircuitBreaker) -> Self {
        self.circuit = Some(circuit.clone());
        self
    }

    pub(super) fn validate(&self) -> Result<(), HealthError> {
        if Name::new(&self.name).is_err() {
            let name = self.name.chars().take(200).collect();
            return Err(HealthError::Name(name));
        }
        self.out_of_range().map_or(Ok(()), |(what, must)| {
            let check = self.name.clone();
            Err(HealthError::Setting { check, what, must })
        })
    }

    /// The first setting that is out of range, and its requirement.
    pub(crate) fn out_of_range(&self) -> Option<(&'static str, &'static str)> {
        let ms = Duration::from_millis;
        if !(ms(10)..=ms(3_600_000)).contains(&self.interval) {
            return Some(("interval", "be from 10 ms to 1 h"));
        }
        if !(ms(1)..=ms(600_000)).contains(&self.timeout) {
            return Some(("timeout", "be from 1 ms to 10 min"));
        }
        if !(1..=1000).contains(&self.history) {
            return Some(("history", "be from 1 to 1000 runs"));
        }
        if self.thresholds.failures == 0 {
            return Some(("failure_threshold", "be at least 1"));
        }
        if let Some((warning, critical)) = self.thresholds.latency
            && (warning.is_zero() || warning > critical)
        {
            return Some(("latency", "be above 0, and critical not below warning"));
        }
        if let Some((warning, critical)) = self.thresholds.error_rate
            && !(1 <= warning && warning <= critical && critical <= 100)
        {
            return Some((
                "error_rate",
                "be from 1 to 100 percent, and critical not below warning",
            ));
        }
        None
    }

    #[cfg(feature = "config")]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Sets the setting that a configuration file calls `key`. If only one limit of a pair is set,
    /// an unset critical limit is the highest possible, and an unset warning limit equals the
    /// critical one.
    #[cfg(feature = "config")]
    pub(crate) fn set(&mut self, key: &str, number: u64) {
        let time = Duration::from_millis(number);
        let percent = u8::try_from(number).unwrap_or(u8::MAX);
        let set = &mut self.thresholds;
        let (slow, failing) = (set.latency, set.error_rate);
        match key {
            "interval_ms" => self.interval = time,
            "timeout_ms" => self.timeout = time,
            "history" => self.history = usize::try_from(number).unwrap_or(usize::MAX),
            "failure_threshold" => set.failures = u32::try_from(number).unwrap_or(u32::MAX),
            "latency_warning_ms" => {
                set.latency = Some((time, slow.map_or(Duration::MAX, |(_, critical)| critical)));
            }
            "latency_critical_ms" => {
                set.latency = Some((slow.map_or(time, |(warning, _)| warning), time));
            }
            "error_rate_warning" => {
                set.error_rate = Some((percent, failing.map_or(100, |(_, critical)| critical)));
            }
            "error_rate_critical" => {
                set.error_rate = Some((failing.map_or(percent, |(warning, _)| warning), percent));
            }
            _ => {}
        }
    }

    /// Runs the check once, in its own task: it may block, panic, or never end.
    pub(super) async fn run(&self) -> Ran {
        let began = Instant::now();
        // Dropping this future drops the set, which aborts the task.
        let mut task = JoinSet::new();
        // The closure may panic before it returns a future.
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (self.ask)())) {
            Ok(asked) => task.spawn(asked),
            Err(panic) => return Ran::ended(Some(panicked(&*panic)), began),
        };
        let error = match timeout(self.timeout, task.join_next()).await {
            Err(_) => Some(format!("it took longer than {:?}", self.timeout)),
            Ok(Some(Ok(answer))) => answer.err(),
            Ok(Some(Err(error))) => Some(unfinished(error)),
            Ok(None) => Some("it was not run".to_owned()),
        };
        Ran::ended(error, began)
    }
}

impl Ran {
    fn ended(error: Option<String>, began: Instant) -> Self {
        let cut = |mut error: String| {
            let mut end = error.len().min(LONGEST_ERROR);
            while !error.is_char_boundary(end) {
                end -= 1;
            }
            error.truncate(end);
            error
        };
        Self {
            error: error.map(cut),
            took_us: micros(began.elapsed()),
        }
    }
}

fn unfinished(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => panicked(&*panic),
        Err(error) => error.to_string(),
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("without words"))
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("name", &self.name)
            .field("interval", &self.interval)
            .field("timeout", &self.timeout)
            .field("thresholds", &self.thresholds)
            .field("circuit", &self.circuit)
            .finish_non_exhaustive()
    }
}
