//! `commontrip remove`: removes an unused circuit and everything stored of it.

use clap::Args;
use commontrip::ControlError;

use crate::{
    Common, known,
    out::{Done, Failure, GREEN, shown},
    overrides::ActiveOverride,
    words,
};

/// Arguments of `commontrip remove`.
#[derive(Args, Debug)]
pub struct Options {
    /// The circuit
    name: String,

    /// Remove it even if replicas use it; a replica that still uses the circuit creates it again
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    common: Common,
}

/// Removes the circuit.
pub async fn run(options: &Options) -> Done {
    let operator = options.common.connection.operator()?;
    let view = match operator.remove(&options.name, options.force).await {
        Ok(view) => view,
        Err(ControlError::InUse {
            replica, ago_ms, ..
        }) => {
            let (name, replica) = (shown(&options.name), shown(&replica));
            let ago = words::span(ago_ms);
            return Err(Failure::Not(format!(
                "`{name}` is in use: {replica} reported {ago} ago; nothing was removed, --force removes it"
            )));
        }
        Err(error) => return Err(known::failure(&operator, error).await),
    };
    let out = &options.common.output;
    let standing = ActiveOverride::of(&view);
    let removed = serde_json::json!({ "removed": view.name.as_str(), "ended": standing });
    out.tell_changed(&removed, || {
        let (word, name) = (out.paint(GREEN, "removed"), shown(view.name.as_str()));
        match &standing {
            Some(standing) => format!("{word}  {name}, which ended {}\n", standing.in_words()),
            None => format!("{word}  {name}\n"),
        }
    })
}
