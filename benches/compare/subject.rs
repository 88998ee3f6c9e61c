//! A breaker in one state, with one of its ways to make a call.

use std::{fmt, hint::black_box, sync::Arc, time::Duration};

use crate::call::drive;

/// Makes this many calls.
pub type Work = Arc<dyn Fn(u64) + Send + Sync>;

/// A wait that no run outlasts: an open breaker stays open.
pub const LONG: Duration = Duration::from_secs(3600);

/// More failures than any of the breakers needs to trip.
pub const FAILURES: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Closed,
    Open,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Open => "open",
        })
    }
}

/// The result of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Answered,
    Rejected,
    Failed,
}

impl Seen {
    fn of<E>(result: Result<u64, E>, rejected: fn(&E) -> bool) -> Self {
        match result {
            Ok(_) => Self::Answered,
            Err(error) if rejected(&error) => Self::Rejected,
            Err(_) => Self::Failed,
        }
    }
}

pub struct Subject {
    pub breaker: &'static str,
    pub state: State,
    /// `sync` or `async`.
    pub manner: &'static str,
    pub work: Work,
    /// Makes one call and returns its result.
    pub look: Box<dyn Fn() -> Seen>,
}

impl Subject {
    /// Synchronous calls. Each batch has its own clone of `breaker`, as each task of a service has.
    /// `rejected` tells rejections from other errors.
    pub fn blocking<B, E>(
        name: &'static str,
        state: State,
        breaker: B,
        call: impl Fn(&mut B) -> Result<u64, E> + Copy + Send + Sync + 'static,
        rejected: fn(&E) -> bool,
    ) -> Self
    where
        B: Clone + Send + Sync + 'static,
        E: 'static,
    {
        let looked_at = breaker.clone();
        Self {
            breaker: name,
            state,
            manner: "sync",
            work: Arc::new(move |calls| {
                let mut breaker = breaker.clone();
                for _ in 0..calls {
                    let _ = black_box(call(&mut breaker));
                }
            }),
            look: Box::new(move || Seen::of(call(&mut looked_at.clone()), rejected)),
        }
    }

    /// The same for asynchronous calls.
    pub fn awaited<B, E>(
        name: &'static str,
        state: State,
        breaker: B,
        call: impl AsyncFn(&mut B) -> Result<u64, E> + Copy + Send + Sync + 'static,
        rejected: fn(&E) -> bool,
    ) -> Self
    where
        B: Clone + Send + Sync + 'static,
        E: 'static,
    {
        let looked_at = breaker.clone();
        Self {
            breaker: name,
            state,
            manner: "async",
            work: Arc::new(move |calls| {
                let mut breaker = breaker.clone();
                drive(async {
                    for _ in 0..calls {
                        let _ = black_box(call(&mut breaker).await);
                    }
                });
            }),
            look: Box::new(move || Seen::of(drive(call(&mut looked_at.clone())), rejected)),
        }
    }

    /// Panics if the breaker is not in the state that the figures are about.
    pub fn check(&self) {
        let expected = match self.state {
            State::Closed => Seen::Answered,
            State::Open => Seen::Rejected,
        };
        let seen = (self.look)();
        assert_eq!(seen, expected, "{} is not {}", self.breaker, self.state);
    }
}
