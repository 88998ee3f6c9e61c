//! Access to a Redis: user, password, certificates.
//!
//! Owns secrets: it reads them for each connection, so that rotated ones take effect, and never
//! shows them.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use redis::{Client, ConnectionInfo};

use super::{StoreError, wire};

/// Settings given in addition to the URL; they override the URL's.
#[derive(Clone, Default)]
pub(super) struct Access {
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    #[cfg(feature = "tls")]
    pub(super) tls: TlsFiles,
}

#[derive(Clone)]
pub(super) enum Secret {
    Text(String),
    File(PathBuf),
}

/// PEM files.
#[cfg(feature = "tls")]
#[derive(Clone, Default)]
pub(super) struct TlsFiles {
    pub(super) ca: Option<PathBuf>,
    /// Certificate and key.
    pub(super) client: Option<(PathBuf, PathBuf)>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Access")
    }
}

impl Access {
    /// Adds user and password to the settings of a connection.
    pub(super) fn admit(&self, info: &ConnectionInfo) -> Result<ConnectionInfo, StoreError> {
        let mut settings = info.redis_settings().clone();
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        match &self.password {
            None => {}
            Some(Secret::Text(password)) => settings = settings.set_password(password),
            Some(Secret::File(path)) => {
                let text = String::from_utf8(read(path, "the password")?);
                let text = text.map_err(|_| unusable(path, "the password", "it is not UTF-8"))?;
                settings = settings.set_password(text.trim_end_matches(['\r', '\n']));
            }
        }
        Ok(info.clone().set_redis_settings(settings))
    }

    /// Creates a client, which uses the certificates if the connection has TLS.
    #[cfg(feature = "tls")]
    pub(super) fn client(&self, info: ConnectionInfo) -> Result<Client, StoreError> {
        let certificates = match is_tls(info.addr()) {
            true => self.certificates()?,
            false => None,
        };
        let client = match certificates {
            Some(certificates) => Client::build_with_tls(info, certificates),
            None => Client::open(info),
        };
        client.map_err(wire::error)
    }

    #[cfg(not(feature = "tls"))]
    pub(super) fn client(&self, info: ConnectionInfo) -> Result<Client, StoreError> {
        Client::open(info).map_err(wire::error)
    }

    /// The certificates for a TLS connection, or `None` to use those of the system.
    #[cfg(feature = "tls")]
    pub(super) fn certificates(&self) -> Result<Option<redis::TlsCertificates>, StoreError> {
        provide_cryptography();
        let TlsFiles { ca, client } = &self.tls;
        if ca.is_none() && client.is_none() {
            return Ok(None);
        }
        let root_cert = match ca {
            Some(path) => Some(read(path, "the CA certificate")?),
            None => None,
        };
        let client_tls = match client {
            Some((certificate, key)) => Some(redis::ClientTlsConfig {
                client_cert: read(certificate, "the client's certificate")?,
                client_key: read(key, "the client's key")?,
            }),
            None => None,
        };
        Ok(Some(redis::TlsCertificates {
            client_tls,
            root_cert,
        }))
    }
}

#[cfg(feature = "tls")]
pub(super) const fn is_tls(addr: &redis::ConnectionAddr) -> bool {
    matches!(addr, redis::ConnectionAddr::TcpTls { .. })
}

/// Installs a crypto provider, because the client may panic without one. A process that has its own
/// keeps it, and a process without TLS connections gets none.
#[cfg(feature = "tls")]
fn provide_cryptography() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

// Blocking is acceptable: these files are small, local, and read once per connection.
fn read(path: &Path, what: &str) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|e| unusable(path, what, &e.to_string()))
}

fn unusable(path: &Path, what: &str, why: &str) -> StoreError {
    StoreError::unreachable(format!(
        "{what} cannot be read from {}: {why}",
        path.display()
    ))
}
