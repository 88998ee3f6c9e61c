//! A webhook over TLS: it trusts only the system's authorities.
//!
//! `SSL_CERT_FILE` sets these authorities, so the sender is a separate process.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use commontrip::alerts::{Alert, Alerts, Webhook};
use commontrip::{Commontrip, Outcome, Policy};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::topology::tls::Certificates;

const URL: &str = "COMMONTRIP_TEST_WEBHOOK";
const LONG: Duration = Duration::from_secs(60);

/// A process that ends with its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers over TLS; reports the request's first line, or the error.
fn serve(certificates: &Certificates) -> (String, Receiver<Result<String, String>>) {
    let chain = CertificateDer::from_pem_file(certificates.path("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(certificates.path("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth();
    let config = Arc::new(config.with_single_cert(vec![chain], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/hook", listener.local_addr().unwrap());
    let (told, tells) = channel();
    std::thread::spawn(move || accept(&listener, &config, &told));
    (url, tells)
}

fn accept(
    listener: &TcpListener,
    config: &Arc<ServerConfig>,
    told: &Sender<Result<String, String>>,
) {
    for stream in listener.incoming() {
        let request = answer(stream.unwrap(), Arc::clone(config));
        if told
            .send(request.map_err(|error| error.to_string()))
            .is_err()
        {
            return;
        }
    }
}

fn answer(stream: TcpStream, config: Arc<ServerConfig>) -> std::io::Result<String> {
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let end = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    stream.get_mut().write_all(end)?;
    Ok(line)
}

/// Runs this test as the sender, in its own process.
fn sender(url: &str, trusted: Option<&Certificates>) -> Process {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([
        "--exact",
        "webhook::a_webhook_trusts_whom_the_system_trusts",
    ]);
    command
        .env(URL, url)
        .env_remove("SSL_CERT_DIR")
        .stdout(Stdio::null());
    match trusted {
        Some(certificates) => command.env("SSL_CERT_FILE", certificates.path("ca.pem")),
        None => command.env_remove("SSL_CERT_FILE"),
    };
    Process(command.spawn().unwrap())
}

async fn send(url: &str) {
    let circuits = Commontrip::embedded().unwrap();
    let hook = Webhook::new(url).unwrap();
    let _alerts = Alerts::to(hook).on(Alert::opened()).start(&circuits);
    let breaker = circuits.circuit("payments", Policy::default()).unwrap();
    breaker.acquire().await.unwrap().record(Outcome::trip());
    tokio::time::sleep(LONG).await;
}

#[tokio::test]
async fn a_webhook_trusts_whom_the_system_trusts() {
    if let Ok(url) = env::var(URL) {
        return send(&url).await;
    }
    let certificates = Certificates::new();
    let (url, tells) = serve(&certificates);
    let stranger = sender(&url, None);
    let told = tells.recv_timeout(LONG).unwrap();
    assert!(told.unwrap_err().contains("UnknownCA"));
    drop(stranger);
    let _known = sender(&url, Some(&certificates));
    // The untrusting sender may have tried again before it ended.
    let told = std::iter::from_fn(|| tells.recv_timeout(LONG).ok()).find_map(Result::ok);
    assert_eq!(told.unwrap(), "POST /hook HTTP/1.1\r\n");
}
