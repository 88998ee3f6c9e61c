//! The recorded past of a circuit, as far as a simulation can use it.
//!
//! Owns how far back the record reaches and what it cannot answer: windows shorter than the slices,
//! the order of calls within a slice, and whatever depends on the settings of the time.

use super::{
    course::{Span, Trip, spans},
    in_words_ms,
};
use crate::{
    ControlError, Event, Rules, State,
    model::{Interval, Shape, Slice},
};

/// How many events a circuit keeps.
const MOST_EVENTS: usize = 256;
/// The length from which slices are those of the past weeks, ms.
const LONG_MS: u64 = 600_000;

/// The past of a circuit, oldest first.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) slices: Vec<Slice>,
    pub(super) events: Vec<Event>,
    /// The states that the circuit really had.
    pub(super) spans: Vec<Span>,
    pub(super) from_ms: u64,
    pub(super) to_ms: u64,
    /// Why the record begins no earlier; `None` if the kept slices or the caller's limit end there.
    pub(super) begins: Option<&'static str>,
}

/// Places where only the order of calls within slices decides whether the circuit opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// How often it may have opened by a rate or a failure count.
    pub(super) by_share: u64,
    /// In how many slices a run of consecutive failures may have opened it.
    pub(super) by_run: u64,
}

fn refused(setting: &'static str, value: u64, why: String) -> ControlError {
    let value = Rules::in_words(setting, value);
    ControlError::Unrecorded {
        setting,
        value,
        why,
    }
}

/// The state of a circuit at a time, given its last state.
fn state_at(events: &[Event], last: State, at_ms: u64) -> State {
    let moves = || events.iter().filter(|event| event.is_transition());
    let before = moves().rfind(|event| event.at_ms < at_ms);
    let next = moves().find(|event| event.at_ms >= at_ms);
    let before = before.map(|event| event.to);
    before.or(next.map(|event| event.from)).unwrap_or(last)
}

/// The first moment after a circuit that was open or half-open at a time had left these states;
/// `u64::MAX` if it still is in one. `None` if it was in neither.
fn closed_again(events: &[Event], last: State, at_ms: u64) -> Option<u64> {
    let is_open = |state| matches!(state, State::Open | State::HalfOpen);
    if !is_open(state_at(events, last, at_ms)) {
        return None;
    }
    let later = events
        .iter()
        .filter(|event| event.is_transition() && event.at_ms >= at_ms);
    let closed = later
        .map(|event| (event.to, event.at_ms))
        .find(|(to, _)| !is_open(*to));
    Some(closed.map_or(u64::MAX, |(_, at_ms)| at_ms.saturating_add(1)))
}

impl Record {
    /// As much of the past as has enough detail for both policies; at most the last `over_ms`.
    ///
    /// # Errors
    /// [`ControlError::Unrecorded`] when a window is shorter than the slices.
    pub(super) fn new(
        slices: Vec<Slice>,
        events: &[Event],
        state: State,
        to_ms: u64,
        over_ms: Option<u64>,
        policies: [&Rules; 2],
    ) -> Result<Self, ControlError> {
        let mut begins = None;
        let mut from_ms = 0;
        // If older events were discarded, the state before the oldest one is not known.
        if let Some(oldest) = events.first().filter(|_| events.len() >= MOST_EVENTS) {
            from_ms = oldest.at_ms;
            begins = Some("it begins with the oldest event that is kept");
        }
        if let Some(stored) = events.iter().rfind(|event| !event.is_transition()) {
            from_ms = stored.at_ms;
            begins = Some("it begins when the stored policy was last changed");
        }
        let asked = over_ms.map(|over_ms| to_ms.saturating_sub(over_ms));
        if let Some(asked) = asked.filter(|asked| *asked > from_ms) {
            from_ms = asked;
            begins = None;
        }
        let since = |from_ms: u64, fine: bool| {
            let fits = |slice: &&Slice| {
                slice.counts.at_ms >= from_ms && (!fine || slice.lasted_ms < LONG_MS)
            };
            slices.iter().filter(fits).copied().collect::<Vec<_>>()
        };
        let mut kept = since(from_ms, false);
        let mut fits = policies.iter().try_for_each(|rules| resolves(&kept, rules));
        let fine = since(from_ms, true);
        if fits.is_err() && over_ms.is_none() && !fine.is_empty() {
            if fine.len() < kept.len() {
                begins = Some(
                    "what is older is recorded in slices of 10m, which are too long for these windows",
                );
            }
            kept = fine;
            fits = policies.iter().try_for_each(|rules| resolves(&kept, rules));
        }
        fits?;
        let mut from_ms = kept.first().map_or(to_ms, |slice| slice.counts.at_ms);
        // A replay begins closed, so it begins when the circuit was neither open nor half-open.
        while let Some(closed_ms) = closed_again(events, state, from_ms)
            && !kept.is_empty()
        {
            kept.retain(|slice| slice.counts.at_ms >= closed_ms);
            from_ms = kept.first().map_or(to_ms, |slice| slice.counts.at_ms);
            begins = Some("it begins when the circuit was closed again");
        }
        let began = state_at(events, state, from_ms);
        let events: Vec<_> = events
            .iter()
            .filter(|event| event.at_ms >= from_ms)
            .cloned()
            .collect();
        Ok(Self {
            spans: spans(began, from_ms, &events, to_ms),
            slices: kept,
            events,
            from_ms,
            to_ms,
            begins,
        })
    }

    pub(super) fn began(&self) -> State {
        self.spans.first().map_or(State::Closed, |span| span.state)
    }

    /// The length of the longest slice, ms.
    pub(super) fn slice_ms(&self) -> u64 {
        longest(&self.slices)
    }

    pub(super) fn sum(&self, of: fn(&Interval) -> u64) -> u64 {
        let all = self.slices.iter().map(|slice| of(&slice.counts));
        all.fold(0, u64::saturating_add)
    }

    /// How long the circuit was in any of these states within a time range, ms.
    pub(super) fn time_in(&self, states: &[State], from_ms: u64, to_ms: u64) -> u64 {
        let spans = self
            .spans
            .iter()
            .filter(|span| states.contains(&span.state));
        let common = |span: &Span| {
            span.to_ms
                .min(to_ms)
                .saturating_sub(span.from_ms.max(from_ms))
        };
        spans.map(common).sum()
    }

    /// Places where, as far as the slices tell, a policy may have opened the circuit without one of
    /// these trips to explain it.
    pub(super) fn places(&self, rules: &Rules, in_force: &Rules, trips: &[Trip]) -> Places {
        // Abandoned calls count as failures that did not count before.
        let abandons =
            rules.abandoned_calls > in_force.abandoned_calls && self.sum(|of| of.abandoned) > 0;
        let by_share = abandons || is_stricter(rules, in_force);
        let watches_runs = rules.consecutive_failures_threshold > 0;
        let by_run = watches_runs && (abandons || has_shorter_run(rules, in_force));
        let own_window_ms = if rules.window_calls == 0 {
            rules.window_ms
        } else {
            0
        };
        let mut by_share_in: Vec<(u64, u64)> = Vec::new();
        let mut places = Places::default();
        for (i, slice) in self.slices.iter().enumerate() {
            let end = slice.counts.at_ms + slice.lasted_ms;
            // The slices up to this one, if no trip explains them. If a trip follows soon, a trip
            // in these slices would be the same one, only earlier.
            let soon = end + own_window_ms.max(slice.lasted_ms);
            let free = |first: usize| {
                let from = self.slices[first].counts.at_ms;
                let is_free = !trips.iter().any(|trip| trip.overlaps(from, soon));
                is_free.then(|| (from, &self.slices[first..=i]))
            };
            let first = self.first_of_window(rules, i);
            let window = free(first).filter(|_| by_share);
            if let Some((from, _)) = window.filter(|(_, slices)| may_breach(slices, rules)) {
                match by_share_in.last_mut().filter(|(_, until)| from <= *until) {
                    Some((_, until)) => *until = end,
                    None => by_share_in.push((from, end)),
                }
            }
            let is_dry = self.time_in(&[State::MetricsOnly], slice.counts.at_ms, end) > 0;
            let enough = may_count(rules, &self.slices[first..=i]);
            let run =
                free(self.first_of_run(i)).filter(|_| enough && (by_run || is_dry && watches_runs));
            places.by_run += u64::from(run.is_some_and(|(_, slices)| may_have_run(slices, rules)));
        }
        let again = (rules.wait_duration_in_open_state_ms + longest(&self.slices)).max(1);
        let trips = |(from, until): (u64, u64)| (until - from).div_ceil(again);
        places.by_share = by_share_in.into_iter().map(trips).sum();
        places
    }

    /// The first slice that can share a window with calls of slice `i`.
    fn first_of_window(&self, rules: &Rules, i: usize) -> usize {
        let mut first = i;
        match Shape::of(rules) {
            Shape::Time { .. } => {
                let from = self.slices[i].counts.at_ms.saturating_sub(rules.window_ms);
                let overlaps = |slice: &Slice| slice.counts.at_ms + slice.lasted_ms > from;
                while first > 0 && overlaps(&self.slices[first - 1]) {
                    first -= 1;
                }
            }
            Shape::Count(n) => {
                let mut calls = 0;
                while first > 0 && calls < n {
                    first -= 1;
                    calls += all(&self.slices[first]);
                }
            }
        }
        first
    }

    /// The first slice in which a run of failures that ends in slice `i` can have begun.
    fn first_of_run(&self, i: usize) -> usize {
        let mut first = i;
        while first > 0 && (first == i || self.slices[first].counts.successes == 0) {
            first -= 1;
        }
        first
    }
}

fn all(slice: &Slice) -> u64 {
    let of = &slice.counts;
    of.successes.saturating_add(unsuccessful(slice))
}

/// Failures, or abandoned calls if there are more, because these may count as failures.
fn unsuccessful(slice: &Slice) -> u64 {
    slice.counts.failures.max(slice.counts.abandoned)
}

fn longest(slices: &[Slice]) -> u64 {
    slices
        .iter()
        .map(|slice| slice.lasted_ms)
        .max()
        .unwrap_or(0)
}

/// Whether any condition of the policy uses the window.
const fn uses_window(rules: &Rules) -> bool {
    rules.failure_rate_threshold > 0
        || rules.failure_count_threshold > 0
        || rules.slow_call_duration_threshold_ms > 0
}

/// Checks that the slices are short enough for a policy.
fn resolves(slices: &[Slice], rules: &Rules) -> Result<(), ControlError> {
    if !uses_window(rules) {
        return Ok(());
    }
    let longest = longest(slices);
    let in_words = in_words_ms(longest);
    if rules.window_calls == 0 {
        return match rules.window_ms < longest {
            true => Err(refused(
                "window_ms",
                rules.window_ms,
                format!(
                    "the past is recorded in slices of {in_words}, which cannot tell shorter windows"
                ),
            )),
            false => Ok(()),
        };
    }
    let sum = |least: u64| {
        let calls = slices.iter().map(all).filter(|calls| *calls > least);
        calls.fold(0, u64::saturating_add)
    };
    match sum(rules.window_calls) > sum(0) / 2 {
        true => Err(refused(
            "window_calls",
            rules.window_calls,
            format!(
                "the past is recorded in slices of {in_words}, and most calls came in slices of more calls than that"
            ),
        )),
        false => Ok(()),
    }
}

/// Rejects changes whose effect is not recorded, because it depends on the settings of the time.
///
/// # Errors
/// [`ControlError::Unrecorded`].
pub(super) fn check(rules: &Rules, in_force: &Rules, abandoned: u64) -> Result<(), ControlError> {
    let changed = |of: fn(&Rules) -> u64| of(rules) != of(in_force);
    let no = |setting, value, why: &str| Err(refused(setting, value, why.to_owned()));
    if changed(|r| r.quorum) {
        return no(
            "quorum",
            rules.quorum,
            "which replicas failed is not recorded",
        );
    }
    let slow = rules.slow_call_duration_threshold_ms;
    if slow > 0 && changed(|r| r.slow_call_duration_threshold_ms) {
        let why = "calls were recorded as slow by the threshold of their time";
        return no("slow_call_duration_threshold_ms", slow, why);
    }
    if changed(|r| r.call_timeout_ms) {
        let why =
            "calls ended by the timeout of their time, and how long each took is not recorded";
        return no("call_timeout_ms", rules.call_timeout_ms, why);
    }
    if changed(|r| r.timed_out_calls) {
        let why = "calls that timed out were recorded by the setting of their time";
        return no("timed_out_calls", rules.timed_out_calls, why);
    }
    let judges =
        |key: &str| key.starts_with("abandoned_") || key == "slow_call_duration_threshold_ms";
    let mut pairs = rules.pairs().zip(in_force.pairs());
    if abandoned > 0
        && fails_after(rules) != fails_after(in_force)
        && let Some(((key, value), _)) = pairs.find(|(is, was)| is != was && judges(is.0))
    {
        let why = "dropped calls were failures by the settings of their time";
        return no(key, value, why);
    }
    Ok(())
}

/// How long a dropped call must have run to be a failure, ms, and whether, without such a time, the
/// usual duration of calls decides.
fn fails_after(rules: &Rules) -> (Option<u64>, bool) {
    let limits = [
        rules.call_timeout_ms,
        rules.slow_call_duration_threshold_ms,
        rules.abandoned_calls * rules.abandoned_after_ms,
    ];
    let limit = limits.into_iter().filter(|ms| *ms > 0).min();
    (limit, limit.is_none() && rules.abandoned_calls > 0)
}

/// Rejects a policy whose run of consecutive failures may be in some slices: the order of calls
/// within slices is not recorded.
///
/// # Errors
/// [`ControlError::Unrecorded`] when there are such slices.
pub(super) fn check_runs(rules: &Rules, places: Places, slice_ms: u64) -> Result<(), ControlError> {
    if places.by_run == 0 {
        return Ok(());
    }
    let (run, slice) = (rules.consecutive_failures_threshold, in_words_ms(slice_ms));
    let why = format!(
        "the order of calls within slices of {slice} is not recorded, and {} of them may have had {run} failures in a row",
        places.by_run
    );
    Err(refused("consecutive_failures_threshold", run, why))
}

/// Whether both policies have the same window, so that its counts in events apply to both.
pub(super) fn same_window(one: &Rules, other: &Rules) -> bool {
    Shape::of(one) == Shape::of(other)
}

/// Whether a limit can be reached where the other one is not; 0 is off.
const fn is_lower(limit: u64, other: u64) -> bool {
    limit > 0 && (other == 0 || limit < other)
}

/// Whether a policy may open the circuit by its window where another one does not.
fn is_stricter(rules: &Rules, than: &Rules) -> bool {
    // A new setting does not compile until it is here.
    let Rules {
        failure_rate_threshold,
        failure_count_threshold,
        slow_call_rate_threshold,
        slow_call_duration_threshold_ms,
        minimum_number_of_calls,
        // `is_minimum_lower` compares it.
        minimum_applies_to: _,
        // `same_window` compares these.
        window_ms: _,
        window_buckets: _,
        window_calls: _,
        // `has_shorter_run` compares it.
        consecutive_failures_threshold: _,
        // `check` refuses a change that matters; `places` considers `abandoned_calls`.
        quorum: _,
        call_timeout_ms: _,
        timed_out_calls: _,
        abandoned_calls: _,
        abandoned_after_ms: _,
        // Used only after a trip.
        wait_duration_in_open_state_ms: _,
        backoff_multiplier_percent: _,
        max_wait_duration_in_open_state_ms: _,
        jitter: _,
        backoff_reset_after_ms: _,
        permitted_number_of_calls_in_half_open_state: _,
        success_threshold: _,
        half_open_failure_threshold: _,
        max_wait_duration_in_half_open_state_ms: _,
        probe_lease_ms: _,
        ramp_duration_ms: _,
        ramp_initial: _,
        // Used only in the replica, or only for the history.
        report_interval_ms: _,
        decision_ttl_ms: _,
        latency_recording: _,
        history: _,
    } = *rules;
    let slow = slow_call_duration_threshold_ms > 0;
    let rates = failure_rate_threshold > 0 || slow;
    !same_window(rules, than)
        || is_lower(failure_rate_threshold, than.failure_rate_threshold)
        || is_lower(failure_count_threshold, than.failure_count_threshold)
        || rates && minimum_number_of_calls < than.minimum_number_of_calls
        || failure_count_threshold > 0 && is_minimum_lower(rules, than)
        || slow && is_lower(slow_call_rate_threshold, than.slow_call_rate_threshold)
}

const fn has_shorter_run(rules: &Rules, than: &Rules) -> bool {
    let run = rules.consecutive_failures_threshold;
    is_lower(run, than.consecutive_failures_threshold) || is_minimum_lower(rules, than)
}

/// Whether failures in the window and in a row count with fewer calls.
const fn is_minimum_lower(rules: &Rules, than: &Rules) -> bool {
    than.minimum_applies_to > 0
        && (rules.minimum_applies_to == 0
            || rules.minimum_number_of_calls < than.minimum_number_of_calls)
}

/// The calls in the window from which rates count.
fn minimum(rules: &Rules) -> u64 {
    match rules.window_calls {
        0 => rules.minimum_number_of_calls,
        n => rules.minimum_number_of_calls.min(n),
    }
}

/// Whether these slices may have enough calls for failures in the window and in a row to count.
fn may_count(rules: &Rules, slices: &[Slice]) -> bool {
    let calls = slices.iter().map(all).fold(0, u64::saturating_add);
    rules.minimum_applies_to == 0 || calls >= minimum(rules)
}

/// Whether some order of the calls in adjacent slices breaches a rate or a failure count.
fn may_breach(slices: &[Slice], rules: &Rules) -> bool {
    let sum = |of: fn(&Slice) -> u64| slices.iter().map(of).fold(0, u64::saturating_add);
    let (calls, failures) = (sum(all), sum(unsuccessful));
    let slow = sum(|slice| slice.counts.slow);
    let lasted = sum(|slice| slice.lasted_ms).max(1);
    // The calls in a window if they came evenly; the failures may have come all at once.
    let usual = match rules.window_calls {
        0 => (u128::from(calls) * u128::from(rules.window_ms) / u128::from(lasted)) as u64,
        n => n,
    };
    let usual = usual.min(calls);
    let reaches = |part: u64, percent: u64, of: u64, least: u64| {
        let of = u128::from(of.max(least).max(1));
        percent > 0 && calls >= least && u128::from(part) * 100 >= u128::from(percent) * of
    };
    let least = minimum(rules);
    let half = least.saturating_mul(10);
    let rate = rules.failure_rate_threshold;
    reaches(failures, rate, usual, least)
        || rules.window_calls == 0 && reaches(failures, rate, usual / 2, half)
        || rules.failure_count_threshold > 0
            && failures >= rules.failure_count_threshold
            && may_count(rules, slices)
        || rules.slow_call_duration_threshold_ms > 0
            && reaches(slow, rules.slow_call_rate_threshold, usual, least)
}

/// Whether some order of the calls in these slices has a run of failures that reaches the
/// threshold.
fn may_have_run(slices: &[Slice], rules: &Rules) -> bool {
    let failures = slices.iter().map(unsuccessful).fold(0, u64::saturating_add);
    let last = slices.last().map_or(0, unsuccessful);
    last > 0 && failures >= rules.consecutive_failures_threshold
}
