//! `commontrip simulate`: what a circuit would have done under another policy.

use std::{fmt::Write as _, time::Duration};

use clap::Args;
use commontrip::{
    Rules,
    operator::{Course, Simulation, Verdict},
};

use crate::{
    Common, known,
    out::{BOLD, DIM, Done, Failure, Output, YELLOW, shown},
    policy,
    table::Table,
    words::{self, wrap},
    zone::Zone,
};

/// How many trips are shown.
const TRIPS: usize = 20;

/// Arguments of `commontrip simulate`.
#[derive(Args, Debug)]
pub struct Options {
    /// The circuit
    name: String,

    /// Settings to try in addition to those in force, as for `policy set`; without any, those in force
    #[arg(value_name = "KEY=VALUE")]
    pairs: Vec<String>,

    /// How far back to go, such as 30m [default: as far as the record goes]
    #[arg(long, value_name = "TIME", value_parser = over)]
    over: Option<Duration>,

    #[command(flatten)]
    common: Common,
}

fn over(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).ok();
    let time = time.filter(|time| *time >= Duration::from_secs(1));
    time.ok_or_else(|| "give a time of at least 1s, such as 30m or 2d".to_owned())
}

/// Replays the record. Returns status 4 when the record does not suffice.
pub async fn run(options: &Options) -> Done {
    let operator = options.common.connection.operator()?;
    let pairs = policy::pairs(&options.pairs)?;
    let simulation = operator.simulate(&options.name, &pairs, options.over);
    let simulation = match simulation.await {
        Ok(simulation) => simulation,
        Err(error) => return Err(known::failure(&operator, error).await),
    };
    let out = &options.common.output;
    out.tell(&simulation, || text(out, &simulation))?;
    match simulation.simulated {
        Some(_) => Ok(()),
        None => Err(Failure::CannotTell(String::new())),
    }
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
    let zone = out.zone();
    let mut text = format!(
        "{}  the last {lasted}, since {}, in slices of {}: {}, {failures} failed ({failed}){abandoned}\n",
        out.paint(BOLD, &name),
        zone.date(simulation.from_ms),
        words::span(simulation.slice_ms),
        words::count(calls, "call"),
    );
    let changed: Vec<_> = simulation
        .changed
        .iter()
        .map(|(key, n)| format!("{key} {}", Rules::in_words(key, *n)))
        .collect();
    let _ = match changed.is_empty() {
        true => writeln!(text, "tried: the policy in force"),
        false => writeln!(text, "tried: {}", changed.join(", ")),
    };
    let verdict = match simulation.measure.verdict {
        Verdict::Differs => out.paint(YELLOW, "cannot tell"),
        Verdict::Untested => out.paint(YELLOW, "not tested"),
        _ => "measure".to_owned(),
    };
    let _ = writeln!(text, "{verdict}: {}\n", simulation.measure.reason);
    text += &beside(simulation).text(out);
    let would = simulation.simulated.as_ref();
    for (head, course) in [
        ("would have tripped", would),
        ("really tripped", Some(&simulation.real)),
    ] {
        if let Some(course) = course.filter(|course| !course.trips.is_empty()) {
            let _ = writeln!(text, "\n{}", out.paint(DIM, head));
            text += &trips(course, simulation.to_ms, &zone).text(out);
        }
    }
    let _ = writeln!(text, "\n{}", out.paint(DIM, "what this cannot say"));
    for limit in &simulation.limits {
        let rows = wrap(&shown(limit), 96).join("\n  ");
        let _ = writeln!(text, "- {rows}");
    }
    text
}

/// Compares the tried policy, the one in force and what really happened. Unknown results have no
/// numbers.
fn beside(simulation: &Simulation) -> Table {
    let would = simulation.simulated.as_ref();
    let (replayed, real) = (&simulation.measure.replayed, &simulation.real);
    let possible = simulation.possible.all();
    let mut table = Table::new(vec!["", "WOULD HAVE", "IN FORCE, REPLAYED", "REALLY"]);
    let mut row = |head: &str, of: &dyn Fn(&Course) -> String, more: &str| {
        let would = match would {
            Some(course) => format!("{}{more}", of(course)),
            None => "cannot tell".to_owned(),
        };
        table.row(vec![
            head.into(),
            would.into(),
            of(replayed).into(),
            of(real).into(),
        ]);
    };
    let up_to = match (possible, would) {
        (0, _) | (_, None) => String::new(),
        (n, Some(course)) => format!(" to {}", course.trips.len() as u64 + n),
    };
    let or_more = if possible > 0 { " or more" } else { "" };
    row("trips", &|course| course.trips.len().to_string(), &up_to);
    row("time open", &|course| words::span(course.open_ms), or_more);
    row(
        "calls rejected",
        &|course| course.rejected.to_string(),
        or_more,
    );
    row(
        "  had failed",
        &|course| match course.rejected_failures {
            Some(n) if course.rejected > 0 => {
                format!("{n} ({})", words::share(n, course.rejected))
            }
            Some(_) => "-".to_owned(),
            None => "not known".to_owned(),
        },
        "",
    );
    table
}

fn trips(course: &Course, to_ms: u64, zone: &Zone) -> Table {
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
            zone.date(trip.at_ms).into(),
            trip.reason.as_str().into(),
            format!("{why}; {lasted}{again}").into(),
        ]);
    }
    table
}
