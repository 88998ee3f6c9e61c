//! Answers of the scripts' fast path: arrays, because they cost Redis less than MessagePack.
//!
//! Owns their form: a mark, server time, then names and values of fields; all other fields are as
//! the replica last saw them. Also owns the decoding of fields that hold counts.
//! Invariant: any answer is decoded or refused. Twin: `lua/fast_path`.

use redis::Value;

use crate::model::{Head, LARGEST, Snapshot, pace_ms};

/// The first element of such an answer.
const MARK: &[u8] = b"fast";

/// The fields that hold a circuit's lifetime totals.
pub(super) const TOTALS: [&str; 4] = [
    "total",
    "ignored_total",
    "rejected_total",
    "abandoned_total",
];

/// The snapshot in an answer to a request with this head; `None` if the answer has another form.
pub(super) fn decode(answer: &[Value], head: &Head) -> Option<Snapshot> {
    let mut words = answer.iter().map(|value| match value {
        Value::BulkString(bytes) => str::from_utf8(bytes).ok(),
        _ => None,
    });
    if words.next()??.as_bytes() != MARK {
        return None;
    }
    let mut seen = Snapshot {
        now_ms: kept(words.next()??)?,
        pace_ms: pace_ms(&head.policy, head.seen.replicas),
        ..head.seen.clone()
    };
    while let Some(field) = words.next() {
        take(&mut seen, field?, words.next()??)?;
    }
    Some(seen)
}

/// Applies a field; `None` if it is unknown, or not as the script writes it.
fn take(seen: &mut Snapshot, field: &str, value: &str) -> Option<()> {
    match field {
        "window" => [seen.calls, seen.failures, seen.slow] = counts(value, "calls")?,
        "total" => {
            [seen.successes_total, seen.failures_total, seen.slow_total] =
                counts(value, "successes")?;
        }
        "ignored_total" => seen.ignored_total = kept(value)?,
        "rejected_total" => seen.rejected_total = kept(value)?,
        "abandoned_total" => seen.abandoned_total = kept(value)?,
        "undecided" => seen.undecided = kept(value)?,
        "consecutive_failures" => seen.consecutive_failures = kept(value)?,
        "last_success_ms" => seen.last_success_ms = kept(value)?,
        "last_failure_ms" => seen.last_failure_ms = kept(value)?,
        _ => return None,
    }
    Some(())
}

/// The six totals in the fields [`TOTALS`]; a field of another form counts as zeros, as in
/// `lua/lib/hash.lua`.
pub(super) fn totals(fields: &[Option<String>]) -> [u64; 6] {
    let field = |at: usize| fields.get(at).and_then(Option::as_deref);
    let [successes, failures, slow] = field(0)
        .and_then(|text| counts(text, "successes"))
        .unwrap_or_default();
    let [ignored, rejected, abandoned] = [1, 2, 3].map(|at| field(at).and_then(kept).unwrap_or(0));
    [successes, failures, slow, ignored, rejected, abandoned]
}

/// The numbers in a field such as `calls=9 failures=2 slow=0`.
fn counts(text: &str, first: &str) -> Option<[u64; 3]> {
    let mut words = text.split(' ');
    let mut number = |name: &str| kept(words.next()?.strip_prefix(name)?.strip_prefix('=')?);
    let numbers = [number(first)?, number("failures")?, number("slow")?];
    words.next().is_none().then_some(numbers)
}

fn kept(digits: &str) -> Option<u64> {
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|n| all && *n <= LARGEST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Reason, Rules};

    const ANSWER: [&str; 10] = [
        "fast",
        "1735689601000",
        "window",
        "calls=90 failures=10 slow=2",
        "total",
        "successes=80 failures=10 slow=2",
        "last_success_ms",
        "1735689601000",
        "consecutive_failures",
        "1",
    ];

    fn values(words: &[&str]) -> Vec<Value> {
        let value = |word: &&str| Value::BulkString(word.as_bytes().to_vec());
        words.iter().map(value).collect()
    }

    fn head() -> Head {
        Head {
            policy: Rules::default(),
            seen: Snapshot {
                generation: 7,
                reason: Reason::Recovered,
                replicas: 300,
                calls: 5,
                rejected_total: 5,
                ..Snapshot::default()
            },
            ..Head::default()
        }
    }

    #[test]
    fn an_answer_says_what_is_new() {
        let expected = Snapshot {
            now_ms: 1_735_689_601_000,
            calls: 90,
            failures: 10,
            slow: 2,
            consecutive_failures: 1,
            successes_total: 80,
            failures_total: 10,
            slow_total: 2,
            last_success_ms: 1_735_689_601_000,
            pace_ms: 1500,
            ..head().seen
        };
        assert_eq!(decode(&values(&ANSWER), &head()), Some(expected));
        let more = [
            "undecided",
            "3",
            "abandoned_total",
            "4",
            "last_failure_ms",
            "9",
        ];
        let seen = decode(&values(&[&ANSWER[..], &more].concat()), &head()).unwrap();
        assert_eq!(
            (seen.undecided, seen.abandoned_total, seen.last_failure_ms),
            (3, 4, 9)
        );
        let permit = decode(&values(&["fast", "5"]), &head()).unwrap();
        assert_eq!((permit.now_ms, permit.calls, permit.generation), (5, 5, 7));
    }

    #[test]
    fn an_answer_that_the_scripts_do_not_give_is_refused() {
        for none in [
            &[][..],
            &["fast"],
            &["faster", "5"],
            &["fast", "x"],
            &["fast", "5", "window"],
            &["fast", "5", "window", "calls=1 failures=1"],
            &["fast", "5", "window", "calls=1 failures=1 slow=0 "],
            &[
                "fast",
                "5",
                "window",
                "calls=4503599627370496 failures=1 slow=0",
            ],
            &["fast", "5", "undecided", "-1"],
            &["fast", "5", "colour", "1"],
        ] {
            assert_eq!(decode(&values(none), &head()), None, "{none:?}");
        }
        let number = [values(&["fast", "5", "undecided"]), vec![Value::Int(1)]].concat();
        assert_eq!(decode(&number, &head()), None);
    }

    #[test]
    fn totals_that_cannot_be_read_are_zeros() {
        let fields = |texts: [&str; 4]| texts.map(|text| Some(text.to_owned()));
        let whole = fields(["successes=8 failures=1 slow=2", "3", "4", "5"]);
        assert_eq!(totals(&whole), [8, 1, 2, 3, 4, 5]);
        let wrong = fields(["8 1 2", "x", "4", "-5"]);
        assert_eq!(totals(&wrong), [0, 0, 0, 0, 4, 0]);
        assert_eq!(totals(&[None, None]), [0; 6]);
    }

    proptest! {
        #[test]
        fn hostile_answers_are_refused_and_never_a_panic(
            changes in prop::collection::vec((any::<usize>(), any::<Vec<u8>>()), 0..6), cut in any::<usize>(),
        ) {
            let mut answer = values(&ANSWER);
            for (at, to) in changes {
                let length = answer.len();
                answer[at % length] = Value::BulkString(to);
            }
            answer.truncate(cut % (answer.len() + 1));
            let _ = decode(&answer, &head());
        }
    }
}
