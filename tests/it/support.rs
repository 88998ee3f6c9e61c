//! Provides the Redis of the integration tests.
//!
//! Owns finding or starting a server, and removing it again. Knows only the crate's ACL rules, so
//! that the benches can include this file as a module. The crate connects as a user with exactly
//! these rights ([`redis_url`], [`OwnServer::url`]); tests that access Redis directly do so as an
//! administrator ([`admin_url`], [`OwnServer::admin_url`]). Invariant: everything started here ends
//! with this process, even if it is killed. A destructor cannot guarantee that, so each server or
//! container has a watchdog: a `sh` that reads a pipe only this process holds open (see
//! [`Watchdog`]).

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

#[allow(
    unused_imports,
    reason = "the benches include this file and use less of it than the tests"
)]
pub use self::user::{unique_prefix, userinfo};

#[path = "support/container.rs"]
mod container;
#[path = "support/user.rs"]
pub mod user;

const URL: &str = "COMMONTRIP_TEST_REDIS_URL";
const IMAGE: &str = "COMMONTRIP_TEST_REDIS_IMAGE";
const SOURCE: &str = "COMMONTRIP_TEST_REDIS_SOURCE";

/// Keeps nothing on disk; the same arguments for a server and a container.
const NO_PERSISTENCE: [&str; 4] = ["--save", "", "--appendonly", "no"];

const POLL: Duration = Duration::from_millis(10);
const POLLS: u32 = 2_000;

/// Returns the URL of the server that all tests of this process share, and starts it at the first
/// call. Its user has exactly the rights that docs/redis.md lists.
///
/// Uses the first of these that works: the URL in `COMMONTRIP_TEST_REDIS_URL`; a container of
/// `COMMONTRIP_TEST_REDIS_IMAGE` (default `redis:7`); a `redis-server` on PATH; the same from
/// Debian's packages. `COMMONTRIP_TEST_REDIS_SOURCE` = `url`, `docker` or `server` allows only that
/// one. The choice is printed to stderr.
///
/// On a server given by its URL, the user is created for this run and removed afterwards, if the
/// URL's user may do so. Otherwise the crate connects as the URL's user, which is printed.
///
/// # Panics
/// When there is no Redis; the message says what to do.
#[track_caller]
pub fn redis_url() -> &'static str {
    &shared().url
}

/// Returns the same server's URL for an administrator.
///
/// # Panics
/// Like [`redis_url`].
#[track_caller]
pub fn admin_url() -> &'static str {
    &shared().admin_url
}

#[track_caller]
fn shared() -> &'static Found {
    static SHARED: OnceLock<Result<Found, String>> = OnceLock::new();
    match SHARED.get_or_init(provide) {
        Ok(found) => found,
        Err(reason) => panic!("{reason}"),
    }
}

/// Returns a name that no other test has, in this process or another, for a circuit or a key prefix
/// on a shared server.
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{}-{count}-{:08x}", process::id(), fastrand::u32(..))
}

/// Prints a message past the harness, which shows output of failed tests only.
pub fn say(words: &str) {
    let _ = writeln!(io::stderr(), "{words}");
}

/// A server for one test, which may break it. Dropping it kills it.
///
/// Always a `redis-server` process, whatever the shared server is, because only a process can be
/// stopped and killed at once.
pub struct OwnServer {
    port: u16,
    /// The user part of its URL.
    user: String,
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
    /// Like [`start`](OwnServer::start).
    #[track_caller]
    pub fn start_with(args: &[&str]) -> OwnServer {
        let server = program().and_then(|program| OwnServer::launch(program, None, args));
        server.unwrap_or_else(|reason| panic!("no redis of its own for this test: {reason}"))
    }

    /// Starts a server with a program that runs `redis-server` in its own way.
    ///
    /// # Panics
    /// Like [`start`](OwnServer::start).
    #[track_caller]
    pub fn start_by(program: &Path, args: &[&str]) -> OwnServer {
        let server = OwnServer::launch(program, None, args);
        server.unwrap_or_else(|reason| panic!("no redis of its own for this test: {reason}"))
    }

    /// Starts a server with a configuration file that it may write to, such as a sentinel's.
    ///
    /// # Panics
    /// Like [`start`](OwnServer::start).
    #[track_caller]
    pub fn start_as(config: &str, args: &[&str]) -> OwnServer {
        let server = program().and_then(|program| OwnServer::launch(program, Some(config), args));
        server.unwrap_or_else(|reason| panic!("no redis of its own for this test: {reason}"))
    }

    /// The URL for the crate, whose user has exactly the rights in docs/redis.md.
    pub fn url(&self) -> String {
        format!("redis://{}127.0.0.1:{}/", self.user, self.port)
    }

    /// The URL for an administrator.
    pub fn admin_url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's log since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Kills the server (SIGKILL), even if paused. Its port refuses connections when this returns.
    pub fn kill(&self) {
        self.order("kill");
    }

    /// Starts the server again on the same port; kills it first if it still runs. Its data is lost.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn restart(&self) {
        self.begin_restart();
        self.until_ready();
    }

    /// Waits until a started server answers.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn until_ready(&self) {
        if let Err(Start::TakenPort(reason) | Start::Failed(reason)) = self.ready() {
            panic!("{reason}");
        }
    }

    /// Like [`restart`](OwnServer::restart), without waiting, because the server may have data to
    /// load.
    pub fn begin_restart(&self) {
        self.order("start");
    }

    /// Freezes the server (SIGSTOP): connections stay open, nothing answers.
    pub fn pause(&self) {
        self.order("STOP");
    }

    /// Resumes a paused server (SIGCONT).
    pub fn resume(&self) {
        self.order("CONT");
    }

    fn launch(program: &Path, config: Option<&str>, args: &[&str]) -> Result<OwnServer, String> {
        let mut taken = String::new();
        for _ in 0..10 {
            let port = free_port()?;
            let folder = env::temp_dir().join(unique("commontrip-redis"));
            let file = folder.join("config");
            // A sentinel has its own users.
            let (user, user_args) = match config {
                None => (format!("{}@", user::userinfo()), user::server_args()),
                Some(_) => (String::new(), Vec::new()),
            };
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
                    .args(user_args)
                    .args(args),
            )?;
            let server = OwnServer {
                port,
                user,
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

    /// Waits for the server's message in its log, because another server could answer a PING on a
    /// port that this one failed to bind.
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

/// Why a server did not start.
enum Start {
    TakenPort(String),
    Failed(String),
}

/// A `sh` that cleans up when its standard input ends, which happens however this process ends.
///
/// It has its own process group, so that neither Ctrl-C nor a test runner that kills its group
/// reaches it. It does not inherit the output streams, because a reader of these would wait for it.
pub struct Watchdog {
    shell: Child,
    orders: Option<ChildStdin>,
    done: BufReader<ChildStdout>,
}

/// Runs the server as its child, so that it cannot mistake another process for it. Input: `start`,
/// `kill` or a signal's name. Each is echoed once it is done.
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

fn provide() -> Result<Found, String> {
    let forced = env::var(SOURCE).ok().filter(|source| !source.is_empty());
    let url = env::var(URL).ok().filter(|url| !url.is_empty());
    let found = match (forced.as_deref(), url) {
        (Some("url") | None, Some(url)) => user::given(&url),
        (Some("url"), None) => Err(format!("{SOURCE}=url, but {URL} is not set")),
        (Some("docker"), _) => container::start(),
        (Some("server"), _) => server(),
        (Some(other), _) => Err(format!("{SOURCE}={other}: it can be url, docker or server")),
        (None, None) => container::start().or_else(|docker| {
            server()
                .map_err(|server| format!("no container: {docker}\n  no redis-server: {server}"))
        }),
    };
    match found {
        Ok(found) => {
            // Written to stderr directly, because the test harness shows `eprintln!` of failed
            // tests only.
            say(&format!("redis for the tests: {}", found.origin));
            Ok(found)
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

/// A server.
struct Found {
    url: String,
    admin_url: String,
    /// Where it comes from, in words.
    origin: String,
}

impl Found {
    /// A server that was started with the tests' user.
    fn started(host: &str, port: u16, origin: String) -> Found {
        Found {
            url: format!("redis://{}@{host}:{port}/", user::userinfo()),
            admin_url: format!("redis://{host}:{port}/"),
            origin: format!("{origin}, redis://{host}:{port}/"),
        }
    }
}

fn server() -> Result<Found, String> {
    let program = program()?;
    let server = OwnServer::launch(program, None, &[])?;
    let port = server.port();
    // It lives as long as this process; then its watchdog ends it.
    std::mem::forget(server);
    let origin = format!("started {}", program.display());
    Ok(Found::started("127.0.0.1", port, origin))
}

/// The `redis-server` program; installs it first on Debian, if permitted.
fn program() -> Result<&'static Path, String> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| tool("redis-server", "redis-server"));
    program.as_deref().map_err(Clone::clone)
}

/// A program; installs Debian's package if it is missing.
pub fn tool(program: &str, package: &str) -> Result<PathBuf, String> {
    if let Some(found) = on_path(program) {
        return Ok(found);
    }
    install(program, package)?;
    on_path(program)
        .ok_or_else(|| format!("{program} is not on PATH, although apt-get installed {package}"))
}

/// Installs Debian's package of `what`, if this is a Debian and the user may.
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
    say(&format!(
        "for the tests: {missing}, installing it with apt-get"
    ));
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

pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A port that nobody listens on, below the kernel's range for outgoing connections. In that range,
/// a client that keeps connecting to a dead server's port would sooner or later be assigned that
/// port, and talk to itself.
pub fn free_port() -> Result<u16, String> {
    (0..100)
        .map(|_| fastrand::u16(20_000..32_000))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| "no free port between 20000 and 32000".to_owned())
}

/// Whether a Redis answers. An error counts as an answer, such as one that asks for a password.
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
