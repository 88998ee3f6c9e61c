//! Answers with gzip, for clients that accept it.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use commontrip::Policy;
use reqwest::{Client, Response};
use serde_json::Value;

use super::site::Site;

async fn asked(site: &Site, path: &str, encoding: &str) -> Response {
    // The client shows the bytes as sent, without decompression.
    let client = Client::builder().no_proxy().no_gzip().build().unwrap();
    let request = client.get(format!("{}{path}", site.base));
    let request = request.header("accept-encoding", encoding);
    request.send().await.unwrap()
}

/// Decompresses the bytes with `gzip`.
fn unpacked(bytes: &[u8]) -> String {
    let mut gzip = Command::new("gzip")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    gzip.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = gzip.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn who_accepts_gzip_gets_it_other_than_for_events() {
    let site = Site::start().await;
    for n in 0..20 {
        site.circuit(&format!("c{n}"), Policy::default()).await;
    }
    for path in [
        "/circuits?history=60",
        "/metrics",
        "/",
        "/openapi.json",
        "/nothing",
    ] {
        let plain = asked(&site, path, "identity").await;
        assert!(!plain.headers().contains_key("content-encoding"), "{path}");
        let status = plain.status();
        let plain = plain.text().await.unwrap();
        let packed = asked(&site, path, "br, gzip;q=0.5").await;
        assert_eq!(
            (packed.status(), &packed.headers()["content-encoding"]),
            (status, &"gzip".parse().unwrap())
        );
        assert_eq!(packed.headers()["vary"], "accept-encoding");
        assert_eq!(packed.headers()["x-content-type-options"], "nosniff");
        let packed = packed.bytes().await.unwrap();
        assert!(
            packed.len() < plain.len(),
            "{path}: {} of {}",
            packed.len(),
            plain.len()
        );
        let unpacked = unpacked(&packed);
        if path == "/circuits?history=60" {
            let circuits: Value = serde_json::from_str(&unpacked).unwrap();
            assert_eq!(circuits["circuits"].as_array().unwrap().len(), 20);
            assert!(
                packed.len() * 5 < plain.len(),
                "{} of {}",
                packed.len(),
                plain.len()
            );
        }
    }
    let events = asked(&site, "/events", "gzip").await;
    assert!(!events.headers().contains_key("content-encoding"));
}
