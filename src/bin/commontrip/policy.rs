//! `commontrip policy`: the settings that are stored with a circuit and take precedence over the
//! code.

use clap::{Args, Subcommand};
use commontrip::{
    ControlError, Policy, PolicyError, Rules,
    operator::{Operator, Policies, Settings, View},
};
use serde::Serialize;

use crate::{
    Common, known,
    out::{DIM, Done, Failure, Output, YELLOW, shown},
    steer::OverrideArguments,
    table::{Table, coloured},
    words,
};

/// Subcommands of `commontrip policy`.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// All settings: in force, stored, in code, default
    Show(Show),
    /// Store settings; other settings and the counts do not change
    Set(Set),
    /// Remove stored settings, so that those in code apply again
    Unset(Unset),
}

/// Arguments of `policy show`.
#[derive(Args, Debug)]
pub struct Show {
    /// The circuit
    name: String,

    #[command(flatten)]
    common: Common,
}

/// Arguments of `policy set`.
#[derive(Args, Debug)]
pub struct Set {
    /// The circuit
    name: String,

    /// Such as failure_rate_threshold=30% or wait_duration_in_open_state=30s
    #[arg(value_name = "KEY=VALUE", required = true)]
    pairs: Vec<String>,

    #[command(flatten)]
    words: OverrideArguments,

    #[command(flatten)]
    common: Common,
}

/// Arguments of `policy unset`.
#[derive(Args, Debug)]
pub struct Unset {
    /// The circuit
    name: String,

    /// Which settings
    #[arg(
        value_name = "KEY",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    keys: Vec<String>,

    /// Everything that is stored
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    words: OverrideArguments,

    #[command(flatten)]
    common: Common,
}

/// Runs the subcommand.
pub async fn run(command: &Command) -> Done {
    match command {
        Command::Show(options) => {
            let operator = options.common.connection.operator()?;
            tell(&options.common.output, &operator, &options.name, false).await
        }
        Command::Set(options) => set(options).await,
        Command::Unset(options) => unset(options).await,
    }
}

/// Joins the pairs of the command line in the library's format.
pub fn pairs(given: &[String]) -> Result<String, Failure> {
    let joined = |pair: &String| pair.split_whitespace().collect::<String>();
    let pairs = given.iter().map(joined).collect::<Vec<_>>().join(" ");
    Rules::parse_pairs(&pairs).map_err(usage)?;
    Ok(pairs)
}

fn usage(error: PolicyError) -> Failure {
    Failure::Usage(shown(&error.to_string()).to_string())
}

async fn set(options: &Set) -> Done {
    let operator = options.common.connection.operator()?;
    let pairs = pairs(&options.pairs)?;
    let with = options.words.said();
    let stored = operator.change_policy(&options.name, &pairs, &[], with);
    told(&options.common.output, &operator, stored.await).await
}

async fn unset(options: &Unset) -> Done {
    let operator = options.common.connection.operator()?;
    let keys: Vec<_> = options
        .keys
        .iter()
        .map(|word| Rules::key(word).map_err(usage))
        .collect::<Result<_, _>>()?;
    let (name, with) = (&options.name, options.words.said());
    let seen = match operator.circuit(name).await {
        Ok(seen) => seen.snapshot.policy,
        Err(error) => return Err(known::failure(&operator, error).await),
    };
    let is_stored = |key: &&str| {
        seen.split(' ')
            .any(|pair| pair.split('=').next() == Some(key))
    };
    if let Some(missing) = keys.iter().find(|key| !is_stored(key)) {
        let words = match seen.is_empty() {
            true => format!("nothing is stored with `{}`", shown(name)),
            false => format!(
                "{missing} is not stored with `{}`, but {}",
                shown(name),
                shown(&seen)
            ),
        };
        return Err(Failure::Not(words));
    }
    let stored = match options.all {
        true => operator.store_policy(name, "", None, with).await,
        false => operator.change_policy(name, "", &keys, with).await,
    };
    told(&options.common.output, &operator, stored).await
}

async fn told(out: &Output, operator: &Operator, stored: Result<View, ControlError>) -> Done {
    match stored {
        Ok(view) => tell(out, operator, view.name.as_str(), true).await,
        Err(error) => Err(known::failure(operator, error).await),
    }
}

/// The policies of a circuit, as JSON.
#[derive(Serialize)]
struct Told<'a> {
    name: &'a str,
    version: u64,
    #[serde(flatten)]
    policies: &'a Policies,
}

/// Writes the policies; after a change also the store.
async fn tell(out: &Output, operator: &Operator, name: &str, changed: bool) -> Done {
    let details = match operator.details(name).await {
        Ok(details) => details,
        Err(error) => return Err(known::failure(operator, error).await),
    };
    let told = Told {
        name,
        version: details.circuit.snapshot.policy_version,
        policies: &details.policy,
    };
    match changed {
        true => out.tell_changed(&told, || text(out, &told)),
        false => out.tell(&told, || text(out, &told)),
    }
}

fn text(out: &Output, told: &Told<'_>) -> String {
    let Policies {
        code,
        stored,
        in_force,
        ..
    } = told.policies;
    let defaults: Settings = Rules::default()
        .pairs()
        .map(|(key, n)| (key.to_owned(), n))
        .collect();
    let version = match (told.version, stored.is_empty()) {
        (0, _) => "nothing was ever stored: the code's policy holds".to_owned(),
        (n, true) => format!("version {n}: nothing is stored, the code's policy holds"),
        (n, false) => format!(
            "version {n}: {} stored",
            words::count(stored.len() as u64, "setting")
        ),
    };
    let mut table = Table::new(vec![
        "SETTING",
        ">IN FORCE",
        ">STORED",
        ">IN CODE",
        "DEFAULT",
    ]);
    for key in Rules::KEYS.iter().copied() {
        let of = |settings: &Settings| settings.get(key).map(|n| Rules::in_words(key, *n));
        let is_stored = stored.contains_key(key);
        let [holds, coded, default] =
            [in_force, code, &defaults].map(|of_all| of(of_all).unwrap_or_default());
        let default = match coded == default {
            true => String::new(),
            false => default,
        };
        table.row(vec![
            key.into(),
            match is_stored {
                true => coloured(YELLOW, holds),
                false => holds.into(),
            },
            of(stored).unwrap_or_default().into(),
            coded.into(),
            coloured(DIM, default),
        ]);
    }
    let mut text = format!("{}  {version}\n{}", shown(told.name), table.text(out));
    for warning in warnings(in_force) {
        text += &format!("\nwarning: {warning}");
    }
    text
}

/// Unwise or contradictory settings: stored pairs may not fit newer code.
fn warnings(in_force: &Settings) -> Vec<String> {
    let policy = serde_json::to_value(in_force).and_then(serde_json::from_value::<Policy>);
    policy.map_or_else(|error| vec![error.to_string()], |policy| policy.warnings())
}
