//! The jobs of a queue in one process, which end with it.
//!
//! Owns the same places and moves as the scripts of queues in Redis: a job is in one place at a
//! time, and a running job carries the token of its run. Knows nothing of circuits or futures.
//! Twin: `lua/queue`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    JobState, QueueStats,
    job::{Record, Told},
};

/// Members ordered by time, then by name, like a sorted set in Redis.
#[derive(Debug, Default)]
struct Places {
    by_time: BTreeSet<(u64, String)>,
    times: HashMap<String, u64>,
}

impl Places {
    fn put(&mut self, member: &str, at_ms: u64) {
        self.remove(member);
        self.times.insert(member.to_owned(), at_ms);
        self.by_time.insert((at_ms, member.to_owned()));
    }

    fn remove(&mut self, member: &str) {
        if let Some(at_ms) = self.times.remove(member) {
            self.by_time.remove(&(at_ms, member.to_owned()));
        }
    }

    fn first(&self) -> Option<(u64, &String)> {
        self.by_time.first().map(|(at_ms, member)| (*at_ms, member))
    }

    fn members(&self) -> impl Iterator<Item = &String> {
        self.by_time.iter().map(|(_, member)| member)
    }

    /// The first member, if it is due.
    fn due(&self, now: u64) -> Option<String> {
        let (at_ms, member) = self.first()?;
        (at_ms <= now).then(|| member.clone())
    }

    fn len(&self) -> u64 {
        self.times.len() as u64
    }
}

#[derive(Debug)]
struct Kept {
    record: Record,
    payload: Vec<u8>,
    ttl_ms: u64,
    token: String,
    /// Its key in `ready`.
    entry: u64,
}

#[derive(Debug, Default)]
pub(super) struct Jobs {
    jobs: HashMap<String, Kept>,
    /// Ready jobs in the order in which they became ready, each with the time since when.
    ready: BTreeMap<u64, (String, u64)>,
    entries: u64,
    delayed: Places,
    leases: Places,
    dead: Places,
    expiring: Places,
    /// Idempotency key -> ID; `known` has the time until which a done job's key is remembered.
    keys: HashMap<String, String>,
    known: Places,
    enqueued: u64,
    done: u64,
    retried: u64,
    died: u64,
    expired: u64,
    discarded: u64,
}

/// A job to be kept.
pub(super) struct New<'a> {
    pub(super) id: &'a str,
    pub(super) key: &'a str,
    pub(super) delay_ms: u64,
    pub(super) ttl_ms: u64,
    pub(super) payload: Vec<u8>,
}

impl Jobs {
    /// Keeps a job, unless the queue has it or is full. Returns the ID under which it is kept
    /// (empty if it is not) and how many jobs there were.
    pub(super) fn enqueue(
        &mut self,
        now: u64,
        new: New<'_>,
        most: u64,
        most_dead: u64,
    ) -> (String, u64) {
        self.expire(now, most_dead);
        while let Some(key) = self.known.due(now) {
            self.known.remove(&key);
            self.keys.remove(&key);
        }
        let size = self.jobs.len() as u64 - self.dead.len();
        if let Some(known) = self.keys.get(new.key) {
            return (known.clone(), size);
        }
        if size >= most {
            return (String::new(), size);
        }
        if !new.key.is_empty() {
            self.keys.insert(new.key.to_owned(), new.id.to_owned());
        }
        let mut record = Record::new(new.key, now);
        if new.ttl_ms > 0 {
            record.expires_ms = now.saturating_add(new.ttl_ms);
            self.expiring.put(new.id, record.expires_ms);
        }
        let kept = Kept {
            record,
            payload: new.payload,
            ttl_ms: new.ttl_ms,
            token: String::new(),
            entry: 0,
        };
        self.jobs.insert(new.id.to_owned(), kept);
        self.delay(now, new.id, new.delay_ms);
        self.enqueued += 1;
        (new.id.to_owned(), size)
    }

    /// Gives one job to a worker, and returns how many more are ready.
    pub(super) fn take(
        &mut self,
        now: u64,
        (worker, token): (&str, &str),
        lease_ms: u64,
        most_attempts: u32,
        most_dead: u64,
    ) -> Option<(Told, u64)> {
        self.expire(now, most_dead);
        while let Some(id) = self.delayed.due(now) {
            self.delayed.remove(&id);
            self.make_ready(now, &id);
        }
        // Jobs of lost workers come first.
        while let Some(id) = self.leases.due(now) {
            self.leases.remove(&id);
            let Some(job) = self.jobs.get(&id).map(|kept| &kept.record) else {
                continue;
            };
            let lives = job.expires_ms == 0 || job.expires_ms > now;
            if job.attempts < most_attempts && lives {
                return Some(self.run(now, &id, (worker, token), lease_ms));
            }
            let reason = match job.attempts < most_attempts {
                true => "expired",
                false => "failed",
            };
            let words = format!("its worker {} was lost", job.worker);
            self.bury(now, &id, reason, words, most_dead);
        }
        let (_, (id, _)) = self.ready.pop_first()?;
        Some(self.run(now, &id, (worker, token), lease_ms))
    }

    fn run(
        &mut self,
        now: u64,
        id: &str,
        (worker, token): (&str, &str),
        lease_ms: u64,
    ) -> (Told, u64) {
        self.leases.put(id, now.saturating_add(lease_ms));
        let more = self.ready.len() as u64;
        let Some(job) = self.jobs.get_mut(id) else {
            return (Told(id.to_owned(), Record::new("", now), Vec::new()), more);
        };
        worker.clone_into(&mut job.record.worker);
        token.clone_into(&mut job.token);
        job.record.attempts += 1;
        (job.record.state, job.record.at_ms) = (JobState::Running, now);
        let told = Told(id.to_owned(), job.record.clone(), job.payload.clone());
        (told, more)
    }

    /// Whether this run still holds the job.
    fn is_run(&self, id: &str, token: &str) -> bool {
        let of = self.jobs.get(id);
        of.is_some_and(|job| job.record.state == JobState::Running && job.token == token)
    }

    pub(super) fn renew(&mut self, now: u64, id: &str, token: &str, lease_ms: u64) -> bool {
        let is_run = self.is_run(id, token);
        if is_run {
            self.leases.put(id, now.saturating_add(lease_ms));
        }
        is_run
    }

    /// Ends one run: `done`, `retry`, `bury` or `release`. Returns whether the run still held the
    /// job.
    pub(super) fn settle(
        &mut self,
        now: u64,
        (id, token, how): (&str, &str, &str),
        delay_ms: u64,
        error: &str,
        keep_ms: u64,
        most_dead: u64,
    ) -> bool {
        if !self.is_run(id, token) {
            return false;
        }
        self.leave(id);
        let Some(job) = self.jobs.get_mut(id) else {
            return false;
        };
        let expires_ms = job.record.expires_ms;
        match how {
            "done" => {
                let key = job.record.key.clone();
                if !key.is_empty() {
                    self.known.put(&key, now.saturating_add(keep_ms));
                }
                self.forget(id);
                self.done += 1;
            }
            "retry" if expires_ms == 0 || now.saturating_add(delay_ms) < expires_ms => {
                error.clone_into(&mut job.record.error);
                self.delay(now, id, delay_ms);
                self.retried += 1;
            }
            "release" => {
                job.record.attempts -= 1;
                if expires_ms > 0 {
                    self.expiring.put(id, expires_ms);
                }
                self.make_ready(now, id);
            }
            _ => {
                let reason = if how == "retry" { "expired" } else { "failed" };
                self.bury(now, id, reason, error.to_owned(), most_dead);
            }
        }
        true
    }

    /// Carries out an operator's command, `retry` or `drop`. Returns `done`, `unknown`, `running`
    /// or `known`.
    pub(super) fn steer(&mut self, now: u64, id: &str, how: &str) -> &'static str {
        let Some(job) = self.jobs.get_mut(id) else {
            return "unknown";
        };
        let key = job.record.key.clone();
        match (job.record.state, how) {
            (JobState::Running, _) => return "running",
            (_, "drop") => {
                if self.keys.get(&key).is_some_and(|of| of == id) {
                    self.keys.remove(&key);
                }
                self.leave(id);
                self.forget(id);
                return "done";
            }
            (JobState::Ready, _) => return "done",
            (JobState::Dead, _) => {
                if self.keys.get(&key).is_some_and(|of| of != id) {
                    return "known";
                }
                if !key.is_empty() {
                    self.keys.insert(key, id.to_owned());
                }
                (job.record.attempts, job.record.reason) = (0, String::new());
                if job.ttl_ms > 0 {
                    job.record.expires_ms = now.saturating_add(job.ttl_ms);
                    self.expiring.put(id, job.record.expires_ms);
                }
            }
            (JobState::Delayed, _) => {}
        }
        self.leave(id);
        self.make_ready(now, id);
        "done"
    }

    pub(super) fn stats(&self, now: u64) -> QueueStats {
        let places = [self.delayed.first(), self.leases.first()];
        let soonest = places.iter().flatten().map(|(at_ms, _)| *at_ms).min();
        let next_ms = match (self.ready.is_empty(), soonest) {
            (false, _) => 0,
            (true, Some(at_ms)) => i64::try_from(at_ms).unwrap_or(i64::MAX),
            (true, None) => -1,
        };
        let ready = self.ready.first_key_value().map(|(_, (_, since))| *since);
        let due = soonest.filter(|at_ms| *at_ms <= now);
        QueueStats {
            now_ms: now,
            next_ms,
            ready: self.ready.len() as u64,
            delayed: self.delayed.len(),
            running: self.leases.len(),
            dead: self.dead.len(),
            enqueued: self.enqueued,
            done: self.done,
            retried: self.retried,
            died: self.died,
            expired: self.expired,
            discarded: self.discarded,
            oldest_ms: ready.into_iter().chain(due).min().unwrap_or(0),
        }
    }

    /// The jobs in a state, the next ones first, without their payloads.
    pub(super) fn list(&self, state: JobState, most: usize) -> Vec<Told> {
        let ids: Vec<&String> = match state {
            JobState::Ready => self.ready.values().map(|(id, _)| id).take(most).collect(),
            JobState::Delayed => self.delayed.members().take(most).collect(),
            JobState::Running => self.leases.members().take(most).collect(),
            JobState::Dead => self.dead.members().take(most).collect(),
        };
        let told = ids.into_iter().filter_map(|id| self.told(id, false));
        told.collect()
    }

    /// One job, with its payload.
    pub(super) fn show(&self, id: &str) -> Option<Told> {
        self.told(id, true)
    }

    fn told(&self, id: &str, whole: bool) -> Option<Told> {
        let job = self.jobs.get(id)?;
        let payload = if whole {
            job.payload.clone()
        } else {
            Vec::new()
        };
        Some(Told(id.to_owned(), job.record.clone(), payload))
    }

    /// Takes a job out of its place.
    fn leave(&mut self, id: &str) {
        self.delayed.remove(id);
        self.dead.remove(id);
        self.leases.remove(id);
        if let Some(job) = self.jobs.get_mut(id) {
            self.ready.remove(&job.entry);
            job.record.worker.clear();
            job.token.clear();
        }
    }

    fn make_ready(&mut self, now: u64, id: &str) {
        if let Some(job) = self.jobs.get_mut(id) {
            self.entries += 1;
            job.entry = self.entries;
            (job.record.state, job.record.at_ms) = (JobState::Ready, now);
            self.ready.insert(job.entry, (id.to_owned(), now));
        }
    }

    fn delay(&mut self, now: u64, id: &str, for_ms: u64) {
        if for_ms == 0 {
            return self.make_ready(now, id);
        }
        if let Some(job) = self.jobs.get_mut(id) {
            let at_ms = now.saturating_add(for_ms);
            (job.record.state, job.record.at_ms) = (JobState::Delayed, at_ms);
            self.delayed.put(id, at_ms);
        }
    }

    /// Removes a job that is in no place any more.
    fn forget(&mut self, id: &str) {
        self.jobs.remove(id);
        self.expiring.remove(id);
    }

    /// Makes a job a dead letter; beyond the limit, the oldest dead letter is discarded.
    fn bury(&mut self, now: u64, id: &str, reason: &str, error: String, most_dead: u64) {
        self.leave(id);
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        (job.record.state, job.record.at_ms) = (JobState::Dead, now);
        (job.record.reason, job.record.error) = (reason.to_owned(), error);
        if self.keys.get(&job.record.key).is_some_and(|of| of == id) {
            self.keys.remove(&job.record.key);
        }
        self.expiring.remove(id);
        self.dead.put(id, now);
        match reason {
            "expired" => self.expired += 1,
            _ => self.died += 1,
        }
        while self.dead.len() > most_dead
            && let Some((_, oldest)) = self.dead.first()
        {
            let oldest = oldest.clone();
            self.dead.remove(&oldest);
            self.forget(&oldest);
            self.discarded += 1;
        }
    }

    /// Buries jobs that have waited too long. A running job may still succeed.
    fn expire(&mut self, now: u64, most_dead: u64) {
        while let Some(id) = self.expiring.due(now) {
            self.expiring.remove(&id);
            let waits = self
                .jobs
                .get(&id)
                .filter(|job| job.record.state != JobState::Running);
            if let Some(error) = waits.map(|job| job.record.error.clone()) {
                self.bury(now, &id, "expired", error, most_dead);
            }
        }
    }
}
