//! Dropped calls of which nobody knows what they would have come to.
//!
//! Owns when they are told as evidence. Where no call succeeds they are all that is known of the
//! service; but while most of the calls that have begun are still in flight, those that were
//! dropped say no more than that some callers leave early. Invariant: each is told once, as
//! evidence or for the lifetime totals.

use crate::model::Counts;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Silence {
    /// Dropped since the last success.
    since_success: u64,
    /// Those of them that are kept back.
    withheld: u64,
}

impl Silence {
    /// Keeps back what is no evidence yet, and lets go of what is.
    pub(super) fn sift(&mut self, counts: &mut Counts, in_flight: u64) {
        let undecided = counts.undecided();
        match counts.successes {
            0 => self.since_success += undecided,
            _ => self.since_success = 0,
        }
        if counts.successes == 0 && self.since_success < in_flight {
            self.withheld += undecided;
            counts.abandoned -= undecided;
        } else {
            counts.abandoned += std::mem::take(&mut self.withheld);
        }
    }

    /// Lets go of what is kept back, for the lifetime totals alone.
    pub(super) fn end(&mut self) -> Counts {
        Counts {
            abandoned: std::mem::take(self).withheld,
            ..Counts::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped(abandoned: u64, successes: u64) -> Counts {
        Counts {
            abandoned,
            successes,
            ..Counts::default()
        }
    }

    fn told(silence: &mut Silence, mut counts: Counts, in_flight: u64) -> u64 {
        silence.sift(&mut counts, in_flight);
        counts.abandoned
    }

    #[test]
    fn what_was_dropped_is_evidence_when_it_is_most_of_what_began() {
        let mut silence = Silence::default();
        assert_eq!(told(&mut silence, dropped(30, 0), 70), 0);
        assert_eq!(told(&mut silence, dropped(30, 0), 40), 60);
        assert_eq!(told(&mut silence, dropped(1, 0), 40), 1);
        // A success shows that the others only left.
        assert_eq!(told(&mut silence, dropped(1, 1), 40), 1);
        assert_eq!(told(&mut silence, dropped(39, 0), 40), 0);
        assert_eq!(silence.end().abandoned, 39);
        assert_eq!(silence.end().abandoned, 0);
    }

    #[test]
    fn a_failure_of_its_own_is_never_kept_back() {
        let mut silence = Silence::default();
        let mut counts = dropped(3, 0);
        (counts.failures, counts.abandoned_failures) = (2, 2);
        silence.sift(&mut counts, 10);
        assert_eq!((counts.abandoned, counts.abandoned_failures), (2, 2));
        assert_eq!(silence.end().abandoned, 1);
    }
}
