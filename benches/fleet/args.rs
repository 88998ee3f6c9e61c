//! Command-line arguments.

use std::path::PathBuf;

use crate::plan::{Plan, Topology};

pub const USAGE: &str = "\
usage: cargo bench --bench fleet -- [--long | --test] [--replicas N,N] [--topology one|cluster] [--json FILE]";

/// More replicas would need more connections than a Redis accepts by default.
const MOST_REPLICAS: usize = 4_000;

#[derive(Debug)]
pub struct Args {
    pub plan: Plan,
    pub cases: Vec<(usize, Topology)>,
    pub json: Option<PathBuf>,
}

pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Args, String> {
    let (mut long, mut test, mut json) = (false, false, None);
    let (mut replicas, mut topologies) = (None, None);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            // Passed by cargo.
            "--bench" => {}
            "--long" => long = true,
            "--test" => test = true,
            "--json" => json = Some(PathBuf::from(value()?)),
            "--replicas" => {
                let sizes: Result<Vec<_>, _> = value()?.split(',').map(size).collect();
                replicas = Some(sizes?);
            }
            "--topology" => topologies = Some(vec![topology(&value()?)?]),
            other => return Err(format!("{other} is not an option")),
        }
    }
    let plan = match (long, test) {
        (true, true) => return Err("--long and --test exclude each other".to_owned()),
        (true, false) => Plan::long(),
        (false, true) => Plan::quick(),
        (false, false) => Plan::usual(),
    };
    let all = [Topology::One, Topology::Cluster];
    let cases = if test && replicas.is_none() && topologies.is_none() {
        // Processes and tasks, one server and a Cluster, each once.
        vec![(3, Topology::One), (20, Topology::Cluster)]
    } else {
        let replicas = replicas.unwrap_or_else(|| vec![10, 100, 1_000]);
        let topologies = topologies.unwrap_or_else(|| all.to_vec());
        let of = |topology: &Topology| {
            let topology = *topology;
            replicas.iter().map(move |size| (*size, topology))
        };
        topologies.iter().flat_map(of).collect()
    };
    Ok(Args { plan, cases, json })
}

fn size(word: &str) -> Result<usize, String> {
    let size = word.trim().parse().ok();
    let size = size.filter(|size| (1..=MOST_REPLICAS).contains(size));
    size.ok_or(format!(
        "{word:?} is not a number of replicas: 1 to {MOST_REPLICAS}"
    ))
}

fn topology(word: &str) -> Result<Topology, String> {
    match word {
        "one" => Ok(Topology::One),
        "cluster" => Ok(Topology::Cluster),
        _ => Err(format!("{word:?} is not a topology: one or cluster")),
    }
}
