//! Transition tables: the required behaviour of a circuit, as data, for any store.
//!
//! Owns the runner; the `.txt` files beside it have the cases, and [`parse`] their format. Every
//! case has its own circuit and gives the time with each request, so the same table runs on the
//! model and on the scripts.
//!
//! Verbs: `report REPLICA`, `acquire TOKEN`, `release TOKEN`, `force_open`, `disable`,
//! `metrics_only`, `reset`, `set_policy`, `look` (a snapshot; with `operator=1` for a reader
//! without a policy), `again` (repeats the last request), `lose` (the store loses the circuit),
//! `events` (all of them, as `from>to:reason:generation`, followed by `:` and the leading kind of
//! failure if there is one).
//!
//! Expectations: a permission, a state, `key=value` with the fields of a snapshot (short forms:
//! `left`, `opens`; of its latency `measured`, `mean_us`, `p50_us`, `p95_us`, `p99_us`; of its
//! failure kinds `kind recent/count (detail)`, separated by semicolons; `@N` is a time, `A..B` a
//! range, and a comma stands for a space, while commas of the text are left out), or `same`:
//! nothing but the fields that follow differs from the last snapshot.

mod parse;

use std::{collections::HashMap, sync::Arc, time::Duration};

use commontrip::Percentiles;
use commontrip::model::{
    Acquire, Command, Control, Counts, Event, Head, Kind, KindNote, Latencies, Memory, Name,
    Permission, Reason, Release, Report, Rules, Runs, Settled, Snapshot, State,
};
use commontrip::store::Store;
use serde_json::{Map, Value};

use self::parse::{Args, Line};
use crate::support::unique;

/// The time `@0`: a midnight, so that buckets of every usual width begin there.
const BASE: u64 = 1_735_689_600_000;

/// A store, and how to make it lose a circuit.
pub struct Subject {
    pub store: Arc<dyn Store>,
    pub lose: Box<dyn Fn(&Name) + Send + Sync>,
}

/// Runs every case of a table.
///
/// # Panics
/// With file and line of the first failed step in each case.
pub async fn run(subject: &Subject, topic: &str, table: &str) {
    let file = format!("tests/it/transitions/{topic}.txt");
    let cases =
        parse::cases(table).unwrap_or_else(|(line, wrong)| panic!("{file}:{line}: {wrong}"));
    assert!(!cases.is_empty(), "{file} has no case");
    let mut wrong = Vec::new();
    for (name, line, lines) in cases {
        let mut case = Case::new(subject);
        let mut at = line;
        let mut ran = Ok(());
        for line in lines {
            at = line.number;
            ran = case.step(line).await;
            if ran.is_err() {
                break;
            }
        }
        if ran.is_ok() {
            ran = case.events_add_up().await;
        }
        if let Err(why) = ran {
            wrong.push(format!("{file}:{at}: {why}\n    in case: {name}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[derive(Clone)]
enum Request {
    Acquire(Acquire),
    Report(Box<Report>),
    Release(Release),
    Control(Box<Control>),
}

struct Case<'s> {
    subject: &'s Subject,
    circuit: Name,
    rules: Rules,
    seqs: HashMap<String, u64>,
    /// Token -> the generation in which it was given.
    tokens: HashMap<String, u64>,
    last: Snapshot,
    request: Option<Request>,
    /// The generation may jump, because the store lost the circuit or a replica remembered a newer
    /// one.
    remembered: bool,
}

impl<'s> Case<'s> {
    fn new(subject: &'s Subject) -> Self {
        Self {
            subject,
            circuit: Name::new(&unique("table")).unwrap(),
            rules: Rules::default(),
            seqs: HashMap::new(),
            tokens: HashMap::new(),
            last: Snapshot::default(),
            request: None,
            remembered: false,
        }
    }

    async fn step(&mut self, mut line: Line<'_>) -> Result<(), String> {
        let args = &mut line.args;
        let now_ms = BASE + line.at;
        let store = &self.subject.store;
        match line.verb {
            "policy" => {
                self.rules = with_pairs(self.rules, args)?;
                return args.end();
            }
            "lose" => {
                (self.subject.lose)(&self.circuit);
                (self.last, self.remembered) = (Snapshot::default(), true);
                return args.end();
            }
            "events" => {
                args.end()?;
                let events = store.events(&self.circuit, 0).await;
                let events = events.map_err(|e| e.to_string())?;
                let seen: Vec<_> = events.iter().map(in_short).collect();
                let wanted = line.expected.words();
                return differs("events", &seen.join(" "), &wanted.join(" "));
            }
            "look" => {
                let head = self.head(args, now_ms)?;
                args.end()?;
                let snapshot = store.snapshot(&self.circuit, &head).await;
                let snapshot = snapshot.map_err(|e| e.to_string())?;
                return self.check(snapshot, None, line.expected);
            }
            "again" => {
                let request = self.request.as_mut().ok_or("nothing to repeat")?;
                match request {
                    Request::Acquire(r) => r.head.now_ms = now_ms,
                    Request::Report(r) => r.head.now_ms = now_ms,
                    Request::Release(r) => r.head.now_ms = now_ms,
                    Request::Control(r) => r.head.now_ms = now_ms,
                }
            }
            _ => self.request = Some(self.request(line.verb, args, now_ms)?),
        }
        line.args.end()?;
        let (snapshot, permission) = self.send().await?;
        self.check(snapshot, permission, line.expected)
    }

    async fn send(&mut self) -> Result<(Snapshot, Option<Permission>), String> {
        let (store, circuit) = (&self.subject.store, &self.circuit);
        let request = self.request.clone().ok_or("nothing to send")?;
        let answer = match &request {
            Request::Acquire(r) => store.acquire(circuit, r).await.map(|grant| {
                if grant.permission == Permission::Probe {
                    let given_under = grant.snapshot.generation;
                    self.tokens.entry(r.token.clone()).or_insert(given_under);
                }
                (grant.snapshot, Some(grant.permission))
            }),
            Request::Report(r) => {
                let batch = [(circuit.clone(), (**r).clone())];
                let answers = store.report(&batch).await;
                let answer = answers.and_then(|mut a| a.pop().expect("one report, one answer"));
                answer.map(|snapshot| (snapshot, None))
            }
            Request::Release(r) => store.release(circuit, r).await.map(|s| (s, None)),
            Request::Control(r) => store.control(circuit, r).await.map(|s| (s, None)),
        };
        answer.map_err(|e| e.to_string())
    }

    fn head(&mut self, args: &mut Args<'_>, now_ms: u64) -> Result<Head, String> {
        let mut head = Head {
            now_ms,
            entropy: args.count("entropy")?,
            replica: args.text("by").unwrap_or("r1").to_owned(),
            policy: self.rules,
            is_operator: args.count("operator")? > 0,
            ..Head::default()
        };
        let state = args.text("m.state").unwrap_or("closed");
        let state = state.parse::<State>().map_err(|error| error.to_string())?;
        let why = match state {
            State::Closed => Reason::Created,
            State::Open => Reason::FailureRate,
            State::HalfOpen => Reason::WaitElapsed,
            _ => Reason::Override,
        };
        head.memory = Memory {
            generation: args.count("m.generation")?,
            state,
            left_ms: args.number("m.left")?.unwrap_or(0),
            age_ms: args.count("m.age")?,
            opens: args.count("m.opens")?,
            author: args.text("m.author").unwrap_or_default().to_owned(),
            reason: args.text("m.reason").unwrap_or_default().to_owned(),
            why,
            probes: args.count("m.probes")?,
        };
        self.remembered |= head.memory.generation > 0;
        Ok(head)
    }

    fn request(&mut self, verb: &str, args: &mut Args<'_>, now: u64) -> Result<Request, String> {
        let mut head = self.head(args, now)?;
        let command = match verb {
            "acquire" => {
                let token = args.word("token")?.to_owned();
                return Ok(Request::Acquire(Acquire { head, token }));
            }
            "release" => {
                let token = args.word("token")?.to_owned();
                return Ok(Request::Release(Release { head, token }));
            }
            "report" => {
                head.replica = args.word("replica")?.to_owned();
                return Ok(Request::Report(Box::new(self.report(head, args)?)));
            }
            "force_open" => Command::ForceOpen,
            "disable" => Command::Disable,
            "metrics_only" => Command::MetricsOnly,
            "reset" => Command::Reset,
            "set_policy" => Command::Policy,
            other => return Err(format!("{other} is no verb")),
        };
        let for_ms = args.count("for")?;
        let author = args.text("author").unwrap_or_default().to_owned();
        let reason = args.text("why").unwrap_or_default().to_owned();
        let expects = args.count("expects")?;
        let stored = args.pairs().into_iter();
        let stored: Vec<_> = stored.map(|(k, v)| format!("{k}={v}")).collect();
        Ok(Request::Control(Box::new(Control {
            head,
            command,
            for_ms,
            author,
            reason,
            policy: stored.join(" "),
            expects,
        })))
    }

    fn report(&mut self, head: Head, args: &mut Args<'_>) -> Result<Report, String> {
        let next = self.seqs.get(&head.replica).map_or(1, |n| n + 1);
        let seq = args.number("seq")?.unwrap_or(next);
        self.seqs.insert(head.replica.clone(), seq.max(next - 1));
        let (mut counts, runs) = match args.text("order") {
            Some(order) => in_order(order)?,
            None => (
                Counts {
                    successes: args.count("s")?,
                    failures: args.count("f")?,
                    slow_successes: args.count("ss")?,
                    slow_failures: args.count("sf")?,
                    ..Counts::default()
                },
                Runs::default(),
            ),
        };
        counts.ignored = args.count("ignored")?;
        counts.rejected = args.count("rejected")?;
        counts.abandoned = args.count("abandoned")?;
        counts.abandoned_failures = args.count("hung")?;
        let late = Counts {
            successes: args.count("late_s")?,
            failures: args.count("late_f")?,
            ..Counts::default()
        };
        let settled = args.text("settle").unwrap_or_default();
        let settled = settled.split(',').filter(|one| !one.is_empty());
        Ok(Report {
            head,
            seq,
            generation: args.number("gen")?.unwrap_or(self.last.generation),
            counts,
            late,
            runs,
            retry_after_ms: args.count("retry_after")?,
            trips: args.count("trips")?,
            settled: settled
                .map(|one| self.settled(one))
                .collect::<Result<_, _>>()?,
            alone_ms: args.count("alone")?,
            latencies: latencies(args.text("latencies").unwrap_or_default())?,
            kinds: kinds(args.text("kinds").unwrap_or_default())?,
        })
    }

    /// `token:kind` or `token:kind@retry_after`, which belong to the generation in which the token
    /// was given, or `token:kind:generation`.
    fn settled(&self, text: &str) -> Result<Settled, String> {
        let parts: Vec<_> = text.split(':').collect();
        let (kind, retry_after_ms) = match parts.get(1).and_then(|kind| kind.split_once('@')) {
            Some((kind, wait)) => (
                Some(kind),
                wait.parse().map_err(|_| format!("{text}: number"))?,
            ),
            None => (None, 0),
        };
        let (token, word, generation) = match parts[..] {
            [token, kind] => (token, kind, self.tokens.get(token).copied().unwrap_or(0)),
            [token, kind, number] => {
                let number = number.parse();
                (token, kind, number.map_err(|_| format!("{text}: number"))?)
            }
            _ => return Err(format!("{text} is not token:kind")),
        };
        let kind = match kind.unwrap_or(word) {
            "ignored" => Kind::Ignored,
            "success" => Kind::Success,
            "failure" => Kind::Failure,
            "trip" => Kind::Trip,
            "abandoned" => Kind::Abandoned,
            other => return Err(format!("{other} is no kind")),
        };
        Ok(Settled {
            token: token.to_owned(),
            generation,
            kind,
            retry_after_ms,
        })
    }

    fn check(
        &mut self,
        snapshot: Snapshot,
        permission: Option<Permission>,
        mut expected: Args<'_>,
    ) -> Result<(), String> {
        let before = fields(&std::mem::replace(&mut self.last, snapshot));
        let now = fields(&self.last);
        // The largest generation is followed by the first.
        let newest = before["generation"].as_u64();
        if now["generation"].as_u64() < newest && newest < Some(1 << 40) {
            return Err("the generation went back".into());
        }
        let mut same = false;
        for word in expected.words() {
            match word {
                "same" => same = true,
                "permitted" => differs("permission", &permission, &Some(Permission::Permitted))?,
                "rejected" => differs("permission", &permission, &Some(Permission::Rejected))?,
                "probe" => differs("permission", &permission, &Some(Permission::Probe))?,
                state => differs("state", &self.last.state.as_str(), &state)?,
            }
        }
        let pairs = expected.pairs();
        for (key, wanted) in &pairs {
            let key = alias(key);
            let found = now
                .get(key)
                .ok_or_else(|| format!("{key} is not a field"))?;
            matches(key, found, wanted)?;
        }
        if same {
            let named = |key: &str| pairs.keys().any(|k| alias(k) == key);
            for (key, found) in &now {
                let moves = [
                    "now_ms",
                    "left_ms",
                    "pace_ms",
                    "replicas",
                    "code",
                    "open_total_ms",
                ]
                .contains(&key.as_str());
                if !moves && !named(key) {
                    differs(key, found, &before[key])?;
                }
            }
        }
        Ok(())
    }

    /// Checks that each generation was begun by one event, and that there are no other events.
    async fn events_add_up(&self) -> Result<(), String> {
        let events = self.subject.store.events(&self.circuit, 0).await;
        let mut events = events.map_err(|e| e.to_string())?;
        events.retain(Event::is_transition);
        let mut before: Option<&Event> = None;
        for event in &events {
            let expected = match before {
                // The largest generation is followed by the first.
                Some(before) if before.generation < 1 << 40 => before.generation + 1,
                _ => 1,
            };
            let jumps = self.remembered && event.generation > expected;
            if event.generation != expected && !jumps {
                return Err(format!("event {} is not {expected}", event.generation));
            }
            if before.is_some_and(|e| e.to != event.from) {
                return Err(format!("event {} does not join", event.generation));
            }
            before = Some(event);
        }
        if let Some(event) = before {
            let last = (event.generation, event.to);
            differs("end", &(self.last.generation, self.last.state), &last)?;
        }
        Ok(())
    }
}

fn in_short(event: &Event) -> String {
    let Event {
        from, to, reason, ..
    } = event;
    let leading = match event.leading_failure.as_str() {
        "" => String::new(),
        leading => format!(":{}", leading.replace(' ', "_")),
    };
    format!("{from}>{to}:{reason}:{}{leading}", event.generation)
}

/// Parses `microseconds:calls`, separated by commas.
fn latencies(text: &str) -> Result<Latencies, String> {
    let mut latencies = Latencies::default();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let numbers = pair.split_once(':').map(|(a, b)| (a.parse(), b.parse()));
        let Some((Ok(micros), Ok(calls))) = numbers else {
            return Err(format!("{pair} is no microseconds:calls"));
        };
        latencies.record(Duration::from_micros(micros), calls);
    }
    Ok(latencies)
}

/// Parses `kind:count` or `kind:count:detail`, separated by commas; `_` stands for a space.
fn kinds(text: &str) -> Result<Vec<KindNote>, String> {
    let note = |one: &str| {
        let mut parts = one.splitn(3, ':').map(|part| part.replace('_', " "));
        let kind = parts.next().unwrap_or_default();
        let count = parts.next().and_then(|count| count.parse().ok());
        Ok(KindNote {
            kind,
            count: count.ok_or_else(|| format!("{one} is no kind:count"))?,
            detail: parts.next().unwrap_or_default(),
        })
    };
    text.split(',')
        .filter(|one| !one.is_empty())
        .map(note)
        .collect()
}

fn alias(key: &str) -> &str {
    match key {
        "left" => "left_ms",
        "opens" => "consecutive_opens",
        other => other,
    }
}

fn fields(snapshot: &Snapshot) -> Map<String, Value> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(snapshot) else {
        panic!("a snapshot is a map");
    };
    fields.insert("left_ms".into(), snapshot.left_ms().into());
    fields.remove("latency");
    // Only a snapshot for a reader has it.
    fields.remove("code_policy");
    fields.insert("code".into(), snapshot.code_policy.clone().into());
    let kinds = snapshot.failure_kinds.iter().map(|seen| {
        let detail = match seen.detail.as_str() {
            "" => String::new(),
            detail => format!(" ({detail})"),
        };
        format!("{} {}/{}{detail}", seen.kind, seen.recent, seen.count)
    });
    let kinds = kinds.collect::<Vec<_>>().join(";");
    fields.insert("failure_kinds".into(), kinds.into());
    let latency = snapshot.latency;
    let micros = |of: fn(Percentiles) -> Duration| {
        let micros = latency.map_or(0, |l| of(l).as_micros());
        u64::try_from(micros).unwrap_or(u64::MAX).into()
    };
    fields.insert("measured".into(), latency.map_or(0, |l| l.count).into());
    fields.insert("mean_us".into(), micros(|l| l.mean));
    fields.insert("p50_us".into(), micros(|l| l.p50));
    fields.insert("p95_us".into(), micros(|l| l.p95));
    fields.insert("p99_us".into(), micros(|l| l.p99));
    fields
}

fn matches(key: &str, found: &Value, wanted: &str) -> Result<(), String> {
    let Some(found) = found.as_u64() else {
        let found = found.as_str().unwrap_or_default().replace(',', "");
        return differs(key, &found.as_str(), &wanted.replace(',', " ").as_str());
    };
    let number = |text: &str| {
        let (base, text) = text.strip_prefix('@').map_or((0, text), |at| (BASE, at));
        let number: Result<u64, _> = text.parse();
        number.map_or_else(
            |_| Err(format!("{key}={text}: no number")),
            |n| Ok(base + n),
        )
    };
    let (least, most) = match wanted.split_once("..") {
        Some((least, most)) => (number(least)?, number(most)?),
        None => (number(wanted)?, number(wanted)?),
    };
    if (least..=most).contains(&found) {
        return Ok(());
    }
    let found = found
        .checked_sub(BASE)
        .map_or(found.to_string(), |ms| format!("@{ms}"));
    Err(format!("{key} is {found}, not {wanted}"))
}

fn differs<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    wanted: &T,
) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{what} is {found:?}, not {wanted:?}"))
}

fn with_pairs(rules: Rules, args: &mut Args<'_>) -> Result<Rules, String> {
    let mut value = serde_json::to_value(rules).expect("rules are a map");
    for (key, text) in args.pairs() {
        let number: u64 = text.parse().map_err(|_| format!("{key}={text}"))?;
        let place = value.get_mut(key).ok_or_else(|| format!("no rule {key}"))?;
        *place = number.into();
    }
    serde_json::from_value(value).map_err(|e| e.to_string())
}

/// Counts and runs of outcomes in this order: `s`, `f`, and `S`, `F` for slow ones.
fn in_order(order: &str) -> Result<(Counts, Runs), String> {
    let mut counts = Counts::default();
    let (mut runs, mut run) = (Runs::default(), 0);
    for outcome in order.chars() {
        match outcome {
            's' | 'S' => {
                if counts.successes == 0 {
                    runs.first = run;
                }
                counts.successes += 1;
                counts.slow_successes += u64::from(outcome == 'S');
                run = 0;
            }
            'f' | 'F' => {
                counts.failures += 1;
                counts.slow_failures += u64::from(outcome == 'F');
                run += 1;
            }
            other => return Err(format!("{other} is no outcome")),
        }
        runs.longest = runs.longest.max(run);
    }
    runs.last = run;
    if counts.successes == 0 {
        runs.first = run;
    }
    Ok((counts, runs))
}
