//! A member chosen for one call.

use super::Member;
use crate::{CircuitBreaker, Outcome, Permit};

/// A member chosen for one call, with its permit.
///
/// Record the call's outcome, as with a [`Permit`]; dropping the pick counts as an abandoned call.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::balance::CircuitSet;
///
/// let regions = [("eu", "10.0.0.1:80"), ("us", "10.0.1.1:80")];
/// let orders = CircuitSet::new(&circuits, "orders", &Policy::default(), regions)?;
/// let pick = orders.pick().await?;
/// println!("{} by {}", pick.upstream(), pick.circuit().name());
/// pick.success();
/// # Ok(()) }
/// ```
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

    /// Whether the circuit rejects, and the call is let through because too many circuits do. Its
    /// outcome is not recorded.
    #[must_use]
    pub const fn is_let_through(&self) -> bool {
        self.permit.is_none()
    }

    /// Records a success.
    pub fn success(self) {
        self.record(Outcome::Success);
    }

    /// Records a failure.
    pub fn failure(self) {
        self.record(Outcome::failure());
    }

    /// Records the call's outcome.
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

/// The result of a call through a set, and the member that was called.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::balance::CircuitSet;
///
/// let regions = [("eu", "10.0.0.1:80"), ("us", "10.0.1.1:80")];
/// let orders = CircuitSet::new(&circuits, "orders", &Policy::default(), regions)?;
/// let picked = orders.call(|address| async move { Ok::<_, std::io::Error>(address.len()) }).await?;
/// println!("{} said {}", picked.upstream, picked.answer);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Picked<'a, T, R> {
    /// The call's value.
    pub answer: R,
    /// The value of the member that was called.
    pub upstream: &'a T,
    /// The member's circuit.
    pub circuit: &'a CircuitBreaker,
}
