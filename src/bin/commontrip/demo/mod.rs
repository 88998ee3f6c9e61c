//! `commontrip demo`: a fleet, a flaky upstream, and the effect of one shared circuit.
//!
//! Owns the options and the exit status. Everything shown was measured in this run.

mod encore;
mod facts;
mod fleet;
mod ownership;
mod plan;
mod process;
mod replica;
mod show;
mod stage;
mod story;
mod summary;
mod upstream;
mod verdict;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Args;
use commontrip::Name;

use self::{facts::Fact, show::Show};
use crate::{
    out::{Output, in_words},
    serve,
};

pub use self::{facts::KINDS as AFTER_HELP, process::run_replica};

/// Arguments of `commontrip demo`.
#[derive(Args, Debug)]
pub struct Options {
    /// How many replicas share the circuit, 1 to 64
    #[arg(long, value_name = "N", default_value = "5", value_parser = replicas)]
    replicas: usize,

    /// How long the show lasts, 3 to 600; its phases stretch with it
    #[arg(long = "for", value_name = "SECONDS", default_value = "12", value_parser = seconds)]
    seconds: f64,

    /// Run each replica as a process of its own, on the Redis of this URL; COMMONTRIP_REDIS_URL is
    /// ignored
    #[arg(long, value_name = "URL")]
    redis: Option<String>,

    /// The seed that decides which calls fail, how long they take and when they are made
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,

    /// The circuit's name; with --redis it is reset first, unless a service uses it
    #[arg(long, value_name = "NAME", default_value = CIRCUIT, value_parser = circuit)]
    circuit: String,

    /// Also serve the dashboard, and go on, with occasional outages, until Ctrl-C
    #[arg(long, help_heading = DASHBOARD)]
    serve: bool,

    /// Where the dashboard listens: a name or an address, and a port; port 0 takes a free one
    #[arg(
        long,
        visible_alias = "bind",
        value_name = "HOST:PORT",
        default_value = serve::LISTEN,
        value_parser = serve::place,
        requires = "serve",
        help_heading = DASHBOARD
    )]
    listen: String,

    /// Let the dashboard answer also to this name, as `commontrip serve` does
    #[arg(long, value_name = "NAME", requires = "serve", help_heading = DASHBOARD)]
    allow_host: Vec<String>,

    #[command(flatten)]
    output: Output,
}

/// The default circuit, which no service uses.
const CIRCUIT: &str = "commontrip-demo";
const DASHBOARD: &str = "Dashboard";

fn replicas(text: &str) -> Result<usize, String> {
    let (least, most) = plan::REPLICAS;
    let number = text.parse().ok();
    let number = number.filter(|n| (least..=most).contains(n));
    number.ok_or_else(|| format!("give a whole number from {least} to {most}"))
}

fn seconds(text: &str) -> Result<f64, String> {
    let (least, most) = plan::SECONDS;
    let number = text.parse().ok();
    let number = number.filter(|n| (least..=most).contains(n));
    number.ok_or_else(|| {
        format!(
            "a trip, a failed probe and a recovery need from {least} to {most} seconds to be seen"
        )
    })
}

fn circuit(text: &str) -> Result<String, String> {
    let name = Name::new(text).map_err(|error| error.to_string())?;
    Ok(name.as_str().to_owned())
}

/// How a show can end.
#[derive(Debug, Clone, Copy)]
enum End {
    Kept,
    Broken,
    Interrupted,
}

/// Why there was no show.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("{0}")]
    Redis(String),
    /// Somebody else uses the circuit.
    #[error("{0}")]
    InUse(String),
    #[error("cannot {0}")]
    Cannot(&'static str, #[source] Box<dyn std::error::Error>),
}

impl DemoError {
    fn cannot<E: std::error::Error + 'static>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Cannot(what, Box::new(error))
    }
}

/// Runs the show. Status: 0 all promises were kept, 1 one was broken, 2 the show could not run, 130
/// Ctrl-C ended it early.
pub fn run(options: &Options) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let shown = match runtime {
        Ok(runtime) => runtime.block_on(stage::show(options)),
        Err(error) => Err(DemoError::cannot("start a runtime")(error)),
    };
    match shown {
        Ok(End::Kept) => ExitCode::SUCCESS,
        Ok(End::Broken) => ExitCode::from(1),
        Ok(End::Interrupted) => ExitCode::from(130),
        Err(error) => {
            let _ = writeln!(io::stderr(), "commontrip: {}", in_words(&error));
            ExitCode::from(2)
        }
    }
}

/// Writes facts to standard output.
struct Teller {
    json: bool,
    show: Show,
}

impl Teller {
    fn new(options: &Options) -> Self {
        Self {
            json: options.output.json,
            show: Show {
                colour: options.output.colour(),
            },
        }
    }

    /// Writes facts. An error means that the reader is gone.
    fn tell(&self, facts: impl IntoIterator<Item = Fact>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for fact in facts {
            if self.json {
                out.write_all(&fleet::line(&fact)?)?;
            } else {
                out.write_all(self.show.text(&fact).as_bytes())?;
            }
        }
        out.flush()
    }

    fn end(&self, facts: Vec<Fact>) -> io::Result<()> {
        if self.json {
            return self.tell(facts);
        }
        let mut out = io::stdout().lock();
        out.write_all(self.show.summary(&facts).as_bytes())?;
        out.flush()
    }
}
