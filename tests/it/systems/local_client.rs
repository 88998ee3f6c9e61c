//! A client that prefers the cloud and has a local model: the health gate of the local server, and
//! the chain, in ten steps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use commontrip::{
    CircuitBreaker, Commontrip, Policy, State,
    failover::{Attempt, Exhausted, Failover, Served, Stage},
    health::{Check, HealthMonitor},
};

use crate::wait::until;

const LOCAL_OPEN_FOR: Duration = Duration::from_millis(400);

/// The two servers: whether each is up, and its number of requests.
#[derive(Clone, Default)]
struct Servers {
    cloud: Arc<AtomicBool>,
    local: Arc<AtomicBool>,
    /// How many calls the cloud fails although it is up.
    hiccups: Arc<AtomicU32>,
    asked: Arc<[AtomicU32; 2]>,
}

struct Client {
    servers: Servers,
    cloud: CircuitBreaker,
    local: CircuitBreaker,
    chain: Failover,
}

impl Client {
    fn new(circuits: &Commontrip, servers: &Servers) -> Self {
        let circuit = |name: &str, wait: Duration| {
            let policy = Policy::builder()
                .no_failure_rate_threshold()
                .consecutive_failures_threshold(3)
                .wait_duration_in_open_state(wait)
                .success_threshold(1);
            circuits.circuit(name, policy.build().unwrap()).unwrap()
        };
        let cloud = circuit("cloud", Duration::from_secs(60));
        let local = circuit("local", LOCAL_OPEN_FOR);
        // The real times are 10, 20 and 30 s, with pauses of 2 and 5 s.
        let ms = Duration::from_millis;
        let chain = Failover::builder()
            .stage(Stage::new("cloud", &cloud).attempt_timeout(ms(1000)))
            .stage(
                Stage::new("cloud-patient", &cloud)
                    .pause_before(ms(20))
                    .attempt_timeout(ms(2000)),
            )
            .stage(
                Stage::new("local", &local)
                    .pause_before(ms(50))
                    .attempt_timeout(ms(3000)),
            )
            .build()
            .unwrap();
        Self {
            servers: servers.clone(),
            cloud,
            local,
            chain,
        }
    }

    async fn ask(&self) -> Result<Served<&'static str>, Exhausted<&'static str>> {
        let call = |attempt: Attempt| {
            let is_local = &*attempt.name == "local";
            self.servers.asked[usize::from(is_local)].fetch_add(1, Ordering::SeqCst);
            let up = match is_local {
                true => self.servers.local.load(Ordering::SeqCst),
                false => {
                    let hiccups = &self.servers.hiccups;
                    let fails = hiccups
                        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                        .is_ok();
                    self.servers.cloud.load(Ordering::SeqCst) && !fails
                }
            };
            async move { up.then_some("text").ok_or("down") }
        };
        self.chain.call(call).await
    }

    /// The stage that answers, and the number of its attempt.
    async fn answers(&self) -> (String, u32) {
        let served = self.ask().await.unwrap();
        (served.stage.to_string(), served.attempt)
    }

    fn asked(&self) -> [u32; 2] {
        let asked = &self.servers.asked;
        [0, 1].map(|i| asked[i].load(Ordering::SeqCst))
    }
}

#[tokio::test]
async fn ten_steps_through_the_health_gate_and_the_chain() {
    let circuits = Commontrip::embedded().unwrap();
    let servers = Servers::default();
    let client = Client::new(&circuits, &servers);
    let set = |server: &AtomicBool, up| server.store(up, Ordering::SeqCst);
    let gate = {
        let up = Arc::clone(&servers.local);
        Check::new("local", move || {
            let up = up.load(Ordering::SeqCst);
            async move { up.then_some(()).ok_or("it cannot be reached") }
        })
    };
    let gate = gate
        .interval(Duration::from_millis(30))
        .failure_threshold(2)
        .circuit(&client.local);
    let is = async |breaker: &CircuitBreaker, state: State| {
        let name = breaker.name();
        until(&format!("{name} is {state}"), async || {
            breaker.state() == state
        })
        .await;
    };

    // 1. The local server is down: its gate closes before any call.
    let monitor = HealthMonitor::builder(&circuits)
        .check(gate)
        .start()
        .unwrap();
    is(&client.local, State::Open).await;
    assert_eq!(client.asked(), [0, 0]);

    // 2. It starts, and the gate opens on its own.
    set(&servers.local, true);
    is(&client.local, State::Closed).await;
    assert_eq!(client.asked(), [0, 0]);

    // 3. The cloud is up and answers.
    set(&servers.cloud, true);
    assert_eq!(client.answers().await, ("cloud".to_owned(), 1));

    // 4. It fails once, and answers the second, more patient attempt.
    servers.hiccups.store(1, Ordering::SeqCst);
    assert_eq!(client.answers().await, ("cloud-patient".to_owned(), 2));

    // 5. It goes down: the local model answers.
    set(&servers.cloud, false);
    let served = client.ask().await.unwrap();
    assert_eq!((&*served.stage, served.attempt), ("local", 3));
    assert!(served.fallback);

    // 6. One more failure opens the cloud's circuit, and its patient stage is skipped.
    assert_eq!(client.answers().await, ("local".to_owned(), 2));
    assert_eq!(client.cloud.state(), State::Open);

    // 7. The cloud is no longer asked, and its pauses are skipped.
    let [cloud, local] = client.asked();
    let served = client.ask().await.unwrap();
    assert_eq!((&*served.stage, served.attempt), ("local", 1));
    assert_eq!(client.asked(), [cloud, local + 1]);

    // 8. The local server dies, too: its gate closes again, and no server is asked.
    set(&servers.local, false);
    is(&client.local, State::Open).await;
    let before = client.asked();
    client.cloud.force_open(Default::default()).await.unwrap();
    let nobody = client.ask().await.unwrap_err();
    assert!(
        nobody
            .attempts
            .iter()
            .all(|tried| tried.error.rejection().is_some())
    );
    assert_eq!(client.asked(), before);

    // 9. It comes back. The gate was the probe, so the first question is answered.
    set(&servers.local, true);
    is(&client.local, State::Closed).await;
    assert_eq!(client.answers().await, ("local".to_owned(), 1));

    // 10. The cloud comes back and is preferred again.
    set(&servers.cloud, true);
    client.cloud.reset().await.unwrap();
    assert_eq!(client.answers().await, ("cloud".to_owned(), 1));
    monitor.stop().await;
}
