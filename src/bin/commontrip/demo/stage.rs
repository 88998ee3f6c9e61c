//! The course of one show, from the empty stage to the verdict.

use std::{io, time::Duration};

use commontrip::{CircuitBreaker, Clock, Commontrip, Event, Events, MemoryStore, Override};
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    DemoError, End, Options, Teller,
    encore::{self, Page},
    facts::{Fact, Member, Start},
    fleet::Fleet,
    ownership,
    plan::{ERROR_PERCENT, Plan},
    replica::{Assignment, Order, Said},
    story::{Seen, Story},
    upstream::Upstream,
};
use crate::out::in_words;
use crate::serve::stopped;

/// How long replicas may take to start; 64 processes take a while on a small machine.
const STARTS_WITHIN: Duration = Duration::from_secs(20);
/// How long they may take to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(3);
/// How long a Redis may take for the first answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Runs the show. No replica is left when this returns, whatever happens.
pub async fn show(options: &Options) -> Result<End, DemoError> {
    let plan = Plan::new(options.seconds, options.replicas);
    let plan = plan.map_err(DemoError::cannot("make the policy"))?;
    let store = MemoryStore::default();
    let clock = Clock::system();
    let builder = Commontrip::builder().replica(&format!("demo-{}", std::process::id()));
    let registry = match &options.redis {
        Some(url) => builder.redis(url).store_timeout(ANSWERS_WITHIN).build(),
        None => builder.store(store.clone()).build(),
    };
    let registry = registry.map_err(|error| match &options.redis {
        Some(url) => unreachable(url, &error),
        None => DemoError::cannot("make the circuit")(error),
    })?;
    let breaker = registry.circuit(&options.circuit, plan.policy.clone());
    let breaker = breaker.map_err(DemoError::cannot("make the circuit"))?;
    let (events, notes, store_lag_ms) = prepare(options, &registry, &breaker, &clock).await?;
    let upstream = Upstream::start(options.seed, clock.clone()).await;
    let upstream = upstream.map_err(DemoError::cannot("listen on the loopback"))?;

    let assignments = assign(options, &plan, &upstream);
    let seen = assignments.iter().map(|me| Seen {
        name: format!("r{}", me.index + 1),
        id: me.name.clone(),
        ..Seen::default()
    });
    let story = Story::new(seen.collect(), store_lag_ms);
    let fleet = match options.redis {
        Some(_) => Fleet::processes(assignments),
        None => Fleet::embedded(assignments, &store),
    };
    let mut stage = Stage {
        options,
        plan,
        breaker,
        events,
        upstream,
        fleet,
        story,
        clock,
        teller: Teller::new(options),
    };
    let page = match options.serve {
        true => Some(Page::open(options, &registry).await?),
        false => None,
    };
    let shown = tokio::select! {
        shown = stage.play(notes, page.as_ref()) => shown,
        () = stopped() => Ok(End::Interrupted),
    };
    let Stage {
        plan,
        upstream,
        fleet,
        ..
    } = stage;
    fleet.end().await;
    if let (Some(_), Ok(End::Kept | End::Broken)) = (&page, &shown) {
        let again = assign(options, &plan, &upstream);
        let fleet = match options.redis {
            Some(_) => Fleet::processes(again),
            None => Fleet::embedded(again, &store),
        };
        encore::play(options, upstream, fleet).await;
    }
    if let Some(page) = page {
        page.close().await;
    }
    registry.shutdown().await;
    shown
}

fn assign(options: &Options, plan: &Plan, upstream: &Upstream) -> Vec<Assignment> {
    let show = std::process::id();
    let assignment = |index| Assignment {
        index,
        redis: options.redis.clone(),
        name: format!("demo-{show}-r{}", index + 1),
        circuit: options.circuit.clone(),
        policy: plan.policy.clone(),
        upstream: upstream.address,
        seed: options.seed,
        call_every_us: plan.call_every.as_micros() as u64,
    };
    (0..options.replicas).map(assignment).collect()
}

/// Prepares a fresh circuit. Returns its events, the notes to show, and by how much the store's
/// clock is behind.
async fn prepare(
    options: &Options,
    registry: &Commontrip,
    breaker: &CircuitBreaker,
    clock: &Clock,
) -> Result<(Events, Vec<String>, i64), DemoError> {
    let unavailable = |error: &dyn std::error::Error| {
        unreachable(options.redis.as_deref().unwrap_or_default(), error)
    };
    let before = breaker
        .snapshot()
        .await
        .map_err(|error| unavailable(&error))?;
    if options.redis.is_some() {
        ownership::check(registry, &options.circuit).await?;
    }
    let mut notes = Vec::new();
    if !before.policy.is_empty() {
        notes.push(format!(
            "a policy stored with this circuit wins over the show's: {}",
            before.policy
        ));
    }
    let reset = Override::because("a show begins").by("commontrip demo");
    let fresh = breaker.reset_with(reset).await;
    let fresh = fresh.map_err(|error| unavailable(&error))?;
    let mut lag = (u64::MAX, 0);
    for _ in 0..5 {
        let (asked, asked_ns) = (clock.unix_ms(), clock.precise_ns());
        let answer = breaker
            .snapshot()
            .await
            .map_err(|error| unavailable(&error))?;
        let took = clock.precise_ns() - asked_ns;
        // The local time halfway between question and answer.
        let here = asked + took / 2_000_000;
        lag = lag.min((took, here as i64 - answer.now_ms as i64));
    }
    // Both clocks count whole ms, so 1 ms is not a difference.
    let lag_ms = if lag.1.abs() <= 1 { 0 } else { lag.1 };
    Ok((breaker.events_after(fresh.generation), notes, lag_ms))
}

fn unreachable(url: &str, error: &dyn std::error::Error) -> DemoError {
    DemoError::Redis(format!(
        "no Redis answers at {}\n  why: {}\n  start one with `docker-compose up -d` and use \
         --redis redis://127.0.0.1:6379, or leave --redis out",
        without_password(url),
        in_words(error)
    ))
}

/// Removes the password from a URL.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    match rest.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:***@{host}")
        }
        None => url.to_owned(),
    }
}

struct Stage<'a> {
    options: &'a Options,
    plan: Plan,
    breaker: CircuitBreaker,
    events: Events,
    upstream: Upstream,
    fleet: Fleet,
    story: Story,
    clock: Clock,
    teller: Teller,
}

/// What the stage waits for.
enum Seeing {
    Event(Event),
    Said(usize, Said),
    Served(super::upstream::Served),
    Due,
}

impl Stage<'_> {
    async fn play(&mut self, notes: Vec<String>, page: Option<&Page>) -> Result<End, DemoError> {
        self.gather().await?;
        let told = match self.act(notes, page).await {
            Ok(kept) => kept,
            // The reader is gone: treat it like Ctrl-C.
            Err(_) => return Ok(End::Interrupted),
        };
        Ok(if told { End::Kept } else { End::Broken })
    }

    /// Waits until every replica is ready to start.
    async fn gather(&mut self) -> Result<(), DemoError> {
        let ready = timeout(STARTS_WITHIN, async {
            while self.story.replicas.iter().any(|r| r.pid == 0) {
                let Some((index, said)) = self.fleet.said.recv().await else {
                    break;
                };
                if let Said::Gone { how } = &said {
                    return Err(format!("r{} ended: {how}", index + 1));
                }
                self.story.said(index, said, 0);
            }
            Ok(())
        });
        let problem = match ready.await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(how)) => how,
            Err(_) => format!("not all were ready after {STARTS_WITHIN:?}"),
        };
        let problem = io::Error::other(problem);
        Err(DemoError::cannot("start the replicas")(problem))
    }

    /// Runs the show itself. Returns whether the promises were kept.
    async fn act(&mut self, notes: Vec<String>, page: Option<&Page>) -> io::Result<bool> {
        let start = self.start();
        self.story.began_ms = self.clock.unix_ms();
        let began = Instant::now();
        self.teller.tell([Fact::Start(start)])?;
        self.teller.tell(page.map(Page::fact))?;
        let notes = notes.into_iter().map(|text| Fact::Note { at_s: 0.0, text });
        self.teller.tell(notes)?;
        self.fleet.order(Order::Start);
        let mut phases = vec![(self.plan.heals_at, false), (self.plan.fails_at, true)];
        let mut ticks = 0;
        loop {
            let tick = self.plan.tick * (ticks + 1);
            let phase = phases.last().map_or(Duration::MAX, |(at, _)| *at);
            let due = tick.min(phase);
            if due > self.plan.ends_at + Duration::from_millis(1) {
                break;
            }
            if let Some(facts) = self.see(began + due).await {
                self.teller.tell(facts)?;
            } else if due == phase {
                let failing = phases.pop().is_some_and(|(_, failing)| failing);
                let fact = self.phase(failing);
                self.teller.tell([fact])?;
            } else {
                ticks += 1;
                let fact = self.story.tick(self.clock.unix_ms());
                self.teller.tell([fact])?;
            }
        }
        self.finish().await
    }

    fn start(&self) -> Start {
        // The rules in force, including the policy that is stored with the circuit.
        let rules = *self.breaker.policy().rules();
        let member = |seen: &Seen| Member {
            replica: seen.name.clone(),
            pid: seen.pid,
        };
        let url = self.options.redis.as_deref();
        Start {
            circuit: self.options.circuit.clone(),
            store: url.map_or_else(|| "embedded".to_owned(), without_password),
            prefix: url.map(|_| ownership::PREFIX.to_owned()),
            upstream: self.upstream.address.to_string(),
            seed: self.options.seed,
            seconds: self.options.seconds,
            failure_rate_threshold: rules.failure_rate_threshold,
            window_ms: rules.window_ms,
            wait_ms: rules.wait_duration_in_open_state_ms,
            probes_allowed: rules.permitted_number_of_calls_in_half_open_state,
            success_threshold: rules.success_threshold,
            replicas: self.story.replicas.iter().map(member).collect(),
        }
    }

    fn phase(&mut self, failing: bool) -> Fact {
        self.upstream.set_failing(failing);
        let now = self.clock.unix_ms();
        if !failing {
            self.story.healed_ms = Some(now);
        }
        Fact::Upstream {
            at_s: self.story.at_s(now),
            failing,
            error_percent: if failing { ERROR_PERCENT } else { 0 },
        }
    }

    /// Waits for the next thing that happens and returns its facts; `None` at the given time.
    async fn see(&mut self, until: Instant) -> Option<Vec<Fact>> {
        let seeing = tokio::select! {
            // Cause before effect: a probe's answer, the transition that it caused, then who
            // learned of it.
            biased;
            Some(served) = self.upstream.served.recv() => Seeing::Served(served),
            Some(event) = self.events.next() => Seeing::Event(event),
            Some((index, said)) = self.fleet.said.recv() => Seeing::Said(index, said),
            () = sleep_until(until) => Seeing::Due,
        };
        match seeing {
            Seeing::Event(event) => Some(self.story.transition(&event)),
            Seeing::Said(index, said) => Some(self.story.said(index, said, self.clock.unix_ms())),
            Seeing::Served(served) => Some(self.story.served(served)),
            Seeing::Due => None,
        }
    }

    /// Stops the replicas, collects their last messages and judges.
    async fn finish(&mut self) -> io::Result<bool> {
        self.fleet.order(Order::Stop);
        let until = Instant::now() + STOPS_WITHIN;
        while self.story.replicas.iter().any(|r| r.gone.is_none()) {
            match self.see(until).await {
                Some(facts) => self.teller.tell(facts)?,
                None => break,
            }
        }
        let spread = self.story.spread_of_all(self.clock.unix_ms());
        self.teller.tell(spread)?;
        self.teller
            .tell(self.story.unavailable_note(self.clock.unix_ms()))?;
        let rules = *self.breaker.policy().rules();
        let allowed = rules.permitted_number_of_calls_in_half_open_state;
        let (facts, kept) = self.story.ending(allowed);
        self.teller.end(facts)?;
        Ok(kept)
    }
}
