//! Stream entries and members of sorted sets in a circuit's record.
//!
//! Invariant: foreign data is left out, and never causes a panic.

use redis::Value;

use crate::model::{Event, LARGEST, Times};

/// An entry of the event stream; `None` if this crate did not write it.
pub(super) fn event(fields: &Value) -> Option<Event> {
    let text = |name: &str| text_of(fields, name);
    let number = |name: &str| text(name)?.parse::<u64>().ok();
    Some(Event {
        generation: number("generation")?,
        from: text("from")?.parse().ok()?,
        to: text("to")?.parse().ok()?,
        reason: text("reason")?.parse().ok()?,
        at_ms: number("at_ms")?,
        until_ms: number("until_ms")?,
        consecutive_opens: number("consecutive_opens")?,
        calls: number("calls")?,
        failures: number("failures")?,
        slow: number("slow")?,
        by: text("by")?,
        note: text("note")?,
        origin: text("origin").unwrap_or_default(),
        policy: text("policy").unwrap_or_default(),
        leading_failure: text("leading_failure").unwrap_or_default(),
    })
}

/// A field of a stream entry.
fn text_of(fields: &Value, name: &str) -> Option<String> {
    let Value::Array(items) = fields else {
        return None;
    };
    let mut pairs = items.chunks_exact(2);
    pairs.find_map(|pair| match (&pair[0], &pair[1]) {
        (Value::BulkString(key), Value::BulkString(value)) if key == name.as_bytes() => {
            Some(String::from_utf8_lossy(value).into_owned())
        }
        _ => None,
    })
}

/// Members of a sorted set with their scores, which are times. Others are left out.
pub(super) fn times(pairs: Vec<(Vec<u8>, f64)>) -> Times {
    let time = |score: f64| (score >= 0.0 && score <= LARGEST as f64).then_some(score as u64);
    let named = |(name, score): (Vec<u8>, f64)| Some((String::from_utf8(name).ok()?, time(score)?));
    pairs.into_iter().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let words = [
            "generation",
            "from",
            "to",
            "reason",
            "at_ms",
            "by",
            "note",
            "calls",
        ];
        let values = [
            "closed",
            "open",
            "failure_rate",
            "18446744073709551616",
            "-1",
            "7",
            "",
        ];
        let known = prop::sample::select([words.as_slice(), &values].concat());
        prop_oneof![
            4 => known.prop_map(|word| word.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..20),
        ]
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            Just(Value::Okay),
            any::<i64>().prop_map(Value::Int),
            any::<f64>().prop_map(Value::Double),
            texts().prop_map(Value::BulkString),
            any::<String>().prop_map(Value::SimpleString),
        ];
        leaf.prop_recursive(3, 40, 30, |inner| {
            prop::collection::vec(inner, 0..30).prop_map(Value::Array)
        })
    }

    proptest! {
        #[test]
        fn any_entry_is_one_or_none(fields in values(), members: Vec<(Vec<u8>, f64)>) {
            let _ = event(&fields);
            prop_assert!(times(members).values().all(|at| *at <= LARGEST));
        }
    }

    #[test]
    fn an_entry_with_any_text_is_an_event() {
        let fields = [
            ("generation", "7"),
            ("from", "closed"),
            ("to", "open"),
            ("reason", "tripped"),
            ("at_ms", "1"),
            ("until_ms", "2"),
            ("consecutive_opens", "1"),
            ("calls", "9"),
            ("failures", "9"),
            ("slow", "0"),
            ("by", "r"),
        ];
        let fields = fields.iter().flat_map(|(field, value)| [*field, *value]);
        let fields = fields
            .map(|text| text.as_bytes())
            .chain([b"note".as_slice(), b"\xff\x00"]);
        let entry = Value::Array(
            fields
                .map(|text| Value::BulkString(text.to_vec()))
                .collect(),
        );
        let event = event(&entry).unwrap();
        assert_eq!((event.generation, event.note.as_str()), (7, "\u{fffd}\0"));
    }
}
