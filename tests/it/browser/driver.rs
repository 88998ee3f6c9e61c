//! Chromium by its driver, one at a time.
//!
//! Invariant: the driver and the browser end with the test, also when that is killed: a `sh` waits for the end of a pipe
//! that only this process holds open, and the browser for the end of the driver's.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
};

use fantoccini::{Client, ClientBuilder, Locator, elements::Element};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use crate::{support, wait::until};

const WATCHDOG: &str = r#"
trap '' HUP INT TERM
folder=$1
shift
mkdir -p "$folder" && export TMPDIR=$folder || exit 1
"$@" 2>/dev/null </dev/null &
exec >/dev/null
cat >/dev/null
kill -s KILL "$!"
wait "$!"
rm -rf "$folder" || { sleep 1; rm -rf "$folder"; }
"#;

/// Small machines have no room for several.
static ONE: Mutex<()> = Mutex::const_new(());

struct Driver {
    shell: Child,
    open: Option<ChildStdin>,
    port: u16,
}

impl Driver {
    fn start() -> Driver {
        let folder = std::env::temp_dir().join(support::unique("commontrip-browser"));
        let mut shell = Command::new("sh")
            .args(["-c", WATCHDOG, "sh"])
            .arg(folder)
            .args(["chromedriver", "--port=0"])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let open = shell.stdin.take();
        let mut lines = BufReader::new(shell.stdout.take().expect("its stdout is piped"));
        let mut line = String::new();
        let port = loop {
            line.clear();
            let read = lines.read_line(&mut line).expect("its words can be read");
            assert!(
                read > 0,
                "chromedriver does not start; on a Debian: apt-get install chromium chromium-driver"
            );
            if let Some((_, port)) = line
                .trim()
                .trim_end_matches('.')
                .rsplit_once("successfully on port ")
            {
                break port.parse().expect("a port is a number");
            }
        };
        // It says nothing more that is needed, but must be able to say it.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Driver { shell, open, port }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.open.take());
        let _ = self.shell.wait();
    }
}

/// A browser with one window; ends when it is dropped.
pub struct Browser {
    pub client: Client,
    driver: Driver,
    _one: MutexGuard<'static, ()>,
}

impl Browser {
    pub async fn open(url: &str) -> Browser {
        let one = ONE.lock().await;
        let found = support::on_path("chromedriver").is_some();
        assert!(
            found,
            "there is no chromedriver; on a Debian: apt-get install chromium chromium-driver"
        );
        let driver = tokio::task::spawn_blocking(Driver::start).await.unwrap();
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-proxy-server",
            "--remote-debugging-pipe",
            "--window-size=1200,900",
        ];
        let capabilities = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
            "unhandledPromptBehavior": "ignore",
        });
        let Value::Object(capabilities) = capabilities else {
            unreachable!("it is an object")
        };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{}", driver.port))
            .await
            .unwrap_or_else(|err| panic!("chromium does not start: {err}; on a Debian: apt-get install chromium chromium-driver"));
        client.goto(url).await.unwrap();
        Browser {
            client,
            driver,
            _one: one,
        }
    }

    /// What a script returns.
    pub async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// The element with this `data-testid`.
    pub async fn part(&self, id: &str) -> Element {
        self.find(&format!("[data-testid=\"{id}\"]")).await
    }

    pub async fn find(&self, css: &str) -> Element {
        let found = self
            .client
            .wait()
            .at_most(std::time::Duration::from_secs(30));
        let found = found.for_element(Locator::Css(css)).await;
        found.unwrap_or_else(|err| panic!("no {css}: {err}"))
    }

    pub async fn text(&self, id: &str) -> String {
        let script = format!("return document.querySelector('[data-testid=\"{id}\"]').textContent");
        self.run(&script).await.as_str().unwrap().to_owned()
    }

    pub async fn is_shown(&self, id: &str) -> bool {
        self.part(id).await.is_displayed().await.unwrap()
    }

    /// The state that the row of a circuit shows; none when there is no such row.
    pub async fn state(&self, name: &str) -> Option<String> {
        let script = "const row = [...document.querySelectorAll('[data-testid=\"circuit-row\"]')] \
                      .find((row) => row.dataset.name === arguments[0]); return row?.dataset.state ?? null";
        let state = self
            .client
            .execute(script, vec![json!(name)])
            .await
            .unwrap();
        state.as_str().map(str::to_owned)
    }

    pub async fn until_state(&self, name: &str, state: &str) {
        until(&format!("{name} is shown as {state}"), async || {
            self.state(name).await.as_deref() == Some(state)
        })
        .await;
    }

    pub async fn until_text(&self, id: &str, part: &str) {
        until(&format!("{id} says {part:?}"), async || {
            self.text(id).await.contains(part)
        })
        .await;
    }

    /// Presses what has this `data-testid`.
    pub async fn press(&self, id: &str) {
        self.part(id).await.click().await.unwrap();
    }

    /// Types into a field that is empty.
    pub async fn fill(&self, id: &str, text: &str) {
        let field = self.part(id).await;
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// What the browser complained of since it was asked last: errors, refused scripts and styles.
    pub async fn complaints(&self) -> Vec<String> {
        let session = self.client.session_id().await.unwrap().unwrap();
        let url = format!(
            "http://127.0.0.1:{}/session/{session}/se/log",
            self.driver.port
        );
        let asked = reqwest::Client::builder().no_proxy().build().unwrap();
        let asked = asked.post(url).json(&json!({"type": "browser"})).send();
        let log: Value = asked.await.unwrap().json().await.unwrap();
        let entries = log["value"]
            .as_array()
            .unwrap_or_else(|| panic!("no log: {log}"))
            .iter();
        let bad = entries.filter(|entry| entry["level"] != "INFO" && entry["level"] != "DEBUG");
        bad.map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Ends it in order, having complained of nothing.
    pub async fn end(self) {
        let complaints = self.complaints().await;
        assert_eq!(complaints, [""; 0]);
        self.client.close().await.unwrap();
    }
}
