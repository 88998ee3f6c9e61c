//! Assertions on a circuit's transitions.
//!
//! Owns the comparison and its words. Reads the circuit's own record, which has each transition of
//! the fleet once and in order, whichever replica made it.

use std::fmt::{self, Write};

use tokio::time::{Instant, timeout_at};

use super::PATIENCE;
use crate::{CircuitBreaker, Event, Reason, State};

/// One expected transition, as [`assert_transitions!`](crate::assert_transitions) writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    from: State,
    to: State,
    reason: Option<Reason>,
}

impl Step {
    /// A transition from one state to another, for this reason, or for any if `None`.
    #[must_use]
    pub const fn new(from: State, to: State, reason: Option<Reason>) -> Self {
        Self { from, to, reason }
    }

    fn is(self, event: &Event) -> bool {
        let reason = self.reason.unwrap_or(event.reason);
        (self.from, self.to, reason) == (event.from, event.to, event.reason)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.from, self.to)?;
        match self.reason {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

/// Asserts that a circuit made exactly these transitions in its life, in this order.
///
/// A reason in parentheses is compared, too. The macro waits for missing transitions, at most
/// [`PATIENCE`](crate::test_util::PATIENCE), and stops at the first that differs. What a replica
/// decides alone, without the store or below a quorum, is not a transition of the circuit. Must be
/// used in async code.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{Commontrip, Policy, assert_transitions, test_util::trip};
///
/// let payments = Commontrip::embedded()?.circuit("payments", Policy::default())?;
/// assert_transitions!(payments, []);
/// trip(&payments).await;
/// payments.reset().await?;
/// assert_transitions!(payments, [Closed => Open(Tripped), Open => Closed]);
/// # Ok(()) }
/// ```
///
/// # Panics
/// If the transitions differ, with the missing (`-`) and the unexpected (`+`) ones.
#[macro_export]
macro_rules! assert_transitions {
    ($breaker:expr, [$($from:ident => $to:ident $(($reason:ident))?),* $(,)?]) => {{
        let expected: &[$crate::test_util::Step] = &[$($crate::test_util::Step::new(
            $crate::State::$from,
            $crate::State::$to,
            $crate::assert_transitions!(@ $($reason)?),
        )),*];
        if let Err(difference) = $crate::test_util::compare(&$breaker, expected).await {
            panic!("{difference}");
        }
    }};
    (@ $reason:ident) => { Some($crate::Reason::$reason) };
    (@) => { None };
}

/// Compares a circuit's transitions with the expected ones, as
/// [`assert_transitions!`](crate::assert_transitions) does.
///
/// # Errors
/// The difference, in words.
pub async fn compare(breaker: &CircuitBreaker, expected: &[Step]) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    let mut events = breaker.events_after(0);
    let mut happened: Vec<Event> = Vec::new();
    loop {
        let last = happened.last().map_or(0, |event| event.generation);
        let as_expected = happened.len() <= expected.len()
            && happened
                .iter()
                .zip(expected)
                .all(|(event, step)| step.is(event));
        // Read what the store knows before the verdict, so that the difference is complete.
        let more = breaker
            .snapshot()
            .await
            .is_ok_and(|now| now.generation > last);
        let complete = happened.len() == expected.len();
        if !more && (complete || !as_expected) {
            return match as_expected {
                true => Ok(()),
                false => Err(difference(breaker.name(), expected, &happened)),
            };
        }
        match timeout_at(deadline, events.next()).await {
            Ok(Some(event)) => happened.push(event),
            _ => return Err(difference(breaker.name(), expected, &happened)),
        }
    }
}

fn difference(name: &str, expected: &[Step], happened: &[Event]) -> String {
    let common = expected
        .iter()
        .zip(happened)
        .take_while(|(step, event)| step.is(event))
        .count();
    let mut words = format!("circuit {name:?} made other transitions (- missing, + not expected):");
    let mut line = |mark: char, step: Step| {
        // Writing to a `String` cannot fail.
        let _ = write!(words, "\n  {mark} {step}");
    };
    let step = |event: &Event| Step::new(event.from, event.to, Some(event.reason));
    happened[..common]
        .iter()
        .for_each(|event| line(' ', step(event)));
    expected[common..].iter().for_each(|one| line('-', *one));
    happened[common..]
        .iter()
        .for_each(|event| line('+', step(event)));
    words
}
