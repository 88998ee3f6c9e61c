//! What an operator reads in addition to a circuit's snapshot: its history, events and members.
//!
//! Owns which keys are read for that; needs no script, because nothing is decided.

use redis::{Cmd, FromRedisValue, RedisResult, Value, from_redis_value};
use tokio::time::Instant;

use super::{Inner, entries, fast_path, wire};
use crate::{
    model::{Event, History, Interval, Members, Name, Slice},
    store::StoreError,
};

/// The maximum number of members of a circuit that are read.
const MOST_MEMBERS: i64 = 10_000;

/// How many events are read at first (usually only one or two are new), and how many are kept.
const FEW_EVENTS: usize = 8;
const MOST_EVENTS: usize = 256;

impl Inner {
    /// The history of several circuits, at most `most` intervals for each.
    pub(super) async fn history(
        &self,
        circuits: &[Name],
        most: usize,
    ) -> Result<Vec<Vec<Interval>>, StoreError> {
        if circuits.is_empty() || most == 0 {
            return Ok(vec![Vec::new(); circuits.len()]);
        }
        let pasts = self.pasts(circuits, History::fields_of(most)).await?;
        let newest = |(history, totals): (History, _)| history.newest(most, totals);
        Ok(pasts.into_iter().map(newest).collect())
    }

    /// Everything kept of one circuit's history.
    pub(super) async fn past(&self, circuit: &Name) -> Result<Vec<Slice>, StoreError> {
        let circuits = std::slice::from_ref(circuit);
        let pasts = self.pasts(circuits, &History::FIELDS).await?;
        let slices = |(history, totals): (History, _)| history.slices(totals);
        Ok(pasts.into_iter().next().map(slices).unwrap_or_default())
    }

    /// The contents of these fields of the history, and the lifetime totals.
    async fn pasts(
        &self,
        circuits: &[Name],
        fields: &[&str],
    ) -> Result<Vec<(History, [u64; 6])>, StoreError> {
        let mut commands = Vec::with_capacity(2 * circuits.len());
        for name in circuits {
            let [circuit, .., history, _, _] = self.prefix.all(name);
            let mut held = redis::cmd("HMGET");
            held.arg(history).arg(fields);
            // After the history, so that no slice seems to have lost counts.
            let mut counts = redis::cmd("HMGET");
            counts.arg(circuit).arg(&fast_path::TOTALS);
            commands.extend([held, counts]);
        }
        let mut answers = self.ask(&commands).await?.into_iter();
        let mut all = Vec::with_capacity(circuits.len());
        while let (Some(held), Some(counts)) = (answers.next(), answers.next()) {
            // An overwritten history reads as empty.
            let history = History::read(texts(held).iter().map(Option::as_deref));
            all.push((history, fast_path::totals(&texts(counts))));
        }
        Ok(all)
    }

    /// Events after a generation, oldest first.
    pub(super) async fn events(
        &self,
        circuit: &Name,
        after: u64,
    ) -> Result<Vec<Event>, StoreError> {
        let newest_first = || {
            let mut read = redis::cmd("XREVRANGE");
            read.arg(self.prefix.events(circuit)).arg("+").arg("-");
            read
        };
        let mut few = newest_first();
        few.arg("COUNT").arg(FEW_EVENTS);
        let mut entries: Vec<(String, Value)> = self.command(few).await?;
        let oldest = entries
            .last()
            .and_then(|(_, fields)| entries::event(fields));
        if entries.len() == FEW_EVENTS && oldest.is_none_or(|e| e.is_after(after)) {
            let mut all = newest_first();
            all.arg("COUNT").arg(MOST_EVENTS);
            entries = self.command(all).await?;
        }
        let events = entries.iter().rev();
        let events = events.filter_map(|(_, fields)| entries::event(fields));
        Ok(events.filter(|e| e.is_after(after)).collect())
    }

    /// The members of a circuit.
    pub(super) async fn members(&self, name: &Name, now_ms: u64) -> Result<Members, StoreError> {
        let [_, _, probes, replicas, _, _, failing, alone, ..] = self.prefix.all(name);
        let commands = [probes, replicas, failing, alone].map(|key| {
            let mut newest = redis::cmd("ZRANGE");
            newest.arg(key).arg(-MOST_MEMBERS).arg(-1).arg("WITHSCORES");
            newest
        });
        let mut times = Vec::with_capacity(commands.len());
        for answer in self.ask(&commands).await? {
            times.push(entries::times(read(answer)?));
        }
        match <[_; 4]>::try_from(times) {
            Ok([probes, seen, failing, alone]) => {
                Ok(Members::new(now_ms, probes, &seen, &failing, alone))
            }
            Err(_) => Err(StoreError::Unreadable("no answer".to_owned())),
        }
    }

    async fn ask(&self, commands: &[Cmd]) -> Result<Vec<RedisResult<Value>>, StoreError> {
        self.send(commands, true, Instant::now() + self.timeout)
            .await
    }
}

fn read<T: FromRedisValue>(answer: RedisResult<Value>) -> Result<T, StoreError> {
    let value = answer.map_err(wire::error)?;
    from_redis_value(value).map_err(|e| StoreError::Unreadable(e.to_string()))
}

/// Fields as text; a field that is not UTF-8 counts as missing.
fn texts(answer: RedisResult<Value>) -> Vec<Option<String>> {
    let fields: Vec<Option<Vec<u8>>> = read(answer).unwrap_or_default();
    let text = |bytes: Option<Vec<u8>>| String::from_utf8(bytes?).ok();
    fields.into_iter().map(text).collect()
}
