//! Observing and controlling the circuits of a fleet from outside.
//!
//! Owns what an operator can query and command; the command line and the admin server are built on
//! it. An operator is not a replica: it reports nothing, is not counted, and uses the policy that
//! the replicas last reported.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use commontrip::{Commontrip, Override, Policy, operator::Operator};
//!
//! let circuits = Commontrip::embedded()?;
//! circuits.circuit("payments", Policy::default())?.reset().await?;
//!
//! let operator = Operator::of(&circuits);
//! operator.force_open("payments", Override::because("drill").by("ana")).await?;
//! for view in operator.circuits(0).await? {
//!     println!("{} is {}", view.name, view.snapshot.state);
//! }
//! # Ok(()) }
//! ```

mod checks;
mod commands;
mod live;
mod simulate;
mod survey;
mod view;

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::watch;

#[cfg(feature = "health")]
pub(crate) use self::checks::{INDEX, Index, KEPT_MS, index};
pub use self::{
    checks::{CheckPeriod, CheckReport, CheckRun, CheckRunError, CheckStatus, ChecksByStatus},
    live::{News, NewsFeed, NewsStream},
    simulate::{Course, Measure, Possible, Simulation, Trip, Verdict},
    survey::{Ask, Survey},
    view::{Details, Policies, Settings, View},
};
pub use crate::model::{Interval, Lease, Member, Members, Slice};
use crate::{
    Commontrip, ControlError, Event, Name, Policy, Rules, Snapshot, Store, StoreError,
    breaker::replica_name,
    model::{FOREVER, Head, millis},
    store::MOST_CIRCUITS,
};

/// More slices than any circuit keeps.
const ALL: usize = 1_000;
/// The default timeout of an operator. Callers wait for less, but their calls proceed without an
/// answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How many circuits are read at once, so that other clients' requests are served in between.
const PIECE: usize = 100;
/// Maximum length of a command's origin, bytes.
const LONGEST_ORIGIN: usize = 200;

/// Observes and controls the circuits of a store.
///
/// Cheap to clone. Every command is recorded in the circuit's events: who, when, why, from where.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
    /// The store as it was passed in; `store` is the same one with this operator's timeout.
    given: Arc<dyn Store>,
    timeout: Duration,
    origin: String,
    /// Signals when the operator's registry ends.
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
    /// Creates an operator of the circuits in a store. The origin of its commands is this host and
    /// process.
    pub fn new(store: impl Store) -> Self {
        Self::on(Arc::new(store))
    }

    /// Creates an operator of the circuits in a registry's store.
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

    /// Waits until the registry that this operator is [of](Self::of) is shut down; forever without
    /// a registry.
    pub async fn ended(&self) {
        match self.ending.clone() {
            // An error means that the registry is gone.
            Some(mut ending) => drop(ending.wait_for(|ending| *ending).await),
            None => std::future::pending().await,
        }
    }

    /// Sets how long one answer of the store may take, and how long reading all circuits may take.
    ///
    /// At least 1 ms, default 5 s; callers' `store_timeout` does not apply. A
    /// [`RedisStore`](crate::RedisStore) whose own timeout is longer keeps it for single answers.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.clamp(Duration::from_millis(1), FOREVER);
        let patient = self.given.patient(self.timeout);
        self.store = patient.unwrap_or_else(|| Arc::clone(&self.given));
        self
    }

    /// Returns an operator whose commands have this origin, cut to 200 bytes.
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

    /// Pings the store, and returns how long it took to answer.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::operator::Operator;
    ///
    /// let operator = Operator::of(&circuits);
    /// println!("{:?}", operator.ping().await?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn ping(&self) -> Result<Duration, StoreError> {
        let asked = tokio::time::Instant::now();
        self.store.ping().await?;
        Ok(asked.elapsed())
    }

    /// Names of the circuits that were used in the last 30 days, sorted; at most the
    /// [`MOST_CIRCUITS`] that were used last.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::operator::Operator;
    ///
    /// let operator = Operator::of(&circuits);
    /// # payments.reset().await?;
    /// for name in operator.names().await? {
    ///     println!("{name}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn names(&self) -> Result<Vec<Name>, StoreError> {
        Ok(self.index().await?.0)
    }

    /// The [`names`](Self::names), and why there are more.
    pub(crate) async fn index(&self) -> Result<(Vec<Name>, Option<String>), StoreError> {
        let (names, more) = self.store.index(MOST_CIRCUITS).await?;
        let names = names.iter().filter_map(|n| Name::new(n).ok());
        let words = || {
            format!("the index has more than {MOST_CIRCUITS} names; only those used last are read")
        };
        Ok((names.collect(), more.then(words)))
    }

    /// Every circuit that can be read, worst first, each with at most `slices` of its past. Use
    /// [`survey`](Self::survey) to find out whether some are missing.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::operator::Operator;
    ///
    /// let operator = Operator::of(&circuits);
    /// # payments.reset().await?;
    /// for view in operator.circuits(0).await? {
    ///     println!("{}: {}", view.name, view.snapshot.state);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// Circuits that were not read in time are missing; [`survey`](Self::survey) says how many.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn circuits(&self, slices: usize) -> Result<Vec<View>, StoreError> {
        Ok(self.survey(&Ask::all(slices)).await?.circuits)
    }

    /// Several circuits, in the order of `names`; `None` for circuits that the store does not know.
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

    /// One circuit, with the counts of its past hour.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::operator::Operator;
    ///
    /// let operator = Operator::of(&circuits);
    /// # payments.reset().await?;
    /// let view = operator.circuit("payments").await?;
    /// println!("{}: {}", view.name, view.snapshot.state);
    /// # Ok(()) }
    /// ```
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

    /// One circuit with its past hour, policies, probes, replicas and events.
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
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::operator::Operator;
    ///
    /// let operator = Operator::of(&circuits);
    /// # payments.reset().await?;
    /// for event in operator.events("payments").await? {
    ///     println!("{} -> {}: {}", event.from, event.to, event.reason);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`circuit`](Self::circuit).
    pub async fn events(&self, name: &str) -> Result<Vec<Event>, ControlError> {
        let name = self.known(name).await?.0;
        Ok(self.store.events(&name, 0).await?)
    }

    /// Simulates what a circuit would have done in its recorded past with these settings, and
    /// compares it with what the circuit did. Writes nothing.
    ///
    /// The pairs override the policy in force; an empty string replays that policy. `over` limits
    /// how far back the simulation goes; `None` goes back as far as the recorded slices allow.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::operator::Operator;
    ///
    /// let operator = Operator::of(&circuits);
    /// # payments.acquire().await?.success();
    /// # circuits.flush().await;
    /// let simulation = operator.simulate("payments", "failure_rate_threshold=40", None).await?;
    /// println!("{simulation:?}");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`circuit`](Self::circuit); [`ControlError::Policy`] when a pair or the resulting policy
    /// is not valid; [`ControlError::Unrecorded`] when the record is not sufficient.
    pub async fn simulate(
        &self,
        name: &str,
        pairs: &str,
        over: Option<Duration>,
    ) -> Result<Simulation, ControlError> {
        let seen = self.view(Name::new(name)?, 0).await?;
        let (past, events) = tokio::try_join!(
            self.store.past(&seen.name),
            self.store.events(&seen.name, 0)
        )?;
        let in_force = in_code(&seen.snapshot).rules().with(&seen.snapshot.policy);
        let pairs = Policy::of(in_force).check_stored(pairs)?;
        let rules = in_force.with(&pairs);
        if in_force.history == 0 && past.is_empty() {
            return Err(ControlError::Unrecorded {
                setting: "history",
                value: Rules::in_words("history", 0),
                why: "without it nothing is on record".to_owned(),
            });
        }
        let policies = [&in_force, &rules];
        Simulation::of(&seen, past, policies, &events, over.map(millis))
    }

    /// The news of every circuit, from the time of subscription.
    #[must_use]
    pub fn live(&self) -> NewsFeed {
        NewsFeed::new(self.clone())
    }

    /// The store's time, Unix ms. Every snapshot has it as well.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn now_ms(&self) -> Result<u64, StoreError> {
        match Name::new("?") {
            Ok(nobody) => Ok(self.store.snapshot(&nobody, &self.head()).await?.now_ms),
            Err(_) => Ok(0),
        }
    }

    /// The time at which these circuits were read; the store's current time without circuits.
    pub(crate) async fn time_of(&self, views: &[View]) -> Result<u64, StoreError> {
        match views.iter().map(|view| view.snapshot.now_ms).max() {
            Some(now_ms) => Ok(now_ms),
            None => self.now_ms().await,
        }
    }

    /// A circuit that the store knows, with its snapshot.
    async fn known(&self, name: &str) -> Result<(Name, Snapshot), ControlError> {
        let name = Name::new(name)?;
        let seen = self.store.snapshot(&name, &self.head()).await?;
        match seen.exists() {
            true => Ok((name, seen)),
            false => Err(ControlError::Unknown(name.to_string())),
        }
    }
}

fn settings<'a>(pairs: impl Iterator<Item = (&'a str, u64)>) -> Settings {
    pairs.map(|(key, n)| (key.to_owned(), n)).collect()
}

/// The policy in code, as replicas last reported it.
fn in_code(seen: &Snapshot) -> Policy {
    Policy::of(Rules::default().with(&seen.code_policy))
}
