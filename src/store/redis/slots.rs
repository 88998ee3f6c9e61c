//! Which circuits of a Cluster share a master, and so fail together.
//!
//! Owns the decoding of `CLUSTER SLOTS`; routing is the client's task.

use redis::Value;

use crate::model::Name;

const SLOTS: u16 = 16384;

/// Ranges of slots, each with a number for its master, and the masters' addresses.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Slots {
    ranges: Vec<(u16, u16, u16)>,
    pub(super) masters: Vec<(String, u16)>,
}

impl Slots {
    /// Decodes an answer; ranges of an unknown form are left out.
    pub(super) fn read(answer: &Value) -> Self {
        let Value::Array(ranges) = answer else {
            return Self::default();
        };
        let mut slots = Self::default();
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
            let (Ok(first), Ok(last), Some(address)) =
                (u16::try_from(*first), u16::try_from(*last), address(master))
            else {
                continue;
            };
            if last < first {
                continue;
            }
            let masters = &mut slots.masters;
            let number = masters.iter().position(|known| *known == address);
            let number = number.unwrap_or_else(|| {
                masters.push(address);
                masters.len() - 1
            });
            // 0 means unknown.
            let number = u16::try_from(number + 1).unwrap_or(u16::MAX);
            slots.ranges.push((first, last, number));
        }
        slots
    }

    /// Whether every slot is served. A dead master's slots are not, until it has a successor.
    pub(super) fn is_whole(&self) -> bool {
        self.unserved() == 0
    }

    /// The number of slots that no master serves.
    pub(super) fn unserved(&self) -> usize {
        let served = |(first, last, _): &(u16, u16, u16)| usize::from(last - first) + 1;
        usize::from(SLOTS).abs_diff(self.ranges.iter().map(served).sum())
    }

    pub(super) fn shard(&self, slot: u16) -> u16 {
        let range = self
            .ranges
            .iter()
            .find(|(first, last, _)| (*first..=*last).contains(&slot));
        range.map_or(0, |(_, _, shard)| *shard)
    }
}

fn address(node: &[Value]) -> Option<(String, u16)> {
    let [Value::BulkString(host), Value::Int(port), ..] = node else {
        return None;
    };
    let host = String::from_utf8(host.clone()).ok()?;
    Some((host, u16::try_from(*port).ok()?))
}

/// The slot of all keys of a circuit: their hash tag is its name.
pub(super) fn slot(circuit: &Name) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(circuit.as_str().as_bytes()) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str) -> Value {
        let text = |text: &str| Value::BulkString(text.into());
        Value::Array(vec![text(host), Value::Int(7000), text("id")])
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
            range(9, 3, "a"),
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
