//! `commontrip events`: transitions and operators' commands, oldest first, then as they happen.
//!
//! Owns that each entry is written once, although the store's record and the live updates overlap.

use std::collections::{BTreeMap, VecDeque};

use clap::Args;
use commontrip::{
    Event, Name, Reason,
    operator::{News, Operator, View},
};
use futures_util::{StreamExt, stream};
use serde::Serialize;

use crate::{
    Common,
    known::{self, AT_ONCE, Unreadable},
    out::{Done, Failure, Output, say, shown, tell, tell_line},
    table::{Table, coloured},
    words,
    zone::Zone,
};

/// How many written entries of a circuit are remembered; twice what the store keeps.
const REMEMBERED: usize = 512;

/// Arguments of `commontrip events`.
#[derive(Args, Debug)]
pub struct Options {
    /// Only this circuit's
    name: Option<String>,

    /// Follow new events
    #[arg(long, short)]
    follow: bool,

    /// How many of the newest to begin with [default: all that are kept]
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<usize>,

    #[command(flatten)]
    common: Common,
}

/// Writes the entries.
pub async fn run(options: &Options) -> Done {
    let operator = options.common.connection.operator()?;
    let only = options.name.as_deref();
    if options.follow {
        known::names(&operator, only).await?;
        return follow(options, &operator).await;
    }
    let mut unread = Unreadable::default();
    let past = newest(gather(&operator, only, &mut unread).await?, options.limit);
    write(&options.common.output, &past)?;
    if past.is_empty() && !options.common.output.json {
        tell("nothing has happened yet\n")?;
    }
    unread.end()
}

type Entry = (Name, Event);

/// Reads the store's record, oldest first.
async fn gather(
    operator: &Operator,
    only: Option<&str>,
    unread: &mut Unreadable,
) -> Result<Vec<Entry>, Failure> {
    read(operator, known::names(operator, only).await?, unread).await
}

/// Reads the records of these circuits, oldest first.
async fn read(
    operator: &Operator,
    names: Vec<Name>,
    unread: &mut Unreadable,
) -> Result<Vec<Entry>, Failure> {
    let asked = stream::iter(names.into_iter().map(|name| async move {
        let events = operator.events(name.as_str()).await;
        (name, events)
    }));
    let mut asked = asked.buffered(AT_ONCE);
    let mut all = Vec::new();
    while let Some((name, events)) = asked.next().await {
        match events {
            Ok(events) => all.extend(events.into_iter().map(|event| (name.clone(), event))),
            Err(error) => unread.pass_over(&name, error)?,
        }
    }
    // The sort is stable, so the entries of one circuit keep their order.
    all.sort_by_key(|(_, event)| event.at_ms);
    Ok(all)
}

fn newest(mut entries: Vec<Entry>, limit: Option<usize>) -> Vec<Entry> {
    let skipped = limit.map_or(0, |limit| entries.len().saturating_sub(limit));
    entries.split_off(skipped)
}

/// Writes the record, then new entries, until the reader is gone.
async fn follow(options: &Options, operator: &Operator) -> Done {
    let (only, out) = (options.name.as_deref(), &options.common.output);
    let mut tidings = operator.live().subscribe();
    let (mut told, mut listed) = (Told::default(), Listed::default());
    let (mut begun, mut unavailable) = (false, false);
    loop {
        let news = tidings.next().await;
        if let News::Store(answer) = &news {
            match answer {
                Err(why) if !begun => return Err(Failure::Store(why.clone())),
                Err(why) if !unavailable => {
                    say(&format!("the store is unavailable: {why}; waiting for it"))
                }
                Ok(_) if unavailable => say("the store is there again"),
                _ => {}
            }
            unavailable = answer.is_err();
        }
        let fresh = match news {
            // Live updates cover everything from the first tick on; the record has what came
            // before.
            News::Tick(_) if !begun => {
                begun = true;
                let past = gather(operator, only, &mut Unreadable::default()).await?;
                let fresh = past
                    .into_iter()
                    .filter(|entry| told.is_new(entry))
                    .collect();
                newest(fresh, options.limit)
            }
            News::Circuits(all) if !begun => {
                listed.note(&all.circuits);
                Vec::new()
            }
            // Some updates were lost, or more circuits were read.
            News::Circuits(all) => {
                let wanted = |name: &Name| only.is_none_or(|only| only == name.as_str());
                let changed = listed.changed(&all.circuits).filter(wanted).collect();
                match read(operator, changed, &mut Unreadable::default()).await {
                    Ok(past) => {
                        listed.note(&all.circuits);
                        past.into_iter()
                            .filter(|entry| told.is_new(entry))
                            .collect()
                    }
                    Err(_) => Vec::new(),
                }
            }
            News::Entry(name, event) if begun => {
                let entry = (name, Event::clone(&event));
                let wanted = only.is_none_or(|only| only == entry.0.as_str());
                match wanted && told.is_new(&entry) {
                    true => vec![entry],
                    false => Vec::new(),
                }
            }
            _ => Vec::new(),
        };
        write(out, &fresh)?;
    }
}

/// The versions of the listed circuits, seen before their records were read.
#[derive(Default)]
struct Listed(BTreeMap<Name, Version>);

/// The generation and the version of the policy; each entry of a record increments one of them.
type Version = (u64, u64);

impl Listed {
    /// The circuits whose record may have entries that were not read.
    fn changed(&self, circuits: &[View]) -> impl Iterator<Item = Name> {
        let changed = |view: &&View| self.0.get(&view.name) != Some(&version(view));
        circuits
            .iter()
            .filter(changed)
            .map(|view| view.name.clone())
    }

    fn note(&mut self, circuits: &[View]) {
        let versions = circuits
            .iter()
            .map(|view| (view.name.clone(), version(view)));
        self.0.extend(versions);
    }
}

fn version(view: &View) -> Version {
    (view.snapshot.generation, view.snapshot.policy_version)
}

type Key = (u64, u64, Reason, String);

/// The entries that were written of each circuit.
#[derive(Default)]
struct Told(BTreeMap<Name, VecDeque<Key>>);

impl Told {
    /// Returns whether an entry is new, and remembers it.
    fn is_new(&mut self, (name, event): &Entry) -> bool {
        let told = self.0.entry(name.clone()).or_default();
        let key = (
            event.generation,
            event.at_ms,
            event.reason,
            event.policy.clone(),
        );
        if told.contains(&key) {
            return false;
        }
        if told.len() == REMEMBERED {
            told.pop_front();
        }
        told.push_back(key);
        true
    }
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    #[serde(flatten)]
    event: &'a Event,
}

fn write(out: &Output, entries: &[Entry]) -> Done {
    if out.json {
        for (name, event) in entries {
            let name = name.as_str();
            tell_line(&Line { name, event })?;
        }
        return Ok(());
    }
    if entries.is_empty() {
        return Ok(());
    }
    let entries = entries.iter().map(|(name, event)| (Some(name), event));
    let table = table(&out.zone(), entries);
    tell(&table.text(out))
}

/// Lays out entries in columns, with a column for their circuits if these are given.
pub fn table<'a>(
    zone: &Zone,
    entries: impl Iterator<Item = (Option<&'a Name>, &'a Event)>,
) -> Table {
    let mut table = Table::headless();
    for (name, event) in entries {
        let mut row = vec![zone.date(event.at_ms).into()];
        row.extend(name.map(|name| shown(name.as_str()).into()));
        let change = words::change(event);
        row.push(coloured(words::change_colour(event), change));
        row.push(words::story(event).into());
        table.row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use commontrip::{Commontrip, Override, Policy};

    use super::*;

    #[tokio::test]
    async fn only_records_of_circuits_with_new_entries_are_read_again() {
        let circuits = Commontrip::embedded().unwrap();
        for name in ["orders", "payments", "users"] {
            let breaker = circuits.circuit(name, Policy::default()).unwrap();
            breaker.reset().await.unwrap();
        }
        let operator = Operator::of(&circuits);
        let mut listed = Listed::default();
        let changed = async |listed: &Listed| {
            let mut names: Vec<_> = listed
                .changed(&operator.circuits(0).await.unwrap())
                .collect();
            names.sort();
            names.iter().map(Name::to_string).collect::<Vec<_>>()
        };
        assert_eq!(changed(&listed).await, ["orders", "payments", "users"]);
        listed.note(&operator.circuits(0).await.unwrap());
        assert!(changed(&listed).await.is_empty());
        let drill = || Override::because("drill");
        operator.force_open("payments", drill()).await.unwrap();
        let set = operator.change_policy("users", "jitter=5", &[], drill());
        set.await.unwrap();
        assert_eq!(changed(&listed).await, ["payments", "users"]);
    }
}
