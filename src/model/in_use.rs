//! The policies in code that a fleet uses for one circuit: nearly always one.
//!
//! Owns the list of these policies, how many replicas use each, and in which settings they differ.
//! A policy is identified by the text of its settings. Twin: `lua/lib/in_use.lua`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Circuit, Rules,
    quorum::{REPLICA_SEEN_MS, SeenReplica},
    turn::Turn,
    window::Shape,
};

/// The largest number of policies in the list.
const MOST: usize = 8;
/// The longest time for which a policy that nobody reports is kept for its window, ms.
const LONGEST_KEPT_MS: u64 = 3_600_000;
/// The longest text about differences, bytes.
const LONGEST_TEXT: usize = 2000;

#[derive(Clone, Debug)]
pub(super) struct InUse {
    /// The mark of the replicas that use it; a small number.
    pub(super) id: u64,
    /// When a replica that uses it was last recorded, Unix ms.
    seen: u64,
    /// The number of replicas that used it at the last count.
    replicas: u64,
}

/// Text of the settings -> use of this policy.
pub(super) type Policies = BTreeMap<String, InUse>;

fn name(rules: &Rules) -> String {
    Some(rules.text())
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| "default".to_owned())
}

fn rules(name: &str) -> Rules {
    Rules::default().with(name)
}

impl Circuit {
    /// Returns the text of the policy in code that was recorded last; empty if it is the default.
    pub(super) fn code(&self) -> String {
        let last = self.policies.iter().max_by_key(|(_, of)| (of.seen, of.id));
        last.map_or_else(String::new, |(name, _)| rules(name).text())
    }

    /// Returns the settings in effect for a policy in code: those stored with the circuit win.
    fn effective(&self, name: &str) -> Rules {
        rules(name).with(&self.policy)
    }

    /// Records the replica's policy, and from time to time counts the replicas of each policy.
    /// Returns the id with which to mark the replica.
    pub(super) fn note_policy(&mut self, t: &Turn<'_>, live_ms: u64) -> u64 {
        let mine = name(&t.in_code);
        if let Some(known) = self.policies.get_mut(&mine)
            && known.seen / REPLICA_SEEN_MS == t.now / REPLICA_SEEN_MS
        {
            return known.id;
        }
        let stored = &self.policy;
        self.policies.retain(|name, of| {
            of.seen = of.seen.min(t.now);
            let span = rules(name).with(stored).window_ms.min(LONGEST_KEPT_MS);
            *name == mine || t.now - of.seen <= live_ms.max(span) + REPLICA_SEEN_MS
        });
        let id = self.add_policy(&mine, t.now);
        self.count_policies(t, id, t.now.saturating_sub(live_ms));
        self.differ = self.differences();
        if self.records() {
            let in_use = self.policies.keys();
            let in_use: Vec<_> = in_use
                .map(|name| Shape::of(&self.effective(name)))
                .collect();
            self.window.keep(&t.rules, t.now, &in_use);
        }
        id
    }

    fn add_policy(&mut self, mine: &str, now: u64) -> u64 {
        if let Some(known) = self.policies.get_mut(mine) {
            known.seen = now;
            return known.id;
        }
        if self.policies.len() == MOST {
            let oldest = self.policies.iter().min_by_key(|(_, of)| (of.seen, of.id));
            let oldest = oldest.map(|(name, _)| name.clone()).unwrap_or_default();
            self.policies.remove(&oldest);
        }
        let taken: BTreeSet<_> = self.policies.values().map(|of| of.id).collect();
        let id = (1..).find(|id| !taken.contains(id)).unwrap_or_default();
        let new = InUse {
            id,
            seen: now,
            replicas: 0,
        };
        self.policies.insert(mine.to_owned(), new);
        id
    }

    /// Counts the replicas of each policy that were recorded at `since` or later.
    fn count_policies(&mut self, t: &Turn<'_>, mine: u64, since: u64) {
        let mut counted = BTreeMap::<u64, u64>::new();
        if self.policies.len() > 1 {
            for (
                replica,
                SeenReplica {
                    seen, policy: id, ..
                },
            ) in &self.replicas
            {
                let id = if replica == t.replica { mine } else { *id };
                *counted.entry(id).or_default() += u64::from(*seen >= since);
            }
        }
        for of in self.policies.values_mut() {
            of.replicas = counted.get(&of.id).copied().unwrap_or(0);
        }
    }

    /// Returns the settings that differ, each with its values and their number of replicas:
    /// `window_ms=60000 (3), 5000 (1); quorum=1 (3), 2 (1)`. Settings in a stored policy are the
    /// same for all replicas.
    fn differences(&self) -> String {
        let counted = self.policies.iter();
        let mut counted: Vec<_> = counted
            .filter(|(_, of)| of.replicas > 0)
            .map(|(name, of)| (of, self.effective(name).pairs().collect::<Vec<_>>()))
            .collect();
        counted.sort_by_key(|(of, _)| of.id);
        let mut words = String::new();
        for (at, (key, _)) in Rules::default().pairs().enumerate() {
            let mut values: Vec<(u64, u64)> = Vec::new();
            for (of, pairs) in &counted {
                let (_, value) = pairs[at];
                match values.iter_mut().find(|(known, _)| *known == value) {
                    Some((_, replicas)) => *replicas += of.replicas,
                    None => values.push((value, of.replicas)),
                }
            }
            if values.len() < 2 {
                continue;
            }
            let values: Vec<_> = values.iter().map(|(v, n)| format!("{v} ({n})")).collect();
            let setting = format!("{key}={}", values.join(", "));
            if words.len() + setting.len() > LONGEST_TEXT {
                break;
            }
            if !words.is_empty() {
                words.push_str("; ");
            }
            words.push_str(&setting);
        }
        words
    }

    /// Returns how many probes may be in flight: the lowest limit of the policies in use.
    pub(super) fn permitted_probes(&mut self, t: &Turn<'_>) -> u64 {
        let mine = name(&t.in_code);
        if !self.policies.contains_key(&mine) {
            self.add_policy(&mine, t.now);
        }
        let permitted = |name: &String| {
            let effective = self.effective(name);
            effective.permitted_number_of_calls_in_half_open_state
        };
        let fewest = self.policies.keys().map(permitted).min();
        fewest.unwrap_or(t.rules.permitted_number_of_calls_in_half_open_state)
    }

    /// Returns the policies as Redis stores them.
    pub(super) fn held_policies(&self) -> BTreeMap<String, String> {
        let text = |of: &InUse| {
            let counted = match of.replicas {
                0 => String::new(),
                n => format!(" replicas={n}"),
            };
            format!("id={} seen_ms={}{counted}", of.id, of.seen)
        };
        let policies = self.policies.iter();
        policies
            .map(|(name, of)| (name.clone(), text(of)))
            .collect()
    }
}
