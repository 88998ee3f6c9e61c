//! The scripts, joined with what they share at compile time.

use redis::{Cmd, Script};

// All but the prelude stands in one function: Lua then finds what the prelude holds in that
// function's closure, and need not search its stack for each of the functions that use it.
macro_rules! script {
    ($file:literal) => {
        concat!(
            include_str!("../../../lua/lib/prelude.lua"),
            "local function operate()\n",
            include_str!("../../../lua/lib/hash.lua"),
            include_str!("../../../lua/lib/window.lua"),
            include_str!("../../../lua/lib/quorum.lua"),
            include_str!("../../../lua/lib/circuit.lua"),
            include_str!(concat!("../../../lua/", $file, ".lua")),
            "end\nreturn operate()\n",
        )
    };
}

/// One operation.
#[derive(Debug)]
pub(super) struct Operation {
    script: Script,
    source: &'static str,
    /// Whether doing it twice is doing it once, as the script's header says.
    pub(super) repeatable: bool,
}

/// Keys and request of one run.
type Run = ([String; 8], Vec<u8>);

impl Operation {
    /// Runs the script that Redis has.
    pub(super) fn by_hash(&self, run: &Run) -> Cmd {
        command("EVALSHA", self.script.get_hash(), run)
    }

    /// Runs the script, and has Redis keep it.
    pub(super) fn in_full(&self, run: &Run) -> Cmd {
        command("EVAL", self.source, run)
    }
}

fn command(name: &str, script: &str, (keys, request): &Run) -> Cmd {
    let mut command = redis::cmd(name);
    command
        .arg(script)
        .arg(keys.len())
        .arg(keys)
        .arg(&request[..]);
    command
}

/// One script an operation.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) acquire: Operation,
    pub(super) report: Operation,
    pub(super) release: Operation,
    pub(super) control: Operation,
    pub(super) snapshot: Operation,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let operation = |source: &'static str| Operation {
            script: Script::new(source),
            source,
            repeatable: source.contains("\n-- Mode: write. Idempotent: yes")
                || source.contains("\n-- Mode: read."),
        };
        Self {
            acquire: operation(script!("acquire")),
            report: operation(script!("report")),
            release: operation(script!("release")),
            control: operation(script!("control")),
            snapshot: operation(script!("snapshot")),
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
