use std::{cell::Cell, collections::BTreeMap};

use commontrip::{
    CallError, CircuitBreaker, Clock, Commontrip, Outcome, Override, PolicyBuilder, otel,
};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing::{Instrument, Span, field::Empty, level_filters::LevelFilter};
use tracing_subscriber::prelude::*;

use super::{ms, told};

/// Spans of this thread, through tracing-opentelemetry.
struct Spans {
    memory: InMemorySpanExporter,
    _provider: SdkTracerProvider,
    _subscriber: tracing::subscriber::DefaultGuard,
}

impl Spans {
    fn listen() -> Spans {
        Spans::listen_to(LevelFilter::TRACE)
    }

    fn listen_to(level: LevelFilter) -> Spans {
        use opentelemetry::trace::TracerProvider;

        let memory = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(memory.clone())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(layer).with(level);
        Spans {
            memory,
            _subscriber: subscriber.set_default(),
            _provider: provider,
        }
    }

    fn named(&self, name: &str) -> Vec<SpanData> {
        let mut spans = self.memory.get_finished_spans().unwrap();
        spans.retain(|span| span.name == name);
        spans
    }

    /// The attributes of each call as text, without those that tracing adds.
    fn calls(&self) -> Vec<BTreeMap<String, String>> {
        let calls = self.named("circuit_breaker.call");
        calls.iter().map(attributes).collect()
    }
}

fn attributes(span: &SpanData) -> BTreeMap<String, String> {
    let attributes = span.attributes.iter();
    let ours = attributes.filter(|a| {
        let key = a.key.as_str();
        key.starts_with("circuit_breaker.") || key == "error.type"
    });
    ours.map(|a| (a.key.to_string(), a.value.to_string()))
        .collect()
}

fn circuit(policy: &PolicyBuilder) -> (Commontrip, CircuitBreaker) {
    let circuits = Commontrip::embedded().unwrap();
    let policy = policy.clone().build().unwrap();
    let breaker = circuits.circuit("payments", policy).unwrap();
    (circuits, breaker)
}

fn these(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

/// The attributes of a permitted call's span.
fn permitted(state: &str, probe: &str, result: &str) -> BTreeMap<String, String> {
    these(&[
        ("circuit_breaker.name", "payments"),
        ("circuit_breaker.probe", probe),
        ("circuit_breaker.rejected", "false"),
        ("circuit_breaker.result", result),
        ("circuit_breaker.state", state),
    ])
}

fn failed(mut attributes: BTreeMap<String, String>, error: &str) -> BTreeMap<String, String> {
    attributes.insert("error.type".to_owned(), error.to_owned());
    attributes
}

#[tokio::test]
async fn a_call_is_a_span_with_the_circuits_part_in_it() {
    let spans = Spans::listen();
    let (_circuits, breaker) = circuit(&told());
    let answer = breaker.traced().call(async || {
        tracing::info_span!("inner").in_scope(|| ());
        Ok::<_, ()>(42)
    });
    assert_eq!(answer.await.unwrap(), 42);
    assert_eq!(spans.calls(), [permitted("closed", "false", "success")]);
    let call = &spans.named("circuit_breaker.call")[0];
    assert_eq!(call.status, opentelemetry::trace::Status::Unset);
    let inner = &spans.named("inner")[0];
    assert_eq!(inner.parent_span_id, call.span_context.span_id());
}

#[tokio::test]
async fn each_end_of_a_call_has_its_result() {
    let spans = Spans::listen();
    let (circuits, breaker) = circuit(&told().call_timeout(ms(20)));
    let traced = breaker.traced();
    let ignored = |_: &Result<(), ()>| Outcome::Ignored;
    assert!(traced.call(async || Err::<(), _>(())).await.is_err());
    assert!(traced.call_with(ignored, async || Err(())).await.is_err());
    let hangs = traced.call(std::future::pending::<Result<(), ()>>).await;
    assert!(matches!(hangs, Err(CallError::TimedOut(limit)) if limit == ms(20)));
    let mut dropped = Box::pin(traced.call(std::future::pending::<Result<(), ()>>));
    assert!(futures_util::poll!(&mut dropped).is_pending());
    drop(dropped);
    let panics = tokio::spawn({
        let breaker = breaker.clone();
        async move {
            let call = breaker
                .traced()
                .call(async || -> Result<(), ()> { panic!("of the call") });
            call.await
        }
    });
    assert!(panics.await.unwrap_err().is_panic());
    let expected = [
        failed(permitted("closed", "false", "failure"), "_OTHER"),
        permitted("closed", "false", "ignored"),
        failed(permitted("closed", "false", "timeout"), "timeout"),
        permitted("closed", "false", "abandoned"),
        failed(permitted("closed", "false", "failure"), "_OTHER"),
    ];
    assert_eq!(spans.calls(), expected);
    let is_error =
        |span: &SpanData| matches!(span.status, opentelemetry::trace::Status::Error { .. });
    let errors: Vec<_> = spans
        .named("circuit_breaker.call")
        .iter()
        .map(is_error)
        .collect();
    assert_eq!(errors, [true, false, true, false, true]);
    // The circuit's counts are the same.
    let stats = &circuits.stats()[0];
    let counted = (
        stats.failures,
        stats.timeouts,
        stats.ignored,
        stats.abandoned,
    );
    assert_eq!(counted, (3, 1, 1, 1));
}

#[tokio::test]
async fn a_rejected_call_says_why() {
    let spans = Spans::listen();
    let (_circuits, breaker) = circuit(&told());
    breaker.force_open(Override::because("test")).await.unwrap();
    let call = breaker.traced().call(async || Ok::<_, ()>(())).await;
    let sync = breaker.traced().call_sync(|| Ok::<_, ()>(()));
    assert!(call.unwrap_err().rejection().is_some() && sync.is_err());
    let rejected = these(&[
        ("circuit_breaker.name", "payments"),
        ("circuit_breaker.probe", "false"),
        ("circuit_breaker.rejected", "true"),
        ("circuit_breaker.rejection.local", "false"),
        ("circuit_breaker.rejection.reason", "override"),
        ("circuit_breaker.result", "rejected"),
        ("circuit_breaker.state", "forced_open"),
        ("error.type", "rejected"),
    ]);
    assert_eq!(spans.calls(), [rejected.clone(), rejected]);
}

#[tokio::test]
async fn a_probe_is_marked() {
    let spans = Spans::listen();
    let clock = Clock::manual();
    let circuits = Commontrip::builder().clock(clock.clone()).build().unwrap();
    let breaker = circuits.circuit("payments", told().build().unwrap());
    let breaker = breaker.unwrap();
    breaker.acquire().await.unwrap().record(Outcome::trip());
    circuits.flush().await;
    clock.advance(ms(31_000));
    let call = breaker.traced().call(async || Ok::<_, ()>(())).await;
    call.unwrap();
    assert_eq!(spans.calls(), [permitted("half_open", "true", "success")]);
}

#[test]
fn a_call_without_a_future_is_a_span_too() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let spans = Spans::listen();
    let (_circuits, breaker) = circuit(&told());
    let answer = breaker.traced().call_sync(|| {
        tracing::info_span!("inner").in_scope(|| ());
        "42".parse::<u32>()
    });
    assert_eq!(answer.unwrap(), 42);
    assert_eq!(spans.calls(), [permitted("closed", "false", "success")]);
    let call = &spans.named("circuit_breaker.call")[0];
    let inner = &spans.named("inner")[0];
    assert_eq!(inner.parent_span_id, call.span_context.span_id());
}

#[cfg(feature = "retry")]
#[tokio::test]
async fn each_try_has_its_number() {
    use commontrip::retry::ConstantBuilder;

    let spans = Spans::listen();
    let (_circuits, breaker) = circuit(&told());
    let tries = Cell::new(0);
    let backoff = ConstantBuilder::new().with_delay(ms(1));
    let answer = breaker.retry(backoff).traced().call(async || {
        tries.set(tries.get() + 1);
        if tries.get() < 3 { Err(()) } else { Ok(()) }
    });
    answer.await.unwrap();
    let of = |call: &BTreeMap<String, String>, field: &str| call[field].clone();
    let calls = spans.calls();
    let attempts: Vec<_> = calls
        .iter()
        .map(|c| of(c, "circuit_breaker.attempt"))
        .collect();
    let results: Vec<_> = calls
        .iter()
        .map(|c| of(c, "circuit_breaker.result"))
        .collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    assert_eq!(results, ["failure", "failure", "success"]);
}

#[tokio::test]
async fn nothing_is_made_for_a_call_that_nobody_wants_to_see() {
    let spans = Spans::listen_to(LevelFilter::WARN);
    let (circuits, breaker) = circuit(&told());
    let inside = breaker
        .traced()
        .call(async || Ok::<_, ()>(Span::current().is_none()));
    assert!(inside.await.unwrap());
    let sync = breaker.traced().call_sync(|| Err::<(), _>(()));
    assert!(matches!(sync, Err(CallError::Failed(()))));
    // Calls for which tracing is not enabled have no span at any level.
    let spans = (spans, Spans::listen());
    breaker.call(async || Ok::<_, ()>(())).await.unwrap();
    assert_eq!((spans.0.calls(), spans.1.calls()), (vec![], vec![]));
    let stats = &circuits.stats()[0];
    assert_eq!((stats.successes, stats.failures), (2, 1));
}

#[tokio::test]
async fn a_decision_is_recorded_in_a_span_of_your_own() {
    let spans = Spans::listen();
    let (_circuits, breaker) = circuit(&told());
    let span = || {
        tracing::info_span!(
            "lookup",
            circuit_breaker.name = Empty,
            circuit_breaker.rejected = Empty,
            circuit_breaker.rejection.reason = Empty,
        )
    };
    let lookup = async || {
        let decision = breaker.acquire().await;
        otel::record(&Span::current(), &breaker, decision.as_ref());
        decision.map(|permit| permit.success())
    };
    lookup().instrument(span()).await.unwrap();
    breaker.force_open(Override::because("test")).await.unwrap();
    lookup().instrument(span()).await.unwrap_err();
    let found: Vec<_> = spans.named("lookup").iter().map(attributes).collect();
    let expected = [
        these(&[
            ("circuit_breaker.name", "payments"),
            ("circuit_breaker.rejected", "false"),
        ]),
        these(&[
            ("circuit_breaker.name", "payments"),
            ("circuit_breaker.rejected", "true"),
            ("circuit_breaker.rejection.reason", "override"),
        ]),
    ];
    assert_eq!(found, expected);
}
