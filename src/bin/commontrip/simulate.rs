//! `commontrip simulate`: what a circuit would have done under another policy.

use std::fmt::Write as _;

use clap::Args;
use commontrip::operator::{Course, Simulation};

use crate::{
    Common, known,
    out::{BOLD, DIM, Done, Output, shown},
    policy,
    table::Table,
    words::{self, wrap},
};

/// How many trips are shown.
const TRIPS: usize = 20;

/// What `commontrip simulate` can be told.
#[derive(Args, Debug)]
pub struct Options {
    /// The circuit
    name: String,

    /// Settings to try on top of those in force, as for `policy set`; none tries those
    #[arg(value_name = "KEY=VALUE")]
    pairs: Vec<String>,

    #[command(flatten)]
    common: Common,
}

/// Replays it.
pub async fn run(options: &Options) -> Done {
    let operator = options.common.connection.operator()?;
    let pairs = policy::checked(&options.pairs)?;
    let simulation = match operator.simulate(&options.name, &pairs).await {
        Ok(simulation) => simulation,
        Err(error) => return Err(known::failure(&operator, error).await),
    };
    let out = &options.common.output;
    out.tell(&simulation, || text(out, &simulation))
}

fn text(out: &Output, simulation: &Simulation) -> String {
    let name = shown(&simulation.name);
    if simulation.calls + simulation.abandoned == 0 {
        return format!("{name}: no call with an outcome is on record; make some calls first\n");
    }
    let lasted = words::span(simulation.to_ms.saturating_sub(simulation.from_ms));
    let failed = words::share(simulation.failures, simulation.calls);
    let (calls, failures) = (simulation.calls, simulation.failures);
    let abandoned = match simulation.abandoned {
        0 => String::new(),
        n => format!("; {n} abandoned"),
    };
    let mut text = format!(
        "{}  the last {lasted}, since {} UTC: {}, {failures} failed ({failed}){abandoned}\n",
        out.paint(BOLD, &name),
        words::date(simulation.from_ms),
        words::count(calls, "call"),
    );
    let changed: Vec<_> = simulation
        .changed
        .iter()
        .map(|(key, n)| format!("{key} {}", words::value(key, *n)))
        .collect();
    let _ = match changed.is_empty() {
        true => writeln!(text, "tried: the policy in force\n"),
        false => writeln!(text, "tried: {}\n", changed.join(", ")),
    };
    text += &beside(simulation).text(out);
    for (head, course) in [
        ("would have tripped", &simulation.simulated),
        ("really tripped", &simulation.real),
    ] {
        if !course.trips.is_empty() {
            let _ = writeln!(text, "\n{}", out.paint(DIM, &format!("{head} (UTC)")));
            text += &trips(course, simulation.to_ms).text(out);
        }
    }
    let _ = writeln!(text, "\n{}", out.paint(DIM, "what this cannot say"));
    for limit in &simulation.limits {
        let rows = wrap(&shown(limit), 96).join("\n  ");
        let _ = writeln!(text, "- {rows}");
    }
    text
}

fn beside(simulation: &Simulation) -> Table {
    let (would, did) = (&simulation.simulated, &simulation.real);
    let mut table = Table::new(vec!["", "WOULD HAVE", "REALLY"]);
    let mut row = |head: &str, of: &dyn Fn(&Course) -> String| {
        table.row(vec![head.into(), of(would).into(), of(did).into()]);
    };
    row("trips", &|course| course.trips.len().to_string());
    row("time open", &|course| words::span(course.open_ms));
    row("calls rejected", &|course| course.rejected.to_string());
    row("  had failed", &|course| match course.rejected_failures {
        Some(n) if course.rejected > 0 => format!("{n} ({})", words::share(n, course.rejected)),
        Some(_) => "-".to_owned(),
        None => "not known".to_owned(),
    });
    table
}

fn trips(course: &Course, to_ms: u64) -> Table {
    let mut table = Table::headless();
    let skipped = course.trips.len().saturating_sub(TRIPS);
    if skipped > 0 {
        table.row(vec![format!("{skipped} earlier ones").into()]);
    }
    for trip in &course.trips[skipped..] {
        let why = words::cause(trip.reason, [trip.calls, trip.failures, trip.slow]);
        let lasted = match trip.ended_ms {
            0 => format!(
                "not over after {}",
                words::span(to_ms.saturating_sub(trip.at_ms))
            ),
            end => format!("over after {}", words::span(end.saturating_sub(trip.at_ms))),
        };
        let again = match trip.reopened {
            0 => String::new(),
            n => format!(", {} led back to open", words::count(n, "half-open")),
        };
        table.row(vec![
            words::date(trip.at_ms).into(),
            trip.reason.as_str().into(),
            format!("{why}; {lasted}{again}").into(),
        ]);
    }
    table
}
