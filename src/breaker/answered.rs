//! Calls of a circuit that a fallback answered, by kind of fallback.
//!
//! Owns the kinds and their counts. These are not outcomes: the call itself failed or was rejected,
//! and is counted as such.

use std::sync::atomic::{AtomicU64, Ordering};

use super::CircuitBreaker;

/// The kind of fallback that answered in place of a call.
///
/// ```
/// use commontrip::FallbackKind;
///
/// assert_eq!(FallbackKind::LastGood.as_str(), "last_good");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FallbackKind {
    /// A fixed value.
    Fixed,
    /// A value computed for this call.
    Computed,
    /// The last good value of the same key.
    LastGood,
    /// Another stage of a chain.
    Stage,
}

impl FallbackKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Fixed, Self::Computed, Self::LastGood, Self::Stage];

    /// Its name in metrics and logs: `fixed`, `computed`, `last_good`, `stage`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Computed => "computed",
            Self::LastGood => "last_good",
            Self::Stage => "stage",
        }
    }
}

/// Calls of one circuit that fallbacks of this process answered, by kind.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, FallbackKind, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// payments.count_fallback(FallbackKind::Fixed);
/// let fallbacks = circuits.stats()[0].fallbacks;
/// assert_eq!((fallbacks.of(FallbackKind::Fixed), fallbacks.total()), (1, 1));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FallbackStats([u64; FallbackKind::ALL.len()]);

impl FallbackStats {
    /// Calls answered by one kind.
    #[must_use]
    pub const fn of(&self, kind: FallbackKind) -> u64 {
        self.0[kind as usize]
    }

    /// Calls answered by any kind.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// The counters of one circuit.
#[derive(Debug, Default)]
pub(super) struct Answered([AtomicU64; FallbackKind::ALL.len()]);

impl Answered {
    pub(super) fn seen(&self) -> FallbackStats {
        FallbackStats(self.0.each_ref().map(|n| n.load(Ordering::Relaxed)))
    }
}

impl CircuitBreaker {
    /// Counts a call of this circuit that a fallback answered, in
    /// [`stats`](crate::Commontrip::stats) and metrics, and logs it at DEBUG (target
    /// `commontrip::fallback`).
    ///
    /// For fallbacks of your own: `LastGood::call`, chains of `failover` and `Recovered::counted`
    /// do this themselves.
    pub fn count_fallback(&self, kind: FallbackKind) {
        let inner = &self.inner;
        inner.answered.0[kind as usize].fetch_add(1, Ordering::Relaxed);
        tracing::debug!(target: "commontrip::fallback", circuit = %inner.name, kind = kind.as_str(), "a fallback answered the call");
    }
}
