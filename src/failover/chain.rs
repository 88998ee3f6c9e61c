//! The chain, and what its callers get.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    End, Exhausted, FailoverBuilder, Stage,
    walk::{Step, Walk},
};
use crate::Outcome;

/// An ordered chain of stages; the first that answers serves.
///
/// A stage whose circuit is open is skipped at once. Cheap to clone, `Send` and `Sync`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
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

/// The attempt that a call is to make.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The stage's place in the chain, from 0.
    pub stage: usize,
    /// The stage's name.
    pub name: Arc<str>,
    /// Which attempt of the whole chain it is, from 1.
    pub number: u32,
}

/// A value, and how it was served.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served<T> {
    /// The value.
    pub value: T,
    /// The name of the stage that served it.
    pub stage: Arc<str>,
    /// Which attempt of the whole chain served it, from 1; skipped stages make none.
    pub attempt: u32,
    /// How long the whole took, waits included.
    pub elapsed: Duration,
    /// Whether another stage than the first served it.
    pub fallback: bool,
}

impl Failover {
    /// A chain without stages as yet, and without a total timeout.
    pub const fn builder() -> FailoverBuilder {
        FailoverBuilder::new()
    }

    /// Makes a call by the first stage that answers; `Ok` counts as a success, `Err` as a failure.
    ///
    /// Dropping the future drops the attempt, which its circuit takes as any dropped call.
    ///
    /// # Errors
    /// [`Exhausted`] when no stage has served, with what each said.
    pub async fn call<F, Fut, T, E>(&self, call: F) -> Result<Served<T>, Exhausted<E>>
    where
        F: FnMut(Attempt) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.call_with(Outcome::of, call).await
    }

    /// [`call`](Self::call); `classify` says what a result means.
    ///
    /// An `Ok` is served, whatever it counts as. An `Err` that is a [`Success`](Outcome::Success) or
    /// [`Ignored`](Outcome::Ignored) is the caller's own, which no other stage would mend: it ends the chain
    /// at once. A [`Failure`](Outcome::Failure) is tried again as the stage says, and a
    /// [`Trip`](Outcome::Trip) is not; then comes the next stage.
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
        Err(Exhausted {
            attempts: walk.tried,
            elapsed: started.elapsed(),
            end,
        })
    }
}
