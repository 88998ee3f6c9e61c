//! The scripts, joined at compile time with the code that they share.

use redis::{Cmd, ErrorKind, RedisResult, Script, ServerErrorKind, Value};

use super::keys::Prefix;
use crate::model::Name;

// Everything but the prelude is in one function: Lua then finds the prelude's locals in that
// function's closure, and does not search its stack for each function that uses them.
macro_rules! script {
    ($file:literal) => {
        concat!(
            include_str!("../../../lua/lib/prelude.lua"),
            "local function operate()\n",
            include_str!("../../../lua/lib/hash.lua"),
            include_str!("../../../lua/lib/window.lua"),
            include_str!("../../../lua/lib/windows.lua"),
            include_str!("../../../lua/lib/latency.lua"),
            include_str!("../../../lua/lib/history.lua"),
            include_str!("../../../lua/lib/quorum.lua"),
            include_str!("../../../lua/lib/in_use.lua"),
            include_str!("../../../lua/lib/kinds.lua"),
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

/// One operation on a circuit.
#[derive(Debug)]
pub(super) struct Operation {
    general: Text,
    /// The fast path's script, and which of the circuit's keys it takes.
    fast: Option<(Text, &'static [usize])>,
    /// Whether the operation is idempotent, according to the script's header.
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

    /// `None` if the operation has no fast path.
    pub(super) fn on_fast_path(
        &self,
        prefix: &Prefix,
        name: &Name,
        brief: Vec<Vec<u8>>,
    ) -> Option<Run<'_>> {
        let (text, places) = self.fast.as_ref()?;
        let all = prefix.all(name);
        Some(Run {
            text,
            keys: places.iter().map(|place| all[*place].clone()).collect(),
            arguments: brief,
        })
    }
}

impl<'a> Run<'a> {
    /// A script of another room.
    #[cfg(feature = "queue")]
    pub(super) const fn of(text: &'a Text, keys: Vec<String>, arguments: Vec<Vec<u8>>) -> Self {
        Self {
            text,
            keys,
            arguments,
        }
    }

    /// Whether the script is idempotent, according to its header.
    #[cfg(feature = "queue")]
    pub(super) fn is_repeatable(&self) -> bool {
        is_repeatable(self.text.source)
    }

    /// The hash by which Redis knows the script.
    pub(super) fn hash(&self) -> &str {
        self.text.script.get_hash()
    }

    /// Runs the script by its hash.
    pub(super) fn by_hash(&self) -> Cmd {
        self.command("EVALSHA", self.hash())
    }

    /// Sends the script's text, which Redis then keeps.
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

/// One script for each operation, one more for nearly all reports and permits (the fast path), and
/// the scripts of alerts, leases and groups.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) acquire: Operation,
    pub(super) report: Operation,
    pub(super) release: Operation,
    pub(super) control: Operation,
    pub(super) snapshot: Operation,
    claim: Text,
    lease: Text,
    group: Text,
    keep: Text,
}

fn is_repeatable(source: &str) -> bool {
    source.contains("\n-- Mode: write. Idempotent: yes") || source.contains("\n-- Mode: read.")
}

impl Scripts {
    pub(super) fn new() -> Self {
        let operation = |source: &'static str| Operation {
            general: Text::new(source),
            fast: None,
            repeatable: is_repeatable(source),
        };
        let with_fast_path = |source, fast, places| Operation {
            fast: Some((Text::new(fast), places)),
            ..operation(source)
        };
        Self {
            acquire: with_fast_path(
                script!("acquire"),
                include_str!("../../../lua/fast_path/acquire.lua"),
                &[Prefix::CIRCUIT, Prefix::PROBES],
            ),
            report: with_fast_path(
                script!("report"),
                include_str!("../../../lua/fast_path/report.lua"),
                &[Prefix::CIRCUIT, Prefix::SEQ],
            ),
            release: operation(script!("release")),
            control: operation(script!("control")),
            snapshot: operation(script!("snapshot")),
            claim: Text::new(include_str!("../../../lua/alerts/claim.lua")),
            lease: Text::new(include_str!("../../../lua/key_value/lease.lua")),
            group: Text::new(include_str!("../../../lua/key_value/group.lua")),
            keep: Text::new(include_str!("../../../lua/key_value/keep.lua")),
        }
    }

    /// Asks for permission to send an alert.
    pub(super) fn claim(&self, prefix: &Prefix, name: &Name, request: Vec<u8>) -> Run<'_> {
        Run {
            text: &self.claim,
            keys: vec![prefix.alerts(name)],
            arguments: vec![request],
        }
    }

    /// Keeps bytes in a group.
    pub(super) fn group(&self, keys: [String; 2], arguments: [Vec<u8>; 2]) -> Run<'_> {
        Run {
            text: &self.group,
            keys: keys.into(),
            arguments: arguments.into(),
        }
    }

    /// Keeps bytes under a lease.
    pub(super) fn keep(&self, keys: [String; 2], arguments: [Vec<u8>; 2]) -> Run<'_> {
        Run {
            text: &self.keep,
            keys: keys.into(),
            arguments: arguments.into(),
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

/// The positions of answers which say that Redis does not have the script.
pub(super) fn without_script(answers: &[RedisResult<Value>]) -> Vec<usize> {
    let no_script = ErrorKind::Server(ServerErrorKind::NoScript);
    let lacks = |i: &usize| answers[*i].as_ref().is_err_and(|e| e.kind() == no_script);
    (0..answers.len()).filter(lacks).collect()
}

/// Replaces the answers in these places.
pub(super) fn replace(
    answers: &mut [RedisResult<Value>],
    places: Vec<usize>,
    with: Vec<RedisResult<Value>>,
) {
    for (place, answer) in places.into_iter().zip(with) {
        answers[place] = answer;
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
