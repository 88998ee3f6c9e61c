//! The chain, and what it returns.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    End, Exhausted, FailoverBuilder, Stage, retry_after,
    walk::{Step, Walk},
};
use crate::{FallbackKind, Outcome};

/// An ordered chain of stages: the first one that succeeds serves the call.
///
/// A stage whose circuit is open is skipped immediately. Cheap to clone, `Send` and `Sync`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::{io, time::Duration};
/// use commontrip::{Commontrip, Policy, failover::{Failover, Stage}};
///
/// let circuits = Commontrip::embedded()?;
/// let cloud = circuits.circuit("cloud", Policy::default())?;
/// let local = circuits.circuit("local", Policy::default())?;
/// let chain = Failover::builder()
///     .stage(Stage::new("cloud", &cloud).attempt_timeout(Duration::from_secs(10)))
///     .stage(Stage::new("local", &local).attempt_timeout(Duration::from_secs(30)).retries(1))
///     .total_timeout(Duration::from_secs(60))
///     .build()?;
///
/// let served = chain
///     .call(|attempt| async move {
///         match &*attempt.name {
///             "cloud" => Err(io::Error::other("no route")),
///             _ => Ok("an answer"),
///         }
///     })
///     .await?;
/// assert_eq!((served.value, &*served.stage, served.attempt), ("an answer", "local", 2));
/// assert!(served.fallback);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Failover {
    pub(super) stages: Arc<[Stage]>,
    pub(super) total_timeout: Duration,
}

/// The attempt that a call makes.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::failover::{Attempt, Failover, Stage};
///
/// let chain = Failover::builder().stage(Stage::new("cloud", &payments)).build()?;
/// let ask = |attempt: Attempt| async move { Ok::<_, std::io::Error>(attempt.name.len()) };
/// assert_eq!(chain.call(ask).await?.value, 5);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The stage's position in the chain, from 0.
    pub stage: usize,
    /// The stage's name.
    pub name: Arc<str>,
    /// The number of the attempt in the whole chain, from 1.
    pub number: u32,
}

/// A value, and how it was served.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::failover::{Failover, Stage};
///
/// let chain = Failover::builder().stage(Stage::new("cloud", &payments)).build()?;
/// let served = chain.call(|_| async { Ok::<_, std::io::Error>(42) }).await?;
/// println!("{} by {}, attempt {}", served.value, served.stage, served.attempt);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served<T> {
    /// The value.
    pub value: T,
    /// The name of the stage that served it.
    pub stage: Arc<str>,
    /// The number of the attempt that served it, in the whole chain, from 1; skipped stages make
    /// none.
    pub attempt: u32,
    /// How long the whole call took, including waits.
    pub elapsed: Duration,
    /// Whether a stage other than the first served it.
    pub fallback: bool,
}

impl Failover {
    /// Starts a chain without stages and without a total timeout.
    pub const fn builder() -> FailoverBuilder {
        FailoverBuilder::new()
    }

    /// Makes a call through the first stage that succeeds; `Ok` counts as a success, `Err` as a
    /// failure.
    ///
    /// Dropping the future drops the attempt, which its circuit treats like any dropped call.
    ///
    /// # Errors
    /// [`Exhausted`] when no stage served, with the error of each attempt.
    pub async fn call<F, Fut, T, E>(&self, call: F) -> Result<Served<T>, Exhausted<E>>
    where
        F: FnMut(Attempt) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.call_with(Outcome::of, call).await
    }

    /// Same as [`call`](Self::call); `classify` decides the outcome of a result.
    ///
    /// An `Ok` is served, whatever its outcome. An `Err` whose outcome is
    /// [`Success`](Outcome::Success) or [`Ignored`](Outcome::Ignored) is the caller's own error,
    /// which no other stage would fix: it ends the chain immediately. A
    /// [`Failure`](Outcome::Failure) is retried as the stage is configured, a
    /// [`Trip`](Outcome::Trip) is not; then the next stage is tried.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_with<C, F, Fut, T, E>(
        &self,
        classify: C,
        call: F,
    ) -> Result<Served<T>, Exhausted<E>>
    where
        C: FnMut(&Result<T, E>) -> Outcome,
        F: FnMut(Attempt) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let started = Instant::now();
        let mut walk = Walk {
            total: self.total_timeout,
            deadline: started + self.total_timeout,
            made: 0,
            tried: Vec::new(),
            said: Vec::new(),
            classify,
            call,
        };
        let mut end = End::LastStage;
        for (place, stage) in self.stages.iter().enumerate() {
            match walk.stage(place, stage).await {
                Step::Served(value) => {
                    let served = Served {
                        value,
                        stage: Arc::clone(&stage.name),
                        attempt: walk.made,
                        elapsed: started.elapsed(),
                        fallback: place > 0,
                    };
                    self.count_fallbacks(place);
                    #[cfg(feature = "metrics")]
                    super::count::served(&served.stage, served.fallback);
                    return Ok(served);
                }
                Step::Next => {}
                Step::CallersError => {
                    end = End::CallersError;
                    break;
                }
                Step::OutOfTime => {
                    end = End::TotalTimeout(self.total_timeout);
                    break;
                }
            }
        }
        #[cfg(feature = "metrics")]
        super::count::not_served(end);
        let retry_after = match end {
            End::CallersError => None,
            End::LastStage | End::TotalTimeout(_) => {
                retry_after::retry_after(&self.stages, &walk.said)
            }
        };
        Err(Exhausted {
            attempts: walk.tried,
            elapsed: started.elapsed(),
            end,
            retry_after,
        })
    }

    /// Counts a fallback, once per circuit, for the circuits of the stages before the one that
    /// served, except that stage's own.
    fn count_fallbacks(&self, served: usize) {
        let name = |place: usize| self.stages[place].breaker.name();
        for place in 0..served {
            let known = (0..place)
                .chain([served])
                .any(|one| name(one) == name(place));
            if !known {
                let breaker = &self.stages[place].breaker;
                breaker.count_fallback(FallbackKind::Stage);
            }
        }
    }
}
