//! `commontrip force-open`, `disable`, `metrics-only`, `reset`: an operator's commands.
//!
//! Owns who says that they come from whom, and that many circuits are not reset by mistake.

use std::{
    env,
    io::{self, BufRead, IsTerminal, Write},
    time::Duration,
};

use clap::Args;
use commontrip::{
    ControlError, Name, Override, State,
    operator::{Operator, View},
};
use serde_json::json;

use crate::{
    Common,
    known::{self, Unreadable},
    out::{Done, Failure, GREEN, Output, RED, in_words, shown, tell},
    show, words,
};

/// The longest that an override with an end lasts.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Who commands, and why.
#[derive(Args, Debug, Clone)]
pub struct Words {
    /// Why, for everybody who looks at the circuit
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,

    /// Who; by default $SUDO_USER, $USER, or the user's number
    #[arg(long, value_name = "NAME")]
    author: Option<String>,
}

impl Words {
    /// What goes along with a command.
    pub fn said(&self) -> Override {
        let var = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let author = self.author.clone();
        let author = author.or_else(|| var("SUDO_USER")).or_else(|| var("USER"));
        Override::because(&self.reason).by(author.unwrap_or_else(user_id))
    }
}

#[cfg(target_os = "linux")]
fn user_id() -> String {
    format!("uid {}", rustix::process::getuid().as_raw())
}

#[cfg(not(target_os = "linux"))]
fn user_id() -> String {
    "unknown".to_owned()
}

/// What a command that sets a state can be told.
#[derive(Args, Debug)]
pub struct Set {
    /// The circuit
    name: String,

    /// How long, such as 90s, 5m or 1h30m; until `reset` by default
    #[arg(long = "for", value_name = "TIME", value_parser = lasting)]
    lasting: Option<Duration>,

    #[command(flatten)]
    words: Words,

    #[command(flatten)]
    common: Common,
}

fn lasting(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; such as 90s, 5m, 1h30m"))?;
    let takes = Duration::from_millis(1)..=LONGEST;
    match takes.contains(&time) {
        true => Ok(time),
        false => Err("give from 1ms to 365days".to_owned()),
    }
}

/// Sets a state.
pub async fn set(options: &Set, to: State) -> Done {
    let operator = options.common.connection.operator()?;
    let mut with = options.words.said();
    if let Some(time) = options.lasting {
        with = with.lasting(time);
    }
    let name = &options.name;
    let done = match to {
        State::ForcedOpen => operator.force_open(name, with).await,
        State::Disabled => operator.disable(name, with).await,
        _ => operator.metrics_only(name, with).await,
    };
    tell_done(&options.common.output, &operator, done).await
}

/// What `commontrip reset` can be told.
#[derive(Args, Debug)]
pub struct Reset {
    /// The circuit
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<String>,

    /// Every circuit of the store
    #[arg(long)]
    all: bool,

    /// Do not ask; with --all
    #[arg(long, requires = "all")]
    yes: bool,

    #[command(flatten)]
    words: Words,

    #[command(flatten)]
    common: Common,
}

/// Resets one circuit, or all.
pub async fn reset(options: &Reset) -> Done {
    let operator = options.common.connection.operator()?;
    let out = &options.common.output;
    if let Some(name) = &options.name {
        let done = operator.reset(name, options.words.said()).await;
        return tell_done(out, &operator, done).await;
    }
    let mut unread = Unreadable::default();
    let views = known::circuits(&operator, &mut unread).await?;
    if !views.is_empty() && !options.yes {
        confirm(&views)?;
    }
    let mut done = Vec::new();
    let mut failed = Vec::new();
    for view in &views {
        match operator
            .reset(view.name.as_str(), options.words.said())
            .await
        {
            Ok(_) => done.push(view.name.as_str()),
            Err(error) => failed.push((&view.name, error)),
        }
    }
    tell_all(out, &done, &failed)?;
    match failed.pop() {
        None => unread.end(),
        Some((_, ControlError::Store(_))) => {
            Err(Failure::Store(format!("not reset: {}", failed.len() + 1)))
        }
        Some((_, error)) => Err(error.into()),
    }
}

fn tell_all(out: &Output, done: &[&str], failed: &[(&Name, ControlError)]) -> Done {
    if out.json {
        let failed: Vec<_> = failed
            .iter()
            .map(|(name, error)| json!({ "name": name.as_str(), "error": in_words(error) }))
            .collect();
        return out.tell(&json!({ "reset": done, "failed": failed }), String::new);
    }
    let mut text = String::new();
    for name in done {
        text += &format!("{}  {}\n", out.paint(GREEN, "reset"), shown(name));
    }
    for (name, error) in failed {
        let (word, name) = (out.paint(RED, "FAILED"), shown(name.as_str()));
        text += &format!("{word}  {name}: {}\n", shown(&in_words(error)));
    }
    if done.is_empty() && failed.is_empty() {
        text = "no circuits here: nothing to reset\n".to_owned();
    }
    tell(&text)
}

/// Asks whether to reset so many.
fn confirm(views: &[View]) -> Done {
    let mut input = io::stdin().lock();
    if !input.is_terminal() || !io::stderr().is_terminal() {
        let words = "--all needs --yes where nobody can be asked";
        return Err(Failure::Usage(words.to_owned()));
    }
    let mut err = io::stderr().lock();
    write!(err, "{} Type yes: ", question(views))?;
    err.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Failure::Not("nothing was reset".to_owned())),
    }
}

fn question(views: &[View]) -> String {
    let states = State::ALL.into_iter().filter_map(|state| {
        let n = views
            .iter()
            .filter(|view| view.snapshot.state == state)
            .count();
        (n > 0).then(|| format!("{n} {state}"))
    });
    let states: Vec<_> = states.collect();
    let all = words::count(views.len() as u64, "circuit");
    format!("Reset {all} ({})?", states.join(", "))
}

/// What is now.
pub async fn tell_done(
    out: &Output,
    operator: &Operator,
    done: Result<View, ControlError>,
) -> Done {
    match done {
        Ok(view) => show::tell_state(out, &view),
        Err(error) => Err(known::failure(operator, error).await),
    }
}
