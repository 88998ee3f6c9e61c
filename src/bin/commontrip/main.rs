//! The `commontrip` program.
//!
//! Owns the command line and the exit status; uses the crate's public API only.

mod demo;
mod doctor;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// One circuit breaker for every replica of a service.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a fleet trip, probe and recover together, in the terminal.
    #[command(after_help = demo::AFTER_HELP)]
    Demo(demo::Options),
    /// Look at a Redis as its user: what works, what does not, and what to do.
    #[command(after_help = doctor::AFTER_HELP)]
    Doctor(doctor::Options),
    /// Serve the dashboard, the HTTP API and Prometheus metrics of all circuits.
    #[command(after_help = serve::AFTER_HELP)]
    Serve(serve::Options),
    /// One replica of the demo, told what to do on its standard input.
    #[command(hide = true)]
    Replica,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Serve(options) => serve::run(&options),
        Command::Replica => demo::run_replica(),
    }
}
