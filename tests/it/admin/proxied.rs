//! `commontrip serve` behind nginx, below a path of its host.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
};

use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::{
    serving::{Program, url_in},
    site::{Answer, TOKEN},
};
use crate::{
    support::{self, Watchdog},
    wait::until,
};

/// Stops nginx when the pipe closes, and removes its folder.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
"$2" -p "$1" -c "$1/nginx.conf" >"$1/said" 2>&1 </dev/null &
cat >/dev/null
kill -s TERM "$!"
wait "$!"
rm -rf "$1"
"#;

/// Passes the path on unchanged.
pub const WHOLE: &str = "location /breakers { proxy_pass http://UPSTREAM; FORWARDED }";
/// Strips the prefix, and sends it in a header.
pub const STRIPPED: &str = "location /breakers/ { proxy_pass http://UPSTREAM/; \
                            proxy_set_header X-Forwarded-Prefix /breakers; FORWARDED }";
/// The headers in which nginx describes a request.
const FORWARDED: &str = "proxy_http_version 1.1; proxy_set_header Connection ''; \
                         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; \
                         proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;";

/// nginx in front of an upstream; stops when dropped.
pub struct Nginx {
    pub port: u16,
    _watchdog: Watchdog,
}

impl Nginx {
    pub async fn before(upstream: &str, location: &str) -> Nginx {
        let found = support::tool("nginx", "nginx-light").unwrap_or_else(|why| panic!("{why}"));
        let folder = std::env::temp_dir().join(support::unique("commontrip-nginx"));
        fs::create_dir(&folder).unwrap();
        let port = support::free_port().unwrap();
        let upstream = upstream.strip_prefix("http://").unwrap();
        let location = location
            .replace("UPSTREAM", upstream)
            .replace("FORWARDED", FORWARDED);
        fs::write(folder.join("nginx.conf"), config(&folder, port, &location)).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", WATCHDOG, "sh"]).args([&folder, &found]);
        let nginx = Nginx {
            port,
            _watchdog: Watchdog::new(&mut shell).unwrap(),
        };
        until("nginx listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_ok()
        })
        .await;
        nginx
    }
}

fn config(folder: &Path, port: u16, location: &str) -> String {
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};"))
        .concat();
    // As another user, nginx could not write to the folder.
    let user = match rustix::process::getuid().is_root() {
        true => "user root;",
        false => "",
    };
    format!(
        "{user} daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/errors; events {{}} \
         http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port}; {location} }} }}"
    )
}

/// `commontrip serve` with a token and a circuit.
pub struct Served {
    _program: Program,
    pub base: String,
    _circuits: commontrip::Commontrip,
}

impl Served {
    pub async fn with(arguments: &[&str]) -> Served {
        let prefix = support::unique_prefix("proxied");
        let store = commontrip::RedisStore::builder().prefix(&prefix);
        let store = store.open(support::redis_url()).unwrap();
        let circuits = commontrip::Commontrip::builder()
            .store(store)
            .build()
            .unwrap();
        let payments = circuits
            .circuit("payments", commontrip::Policy::default())
            .unwrap();
        payments.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
        circuits.flush().await;
        let redis = ["--redis", support::redis_url(), "--prefix", &prefix];
        let all = [&["serve", "--bind", "127.0.0.1:0"], &redis[..], arguments].concat();
        let mut program = Program::start(&all, &[("COMMONTRIP_ADMIN_TOKEN", TOKEN)]);
        let base = url_in(&program.line()).to_owned();
        Served {
            _program: program,
            base,
            _circuits: circuits,
        }
    }
}

/// A client whose address, as nginx sees it, is not the one at which the server sees nginx.
fn client() -> Client {
    let elsewhere = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    Client::builder()
        .no_proxy()
        .local_address(elsewhere)
        .build()
        .unwrap()
}

async fn ask(nginx: &Nginx, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let url = format!("http://127.0.0.1:{}/breakers{path}", nginx.port);
    let mut request = client().request(method, url).bearer_auth(TOKEN);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request.send().await.unwrap()).await
}

async fn origin_of_last(served: &Served) -> Value {
    let url = format!("{}/circuits/payments", served.base);
    let details = Answer::of(client().get(url).send().await.unwrap())
        .await
        .good();
    details["events"].as_array().unwrap().last().unwrap()["origin"].clone()
}

const OPS: (&str, &str) = ("host", "ops.example.com");
const OF_OPS: (&str, &str) = ("origin", "http://ops.example.com");
const RESET: &str = "/circuits/payments/reset";

#[tokio::test]
async fn everything_works_under_a_path_behind_nginx() {
    let trusted = [
        "--trusted-proxy",
        "127.0.0.1",
        "--allow-host",
        "ops.example.com",
    ];
    let prefixed = [&trusted[..], &["--path-prefix", "/breakers"]].concat();
    for (location, arguments) in [(WHOLE, &prefixed[..]), (STRIPPED, &trusted)] {
        let served = Served::with(arguments).await;
        let nginx = Nginx::before(&served.base, location).await;
        let page = ask(&nginx, Method::GET, "/", &[OPS]).await;
        assert_eq!(page.status, 200, "{page:?}");
        assert_eq!(page.kind(), "text/html; charset=utf-8");
        ask(&nginx, Method::GET, "/openapi.json", &[OPS])
            .await
            .good();
        let details = ask(&nginx, Method::GET, "/circuit?name=payments", &[OPS])
            .await
            .good();
        assert_eq!(details["circuit"]["name"], "payments");
        ask(&nginx, Method::GET, "/nothing", &[OPS])
            .await
            .problem(404);
        // Events arrive as they happen.
        let url = format!("http://127.0.0.1:{}/breakers/events", nginx.port);
        let mut events = client().get(url).header(OPS.0, OPS.1).send().await.unwrap();
        let mut told = String::new();
        let ticks = async {
            while told.matches("event: tick").count() < 2 {
                told += std::str::from_utf8(&events.chunk().await.unwrap().unwrap()).unwrap();
            }
        };
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, ticks)
            .await
            .expect("events are not held back");
        // A page of this origin may command, and the client's address is known.
        ask(&nginx, Method::POST, RESET, &[OPS, OF_OPS])
            .await
            .good();
        assert_eq!(origin_of_last(&served).await, "http from 127.0.0.2");
        let other = [OPS, ("origin", "https://ops.example.org")];
        let words = ask(&nginx, Method::POST, RESET, &other).await.problem(403);
        assert!(words.contains("--allow-host ops.example.org"), "{words}");
        let evil = [("host", "evil.com")];
        let words = ask(&nginx, Method::GET, "/circuits", &evil)
            .await
            .problem(421);
        assert!(words.contains("--allow-host evil.com"), "{words}");
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_trusted_is_not_believed() {
    let served = Served::with(&[
        "--trusted-proxy",
        "10.0.0.0/8",
        "--path-prefix",
        "/breakers",
    ])
    .await;
    let nginx = Nginx::before(&served.base, WHOLE).await;
    // The server answers to the address that nginx uses, and a page of the proxy's name is foreign.
    ask(&nginx, Method::GET, "/circuits", &[OPS]).await.good();
    let words = ask(&nginx, Method::POST, RESET, &[OPS, OF_OPS])
        .await
        .problem(403);
    assert!(words.contains("--allow-host ops.example.com"), "{words}");
    ask(&nginx, Method::POST, RESET, &[OPS]).await.good();
    assert_eq!(origin_of_last(&served).await, "http from 127.0.0.1");
    // A direct request to the server is not trusted either.
    let url = format!("{}/breakers{RESET}", served.base);
    let forged = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-host", "evil.com"),
        ("x-forwarded-prefix", "/evil"),
    ];
    let mut request = client().post(url).bearer_auth(TOKEN);
    for (name, value) in forged {
        request = request.header(name, value);
    }
    Answer::of(request.send().await.unwrap()).await.good();
    assert_eq!(origin_of_last(&served).await, "http from 127.0.0.2");
}

#[tokio::test]
async fn a_page_by_https_before_the_proxy_is_not_one_by_http() {
    let served = Served::with(&["--trusted-proxy", "127.0.0.0/8"]).await;
    let send = async |proto: &str, origin: &str| {
        let request = client()
            .post(format!("{}{RESET}", served.base))
            .bearer_auth(TOKEN);
        let request = request
            .header("x-forwarded-proto", proto)
            .header("origin", origin);
        let request = request
            .header("x-forwarded-host", "ops.localhost")
            .json(&json!({}));
        Answer::of(request.send().await.unwrap()).await
    };
    send("https", "https://ops.localhost").await.good();
    send("https", "http://ops.localhost").await.problem(403);
    send("http", "http://ops.localhost").await.good();
}

/// A proxy may pass on both the `Host` and the `X-Forwarded-Host` of another site's page.
#[tokio::test]
async fn a_page_cannot_choose_the_host_that_a_proxy_forwards() {
    let trusted = ["--trusted-proxy", "127.0.0.0/8"];
    let served = Served::with(&[&trusted[..], &["--allow-host", "ops.example.com"]].concat()).await;
    let ask = async |host: &str| {
        let request = client().get(format!("{}/circuits", served.base));
        let request = request
            .header("host", host)
            .header("x-forwarded-host", "ops.example.com");
        Answer::of(request.send().await.unwrap()).await
    };
    let words = ask("evil.com").await.problem(421);
    assert!(words.contains("--allow-host evil.com"), "{words}");
    // The host that a proxy sends instead: an address, a name in its own network, or the same one.
    for host in ["127.0.0.1:8700", "commontrip:8700", "ops.example.com"] {
        ask(host).await.good();
    }
}
