//! The judgement on a soak, from the records of its processes and of Redis.
//!
//! Owns the texts of violations. The rules of [`check`](crate::histories::check) apply here too,
//! and those of callers are added: no call fails because of Redis or waits for it, and all are
//! protected, whatever Redis does.

use commontrip::{Policy, State};

use super::STORE_TIMEOUT_MS;
use crate::{
    histories::{
        check::{Circuit, Happened, History, Past, most_probes, violations},
        record::{Got, Tick, What},
    },
    processes::{fleet::Life, wire::Totals},
};

/// The maximum run of failed calls of one process on one circuit before it rejects. About 160 are
/// normal: enough to outweigh the successes in its one-second window, and those made until an
/// answer arrives. An outage has about 700.
const UNPROTECTED: u64 = 350;
/// Calls of the fleet that may be delayed by more than half a second beyond `store_timeout` and the
/// machine's known delays, because not all delays are known. One more is allowed for each
/// `ONE_MORE_IN` calls.
const HELD_UP: u64 = 5;
const ONE_MORE_IN: u64 = 50_000;

#[derive(Debug, Default)]
pub struct Verdict {
    /// When Redis lost all data: from, to.
    pub emptied: Vec<(u64, u64)>,
    /// Lifetime totals in Redis at the end, by circuit.
    pub counted: Vec<Totals>,
    /// All violations, as text.
    pub wrong: Vec<String>,
}

impl Verdict {
    pub fn expect(&mut self, holds: bool, words: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(words());
        }
    }

    /// Judges; returns a description of what the fleet survived.
    pub fn judge(
        &mut self,
        circuits: &[(String, Policy)],
        events: Vec<Vec<Happened>>,
        lives: &[Life],
    ) -> String {
        let of_circuit = |((_, policy), events): (&(String, Policy), _)| Circuit {
            permitted: policy.rules().permitted_number_of_calls_in_half_open_state as usize,
            lease_ns: policy.rules().probe_lease_ms * 1_000_000,
            events,
            emptied: self.emptied.clone(),
            counted: None,
        };
        let past = |life: &Life| Past {
            records: life.did.clone(),
            killed: false,
        };
        let history = History {
            circuits: circuits.iter().zip(events).map(of_circuit).collect(),
            lives: lives.iter().map(past).collect(),
        };
        let found = violations(&history);
        self.wrong
            .extend(found.iter().map(|violation| format!("{violation:?}")));
        for circuit in 0..circuits.len() {
            self.judge_totals(circuit, lives);
        }
        let ends: Vec<&Tick> = lives.iter().filter_map(|life| life.ticks.last()).collect();
        self.expect(ends.len() == lives.len(), || {
            "a process never said a word".to_owned()
        });
        self.judge_callers(&ends);
        summary(&history, &ends)
    }

    fn judge_callers(&mut self, ends: &[&Tick]) {
        for end in ends {
            self.expect(end.wronged == 0, || {
                format!("{} calls failed because of Redis", end.wronged)
            });
            self.expect(end.unprotected <= UNPROTECTED, || {
                format!(
                    "{} calls failed in a row, and none was rejected",
                    end.unprotected
                )
            });
        }
        let sum = |part: fn(&Tick) -> u64| ends.iter().map(|end| part(end)).sum::<u64>();
        let (held_up, calls) = (sum(|end| end.held_up), sum(|end| end.calls));
        self.expect(held_up <= HELD_UP + calls / ONE_MORE_IN, || {
            format!("{held_up} of {calls} calls were held up")
        });
    }

    /// Exact if Redis was never emptied. Otherwise everything since the loss must be counted, and
    /// unconfirmed outcomes from before may be.
    fn judge_totals(&mut self, circuit: usize, lives: &[Life]) {
        let parts: [fn(&Totals) -> u64; 4] = [
            |t| t.successes,
            |t| t.failures,
            |t| t.ignored,
            |t| t.rejected,
        ];
        let last = self.emptied.last().copied();
        let counted = self.counted[circuit];
        for part in parts {
            let (mut least, mut most) = (0, 0);
            for life in lives {
                let of = |totals: Option<&Vec<Totals>>| totals.map_or(0, |all| part(&all[circuit]));
                let end = of(life.ticks.last().map(|tick| &tick.did));
                let (before, after) = match last {
                    None => (0, 0),
                    Some((from_ns, to_ns)) => {
                        let before = life.ticks.iter().rfind(|tick| tick.at_ns <= from_ns);
                        let after = life.ticks.iter().find(|tick| tick.at_ns >= to_ns);
                        let before = of(before.map(|tick| &tick.confirmed));
                        (before, after.map_or(end, |tick| of(Some(&tick.did))))
                    }
                };
                least += end - after;
                most += end - before;
            }
            let counted = part(&counted);
            self.expect((least..=most).contains(&counted), || {
                format!(
                    "circuit {circuit}: {counted} counted, {least} to {most} done; emptied {last:?}"
                )
            });
        }
    }
}

fn summary(history: &History, ends: &[&Tick]) -> String {
    let sum = |part: fn(&Tick) -> u64| ends.iter().map(|end| part(end)).sum::<u64>();
    let most = |part: fn(&Tick) -> u64| ends.iter().map(|end| part(end)).max().unwrap_or(0);
    let rejections = sum(|end| end.did.iter().map(|totals| totals.rejected).sum());
    let into = |state| {
        let events = history.circuits.iter().flat_map(|c| &c.events);
        events.filter(|event| event.to == state).count()
    };
    let probes = |wanted| {
        let records = history.lives.iter().flat_map(|past| &past.records);
        let is =
            |what| matches!(what, What::Answered { got: Got::Probe, local, .. } if local == wanted);
        records.filter(|record| is(record.what)).count()
    };
    let out = |(index, circuit): (usize, &Circuit)| {
        let lives = history.lives.iter().map(|past| past.of_circuit(index));
        let lives: Vec<_> = lives.collect();
        format!("{}/{}", most_probes(circuit, &lives).0, circuit.permitted)
    };
    let out: Vec<_> = history.circuits.iter().enumerate().map(out).collect();
    format!(
        "{} calls, {rejections} rejections; {} trips, {} half-opens, {} recoveries; {} shared probes, {} of replicas alone or \
         in doubt, at most out {}; longest unprotected run {} calls; worst added {} ms, {} beyond {} ms, {} held up; \
         worst stall of a timer {} ms",
        sum(|end| end.calls),
        into(State::Open),
        into(State::HalfOpen),
        into(State::Closed),
        probes(false),
        probes(true),
        out.join(" "),
        most(|end| end.unprotected),
        most(|end| end.worst_added_ns) / 1_000_000,
        sum(|end| end.added_50),
        STORE_TIMEOUT_MS + 50,
        sum(|end| end.held_up),
        most(|end| end.worst_stall_ns) / 1_000_000,
    )
}
