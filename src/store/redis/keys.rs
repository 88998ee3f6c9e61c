//! Names of keys. All keys of a circuit share its hash tag.

use crate::{model::Name, store::key_value};

/// The prefix of all keys.
#[derive(Clone, Debug)]
pub(super) struct Prefix(String);

impl Prefix {
    pub(super) const DEFAULT: &'static str = "commontrip";
    /// Positions in [`all`](Self::all).
    pub(super) const CIRCUIT: usize = 0;
    pub(super) const PROBES: usize = 2;
    pub(super) const SEQ: usize = 4;

    /// `None` if the prefix has an invalid length, would break the hash tags or cannot be typed.
    pub(super) fn new(prefix: &str) -> Option<Self> {
        let bad = |c: char| c.is_control() || c == '{' || c == '}';
        let fits = !prefix.is_empty() && prefix.len() <= 100 && !prefix.contains(bad);
        fits.then(|| Self(prefix.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// A pattern that matches this prefix. Whitespace, which a pattern cannot contain, becomes `?`.
    pub(super) fn pattern(&self) -> String {
        let mut pattern = String::new();
        for c in self.0.chars() {
            match c {
                '*' | '?' | '[' | ']' | '\\' | '^' => pattern.extend(['\\', c]),
                c if c.is_whitespace() => pattern.push('?'),
                c => pattern.push(c),
            }
        }
        pattern
    }

    /// Whether this crate makes keys of this form.
    pub(super) fn is_ours(&self, key: &str) -> bool {
        let name = || {
            let rest = key.strip_prefix(&self.0)?.strip_prefix(":{")?;
            Name::new(rest.split_once('}')?.0).ok()
        };
        let of_circuit = |name: Name| self.all(&name).iter().any(|ours| ours == key);
        let of_alerts = |name: Name| self.alerts(&name) == key;
        let beside = |kind: &str| {
            let rest = key.strip_prefix(&self.0)?.strip_prefix(kind)?;
            key_value::key(rest.strip_suffix('}')?).ok()
        };
        let of_queue = || {
            let rest = key.strip_prefix(&self.0)?.strip_prefix(":queue:{")?;
            let (name, part) = rest.split_once("}:")?;
            Some(Name::new(name).is_ok() && Self::QUEUE.contains(&part))
        };
        let of_group = || {
            let rest = key.strip_prefix(&self.0)?.strip_prefix(":group:{")?;
            let (name, part) = rest.split_once("}:")?;
            Some(key_value::key(name).is_ok() && Self::GROUP.contains(&part))
        };
        key == self.index()
            || of_group() == Some(true)
            || key == self.queues()
            || of_queue() == Some(true)
            || name().is_some_and(|name| of_circuit(name.clone()) || of_alerts(name))
            || beside(":kept:{").is_some()
            || beside(":lease:{").is_some()
    }

    /// The circuit's hash, which is also the name of its channel.
    pub(super) fn circuit(&self, name: &Name) -> String {
        format!("{}:{{{name}}}", self.0)
    }

    pub(super) fn events(&self, name: &Name) -> String {
        format!("{}:events", self.circuit(name))
    }

    /// The claims of alerts. No operation on the circuit takes this key.
    pub(super) fn alerts(&self, name: &Name) -> String {
        format!("{}:alerts", self.circuit(name))
    }

    /// The bytes under a key.
    pub(super) fn kept(&self, key: &str) -> String {
        format!("{}:kept:{{{key}}}", self.0)
    }

    /// The values of a group and their order, which share its hash tag.
    pub(super) fn group(&self, group: &str) -> [String; 2] {
        Self::GROUP.map(|part| format!("{}:group:{{{group}}}:{part}", self.0))
    }

    /// Parts of a group, in the order of `lua/key_value/group.lua`.
    const GROUP: [&str; 2] = ["values", "order"];

    /// The owner of a lease.
    pub(super) fn lease(&self, key: &str) -> String {
        format!("{}:lease:{{{key}}}", self.0)
    }

    /// The keys that every operation takes, in the order of `lua/lib/prelude.lua`.
    pub(super) fn all(&self, name: &Name) -> [String; 12] {
        let circuit = self.circuit(name);
        let beside = |part: &str| format!("{circuit}:{part}");
        let (window, probes, replicas, seq, events, failing, alone, latency, history, code, kinds) = (
            beside("window"),
            beside("probes"),
            beside("replicas"),
            beside("seq"),
            beside("events"),
            beside("failing"),
            beside("alone"),
            beside("latency"),
            beside("history"),
            beside("code"),
            beside("kinds"),
        );
        [
            circuit, window, probes, replicas, seq, events, failing, alone, latency, history, code,
            kinds,
        ]
    }

    /// Parts of a queue, in the order of `lua/queue/lib/jobs.lua`.
    pub(super) const QUEUE: [&str; 10] = [
        "ready", "jobs", "payloads", "delayed", "leases", "dead", "expiring", "names", "kept",
        "counts",
    ];

    /// The keys of a queue, which share its hash tag.
    #[cfg(feature = "queue")]
    pub(super) fn queue(&self, name: &Name) -> Vec<String> {
        let key = |part: &&str| format!("{}:queue:{{{name}}}:{part}", self.0);
        Self::QUEUE.iter().map(key).collect()
    }

    /// The index of queues.
    pub(super) fn queues(&self) -> String {
        format!("{}:queues", self.0)
    }

    /// The index of circuits.
    pub(super) fn index(&self) -> String {
        format!("{}:circuits", self.0)
    }

    /// The circuit that a channel belongs to.
    pub(super) fn name_of(&self, channel: &str) -> Option<Name> {
        let rest = channel.strip_prefix(&self.0)?.strip_prefix(":{")?;
        Name::new(rest.strip_suffix('}')?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circuits_keys_share_one_hash_tag() {
        let prefix = Prefix::new("app").unwrap();
        let name = Name::new("payments").unwrap();
        for key in prefix.all(&name) {
            assert!(key.starts_with("app:{payments}"), "{key}");
        }
        assert_eq!(prefix.name_of("app:{payments}"), Some(name));
        assert_eq!(prefix.name_of("other:{payments}"), None);
        assert!(Prefix::new("a{b").is_none());
        for (key, ours) in [
            ("app:circuits", true),
            ("app:{payments}", true),
            ("app:{payments}:window", true),
            ("app:{payments}:alerts", true),
            ("app:{payments}:colour", false),
            ("app:kept:{rates: EUR}", true),
            ("app:lease:{a}", true),
            ("app:kept:{}", false),
            ("app:kept:a", false),
            ("app:lease:{a}:b", false),
            ("app:group:{rates: EUR}:values", true),
            ("app:group:{rates}:order", true),
            ("app:group:{rates}", false),
            ("app:group:{rates}:colour", false),
            ("app:queues", true),
            ("app:queue:{ads}:ready", true),
            ("app:queue:{ads}:colour", false),
            ("app:sessions", false),
            ("application:circuits", false),
        ] {
            assert_eq!(prefix.is_ours(key), ours, "{key}");
        }
    }
}
