//! Runs the cases one after the other and derives their figures.

use std::{fs, time::Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::sleep;

use crate::{
    args::Args,
    figures::Figures,
    fleet::Fleet,
    outage::{Findings, Outage},
    plan::{self, PROBES, Plan, Topology},
    servers::{Servers, Work, ms},
    support,
    wire::{Call, Log, Setup, View, now_us, unix_ahead_us},
};

const PATIENCE_S: u64 = 60;

/// # Errors
/// When a phase does not end, or a guarantee was broken.
pub fn run(args: &Args) -> Result<(), String> {
    let largest = args.cases.iter().map(|(replicas, _)| *replicas).max();
    // Each replica has two connections to one Redis; with a Cluster four, and one more during
    // discovery.
    raise_limit_of_files(largest.unwrap_or(0) as u64 * 6 + 500)?;
    let runtime = tokio::runtime::Runtime::new().map_err(|err| err.to_string())?;
    let began = Instant::now();
    let (mut all, mut broken) = (Vec::new(), Vec::new());
    for (replicas, topology) in &args.cases {
        let case = Case::run(&args.plan, *replicas, *topology);
        let mut case = runtime.block_on(case)?;
        broken.append(&mut case.broken);
        all.append(&mut case.figures.all);
    }
    println!("\n{:.0} s in all", began.elapsed().as_secs_f64());
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&all).map_err(|err| err.to_string())?;
        fs::write(file, text).map_err(|err| format!("{}: {err}", file.display()))?;
    }
    match broken.is_empty() {
        true => Ok(()),
        false => Err(broken.join("\n")),
    }
}

struct Case<'a> {
    plan: &'a Plan,
    circuit: String,
    servers: Servers,
    fleet: Fleet,
    /// One log for each replica, since the circuit last closed.
    logs: Vec<Log>,
    figures: Figures,
    broken: Vec<String>,
}

impl<'a> Case<'a> {
    async fn run(plan: &'a Plan, replicas: usize, topology: Topology) -> Result<Self, String> {
        let servers = Servers::start(topology).await;
        let setup = Setup {
            redis: servers.url(),
            circuit: support::unique("fleet"),
            policy: plan.policy(),
            replicas: 0..replicas,
            rate: plan::rate(replicas),
        };
        let kind = match plan::are_processes(replicas) {
            true => "processes",
            false => "tasks of one process",
        };
        println!("\n{replicas} replicas as {kind}, Redis: {topology}");
        let mut case = Case {
            plan,
            circuit: setup.circuit.clone(),
            servers,
            fleet: Fleet::start(&setup).await,
            logs: vec![Log::default(); replicas],
            figures: Figures {
                replicas,
                topology: topology.to_string(),
                all: Vec::new(),
            },
            broken: Vec::new(),
        };
        let ready = |view: &View| view.push && !view.away;
        case.until("all replicas hear of changes", ready).await?;
        sleep(plan.warm).await;
        case.steady("steady", plan.steady).await;
        case.outages("outage", plan.outages).await?;
        case.servers.cut_push().await;
        case.until("no replica hears of changes", |view| !view.push)
            .await?;
        case.steady("steady, cut", plan.steady_cut).await;
        case.outages("outage, cut", plan.outages_cut).await?;
        case.figures.print();
        case.fleet.stop().await;
        Ok(case)
    }

    async fn steady(&mut self, case: &'static str, span: std::time::Duration) {
        self.take().await;
        let (cpu, from_us, before) = (cpu_times(), now_us(), self.servers.work().await);
        sleep(span).await;
        let (to_us, after) = (now_us(), self.servers.work().await);
        let cpu = busy_percent(cpu, cpu_times());
        self.take().await;
        let calls = self.logs.iter().flat_map(|log| &log.calls);
        let calls = calls.filter(|call| (from_us..to_us).contains(&call.begun_us));
        let calls: Vec<_> = calls.copied().collect();
        self.work(case, &before, &after, calls.len());
        self.figures.add(case, "machine_busy", cpu, "%");
        let late = |call: &Call| call.late_us as f64 / 1000.0;
        let late = calls.iter().map(late).collect();
        self.figures
            .spread(case, "calls_late", late, &[50, 99], "ms");
        let decision = calls.iter().map(|call| call.decision_us as f64).collect();
        self.figures
            .spread(case, "decision", decision, &[50, 99, 100], "µs");
        let (keys, events) = self.servers.memory(&self.circuit).await;
        self.figures.add(case, "memory", keys as f64, "B");
        self.figures
            .add(case, "memory_of_events", events as f64, "B");
    }

    /// Adds what the calls of a phase cost Redis.
    fn work(&mut self, case: &'static str, before: &Work, after: &Work, calls: usize) {
        let (work, seconds) = (after - before, (after.at - before.at).as_secs_f64());
        let ((commands, us), (scripts, script_us)) = (work.sent(), work.command("evalsha"));
        let per_call = |n: u64| n as f64 * 1000.0 / calls.max(1) as f64;
        let mut add = |metric, value, unit| self.figures.add(case, metric, value, unit);
        add("calls", calls as f64 / seconds, "/s");
        add("redis_commands", commands as f64 / seconds, "/s");
        add("redis_commands_per_1000_calls", per_call(commands), "");
        add("redis_time", us as f64 / seconds, "µs/s");
        add("redis_time_per_1000_calls", per_call(us), "µs");
        add("redis_cpu", work.cpu_us as f64 / seconds, "µs/s");
        add("evalsha", scripts as f64 / seconds, "/s");
        add(
            "evalsha_time",
            script_us as f64 / scripts.max(1) as f64,
            "µs",
        );
        println!("{case}, commands (* not counted): {}", work.by_name());
    }

    async fn outages(&mut self, case: &'static str, outages: usize) -> Result<(), String> {
        let mut found = Vec::new();
        self.until("all replicas have their Redis", |view| !view.away)
            .await?;
        let unavailable_before = self.times_unavailable().await;
        let (before, mut calls) = (self.servers.work().await, 0);
        for _ in 0..outages {
            let outage = self.outage().await?;
            calls += outage.logs.iter().map(|log| log.calls.len()).sum::<usize>();
            found.push(outage.judge()?);
        }
        let after = self.servers.work().await;
        self.work(case, &before, &after, calls);
        let away = self.times_unavailable().await - unavailable_before;
        self.conclude(case, &found, away);
        Ok(())
    }

    /// Runs one death and recovery, and a calm time after it.
    async fn outage(&mut self) -> Result<Outage, String> {
        use commontrip::State::Closed;
        let ahead_us = unix_ahead_us();
        let dead_us = now_us();
        self.fleet.set_dead(true).await;
        self.until("all replicas reject", |view| view.state != Closed)
            .await?;
        let healthy_us = now_us();
        self.fleet.set_dead(false).await;
        self.until("all replicas admit", |view| view.state == Closed)
            .await?;
        self.take().await;
        let since_ms = (dead_us + ahead_us) / 1000;
        let transitions = self.servers.transitions(&self.circuit, since_ms);
        // The middle of the recorded millisecond.
        let us = |ms: u64| (ms * 1000 + 500).saturating_sub(ahead_us);
        let entered = transitions.await.into_iter();
        let entered: Vec<_> = entered
            .map(|t| (t.to, us(t.at_ms), us(t.until_ms)))
            .collect();
        let closed_us = entered.last().map_or(healthy_us, |(_, at_us, _)| *at_us);
        let logs = std::mem::replace(&mut self.logs, vec![Log::default(); self.figures.replicas]);
        // The window was empty after the closing.
        for (log, next) in logs.iter().zip(&mut self.logs) {
            let newer = log.calls.iter().filter(|call| call.begun_us > closed_us);
            next.calls.extend(newer);
        }
        sleep(self.plan.calm).await;
        Ok(Outage {
            dead_us,
            healthy_us,
            entered,
            logs,
        })
    }

    fn conclude(&mut self, case: &'static str, found: &[Findings], away: u64) {
        let each = |value: fn(&Findings) -> f64| found.iter().map(value).collect::<Vec<_>>();
        let pooled = |values: fn(&Findings) -> &Vec<f64>| {
            let values = found.iter().flat_map(values);
            values.copied().collect::<Vec<_>>()
        };
        let most = found.iter().map(|f| f.probes_at_once).max().unwrap_or(0);
        let over = most.saturating_sub(PROBES);
        let reopened = found.iter().map(|f| f.reopened).sum::<u64>();
        let figures = &mut self.figures;
        figures.add(case, "trips", found.len() as f64, "");
        let (ends, all) = (&[50, 100][..], &[50, 99, 100][..]);
        let evident: Vec<_> = found.iter().filter_map(|f| f.evident_to_trip).collect();
        let before = found.len() - evident.len();
        figures.add(case, "trips_before_evident", before as f64, "");
        figures.spread(case, "evident_to_trip", evident, ends, "ms");
        figures.spread(
            case,
            "first_failure_to_trip",
            each(|f| f.failure_to_trip),
            ends,
            "ms",
        );
        let known = each(|f| f.failure_to_last_known);
        figures.spread(case, "first_failure_to_last_knows", known, ends, "ms");
        figures.spread(
            case,
            "trip_to_replica_knows",
            pooled(|f| &f.trip_to_known),
            all,
            "ms",
        );
        let rejections = pooled(|f| &f.trip_to_rejection);
        figures.spread(case, "trip_to_first_rejection", rejections, all, "ms");
        figures.spread(case, "leaked_calls", each(|f| f.leaked as f64), ends, "");
        figures.spread(case, "leaked_for", each(|f| f.leaked_for), ends, "ms");
        figures.add(case, "probes_at_once_max", most as f64, "");
        figures.add(case, "probes_over_limit", over as f64, "");
        figures.add(case, "reopened_by_chance", reopened as f64, "");
        let recovery = each(|f| f.recovery_to_all_closed);
        figures.spread(case, "recovery_to_all_closed", recovery, ends, "ms");
        let wait = each(|f| f.wait_to_all_closed);
        figures.spread(case, "end_of_wait_to_all_closed", wait, ends, "ms");
        figures.add(case, "redis_considered_down", away as f64, "times");
        if over == 0 {
            return;
        }
        let words = format!(
            "{} replicas, {}, {case}: {most} probes were out at once, permitted are {PROBES}",
            figures.replicas, figures.topology
        );
        match away {
            0 => self.broken.push(words),
            // A replica that considers Redis unavailable sends probes by its own decision and logs
            // that. `Local` promises no more.
            _ => println!("{words}, but Redis was considered unavailable {away} times"),
        }
    }

    async fn times_unavailable(&self) -> u64 {
        let views = self.fleet.views().await;
        views.iter().map(|view| view.times_unavailable).sum()
    }

    /// Adds what replicas did since the last call.
    async fn take(&mut self) {
        for (log, mut new) in self.logs.iter_mut().zip(self.fleet.logs().await) {
            log.calls.append(&mut new.calls);
            log.seen.append(&mut new.seen);
        }
    }

    async fn until(&self, what: &str, holds: impl Fn(&View) -> bool) -> Result<(), String> {
        let since = Instant::now();
        loop {
            let views = self.fleet.views().await;
            let lacking = views.iter().filter(|view| !holds(view)).count();
            if lacking == 0 {
                return Ok(());
            }
            if since.elapsed().as_secs() > PATIENCE_S {
                let one = views.iter().find(|view| !holds(view));
                return Err(format!(
                    "not within {PATIENCE_S} s: {what}; {lacking} lack it, one of them: {one:?}"
                ));
            }
            sleep(ms(20)).await;
        }
    }
}

/// Jiffies of all cores: busy, and in total.
fn cpu_times() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").expect("Linux has it");
    let first = stat.lines().next().unwrap_or_default();
    let times = first.split_whitespace().skip(1);
    let times: Vec<u64> = times.map(|time| time.parse().expect("a number")).collect();
    // user nice system idle iowait irq softirq steal; the first two include the rest.
    let all = times.iter().take(8).sum::<u64>();
    (all - times[3] - times[4], all)
}

fn busy_percent(before: (u64, u64), after: (u64, u64)) -> f64 {
    (after.0 - before.0) as f64 * 100.0 / (after.1 - before.1).max(1) as f64
}

fn raise_limit_of_files(needed: u64) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        return Err(format!(
            "so many replicas need {needed} open files, and this user may have {:?}: see ulimit -Hn",
            limit.maximum
        ));
    }
    let raised = Rlimit {
        current: Some(needed),
        ..limit
    };
    setrlimit(Resource::Nofile, raised).map_err(|err| format!("no more open files: {err}"))
}
