//! The order in which members are asked for a permit.
//!
//! Owns the order: a member that may be due for a probe; the better of two random ones; all others
//! that admit calls. Takes no lock and allocates nothing: a member's condition is a few words that
//! its circuit keeps for its calls anyway.

use std::time::Duration;

use super::{CircuitSet, Member};
use crate::{Rejection, State, breaker::Condition};

/// With fewer calls in the window, the failure rate is computed as if there were this many: one
/// failure of one call says little.
const FEW_CALLS: u64 = 20;
/// A member whose failure rate is higher by this much never wins; below that, the odds are in
/// proportion. In parts of [`ALL`].
const DECISIVE: u64 = 100;
const ALL: u64 = 1000;

/// What to do next for one call.
pub(super) enum Choice<'a, T> {
    /// Ask the member's circuit.
    Ask(&'a Member<T>),
    /// Call the member without a permit.
    LetThrough(&'a Member<T>),
}

/// The choices for one call, best first.
pub(super) struct Choices<'a, T> {
    set: &'a CircuitSet<T>,
    /// Members are visited from here on, wrapping around, so that no member is always first.
    start: usize,
    step: Step,
    soonest: Option<(&'a Member<T>, Rejection)>,
    /// Whether a circuit has counted the rejection of this call.
    counted: bool,
}

enum Step {
    Probe,
    Chosen,
    /// The other members that admit calls; the offset from `start` of the next one.
    Others(usize),
}

/// How many members are in which condition.
#[derive(Default)]
struct Census {
    inside: usize,
    /// Rejects, but not because of an operator.
    failing: usize,
    /// A member that may be due for a probe, by its offset from `start`.
    due: Option<usize>,
}

impl<'a, T> Choices<'a, T> {
    pub(super) fn of(set: &'a CircuitSet<T>) -> Self {
        Self {
            set,
            start: fastrand::usize(..set.members.len()),
            step: Step::Probe,
            soonest: None,
            counted: false,
        }
    }

    /// Notes a circuit's rejection, which the circuit has counted.
    pub(super) fn rejected(&mut self, member: &'a Member<T>, rejection: Rejection) {
        self.counted = true;
        self.note(member, rejection);
    }

    fn note(&mut self, member: &'a Member<T>, rejection: Rejection) {
        let wait = |other: &Rejection| other.retry_after.unwrap_or(Duration::MAX);
        let sooner = |(_, soonest): &(_, Rejection)| wait(&rejection) < wait(soonest);
        if self.soonest.as_ref().is_none_or(sooner) {
            self.soonest = Some((member, rejection));
        }
    }

    /// The reason why no member admits the call: the rejection of the one that may admit calls
    /// soonest.
    pub(super) fn rejection(self) -> Rejection {
        let (member, rejection) = self.soonest.unwrap_or_else(|| {
            // All members changed in the meantime.
            let member = self.member(0);
            (member, member.breaker.rejection())
        });
        if !self.counted {
            member.breaker.count_rejection();
        }
        rejection
    }

    /// The next member to ask; `None` after the last one.
    pub(super) fn next(&mut self) -> Option<Choice<'a, T>> {
        loop {
            match self.step {
                Step::Probe => {
                    self.step = Step::Chosen;
                    if let Some(due) = self.census().due {
                        return Some(Choice::Ask(self.member(due)));
                    }
                }
                Step::Chosen => {
                    self.step = Step::Others(0);
                    if let Some(choice) = self.choose() {
                        return Some(choice);
                    }
                }
                Step::Others(offset) if offset < self.set.members.len() => {
                    self.step = Step::Others(offset + 1);
                    let member = self.member(offset);
                    match member.breaker.condition() {
                        Condition::Admits => return Some(Choice::Ask(member)),
                        Condition::ProbeDue(rejection) | Condition::Rejects(rejection) => {
                            self.note(member, rejection);
                        }
                    }
                }
                Step::Others(_) => return None,
            }
        }
    }

    fn member(&self, offset: usize) -> &'a Member<T> {
        let members = &self.set.members;
        &members[(self.start + offset) % members.len()]
    }

    fn census(&self) -> Census {
        let mut census = Census::default();
        for offset in 0..self.set.members.len() {
            match self.member(offset).breaker.condition() {
                Condition::Admits => census.inside += 1,
                Condition::ProbeDue(_) => {
                    census.failing += 1;
                    census.due.get_or_insert(offset);
                }
                Condition::Rejects(rejection) => {
                    census.failing += usize::from(rejection.state != State::ForcedOpen);
                }
            }
        }
        census
    }

    /// The better of two random members that get calls: all that admit calls and, of the failing
    /// ones, as many as may not be ejected.
    fn choose(&self) -> Option<Choice<'a, T>> {
        let census = self.census();
        let out = self.set.members.len() - census.inside;
        let let_through = out.saturating_sub(self.set.ejectable).min(census.failing);
        let taking = census.inside + let_through;
        if taking == 0 {
            return None;
        }
        let one = self.draw(&census, taking)?;
        let two = self.draw(&census, taking)?;
        // An open circuit says more than a failure rate.
        Some(match (&one, &two) {
            (Choice::Ask(_), Choice::LetThrough(_)) => one,
            (Choice::LetThrough(_), Choice::Ask(_)) => two,
            _ if is_better(one.member(), two.member()) => one,
            _ => two,
        })
    }

    fn draw(&self, census: &Census, taking: usize) -> Option<Choice<'a, T>> {
        let number = fastrand::usize(..taking);
        match number < census.inside {
            true => self.nth(number, true).map(Choice::Ask),
            // Any of the failing members, so that all of them are tried.
            false => {
                let number = fastrand::usize(..census.failing);
                self.nth(number, false).map(Choice::LetThrough)
            }
        }
    }

    /// The n-th member that admits calls, or that is failing; `None` if circuits changed in the
    /// meantime.
    fn nth(&self, number: usize, inside: bool) -> Option<&'a Member<T>> {
        let all = (0..self.set.members.len()).map(|offset| self.member(offset));
        let mut such = all.filter(|member| match member.breaker.condition() {
            Condition::Admits => inside,
            Condition::ProbeDue(_) => !inside,
            Condition::Rejects(rejection) => !inside && rejection.state != State::ForcedOpen,
        });
        such.nth(number)
    }
}

impl<'a, T> Choice<'a, T> {
    const fn member(&self) -> &'a Member<T> {
        match self {
            Self::Ask(member) | Self::LetThrough(member) => member,
        }
    }
}

/// Whether `one` gets the call. Both draws can be the same member, so even the worst one keeps a
/// share of `1 / n²`: its window keeps moving, and its recovery is noticed.
fn is_better<T>(one: &Member<T>, two: &Member<T>) -> bool {
    wins(
        failing(one.breaker.window()),
        failing(two.breaker.window()),
        fastrand::u64(..2 * DECISIVE),
    )
}

/// The failure rate, in parts of [`ALL`].
fn failing((calls, failures): (u64, u64)) -> u64 {
    failures * ALL / calls.max(FEW_CALLS)
}

/// `chance` is below `2 * DECISIVE`. Members with equal rates have equal odds. Small differences,
/// which are noise, shift the odds a little, so that a fleet that sees the same rates does not send
/// all calls to one member.
const fn wins(one: u64, two: u64, chance: u64) -> bool {
    chance + one < DECISIVE + two
}

#[cfg(test)]
mod tests {
    use super::*;

    fn odds(one: u64, two: u64) -> usize {
        (0..2 * DECISIVE)
            .filter(|chance| wins(one, two, *chance))
            .count()
    }

    #[test]
    fn equal_ones_have_equal_odds_and_a_clearly_worse_one_has_none() {
        assert_eq!(odds(0, 0), 100);
        assert_eq!(odds(300, 300), 100);
        assert_eq!((odds(0, 10), odds(10, 0)), (110, 90));
        assert_eq!((odds(0, 100), odds(100, 0)), (200, 0));
        assert_eq!((odds(0, 1000), odds(1000, 0)), (200, 0));
    }

    #[test]
    fn a_failure_among_few_calls_weighs_little() {
        assert_eq!(failing((0, 0)), 0);
        assert_eq!(failing((1, 1)), 50);
        assert_eq!(failing((20, 1)), 50);
        assert_eq!(failing((100, 30)), 300);
    }
}
