//! This crate on the embedded store, with the registry's tasks running as in a service.

use std::{cell::Cell, time::Duration};

use commontrip::{
    CallError, CircuitBreaker, Commontrip, LatencyRecording, Outcome, Permit, Policy,
    PolicyBuilder, State as Circuit,
};
use tokio::runtime::Runtime;

use crate::{
    call::{Refused, upstream, upstream_async},
    subject::{LONG, State, Subject},
};

pub const NAME: &str = "commontrip";

type Variant = (&'static str, fn() -> PolicyBuilder);

/// Policies that a closed circuit is measured with. Each entry is a line in the tables.
const VARIANTS: [Variant; 7] = [
    (NAME, Policy::builder),
    ("commontrip (every latency)", || {
        Policy::builder().latency_recording(LatencyRecording::EveryCall)
    }),
    ("commontrip (no latency)", || {
        Policy::builder().latency_recording(LatencyRecording::Off)
    }),
    ("commontrip (consecutive)", || {
        Policy::builder()
            .no_failure_rate_threshold()
            .consecutive_failures_threshold(5)
    }),
    ("commontrip (slow calls)", || {
        Policy::builder().slow_calls(Duration::from_secs(1), 100)
    }),
    ("commontrip (reports at once)", || {
        Policy::builder().report_interval(Duration::ZERO)
    }),
    (RAMP, || {
        Policy::builder()
            .wait_duration_in_open_state(Duration::from_millis(1))
            .success_threshold(1)
            // Longer than any run, and at 100 %, so that each call is weighed and none is rejected.
            .ramp(LONG, 100)
    }),
];
const RAMP: &str = "commontrip (in the ramp)";
/// The alternative for calls that are not awaited.
const PERMIT: &str = "commontrip (permit)";

pub struct Ours<'a> {
    circuits: Commontrip,
    runtime: &'a Runtime,
    /// How many circuits with a history were made; each gets a new name.
    histories: Cell<u64>,
}

/// Makes one call with a permit and settles it by hand.
fn by_permit(breaker: &CircuitBreaker) -> Result<u64, CallError<Refused>> {
    let permit = breaker.try_acquire()?;
    let result = upstream();
    match &result {
        Ok(_) => Permit::success(permit),
        Err(_) => Permit::failure(permit),
    }
    result.map_err(CallError::Failed)
}

/// Makes one synchronous call.
fn call_sync(breaker: &CircuitBreaker) -> Result<u64, CallError<Refused>> {
    breaker.call_sync(upstream)
}

fn rejected(error: &CallError<Refused>) -> bool {
    error.rejection().is_some()
}

impl<'a> Ours<'a> {
    /// Must be called within `runtime`.
    pub fn new(runtime: &'a Runtime) -> Self {
        let circuits = Commontrip::embedded().expect("there is a runtime");
        Self {
            circuits,
            runtime,
            histories: Cell::new(0),
        }
    }

    /// Makes a circuit whose decision is already cached.
    fn circuit(&self, name: &str, policy: PolicyBuilder) -> CircuitBreaker {
        let policy = policy.build().expect("the policy is valid");
        let breaker = self.circuits.circuit(name, policy);
        let breaker = breaker.expect("the name is valid");
        self.runtime.block_on(self.circuits.flush());
        breaker
    }

    /// Opens the circuit as a failing upstream would.
    fn trip(&self, breaker: &CircuitBreaker) {
        let trip = |_: &Result<u64, Refused>| Outcome::trip();
        self.runtime.block_on(async {
            let _ = breaker.call_with(trip, upstream_async).await;
            self.circuits.flush().await;
        });
    }

    /// Opens and closes the circuit, so that it is in its ramp.
    fn recover(&self, breaker: &CircuitBreaker) {
        self.trip(breaker);
        self.runtime.block_on(async {
            while breaker.state() != Circuit::Closed {
                let _ = breaker.call(upstream_async).await;
                self.circuits.flush().await;
            }
        });
        assert!(breaker.cached().ramp_until_ms > 0, "there is no ramp");
    }

    /// Every variant in a state, each with its own circuit. All open variants behave alike.
    pub fn subjects(&self, state: State, threads: usize) -> Vec<Subject> {
        let variants = match state {
            State::Closed => &VARIANTS[..],
            State::Open => &VARIANTS[..1],
        };
        let mut all = Vec::new();
        for (name, policy) in variants {
            let key = format!("{state} {threads} {name}");
            let breaker = match (state, *name) {
                (State::Open, _) => {
                    let breaker = self.circuit(&key, policy().wait_duration_in_open_state(LONG));
                    self.trip(&breaker);
                    breaker
                }
                (State::Closed, RAMP) => {
                    let breaker = self.circuit(&key, policy());
                    self.recover(&breaker);
                    breaker
                }
                (State::Closed, _) => self.circuit(&key, policy()),
            };
            all.push(blocking(name, state, &breaker, call_sync));
            if *name == NAME {
                all.push(blocking(PERMIT, state, &breaker, by_permit));
                #[cfg(feature = "tower")]
                all.push(crate::layered::subject(state, breaker.clone()));
            }
            all.push(awaited(name, state, breaker));
        }
        all
    }

    /// A closed circuit with this many calls in its window.
    pub fn with_history(&self, records: u64) -> Subject {
        let policy = Policy::builder().sliding_window_time(LONG, 10);
        let number = self.histories.replace(self.histories.get() + 1);
        let breaker = self.circuit(&format!("history {number}"), policy);
        let subject = awaited(NAME, State::Closed, breaker.clone());
        (subject.work)(records);
        let held = self.runtime.block_on(async {
            self.circuits.flush().await;
            breaker.snapshot().await
        });
        let held = held.expect("the embedded store is there");
        assert_eq!(held.calls, records);
        subject
    }
}

fn blocking(
    name: &'static str,
    state: State,
    breaker: &CircuitBreaker,
    call: impl Fn(&CircuitBreaker) -> Result<u64, CallError<Refused>> + Copy + Send + Sync + 'static,
) -> Subject {
    Subject::blocking(name, state, breaker.clone(), move |b| call(b), rejected)
}

fn awaited(name: &'static str, state: State, breaker: CircuitBreaker) -> Subject {
    Subject::awaited(
        name,
        state,
        breaker,
        async |b: &mut CircuitBreaker| b.call(upstream_async).await,
        rejected,
    )
}
