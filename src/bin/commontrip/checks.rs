//! `commontrip checks`: how the services stand that the fleet checks.

use clap::Args;
use commontrip::operator::{CheckReport, CheckStatus};
use serde_json::json;

use crate::{
    Common,
    out::{DIM, Done, Failure, GREEN, RED, YELLOW, shown, tell},
    table::{Table, coloured},
    words,
};

/// What `commontrip checks` can be told.
#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    common: Common,
}

/// Lists them; not well when one is critical.
pub async fn run(options: &Options) -> Done {
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
