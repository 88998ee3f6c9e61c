//! What an operation works with: its caller, the time, the rules in force, and its words for events.

use super::{Reason, Rules};

/// The context of one operation: caller, time and rules.
pub(super) struct Turn<'a> {
    pub(super) now: u64,
    pub(super) entropy: u64,
    pub(super) replica: &'a str,
    pub(super) in_code: Rules,
    pub(super) rules: Rules,
}

/// What an event says about its cause. The origin and the stored policy come from an operator.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Annotation<'a> {
    pub(super) by: &'a str,
    pub(super) note: &'a str,
    pub(super) origin: &'a str,
    pub(super) policy: &'a str,
    /// The reason in the event, if it differs from the reason of the state.
    pub(super) why: Option<Reason>,
}

impl<'a> Annotation<'a> {
    pub(super) fn of(by: &'a str) -> Self {
        Self {
            by,
            ..Self::default()
        }
    }
}
