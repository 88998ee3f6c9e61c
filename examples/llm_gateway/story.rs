//! A day of the gateway in a few seconds, played and checked.

use commontrip::State;
use serde_json::json;

use super::{
    caller::{Caller, show},
    lab::{Error, Lab, Setup},
    provider::Provider::{self, Anthropic, Gemini, Ollama, OpenAi},
    stubs::Mode,
};

/// Plays the story.
///
/// # Errors
/// When a step did not go as expected.
pub async fn play(setup: &Setup) -> Result<(), Error> {
    let lab = Lab::start(setup).await?;
    let mut story = Story {
        caller: Caller::of(&lab),
        wrong: Vec::new(),
    };
    story.begin(setup).await?;
    story.tell().await?;
    let wrong = std::mem::take(&mut story.wrong);
    lab.end().await;
    match &wrong[..] {
        [] => {
            println!("\neverything is as it should be");
            Ok(())
        }
        _ => Err(format!("\nnot as it should be:\n  {}", wrong.join("\n  ")).into()),
    }
}

struct Story<'a> {
    caller: Caller<'a>,
    wrong: Vec<String>,
}

impl Story<'_> {
    async fn begin(&self, setup: &Setup) -> Result<(), Error> {
        let place = setup.redis.as_ref().map_or("in memory", |_| "in Redis");
        println!("{} replicas, circuits {place}", setup.replicas);
        // The Redis may have circuits of an earlier run.
        for (_, breaker) in self.caller.lab.replicas[0].gateway.breakers() {
            breaker.reset().await?;
        }
        let embeddings = &self.caller.lab.replicas[0].gateway.embeddings;
        embeddings.breaker().reset().await?;
        Ok(())
    }

    async fn tell(&mut self) -> Result<(), Error> {
        let stubs = &self.caller.lab.stubs;

        chapter("All is well");
        let question = self.caller.question();
        for (who, note, cached) in [
            (0, "asks", false),
            (1, "asks the same", false),
            (1, "asks it again", true),
        ] {
            let told = self.caller.ask(who, note, &question).await?;
            self.check(told.by() == "openai", "OpenAI answers");
            self.check(
                told.body["cached"] == cached,
                "only what was asked before is from the cache",
            );
        }

        chapter("A stream: another provider stands in as long as there is no token");
        stubs.of(OpenAi).set(Mode::Fail).await;
        let told = self.caller.stream_anew(0).await?;
        self.check(
            told.by() == "anthropic" && told.body["attempt"] == 2,
            "Anthropic streams in its place",
        );
        stubs.of(OpenAi).set(Mode::Ok).await;
        let told = self.caller.stream_anew(0).await?;
        self.check(told.by() == "openai", "OpenAI streams");

        let told = self.caller.embed(0, &["red", "green"]).await?;
        self.check(told.status == 200, "OpenAI embeds");

        // Report earlier successes of both replicas now, because three failures in a row must be
        // consecutive for the whole fleet.
        for replica in &self.caller.lab.replicas {
            replica.gateway.circuits.flush().await;
        }

        chapter("OpenAI fails: three failures open its circuit, for both replicas");
        stubs.of(OpenAi).set(Mode::Fail).await;
        for _ in 0..3 {
            let told = self.caller.ask_anew(0, "asks").await?;
            self.check(
                told.by() == "anthropic" && told.body["attempt"] == 2,
                "Anthropic stands in",
            );
        }
        self.caller.until_state(OpenAi, "open").await?;
        let before = stubs.of(OpenAi).requests();
        for who in [0, 1] {
            let told = self.caller.ask_anew(who, "asks").await?;
            self.check(
                told.by() == "anthropic" && told.body["attempt"] == 1,
                "OpenAI is skipped",
            );
        }
        self.check(
            stubs.of(OpenAi).requests() == before,
            "OpenAI is left alone",
        );

        self.tell_of_embeddings().await?;

        chapter("Anthropic has enough: 429 with Retry-After, which one answer tells both replicas");
        stubs.of(Anthropic).set(Mode::RateLimit).await;
        let told = self.caller.ask_anew(1, "asks").await?;
        self.check(told.by() == "gemini", "Gemini stands in");
        self.caller.until_state(Anthropic, "open").await?;
        let told = self.caller.ask_anew(0, "asks").await?;
        self.check(told.by() == "gemini", "Gemini stands in");
        self.check_wait(Anthropic, 8).await?;

        chapter("Gemini hangs: all of the cloud is down");
        stubs.of(Gemini).set(Mode::Hang).await;
        let (a, b, c) = (
            self.caller.question(),
            self.caller.question(),
            self.caller.question(),
        );
        // At the same time, because each of them waits for a whole attempt timeout.
        let (a, b, c) = tokio::try_join!(
            self.caller.send(0, &a),
            self.caller.send(0, &b),
            self.caller.send(1, &c)
        )?;
        for (who, told) in [(0, a), (0, b), (1, c)] {
            show(who, "asks", &told);
            self.check(told.by() == "ollama", "Ollama stands in");
        }
        self.caller.until_state(Gemini, "open").await?;
        for who in [0, 1] {
            let told = self.caller.ask_anew(who, "asks").await?;
            self.check(told.by() == "ollama", "Ollama stands in");
        }

        chapter("Ollama is not there, either");
        stubs.of(Ollama).set(Mode::Refuse).await;
        let told = self.caller.ask_anew(0, "asks").await?;
        self.check(told.status == 503, "nobody answers");
        self.check(
            told.retry_after.is_some_and(|s| (1..=10).contains(&s)),
            "it says when to come back",
        );

        chapter("Everything heals");
        for provider in [OpenAi, Anthropic, Gemini, Ollama] {
            stubs.of(provider).set(Mode::Ok).await;
        }
        // Nobody has to act: regular calls are the probes.
        self.caller.until_by(0, OpenAi).await?;
        self.caller.until_state(OpenAi, "closed").await?;
        let told = self.caller.ask_anew(1, "asks").await?;
        self.check(
            told.by() == "openai" && told.body["attempt"] == 1,
            "OpenAI is back for both",
        );

        chapter("A question that is wrong is the caller's mistake, and nobody's failure");
        let mut question = self.caller.question();
        question["max_tokens"] = json!(1_000_000);
        let told = self.caller.ask(0, "asks for too much", &question).await?;
        self.check(told.status == 400, "it is refused, and not tried elsewhere");

        chapter("What was counted (gateway-1)");
        let names = ["llm_tokens_total", "llm_cache_total"];
        let counted = self.caller.metrics(0, names).await?;
        self.check(counted.len() >= 3, "tokens are counted");
        for line in counted {
            println!("  {line}");
        }
        Ok(())
    }

    async fn tell_of_embeddings(&mut self) -> Result<(), Error> {
        chapter(
            "Embeddings have a circuit of their own; what is cached is served while it is open",
        );
        let breaker = self.caller.lab.replicas[0].gateway.embeddings.breaker();
        for _ in 0..3 {
            let told = self.caller.embed(0, &["blue"]).await?;
            self.check(told.status == 503, "nobody else embeds");
        }
        // Calls are rejected at once, but the store learns of it a moment later.
        self.caller.lab.replicas[0].gateway.circuits.flush().await;
        let open = breaker.snapshot().await?.state == State::Open;
        self.check(open, "three failures open it");
        let told = self.caller.embed(0, &["green", "red"]).await?;
        self.check(told.status == 200, "cached texts are served");
        let told = self.caller.embed(0, &["red", "blue"]).await?;
        self.check(
            told.status == 503 && told.retry_after.is_some(),
            "it says when to come back for the others",
        );
        Ok(())
    }

    fn check(&mut self, holds: bool, what: &str) {
        if !holds {
            println!("  NOT SO: {what}");
            self.wrong.push(what.to_owned());
        }
    }

    /// Checks how long a circuit stays open.
    async fn check_wait(&mut self, provider: Provider, seconds: u64) -> Result<(), Error> {
        let gateway = &self.caller.lab.replicas[0].gateway;
        let now = gateway.breaker(provider).snapshot().await?;
        let waits = now.until_ms.saturating_sub(now.since_ms);
        println!("  {} stays so for {waits} ms", provider.circuit());
        self.check(
            waits >= seconds * 1000,
            "it is left alone for as long as it said",
        );
        Ok(())
    }
}

fn chapter(title: &str) {
    println!("\n{title}");
}
