//! One check: what is asked, how often, and what is too bad.
//!
//! Owns its settings and how one run of it ends: in time, whatever it does.

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

/// The longest text of an error that is kept, bytes.
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
#[must_use = "a check runs when a monitor has it and is started"]
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
    /// A check of this name: `Ok` passes; an error, a panic, and what takes longer than the timeout fail.
    ///
    /// The name has 1 to 200 bytes, no control characters and no braces, and is the same in every replica.
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

    /// Sets how often the fleet runs it: from the beginning of one run to that of the next, give or take 5 %.
    ///
    /// Range: 10 ms to 1 h. Default 10 s.
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets how long a run may take; then it is dropped and has failed.
    ///
    /// Range: 1 ms to 10 min. Default 5 s.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how many runs are remembered; uptime, p95 and the error rate are of these.
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

    /// Sets the 95th percentile of runs that passed at which it is a warning, and critical.
    ///
    /// Off by default.
    pub const fn latency(mut self, warning: Duration, critical: Duration) -> Self {
        self.thresholds.latency = Some((warning, critical));
        self
    }

    /// Sets the share of the remembered runs that failed, percent, at which it is a warning, and critical.
    ///
    /// Compared with `>=`, once there are 5 runs. Range: 1 to 100. Off by default.
    pub const fn error_rate(mut self, warning: u8, critical: u8) -> Self {
        self.thresholds.error_rate = Some((warning, critical));
        self
    }

    /// Has the check open and close a circuit for the fleet.
    ///
    /// A run that finds it critical and is bad itself (it failed, or took critically long) opens the
    /// circuit as [`Outcome::Trip`](crate::Outcome::Trip) does. While the circuit is open, the check is run
    /// as soon as the wait is over, and then as a probe of the half-open circuit, until it is closed or open
    /// again: recovery needs no other calls. In a closed circuit a run counts as an ignored call.
    pub fn circuit(mut self, circuit: &CircuitBreaker) -> Self {
        self.circuit = Some(circuit.clone());
        self
    }

    pub(super) fn validate(&self) -> Result<(), HealthError> {
        if Name::new(&self.name).is_err() {
            let name = self.name.chars().take(200).collect();
            return Err(HealthError::Name(name));
        }
        let wrong = |what: &'static str, must: &'static str| {
            let check = self.name.clone();
            Err(HealthError::Setting { check, what, must })
        };
        let ms = Duration::from_millis;
        if !(ms(10)..=ms(3_600_000)).contains(&self.interval) {
            return wrong("interval", "be from 10 ms to 1 h");
        }
        if !(ms(1)..=ms(600_000)).contains(&self.timeout) {
            return wrong("timeout", "be from 1 ms to 10 min");
        }
        if !(1..=1000).contains(&self.history) {
            return wrong("history", "be from 1 to 1000 runs");
        }
        if self.thresholds.failures == 0 {
            return wrong("failure_threshold", "be at least 1");
        }
        if let Some((warning, critical)) = self.thresholds.latency
            && (warning.is_zero() || warning > critical)
        {
            return wrong("latency", "be above 0, and critical not below warning");
        }
        if let Some((warning, critical)) = self.thresholds.error_rate
            && !(1 <= warning && warning <= critical && critical <= 100)
        {
            return wrong(
                "error_rate",
                "be from 1 to 100 percent, and critical not below warning",
            );
        }
        Ok(())
    }

    /// Runs it once, in a task of its own: it may block, panic, or never end.
    pub(super) async fn run(&self) -> Ran {
        let began = Instant::now();
        // Dropped with this future, too, and the task with it.
        let mut task = JoinSet::new();
        // What the closure does before there is a future may panic as well.
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
