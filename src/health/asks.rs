//! Ready-made checks: whether a port accepts connections, and what status a URL returns.
//!
//! Owns what they ask and what passes; the monitor owns when they run.

use tokio::net::TcpStream;

use super::Check;

impl Check {
    /// A check that passes when an address, such as `db.internal:5432`, accepts a connection.
    ///
    /// ```
    /// use std::time::Duration;
    /// use commontrip::health::Check;
    ///
    /// let orders = Check::tcp("orders-db", "db.internal:5432").timeout(Duration::from_secs(1));
    /// ```
    pub fn tcp(name: &str, address: &str) -> Self {
        let address = address.to_owned();
        Self::new(name, move || {
            let address = address.clone();
            async move { TcpStream::connect(address).await.map(drop) }
        })
    }

    /// A check that passes when a `GET` of an `http` or `https` URL returns this status.
    ///
    /// Redirects are not followed: their own status counts. The body is not read. Certificates are
    /// checked against the system's trust store. Connections are reused between runs, so a hanging
    /// connection fails a run by the check's timeout. An invalid URL fails every run, with an error
    /// in the report.
    ///
    /// ```
    /// use std::time::Duration;
    /// use commontrip::health::Check;
    ///
    /// let orders = Check::http("orders", "https://orders.internal/healthz", 200)
    ///     .timeout(Duration::from_secs(2));
    /// ```
    #[cfg(feature = "health-http")]
    pub fn http(name: &str, url: &str, status: u16) -> Self {
        use reqwest_012::{Client, redirect::Policy};

        let client = Client::builder()
            .redirect(Policy::none())
            .user_agent(concat!("commontrip/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| error.to_string());
        let url = url.to_owned();
        Self::new(name, move || {
            let (client, url) = (client.clone(), url.clone());
            async move {
                // A URL can contain a password, and everybody can read reports.
                let asked = client?.get(url).send().await;
                let answer = asked.map_err(|error| crate::store::in_words(&error.without_url()))?;
                match answer.status().as_u16() == status {
                    true => Ok(()),
                    false => Err(format!("it answered {}, and not {status}", answer.status())),
                }
            }
        })
    }
}
