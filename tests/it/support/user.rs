//! The crate's user in the tests: exactly the rights that docs/redis.md lists.

use std::process::Command;
use std::time::Duration;

use commontrip::RedisStore;

use super::{Found, URL, Watchdog, on_path, say, unique};

/// The crate's user on servers that the tests start.
pub const USER: &str = "commontrip-test";
const PASSWORD: &str = "least-privilege";

/// The start of the tests' own prefixes. Circuits of most tests are under `commontrip:`.
const PREFIX: &str = "commontrip-test-";

/// The ACL rules of the crate's user in the tests: what the crate needs on any kind of server, and
/// the tests' prefixes.
pub fn acl_rules() -> Vec<String> {
    let mut rules = vec![format!("~{PREFIX}*"), format!("&{PREFIX}*")];
    for url in [
        "redis://any/1",
        "redis-sentinel://any?sentinelServiceName=any",
        "redis-cluster://any",
    ] {
        let store = RedisStore::builder().open(url).expect("it is a URL");
        #[cfg(feature = "queue")]
        let all = store.acl_rules_with_queues();
        #[cfg(not(feature = "queue"))]
        let all = store.acl_rules();
        for rule in all.split(' ') {
            if !rules.iter().any(|known| known == rule) {
                rules.push(rule.to_owned());
            }
        }
    }
    rules
}

/// The same rules as arguments of a server, which then has this user.
pub fn server_args() -> Vec<String> {
    let password = format!(">{PASSWORD}");
    let user = ["--user", USER, "on", &password].map(str::to_owned);
    user.into_iter().chain(acl_rules()).collect()
}

/// The crate's user on servers that the tests start, as the part of a URL between `redis://` and
/// `@host`.
pub fn userinfo() -> String {
    format!("{USER}:{PASSWORD}")
}

/// Returns a key prefix that no other test has, and that the crate's user may use.
pub fn unique_prefix(name: &str) -> String {
    unique(&format!("{PREFIX}{name}"))
}

pub(super) fn given(url: &str) -> Result<Found, String> {
    let mut connection = redis::Client::open(url)
        .and_then(|client| client.get_connection_with_timeout(Duration::from_secs(5)))
        .map_err(|err| format!("{URL} does not answer: {err}"))?;
    let user = unique(USER);
    let password = format!("{:032x}", fastrand::u128(..));
    let made = redis::cmd("ACL")
        .arg("SETUSER")
        .arg(&user)
        .arg("on")
        .arg(format!(">{password}"))
        .arg(acl_rules())
        .exec(&mut connection)
        .map_err(|err| err.to_string());
    let restricted = made.and_then(|()| {
        let mut url = url::Url::parse(url).map_err(|err| err.to_string())?;
        let set = url
            .set_username(&user)
            .and_then(|()| url.set_password(Some(&password)));
        set.map_err(|()| "that URL cannot name a user".to_owned())?;
        Ok(url.to_string())
    });
    let origin = match &restricted {
        Ok(_) => format!("given by {URL}; the crate is user {user}, removed at the end"),
        Err(err) => {
            format!("given by {URL}; NOT as a user of least privilege, who cannot be made: {err}")
        }
    };
    if restricted.is_ok() {
        match on_path("redis-cli") {
            Some(_) => {
                let mut sh = Command::new("sh");
                sh.args(["-c", USER_WATCHDOG, "sh", &user])
                    .env("ADMIN_URL", url);
                // Until this process ends.
                std::mem::forget(Watchdog::new(&mut sh)?);
            }
            None => say(&format!(
                "no redis-cli on PATH: user {user} will have to be removed by hand"
            )),
        }
    }
    Ok(Found {
        url: restricted.unwrap_or_else(|_| url.to_owned()),
        admin_url: url.to_owned(),
        origin,
    })
}

/// Removes the user that was created on a server that the tests did not start.
const USER_WATCHDOG: &str = r#"
trap '' HUP INT TERM
read -r order
redis-cli -u "$ADMIN_URL" --no-auth-warning ACL DELUSER "$1"
"#;
