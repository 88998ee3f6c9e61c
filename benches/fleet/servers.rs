//! The Redis of a case (one server, or a Cluster of three masters), the work it has done, and its
//! record of the circuit.
//!
//! The bench uses its own connections, opened once. Its own commands are not counted.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Sub,
    time::{Duration, Instant},
};

use redis::{AsyncConnectionConfig, FromRedisValue, Value, aio::MultiplexedConnection};

use crate::{
    cluster_servers::Cluster,
    plan::Topology,
    support::{OwnServer, user},
};

/// Commands that replicas send. Scripts call the others within the time of their `EVALSHA`.
const SENT: [&str; 15] = [
    "asking",
    "auth",
    "client|setinfo",
    "client|setname",
    "cluster|slots",
    "eval",
    "evalsha",
    "hello",
    "ping",
    "role",
    "script|load",
    "select",
    "subscribe",
    "unsubscribe",
    "xrevrange",
];

const PATIENCE: Duration = Duration::from_secs(10);

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

enum Nodes {
    One(OwnServer),
    Cluster(Cluster),
}

pub struct Servers {
    nodes: Nodes,
    connections: Vec<MultiplexedConnection>,
}

/// The work of all nodes together, in total or between two readings.
pub struct Work {
    pub at: Instant,
    /// For each command: the number of calls, and the server's microseconds.
    pub commands: BTreeMap<String, (u64, u64)>,
    /// User and system time of the servers.
    pub cpu_us: u64,
}

/// A transition as Redis recorded it, Unix ms.
#[derive(Clone, Debug)]
pub struct Transition {
    pub to: String,
    pub at_ms: u64,
    pub until_ms: u64,
}

impl Servers {
    pub async fn start(topology: Topology) -> Servers {
        let nodes = match topology {
            Topology::One => Nodes::One(OwnServer::start()),
            Topology::Cluster => Nodes::Cluster(Cluster::start(3, false).await),
        };
        let mut connections = Vec::new();
        for port in ports(&nodes) {
            connections.push(connect(port).await);
        }
        Servers { nodes, connections }
    }

    /// The URL for the replicas.
    pub fn url(&self) -> String {
        match &self.nodes {
            Nodes::One(server) => server.url(),
            Nodes::Cluster(cluster) => cluster.url(),
        }
    }

    pub async fn work(&self) -> Work {
        let mut work = Work {
            at: Instant::now(),
            commands: BTreeMap::new(),
            cpu_us: 0,
        };
        for info in self.ask::<String>("INFO commandstats cpu").await {
            for line in info.lines() {
                work.read(line);
            }
        }
        work
    }

    /// Bytes of a circuit's keys, and bytes of its events.
    pub async fn memory(&self, circuit: &str) -> (u64, u64) {
        let (mut keys, mut events) = (0, 0);
        for mut connection in self.connections.clone() {
            let pattern = format!("commontrip:{{{circuit}}}*");
            let names: Vec<String> = tell_on(&mut connection, &["KEYS", &pattern]).await;
            for name in names {
                let usage = ["MEMORY", "USAGE", &name, "SAMPLES", "0"];
                let bytes: Option<u64> = tell_on(&mut connection, &usage).await;
                let sum = if name.ends_with(":events") {
                    &mut events
                } else {
                    &mut keys
                };
                *sum += bytes.unwrap_or(0);
            }
        }
        (keys, events)
    }

    /// The transitions of a circuit since a moment, oldest first.
    pub async fn transitions(&self, circuit: &str, since_ms: u64) -> Vec<Transition> {
        let key = format!("commontrip:{{{circuit}}}:events");
        let since = since_ms.to_string();
        for mut connection in self.connections.clone() {
            let words = ["XRANGE", &key, &since, "+"];
            // A node that does not own the slot returns an error.
            let Ok(entries) =
                try_on::<Vec<(String, HashMap<String, String>)>>(&mut connection, &words).await
            else {
                continue;
            };
            let number = |fields: &HashMap<String, String>, name| fields[name].parse().unwrap();
            let transition = |(_, fields): &(String, HashMap<String, String>)| Transition {
                to: fields["to"].clone(),
                at_ms: number(fields, "at_ms"),
                until_ms: number(fields, "until_ms"),
            };
            return entries.iter().map(transition).collect();
        }
        panic!("no node keeps the events of {circuit}");
    }

    /// Revokes `SUBSCRIBE` from the crate's user, and ends the connections that have subscribed.
    pub async fn cut_push(&self) {
        let refuse = format!("ACL SETUSER {} -subscribe", user::USER);
        self.ask::<Value>(&refuse).await;
        self.ask::<Value>("CLIENT KILL TYPE pubsub").await;
    }

    /// Sends the same command to every node.
    async fn ask<T: FromRedisValue>(&self, command: &str) -> Vec<T> {
        let words: Vec<_> = command.split(' ').collect();
        let mut answers = Vec::new();
        for mut connection in self.connections.clone() {
            answers.push(tell_on(&mut connection, &words).await);
        }
        answers
    }
}

impl Work {
    fn read(&mut self, line: &str) {
        let Some((name, value)) = line.split_once(':') else {
            return;
        };
        if let "used_cpu_sys" | "used_cpu_user" = name {
            let seconds: f64 = value.parse().unwrap();
            self.cpu_us += (seconds * 1e6) as u64;
        }
        let Some(command) = name.strip_prefix("cmdstat_") else {
            return;
        };
        let field = |name: &str| -> u64 {
            let fields = value.split(',').filter_map(|field| field.split_once('='));
            let mut found = fields.filter(|(field, _)| *field == name);
            found.next().map_or(0, |(_, value)| value.parse().unwrap())
        };
        let (calls, us) = self.commands.entry(command.to_owned()).or_default();
        *calls += field("calls") + field("rejected_calls");
        *us += field("usec");
    }

    /// How many commands were sent, and how long they took.
    pub fn sent(&self) -> (u64, u64) {
        let sent = SENT.iter().map(|name| self.command(name));
        sent.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    pub fn command(&self, name: &str) -> (u64, u64) {
        self.commands.get(name).copied().unwrap_or_default()
    }

    /// The commands by name, the most frequent first.
    pub fn by_name(&self) -> String {
        let mut names: Vec<_> = self.commands.iter().filter(|(_, (n, _))| *n > 0).collect();
        names.sort_by_key(|(_, (calls, _))| std::cmp::Reverse(*calls));
        let mark = |name: &str| if SENT.contains(&name) { "" } else { "*" };
        let word = |(name, (calls, us)): &(&String, &(u64, u64))| {
            format!("{name}{} {calls} ({us} µs)", mark(name))
        };
        names.iter().map(word).collect::<Vec<_>>().join(", ")
    }
}

impl Sub<&Work> for &Work {
    type Output = Work;

    fn sub(self, before: &Work) -> Work {
        let since = |(name, now): (&String, &(u64, u64))| {
            let before = before.command(name);
            (name.clone(), (now.0 - before.0, now.1 - before.1))
        };
        Work {
            at: self.at,
            commands: self.commands.iter().map(since).collect(),
            cpu_us: self.cpu_us - before.cpu_us,
        }
    }
}

fn ports(nodes: &Nodes) -> Vec<u16> {
    match nodes {
        Nodes::One(server) => vec![server.port()],
        Nodes::Cluster(cluster) => cluster.nodes.iter().map(OwnServer::port).collect(),
    }
}

async fn connect(port: u16) -> MultiplexedConnection {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
    let patient = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    let connection = client.get_multiplexed_async_connection_with_config(&patient);
    connection.await.unwrap()
}

async fn try_on<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    words: &[&str],
) -> redis::RedisResult<T> {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]).query_async(connection).await
}

async fn tell_on<T: FromRedisValue>(connection: &mut MultiplexedConnection, words: &[&str]) -> T {
    let answer = try_on(connection, words).await;
    answer.unwrap_or_else(|err| panic!("{words:?}: {err}"))
}

/// Sends one command, given as a string of words.
pub async fn tell<T: FromRedisValue>(port: u16, command: &str) -> T {
    let words: Vec<_> = command.split_whitespace().collect();
    tell_on(&mut connect(port).await, &words).await
}
