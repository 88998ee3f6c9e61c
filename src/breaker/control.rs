//! Commands to a circuit: overrides, reset, the stored policy.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::{CircuitBreaker, ControlError, Note, Override, note::confirm};
use crate::model::{Command, Control, Snapshot};

impl CircuitBreaker {
    /// Rejects every call of the fleet, until the override ends or the circuit is
    /// [`reset`](Self::reset).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use std::time::Duration;
    /// use commontrip::{Override, State};
    ///
    /// let drill = Override::because("drill").by("ana").lasting(Duration::from_secs(300));
    /// payments.force_open(drill).await?;
    /// assert_eq!(payments.state(), State::ForcedOpen);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ControlError::Store`] when the store did not confirm, [`ControlError::Text`] when the
    /// author or the reason is too long.
    pub async fn force_open(&self, with: Override) -> Result<Snapshot, ControlError> {
        self.set(Command::ForceOpen, with).await
    }

    /// Admits every call of the fleet and never trips; only lifetime totals are kept.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::{Override, State};
    ///
    /// payments.disable(Override::because("migration")).await?;
    /// assert_eq!(payments.state(), State::Disabled);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ControlError::Store`] when the store did not confirm, [`ControlError::Text`] when the
    /// author or the reason is too long.
    pub async fn disable(&self, with: Override) -> Result<Snapshot, ControlError> {
        self.set(Command::Disable, with).await
    }

    /// Admits every call of the fleet and records it, but never trips: a dry run.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::{Override, State};
    ///
    /// payments.metrics_only(Override::because("migration")).await?;
    /// assert_eq!(payments.state(), State::MetricsOnly);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ControlError::Store`] when the store did not confirm, [`ControlError::Text`] when the
    /// author or the reason is too long.
    pub async fn metrics_only(&self, with: Override) -> Result<Snapshot, ControlError> {
        self.set(Command::MetricsOnly, with).await
    }

    /// Closes the circuit for the fleet, with an empty window and no backoff; ends overrides.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// payments.reset().await?;
    /// assert_eq!(payments.state(), commontrip::State::Closed);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ControlError::Store`] when the store did not confirm, [`ControlError::Text`] when the
    /// author or the reason is too long.
    pub async fn reset(&self) -> Result<Snapshot, ControlError> {
        self.reset_with(Note::default()).await
    }

    /// [`reset`](Self::reset) with a note of who and why.
    ///
    /// # Errors
    /// [`ControlError::Store`] when the store did not confirm, [`ControlError::Text`] when the
    /// author or the reason is too long.
    pub async fn reset_with(&self, with: impl Into<Note>) -> Result<Snapshot, ControlError> {
        self.change(Command::Reset, with.into(), String::new())
            .await
    }

    /// Stores settings with the circuit. They override those in code in every replica and replace
    /// previously stored ones; counts are kept. Pairs have the format of
    /// [`Rules::parse_pairs`](crate::Rules::parse_pairs).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// payments.store_policy("failure_rate_threshold=20").await?;
    /// assert_eq!(payments.policy().rules().failure_rate_threshold, 20);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ControlError::Policy`] when a pair or the resulting policy is invalid,
    /// [`ControlError::Store`] when the store did not confirm.
    pub async fn store_policy(&self, pairs: &str) -> Result<Snapshot, ControlError> {
        let code = self.inner.view.lock().code.clone();
        let stored = code.check_stored(pairs)?;
        self.change(Command::Policy, Note::default(), stored).await
    }

    /// Switches this circuit off in this process, or on again. Takes effect at once and without the
    /// store. Circuits start switched on.
    ///
    /// Like [`Commontrip::set_enabled`](crate::Commontrip::set_enabled), but for one circuit: every
    /// call of this process passes, and outcomes are recorded and reported as before. Applies to
    /// all clones of the circuit. While all circuits of the process are off, this one is too.
    /// [`RegistryHealth::circuits_off`](crate::RegistryHealth::circuits_off) shows it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// payments.force_open(Default::default()).await?;
    /// payments.set_enabled(false);
    /// assert!(payments.acquire().await.is_ok());
    /// # Ok(()) }
    /// ```
    pub fn set_enabled(&self, enabled: bool) {
        let (inner, off) = (&self.inner, !enabled);
        if inner.off.swap(off, Ordering::SeqCst) == off {
            return;
        }
        inner.switched();
        tracing::warn!(target: "commontrip::circuit", circuit = %inner.name, enabled, replica = %inner.shared.replica, "the circuit was switched on or off in this process");
    }

    /// Whether this circuit decides about calls of this process: neither this circuit nor the whole
    /// process is [switched off](Self::set_enabled).
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        !self.inner.is_off()
    }

    async fn set(&self, command: Command, with: Override) -> Result<Snapshot, ControlError> {
        self.control(with.request(self.inner.head(), command)?)
            .await
    }

    async fn change(
        &self,
        command: Command,
        with: Note,
        policy: String,
    ) -> Result<Snapshot, ControlError> {
        let request = with.request(self.inner.head(), command, policy)?;
        self.control(request).await
    }

    async fn control(&self, request: Control) -> Result<Snapshot, ControlError> {
        let inner = &self.inner;
        let asked = Instant::now();
        let snapshot = inner.shared.store.control(&inner.name, &request).await?;
        inner.take_shared(&snapshot, asked);
        confirm(&request, &snapshot)?;
        Ok(snapshot)
    }
}
