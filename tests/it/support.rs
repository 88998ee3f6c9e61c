//! Where the integration tests get their Redis.
//!
//! Owns finding or starting a server, and removing it again; knows nothing of the crate under test, so that the benches
//! can include this file as a module of theirs.
//! Invariant: what is started here ends with this process, also when that is killed. A destructor can't promise it, so
//! each server or container has a watchdog: a `sh` that reads a pipe only this process holds open (see [`Watchdog`]).

#![allow(
    dead_code,
    reason = "the benches include this file and use less of it than the tests"
)]

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{GenericImage, ImageExt};

const URL: &str = "COMMONTRIP_TEST_REDIS_URL";
const IMAGE: &str = "COMMONTRIP_TEST_REDIS_IMAGE";
const SOURCE: &str = "COMMONTRIP_TEST_REDIS_SOURCE";
const DEFAULT_IMAGE: &str = "redis:7";

/// Keeps nothing on disk; the same words for a server and for a container.
const NO_PERSISTENCE: [&str; 4] = ["--save", "", "--appendonly", "no"];

/// Starting a container may include downloading its image.
const CONTAINER_TIMEOUT: Duration = Duration::from_secs(300);

const POLL: Duration = Duration::from_millis(10);
const POLLS: u32 = 2_000;

/// Returns the URL of the server that all tests of this process share, and starts it at the first call.
///
/// The first of these that works: the URL in `COMMONTRIP_TEST_REDIS_URL`; a container of `COMMONTRIP_TEST_REDIS_IMAGE`
/// (default `redis:7`); a `redis-server` on PATH; the same from Debian's packages. `COMMONTRIP_TEST_REDIS_SOURCE` =
/// `url`, `docker` or `server` allows only that one. The choice is printed to stderr.
///
/// # Panics
/// When there is no Redis, with what to do about it.
#[track_caller]
pub fn redis_url() -> &'static str {
    static SHARED: OnceLock<Result<String, String>> = OnceLock::new();
    match SHARED.get_or_init(provide) {
        Ok(url) => url,
        Err(reason) => panic!("{reason}"),
    }
}

/// Returns a name no other test has, in this process or another: for a circuit or a key prefix on a shared server.
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{}-{count}-{:08x}", process::id(), fastrand::u32(..))
}

/// Says something past the harness, which shows what a test prints only when it failed.
pub fn say(words: &str) {
    let _ = writeln!(io::stderr(), "{words}");
}

/// A server of one test's own, to break as it likes. Dropping it kills it.
///
/// Always a `redis-server` process, whatever the shared server is: only a process can be stopped and killed at once.
pub struct OwnServer {
    port: u16,
    folder: PathBuf,
    watchdog: Mutex<Watchdog>,
}

impl OwnServer {
    /// Starts a server that keeps nothing on disk, and waits until it answers.
    ///
    /// # Panics
    /// When there is no `redis-server` to start, or it does not answer.
    pub fn start() -> OwnServer {
        OwnServer::start_with(&[])
    }

    /// Starts a server with more arguments, such as `["--maxmemory", "10mb"]`.
    ///
    /// # Panics
    /// As [`start`](OwnServer::start) does.
    #[track_caller]
    pub fn start_with(args: &[&str]) -> OwnServer {
        let server = program().and_then(|program| OwnServer::launch(program, None, args));
        server.unwrap_or_else(|reason| panic!("no redis of its own for this test: {reason}"))
    }

    /// Starts a server as a configuration file says, which it may write to; a sentinel, say.
    ///
    /// # Panics
    /// As [`start`](OwnServer::start) does.
    #[track_caller]
    pub fn start_as(config: &str, args: &[&str]) -> OwnServer {
        let server = program().and_then(|program| OwnServer::launch(program, Some(config), args));
        server.unwrap_or_else(|reason| panic!("no redis of its own for this test: {reason}"))
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the server said since it was started last.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Kills the server (SIGKILL), paused or not. Its port refuses connections when this returns.
    pub fn kill(&self) {
        self.order("kill");
    }

    /// Starts the server again on the same port, killing it first when it still runs. Its data is gone.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn restart(&self) {
        self.begin_restart();
        self.until_ready();
    }

    /// Waits until a server that was started answers.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn until_ready(&self) {
        if let Err(Start::TakenPort(reason) | Start::Failed(reason)) = self.ready() {
            panic!("{reason}");
        }
    }

    /// As [`restart`](OwnServer::restart), without waiting: the server may have data to load first.
    pub fn begin_restart(&self) {
        self.order("start");
    }

    /// Freezes the server (SIGSTOP): connections open, nothing answers.
    pub fn pause(&self) {
        self.order("STOP");
    }

    /// Lets a paused server go on (SIGCONT).
    pub fn resume(&self) {
        self.order("CONT");
    }

    fn launch(program: &Path, config: Option<&str>, args: &[&str]) -> Result<OwnServer, String> {
        let mut taken = String::new();
        for _ in 0..10 {
            let port = free_port()?;
            let folder = env::temp_dir().join(unique("commontrip-redis"));
            let file = folder.join("config");
            if let Some(config) = config {
                let written = fs::create_dir(&folder).and_then(|()| fs::write(&file, config));
                written.map_err(|err| format!("{}: {err}", file.display()))?;
            }
            let watchdog = Watchdog::new(
                Command::new("sh")
                    .args(["-c", SERVER_WATCHDOG, "sh"])
                    .arg(&folder)
                    .arg(program)
                    .args(config.map(|_| &file))
                    .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
                    .args(NO_PERSISTENCE)
                    .args(args),
            )?;
            let server = OwnServer {
                port,
                folder,
                watchdog: Mutex::new(watchdog),
            };
            server.order("start");
            match server.ready() {
                Ok(()) => return Ok(server),
                Err(Start::TakenPort(reason)) => taken = reason,
                Err(Start::Failed(reason)) => return Err(reason),
            }
        }
        Err(taken)
    }

    fn order(&self, order: &str) {
        let done = self.watchdog.lock().order(order);
        done.unwrap_or_else(|err| {
            panic!(
                "the watchdog of the redis on port {} is gone: {err}",
                self.port
            )
        });
    }

    /// Waits for the server's own word in its log: somebody else's server could answer a PING on a port it lost.
    fn ready(&self) -> Result<(), Start> {
        let mut log = String::new();
        for _ in 0..POLLS {
            log = self.log();
            let ready = ["Ready to accept connections", "Sentinel ID is"];
            if ready.iter().any(|word| log.contains(word)) && answers(self.port) {
                return Ok(());
            }
            if log.contains("Address already in use") {
                return Err(Start::TakenPort(format!(
                    "port {} is taken:\n{log}",
                    self.port
                )));
            }
            if log.contains("FATAL") {
                break;
            }
            thread::sleep(POLL);
        }
        Err(Start::Failed(format!(
            "redis-server on port {} does not answer:\n{log}",
            self.port
        )))
    }
}

/// Why a server that was started is not there.
enum Start {
    TakenPort(String),
    Failed(String),
}

/// A `sh` that cleans up when its standard input ends, which it does however this process ends.
///
/// It has a process group of its own, out of the way of Ctrl-C and of a test runner that kills its group, and none of
/// our output streams, which would keep a reader of them waiting.
pub struct Watchdog {
    shell: Child,
    orders: Option<ChildStdin>,
    done: BufReader<ChildStdout>,
}

/// Runs the server as its child, so that it can't mistake another process for it. Words in: `start`, `kill` or a
/// signal's name. Each comes back when it is carried out.
const SERVER_WATCHDOG: &str = r#"
trap '' HUP INT TERM
folder=$1 pid=
shift
end() { [ -n "$pid" ] && kill -s KILL "$pid" && wait "$pid"; pid=; }
mkdir -p "$folder" && cd "$folder" || exit 1
while read -r order; do
    case $order in
    start) end; "$@" >log 2>&1 & pid=$! ;;
    kill) end ;;
    *) kill -s "$order" "$pid" ;;
    esac
    echo "$order"
done
end
rm -rf "$folder"
"#;

/// Started before its container, which it knows by name: there is no moment in which nobody would remove it.
const CONTAINER_WATCHDOG: &str = r#"
trap '' HUP INT TERM
read -r order
docker rm --force --volumes "$1"
"#;

impl Watchdog {
    pub fn new(command: &mut Command) -> Result<Watchdog, String> {
        let shell = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut shell = shell.map_err(|err| format!("sh does not start: {err}"))?;
        let orders = shell.stdin.take();
        let done = BufReader::new(shell.stdout.take().expect("its stdout is piped"));
        Ok(Watchdog {
            shell,
            orders,
            done,
        })
    }

    fn order(&mut self, order: &str) -> io::Result<()> {
        let mut orders = self.orders.as_ref().expect("only drop takes it");
        orders.write_all(format!("{order}\n").as_bytes())?;
        match self.done.read_line(&mut String::new())? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.shell.wait();
    }
}

fn provide() -> Result<String, String> {
    let forced = env::var(SOURCE).ok().filter(|source| !source.is_empty());
    let url = env::var(URL).ok().filter(|url| !url.is_empty());
    let found = match (forced.as_deref(), url) {
        (Some("url") | None, Some(url)) => given(&url),
        (Some("url"), None) => Err(format!("{SOURCE}=url, but {URL} is not set")),
        (Some("docker"), _) => container(),
        (Some("server"), _) => server(),
        (Some(other), _) => Err(format!("{SOURCE}={other}: it can be url, docker or server")),
        (None, None) => container().or_else(|docker| {
            server()
                .map_err(|server| format!("no container: {docker}\n  no redis-server: {server}"))
        }),
    };
    match found {
        Ok((url, origin)) => {
            // Straight to stderr: what eprintln! writes is hidden by the test harness unless the test fails.
            let _ = writeln!(io::stderr(), "redis for the tests: {origin}, {url}");
            Ok(url)
        }
        Err(reason) => Err(format!(
            "there is no Redis for the tests.\n  {reason}\n\
             Do one of these, then run the tests again:\n  \
             docker compose up -d --wait && export {URL}=redis://127.0.0.1:6379/\n  \
             apt-get install redis-server    (or your system's package; the tests start it themselves)\n  \
             scripts/test-image && export {IMAGE}=commontrip-test-redis:local    (with Docker, but no registry)"
        )),
    }
}

/// A URL and, for people, where it comes from.
type Found = (String, String);

fn given(url: &str) -> Result<Found, String> {
    redis::Client::open(url)
        .and_then(|client| client.get_connection_with_timeout(Duration::from_secs(5)))
        .map(|_| (url.to_owned(), format!("given by {URL}")))
        .map_err(|err| format!("{URL}={url} does not answer: {err}"))
}

fn server() -> Result<Found, String> {
    let program = program()?;
    let server = OwnServer::launch(program, None, &[])?;
    let url = server.url();
    // It is to live as long as this process does; then its watchdog ends it.
    std::mem::forget(server);
    Ok((url, format!("started {}", program.display())))
}

fn container() -> Result<Found, String> {
    if on_path("docker").is_none() {
        return Err("no docker command on PATH, which removes the container at the end".to_owned());
    }
    let image = env::var(IMAGE)
        .ok()
        .filter(|image| !image.is_empty())
        .unwrap_or_else(|| DEFAULT_IMAGE.to_owned());
    let name = unique("commontrip-test");
    let watchdog = Watchdog::new(Command::new("sh").args(["-c", CONTAINER_WATCHDOG, "sh", &name]))?;

    // The caller may be inside a runtime, where another can't be entered: hence a thread.
    let started = thread::spawn({
        let image = image.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.map_err(|err| err.to_string())?;
            runtime.block_on(async {
                let address =
                    tokio::time::timeout(CONTAINER_TIMEOUT, start_container(&image, &name)).await;
                address.map_err(|_| format!("not there after {CONTAINER_TIMEOUT:?}"))?
            })
        }
    });
    let (host, port) = started
        .join()
        .unwrap_or_else(|_| Err("the thread that starts it panicked".to_owned()))
        .map_err(|err| format!("docker, image {image}: {err}"))?;
    std::mem::forget(watchdog);
    Ok((
        format!("redis://{host}:{port}/"),
        format!("container of {image}"),
    ))
}

async fn start_container(image: &str, name: &str) -> Result<(String, u16), String> {
    let (repository, tag) = match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (image, "latest"),
    };
    let container = GenericImage::new(repository, tag)
        .with_exposed_port(6379.tcp())
        .with_wait_for(WaitFor::message_on_stdout("Ready to accept connections"))
        .with_cmd(NO_PERSISTENCE)
        .with_container_name(name)
        .start()
        .await
        .map_err(|err| err.to_string())?;
    let host = container
        .get_host()
        .await
        .map_err(|err| err.to_string())?
        .to_string();
    let port = container
        .get_host_port_ipv4(6379)
        .await
        .map_err(|err| err.to_string())?;
    // Its destructor would remove it at once; the watchdog does that later.
    std::mem::forget(container);
    // The port is that of IPv4, and `localhost` could be read as IPv6.
    let host = if host == "localhost" {
        "127.0.0.1".to_owned()
    } else {
        host
    };
    Ok((host, port))
}

/// The `redis-server` program, installed first if this is a Debian and we may.
fn program() -> Result<&'static Path, String> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| tool("redis-server", "redis-server"));
    program.as_deref().map_err(Clone::clone)
}

/// A program, from Debian's package if it is not there.
pub fn tool(program: &str, package: &str) -> Result<PathBuf, String> {
    if let Some(found) = on_path(program) {
        return Ok(found);
    }
    install(program, package)?;
    on_path(program)
        .ok_or_else(|| format!("{program} is not on PATH, although apt-get installed {package}"))
}

/// Installs Debian's package of `what`, if this is a Debian and we may.
pub fn install(what: &str, package: &str) -> Result<(), String> {
    let missing = format!("{what} is missing (Debian's package is {package})");
    if on_path("apt-get").is_none() {
        return Err(format!(
            "{missing}, and there is no apt-get to install it with"
        ));
    }
    let user = Command::new("id")
        .arg("-u")
        .output()
        .map_err(|err| format!("{missing}; id: {err}"))?;
    if user.stdout.trim_ascii() != b"0" {
        return Err(format!("{missing}, and only root can install it"));
    }
    let _ = writeln!(
        io::stderr(),
        "for the tests: {missing}, installing it with apt-get"
    );
    for arguments in [
        &["update"][..],
        &["install", "--yes", "--no-install-recommends", package],
    ] {
        let output = Command::new("apt-get")
            .args(["--quiet", "--option", "DPkg::Lock::Timeout=300"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .output()
            .map_err(|err| format!("{missing}; apt-get: {err}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!(
                "{missing}, and apt-get {} failed: {said}",
                arguments.join(" ")
            ));
        }
    }
    Ok(())
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A port nobody listens on, below those the kernel gives to outgoing connections: a client that keeps dialling a dead
/// server's port there would sooner or later be given that very port, and talk to itself.
pub fn free_port() -> Result<u16, String> {
    (0..100)
        .map(|_| fastrand::u16(20_000..32_000))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| "no free port between 20000 and 32000".to_owned())
}

/// Whether a Redis answers: also an error, such as one that wants a password, is an answer.
fn answers(port: u16) -> bool {
    let ping = || -> io::Result<u8> {
        let second = Duration::from_secs(1);
        let mut stream =
            TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), second)?;
        stream.set_read_timeout(Some(second))?;
        stream.write_all(b"PING\r\n")?;
        let mut first = [0];
        stream.read_exact(&mut first)?;
        Ok(first[0])
    };
    matches!(ping(), Ok(b'+' | b'-'))
}
