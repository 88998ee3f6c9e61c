//! `commontrip token`: generates a named token.
//!
//! Owns the output: the line for the file goes to standard output, so that it can be appended to
//! the file, and the token itself goes to standard error, once.

use clap::Args;
use commontrip::admin::{NewToken, Role};
use serde_json::json;

use crate::out::{Done, Output, say, tell};

/// Arguments of `commontrip token`.
#[derive(Args, Debug)]
pub struct Options {
    /// The holder's name, recorded as the author of their commands: letters, digits, -, _, ., @
    name: String,

    /// What it permits: read, or command (which includes reading)
    #[arg(long, value_name = "ROLE")]
    role: Role,

    #[command(flatten)]
    output: Output,
}

/// Generates a token.
pub fn run(options: &Options) -> Done {
    let token = NewToken::generate(&options.name, options.role)?;
    let (line, secret) = (token.line(), token.secret());
    if options.output.json {
        let role = options.role.to_string();
        let whole = json!({"name": options.name, "role": role, "token": secret, "line": line});
        return options.output.tell(&whole, String::new);
    }
    say(&format!(
        "the token of {}, which is shown this once:\n{secret}\nthe line for the file of `commontrip serve --tokens` has only its hash:",
        options.name
    ));
    tell(&format!("{line}\n"))
}
