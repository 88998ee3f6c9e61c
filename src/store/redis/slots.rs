//! Which circuits of a Cluster share a master, and so its fate.
//!
//! Owns the reading of `CLUSTER SLOTS`; routes nothing, the client does that.

use redis::Value;

use crate::model::Name;

const SLOTS: u16 = 16384;

/// Ranges of slots, each with a number for its master.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Slots(Vec<(u16, u16, u16)>);

impl Slots {
    /// Reads an answer; what is not understood is left out.
    pub(super) fn read(answer: &Value) -> Self {
        let Value::Array(ranges) = answer else {
            return Self::default();
        };
        let mut masters: Vec<&Value> = Vec::new();
        let mut read = Vec::new();
        for range in ranges {
            let Value::Array(parts) = range else { continue };
            let [
                Value::Int(first),
                Value::Int(last),
                Value::Array(master),
                ..,
            ] = &parts[..]
            else {
                continue;
            };
            // Address, port, id.
            let (Ok(first), Ok(last), Some(id)) =
                (u16::try_from(*first), u16::try_from(*last), master.get(2))
            else {
                continue;
            };
            let number = masters.iter().position(|known| *known == id);
            let number = number.unwrap_or_else(|| {
                masters.push(id);
                masters.len() - 1
            });
            // 0 is for what nobody knows.
            read.push((first, last, u16::try_from(number + 1).unwrap_or(u16::MAX)));
        }
        Self(read)
    }

    pub(super) fn shard(&self, slot: u16) -> u16 {
        let range = self
            .0
            .iter()
            .find(|(first, last, _)| (*first..=*last).contains(&slot));
        range.map_or(0, |(_, _, shard)| *shard)
    }
}

/// The slot of everything that belongs to a circuit: its name is the keys' hash tag.
pub(super) fn slot(circuit: &Name) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(circuit.as_str().as_bytes()) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> Value {
        let text = |text: &str| Value::BulkString(text.into());
        Value::Array(vec![text("127.0.0.1"), Value::Int(7000), text(id)])
    }

    fn range(first: i64, last: i64, id: &str) -> Value {
        Value::Array(vec![
            Value::Int(first),
            Value::Int(last),
            node(id),
            node("replica"),
        ])
    }

    #[test]
    fn ranges_of_one_master_are_one_shard() {
        let answer = Value::Array(vec![
            range(0, 99, "a"),
            range(100, 200, "b"),
            range(201, 16383, "a"),
            Value::Nil,
        ]);
        let slots = Slots::read(&answer);
        assert_eq!([0, 150, 16383].map(|s| slots.shard(s)), [1, 2, 1]);
        assert_eq!(Slots::read(&Value::Nil).shard(5), 0);
    }

    #[test]
    fn slots_are_those_of_redis() {
        // `CLUSTER KEYSLOT commontrip:{payments}` on Redis 7.0.
        assert_eq!(slot(&Name::new("payments").unwrap()), 8507);
    }
}
