//! Speech with fallbacks: the newest audio of a voice, its last good audio when the service is
//! down, and silence if there is no audio.
//!
//! ```sh
//! cargo run --example voice_cache --features fallback,metrics
//! ```
//!
//! The example starts its own speech service on loopback, which produces tones, and breaks it for a
//! while. At the end it prints its metrics as Prometheus would scrape them. With
//! `COMMONTRIP_REDIS_URL` the circuit and the audio are shared through that Redis. The exit status
//! is 0 if every result was as expected.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::{Router, body::Bytes, extract::State as Shared, routing::get};
use commontrip::fallback::{Answer, Fallback, LastGood, Source};
use commontrip::metrics::{BUCKETS, Exporter};
use commontrip::{CallError, CircuitBreaker, Commontrip, FallbackKind, Policy};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use serde::{Deserialize, Serialize};

type Failure = Box<dyn Error + Send + Sync>;

const RATE: u32 = 8000;

#[tokio::main]
#[allow(dead_code, reason = "a test has the rest as its module")]
async fn main() -> Result<(), Failure> {
    let circuits = match std::env::var("COMMONTRIP_REDIS_URL") {
        Ok(url) => Commontrip::redis(&url)?,
        Err(_) => Commontrip::embedded()?,
    };
    let served = tokio::time::timeout(Duration::from_secs(60), run(&circuits)).await;
    circuits.shutdown().await;
    served??;
    Ok(())
}

/// A recording. Larger ones should use `serde_bytes`, which halves their size.
#[derive(Debug, Serialize, Deserialize)]
struct Audio {
    wav: Vec<u8>,
}

/// What a listener hears.
#[derive(Debug, PartialEq)]
enum Heard {
    Fresh,
    Stale(Source),
    Silence,
}

struct Speaker {
    client: Client<HttpConnector, Empty<Bytes>>,
    service: String,
    breaker: CircuitBreaker,
    last_good: LastGood<Audio>,
}

impl Speaker {
    /// Calls the speech service once.
    async fn synthesize(&self, voice: &str) -> Result<Audio, Failure> {
        let url = format!("{}/{voice}", self.service);
        let answer = self.client.get(url.parse()?).await?;
        if !answer.status().is_success() {
            return Err(format!("the service says {}", answer.status()).into());
        }
        let wav = answer.into_body().collect().await?.to_bytes().to_vec();
        Ok(Audio { wav })
    }

    /// Always returns something to play.
    async fn speak(&self, voice: &str) -> Result<Heard, Failure> {
        let call = || self.synthesize(voice);
        let answer = self.last_good.call(&self.breaker, voice, call).await;
        let (audio, heard) = match answer {
            Ok(Answer {
                value,
                stale: false,
                ..
            }) => (value, Heard::Fresh),
            Ok(Answer {
                value, age, from, ..
            }) => {
                println!("{voice}: stale, {age:?} old, from the {from}");
                (value, Heard::Stale(from))
            }
            Err(error) => {
                let nothing: Result<Audio, CallError<Failure>> = Err(error);
                let silence = nothing.fallback(Audio {
                    wav: wav(&[0; RATE as usize / 10]),
                });
                let silence = silence.counted(&self.breaker);
                if let Some(error) = &silence.instead_of {
                    println!("{voice}: silence, for {error}");
                }
                (silence.value, Heard::Silence)
            }
        };
        if heard == Heard::Fresh {
            println!("{voice}: fresh");
        }
        let loud = check(&audio.wav)?;
        if loud == (heard == Heard::Silence) {
            return Err(format!("{voice}: {heard:?}, but it sounds otherwise").into());
        }
        Ok(heard)
    }

    /// Speaks until the result is `heard`.
    async fn until(&self, voice: &str, heard: &Heard) -> Result<(), Failure> {
        while self.speak(voice).await? != *heard {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

/// Runs a service that works, breaks and recovers, and checks what is heard meanwhile.
pub async fn run(circuits: &Commontrip) -> Result<(), Failure> {
    // A service would install its recorder for the whole process, and serve /metrics.
    let ours = Matcher::Prefix("circuit_breaker_".to_owned());
    let prometheus = PrometheusBuilder::new().set_buckets_for_metric(ours, &BUCKETS)?;
    let recorder = prometheus.build_recorder();
    let scrape = recorder.handle();
    let _exporter = Exporter::start_on(recorder, circuits, Duration::from_millis(50));
    let broken = Arc::new(AtomicBool::new(false));
    let policy = Policy::builder()
        .consecutive_failures_threshold(3)
        .wait_duration_in_open_state(Duration::from_millis(500))
        .success_threshold(1)
        .call_timeout(Duration::from_secs(5))
        .report_interval(Duration::from_millis(20));
    let speaker = Speaker {
        client: Client::builder(TokioExecutor::new()).build_http(),
        service: serve(Arc::clone(&broken)).await?,
        breaker: circuits.circuit("speech", policy.build()?)?,
        last_good: LastGood::builder("speech")
            .ttl(Duration::from_secs(600))
            .max_entries(1000)
            .max_bytes(64 << 20)
            .max_shared_bytes(8 << 20)
            .shared(circuits)
            .build()?,
    };
    println!("the service is well");
    for voice in ["ana", "ben"] {
        speaker.until(voice, &Heard::Fresh).await?;
    }
    println!("the service breaks");
    broken.store(true, Ordering::SeqCst);
    for voice in ["ana", "ben", "ana", "ben", "ana"] {
        expect(&speaker.speak(voice).await?, |heard| {
            matches!(heard, Heard::Stale(_))
        })?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let heard = speaker.speak("nobody").await?;
    expect(&heard, |heard| *heard == Heard::Silence)?;
    println!("the service is well again");
    broken.store(false, Ordering::SeqCst);
    speaker.until("ana", &Heard::Fresh).await?;
    // Compares the exported values with the counts.
    let fallbacks = speaker.breaker.stats().fallbacks;
    for kind in [FallbackKind::LastGood, FallbackKind::Fixed] {
        let (word, n) = (kind.as_str(), fallbacks.of(kind));
        let line = format!(r#"circuit_breaker_fallbacks_total{{name="speech",kind="{word}"}} {n}"#);
        while !scrape.render().lines().any(|exported| exported == line) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let text = scrape.render();
    for line in text.lines().filter(|line| line.contains("name=\"speech\"")) {
        println!("{line}");
    }
    Ok(())
}

fn expect(heard: &Heard, holds: impl Fn(&Heard) -> bool) -> Result<(), Failure> {
    match holds(heard) {
        true => Ok(()),
        false => Err(format!("{heard:?} should not be heard now").into()),
    }
}

/// Starts a speech service on loopback; returns its URL.
async fn serve(broken: Arc<AtomicBool>) -> Result<String, Failure> {
    let speak = |Shared(broken): Shared<Arc<AtomicBool>>| async move {
        match broken.load(Ordering::SeqCst) {
            true => Err(axum::http::StatusCode::SERVICE_UNAVAILABLE),
            false => Ok(wav(&tone())),
        }
    };
    let service = Router::new().route("/{voice}", get(speak));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let service = service.with_state(broken);
    tokio::spawn(async move { axum::serve(listener, service).await });
    Ok(url)
}

/// A tenth of a second of the note A.
fn tone() -> Vec<i16> {
    let wave = |n| (f64::from(n) * 440.0 * std::f64::consts::TAU / f64::from(RATE)).sin();
    let samples = 0..RATE / 10;
    samples.map(|n| (wave(n) * 8000.0) as i16).collect()
}

/// A WAV file with one channel and 16 bits a sample.
fn wav(samples: &[i16]) -> Vec<u8> {
    let length = samples.len() as u32 * 2;
    let mut file = Vec::with_capacity(44 + samples.len() * 2);
    file.extend(b"RIFF");
    file.extend((36 + length).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    // PCM, one channel, samples and bytes a second, bytes and bits a sample.
    file.extend(1_u16.to_le_bytes());
    file.extend(1_u16.to_le_bytes());
    file.extend(RATE.to_le_bytes());
    file.extend((RATE * 2).to_le_bytes());
    file.extend(2_u16.to_le_bytes());
    file.extend(16_u16.to_le_bytes());
    file.extend(b"data");
    file.extend(length.to_le_bytes());
    file.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    file
}

/// Whether a WAV file contains any sound.
fn check(wav: &[u8]) -> Result<bool, Failure> {
    let whole = wav.len() > 44 && wav.starts_with(b"RIFF") && &wav[8..16] == b"WAVEfmt ";
    let length = (wav.len() as u32).saturating_sub(44).to_le_bytes();
    if !whole || wav[40..44] != length {
        return Err("this is no WAV file".into());
    }
    Ok(wav[44..].iter().any(|byte| *byte != 0))
}
