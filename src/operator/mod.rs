//! Seeing and steering the circuits of a fleet from outside of it.
//!
//! Owns what an operator can ask and command; the command line and the admin server are made of it. An
//! operator is no replica: it reports nothing, counts as nobody, and goes by the policy that the
//! replicas last reported.

mod checks;
mod live;
mod simulate;
mod survey;
mod view;

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::watch;

#[cfg(feature = "health")]
pub(crate) use self::checks::{INDEX, Index, KEPT_MS, index};
pub use self::{
    checks::{CheckReport, CheckRun, CheckStatus},
    live::{Live, News, Tidings},
    simulate::{Course, Simulation, Trip},
    survey::{Ask, Survey},
    view::{Details, Policies, Settings, View},
};
use crate::{
    Commontrip, ControlError, Event, Name, Override, Policy, Rules, Snapshot, Store, StoreError,
    breaker::replica_name,
    model::{Command, FOREVER, Head},
    store::MOST_CIRCUITS,
};

/// More slices than are kept of any circuit.
const ALL: usize = 1_000;
/// How often a change of a stored policy is tried when others change it too.
const TRIES: u32 = 10;
/// How long an operator waits, where nobody says for how long. Callers do not wait for so long, but
/// their calls go on without an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How many circuits are read at once: others' requests come between.
const PIECE: usize = 100;
/// The longest text that says from where a command came, bytes.
const LONGEST_ORIGIN: usize = 200;

/// Whoever looks after the circuits of a store.
///
/// Cheap to clone. What it does is written into each circuit's events: who, when, why, from where.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use commontrip::{Commontrip, Override, Policy, State, operator::Operator};
///
/// let circuits = Commontrip::embedded()?;
/// let payments = circuits.circuit("payments", Policy::default())?;
/// payments.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
/// circuits.flush().await;
///
/// let operator = Operator::of(&circuits);
/// let drill = Override::because("drill").by("ana").lasting(Duration::from_secs(300));
/// operator.force_open("payments", drill).await?;
/// assert_eq!(operator.circuit("payments").await?.snapshot.state, State::ForcedOpen);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Operator {
    store: Arc<dyn Store>,
    /// As it was given; `store` waits for as long as this operator does.
    given: Arc<dyn Store>,
    timeout: Duration,
    origin: String,
    /// Says when the registry ends that it is of.
    ending: Option<watch::Receiver<bool>>,
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator")
            .field("store", &self.store)
            .field("origin", &self.origin)
            .finish()
    }
}

impl Operator {
    /// An operator of the circuits in a store; commands come from this host and process.
    pub fn new(store: impl Store) -> Self {
        Self::on(Arc::new(store))
    }

    /// An operator of the circuits of a registry's store.
    #[must_use]
    pub fn of(circuits: &Commontrip) -> Self {
        Self {
            ending: Some(circuits.ending()),
            ..Self::on(circuits.store())
        }
    }

    fn on(given: Arc<dyn Store>) -> Self {
        let (store, origin) = (Arc::clone(&given), replica_name());
        let operator = Self {
            store,
            given,
            timeout: TIMEOUT,
            origin,
            ending: None,
        };
        operator.timeout(TIMEOUT)
    }

    /// Waits until the registry is shut down that this is [of](Self::of); if it is of none, for
    /// ever.
    pub async fn ended(&self) {
        match self.ending.clone() {
            // An error means that the registry is gone.
            Some(mut ending) => drop(ending.wait_for(|ending| *ending).await),
            None => std::future::pending().await,
        }
    }

    /// Sets how long the store's answer to one question may take, and how long reading all circuits
    /// may. At least 1 ms, default 5 s: callers' `store_timeout` is not an operator's. A
    /// [`RedisStore`](crate::RedisStore) whose own timeout is longer keeps that for its answers.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.clamp(Duration::from_millis(1), FOREVER);
        let patient = self.given.patient(self.timeout);
        self.store = patient.unwrap_or_else(|| Arc::clone(&self.given));
        self
    }

    /// Says from where commands come; what is longer than 200 bytes is cut.
    #[must_use]
    pub fn from(&self, origin: &str) -> Self {
        let mut end = origin.len().min(LONGEST_ORIGIN);
        while !origin.is_char_boundary(end) {
            end -= 1;
        }
        Self {
            origin: origin[..end].to_owned(),
            ..self.clone()
        }
    }

    fn head(&self) -> Head {
        Head {
            entropy: fastrand::u64(..1000),
            replica: self.origin.clone(),
            is_operator: true,
            ..Head::default()
        }
    }

    /// How long the store took to answer.
    ///
    /// # Errors
    /// [`StoreError`] when it did not.
    pub async fn ping(&self) -> Result<Duration, StoreError> {
        let asked = tokio::time::Instant::now();
        self.store.ping().await?;
        Ok(asked.elapsed())
    }

    /// Names of the circuits that were used in the last 30 days, sorted; of more than
    /// [`MOST_CIRCUITS`] those that were used last.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn names(&self) -> Result<Vec<Name>, StoreError> {
        Ok(self.index().await?.0)
    }

    /// Those names, and whether there are more.
    async fn index(&self) -> Result<(Vec<Name>, bool), StoreError> {
        let (names, more) = self.store.index(MOST_CIRCUITS).await?;
        let names = names.iter().filter_map(|n| Name::new(n).ok());
        Ok((names.collect(), more))
    }

    /// Every circuit that can be read, worst first, each with at most `slices` of its past. Whether
    /// these are all a [`survey`](Self::survey) says.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn circuits(&self, slices: usize) -> Result<Vec<View>, StoreError> {
        Ok(self.survey(&Ask::all(slices)).await?.circuits)
    }

    /// Several circuits in the order of their names; `None` for those that the store has not heard of.
    async fn views(
        &self,
        names: &[Name],
        slices: usize,
    ) -> Result<Vec<Result<Option<View>, StoreError>>, StoreError> {
        let snapshots = self.store.snapshots(names, &self.head()).await?;
        let readable: Vec<_> = names
            .iter()
            .zip(&snapshots)
            .filter(|(_, snapshot)| snapshot.as_ref().is_ok_and(Snapshot::exists))
            .map(|(name, _)| name.clone())
            .collect();
        let mut pasts = match slices {
            0 => Vec::new(),
            _ => self.store.history(&readable, slices).await?,
        }
        .into_iter();
        let view = |(name, snapshot): (&Name, Result<Snapshot, StoreError>)| {
            let snapshot = snapshot?;
            if !snapshot.exists() {
                return Ok(None);
            }
            let past = pasts.next().unwrap_or_default();
            Ok(Some(View::new(name, snapshot, past)))
        };
        Ok(names.iter().zip(snapshots).map(view).collect())
    }

    /// One circuit, with all that is kept of its past.
    ///
    /// # Errors
    /// [`ControlError::Name`], [`ControlError::Unknown`], [`ControlError::Store`].
    pub async fn circuit(&self, name: &str) -> Result<View, ControlError> {
        self.view(Name::new(name)?, ALL).await
    }

    async fn view(&self, name: Name, slices: usize) -> Result<View, ControlError> {
        let name = [name];
        let view = match self.views(&name, slices).await?.pop() {
            Some(view) => view?,
            None => None,
        };
        view.ok_or_else(|| ControlError::Unknown(name[0].to_string()))
    }

    /// One circuit with everything that there is to know about it.
    ///
    /// # Errors
    /// As [`circuit`](Self::circuit).
    pub async fn details(&self, name: &str) -> Result<Details, ControlError> {
        let circuit = self.circuit(name).await?;
        let name = Name::new(name)?;
        let members = self.store.members(&name, circuit.snapshot.now_ms);
        let events = self.store.events(&name, 0);
        let (members, events) = tokio::try_join!(members, events)?;
        Ok(Details::new(circuit, members, events))
    }

    /// Transitions and operators' commands, oldest first; the newest 256 are kept.
    ///
    /// # Errors
    /// As [`circuit`](Self::circuit).
    pub async fn events(&self, name: &str) -> Result<Vec<Event>, ControlError> {
        let name = self.known(name).await?.0;
        Ok(self.store.events(&name, 0).await?)
    }

    /// What a circuit would have done in its recorded past, had these `key=integer` pairs been stored with it,
    /// beside what it did. Writes nothing. The pairs come on top of the policy in force; none replays that.
    ///
    /// # Errors
    /// As [`circuit`](Self::circuit); [`ControlError::Policy`] when a pair, or the policy that would
    /// result, is not valid.
    pub async fn simulate(&self, name: &str, pairs: &str) -> Result<Simulation, ControlError> {
        let seen = self.circuit(name).await?;
        let events = self.store.events(&seen.name, 0).await?;
        let in_force = in_code(&seen.snapshot).rules().with(&seen.snapshot.policy);
        let pairs = Policy::of(in_force).check_stored(pairs)?;
        let rules = in_force.with(&pairs);
        Ok(Simulation::of(&seen, &in_force, &rules, &events))
    }

    /// Every circuit's news, from the moment of the subscription on.
    #[must_use]
    pub fn live(&self) -> Live {
        Live::new(self.clone())
    }

    /// Rejects every call of the fleet, until the override ends or [`reset`](Self::reset). Its answer, as
    /// that of every command, is the circuit without its past.
    ///
    /// # Errors
    /// As [`circuit`](Self::circuit); [`ControlError::Text`] when the author or the reason is too long.
    pub async fn force_open(&self, name: &str, with: Override) -> Result<View, ControlError> {
        self.command(name, Command::ForceOpen, with).await
    }

    /// Admits every call of the fleet and trips on nothing; only lifetime totals are kept.
    ///
    /// # Errors
    /// As [`force_open`](Self::force_open).
    pub async fn disable(&self, name: &str, with: Override) -> Result<View, ControlError> {
        self.command(name, Command::Disable, with).await
    }

    /// Admits every call of the fleet and records it, but trips on nothing: a dry run.
    ///
    /// # Errors
    /// As [`force_open`](Self::force_open).
    pub async fn metrics_only(&self, name: &str, with: Override) -> Result<View, ControlError> {
        self.command(name, Command::MetricsOnly, with).await
    }

    /// Closes the circuit for the fleet, with an empty window and no backoff; ends overrides.
    ///
    /// # Errors
    /// As [`force_open`](Self::force_open).
    pub async fn reset(&self, name: &str, with: Override) -> Result<View, ControlError> {
        self.command(name, Command::Reset, with).await
    }

    async fn command(
        &self,
        name: &str,
        command: Command,
        with: Override,
    ) -> Result<View, ControlError> {
        let request = with.request(self.head(), command, String::new())?;
        let (name, _) = self.known(name).await?;
        self.store.control(&name, &request).await?;
        self.view(name, 0).await
    }

    /// Stores settings with a circuit in the place of those that are stored; counts are kept.
    /// `key=integer` pairs with the keys of [`Rules`]; none takes the stored policy away.
    ///
    /// With `expected` only if the stored policy is still at that version
    /// ([`Snapshot::policy_version`]).
    ///
    /// # Errors
    /// As [`force_open`](Self::force_open); [`ControlError::Policy`] when a pair, or the policy that would
    /// result, is not valid; [`ControlError::Conflict`] when it is at another version.
    pub async fn store_policy(
        &self,
        name: &str,
        pairs: &str,
        expected: Option<u64>,
        with: Override,
    ) -> Result<View, ControlError> {
        let (name, seen) = self.known(name).await?;
        let stored = in_code(&seen).check_stored(pairs)?;
        let mut request = with.request(self.head(), Command::Policy, stored)?;
        request.expects = expected.map_or(0, |version| version.saturating_add(1));
        let after = self.store.control(&name, &request).await?;
        if let Some(expected) = expected
            && (after.policy_version != expected + 1 || after.policy != request.policy)
        {
            let found = after.policy_version;
            return Err(ControlError::Conflict { expected, found });
        }
        self.view(name, 0).await
    }

    /// Changes some of the stored settings, and takes others away; the rest stays as it is.
    ///
    /// # Errors
    /// As [`store_policy`](Self::store_policy); a conflict only when others have changed the policy many
    /// times meanwhile.
    pub async fn change_policy(
        &self,
        name: &str,
        set: &str,
        unset: &[&str],
        with: Override,
    ) -> Result<View, ControlError> {
        let mut tries = 0;
        loop {
            let (_, seen) = self.known(name).await?;
            let changed: Vec<_> = set.split_whitespace().map(key_of).collect();
            let stays = |pair: &&str| {
                let key = key_of(pair);
                !changed.contains(&key) && !unset.contains(&key)
            };
            let kept = seen.policy.split_whitespace().filter(stays);
            let pairs: Vec<_> = kept.chain(set.split_whitespace()).collect();
            let (pairs, version) = (pairs.join(" "), Some(seen.policy_version));
            let stored = self.store_policy(name, &pairs, version, with.clone());
            match stored.await {
                Err(ControlError::Conflict { .. }) if tries < TRIES => tries += 1,
                answer => return answer,
            }
        }
    }

    /// The store's time, Unix ms; every circuit that is read says it, too.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn now_ms(&self) -> Result<u64, StoreError> {
        match Name::new("?") {
            Ok(nobody) => Ok(self.store.snapshot(&nobody, &self.head()).await?.now_ms),
            Err(_) => Ok(0),
        }
    }

    /// The time at which these were read; where there is none, the store's.
    pub(crate) async fn time_of(&self, views: &[View]) -> Result<u64, StoreError> {
        match views.iter().map(|view| view.snapshot.now_ms).max() {
            Some(now_ms) => Ok(now_ms),
            None => self.now_ms().await,
        }
    }

    /// A circuit that the store has heard of.
    async fn known(&self, name: &str) -> Result<(Name, Snapshot), ControlError> {
        let name = Name::new(name)?;
        let seen = self.store.snapshot(&name, &self.head()).await?;
        match seen.exists() {
            true => Ok((name, seen)),
            false => Err(ControlError::Unknown(name.to_string())),
        }
    }
}

/// Keys and numbers, as settings.
fn settings<'a>(pairs: impl Iterator<Item = (&'a str, u64)>) -> Settings {
    pairs.map(|(key, n)| (key.to_owned(), n)).collect()
}

/// The key of a `key=integer` pair.
fn key_of(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(key, _)| key)
}

/// The policy in code, as replicas last reported it.
fn in_code(seen: &Snapshot) -> Policy {
    Policy::of(Rules::default().with(&seen.code_policy))
}
