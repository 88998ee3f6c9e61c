//! `commontrip checks`: lists the fleet's health checks, or requests a run of one.

use std::time::Duration;

use clap::{Args, Subcommand};
use commontrip::operator::{CheckReport, CheckRunError, CheckStatus};
use serde_json::json;

use crate::{
    Common,
    known::nearest,
    out::{DIM, Done, Failure, GREEN, RED, YELLOW, shown, tell},
    table::{Table, coloured},
    words,
};

/// Arguments of `commontrip checks`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Have the replica that runs a check run it now; status 1 when the run failed
    Run(Run),
}

/// Arguments of `checks run`.
#[derive(Args, Debug)]
struct Run {
    /// The check
    name: String,

    /// How long to wait for the run; without it the check's timeout and 5s
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,

    #[command(flatten)]
    common: Common,
}

/// Lists the checks, or requests a run.
pub async fn run(options: &Options) -> Done {
    match &options.command {
        None => list(options).await,
        Some(Command::Run(options)) => run_now(options).await,
    }
}

/// Returns status 1 if the run failed or no run took place.
async fn run_now(options: &Run) -> Done {
    let operator = options.common.connection.operator()?;
    let out = &options.common.output;
    let report = match operator.run_check(&options.name, options.wait).await {
        Ok(report) => report,
        Err(CheckRunError::Store(error)) => return Err(error.into()),
        Err(error @ CheckRunError::Unknown(_)) => {
            let checks = operator.checks().await?;
            let known = checks.iter().map(|check| check.name.as_str());
            let hint = match nearest(&options.name, known) {
                Some(meant) => format!(": did you mean {}?", shown(meant)),
                None => String::new(),
            };
            return Err(Failure::Not(format!("{error}{hint}")));
        }
        Err(error) => return Err(Failure::Not(error.to_string())),
    };
    let now_ms = operator.now_ms().await?;
    if out.json {
        out.tell(&report, String::new)?;
    } else {
        tell(&table(now_ms, std::slice::from_ref(&report)).text(out))?;
    }
    match report.consecutive_failures > 0 {
        true => Err(Failure::Not(String::new())),
        false => Ok(()),
    }
}

/// Returns status 1 if a check is critical.
async fn list(options: &Options) -> Done {
    let operator = options.common.connection.operator()?;
    let (checks, now_ms) = tokio::try_join!(operator.checks(), operator.now_ms())?;
    let out = &options.common.output;
    if out.json {
        out.tell(&json!({ "now_ms": now_ms, "checks": checks }), String::new)?;
    } else if checks.is_empty() {
        tell("no replica has run a check within the last day\n")?;
    } else {
        tell(&table(now_ms, &checks).text(out))?;
    }
    match checks.iter().any(|c| c.status == CheckStatus::Critical) {
        true => Err(Failure::Not(String::new())),
        false => Ok(()),
    }
}

fn table(now_ms: u64, checks: &[CheckReport]) -> Table {
    let heads = vec![
        "CHECK", "STATUS", ">UPTIME", "?>P95", ">RUN", "?CIRCUIT", "?REPLICA", "WHY",
    ];
    let mut table = Table::new(heads);
    for check in checks {
        let p95 = check.p95_us.map(|us| words::micros(us.into()));
        let circuit = check.circuit.as_deref().map(shown);
        table.row(vec![
            shown(&check.name).into(),
            coloured(colour(check.status), check.status.as_str()),
            words::percent(check.uptime).into(),
            p95.unwrap_or_else(|| "-".to_owned()).into(),
            words::ago(now_ms, check.last_run_ms).into(),
            circuit.unwrap_or_else(|| "-".to_owned()).into(),
            shown(&check.replica).into(),
            shown(&check.why).into(),
        ]);
    }
    table
}

const fn colour(status: CheckStatus) -> &'static str {
    match status {
        CheckStatus::Healthy => GREEN,
        CheckStatus::Warning => YELLOW,
        CheckStatus::Critical => RED,
        _ => DIM,
    }
}
