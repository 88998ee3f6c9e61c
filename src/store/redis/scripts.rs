//! The scripts, joined with what they share at compile time.

use redis::Script;

// All but the prelude stands in one function: Lua then finds what the prelude holds in that
// function's closure, and need not search its stack for each of the functions that use it.
macro_rules! script {
    ($file:literal) => {
        concat!(
            include_str!("../../../lua/lib/prelude.lua"),
            "local function operate()\n",
            include_str!("../../../lua/lib/hash.lua"),
            include_str!("../../../lua/lib/window.lua"),
            include_str!("../../../lua/lib/circuit.lua"),
            include_str!(concat!("../../../lua/", $file, ".lua")),
            "end\nreturn operate()\n",
        )
    };
}

/// One script an operation.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) acquire: Script,
    pub(super) report: Script,
    pub(super) release: Script,
    pub(super) control: Script,
    pub(super) snapshot: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            acquire: Script::new(script!("acquire")),
            report: Script::new(script!("report")),
            release: Script::new(script!("release")),
            control: Script::new(script!("control")),
            snapshot: Script::new(script!("snapshot")),
        }
    }
}
