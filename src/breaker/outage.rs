//! Whether the store answers.
//!
//! Owns which circuits continue without the store, and the single task that asks it until they are
//! back: nothing else asks an unavailable store. Circuits of one shard leave and return together; a
//! circuit that the store refuses leaves alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep_until};

use super::{
    health::RegistryHealth,
    inner::{CircuitInner, Unavailable},
    shared::Shared,
};
use crate::{
    model::Name,
    store::{StoreError, in_words},
};

/// Waits between two attempts to reach an unavailable store. Each is lengthened at random by up to
/// a half, so that a fleet does not ask in step.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_millis(300);
/// Batches in flight to an unavailable store at once.
const ASKING: usize = 4;

/// Circuits that come back together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Group {
    Shard(u16),
    Refused(Name),
}

type Groups = BTreeMap<Group, Vec<Arc<CircuitInner>>>;

impl Shared {
    pub(super) fn health(&self) -> RegistryHealth {
        let inners = self.inners();
        let count =
            |holds: fn(&CircuitInner) -> bool| inners.iter().filter(|inner| holds(inner)).count();
        let ended = self.ended();
        let trouble = self.outage.trouble.lock();
        RegistryHealth {
            enabled: !self.is_off(),
            circuits_off: count(|inner| inner.off.load(Ordering::SeqCst)),
            unavailable_for: trouble.since.map(|since| since.elapsed()),
            circuits_unavailable: count(CircuitInner::is_unavailable),
            times_unavailable: trouble.times,
            last_error: ended
                .map(str::to_owned)
                .or_else(|| trouble.last_error.clone()),
            ended: ended.is_some(),
            push: count(|inner| inner.followed.load(Ordering::Relaxed)) == inners.len(),
            publications_contradicted: self.outage.contradicted.load(Ordering::Relaxed),
            reports_pending: count(|inner| inner.outbox.lock().is_pending()),
            round_trips: self.outage.round_trips.lock().clone(),
        }
    }

    /// The store failed these circuits. From now on, only one task asks it about them and about the
    /// circuits of the same shard.
    pub(super) fn store_failed(self: &Arc<Self>, failed: &[(&Arc<CircuitInner>, StoreError)]) {
        let Some((_, last)) = failed.last() else {
            return;
        };
        self.outage.trouble.lock().last_error = Some(in_words(last));
        let refused = failed.iter().filter(|(_, error)| !error.is_unavailable());
        let refused: Vec<_> = refused
            .filter(|(inner, _)| inner.leave_store(Unavailable::Refused))
            .collect();
        let mut left = refused.len();
        if let Some((inner, error)) = refused.first() {
            self.outage.note_trouble();
            let words = in_words(error);
            tracing::warn!(target: "commontrip::store", error = %words, circuit = %inner.name, circuits = left, replica = %self.replica, "the store refuses circuits");
        }
        for (inner, error) in failed.iter().filter(|(_, error)| error.is_unavailable()) {
            if inner.unavailable() != Unavailable::Store {
                left += self.shard_failed(inner, error);
            }
        }
        if left == 0 {
            return;
        }
        if !self.outage.asking.swap(true, Ordering::SeqCst) {
            self.spawn(ask_until_back(Arc::clone(self)));
        }
        self.outage.more.notify_one();
    }

    /// The store serves no circuit of this shard. Returns how many circuits newly continue without
    /// it.
    fn shard_failed(&self, inner: &Arc<CircuitInner>, error: &StoreError) -> usize {
        let shard = self.store.shard(&inner.name);
        let fate = self.inners().into_iter();
        let fate = fate.filter(|other| self.store.shard(&other.name) == shard);
        let left = fate
            .filter(|inner| inner.leave_store(Unavailable::Store))
            .count();
        // The circuit may no longer be in the registry.
        let left = left + usize::from(inner.leave_store(Unavailable::Store));
        // A circuit created at this very moment joins the others without a log line.
        if self.outage.trouble.lock().shards.insert(shard) && left > 0 {
            self.outage.note_trouble();
            let words = in_words(error);
            tracing::warn!(target: "commontrip::store", error = %words, circuits = left, replica = %self.replica, "the store is unavailable");
        }
        left
    }

    /// Whether a new circuit starts without the store.
    pub(super) fn begins_unavailable(&self, name: &Name) -> bool {
        let shards = &self.outage.trouble.lock().shards;
        !shards.is_empty() && shards.contains(&self.store.shard(name))
    }

    fn groups_unavailable(&self) -> Groups {
        let mut groups = Groups::new();
        for inner in self.inners() {
            let group = match inner.unavailable() {
                Unavailable::No | Unavailable::Ended => continue,
                Unavailable::Store => Group::Shard(self.store.shard(&inner.name)),
                Unavailable::Refused => Group::Refused(inner.name.clone()),
            };
            groups.entry(group).or_default().push(inner);
        }
        groups
    }

    /// Asks an unavailable store once more before the registry ends.
    pub(super) async fn last_try(self: &Arc<Self>) {
        let groups = self.groups_unavailable();
        self.try_groups(groups.into_iter().collect()).await;
    }

    /// Asks the store about one circuit of each group; returns the groups that are not back.
    async fn try_groups(
        self: &Arc<Self>,
        groups: Vec<(Group, Vec<Arc<CircuitInner>>)>,
    ) -> Vec<Group> {
        let mut batches = Vec::new();
        let mut refused = Vec::new();
        for group in groups {
            match group.0 {
                // A shard that hangs must not hold up others.
                Group::Shard(_) => batches.push(vec![group]),
                Group::Refused(_) => refused.push(group),
            }
        }
        batches.extend(refused.chunks(self.batch_size.get()).map(<[_]>::to_vec));
        let asked = batches
            .into_iter()
            .map(|batch| Arc::clone(self).try_batch(batch));
        let asked: Vec<_> = stream::iter(asked).buffer_unordered(ASKING).collect().await;
        asked.into_iter().flatten().collect()
    }

    async fn try_batch(
        self: Arc<Self>,
        groups: Vec<(Group, Vec<Arc<CircuitInner>>)>,
    ) -> Vec<Group> {
        // The unanswered report, or an empty one. It is a write, so it shows that the store accepts
        // reports again, and it restores what this process remembers.
        let chosen = groups
            .iter()
            .filter_map(|(_, inners)| fastrand::choice(inners));
        let batch: Vec<_> = chosen
            .map(|inner| (Arc::clone(inner), inner.pending_or_empty()))
            .collect();
        let at = Instant::now();
        let answers = self.file(&batch).await;
        let (mut back, mut not_back) = (Vec::new(), Vec::new());
        let asked = groups.iter().zip(&batch).zip(answers);
        let mut news = Vec::new();
        for (((group, inners), (inner, report)), answer) in asked {
            match answer {
                Ok(snapshot) => {
                    inner.delivered(report.seq, snapshot.pace_ms);
                    back.extend(inners.iter().cloned());
                    news.push((inner, snapshot));
                }
                Err(error) => match self.still_unavailable(inner, report.seq, &error) {
                    true => not_back.push(group.clone()),
                    false => {
                        let others = inners.iter().filter(|other| !Arc::ptr_eq(other, inner));
                        back.extend(others.cloned());
                    }
                },
            }
        }
        self.returned(&back);
        for (inner, snapshot) in news {
            inner.take_shared(&snapshot, at);
        }
        not_back
    }

    /// The store did not accept a circuit's report. Returns whether the whole group is still
    /// unavailable; otherwise the store refuses only this circuit.
    fn still_unavailable(
        &self,
        inner: &Arc<CircuitInner>,
        number: u64,
        error: &StoreError,
    ) -> bool {
        if let StoreError::Invalid(why) = error {
            inner.lose_report(number, why);
        }
        let words = in_words(error);
        tracing::debug!(target: "commontrip::store", error = %words, circuit = %inner.name, "the store is still unavailable");
        self.outage.trouble.lock().last_error = Some(words);
        if error.is_unavailable() || inner.unavailable() == Unavailable::Refused {
            return true;
        }
        inner.leave_store(Unavailable::Refused);
        false
    }

    fn returned(&self, inners: &[Arc<CircuitInner>]) {
        if inners.is_empty() {
            return;
        }
        let shards = |inners: &[Arc<CircuitInner>]| -> BTreeSet<u16> {
            let shards = inners.iter().map(|inner| self.store.shard(&inner.name));
            shards.collect()
        };
        // Before they return: if one then fails, the store becomes unavailable to the others again.
        let back = shards(inners);
        let mut trouble = self.outage.trouble.lock();
        trouble.shards.retain(|shard| !back.contains(shard));
        drop(trouble);
        for inner in inners {
            inner.return_to_store();
        }
        let unavailable_for = {
            let mut unavailable = self.inners();
            unavailable.retain(|inner| inner.is_unavailable());
            let mut trouble = self.outage.trouble.lock();
            let since = trouble.since;
            let still = shards(&unavailable);
            trouble.shards.retain(|shard| still.contains(shard));
            if unavailable.is_empty() {
                trouble.since = None;
            }
            since.map_or(Duration::ZERO, |since| since.elapsed())
        };
        tracing::info!(target: "commontrip::store", ?unavailable_for, circuits = inners.len(), replica = %self.replica, "the store is back");
    }
}

/// When a group is asked next, and how long the wait before that is.
type Due = (Instant, Duration);

async fn ask_until_back(shared: Arc<Shared>) {
    let jitter = |wait: Duration| wait.mul_f64(fastrand::f64().mul_add(0.5, 1.0));
    let mut due: HashMap<Group, Due> = HashMap::new();
    let mut stop = shared.stop.subscribe();
    loop {
        let groups = shared.groups_unavailable();
        due.retain(|group, _| groups.contains_key(group));
        let first = (Instant::now() + jitter(FIRST_WAIT), FIRST_WAIT);
        for group in groups.keys() {
            due.entry(group.clone()).or_insert(first);
        }
        let Some(next) = due.values().map(|(at, _)| *at).min() else {
            shared.outage.asking.store(false, Ordering::SeqCst);
            // A circuit that left just before the flag was cleared relies on this second look.
            let none = shared.groups_unavailable().is_empty();
            if none || shared.outage.asking.swap(true, Ordering::SeqCst) {
                return;
            }
            continue;
        };
        tokio::select! {
            () = sleep_until(next) => {}
            () = shared.outage.more.notified() => continue,
            () = super::shared::stopped(&mut stop) => return,
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
