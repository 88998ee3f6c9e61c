//! A circuit in the form that Redis stores, for tests that compare.
//!
//! Twin: `lua/lib/hash.lua`.

use std::collections::BTreeMap;

use super::{Circuit, Reason, quorum::SeenReplica, totals::Totals, window::Window};

impl Circuit {
    /// The format version of a circuit's keys, as this release writes them.
    pub(crate) const FORMAT: u64 = 1;

    /// Returns what Redis would store for the circuit, as text: suffix of the key -> field ->
    /// value.
    ///
    /// Omits events, fields at their default, and empty keys. A count window is the field `ring`.
    #[must_use]
    pub fn held(&self) -> BTreeMap<&'static str, BTreeMap<String, String>> {
        let mut held = BTreeMap::new();
        if self.exists {
            held.insert("", self.fields());
        }
        let texts = |pairs: &mut dyn Iterator<Item = (&String, u64)>| -> BTreeMap<_, _> {
            pairs.map(|(k, v)| (k.clone(), v.to_string())).collect()
        };
        let seen = |(r, noted): (_, &SeenReplica)| (r, noted.seen);
        held.insert(":window", self.window.held());
        held.insert(
            ":probes",
            texts(&mut self.probes.iter().map(|(t, d)| (t, *d))),
        );
        held.insert(":replicas", texts(&mut self.replicas.iter().map(seen)));
        let both = |(r, noted): (&String, &SeenReplica)| {
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
        held.insert(":kinds", self.kinds.held());
        held.retain(|_, fields| !fields.is_empty());
        held
    }

    fn fields(&self) -> BTreeMap<String, String> {
        let Self {
            exists: _,
            state,
            generation,
            since_ms,
            opened_ms,
            open_total_ms,
            until_ms,
            reason,
            consecutive_opens,
            window,
            consecutive_failures,
            probe_successes,
            probe_failures,
            ramp_until_ms,
            retry_after_until_ms,
            totals,
            override_author,
            override_reason,
            policy,
            policy_version,
            differ,
            pace_ms: _, // computed for each reply
            live_replicas,
            history,
            // In other keys.
            policies: _,
            probes: _,
            replicas: _,
            failing: _,
            alone: _,
            latencies: _,
            kinds: _,
            events: _,
            published: _,
        } = self;
        let Totals {
            successes,
            failures,
            slow,
            ignored,
            rejected,
            abandoned,
            last_success_ms,
            last_failure_ms,
        } = *totals;
        let total = words("successes", [successes, failures, slow]);
        let [calls, failures, slow, undecided] = window.sums;
        let in_window = words("calls", [calls, failures, slow]);
        let only = window.only();
        let (bucket_at_ms, ring_position) = match only {
            Some(window) if window.span_ms() > 0 => (window.at, 0),
            Some(ring) => (0, ring.at),
            None => (0, 0),
        };
        let [calls, failures, slow, ended_undecided] = only.map_or([0; 4], Window::ended_sums);
        let ended = words("calls", [calls, failures, slow]);
        let numbers = [
            ("since_ms", *since_ms),
            ("opened_ms", *opened_ms),
            ("open_total_ms", *open_total_ms),
            ("until_ms", *until_ms),
            ("consecutive_opens", *consecutive_opens),
            ("undecided", undecided),
            ("ignored_total", ignored),
            ("rejected_total", rejected),
            ("abandoned_total", abandoned),
            ("consecutive_failures", *consecutive_failures),
            ("last_success_ms", last_success_ms),
            ("last_failure_ms", last_failure_ms),
            ("bucket_at_ms", bucket_at_ms),
            ("ring_position", ring_position),
            ("ended_undecided", ended_undecided),
            ("probe_successes", *probe_successes),
            ("probe_failures", *probe_failures),
            ("ramp_until_ms", *ramp_until_ms),
            ("retry_after_until_ms", *retry_after_until_ms),
            ("replicas", *live_replicas),
            ("policy_version", *policy_version),
            ("history_at_ms", history.at),
        ];
        let texts = [
            ("window", &in_window),
            ("total", &total),
            ("window_shape", &window.shapes()),
            ("ended_buckets", &ended),
            ("override_author", override_author),
            ("override_reason", override_reason),
            ("policy", policy),
            ("policies_differ", differ),
        ];
        let numbers = numbers.iter().filter(|(_, n)| *n > 0);
        let texts = texts.iter().filter(|(_, text)| !text.is_empty());
        let mut fields: BTreeMap<_, _> = numbers
            .map(|(field, n)| ((*field).to_owned(), n.to_string()))
            .chain(texts.map(|(field, text)| ((*field).to_owned(), (*text).clone())))
            .collect();
        fields.insert("format".to_owned(), Self::FORMAT.to_string());
        fields.insert("state".to_owned(), state.to_string());
        fields.insert("generation".to_owned(), generation.to_string());
        if *reason != Reason::Created {
            fields.insert("reason".to_owned(), reason.to_string());
        }
        fields
    }
}

/// Formats counts as Redis stores them in one field; empty if all are 0.
fn words(first: &str, [of_first, failures, slow]: [u64; 3]) -> String {
    match of_first + failures + slow {
        0 => String::new(),
        _ => format!("{first}={of_first} failures={failures} slow={slow}"),
    }
}
