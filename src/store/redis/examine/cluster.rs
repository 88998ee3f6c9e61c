//! Checks of the Cluster as a whole: every slot served, every master answering and with a replica.

use futures_util::future::join_all;
use redis::Value;

use super::{super::slots::Slots, Finding, Node, node::is_silence, texts};

/// Examines the Cluster. Also returns the masters that answer.
pub(super) async fn reach(first: &Node) -> (Finding, Vec<Node>) {
    let name = "cluster";
    let answer = match first.ask(redis::cmd("CLUSTER").arg("SLOTS")).await {
        Ok(answer) => answer,
        Err(error) => {
            let words = error.to_string();
            return (texts::explained(name, &words, &words), Vec::new());
        }
    };
    let slots = Slots::read(&answer);
    let masters = join_all(slots.masters.iter().enumerate().map(|(i, at)| {
        // Numbered as in `Slots`.
        let number = u16::try_from(i + 1).unwrap_or(u16::MAX);
        let node = first.of_master(at, |slot| slots.shard(slot) == number);
        async move {
            let node = node?;
            let answer = node.ask(&redis::cmd("PING")).await;
            (!is_silence(&answer)).then_some(node)
        }
    }));
    let masters: Vec<Option<Node>> = masters.await;
    let addresses = slots
        .masters
        .iter()
        .map(|(host, port)| format!("{host}:{port}"));
    let silent: Vec<_> = addresses
        .zip(&masters)
        .filter(|(_, node)| node.is_none())
        .map(|(address, _)| address)
        .collect();
    let check = judged(name, &slots, &silent, without_replica(&answer));
    (check, masters.into_iter().flatten().collect())
}

fn judged(name: &'static str, slots: &Slots, silent: &[String], bare: usize) -> Finding {
    let masters = slots.masters.len();
    let lost = slots.unserved();
    if lost > 0 {
        let found = format!("{lost} of 16384 slots are not served");
        let check = Finding::failure(name, found);
        let check = check.means(
            "Circuits in these slots are decided by each replica alone until a master serves them.",
        );
        return check.advice("Bring the missing master back, or give its slots away: redis-cli --cluster fix HOST:PORT.");
    }
    if !silent.is_empty() {
        let found = format!(
            "no answer from {} of {masters} masters: {}",
            silent.len(),
            silent.join(", ")
        );
        let check = Finding::failure(name, found);
        let check = check.means("Their circuits are each replica's own until they answer.");
        return check.advice(
            "Start them; if they run, see that these addresses can be reached from here \
             (cluster-announce-ip tells nodes which ones to give).",
        );
    }
    let found = format!("{masters} masters, all slots served");
    match bare {
        0 => Finding::ok(name, found),
        bare => Finding::note(
            name,
            format!("{found}; {bare} of the masters without a replica"),
        )
        .means("When such a master dies, its circuits are each replica's own until it is back."),
    }
}

/// The number of masters without a replica.
fn without_replica(answer: &Value) -> usize {
    let Value::Array(ranges) = answer else {
        return 0;
    };
    let mut bare: Vec<&Value> = Vec::new();
    for range in ranges {
        if let Value::Array(parts) = range
            && let [_, _, master] = &parts[..]
            && !bare.contains(&master)
        {
            bare.push(master);
        }
    }
    bare.len()
}
