//! What an assistant answers when its model is down: a text for each kind of question. A mock mode
//! for development calls no model.
//!
//! ```sh
//! cargo run --example assistant --features fallback
//! ASSISTANT_MOCK=1 cargo run --example assistant --features fallback
//! ```
//!
//! The model is a function of this program that fails for a while. The exit status is 0 if every
//! answer was as expected.

use std::{
    error::Error,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use commontrip::{
    CallError, CircuitBreaker, Commontrip, FallbackKind, Policy,
    fallback::{Fallback, Recovered},
};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
#[allow(dead_code, reason = "a test has the rest as its module")]
async fn main() -> Result<(), Failure> {
    let mock = std::env::var("ASSISTANT_MOCK").is_ok_and(|mock| mock == "1");
    let circuits = Commontrip::embedded()?;
    let told = run(&circuits, mock).await;
    circuits.shutdown().await;
    told
}

/// The topic of a question, which decides what can be answered without a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Greeting,
    Appointment,
    Emergency,
    Other,
}

impl Kind {
    fn of(question: &str) -> Self {
        let words = question.to_lowercase();
        let has = |all: &[&str]| all.iter().any(|word| words.contains(word));
        if has(&["emergency", "fire", "ambulance"]) {
            Self::Emergency
        } else if has(&["appointment", "book", "cancel"]) {
            Self::Appointment
        } else if has(&["hello", "good morning"]) {
            Self::Greeting
        } else {
            Self::Other
        }
    }

    /// The answer in place of the model's.
    const fn fallback(self) -> &'static str {
        match self {
            Self::Greeting => "Hello! How can I help you?",
            Self::Appointment => "I cannot reach the calendar now. May we call you back?",
            Self::Emergency => "Please hang up and call 112.",
            Self::Other => "I am sorry, I cannot answer that now. Please try again in a minute.",
        }
    }
}

struct Assistant {
    breaker: CircuitBreaker,
    /// Development mode: every answer is made up here, at once and always the same.
    mock: bool,
    /// Whether the model answers.
    up: AtomicBool,
}

impl Assistant {
    fn new(circuits: &Commontrip, mock: bool) -> Result<Self, Failure> {
        let policy = Policy::builder()
            .no_failure_rate_threshold()
            .consecutive_failures_threshold(3)
            .wait_duration_in_open_state(Duration::from_secs(30))
            .call_timeout(Duration::from_secs(5));
        Ok(Self {
            breaker: circuits.circuit("assistant", policy.build()?)?,
            mock,
            up: AtomicBool::new(true),
        })
    }

    async fn model(&self, question: &str) -> Result<String, &'static str> {
        match self.up.load(Ordering::SeqCst) {
            true => Ok(format!("The model says: {question}")),
            false => Err("the model is down"),
        }
    }

    /// Always returns an answer; `instead_of` says why it is not the model's.
    async fn answer(&self, question: &str) -> Recovered<String, CallError<&'static str>> {
        let kind = Kind::of(question);
        // In development the circuit is not used, so its statistics only count real calls.
        let asked = match self.mock {
            true => Ok(format!("[mock {kind:?}] {question}")),
            false => self.breaker.call(|| self.model(question)).await,
        };
        let answer = asked.fallback_with(async |_| kind.fallback().to_owned());
        answer.await.counted(&self.breaker)
    }
}

/// Runs an assistant whose model fails for a while.
pub async fn run(circuits: &Commontrip, mock: bool) -> Result<(), Failure> {
    let assistant = Assistant::new(circuits, mock)?;
    let questions = [
        ("Good morning!", Kind::Greeting),
        ("Can I book an appointment?", Kind::Appointment),
        ("There is a fire!", Kind::Emergency),
        ("What is 1 and 1?", Kind::Other),
    ];
    for up in [true, false] {
        println!("the model is {}", if up { "up" } else { "down" });
        assistant.up.store(up, Ordering::SeqCst);
        for (question, kind) in questions {
            let answer = assistant.answer(question).await;
            println!("  {question} - {}", answer.value);
            if let Some(error) = &answer.instead_of {
                println!("    ({error})");
            }
            let expected = match (mock, up) {
                (true, _) => answer.value.starts_with("[mock"),
                (false, true) => answer.value.starts_with("The model says"),
                (false, false) => answer.value == kind.fallback(),
            };
            if !expected {
                return Err(format!("{question}: not {:?}", answer.value).into());
            }
        }
    }
    let stats = assistant.breaker.stats();
    let computed = stats.fallbacks.of(FallbackKind::Computed);
    println!(
        "{} answers of the model, {} failures, {} rejections, {computed} fallbacks",
        stats.successes, stats.failures, stats.rejected
    );
    let counts = (stats.successes, stats.failures, stats.rejected, computed);
    let expected = if mock { (0, 0, 0, 0) } else { (4, 3, 1, 4) };
    match counts == expected {
        true => Ok(()),
        false => Err(format!("{counts:?} should be {expected:?}").into()),
    }
}
