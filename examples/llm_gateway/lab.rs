//! The whole setup: stubs of the providers, and a fleet of gateways in front of them.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use commontrip::{Clock, Commontrip, MemoryStore};
use tokio::{net::TcpListener, task::JoinHandle};

use super::{gateway::Gateway, provider::Provider, service, stubs::Stub, upstream::Upstream};

pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The settings of a fleet.
#[derive(Clone)]
pub struct Setup {
    /// The URL of a Redis and the prefix of its keys; `None` keeps circuits in this process.
    pub redis: Option<(String, String)>,
    /// Where the first replica listens; the others use the following ports. Port 0 takes free ones.
    pub listen: SocketAddr,
    pub replicas: u16,
    /// How long a circuit stays open before it permits probes.
    pub open_for: Duration,
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
    /// How long a stream may be silent after its first token; `attempt_timeout` applies to the
    /// first one.
    pub token_timeout: Duration,
    /// How long an answer is cached.
    pub keep_for: Duration,
    /// How often the fleet checks the local server.
    pub check_every: Duration,
    /// A factor for the times of the patient chain.
    pub patient_scale: f64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            redis: None,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            replicas: 2,
            open_for: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(3),
            token_timeout: Duration::from_secs(2),
            keep_for: Duration::from_secs(60),
            check_every: Duration::from_secs(1),
            patient_scale: 1.0,
        }
    }
}

/// The stubs of all providers.
pub struct Stubs(BTreeMap<Provider, Stub>);

impl Stubs {
    /// A provider's stub.
    ///
    /// # Panics
    /// Never: [`Lab::start`] starts all of them.
    pub fn of(&self, provider: Provider) -> &Stub {
        &self.0[&provider]
    }
}

/// A running replica of the gateway; stops when dropped.
pub struct Replica {
    pub addr: SocketAddr,
    pub gateway: Arc<Gateway>,
    server: JoinHandle<()>,
}

impl Replica {
    /// The URL of a path on this replica.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub struct Lab {
    pub stubs: Arc<Stubs>,
    pub replicas: Vec<Replica>,
}

impl Lab {
    pub async fn start(setup: &Setup) -> Result<Self, Error> {
        let mut stubs = BTreeMap::new();
        for provider in Provider::ALL {
            stubs.insert(provider, Stub::start(provider).await?);
        }
        let places = stubs.iter().map(|(provider, stub)| (*provider, stub.addr));
        let upstream = Upstream::at(places.collect())?;
        let stubs = Arc::new(Stubs(stubs));
        let memory = MemoryStore::new(Clock::default());
        let mut replicas = Vec::new();
        for i in 0..setup.replicas {
            let name = format!("gateway-{}", i + 1);
            let builder = Commontrip::builder().replica(&name);
            let circuits = match &setup.redis {
                Some((url, prefix)) => builder.redis(url).prefix(prefix),
                None => builder.store(memory.clone()),
            };
            let circuits = circuits.store_timeout(Duration::from_millis(500)).build()?;
            let gateway = Gateway::new(&name, circuits, upstream.clone(), setup)?;
            let gateway = Arc::new(gateway);
            let router = service::router(Arc::clone(&gateway), Arc::clone(&stubs))?;
            let mut listen = setup.listen;
            if listen.port() != 0 {
                listen.set_port(listen.port().checked_add(i).ok_or("no port is left")?);
            }
            let listener = TcpListener::bind(listen).await?;
            let addr = listener.local_addr()?;
            let server = tokio::spawn(async move {
                let until = std::future::pending();
                if let Err(error) = commontrip::admin::serve(listener, router, until).await {
                    eprintln!("a gateway has ended: {error}");
                }
            });
            replicas.push(Replica {
                addr,
                gateway,
                server,
            });
        }
        Ok(Self { stubs, replicas })
    }

    /// Sends pending reports and stops.
    pub async fn end(self) {
        for replica in &self.replicas {
            replica.gateway.circuits.shutdown().await;
        }
    }
}
