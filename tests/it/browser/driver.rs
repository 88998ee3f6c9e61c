//! Drives Chromium through its driver, one browser at a time.
//!
//! Invariant: the driver and the browser end with the test, even if it is killed. A `sh` waits for
//! the end of a pipe that only this process holds open, and the browser for the end of the driver's
//! pipe.

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

/// Small machines have no room for several browsers.
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
        // Its further output is not needed, but it must be able to write.
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

/// A browser with one window; closes when dropped.
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

    /// Runs a script; returns its result.
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

    /// The element's text; empty while the element does not exist.
    pub async fn text(&self, id: &str) -> String {
        let found = format!("document.querySelector('[data-testid=\"{id}\"]')");
        let script = format!("return {found}?.textContent ?? ''");
        self.run(&script).await.as_str().unwrap().to_owned()
    }

    pub async fn is_shown(&self, id: &str) -> bool {
        self.part(id).await.is_displayed().await.unwrap()
    }

    /// The state in a circuit's row; `None` if there is no such row.
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

    /// Clicks the element with this `data-testid`.
    pub async fn press(&self, id: &str) {
        self.click(&format!("[data-testid=\"{id}\"]")).await;
    }

    /// Clicks as soon as the element is clickable, because the page may be redrawing it.
    pub async fn click(&self, css: &str) {
        until(&format!("{css} can be clicked"), async || {
            self.find(css).await.click().await.is_ok()
        })
        .await;
    }

    /// Types into an empty field.
    pub async fn fill(&self, id: &str, text: &str) {
        until(&format!("{id} takes a text"), async || {
            let field = self.part(id).await;
            field.clear().await.is_ok() && field.send_keys(text).await.is_ok()
        })
        .await;
    }

    /// Sets the width of the page, such as a phone's or a large screen's.
    pub async fn resize(&self, width: u32) {
        let metrics =
            json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        let command = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics});
        self.tell_driver("goog/cdp/execute", command).await;
    }

    /// Sends a command that only this driver has.
    async fn tell_driver(&self, path: &str, body: Value) -> Value {
        let session = self.client.session_id().await.unwrap().unwrap();
        let url = format!(
            "http://127.0.0.1:{}/session/{session}/{path}",
            self.driver.port
        );
        let asked = reqwest::Client::builder().no_proxy().build().unwrap();
        asked
            .post(url)
            .json(&body)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    }

    /// The browser's complaints since the last call: errors, blocked scripts and styles.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.tell_driver("se/log", json!({"type": "browser"})).await;
        let entries = log["value"]
            .as_array()
            .unwrap_or_else(|| panic!("no log: {log}"))
            .iter();
        let bad = entries.filter(|entry| entry["level"] != "INFO" && entry["level"] != "DEBUG");
        bad.map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Closes the browser; fails if it has complained.
    pub async fn end(self) {
        let complaints = self.complaints().await;
        assert_eq!(complaints, [""; 0]);
        self.client.close().await.unwrap();
    }
}
