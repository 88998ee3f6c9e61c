//! Several equal upstreams, each with a circuit: calls go to the ones that work.
//!
//! Owns the choice; the circuits own when they open and which calls are probes. Invariant: at most
//! `max_ejection_percent` of the members get no traffic because they fail.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use commontrip::{Commontrip, Policy, balance::CircuitSet};
//!
//! let circuits = Commontrip::embedded()?;
//! let regions = [("eu", "10.0.0.1:80"), ("us", "10.0.1.1:80")];
//! let payments = CircuitSet::new(&circuits, "payments", &Policy::default(), regions)?;
//! let picked = payments.call(|address| async move { Ok::<_, std::io::Error>(address) }).await?;
//! println!("{} by {}", picked.answer, picked.circuit.name());
//! # Ok(()) }
//! ```

mod choose;
mod pick;

use std::fmt;

use self::choose::{Choice, Choices};
pub use self::pick::{Pick, Picked};
use crate::{CallError, CircuitBreaker, Commontrip, NameError, Outcome, Policy, Rejection};

/// The default percentage of members that may be ejected: Envoy, too, ignores health when fewer
/// than half of the hosts are healthy (`healthy_panic_threshold`).
const MAX_EJECTION_PERCENT: u8 = 50;

/// Why a set could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetError {
    /// There are no members.
    #[error("a set needs at least one upstream")]
    Empty,
    /// Two members have the same name.
    #[error("two upstreams are named {0:?}: each needs its own name")]
    Twice(String),
    /// The name of a circuit is invalid.
    #[error(transparent)]
    Name(#[from] NameError),
}

#[derive(Debug)]
struct Member<T> {
    breaker: CircuitBreaker,
    value: T,
}

/// Equal upstreams (instances, regions, keys), each a value with its own circuit.
///
/// A pick draws two members at random and prefers the one with the lower failure rate, as this
/// replica last saw the fleet's windows. Open members get only their probes; a member that is
/// half-open, or about to be, gets its probe from the next pick. When more members are open than
/// may be ejected ([`max_ejection_percent`](Self::max_ejection_percent)), some of them get calls
/// nevertheless.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{Commontrip, Policy, balance::CircuitSet};
///
/// let circuits = Commontrip::embedded()?;
/// let upstreams = [("eu", "10.0.0.1:80"), ("us", "10.0.1.1:80"), ("ap", "10.0.2.1:80")];
/// let payments = CircuitSet::new(&circuits, "payments", &Policy::default(), upstreams)?;
/// let picked = payments
///     .call(|address| async move { Ok::<_, std::io::Error>(format!("from {address}")) })
///     .await?;
/// assert_eq!(picked.answer, format!("from {}", picked.upstream));
/// # Ok(()) }
/// ```
pub struct CircuitSet<T> {
    members: Box<[Member<T>]>,
    /// The number of members that may be ejected.
    ejectable: usize,
}

impl<T> CircuitSet<T> {
    /// Makes a set of named members; the circuit of `eu` in `payments` is `payments/eu`, with this
    /// policy.
    ///
    /// # Errors
    /// [`SetError::Empty`] without members, [`SetError::Twice`] when two members have the same
    /// name, [`SetError::Name`] when the name of a circuit would be invalid.
    pub fn new<N: AsRef<str>>(
        circuits: &Commontrip,
        name: &str,
        policy: &Policy,
        members: impl IntoIterator<Item = (N, T)>,
    ) -> Result<Self, SetError> {
        let mut breakers: Vec<Member<T>> = Vec::new();
        for (member, value) in members {
            let name = format!("{name}/{}", member.as_ref());
            if breakers.iter().any(|other| other.breaker.name() == name) {
                return Err(SetError::Twice(member.as_ref().to_owned()));
            }
            let breaker = circuits.circuit(&name, policy.clone())?;
            breakers.push(Member { breaker, value });
        }
        if breakers.is_empty() {
            return Err(SetError::Empty);
        }
        let set = Self {
            members: breakers.into(),
            ejectable: 0,
        };
        Ok(set.max_ejection_percent(MAX_EJECTION_PERCENT))
    }

    /// Sets how many members may get no traffic because their circuits are open.
    ///
    /// Unit: percent of the members, rounded down, `0..=100`; a higher value counts as 100. Default
    /// 50. At 100, an open circuit always rejects, and a call is rejected when all circuits are
    /// open. Members that an operator forced open never get calls.
    #[must_use]
    pub fn max_ejection_percent(mut self, percent: u8) -> Self {
        self.ejectable = self.members.len() * usize::from(percent.min(100)) / 100;
        self
    }

    /// Returns each member's circuit and value.
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
    /// for (circuit, address) in orders.members() {
    ///     println!("{address}: {}", circuit.state());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn members(&self) -> impl ExactSizeIterator<Item = (&CircuitBreaker, &T)> {
        self.members
            .iter()
            .map(|member| (&member.breaker, &member.value))
    }

    /// Chooses a member for one call; waits only if a circuit must ask the store, and then for at
    /// most `store_timeout`.
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
    /// println!("to {}", pick.upstream());
    /// pick.success();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The [`Rejection`] of the member that may admit calls soonest, when none admits one now.
    pub async fn pick(&self) -> Result<Pick<'_, T>, Rejection> {
        let mut choices = Choices::of(self);
        while let Some(choice) = choices.next() {
            match choice {
                Choice::LetThrough(member) => return Ok(Pick::new(member, None)),
                Choice::Ask(member) => match member.breaker.acquire().await {
                    Ok(permit) => return Ok(Pick::new(member, Some(permit))),
                    Err(rejection) => choices.rejected(member, rejection),
                },
            }
        }
        Err(choices.rejection())
    }

    /// Same as [`pick`](Self::pick) but never waits, like [`CircuitBreaker::try_acquire`]: what a
    /// circuit asks the store benefits a later pick.
    ///
    /// # Errors
    /// As [`pick`](Self::pick).
    pub fn try_pick(&self) -> Result<Pick<'_, T>, Rejection> {
        let mut choices = Choices::of(self);
        while let Some(choice) = choices.next() {
            match choice {
                Choice::LetThrough(member) => return Ok(Pick::new(member, None)),
                Choice::Ask(member) => match member.breaker.try_acquire() {
                    Ok(permit) => return Ok(Pick::new(member, Some(permit))),
                    Err(rejection) => choices.rejected(member, rejection),
                },
            }
        }
        Err(choices.rejection())
    }

    /// Makes a call to a member; `Ok` counts as a success, `Err` as a failure.
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
    /// assert_eq!(picked.answer, 11);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`CircuitBreaker::call`]: [`CallError::Rejected`] when no member admits calls.
    pub async fn call<'a, F, Fut, R, E>(&'a self, call: F) -> Result<Picked<'a, T, R>, CallError<E>>
    where
        F: FnOnce(&'a T) -> Fut,
        Fut: Future<Output = Result<R, E>>,
    {
        self.call_with(Outcome::of, call).await
    }

    /// Same as [`call`](Self::call); `classify` decides the outcome of the result.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_with<'a, C, F, Fut, R, E>(
        &'a self,
        classify: C,
        call: F,
    ) -> Result<Picked<'a, T, R>, CallError<E>>
    where
        C: FnOnce(&Result<R, E>) -> Outcome,
        F: FnOnce(&'a T) -> Fut,
        Fut: Future<Output = Result<R, E>>,
    {
        let pick = self.pick().await?;
        let upstream = pick.upstream();
        let circuit = pick.circuit();
        let result = match circuit.policy().call_timeout() {
            None => call(upstream).await,
            Some(limit) => match tokio::time::timeout(limit, call(upstream)).await {
                Ok(result) => result,
                Err(_) => {
                    pick.timed_out();
                    return Err(CallError::TimedOut(limit));
                }
            },
        };
        pick.record(classify(&result));
        let answer = result.map_err(CallError::Failed)?;
        Ok(Picked {
            answer,
            upstream,
            circuit,
        })
    }
}

impl<T> fmt::Debug for CircuitSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let breakers = self.members.iter().map(|member| &member.breaker);
        f.debug_list().entries(breakers).finish()
    }
}
