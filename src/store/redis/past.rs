//! What an operator reads beside a circuit's snapshot: its past, and who takes part in it.
//!
//! Owns which keys are read for that; no script is needed, for nothing is decided by it.

use redis::{Cmd, FromRedisValue, RedisResult, Value, from_redis_value};
use tokio::time::Instant;

use super::{Inner, entries, steady, wire};
use crate::{
    model::{Interval, Members, Name, intervals},
    store::StoreError,
};

/// The most members of a circuit that are read.
const MOST_MEMBERS: i64 = 10_000;

impl Inner {
    /// The past of several circuits.
    pub(super) async fn history(
        &self,
        circuits: &[Name],
        most: usize,
    ) -> Result<Vec<Vec<Interval>>, StoreError> {
        if circuits.is_empty() || most == 0 {
            return Ok(vec![Vec::new(); circuits.len()]);
        }
        let mut commands = Vec::with_capacity(2 * circuits.len());
        for name in circuits {
            let [circuit, .., history, _] = self.prefix.all(name);
            let mut begins = redis::cmd("XREVRANGE");
            begins.arg(history).arg("+").arg("-");
            begins.arg("COUNT").arg(most);
            // After it, so that no slice seems to have lost what it had counted.
            let mut counts = redis::cmd("HGET");
            counts.arg(circuit).arg("counts");
            commands.extend([begins, counts]);
        }
        let mut answers = self.ask(&commands).await?.into_iter();
        let mut all = Vec::with_capacity(circuits.len());
        while let (Some(begins), Some(counts)) = (answers.next(), answers.next()) {
            // A past that somebody wrote over is none.
            let entries: Vec<(String, Value)> = read(begins).unwrap_or_default();
            let entries = entries.iter().rev();
            let begins = entries.filter_map(|(id, fields)| entries::begin(id, fields));
            let counts: Option<String> = read(counts).unwrap_or_default();
            let totals = steady::totals(&counts.unwrap_or_default());
            all.push(intervals(&begins.collect::<Vec<_>>(), totals));
        }
        Ok(all)
    }

    /// Who takes part in a circuit.
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
