//! A circuit as Redis would hold it, for a test that compares.
//!
//! Twin: `lua/lib/hash.lua`.

use std::collections::BTreeMap;

use super::{
    Circuit, Reason,
    circuit::{Noted, Totals},
};

impl Circuit {
    /// The version of what a circuit's keys hold, as this release writes it.
    pub(crate) const FORMAT: u64 = 1;

    /// What Redis would hold of the circuit, as text: key's suffix -> field -> value.
    ///
    /// Without events, fields at their default and empty keys; a count window is the field `ring`.
    #[must_use]
    pub fn held(&self) -> BTreeMap<&'static str, BTreeMap<String, String>> {
        let mut held = BTreeMap::new();
        if self.exists {
            held.insert("", self.fields());
        }
        let texts = |pairs: &mut dyn Iterator<Item = (&String, u64)>| -> BTreeMap<_, _> {
            pairs.map(|(k, v)| (k.clone(), v.to_string())).collect()
        };
        let seen = |(r, noted): (_, &Noted)| (r, noted.seen);
        held.insert(":window", self.window.held());
        held.insert(
            ":probes",
            texts(&mut self.probes.iter().map(|(t, d)| (t, *d))),
        );
        held.insert(":replicas", texts(&mut self.replicas.iter().map(seen)));
        let both = |(r, noted): (&String, &Noted)| {
            let first = format!("{} {}", noted.number, noted.moment);
            let text = match noted.policy {
                1 => first,
                other => format!("{first} {other}"),
            };
            (r.clone(), text)
        };
        held.insert(":seq", self.replicas.iter().map(both).collect());
        for (part, of) in [(":failing", &self.failing), (":alone", &self.alone)] {
            held.insert(part, texts(&mut of.iter().map(|(r, at)| (r, *at))));
        }
        held.insert(":latency", self.latencies.held());
        held.insert(":history", self.history.held());
        held.insert(":code", self.held_policies());
        held.retain(|_, fields| !fields.is_empty());
        held
    }

    fn fields(&self) -> BTreeMap<String, String> {
        let [counts, recent] = self.held_counts();
        let (windows, window_at, ended) = self.window.fields();
        let numbers = [
            ("since_ms", self.since_ms),
            ("until_ms", self.until_ms),
            ("consecutive_opens", self.consecutive_opens),
            ("window_at", window_at),
            ("probe_successes", self.probe_successes),
            ("probe_failures", self.probe_failures),
            ("ramp_until_ms", self.ramp_until_ms),
            ("retry_after_until_ms", self.retry_after_until_ms),
            ("replicas", self.live_replicas),
            ("policy_version", self.policy_version),
            ("history_at", self.history.at),
        ];
        let texts = [
            ("window", &windows),
            ("counts", &counts),
            ("recent", &recent),
            ("window_ended", &ended),
            ("override_author", &self.override_author),
            ("override_reason", &self.override_reason),
            ("policy", &self.policy),
            ("policies_differ", &self.differ),
        ];
        let numbers = numbers.iter().filter(|(_, n)| *n > 0);
        let texts = texts.iter().filter(|(_, text)| !text.is_empty());
        let mut fields: BTreeMap<_, _> = numbers
            .map(|(field, n)| ((*field).to_owned(), n.to_string()))
            .chain(texts.map(|(field, text)| ((*field).to_owned(), (*text).clone())))
            .collect();
        fields.insert("format".to_owned(), Self::FORMAT.to_string());
        fields.insert("state".to_owned(), self.state.to_string());
        fields.insert("generation".to_owned(), self.generation.to_string());
        if self.reason != Reason::Created {
            fields.insert("reason".to_owned(), self.reason.to_string());
        }
        fields
    }

    /// What an ordinary report changes, as Redis holds it in two fields, each empty when there is
    /// nothing.
    fn held_counts(&self) -> [String; 2] {
        let [calls, failures, slow, undecided] = self.window.sums;
        let Totals {
            successes,
            failures: failed,
            slow: slow_ones,
            ignored,
            not_permitted,
            abandoned,
            last_success_ms,
            last_failure_ms,
        } = &self.totals;
        let counts = format!(
            "window={calls}/{failures}/{slow}/{undecided} total={successes}/{failed}/{slow_ones}/{ignored}/{not_permitted}/{abandoned}"
        );
        let run = self.consecutive_failures;
        let recent = format!("run={run} success={last_success_ms} failure={last_failure_ms}");
        let says_something = |text: &String| text.contains(|c: char| ('1'..='9').contains(&c));
        [counts, recent].map(|text| Some(text).filter(says_something).unwrap_or_default())
    }
}
