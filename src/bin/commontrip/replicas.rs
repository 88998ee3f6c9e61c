//! `commontrip replicas`: the replicas that report to the circuits, and what each is doing.

use std::collections::BTreeMap;

use clap::Args;
use commontrip::{
    Name,
    operator::{Member, Operator},
};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::json;

use crate::{
    Common,
    known::{self, AT_ONCE, Unreadable},
    out::{Done, Failure, RED, YELLOW, shown, tell},
    table::{Table, coloured},
    words,
};

/// Arguments of `commontrip replicas`.
#[derive(Args, Debug)]
pub struct Options {
    /// Only replicas of this circuit
    name: Option<String>,

    #[command(flatten)]
    common: Common,
}

/// A replica and what it does, across circuits.
#[derive(Serialize)]
struct Replica {
    name: String,
    circuits: Vec<String>,
    seen_ms: u64,
    failing_ms: u64,
    alone_until_ms: u64,
    failing: Vec<String>,
    alone: Vec<String>,
}

/// Lists the replicas.
pub async fn run(options: &Options) -> Done {
    let operator = options.common.connection.operator()?;
    let names = known::names(&operator, options.name.as_deref()).await?;
    let mut unread = Unreadable::default();
    let (now_ms, replicas) = gather(&operator, names, &mut unread).await?;
    let out = &options.common.output;
    if out.json {
        let listed = json!({ "now_ms": now_ms, "replicas": replicas });
        out.tell(&listed, String::new)?;
    } else if replicas.is_empty() {
        tell("no replica has reported within the last hour\n")?;
    } else {
        tell(&table(now_ms, &replicas).text(out))?;
    }
    unread.end()
}

async fn gather(
    operator: &Operator,
    names: Vec<Name>,
    unread: &mut Unreadable,
) -> Result<(u64, Vec<Replica>), Failure> {
    let asked = stream::iter(names.into_iter().map(|name| async move {
        let details = operator.details(name.as_str()).await;
        (name, details)
    }));
    let mut asked = asked.buffered(AT_ONCE);
    let mut answers = Vec::new();
    while let Some((name, details)) = asked.next().await {
        match details {
            Ok(details) => answers.push((name, details)),
            Err(error) => unread.pass_over(&name, error)?,
        }
    }
    let now_ms = answers.iter().map(|(_, d)| d.circuit.snapshot.now_ms).max();
    let mut all: BTreeMap<String, Replica> = BTreeMap::new();
    for (circuit, details) in &answers {
        for member in &details.replicas {
            let replica = all.entry(member.name.clone()).or_insert_with(|| Replica {
                name: member.name.clone(),
                circuits: Vec::new(),
                seen_ms: 0,
                failing_ms: 0,
                alone_until_ms: 0,
                failing: Vec::new(),
                alone: Vec::new(),
            });
            replica.circuits.push(circuit.to_string());
            replica.seen_ms = replica.seen_ms.max(member.seen_ms);
            replica.failing_ms = replica.failing_ms.max(member.failing_ms);
            replica.alone_until_ms = replica.alone_until_ms.max(member.alone_until_ms);
            if member.failing_ms > 0 {
                replica.failing.push(circuit.to_string());
            }
            if member.alone_until_ms > 0 {
                replica.alone.push(circuit.to_string());
            }
        }
    }
    let mut replicas: Vec<_> = all.into_values().collect();
    replicas.sort_by_key(|replica| std::cmp::Reverse(replica.seen_ms));
    Ok((now_ms.unwrap_or(0), replicas))
}

fn table(now_ms: u64, replicas: &[Replica]) -> Table {
    let mut table = Table::new(vec!["REPLICA", ">SEEN", "FAILING", "ALONE", "CIRCUITS"]);
    let listed = |names: &[String]| {
        let names: Vec<_> = names.iter().map(|name| shown(name)).collect();
        names.join(", ")
    };
    let or_none = |names: &[String]| match names.is_empty() {
        true => "-".to_owned(),
        false => listed(names),
    };
    for replica in replicas {
        let failing = or_none(&replica.failing);
        let alone = or_none(&replica.alone);
        table.row(vec![
            shown(&replica.name).into(),
            words::ago(now_ms, replica.seen_ms).into(),
            match replica.failing.is_empty() {
                true => failing.into(),
                false => coloured(YELLOW, failing),
            },
            match replica.alone.is_empty() {
                true => alone.into(),
                false => coloured(RED, alone),
            },
            listed(&replica.circuits).into(),
        ]);
    }
    table
}

/// Describes what a replica of one circuit is doing.
pub fn state(now_ms: u64, member: &Member) -> Vec<String> {
    let mut said = vec![format!("seen {}", words::ago(now_ms, member.seen_ms))];
    if member.failing_ms > 0 {
        said.push(format!("failing {}", words::ago(now_ms, member.failing_ms)));
    }
    if member.alone_until_ms > now_ms {
        let left = words::span(member.alone_until_ms - now_ms);
        said.push(format!("open for itself, {left} left"));
    }
    said
}
