//! What the scripts' steady way answers: a text, for that costs Redis less than MessagePack.
//!
//! Owns its form: server time and the fields `counts` and `recent`; all else is as the replica has
//! last seen it.
//! Invariant: any bytes are read or refused. Twin: `lua/steady`.

use crate::model::{Head, LARGEST, Snapshot, pace_ms};

/// What such an answer begins with; no MessagePack of ours does.
pub(super) const MARK: &[u8] = b"steady|";

/// The snapshot that an answer is to a request with this head; `None` when it is none.
pub(super) fn decode(answer: &[u8], head: &Head) -> Option<Snapshot> {
    let mut fields = answer.strip_prefix(MARK)?.splitn(3, |byte| *byte == b'|');
    let mut next = || {
        fields
            .next()
            .map(|field| str::from_utf8(field).unwrap_or_default())
    };
    let now_ms = kept(next()?)?;
    // What is not as we write it counts nothing, as in `lua/lib/hash.lua`.
    let (window, total) = counts(next()?).unwrap_or_default();
    let [consecutive_failures, last_success_ms, last_failure_ms] =
        recent(next()?).unwrap_or_default();
    let [calls, failures, slow, undecided] = window;
    let [
        successes_total,
        failures_total,
        slow_total,
        ignored_total,
        not_permitted_total,
        abandoned_total,
    ] = total;
    Some(Snapshot {
        now_ms,
        calls,
        failures,
        slow,
        consecutive_failures,
        successes_total,
        failures_total,
        slow_total,
        ignored_total,
        not_permitted_total,
        undecided,
        abandoned_total,
        last_success_ms,
        last_failure_ms,
        pace_ms: pace_ms(&head.policy, head.seen.replicas),
        ..head.seen.clone()
    })
}

/// The six totals of a field `counts`; zeros where it is not of its form.
pub(super) fn totals(field: &str) -> [u64; 6] {
    counts(field).map_or([0; 6], |(_, totals)| totals)
}

fn counts(field: &str) -> Option<([u64; 4], [u64; 6])> {
    let (window, total) = field.split_once(' ')?;
    Some((numbers(window, "window=")?, numbers(total, "total=")?))
}

fn recent(field: &str) -> Option<[u64; 3]> {
    let (run, times) = field.split_once(' ')?;
    let (success, failure) = times.split_once(' ')?;
    let [run] = numbers(run, "run=")?;
    let [success] = numbers(success, "success=")?;
    let [failure] = numbers(failure, "failure=")?;
    Some([run, success, failure])
}

/// `None` where there are not so many, or one is no number.
fn numbers<const N: usize>(word: &str, label: &str) -> Option<[u64; N]> {
    let mut words = word.strip_prefix(label)?.split('/');
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = kept(words.next()?)?;
    }
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

    const ANSWER: &str = "steady|1735689601000|window=90/10/2/3 total=80/10/2/4/5/6|run=1 success=1735689601000 failure=9";

    fn head() -> Head {
        Head {
            policy: Rules::default(),
            seen: Snapshot {
                generation: 7,
                reason: Reason::Recovered,
                replicas: 300,
                calls: 5,
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
            ignored_total: 4,
            not_permitted_total: 5,
            undecided: 3,
            abandoned_total: 6,
            last_success_ms: 1_735_689_601_000,
            last_failure_ms: 9,
            pace_ms: 1500,
            ..head().seen
        };
        assert_eq!(decode(ANSWER.as_bytes(), &head()), Some(expected));
        for counts in [
            "|",
            "window=1/2 total=|run=x",
            "window=4503599627370496/0/0/0 total=0/0/0/0/0/0|run=0",
        ] {
            let seen = decode(format!("steady|5|{counts}").as_bytes(), &head()).unwrap();
            assert_eq!(
                (seen.now_ms, seen.calls, seen.generation),
                (5, 0, 7),
                "{counts}"
            );
        }
        for none in [
            "",
            "steady|",
            "steady|5",
            "steady|5|",
            "steady|x||",
            "steady|||",
        ] {
            assert_eq!(decode(none.as_bytes(), &head()), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_and_never_a_panic(
            changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..6), cut in any::<usize>(), after: Vec<u8>,
        ) {
            let mut bytes = ANSWER.as_bytes().to_vec();
            for (at, to) in changes {
                let length = bytes.len();
                bytes[at % length] = to;
            }
            bytes.truncate(cut % (bytes.len() + 1));
            bytes.extend(after);
            let _ = decode(&bytes, &head());
        }
    }
}
