//! A caller that sends requests to the gateway over HTTP and prints the results.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    lab::{Error, Lab},
    provider::Provider,
};

/// The timeout of anything that the caller waits for.
const AT_MOST: Duration = Duration::from_secs(20);

pub struct Caller<'a> {
    pub lab: &'a Lab,
    http: reqwest::Client,
    questions: u32,
}

/// The gateway's answer to a question.
pub struct Told {
    pub status: u16,
    pub retry_after: Option<u64>,
    pub body: Value,
}

impl Told {
    /// The provider that answered.
    pub fn by(&self) -> &str {
        self.body["provider"].as_str().unwrap_or("nobody")
    }
}

impl<'a> Caller<'a> {
    pub fn of(lab: &'a Lab) -> Self {
        Self {
            lab,
            http: reqwest::Client::new(),
            questions: 0,
        }
    }

    /// A question that was not asked before.
    pub fn question(&mut self) -> Value {
        self.questions += 1;
        json!({"messages": [{"role": "user", "content": format!("What is {} and 1?", self.questions)}]})
    }

    /// Asks a new question and prints the result.
    pub async fn ask_anew(&mut self, who: usize, note: &str) -> Result<Told, Error> {
        let question = self.question();
        self.ask(who, note, &question).await
    }

    pub async fn ask(&self, who: usize, note: &str, question: &Value) -> Result<Told, Error> {
        let told = self.send(who, question).await?;
        show(who, note, &told);
        Ok(told)
    }

    /// Requests embeddings of texts and prints the result.
    pub async fn embed(&self, who: usize, texts: &[&str]) -> Result<Told, Error> {
        let wanted = json!({ "input": texts });
        let told = self.post(who, "/v1/embeddings", &wanted).await?;
        let Told { status, body, .. } = &told;
        let words = if *status == 200 {
            let data = body["data"].as_array().into_iter().flatten();
            let cached = data.filter(|one| one["cached"] == true).count();
            format!("{cached} of {} from the cache", texts.len())
        } else {
            body["detail"].as_str().unwrap_or_default().to_owned()
        };
        let note = format!("embeds {}", texts.join(", "));
        println!("  gateway-{} {note:26} {status}  {words}", who + 1);
        Ok(told)
    }

    pub async fn send(&self, who: usize, question: &Value) -> Result<Told, Error> {
        self.post(who, "/v1/chat", question).await
    }

    async fn post(&self, who: usize, path: &str, question: &Value) -> Result<Told, Error> {
        let url = self.lab.replicas[who].url(path);
        let answer = self.http.post(url).json(question).send().await?;
        let header = answer.headers().get("retry-after");
        Ok(Told {
            status: answer.status().as_u16(),
            retry_after: header.and_then(|value| value.to_str().ok()?.parse().ok()),
            body: answer.json().await?,
        })
    }

    /// Asks a new question for a stream and prints the result: how many tokens, and the last event.
    pub async fn stream_anew(&mut self, who: usize) -> Result<Told, Error> {
        let mut question = self.question();
        question["stream"] = json!(true);
        let url = self.lab.replicas[who].url("/v1/chat");
        let answer = self.http.post(url).json(&question).send().await?;
        let status = answer.status().as_u16();
        let events = answer.text().await?;
        let tokens = events.matches("event: token").count();
        let mut data = events
            .lines()
            .filter_map(|line| line.strip_prefix("data: "));
        let last = data.next_back().ok_or("there is no event in the stream")?;
        let told = Told {
            status,
            retry_after: None,
            body: serde_json::from_str(last)?,
        };
        show(who, &format!("streams {tokens} tokens"), &told);
        Ok(told)
    }

    /// Asks until this provider answers.
    pub async fn until_by(&mut self, who: usize, provider: Provider) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let question = self.question();
            let told = self.send(who, &question).await?;
            if told.by() == provider.name() {
                show(who, "asks", &told);
                return Ok(());
            }
            if begun.elapsed() > AT_MOST {
                return Err(format!("{} still does not answer", provider.name()).into());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The metrics of a replica with these names.
    pub async fn metrics(&self, who: usize, names: [&str; 2]) -> Result<Vec<String>, Error> {
        let url = self.lab.replicas[who].url("/metrics");
        let all = self.http.get(url).send().await?.text().await?;
        let wanted = |line: &&str| names.iter().any(|name| line.starts_with(name));
        let mut lines: Vec<_> = all.lines().filter(wanted).map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    }

    /// Waits until both replicas see a circuit in this state, and prints that.
    pub async fn until_state(&self, provider: Provider, state: &str) -> Result<(), Error> {
        let begun = Instant::now();
        for replica in &self.lab.replicas {
            loop {
                let health: Value = self
                    .http
                    .get(replica.url("/health"))
                    .send()
                    .await?
                    .json()
                    .await?;
                let all = health["providers"].as_array().into_iter().flatten();
                let mut own = all.filter(|p| p["provider"] == provider.name());
                if own.any(|p| p["state"] == state) {
                    break;
                }
                if begun.elapsed() > AT_MOST {
                    let name = provider.circuit();
                    return Err(
                        format!("{name} is still not {state} for a replica: {health}").into(),
                    );
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        println!("  {} is {state} for both replicas", provider.circuit());
        Ok(())
    }
}

/// Prints the result of a question.
pub fn show(who: usize, note: &str, told: &Told) {
    let Told { status, body, .. } = told;
    let words = if *status == 200 {
        let how = match (body["cached"] == true, body["fallback"] == true) {
            (true, _) => "from the cache",
            (_, true) => "standing in",
            _ => "",
        };
        let model = body["model"].as_str().unwrap_or_default();
        let took = body["elapsed_ms"].as_u64().unwrap_or_default();
        format!("{model:17} attempt {}  {took:4} ms  {how}", body["attempt"])
    } else {
        let wait = told.retry_after.map(|s| format!("  Retry-After: {s}"));
        format!(
            "{}{}",
            body["detail"].as_str().unwrap_or_default(),
            wait.unwrap_or_default()
        )
    };
    println!(
        "  gateway-{} {note:18} {status}  {}",
        who + 1,
        words.trim_end()
    );
}
