//! Whether the store answers.
//!
//! Owns which circuits are away from it, and the one task that asks until they are back: nobody
//! else asks a store that is away. Circuits of one shard go and come together; one that the store
//! refuses goes alone.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    cell::{Away, Cell},
    registry::Shared,
};
use crate::{
    model::{Latencies, Name, Report, Snapshot},
    store::{StoreError, in_words},
};

/// Waits between two questions to a store that is away; each is lengthened at random by up to a
/// half, so that a fleet does not ask in step.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_millis(300);

#[derive(Debug, Default)]
pub(super) struct Link {
    /// Somebody asks until all are back.
    asking: AtomicBool,
    /// More circuits went away.
    more: Notify,
    trouble: Mutex<Trouble>,
    round_trips: Mutex<Latencies>,
    contradicted: AtomicU64,
}

impl Link {
    pub(super) fn note_contradiction(&self) {
        self.contradicted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_round_trip(&self, took: Duration) {
        self.round_trips.lock().record(took, 1);
    }
}

#[derive(Debug, Default)]
struct Trouble {
    since: Option<Instant>,
    last_error: Option<String>,
    times: u64,
}

/// How a registry and its store get on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// Whether circuits decide about calls; `false` while [`Commontrip::set_enabled`](crate::Commontrip::set_enabled)
    /// has every call of this process pass.
    pub enabled: bool,
    /// How long the store has been away from one circuit or more; `None` while it answers.
    pub away_for: Option<Duration>,
    /// Circuits that decide without the store: all of them where one server keeps them, those of
    /// a shard in a Cluster, one where the store refuses its requests.
    pub circuits_away: usize,
    /// How often it went away.
    pub times_away: u64,
    /// The last error, in words.
    pub last_error: Option<String>,
    /// Whether changes of every circuit are pushed to this process.
    pub push: bool,
    /// How often something was published that the store then contradicted: somebody else publishes
    /// under circuits' names, or Redis has lost what it had just published.
    pub publications_contradicted: u64,
    /// Circuits with outcomes that the store has not confirmed.
    pub reports_pending: usize,
    /// How long the store took to answer reports, or to fail, since the registry was made; one round
    /// trip can carry those of several circuits.
    pub round_trips: Latencies,
}

/// Circuits that come back together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Group {
    Shard(u16),
    Refused(Name),
}

type Groups = BTreeMap<Group, Vec<Arc<Cell>>>;

impl Shared {
    pub(super) fn health(&self) -> Health {
        let cells = self.cells();
        let count = |holds: fn(&Cell) -> bool| cells.iter().filter(|cell| holds(cell)).count();
        let trouble = self.link.trouble.lock();
        Health {
            enabled: !self.is_off(),
            away_for: trouble.since.map(|since| since.elapsed()),
            circuits_away: count(Cell::is_away),
            times_away: trouble.times,
            last_error: trouble.last_error.clone(),
            push: count(|cell| cell.followed.load(Ordering::Relaxed)) == cells.len(),
            publications_contradicted: self.link.contradicted.load(Ordering::Relaxed),
            reports_pending: count(|cell| cell.outbox.lock().is_pending()),
            round_trips: self.link.round_trips.lock().clone(),
        }
    }

    /// The store failed a circuit: from now on nobody asks it for that one, and for those that
    /// share its fate, but one task.
    pub(super) fn store_failed(self: &Arc<Self>, cell: &Arc<Cell>, error: &StoreError) {
        let (fate, away) = if error.is_away() {
            let shard = self.store.shard(&cell.name);
            let mut fate = self.cells();
            fate.retain(|other| self.store.shard(&other.name) == shard);
            (fate, Away::Store)
        } else {
            (vec![Arc::clone(cell)], Away::Refused)
        };
        let words = in_words(error);
        let left = fate.iter().filter(|cell| cell.leave_store(away)).count();
        let mut trouble = self.link.trouble.lock();
        trouble.last_error = Some(words.clone());
        if left == 0 {
            return;
        }
        trouble.since.get_or_insert_with(Instant::now);
        trouble.times += 1;
        drop(trouble);
        match away {
            Away::Refused => {
                tracing::warn!(error = %words, circuit = %cell.name, replica = %self.replica, "the store refuses a circuit");
            }
            _ => {
                tracing::warn!(error = %words, circuits = left, replica = %self.replica, "the store is away");
            }
        }
        if !self.link.asking.swap(true, Ordering::SeqCst) {
            self.spawn(ask_until_back(Arc::clone(self)));
        }
        self.link.more.notify_one();
    }

    /// Whether a new circuit begins without the store.
    pub(super) fn begins_away(&self, name: &Name) -> bool {
        let shard = self.store.shard(name);
        let same = |cell: &Arc<Cell>| self.store.shard(&cell.name) == shard;
        let away = |cell: &Arc<Cell>| cell.away() == Away::Store;
        self.cells().iter().any(|cell| away(cell) && same(cell))
    }

    fn groups_away(&self) -> Groups {
        let mut groups = Groups::new();
        for cell in self.cells() {
            let group = match cell.away() {
                Away::No => continue,
                Away::Store => Group::Shard(self.store.shard(&cell.name)),
                Away::Refused => Group::Refused(cell.name.clone()),
            };
            groups.entry(group).or_default().push(cell);
        }
        groups
    }

    /// Asks a store that is away once more, before the registry ends.
    pub(super) async fn last_try(self: &Arc<Self>) {
        let groups = self.groups_away();
        join_all(groups.values().map(|cells| self.try_group(cells))).await;
    }

    /// Asks the store for one circuit of a group; whether the group is back.
    async fn try_group(self: &Arc<Self>, cells: &[Arc<Cell>]) -> bool {
        let Some(cell) = fastrand::choice(cells) else {
            return true;
        };
        let report = cell.pending_or_empty();
        let (number, asked) = (report.seq, Instant::now());
        let error = match self.ask(cell, report).await {
            Ok(snapshot) => {
                cell.delivered(number, snapshot.pace_ms);
                self.returned(cells);
                cell.take_shared(&snapshot, asked);
                return true;
            }
            Err(error) => error,
        };
        if let StoreError::Invalid(why) = &error {
            cell.lose_report(number, why);
        }
        let words = in_words(&error);
        tracing::debug!(error = %words, circuit = %cell.name, "the store is still away");
        self.link.trouble.lock().last_error = Some(words);
        if error.is_away() || cell.away() == Away::Refused {
            return false;
        }
        // It answers, though not to this.
        cell.leave_store(Away::Refused);
        let others = cells.iter().filter(|other| !Arc::ptr_eq(other, cell));
        self.returned(&others.cloned().collect::<Vec<_>>());
        true
    }

    /// Sends the report whose answer is awaited, or an empty one: a write, so it shows that the
    /// store takes reports again, and it brings back what this process remembers.
    async fn ask(&self, cell: &Arc<Cell>, report: Report) -> Result<Snapshot, StoreError> {
        let batch = [(Arc::clone(cell), report)];
        let answer = self.file(&batch).await.into_iter().next();
        answer.unwrap_or_else(|| Err(StoreError::Unreadable("no answer".to_owned())))
    }

    fn returned(&self, cells: &[Arc<Cell>]) {
        for cell in cells {
            cell.return_to_store();
        }
        let away_for = {
            let mut trouble = self.link.trouble.lock();
            let since = trouble.since;
            if !self.cells().iter().any(|cell| cell.is_away()) {
                trouble.since = None;
            }
            since.map_or(Duration::ZERO, |since| since.elapsed())
        };
        if !cells.is_empty() {
            tracing::info!(?away_for, circuits = cells.len(), replica = %self.replica, "the store is back");
        }
    }
}

/// When a group is asked for next, and how long the wait before that is.
type Due = (Instant, Duration);

async fn ask_until_back(shared: Arc<Shared>) {
    let jitter = |wait: Duration| wait.mul_f64(fastrand::f64().mul_add(0.5, 1.0));
    let mut due: HashMap<Group, Due> = HashMap::new();
    let mut stop = shared.stop.subscribe();
    loop {
        let groups = shared.groups_away();
        due.retain(|group, _| groups.contains_key(group));
        let first = (Instant::now() + jitter(FIRST_WAIT), FIRST_WAIT);
        for group in groups.keys() {
            due.entry(group.clone()).or_insert(first);
        }
        let Some(next) = due.values().map(|(at, _)| *at).min() else {
            shared.link.asking.store(false, Ordering::SeqCst);
            // Whoever left between the look and the word relies on this.
            let none = shared.groups_away().is_empty();
            if none || shared.link.asking.swap(true, Ordering::SeqCst) {
                return;
            }
            continue;
        };
        tokio::select! {
            () = sleep_until(next) => {}
            () = shared.link.more.notified() => continue,
            () = super::registry::stopped(&mut stop) => return,
        }
        let now = Instant::now();
        let asked = groups.iter().filter(|(group, _)| due[*group].0 <= now);
        let asked: Vec<_> = asked.collect();
        let back = join_all(asked.iter().map(|(_, cells)| shared.try_group(cells))).await;
        for ((group, _), back) in asked.into_iter().zip(back) {
            if !back && let Some((at, wait)) = due.get_mut(group) {
                *wait = (*wait * 2).min(LONGEST_WAIT);
                *at = Instant::now() + jitter(*wait);
            }
        }
    }
}
