//! Commands to circuits, by name.
//!
//! Owns what an operator can do to a circuit; does not know who may be an operator.

use super::{Operator, View, in_code};
use crate::{
    ControlError, Name, Note, Override, Rules,
    breaker::confirm,
    model::{Command, Control, LARGEST},
};

/// How often a change of a stored policy is retried after a conflict with another change.
const TRIES: u32 = 10;
/// How long after its last report a replica counts as using a circuit, ms.
const IN_USE_MS: u64 = 60_000;

impl Operator {
    /// Rejects every call of the fleet, until the override ends or [`reset`](Self::reset). Like
    /// every command, it returns the circuit without its past.
    ///
    /// # Errors
    /// As [`circuit`](Self::circuit); [`ControlError::Text`] when the author or the reason is too
    /// long; [`ControlError::Overridden`] when the override in force is not the one to be replaced.
    pub async fn force_open(&self, name: &str, with: Override) -> Result<View, ControlError> {
        self.set(name, Command::ForceOpen, with).await
    }

    /// Admits every call of the fleet and trips on nothing; only lifetime totals are kept.
    ///
    /// # Errors
    /// As [`force_open`](Self::force_open).
    pub async fn disable(&self, name: &str, with: Override) -> Result<View, ControlError> {
        self.set(name, Command::Disable, with).await
    }

    /// Admits every call of the fleet and records it, but trips on nothing: a dry run.
    ///
    /// # Errors
    /// As [`force_open`](Self::force_open).
    pub async fn metrics_only(&self, name: &str, with: Override) -> Result<View, ControlError> {
        self.set(name, Command::MetricsOnly, with).await
    }

    /// Closes the circuit for the fleet, with an empty window and no backoff; ends overrides.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::{Override, operator::Operator};
    ///
    /// # payments.reset().await?;
    /// let operator = Operator::of(&circuits);
    /// operator.reset("payments", Override::because("upstream is back").by("ana")).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`force_open`](Self::force_open).
    pub async fn reset(&self, name: &str, with: impl Into<Note>) -> Result<View, ControlError> {
        let with: Note = with.into();
        let request = with.request(self.head(), Command::Reset, String::new())?;
        self.command(name, request).await
    }

    /// Removes a circuit that no replica uses: its state, counts, events and stored policy. Returns
    /// the circuit as it was.
    ///
    /// A replica counts as using the circuit for a minute after its last report, which is recorded
    /// every 5 s; `force` skips this check. A replica that continues to use the circuit creates it
    /// again.
    ///
    /// # Errors
    /// As [`circuit`](Self::circuit), and [`ControlError::InUse`].
    pub async fn remove(&self, name: &str, force: bool) -> Result<View, ControlError> {
        let name = Name::new(name)?;
        let view = self.view(name.clone(), 0).await?;
        if !force {
            let now_ms = view.snapshot.now_ms;
            let members = self.store.members(&name, now_ms).await?;
            let last = members.replicas.first();
            if let Some(last) = last.filter(|last| last.seen_ms + IN_USE_MS > now_ms) {
                return Err(ControlError::InUse {
                    replica: last.name.clone(),
                    ago_ms: now_ms.saturating_sub(last.seen_ms),
                });
            }
        }
        self.store.remove(&name).await?;
        Ok(view)
    }

    /// Sets the override of this command.
    pub(crate) async fn set(
        &self,
        name: &str,
        command: Command,
        with: Override,
    ) -> Result<View, ControlError> {
        let request = with.request(self.head(), command)?;
        self.command(name, request).await
    }

    async fn command(&self, name: &str, request: Control) -> Result<View, ControlError> {
        let (name, _) = self.known(name).await?;
        let after = self.store.control(&name, &request).await?;
        confirm(&request, &after)?;
        self.view(name, 0).await
    }

    /// Replaces the stored policy of a circuit; counts are kept. Pairs are in the format of
    /// [`Rules::parse_pairs`]; an empty string removes the stored policy.
    ///
    /// With `expected`, only if the stored policy still has that version
    /// ([`policy_version`](crate::Snapshot::policy_version)).
    ///
    /// # Errors
    /// As [`force_open`](Self::force_open); [`ControlError::Policy`] when a pair or the resulting
    /// policy is not valid; [`ControlError::Conflict`] when the stored policy has another version.
    pub async fn store_policy(
        &self,
        name: &str,
        pairs: &str,
        expected: Option<u64>,
        with: impl Into<Note>,
    ) -> Result<View, ControlError> {
        let with: Note = with.into();
        let (name, seen) = self.known(name).await?;
        let stored = in_code(&seen).check_stored(pairs)?;
        let mut request = with.request(self.head(), Command::Policy, stored)?;
        // No version reaches the largest number that is sent, so that number never matches.
        request.expects = expected.map_or(0, |version| version.min(LARGEST - 1) + 1);
        let after = self.store.control(&name, &request).await?;
        if let Some(expected) = expected
            && (Some(after.policy_version) != expected.checked_add(1)
                || after.policy != request.policy)
        {
            let found = after.policy_version;
            return Err(ControlError::Conflict { expected, found });
        }
        self.view(name, 0).await
    }

    /// Sets some of the stored settings and removes others; the rest stay as they are.
    ///
    /// # Errors
    /// As [`store_policy`](Self::store_policy); a conflict only when every retry conflicted as
    /// well.
    pub async fn change_policy(
        &self,
        name: &str,
        set: &str,
        unset: &[&str],
        with: impl Into<Note>,
    ) -> Result<View, ControlError> {
        let with: Note = with.into();
        let set = Rules::parse_pairs(set)?;
        let mut tries = 0;
        loop {
            let (_, seen) = self.known(name).await?;
            let stays = |pair: &&str| {
                let key = key_of(pair);
                !set.iter().any(|(changed, _)| *changed == key) && !unset.contains(&key)
            };
            let kept = seen.policy.split_whitespace().filter(stays);
            let kept = kept.map(str::to_owned);
            let set = set.iter().map(|(key, number)| format!("{key}={number}"));
            let pairs: Vec<_> = kept.chain(set).collect();
            let (pairs, version) = (pairs.join(" "), Some(seen.policy_version));
            let stored = self.store_policy(name, &pairs, version, with.clone());
            match stored.await {
                Err(ControlError::Conflict { .. }) if tries < TRIES => tries += 1,
                answer => return answer,
            }
        }
    }
}

fn key_of(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(key, _)| key)
}
