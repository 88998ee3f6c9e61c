//! A Cluster of real servers: three masters with one replica each.

use super::{ms, tell};
use crate::{
    support::{self, OwnServer},
    wait::until,
};

pub struct Cluster {
    /// The masters first, then their replicas in the same order.
    pub nodes: Vec<OwnServer>,
    pub masters: usize,
}

impl Cluster {
    pub async fn start(masters: usize, replicas: bool) -> Cluster {
        let args = [
            "--cluster-enabled",
            "yes",
            "--cluster-config-file",
            "nodes.conf",
            "--cluster-node-timeout",
            "1000",
            // The death of a master must not stop the others.
            "--cluster-require-full-coverage",
            "no",
            "--repl-diskless-sync-delay",
            "0",
        ];
        let count = if replicas { 2 * masters } else { masters };
        let nodes: Vec<_> = (0..count).map(|_| OwnServer::start_with(&args)).collect();
        let cluster = Cluster { nodes, masters };
        let share = 16384 / masters;
        for (i, port) in cluster.ports().take(masters).enumerate() {
            let first = i * share;
            let last = if i + 1 == masters {
                16383
            } else {
                first + share - 1
            };
            let () = tell(port, &format!("CLUSTER ADDSLOTSRANGE {first} {last}")).await;
            let () = tell(port, &format!("CLUSTER SET-CONFIG-EPOCH {}", i + 1)).await;
        }
        let first = cluster.nodes[0].port();
        for port in cluster.ports().skip(1) {
            let () = tell(port, &format!("CLUSTER MEET 127.0.0.1 {first}")).await;
        }
        cluster.agree(count).await;
        for (i, port) in cluster.ports().enumerate().skip(masters) {
            let master = cluster.id(i - masters).await;
            let () = tell(port, &format!("CLUSTER REPLICATE {master}")).await;
            until("it replicates", async || {
                let info: String = tell(port, "INFO replication").await;
                info.contains("master_link_status:up")
            })
            .await;
        }
        cluster
    }

    fn ports(&self) -> impl Iterator<Item = u16> {
        self.nodes.iter().map(OwnServer::port)
    }

    async fn agree(&self, count: usize) {
        for port in self.ports() {
            until("the nodes know each other", async || {
                let info: String = tell(port, "CLUSTER INFO").await;
                info.contains("cluster_state:ok")
                    && info.contains(&format!("cluster_known_nodes:{count}\r"))
            })
            .await;
        }
    }

    /// A URL that names two of the nodes.
    pub fn url(&self) -> String {
        let (one, other) = (self.nodes[0].port(), self.nodes[1].port());
        let user = support::userinfo();
        format!("redis-cluster://{user}@127.0.0.1:{one}?node=127.0.0.1:{other}")
    }

    pub async fn id(&self, node: usize) -> String {
        tell(self.nodes[node].port(), "CLUSTER MYID").await
    }

    pub async fn slot(&self, circuit: &str) -> u16 {
        let key = format!("CLUSTER KEYSLOT commontrip:{{{circuit}}}");
        tell(self.nodes[self.masters - 1].port(), &key).await
    }

    /// The master that initially serves a slot.
    pub fn first_master(&self, slot: u16) -> usize {
        (usize::from(slot) / (16384 / self.masters)).min(self.masters - 1)
    }

    /// Moves a slot and its keys from one master to another, like `redis-cli --cluster reshard`;
    /// the slot stays in migration for a while.
    pub async fn migrate(&self, slot: u16, from: usize, to: usize) {
        let (source, target) = (self.nodes[from].port(), self.nodes[to].port());
        let (source_id, target_id) = (self.id(from).await, self.id(to).await);
        let () = tell(
            target,
            &format!("CLUSTER SETSLOT {slot} IMPORTING {source_id}"),
        )
        .await;
        let () = tell(
            source,
            &format!("CLUSTER SETSLOT {slot} MIGRATING {target_id}"),
        )
        .await;
        loop {
            let keys: Vec<String> = tell(source, &format!("CLUSTER GETKEYSINSLOT {slot} 1")).await;
            let Some(key) = keys.first() else { break };
            tokio::time::sleep(ms(60)).await;
            let () = tell(source, &format!("MIGRATE 127.0.0.1 {target} {key} 0 5000")).await;
        }
        tokio::time::sleep(ms(60)).await;
        for node in [to, from] {
            let port = self.nodes[node].port();
            let () = tell(port, &format!("CLUSTER SETSLOT {slot} NODE {target_id}")).await;
        }
    }
}
