//! Does once what the crate does: tries each right, trips and probes a circuit, waits for a push.

use std::time::Duration;

use futures_util::{StreamExt, future::try_join};
use redis::aio::{PubSubSink, PubSubStream};
use tokio::time::{sleep, timeout};

use super::{
    super::{StoreError, wire::Whole},
    Finding, Node,
    node::is_silence,
    rights::{RIGHTS, When, lacking},
    texts,
};
use crate::{
    model::{
        Acquire, Command, Control, Grant, Head, Permission, Release, Report, Rules, Snapshot, State,
    },
    store::Clock,
};

/// Tries each needed right, one by one.
pub(super) async fn rights(node: Node, needed: impl Fn(When) -> bool, user: String) -> Finding {
    let name = "rights";
    let prefix = &node.inner.prefix;
    // A key of its own, so that the trials never touch what the scripts write.
    let (key, index) = (format!("{}:trial", node.key()), prefix.index());
    let needed: Vec<_> = RIGHTS.iter().filter(|right| needed(right.when)).collect();
    let mut refusals = Vec::new();
    for trial in needed.iter().filter_map(|right| right.trial(&key, &index)) {
        let answer = node.ask(&trial).await;
        if is_silence(&answer) {
            let words = answer.map_or_else(|error| error.to_string(), |_| String::new());
            return texts::explained(name, &words, &words);
        }
        refusals.extend(answer.err().map(|error| error.to_string()));
    }
    // Writing to the index is needed, too.
    let touch = redis::cmd("ZREM").arg(&index).arg("-").to_owned();
    let touched = node.anywhere().ask(&touch).await;
    refusals.extend(touched.err().map(|error| error.to_string()));
    // The `push` check reports failures other than a lacking right.
    match subscribed(&node).await {
        Some(Ok((mut sink, _stream))) => {
            let done = timeout(node.patience, sink.unsubscribe(node.key())).await;
            refusals.extend(
                done.ok()
                    .and_then(Result::err)
                    .map(|error| error.to_string()),
            );
        }
        Some(Err(words)) => refusals.push(words),
        None => {}
    }
    if let Some(words) = refusals
        .iter()
        .find(|words| words.contains("unknown command"))
    {
        let check = Finding::failure(name, words.clone())
            .means("The crate does not work without this command.");
        return check.advice(
            "Ask whoever runs this server to allow the command; some providers disable scripts or Pub/Sub.",
        );
    }
    let mut missing: Vec<String> = Vec::new();
    for rule in refusals.iter().filter_map(|words| lacking(words, prefix)) {
        if !missing.contains(&rule) {
            missing.push(rule);
        }
    }
    if missing.is_empty() {
        let (tried, prefix) = (needed.len(), prefix.as_str());
        let found = format!("all {tried} commands, on keys and channels {prefix}:*");
        return Finding::ok(name, found);
    }
    let quoted: Vec<_> = missing.iter().map(|rule| quoted(rule)).collect();
    let mut check = Finding::failure(name, format!("user {user} lacks {}", missing.join(" ")))
        .means("Redis denies this user commands that the crate needs, so each replica decides alone.")
        .advice(format!(
            "As an administrator, on each server and its replicas: redis-cli ACL SETUSER {user} {}, \
             then ACL SAVE or CONFIG REWRITE.",
            quoted.join(" ")
        ));
    check.missing = missing;
    check
}

/// Quotes a rule for a shell.
fn quoted(rule: &str) -> String {
    match rule.starts_with('+') && !rule.contains('|') {
        true => rule.to_owned(),
        false => format!("'{}'", rule.replace('\'', "'\\''")),
    }
}

/// A connection that is subscribed to the circuit's changes, or why there is none; `None` for a
/// pool without a URL.
async fn subscribed(node: &Node) -> Option<Result<(PubSubSink, PubSubStream), String>> {
    let connection = match node.subscriber().await? {
        Ok(connection) => connection,
        Err(error) => return Some(Err(texts::of(&error))),
    };
    let (mut sink, stream) = connection.split();
    let done = timeout(node.patience, sink.subscribe(node.key())).await;
    Some(match done {
        Ok(Ok(())) => Ok((sink, stream)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(texts::of(&StoreError::Timeout(node.patience))),
    })
}

/// Runs a circuit from its creation to its end: trips it, gets and releases a probe permit, resets
/// and deletes it. Also checks whether the trip was pushed.
pub(super) async fn life(node: Node) -> (Finding, Finding) {
    let listening = subscribed(&node).await;
    let clock = Clock::system();
    let begun = clock.precise_ns();
    let (tripped, heard) = match listening {
        Some(Ok((_sink, mut stream))) => {
            let hear = async {
                let message = timeout(node.patience, stream.next()).await;
                Ok(message.ok().flatten().map(|_| clock.precise_ns() - begun))
            };
            // Without a trip there is no push to wait for.
            match try_join(trip(&node), hear).await {
                Ok((state, heard)) => (Ok(state), Some(Ok(heard))),
                Err(error) => (Err(error), Some(Ok(None))),
            }
        }
        Some(Err(words)) => (trip(&node).await, Some(Err(words))),
        None => (trip(&node).await, None),
    };
    let ran = match tripped {
        Ok(_) => rest(&node).await,
        Err(error) => Err(error),
    };
    clean(&node).await;
    let push = pushed(&ran, heard);
    (lived(ran, &node), push)
}

fn head() -> Head {
    let policy = Rules {
        wait_duration_in_open_state_ms: 1,
        ..Rules::default()
    };
    Head {
        replica: "commontrip-doctor".to_owned(),
        policy,
        ..Head::default()
    }
}

async fn trip(node: &Node) -> Result<State, StoreError> {
    let report = Report {
        head: head(),
        seq: 1,
        trips: 1,
        counts: crate::model::Counts {
            failures: 1,
            ..Default::default()
        },
        ..Report::default()
    };
    let snapshot: Snapshot = node.run(&node.inner.scripts.report, &report).await?;
    expect("open", snapshot.state == State::Open, &snapshot)
}

async fn rest(node: &Node) -> Result<State, StoreError> {
    let scripts = &node.inner.scripts;
    let token = "commontrip-doctor:1".to_owned();
    let acquire = Acquire {
        head: head(),
        token: token.clone(),
    };
    let probe = async {
        loop {
            let grant: Grant = node.run(&scripts.acquire, &acquire).await?;
            if grant.permission == Permission::Probe {
                return Ok(grant.snapshot);
            }
            sleep(Duration::from_millis(2)).await;
        }
    };
    let late = |_| Err(StoreError::Refused("no probe was given".to_owned()));
    timeout(node.patience, probe).await.unwrap_or_else(late)?;
    let release = Release {
        head: head(),
        token,
    };
    let _: Snapshot = node.run(&scripts.release, &release).await?;
    let whole: Whole = node.run(&scripts.snapshot, &head()).await?;
    let snapshot = Snapshot::from(whole);
    expect(
        "half-open",
        snapshot.state == State::HalfOpen && snapshot.probes == 0,
        &snapshot,
    )?;
    let reset = Control {
        head: head(),
        command: Command::Reset,
        author: "commontrip-doctor".to_owned(),
        ..Control::default()
    };
    let snapshot: Snapshot = node.run(&scripts.control, &reset).await?;
    expect("closed", snapshot.state == State::Closed, &snapshot)
}

fn expect(state: &str, holds: bool, snapshot: &Snapshot) -> Result<State, StoreError> {
    match holds {
        true => Ok(snapshot.state),
        false => Err(StoreError::Refused(format!(
            "the circuit should be {state} now and is {}",
            snapshot.state
        ))),
    }
}

/// Deletes the circuit, or lets it expire if the user may not delete.
async fn clean(node: &Node) {
    for key in node.inner.prefix.all(&node.circuit) {
        if node.ask(redis::cmd("DEL").arg(&key)).await.is_err() {
            let _ = node.ask(redis::cmd("PEXPIRE").arg(&key).arg(1)).await;
        }
    }
}

fn lived(ran: Result<State, StoreError>, node: &Node) -> Finding {
    let name = "circuit";
    match ran {
        Ok(_) => {
            let circuit = &node.circuit;
            let found = format!("{circuit} was tripped, probed, reset and deleted");
            Finding::ok(name, found)
        }
        Err(error) => {
            let words = texts::of(&error);
            texts::explained(name, &format!("the scripts do not run: {words}"), &words)
        }
    }
}

/// How long after its report the trip was pushed, ns; inner `None` = it was not, error = there was
/// no subscription, outer `None` = a pool without a URL.
type Heard = Option<Result<Option<u64>, String>>;

fn pushed(ran: &Result<State, StoreError>, heard: Heard) -> Finding {
    let name = "push";
    let late = "Replicas notice a change only when they next ask Redis, within decision_ttl.";
    match heard {
        None => Finding::note(
            name,
            "a pool without a URL beside it cannot push".to_owned(),
        )
        .means(late),
        Some(Ok(Some(ns))) => Finding::ok(
            name,
            format!("a change was pushed in {:.1} ms", ns as f64 / 1e6),
        ),
        Some(Err(words)) => {
            let mut check = texts::explained(name, &format!("cannot subscribe: {words}"), &words);
            check.verdict = super::Verdict::Warning;
            check.means(late)
        }
        Some(Ok(None)) if ran.is_err() => Finding::note(
            name,
            "not tried, because the circuit did not trip".to_owned(),
        ),
        Some(Ok(None)) => Finding::warning(name, "a change was not pushed".to_owned())
            .means(late)
            .advice("See whether a proxy between here and Redis drops Pub/Sub."),
    }
}
