//! Whether the store answers.
//!
//! Owns which circuits are away from it, and the one task that asks until they are back: nobody
//! else asks a store that is away. Circuits of one shard go and come together; one that the store
//! refuses goes alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    cell::{Away, Cell},
    registry::Shared,
    reporter::BATCH,
};
use crate::{
    model::{Latencies, Name},
    store::{StoreError, in_words},
};

/// Waits between two questions to a store that is away; each is lengthened at random by up to a
/// half, so that a fleet does not ask in step.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_millis(300);
/// Batches of questions to a store that is away that are under way at once.
const ASKING: usize = 4;

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
    pub(super) fn note_trouble(&self) {
        let mut trouble = self.trouble.lock();
        trouble.since.get_or_insert_with(Instant::now);
        trouble.times += 1;
    }

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
    /// Shards whose circuits are away.
    shards: BTreeSet<u16>,
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
    /// The last error, in words; once [`ended`](Self::ended), what ended it.
    pub last_error: Option<String>,
    /// Whether nothing is asked of the store or told it any more: the registry was shut down, or
    /// the runtime on which it was made is gone. Calls are decided by this process alone.
    pub ended: bool,
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
        let ended = self.ended();
        let trouble = self.link.trouble.lock();
        Health {
            enabled: !self.is_off(),
            away_for: trouble.since.map(|since| since.elapsed()),
            circuits_away: count(Cell::is_away),
            times_away: trouble.times,
            last_error: ended
                .map(str::to_owned)
                .or_else(|| trouble.last_error.clone()),
            ended: ended.is_some(),
            push: count(|cell| cell.followed.load(Ordering::Relaxed)) == cells.len(),
            publications_contradicted: self.link.contradicted.load(Ordering::Relaxed),
            reports_pending: count(|cell| cell.outbox.lock().is_pending()),
            round_trips: self.link.round_trips.lock().clone(),
        }
    }

    /// The store failed circuits: from now on nobody asks it for those, and for those that share
    /// their fate, but one task.
    pub(super) fn store_failed(self: &Arc<Self>, failed: &[(&Arc<Cell>, StoreError)]) {
        let Some((_, last)) = failed.last() else {
            return;
        };
        self.link.trouble.lock().last_error = Some(in_words(last));
        let refused = failed.iter().filter(|(_, error)| !error.is_away());
        let refused: Vec<_> = refused
            .filter(|(cell, _)| cell.leave_store(Away::Refused))
            .collect();
        let mut left = refused.len();
        if let Some((cell, error)) = refused.first() {
            self.link.note_trouble();
            let words = in_words(error);
            tracing::warn!(error = %words, circuit = %cell.name, circuits = left, replica = %self.replica, "the store refuses circuits");
        }
        for (cell, error) in failed.iter().filter(|(_, error)| error.is_away()) {
            if cell.away() != Away::Store {
                left += self.shard_failed(cell, error);
            }
        }
        if left == 0 {
            return;
        }
        if !self.link.asking.swap(true, Ordering::SeqCst) {
            self.spawn(ask_until_back(Arc::clone(self)));
        }
        self.link.more.notify_one();
    }

    /// The store serves nobody of the circuit's shard; how many circuits go on without it now.
    fn shard_failed(&self, cell: &Arc<Cell>, error: &StoreError) -> usize {
        let shard = self.store.shard(&cell.name);
        let fate = self.cells().into_iter();
        let fate = fate.filter(|other| self.store.shard(&other.name) == shard);
        let left = fate.filter(|cell| cell.leave_store(Away::Store)).count();
        // It may be no longer in the registry.
        let left = left + usize::from(cell.leave_store(Away::Store));
        // A circuit that was made in this very moment follows the others without a word.
        if self.link.trouble.lock().shards.insert(shard) && left > 0 {
            self.link.note_trouble();
            let words = in_words(error);
            tracing::warn!(error = %words, circuits = left, replica = %self.replica, "the store is away");
        }
        left
    }

    /// Whether a new circuit begins without the store.
    pub(super) fn begins_away(&self, name: &Name) -> bool {
        let shards = &self.link.trouble.lock().shards;
        !shards.is_empty() && shards.contains(&self.store.shard(name))
    }

    fn groups_away(&self) -> Groups {
        let mut groups = Groups::new();
        for cell in self.cells() {
            let group = match cell.away() {
                Away::No | Away::Ended => continue,
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
        self.try_groups(groups.into_iter().collect()).await;
    }

    /// Asks the store for one circuit of each group; which groups are not back.
    async fn try_groups(self: &Arc<Self>, groups: Vec<(Group, Vec<Arc<Cell>>)>) -> Vec<Group> {
        let mut batches = Vec::new();
        let mut refused = Vec::new();
        for group in groups {
            match group.0 {
                // What hangs must not hold up other shards.
                Group::Shard(_) => batches.push(vec![group]),
                Group::Refused(_) => refused.push(group),
            }
        }
        batches.extend(refused.chunks(BATCH).map(<[_]>::to_vec));
        let asked = batches
            .into_iter()
            .map(|batch| Arc::clone(self).try_batch(batch));
        let asked: Vec<_> = stream::iter(asked).buffer_unordered(ASKING).collect().await;
        asked.into_iter().flatten().collect()
    }

    async fn try_batch(self: Arc<Self>, groups: Vec<(Group, Vec<Arc<Cell>>)>) -> Vec<Group> {
        // The report whose answer is awaited, or an empty one: a write, so it shows that the store
        // takes reports again, and it brings back what this process remembers.
        let chosen = groups
            .iter()
            .filter_map(|(_, cells)| fastrand::choice(cells));
        let batch: Vec<_> = chosen
            .map(|cell| (Arc::clone(cell), cell.pending_or_empty()))
            .collect();
        let at = Instant::now();
        let answers = self.file(&batch).await;
        let (mut back, mut not_back) = (Vec::new(), Vec::new());
        let asked = groups.iter().zip(&batch).zip(answers);
        let mut news = Vec::new();
        for (((group, cells), (cell, report)), answer) in asked {
            match answer {
                Ok(snapshot) => {
                    cell.delivered(report.seq, snapshot.pace_ms);
                    back.extend(cells.iter().cloned());
                    news.push((cell, snapshot));
                }
                Err(error) => match self.still_away(cell, report.seq, &error) {
                    true => not_back.push(group.clone()),
                    false => {
                        let others = cells.iter().filter(|other| !Arc::ptr_eq(other, cell));
                        back.extend(others.cloned());
                    }
                },
            }
        }
        self.returned(&back);
        for (cell, snapshot) in news {
            cell.take_shared(&snapshot, at);
        }
        not_back
    }

    /// The store did not take a circuit's report; whether it is away, and not only refuses this.
    fn still_away(&self, cell: &Arc<Cell>, number: u64, error: &StoreError) -> bool {
        if let StoreError::Invalid(why) = error {
            cell.lose_report(number, why);
        }
        let words = in_words(error);
        tracing::debug!(error = %words, circuit = %cell.name, "the store is still away");
        self.link.trouble.lock().last_error = Some(words);
        if error.is_away() || cell.away() == Away::Refused {
            return true;
        }
        cell.leave_store(Away::Refused);
        false
    }

    fn returned(&self, cells: &[Arc<Cell>]) {
        if cells.is_empty() {
            return;
        }
        let shards = |cells: &[Arc<Cell>]| -> BTreeSet<u16> {
            let shards = cells.iter().map(|cell| self.store.shard(&cell.name));
            shards.collect()
        };
        // Before they return: one that fails then takes the others away again.
        let back = shards(cells);
        let mut trouble = self.link.trouble.lock();
        trouble.shards.retain(|shard| !back.contains(shard));
        drop(trouble);
        for cell in cells {
            cell.return_to_store();
        }
        let away_for = {
            let mut away = self.cells();
            away.retain(|cell| cell.is_away());
            let mut trouble = self.link.trouble.lock();
            let since = trouble.since;
            let still = shards(&away);
            trouble.shards.retain(|shard| still.contains(shard));
            if away.is_empty() {
                trouble.since = None;
            }
            since.map_or(Duration::ZERO, |since| since.elapsed())
        };
        tracing::info!(?away_for, circuits = cells.len(), replica = %self.replica, "the store is back");
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
        let asked = groups.into_iter().filter(|(group, _)| due[group].0 <= now);
        for group in shared.try_groups(asked.collect()).await {
            if let Some((at, wait)) = due.get_mut(&group) {
                *wait = (*wait * 2).min(LONGEST_WAIT);
                *at = Instant::now() + jitter(*wait);
            }
        }
    }
}
