//! A member that was chosen for one call.

use super::Member;
use crate::{CircuitBreaker, Outcome, Permit};

/// A member that was chosen for one call, with its permit.
///
/// Say what became of the call, as of a [`Permit`]; one that is dropped counts as abandoned.
#[must_use = "a pick that is dropped at once counts as an abandoned call"]
#[derive(Debug)]
pub struct Pick<'a, T> {
    member: &'a Member<T>,
    permit: Option<Permit>,
}

impl<'a, T> Pick<'a, T> {
    pub(super) const fn new(member: &'a Member<T>, permit: Option<Permit>) -> Self {
        Self { member, permit }
    }

    /// The member's value.
    #[must_use]
    pub const fn upstream(&self) -> &'a T {
        &self.member.value
    }

    /// The member's circuit.
    #[must_use]
    pub const fn circuit(&self) -> &'a CircuitBreaker {
        &self.member.breaker
    }

    /// Whether the call is a probe of a half-open circuit.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.permit.as_ref().is_some_and(Permit::is_probe)
    }

    /// Whether the circuit rejects, and the call is let through because too many do. What becomes of it
    /// is not recorded.
    #[must_use]
    pub const fn is_let_through(&self) -> bool {
        self.permit.is_none()
    }

    /// The call succeeded.
    pub fn success(self) {
        self.record(Outcome::Success);
    }

    /// The call failed.
    pub fn failure(self) {
        self.record(Outcome::failure());
    }

    /// The call ended so.
    pub fn record(self, outcome: Outcome) {
        if let Some(permit) = self.permit {
            permit.record(outcome);
        }
    }

    pub(super) fn timed_out(self) {
        if let Some(permit) = self.permit {
            permit.timed_out();
        }
    }
}

/// What a call through a set came to, and through whom.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Picked<'a, T, R> {
    /// What the call answered.
    pub answer: R,
    /// The value of the member that was called.
    pub upstream: &'a T,
    /// Its circuit.
    pub circuit: &'a CircuitBreaker,
}
