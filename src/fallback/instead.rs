//! Values in place of errors: given ones and computed ones.

use crate::{CallError, Rejection};

/// A value, and what it stands for, if it is a fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered<T, W> {
    /// The value.
    pub value: T,
    /// What the value is in place of; `None` for the call's own.
    pub instead_of: Option<W>,
}

impl<T, W> Recovered<T, W> {
    const fn own(value: T) -> Self {
        Self {
            value,
            instead_of: None,
        }
    }

    const fn fallback(value: T, instead_of: W) -> Self {
        Self {
            value,
            instead_of: Some(instead_of),
        }
    }

    /// Whether the value is a fallback.
    #[must_use]
    pub const fn is_fallback(&self) -> bool {
        self.instead_of.is_some()
    }
}

/// Answers with something else where a protected call has not succeeded; keeps how.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
    /// This value after any error.
    fn fallback(self, value: T) -> Recovered<T, CallError<E>>;

    /// After any error what this computes of it.
    fn fallback_with<F>(self, compute: F) -> impl Future<Output = Recovered<T, CallError<E>>>
    where
        F: AsyncFnOnce(&CallError<E>) -> T;

    /// This value after a rejection.
    ///
    /// # Errors
    /// The error of a call that was made.
    fn fallback_on_rejection(self, value: T) -> Result<Recovered<T, Rejection>, CallError<E>>;

    /// After a rejection what this computes of it.
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
            Err(error) => Recovered::fallback(value, error),
        }
    }

    async fn fallback_with<F>(self, compute: F) -> Recovered<T, CallError<E>>
    where
        F: AsyncFnOnce(&CallError<E>) -> T,
    {
        match self {
            Ok(own) => Recovered::own(own),
            Err(error) => Recovered::fallback(compute(&error).await, error),
        }
    }

    fn fallback_on_rejection(self, value: T) -> Result<Recovered<T, Rejection>, CallError<E>> {
        match self {
            Ok(own) => Ok(Recovered::own(own)),
            Err(CallError::Rejected(rejection)) => Ok(Recovered::fallback(value, rejection)),
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
            Err(CallError::Rejected(rejection)) => {
                Ok(Recovered::fallback(compute(rejection).await, rejection))
            }
            Err(error) => Err(error),
        }
    }
}
