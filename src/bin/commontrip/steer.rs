//! `commontrip force-open`, `disable`, `metrics-only`, `reset`: an operator's commands.
//!
//! Owns who a command's author is. Makes sure that neither an override nor many circuits are ended
//! by mistake.

use std::{env, time::Duration};

use clap::{ArgGroup, Args};
use commontrip::{
    ControlError, Name, Note, Override, State,
    operator::{Operator, View},
};
use serde_json::json;

use crate::{
    Common,
    known::{self, Unreadable},
    out::{Done, Failure, GREEN, Output, RED, in_words, shown},
    overrides::{self, ActiveOverride, Ended},
    show, words,
};

/// The longest duration of an override.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// The author of a command, and the reason.
#[derive(Args, Debug, Clone)]
pub struct OverrideArguments {
    /// The reason, shown to everybody who looks at the circuit
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,

    /// The author [default: $SUDO_USER, $USER, or the user's number]
    #[arg(long, value_name = "NAME")]
    author: Option<String>,
}

impl OverrideArguments {
    /// The note that accompanies a command.
    pub fn said(&self) -> Note {
        let var = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let author = self.author.clone();
        let author = author.or_else(|| var("SUDO_USER")).or_else(|| var("USER"));
        Note::because(&self.reason).by(author.unwrap_or_else(user_id))
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

/// Arguments of a command that sets a state.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("length").required(true).args(["lasting", "until_reset"])))]
pub struct Set {
    /// The circuit
    name: String,

    /// How long, such as 90s, 5m or 1h30m; then the circuit is closed
    #[arg(long = "for", value_name = "TIME", value_parser = lasting)]
    lasting: Option<Duration>,

    /// Until somebody resets the circuit
    #[arg(long)]
    until_reset: bool,

    /// Replace any override. Otherwise the command asks on a terminal, and replaces only the
    /// override that it showed
    #[arg(long)]
    replace: bool,

    #[command(flatten)]
    words: OverrideArguments,

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
    let before = look(&operator, &options.name).await?;
    let mut with = Override::from(options.words.said());
    // Replaces only the override that was read.
    if !options.replace {
        let standing = ActiveOverride::of(&before);
        if let Some(standing) = &standing {
            overrides::may_replace(&before.name, standing)?;
        }
        with = with.replacing(standing.map_or(0, |_| before.snapshot.generation));
    }
    if let Some(time) = options.lasting {
        with = with.lasting(time);
    }
    let name = &options.name;
    let done = match to {
        State::ForcedOpen => operator.force_open(name, with).await,
        State::Disabled => operator.disable(name, with).await,
        _ => operator.metrics_only(name, with).await,
    };
    tell_done(&options.common.output, &operator, &before, done).await
}

/// Reads the circuit before a command, to report what the command ends.
async fn look(operator: &Operator, name: &str) -> Result<View, Failure> {
    match operator.circuit(name).await {
        Ok(view) => Ok(view),
        Err(error) => Err(known::failure(operator, error).await),
    }
}

/// Arguments of `commontrip reset`.
#[derive(Args, Debug)]
#[command(
    override_usage = "commontrip reset [OPTIONS] <NAME>\n       commontrip reset [OPTIONS] --all [--yes]"
)]
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
    words: OverrideArguments,

    #[command(flatten)]
    common: Common,
}

/// Resets one circuit, or all.
pub async fn reset(options: &Reset) -> Done {
    let operator = options.common.connection.operator()?;
    let out = &options.common.output;
    if let Some(name) = &options.name {
        let before = look(&operator, name).await?;
        let done = operator.reset(name, options.words.said()).await;
        return tell_done(out, &operator, &before, done).await;
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
            Ok(_) => done.push(view),
            Err(error) => failed.push((&view.name, error)),
        }
    }
    tell_all(out, &done, &failed, &unread)?;
    match failed.pop() {
        None => unread.end(),
        Some((_, ControlError::Store(_))) => {
            Err(Failure::Store(format!("not reset: {}", failed.len() + 1)))
        }
        Some((_, error)) => Err(error.into()),
    }
}

fn tell_all(
    out: &Output,
    done: &[&View],
    failed: &[(&Name, ControlError)],
    unread: &Unreadable,
) -> Done {
    let reset: Vec<_> = done.iter().map(|view| view.name.as_str()).collect();
    let ended = done.iter().filter_map(|view| {
        let mut ended = serde_json::to_value(ActiveOverride::of(view)?).ok()?;
        ended["name"] = json!(view.name.as_str());
        Some(ended)
    });
    let not = failed
        .iter()
        .map(|(name, error)| json!({ "name": name.as_str(), "error": in_words(error) }));
    let told = json!({
        "reset": reset,
        "ended": ended.collect::<Vec<_>>(),
        "failed": not.collect::<Vec<_>>(),
        "incomplete": unread.incomplete,
    });
    out.tell_changed(&told, || {
        let mut text = String::new();
        for view in done {
            let (word, name) = (out.paint(GREEN, "reset"), shown(view.name.as_str()));
            text += &match ActiveOverride::of(view) {
                Some(standing) => format!("{word}  {name}, which ended {}\n", standing.in_words()),
                None => format!("{word}  {name}\n"),
            };
        }
        for (name, error) in failed {
            let (word, name) = (out.paint(RED, "FAILED"), shown(name.as_str()));
            text += &format!("{word}  {name}: {}\n", shown(&in_words(error)));
        }
        if let Some(why) = &unread.incomplete {
            text += &format!("{}  other circuits: {why}\n", out.paint(RED, "FAILED"));
        }
        match text.is_empty() && unread.is_empty() {
            true => "no circuits here: nothing to reset\n".to_owned(),
            false => text,
        }
    })
}

/// Asks whether to reset this many circuits.
fn confirm(views: &[View]) -> Done {
    let ends: Vec<_> = views.iter().filter_map(overrides::line).collect();
    if !overrides::can_ask() {
        let mut words = "--all needs --yes where nobody can be asked".to_owned();
        if !ends.is_empty() {
            words += &format!("; it would end\n{}", ends.join("\n"));
        }
        return Err(Failure::Usage(words));
    }
    let ends = match ends.is_empty() {
        true => String::new(),
        false => format!("This ends\n{}\n", ends.join("\n")),
    };
    match overrides::ask(&format!("{ends}{}", question(views)))? {
        true => Ok(()),
        false => Err(Failure::Not("nothing was reset".to_owned())),
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

/// Writes the state after a command, and what the command ended.
async fn tell_done(
    out: &Output,
    operator: &Operator,
    before: &View,
    done: Result<View, ControlError>,
) -> Done {
    let now = match done {
        Ok(now) => now,
        Err(error) => return Err(known::failure(operator, error).await),
    };
    let ended = Ended::by(operator, before, &now).await;
    show::tell_state(out, &now, &ended, &ended.rows())
}
