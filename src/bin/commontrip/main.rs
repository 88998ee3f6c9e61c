//! The `commontrip` program.
//!
//! Owns the command line and the exit status; uses the crate's public API only.

mod asked;
mod checks;
mod connect;
mod demo;
mod doctor;
mod events;
mod foreign;
mod help;
mod known;
mod list;
mod man;
mod out;
mod overrides;
mod policy;
mod queue;
mod remove;
mod replicas;
mod serve;
mod show;
mod simulate;
mod steer;
mod table;
mod token;
mod watch;
mod words;
mod zone;

use std::{io, process::ExitCode};

use clap::{Args, FromArgMatches, Parser, Subcommand};
use commontrip::State;

use self::{
    connect::{Connection, ENVIRONMENT},
    out::{Done, Failure, Output, STATUS},
};

/// One circuit breaker for every replica of a service.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Arguments of every command that reads from the store.
#[derive(Args, Debug)]
struct Common {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
}

#[derive(Subcommand)]
enum Command {
    /// The circuits, worst first
    #[command(after_help = after())]
    List(list::Options),
    /// All about one circuit: state, numbers, policy, replicas, events
    #[command(after_help = format!("{ENVIRONMENT}\n\n{}", show::AFTER_HELP))]
    Show(show::Options),
    /// Circuits as they change, in the terminal; in a pipe, a JSON line for each update
    #[command(after_help = after())]
    Watch(watch::Options),
    /// Transitions and operators' commands, oldest first
    #[command(after_help = after())]
    Events(events::Options),
    /// Replicas that report to the circuits
    #[command(after_help = after())]
    Replicas(replicas::Options),
    /// Health checks that the fleet runs, worst first
    #[command(after_help = after())]
    Checks(checks::Options),
    /// Reject every call of the fleet
    #[command(after_help = after())]
    ForceOpen(steer::Set),
    /// Let every call pass; keep only lifetime totals
    #[command(after_help = after())]
    Disable(steer::Set),
    /// Let every call pass and count it, but never open the circuit
    #[command(after_help = after())]
    MetricsOnly(steer::Set),
    /// Close a circuit, with an empty window; ends overrides
    #[command(after_help = after())]
    Reset(steer::Reset),
    /// Remove a circuit that nobody uses, with all that is stored of it
    #[command(after_help = after())]
    Remove(remove::Options),
    /// Settings that are stored with a circuit
    #[command(subcommand, after_help = after())]
    Policy(policy::Command),
    /// Queues, their jobs and dead letters
    #[command(subcommand, after_help = after())]
    Queue(queue::Command),
    /// Serve the dashboard, the HTTP API and metrics
    #[command(after_help = format!("{ENVIRONMENT}\n\n{}", serve::AFTER_HELP))]
    Serve(serve::Options),
    /// Make a named token for `serve --tokens`; its name is the author of its holder's commands
    Token(token::Options),
    /// What a circuit would have done under another policy
    #[command(after_help = after())]
    Simulate(simulate::Options),
    /// Examine a Redis with the user's own rights: what works, what does not, and how to fix it
    #[command(after_help = doctor::after_help())]
    Doctor(doctor::Options),
    /// Show a fleet trip, probe and recover together, in the terminal
    #[command(after_help = demo::AFTER_HELP, mut_arg("utc", |utc| utc.hide(true)))]
    Demo(demo::Options),
    /// Write the manual page
    Man,
    /// Write the completions of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// One replica of the demo, told what to do on its standard input.
    #[command(hide = true)]
    Replica,
}

fn after() -> String {
    format!("{ENVIRONMENT}\n\n{STATUS}")
}

fn main() -> ExitCode {
    let matches = help::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match cli.command {
        Command::List(options) => run(list::run(&options)),
        Command::Show(options) => run(show::run(&options)),
        Command::Watch(options) => run(watch::run(&options)),
        Command::Events(options) => run(events::run(&options)),
        Command::Replicas(options) => run(replicas::run(&options)),
        Command::Checks(options) => run(checks::run(&options)),
        Command::ForceOpen(options) => run(steer::set(&options, State::ForcedOpen)),
        Command::Disable(options) => run(steer::set(&options, State::Disabled)),
        Command::MetricsOnly(options) => run(steer::set(&options, State::MetricsOnly)),
        Command::Reset(options) => run(steer::reset(&options)),
        Command::Remove(options) => run(remove::run(&options)),
        Command::Policy(command) => run(policy::run(&command)),
        Command::Queue(command) => run(queue::run(&command)),
        Command::Simulate(options) => run(simulate::run(&options)),
        Command::Serve(options) => run(serve::run(&options)),
        Command::Token(options) => done(token::run(&options)),
        Command::Doctor(options) => doctor::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Man => written(man::page()),
        Command::Completions { shell } => completions(shell),
        Command::Replica => demo::run_replica(),
    }
}

/// Runs an operator's command. Does not wait for a lookup or a read that is still in progress.
fn run(command: impl Future<Output = Done>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Failure::Not(format!("cannot start a runtime: {error}")).end(),
    };
    let ended = runtime.block_on(command);
    runtime.shutdown_background();
    done(ended)
}

fn done(ended: Done) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.end(),
    }
}

fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut help::command(), "commontrip", &mut script);
    written(Ok(script))
}

fn written(text: io::Result<Vec<u8>>) -> ExitCode {
    match text.and_then(|text| io::Write::write_all(&mut io::stdout(), &text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Failure::from(error).end(),
    }
}
