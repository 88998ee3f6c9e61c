//! The command line and its examples.
//!
//! Owns the examples; a test checks that every command has one.

use clap::CommandFactory;

use crate::{Cli, connect::ENVIRONMENT, out::STATUS};

/// Example commands, with their purpose. The words before the first option name the command.
const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    (
        "commontrip",
        &[
            ("commontrip list --state open", "what is open now"),
            ("commontrip show payments", "why, since when, who reports"),
            (
                "commontrip force-open payments --for 15m --reason 'db upgrade'",
                "reject every call for 15 minutes",
            ),
            ("commontrip reset payments", "close it again"),
            ("commontrip help force-open", "all about one command"),
        ],
    ),
    (
        "commontrip list",
        &[
            ("commontrip list", "all, the worst first"),
            (
                "commontrip list 'pay*' --sort calls",
                "by name, the busiest first",
            ),
            (
                "commontrip list --state open,half_open --json",
                "for a script",
            ),
        ],
    ),
    (
        "commontrip show",
        &[(
            "commontrip show payments",
            "status 1 while it rejects calls",
        )],
    ),
    (
        "commontrip watch",
        &[
            ("commontrip watch", "all circuits in the terminal"),
            ("commontrip watch payments --json", "a line for each update"),
        ],
    ),
    (
        "commontrip events",
        &[
            (
                "commontrip events payments -n 20",
                "the newest 20 of one circuit",
            ),
            (
                "commontrip events --follow --utc",
                "all circuits, as it happens",
            ),
        ],
    ),
    (
        "commontrip replicas",
        &[("commontrip replicas payments", "who reports to one circuit")],
    ),
    (
        "commontrip checks",
        &[("commontrip checks", "status 1 when one is critical")],
    ),
    (
        "commontrip force-open",
        &[
            (
                "commontrip force-open payments --for 15m --reason 'db upgrade'",
                "ends after 15 minutes",
            ),
            (
                "commontrip force-open payments --until-reset --replace",
                "stays until a reset, in place of another override",
            ),
        ],
    ),
    (
        "commontrip disable",
        &[(
            "commontrip disable payments --for 1h --reason 'false alarms'",
            "every call passes for an hour",
        )],
    ),
    (
        "commontrip metrics-only",
        &[(
            "commontrip metrics-only payments --for 1d --reason 'dry run'",
            "count for a day, then ask `simulate`",
        )],
    ),
    (
        "commontrip reset",
        &[
            (
                "commontrip reset payments --reason 'provider is back'",
                "one circuit",
            ),
            (
                "commontrip reset --all --yes",
                "every circuit, without a question",
            ),
        ],
    ),
    (
        "commontrip remove",
        &[(
            "commontrip remove old-payments",
            "once no replica reports to it",
        )],
    ),
    (
        "commontrip policy show",
        &[(
            "commontrip policy show payments",
            "settings in force, stored and in code",
        )],
    ),
    (
        "commontrip policy set",
        &[(
            "commontrip policy set payments failure_rate_threshold=30% wait_duration_in_open_state=30s",
            "wins over the code's",
        )],
    ),
    (
        "commontrip policy unset",
        &[
            (
                "commontrip policy unset payments failure_rate_threshold",
                "one setting",
            ),
            (
                "commontrip policy unset payments --all",
                "everything that is stored",
            ),
        ],
    ),
    (
        "commontrip queue list",
        &[
            ("commontrip queue list", "the queues"),
            (
                "commontrip queue list mails --state dead",
                "dead letters of one",
            ),
        ],
    ),
    (
        "commontrip queue show",
        &[(
            "commontrip queue show mails 2b7d31e0a4c95f18",
            "one job, with its body",
        )],
    ),
    (
        "commontrip queue retry",
        &[
            ("commontrip queue retry mails 2b7d31e0a4c95f18", "one job"),
            ("commontrip queue retry mails --all", "every dead letter"),
        ],
    ),
    (
        "commontrip queue drop",
        &[(
            "commontrip queue drop mails 2b7d31e0a4c95f18",
            "removes the job",
        )],
    ),
    (
        "commontrip serve",
        &[
            ("commontrip serve", "read-only, on 127.0.0.1:8700"),
            (
                "commontrip serve --listen localhost:8700 --token-file /run/secrets/token",
                "commands need the token",
            ),
            (
                "commontrip serve --tokens tokens.txt --require-token",
                "reading and commands need a token of the file",
            ),
            (
                "commontrip serve --path-prefix /breakers --trusted-proxy 10.0.0.7 --allow-host ops.example.com",
                "behind a proxy, as https://ops.example.com/breakers",
            ),
        ],
    ),
    (
        "commontrip token",
        &[(
            "commontrip token ana --role command >> tokens.txt",
            "its hash into the file; the token is shown once",
        )],
    ),
    (
        "commontrip simulate",
        &[
            (
                "commontrip simulate payments failure_rate_threshold=30%",
                "what it would have done",
            ),
            (
                "commontrip simulate payments --over 10m",
                "the policy in force; status 4 when it cannot tell",
            ),
        ],
    ),
    (
        "commontrip doctor",
        &[
            (
                "commontrip doctor --redis redis://10.0.0.7:6379",
                "status 1 when something is broken",
            ),
            (
                "commontrip doctor --acl",
                "the rights that a Redis user needs",
            ),
        ],
    ),
    (
        "commontrip demo",
        &[
            ("commontrip demo", "in this process, without a Redis"),
            (
                "commontrip demo --redis redis://127.0.0.1:6379 --serve",
                "replicas as processes, and the dashboard",
            ),
        ],
    ),
    (
        "commontrip man",
        &[("commontrip man | man -l -", "reads it")],
    ),
    (
        "commontrip completions",
        &[(
            "commontrip completions bash > /etc/bash_completion.d/commontrip",
            "for all users",
        )],
    ),
];

/// The command line, for parsing and for help.
pub fn command() -> clap::Command {
    dressed(Cli::command(), "commontrip")
}

/// The examples of a command, with their purpose.
pub fn examples(path: &str) -> &'static [(&'static str, &'static str)] {
    let of_it = EXAMPLES.iter().find(|(of, _)| *of == path);
    of_it.map_or(&[], |(_, examples)| examples)
}

fn dressed(mut command: clap::Command, path: &str) -> clap::Command {
    let names: Vec<_> = command
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect();
    for name in &names {
        command = command.mut_subcommand(name, |sub| dressed(sub, &format!("{path} {name}")));
    }
    let examples = examples(path);
    if examples.is_empty() {
        return command;
    }
    let width = examples.iter().map(|(typed, _)| typed.len()).max();
    let width = width.unwrap_or(0).min(62);
    let lines = examples
        .iter()
        .map(|(typed, what)| format!("  {typed:width$}  {what}"));
    let lines: Vec<_> = lines.collect();
    let connects = command.get_arguments().any(|a| a.get_id() == "prefix");
    let after = match command.get_after_help() {
        Some(after) => format!("\n\n{after}"),
        None if connects => format!("\n\n{ENVIRONMENT}\n\n{STATUS}"),
        None => String::new(),
    };
    command.after_help(format!("Examples:\n{}{after}", lines.join("\n")))
}
