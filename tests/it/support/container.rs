//! A Redis in a container, through testcontainers.

use std::env;
use std::process::Command;
use std::thread;
use std::time::Duration;

use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{GenericImage, ImageExt};

use super::{Found, IMAGE, NO_PERSISTENCE, Watchdog, on_path, unique, user};

const DEFAULT_IMAGE: &str = "redis:7";

/// Starting a container may include downloading its image.
const CONTAINER_TIMEOUT: Duration = Duration::from_secs(300);

/// Started before its container, which it knows by name, so that somebody can remove the container
/// at every moment.
const CONTAINER_WATCHDOG: &str = r#"
trap '' HUP INT TERM
read -r order
docker rm --force --volumes "$1"
"#;

pub fn start() -> Result<Found, String> {
    if on_path("docker").is_none() {
        return Err("no docker command on PATH, which removes the container at the end".to_owned());
    }
    let image = env::var(IMAGE)
        .ok()
        .filter(|image| !image.is_empty())
        .unwrap_or_else(|| DEFAULT_IMAGE.to_owned());
    let name = unique("commontrip-test");
    let watchdog = Watchdog::new(Command::new("sh").args(["-c", CONTAINER_WATCHDOG, "sh", &name]))?;

    // The caller may be inside a runtime, in which another one cannot be entered, so this uses a
    // thread.
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
    Ok(Found::started(&host, port, format!("container of {image}")))
}

async fn start_container(image: &str, name: &str) -> Result<(String, u16), String> {
    let (repository, tag) = match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (image, "latest"),
    };
    let container = GenericImage::new(repository, tag)
        .with_exposed_port(6379.tcp())
        .with_wait_for(WaitFor::message_on_stdout("Ready to accept connections"))
        .with_cmd(
            NO_PERSISTENCE
                .map(str::to_owned)
                .into_iter()
                .chain(user::server_args()),
        )
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
    // The destructor would remove it at once; the watchdog does that later.
    std::mem::forget(container);
    // The port is for IPv4, and `localhost` could resolve to IPv6.
    let host = if host == "localhost" {
        "127.0.0.1".to_owned()
    } else {
        host
    };
    Ok((host, port))
}
