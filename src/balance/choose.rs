//! Whom to ask for a permit, one after the other.
//!
//! Owns the order: a member that may be due for a probe; the less failing of two random ones; the
//! others that are in. Takes no lock and allocates nothing: each member's standing is a few words that
//! its circuit keeps for the calls anyway.

use std::time::Duration;

use super::{CircuitSet, Member};
use crate::{Rejection, State, breaker::Standing};

/// With fewer calls in the window, a member fails as if it had so many: one failure of one call says
/// little.
const FEW_CALLS: u64 = 20;
/// A member that fails by so much more than the other never wins; below, the odds are in proportion.
/// Parts of [`ALL`].
const DECISIVE: u64 = 100;
const ALL: u64 = 1000;

/// What to do next for one call.
pub(super) enum Choice<'a, T> {
    /// Ask its circuit.
    Ask(&'a Member<T>),
    /// Go to it without a permit.
    LetThrough(&'a Member<T>),
}

/// The choices for one call, best first.
pub(super) struct Choices<'a, T> {
    set: &'a CircuitSet<T>,
    /// From here on round, so that nobody is always first.
    start: usize,
    step: Step,
    soonest: Option<(&'a Member<T>, Rejection)>,
    /// A circuit has counted that it rejected the call.
    counted: bool,
}

enum Step {
    Probe,
    Chosen,
    /// The others that are in: those after `start` by so many.
    Others(usize),
}

/// How many members stand how.
#[derive(Default)]
struct Census {
    inside: usize,
    /// Out, though not by an operator's word.
    failing: usize,
    /// One that may be due, by its place after `start`.
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

    /// A circuit has not given a permit, and has counted that.
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

    /// Why nobody has given one: what the member says that may admit calls soonest.
    pub(super) fn rejection(self) -> Rejection {
        let (member, rejection) = self.soonest.unwrap_or_else(|| {
            // All that were asked have changed meanwhile.
            let member = self.member(0);
            (member, member.breaker.rejection())
        });
        if !self.counted {
            member.breaker.count_rejection();
        }
        rejection
    }

    /// The next one to ask; `None` when there is nobody left.
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
                    match member.breaker.standing() {
                        Standing::In => return Some(Choice::Ask(member)),
                        Standing::Due(rejection) | Standing::Out(rejection) => {
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
            match self.member(offset).breaker.standing() {
                Standing::In => census.inside += 1,
                Standing::Due(_) => {
                    census.failing += 1;
                    census.due.get_or_insert(offset);
                }
                Standing::Out(rejection) => {
                    census.failing += usize::from(rejection.state != State::ForcedOpen);
                }
            }
        }
        census
    }

    /// The less failing of two random members that take calls: those that are in, and of the failing ones
    /// as many as must not be ejected.
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
        // An open circuit says more than a rate does.
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
            // Any of the failing ones, so that all of them are tried.
            false => {
                let number = fastrand::usize(..census.failing);
                self.nth(number, false).map(Choice::LetThrough)
            }
        }
    }

    /// The n-th member that is in, or that is failing; `None` when circuits have changed meanwhile.
    fn nth(&self, number: usize, inside: bool) -> Option<&'a Member<T>> {
        let all = (0..self.set.members.len()).map(|offset| self.member(offset));
        let mut such = all.filter(|member| match member.breaker.standing() {
            Standing::In => inside,
            Standing::Due(_) => !inside,
            Standing::Out(rejection) => !inside && rejection.state != State::ForcedOpen,
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

/// Whether one of two gets the call. Drawn twice, the most failing member is up against itself now and
/// then: it keeps a share of `1 / n²`, by which its window goes on and its recovery is seen.
fn is_better<T>(one: &Member<T>, two: &Member<T>) -> bool {
    wins(
        failing(one.breaker.window()),
        failing(two.breaker.window()),
        fastrand::u64(..2 * DECISIVE),
    )
}

/// How much of it fails, parts of [`ALL`].
fn failing((calls, failures): (u64, u64)) -> u64 {
    failures * ALL / calls.max(FEW_CALLS)
}

/// `chance` is one of `2 * DECISIVE`. Equal ones have equal odds; small differences, which are noise, move
/// them a little, so that a fleet that sees the same numbers does not run to one member.
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
