//! Whether the observations kept the promises.
//!
//! Judges by the upstream's own record of calls where possible: the probe limit never relies on
//! what replicas report of themselves.

use commontrip::{Reason, State};

use super::{
    facts::{Fact, Promise, Total, Verdict},
    replica::Calls,
    story::{Role, Seen, Story},
};

/// Judges the show: one fact for each replica, then the verdict.
pub fn judge(story: &Story, probes_allowed: u64) -> (Vec<Total>, Verdict) {
    let probes_by = |index: Option<usize>| {
        let of = |s: &&_| story.role(s) == Role::Probe;
        let served = story.served.iter().filter(of);
        served
            .filter(|s| index.is_none_or(|i| s.replica == i))
            .count() as u64
    };
    let totals: Vec<_> = story
        .replicas
        .iter()
        .enumerate()
        .map(|(i, replica)| total(story, replica, probes_by(Some(i))))
        .collect();
    let calls = totals
        .iter()
        .fold(Calls::default(), |sum, t| sum.plus(t.calls));
    let knew: Vec<_> = totals.iter().filter_map(|t| t.knew_after_ms).collect();
    let spread_ms = knew.iter().max().copied();
    let probes_most = most_at_once(story);
    let closed_ms = story.outages.last().map(|o| o.closed_ms);
    let recovery_ms = match (story.healed_ms, closed_ms) {
        (Some(healed), Some(closed)) if closed != u64::MAX => Some(closed.saturating_sub(healed)),
        _ => None,
    };
    let unaware = story
        .served
        .iter()
        .filter(|s| story.role(s) == Role::Unaware);
    let mut promises = vec![
        trip_seen(story, &totals, spread_ms),
        Promise {
            promise: "probe_limit",
            kept: probes_most <= probes_allowed,
            text: format!(
                "at most {probes_most} of {probes_allowed} allowed probes were out at once, as the upstream counted"
            ),
        },
        closed(story, &totals, recovery_ms),
    ];
    if stepped_in(story) {
        // An operator caused what the circuit did. Only the probe limit still applies.
        for promise in promises.iter_mut().filter(|p| p.promise != "probe_limit") {
            promise.kept = true;
            promise.text += ", and an operator stepped in: not judged";
        }
    }
    let verdict = Verdict {
        kept: promises.iter().all(|p| p.kept),
        promises,
        replicas: totals.len(),
        calls,
        tripped_at_s: story.outages.first().map(|o| story.at_s(o.tripped_ms)),
        spread_ms,
        probes: probes_by(None),
        probes_most,
        probes_allowed,
        reached_after_trip: unaware.count() as u64,
        recovery_ms,
    };
    (totals, verdict)
}

impl Story {
    pub fn ending(&self, probes_allowed: u64) -> (Vec<Fact>, bool) {
        let (totals, verdict) = judge(self, probes_allowed);
        let kept = verdict.kept;
        let mut facts: Vec<_> = totals.into_iter().map(Fact::Replica).collect();
        facts.push(Fact::Verdict(verdict));
        (facts, kept)
    }
}

fn total(story: &Story, replica: &Seen, probes: u64) -> Total {
    let trip = story.outages.first().map(|outage| outage.generation);
    let trip = story.events.iter().find(|e| Some(e.generation) == trip);
    let rejected = replica
        .rejects
        .range(trip.map_or(u64::MAX, |t| t.generation)..);
    let rejected = rejected.map(|(_, at)| *at).min();
    Total {
        replica: replica.name.clone(),
        pid: replica.pid,
        calls: replica.calls,
        probes,
        knew_after_ms: trip.and_then(|trip| story.knew_after(replica, trip)),
        first_rejection_after_ms: trip
            .and_then(|trip| Some(rejected?.saturating_sub(story.when(trip)))),
        state: replica.bye.map(|(state, _)| state),
        times_unavailable: replica.bye.map_or(0, |(_, times)| times),
    }
}

/// Whether somebody sent the circuit a command during the show.
fn stepped_in(story: &Story) -> bool {
    let mut reasons = story.events.iter().map(|event| event.reason);
    reasons.any(|reason| matches!(reason, Reason::Override | Reason::Reset))
}

/// The maximum number of probes that were at the upstream at once.
fn most_at_once(story: &Story) -> u64 {
    let probes = story.served.iter().filter(|s| story.role(s) == Role::Probe);
    let mut edges: Vec<_> = probes
        .flat_map(|s| [(s.arrived_ns, 1), (s.answered_ns, -1)])
        .collect();
    edges.sort_unstable();
    let (mut out, mut most) = (0_i64, 0);
    for (_, edge) in edges {
        out += edge;
        most = most.max(out);
    }
    most.unsigned_abs()
}

fn names<'a>(totals: impl Iterator<Item = &'a Total>) -> String {
    let names: Vec<_> = totals.map(|t| t.replica.as_str()).collect();
    names.join(", ")
}

fn trip_seen(story: &Story, totals: &[Total], spread_ms: Option<u64>) -> Promise {
    let unaware = names(totals.iter().filter(|t| t.knew_after_ms.is_none()));
    let text = if story.outages.is_empty() {
        "the circuit never tripped".to_owned()
    } else if !unaware.is_empty() {
        format!("the trip was not seen by {unaware}")
    } else {
        format!(
            "every replica knew of the trip {} after it",
            super::show::ms(spread_ms.unwrap_or_default())
        )
    };
    Promise {
        promise: "trip_seen",
        kept: unaware.is_empty() && !story.outages.is_empty(),
        text,
    }
}

fn closed(story: &Story, totals: &[Total], recovery_ms: Option<u64>) -> Promise {
    let last = story.events.last();
    let is_closed = last.is_some_and(|event| event.to == State::Closed);
    let open = names(totals.iter().filter(|t| t.state != Some(State::Closed)));
    let text = match (is_closed, recovery_ms) {
        (false, _) => "the circuit was not closed at the end".to_owned(),
        _ if !open.is_empty() => format!("not closed at the end for {open}"),
        (_, Some(ms)) => format!(
            "closed for everyone at the end, {:.1} s after the upstream was well",
            ms as f64 / 1000.0
        ),
        (_, None) => "closed for everyone at the end".to_owned(),
    };
    Promise {
        promise: "closed",
        kept: is_closed && open.is_empty(),
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::upstream::Served, *};
    use crate::demo::story::Outage;

    fn probe(arrived_ms: u64, answered_ms: u64) -> Served {
        Served {
            replica: 0,
            generation: 3,
            arrived_ms,
            answered_ms,
            arrived_ns: arrived_ms * 1_000_000,
            answered_ns: answered_ms * 1_000_000,
            in_flight: 1,
            ok: true,
        }
    }

    #[test]
    fn what_an_operator_did_breaks_no_promise() {
        let mut story = Story::new(vec![Seen::default()], 0);
        assert!(!judge(&story, 3).1.kept, "it never tripped");
        story.events.push(
            serde_json::from_value(serde_json::json!({
                "generation": 7, "from": "closed", "to": "forced_open", "reason": "override", "at_ms": 1,
                "until_ms": 0, "consecutive_opens": 0, "calls": 0, "failures": 0, "slow": 0,
                "by": "ana", "note": "drill", "origin": "cli@laptop", "policy": "",
            }))
            .unwrap(),
        );
        let (_, verdict) = judge(&story, 3);
        assert!(verdict.kept);
        assert!(verdict.promises[0].text.contains("an operator stepped in"));
        story.served = vec![probe(0, 9), probe(0, 9)];
        story.outages.push(Outage {
            generation: 2,
            tripped_ms: 0,
            closed_ms: 10,
        });
        assert!(!judge(&story, 1).1.kept, "the limit of probes holds");
    }

    #[test]
    fn probes_are_counted_by_when_the_upstream_had_them() {
        let mut story = Story::new(vec![Seen::default()], 0);
        story.outages.push(Outage {
            generation: 2,
            tripped_ms: 100,
            closed_ms: 200,
        });
        // Before the trip and after the close there is no limit.
        story.served = vec![probe(50, 150), probe(50, 150), probe(200, 250)];
        assert_eq!(most_at_once(&story), 0);
        story.served = vec![probe(110, 130), probe(130, 150), probe(140, 260)];
        assert_eq!(most_at_once(&story), 2);
        let mut unaware = probe(101, 140);
        unaware.generation = 1;
        assert_eq!(story.role(&unaware), Role::Unaware);
    }
}
