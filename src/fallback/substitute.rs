//! Fixed and computed values in place of errors.

use crate::{CallError, CircuitBreaker, FallbackKind, Rejection};

/// A value and, if it is a fallback, the error that it replaces.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::fallback::Fallback;
///
/// let rate = payments.call(|| async { Err::<f64, _>("down") }).await.fallback(1.0);
/// assert!(rate.is_fallback() && rate.value == 1.0);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered<T, W> {
    /// The value.
    pub value: T,
    /// The error that the value replaces; `None` for the call's own value.
    pub instead_of: Option<W>,
    /// The kind of fallback; `None` for the call's own value.
    pub kind: Option<FallbackKind>,
}

impl<T, W> Recovered<T, W> {
    const fn own(value: T) -> Self {
        Self {
            value,
            instead_of: None,
            kind: None,
        }
    }

    const fn fallback(value: T, instead_of: W, kind: FallbackKind) -> Self {
        Self {
            value,
            instead_of: Some(instead_of),
            kind: Some(kind),
        }
    }

    /// Counts the value in the statistics of the call's circuit, if it is a fallback
    /// ([`count_fallback`](CircuitBreaker::count_fallback)).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let rates = circuits.circuit("rates", Policy::default())?;
    /// use commontrip::{FallbackKind, fallback::Fallback};
    ///
    /// let down = || async { Err::<f64, _>("down") };
    /// let rate = rates.call(down).await.fallback(1.0).counted(&rates);
    /// assert_eq!(rate.value, 1.0);
    /// assert_eq!(circuits.stats()[0].fallbacks.of(FallbackKind::Fixed), 1);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn counted(self, breaker: &CircuitBreaker) -> Self {
        if let Some(kind) = self.kind {
            breaker.count_fallback(kind);
        }
        self
    }

    /// Whether the value is a fallback.
    #[must_use]
    pub const fn is_fallback(&self) -> bool {
        self.instead_of.is_some()
    }
}

/// Replaces the error of a protected call with a value, and keeps the error.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::io;
/// use commontrip::{Commontrip, Override, Policy, fallback::Fallback};
///
/// let rates = Commontrip::embedded()?.circuit("rates", Policy::default())?;
///
/// // After any error:
/// let rate = rates.call(|| async { Err(io::Error::other("gone")) }).await.fallback(1.1);
/// assert!(rate.is_fallback());
/// println!("{} in place of: {:?}", rate.value, rate.instead_of);
///
/// // Only where the call was not made; its own errors stay errors:
/// rates.force_open(Override::because("upgrade")).await?;
/// let rate = rates
///     .call(|| async { Ok::<_, io::Error>(1.2) })
///     .await
///     .fallback_on_rejection_with(|_| async { 1.0 + 0.1 })
///     .await?;
/// assert_eq!(rate.value, 1.1);
/// # Ok(()) }
/// ```
pub trait Fallback<T, E>: Sized {
    /// Replaces any error with this value.
    fn fallback(self, value: T) -> Recovered<T, CallError<E>>;

    /// Replaces any error with a value computed from it.
    fn fallback_with<F>(self, compute: F) -> impl Future<Output = Recovered<T, CallError<E>>>
    where
        F: AsyncFnOnce(&CallError<E>) -> T;

    /// Replaces a rejection with this value.
    ///
    /// # Errors
    /// The error of a call that was made.
    fn fallback_on_rejection(self, value: T) -> Result<Recovered<T, Rejection>, CallError<E>>;

    /// Replaces a rejection with a value computed from it.
    ///
    /// # Errors
    /// The error of a call that was made.
    fn fallback_on_rejection_with<F>(
        self,
        compute: F,
    ) -> impl Future<Output = Result<Recovered<T, Rejection>, CallError<E>>>
    where
        F: AsyncFnOnce(Rejection) -> T;
}

impl<T, E> Fallback<T, E> for Result<T, CallError<E>> {
    fn fallback(self, value: T) -> Recovered<T, CallError<E>> {
        match self {
            Ok(own) => Recovered::own(own),
            Err(error) => Recovered::fallback(value, error, FallbackKind::Fixed),
        }
    }

    async fn fallback_with<F>(self, compute: F) -> Recovered<T, CallError<E>>
    where
        F: AsyncFnOnce(&CallError<E>) -> T,
    {
        match self {
            Ok(own) => Recovered::own(own),
            Err(error) => Recovered::fallback(compute(&error).await, error, FallbackKind::Computed),
        }
    }

    fn fallback_on_rejection(self, value: T) -> Result<Recovered<T, Rejection>, CallError<E>> {
        match self {
            Ok(own) => Ok(Recovered::own(own)),
            Err(CallError::Rejected(rejection)) => {
                Ok(Recovered::fallback(value, rejection, FallbackKind::Fixed))
            }
            Err(error) => Err(error),
        }
    }

    async fn fallback_on_rejection_with<F>(
        self,
        compute: F,
    ) -> Result<Recovered<T, Rejection>, CallError<E>>
    where
        F: AsyncFnOnce(Rejection) -> T,
    {
        match self {
            Ok(own) => Ok(Recovered::own(own)),
            Err(CallError::Rejected(rejection)) => Ok(Recovered::fallback(
                compute(rejection).await,
                rejection,
                FallbackKind::Computed,
            )),
            Err(error) => Err(error),
        }
    }
}
