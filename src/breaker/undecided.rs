//! Dropped calls whose result nobody knows.
//!
//! Owns when they are reported as evidence. If no call succeeds, they are all that is known about
//! the service. But while most of the calls that have begun are still in flight, dropped calls only
//! show that some callers leave early. Invariant: each is reported once, as evidence or for the
//! lifetime totals.

use crate::model::Counts;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Undecided {
    /// Dropped since the last success.
    since_success: u64,
    /// Of these, the ones that are withheld.
    withheld: u64,
}

impl Undecided {
    /// Withholds calls that are not evidence yet, and releases those that are.
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

    /// Releases the withheld calls, for the lifetime totals only.
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

    fn told(undecided: &mut Undecided, mut counts: Counts, in_flight: u64) -> u64 {
        undecided.sift(&mut counts, in_flight);
        counts.abandoned
    }

    #[test]
    fn what_was_dropped_is_evidence_when_it_is_most_of_what_began() {
        let mut undecided = Undecided::default();
        assert_eq!(told(&mut undecided, dropped(30, 0), 70), 0);
        assert_eq!(told(&mut undecided, dropped(30, 0), 40), 60);
        assert_eq!(told(&mut undecided, dropped(1, 0), 40), 1);
        // A success shows that the others only left.
        assert_eq!(told(&mut undecided, dropped(1, 1), 40), 1);
        assert_eq!(told(&mut undecided, dropped(39, 0), 40), 0);
        assert_eq!(undecided.end().abandoned, 39);
        assert_eq!(undecided.end().abandoned, 0);
    }

    #[test]
    fn a_failure_of_its_own_is_never_kept_back() {
        let mut undecided = Undecided::default();
        let mut counts = dropped(3, 0);
        (counts.failures, counts.abandoned_failures) = (2, 2);
        undecided.sift(&mut counts, 10);
        assert_eq!((counts.abandoned, counts.abandoned_failures), (2, 2));
        assert_eq!(undecided.end().abandoned, 1);
    }
}
