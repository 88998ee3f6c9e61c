//! The scripts, joined with what they share at compile time.

use redis::{Cmd, Script};

use super::keys::Prefix;
use crate::model::Name;

// All but the prelude stands in one function: Lua then finds what the prelude holds in that
// function's closure, and need not search its stack for each of the functions that use it.
macro_rules! script {
    ($file:literal) => {
        concat!(
            include_str!("../../../lua/lib/prelude.lua"),
            "local function operate()\n",
            include_str!("../../../lua/lib/hash.lua"),
            include_str!("../../../lua/lib/window.lua"),
            include_str!("../../../lua/lib/windows.lua"),
            include_str!("../../../lua/lib/latency.lua"),
            include_str!("../../../lua/lib/quorum.lua"),
            include_str!("../../../lua/lib/in_use.lua"),
            include_str!("../../../lua/lib/circuit.lua"),
            include_str!(concat!("../../../lua/", $file, ".lua")),
            "end\nreturn operate()\n",
        )
    };
}

/// The text of one script, and its hash.
#[derive(Debug)]
pub(crate) struct Text {
    script: Script,
    source: &'static str,
}

impl Text {
    pub(crate) fn new(source: &'static str) -> Self {
        let script = Script::new(source);
        Self { script, source }
    }
}

/// One operation.
#[derive(Debug)]
pub(super) struct Operation {
    general: Text,
    /// What answers a brief, and which of the circuit's keys it takes.
    steady: Option<(Text, &'static [usize])>,
    /// Whether doing it twice is doing it once, as the script's header says.
    pub(super) repeatable: bool,
}

/// One script with its keys and arguments.
#[derive(Debug)]
pub(super) struct Run<'a> {
    text: &'a Text,
    keys: Vec<String>,
    arguments: Vec<Vec<u8>>,
}

impl Operation {
    pub(super) fn general(&self, prefix: &Prefix, name: &Name, request: Vec<u8>) -> Run<'_> {
        Run {
            text: &self.general,
            keys: prefix.all(name).into(),
            arguments: vec![request],
        }
    }

    /// `None` where the operation has no such way.
    pub(super) fn steady(
        &self,
        prefix: &Prefix,
        name: &Name,
        brief: Vec<Vec<u8>>,
    ) -> Option<Run<'_>> {
        let (text, places) = self.steady.as_ref()?;
        let all = prefix.all(name);
        Some(Run {
            text,
            keys: places.iter().map(|place| all[*place].clone()).collect(),
            arguments: brief,
        })
    }
}

impl<'a> Run<'a> {
    /// A script of an outer room.
    #[cfg(feature = "queue")]
    pub(super) const fn of(text: &'a Text, keys: Vec<String>, arguments: Vec<Vec<u8>>) -> Self {
        Self {
            text,
            keys,
            arguments,
        }
    }

    /// Whether doing it twice is doing it once, as its header says.
    #[cfg(feature = "queue")]
    pub(super) fn is_repeatable(&self) -> bool {
        is_repeatable(self.text.source)
    }

    /// What Redis knows the script by.
    pub(super) fn hash(&self) -> &str {
        self.text.script.get_hash()
    }

    /// Runs the script that Redis has.
    pub(super) fn by_hash(&self) -> Cmd {
        self.command("EVALSHA", self.hash())
    }

    /// Runs the script, and has Redis keep it.
    pub(super) fn in_full(&self) -> Cmd {
        self.command("EVAL", self.text.source)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(self.keys.len());
        command.arg(&self.keys).arg(&self.arguments);
        command
    }
}

/// One script an operation, one more for what nearly all reports and permits are, and those of alerts and leases.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) acquire: Operation,
    pub(super) report: Operation,
    pub(super) release: Operation,
    pub(super) control: Operation,
    pub(super) snapshot: Operation,
    claim: Text,
    lease: Text,
}

fn is_repeatable(source: &str) -> bool {
    source.contains("\n-- Mode: write. Idempotent: yes") || source.contains("\n-- Mode: read.")
}

impl Scripts {
    pub(super) fn new() -> Self {
        let operation = |source: &'static str| Operation {
            general: Text::new(source),
            steady: None,
            repeatable: is_repeatable(source),
        };
        let with_steady = |source, steady, places| Operation {
            steady: Some((Text::new(steady), places)),
            ..operation(source)
        };
        Self {
            acquire: with_steady(
                script!("acquire"),
                include_str!("../../../lua/steady/acquire.lua"),
                &[Prefix::CIRCUIT, Prefix::PROBES],
            ),
            report: with_steady(
                script!("report"),
                include_str!("../../../lua/steady/report.lua"),
                &[Prefix::CIRCUIT, Prefix::SEQ],
            ),
            release: operation(script!("release")),
            control: operation(script!("control")),
            snapshot: operation(script!("snapshot")),
            claim: Text::new(include_str!("../../../lua/alerts/claim.lua")),
            lease: Text::new(include_str!("../../../lua/keeping/lease.lua")),
        }
    }

    /// Asks to send an alert.
    pub(super) fn claim(&self, prefix: &Prefix, name: &Name, request: Vec<u8>) -> Run<'_> {
        Run {
            text: &self.claim,
            keys: vec![prefix.alerts(name)],
            arguments: vec![request],
        }
    }

    /// Takes a lease.
    pub(super) fn lease(&self, key: String, request: Vec<u8>) -> Run<'_> {
        Run {
            text: &self.lease,
            keys: vec![key],
            arguments: vec![request],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_command_must_not_be_repeated() {
        let s = Scripts::new();
        let all = [&s.acquire, &s.report, &s.release, &s.control, &s.snapshot];
        assert_eq!(all.map(|o| o.repeatable), [true, true, true, false, true]);
    }
}
