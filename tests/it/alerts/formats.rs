//! The posted bodies, and their secrets.

use std::time::Duration;

use commontrip::alerts::{Alert, Alerts, Webhook};
use commontrip::{Commontrip, State};
use serde_json::{Value, json};

use super::{policy, receiver, trip};
use crate::wait::until;

/// Opens a circuit of this name, closes it after the alert was received, and returns what was
/// posted.
async fn posted(
    url: impl Fn(&str) -> Webhook,
    circuit: &str,
    resolved: bool,
) -> Vec<(String, Value)> {
    let (at, received) = receiver(&[]);
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuits.circuit(circuit, policy()).unwrap();
    let alerts = Alerts::to(url(&at)).on(Alert::opened());
    let _alerts = alerts.start(&circuits);
    trip(&circuits, &breaker).await;
    until("taken", async || !received.lock().is_empty()).await;
    breaker.reset().await.unwrap();
    assert_eq!(breaker.state(), State::Closed);
    match resolved {
        true => until("its end", async || received.lock().len() == 2).await,
        false => tokio::time::sleep(Duration::from_secs(3)).await,
    }
    let received = received.lock();
    let parsed =
        |(head, body): &(String, String)| (head.clone(), serde_json::from_str(body).unwrap());
    received.iter().map(parsed).collect()
}

#[tokio::test]
async fn plain_json_has_the_fields_and_no_end_unless_asked_for() {
    let posted = posted(|url| Webhook::new(url).unwrap(), "payments", false).await;
    let [(head, body)] = &posted[..] else {
        panic!("{posted:?}");
    };
    assert!(
        head.contains("idempotency-key: commontrip/payments/opened/1\r"),
        "{head}"
    );
    assert_eq!(body["action"], "trigger");
    assert_eq!(body["dedup_key"], "commontrip/payments/opened/1");
    assert_eq!(body["state"], "open");
}

#[tokio::test]
async fn a_name_calls_nobody_in_slack() {
    let name = "pay <!channel> & <https://evil.example|click>";
    let posted = posted(|url| Webhook::slack(url).unwrap(), name, false).await;
    let body = &posted[0].1;
    let escaped = "pay &lt;!channel&gt; &amp; &lt;https://evil.example|click&gt;";
    assert!(body["text"].as_str().unwrap().contains(escaped), "{body}");
    let block = &body["blocks"][0];
    assert_eq!(block["type"], "section");
    assert_eq!(block["text"]["type"], "mrkdwn");
    assert!(
        block["text"]["text"].as_str().unwrap().contains(escaped),
        "{body}"
    );
    assert!(!body.to_string().contains('<'), "{body}");
    assert_eq!(body["blocks"][1]["type"], "context");
}

#[tokio::test]
async fn pagerduty_gets_an_incident_and_its_end() {
    let pagerduty = |url: &str| Webhook::pagerduty_at(url, "R0UT1NG").unwrap();
    let name = "ü".repeat(100);
    let posted = posted(pagerduty, &name, true).await;
    let [(_, first), (head, second)] = &posted[..] else {
        panic!("{posted:?}");
    };
    assert_eq!(first["routing_key"], "R0UT1NG");
    assert_eq!(first["event_action"], "trigger");
    assert_eq!(second["event_action"], "resolve");
    assert_eq!(first["dedup_key"], second["dedup_key"]);
    let key = first["dedup_key"].as_str().unwrap();
    assert!(key.len() <= 255, "{key}");
    assert!(head.contains("/resolve\r"), "{head}");
    for body in [first, second] {
        let payload = &body["payload"];
        let summary = payload["summary"].as_str().unwrap();
        assert!(!summary.is_empty() && summary.chars().count() <= 1024);
        assert_eq!(payload["severity"], "critical");
        assert_eq!(payload["class"], "opened");
        assert_eq!(payload["component"], *name);
        assert!(!payload["source"].as_str().unwrap().is_empty());
        let timestamp = payload["timestamp"].as_str().unwrap();
        assert!(
            timestamp.starts_with("20") && timestamp.ends_with('Z'),
            "{timestamp}"
        );
        assert_eq!(payload["custom_details"]["circuit"], *name);
        // The key is only where it must be.
        assert_eq!(body.to_string().matches("R0UT1NG").count(), 1);
    }
    assert_eq!(first["payload"]["custom_details"]["state"], json!("open"));
    assert_eq!(
        second["payload"]["custom_details"]["state"],
        json!("closed")
    );
}

#[tokio::test]
async fn no_secret_is_in_debug_or_in_an_error() {
    use commontrip::alerts::{Delivery, Notification, Sink};
    use parking_lot::Mutex;
    use std::sync::Arc;

    // Nobody listens on this port.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("http://ana:s3cr3t@127.0.0.1:{port}/services/s3cr3t?key=s3cr3t");
    let hooks = [
        Webhook::new(&url).unwrap(),
        Webhook::slack(&url).unwrap(),
        Webhook::pagerduty_at(&url, "s3cr3t").unwrap(),
        Webhook::pagerduty("s3cr3t").unwrap(),
    ];
    for hook in &hooks {
        assert!(!format!("{hook:?}").contains("s3cr3t"));
    }

    #[derive(Clone, Default)]
    struct Last(Arc<Mutex<Option<Notification>>>);

    impl Sink for Last {
        fn send<'a>(&'a self, notification: &'a Notification) -> Delivery<'a> {
            *self.0.lock() = Some(notification.clone());
            Box::pin(async { Ok(()) })
        }
    }

    let last = Last::default();
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuits.circuit("payments", policy()).unwrap();
    let _alerts = Alerts::to(last.clone())
        .on(Alert::opened())
        .start(&circuits);
    trip(&circuits, &breaker).await;
    until("there is one", async || last.0.lock().is_some()).await;
    let notification = last.0.lock().clone().unwrap();
    for hook in &hooks[..3] {
        let error = hook.send(&notification).await.unwrap_err().to_string();
        assert!(!error.contains("s3cr3t"), "{error}");
        // Includes the innermost cause.
        assert!(error.contains("efused"), "{error}");
    }
    for wrong in ["s3cr3t/services", "ftp://x/s3cr3t", "https://"] {
        let error = format!("{:?}", Webhook::slack(wrong).unwrap_err());
        assert!(!error.contains("s3cr3t"), "{error}");
    }
}
