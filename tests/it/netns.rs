//! A network namespace that one link connects to this machine, and on which packets can be lost.
//!
//! Owns the namespace and the link. Invariant: both are gone when this process is, however it ends.
//! Needs root, `ip` and `iptables`. Nothing else can lose packets, so a test fails without them.

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use crate::support::{self, Watchdog};

const NEEDED: &str = "this test loses packets in a network namespace: run it as root on a Linux that has them \
    (a container needs --cap-add NET_ADMIN --cap-add SYS_ADMIN), with iproute2 and iptables installed";

/// Removing the namespace removes both ends of the link.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
read -r order
ip netns del "$1"
"#;

pub struct Netns {
    name: String,
    /// This machine's address on the link.
    pub here: Ipv4Addr,
    _watchdog: Watchdog,
}

impl Netns {
    /// # Panics
    /// When the namespace cannot be created; the message says what to do.
    pub fn new() -> Netns {
        for (program, package) in [("ip", "iproute2"), ("iptables", "iptables")] {
            support::tool(program, package).unwrap_or_else(|why| panic!("{NEEDED}\n{why}"));
        }
        let name = support::unique("commontrip");
        let mut watchdog = Command::new("sh");
        let watchdog = Watchdog::new(watchdog.args(["-c", WATCHDOG, "sh", &name]));
        let watchdog = watchdog.expect("sh is there");
        // Link-local addresses, which are not routed; another test may have picked the same ones.
        let (third, fourth) = (fastrand::u8(1..255), fastrand::u8(..63) * 4);
        let here = Ipv4Addr::new(169, 254, third, fourth + 1);
        let there = Ipv4Addr::new(169, 254, third, fourth + 2);
        let link = format!("ct{:08x}", fastrand::u32(..));
        let (near, far) = (format!("{link}h"), format!("{link}n"));
        run(&format!("ip netns add {name}"));
        run(&format!(
            "ip link add {near} type veth peer name {far} netns {name}"
        ));
        run(&format!("ip addr add {here}/30 dev {near}"));
        run(&format!("ip link set {near} up"));
        run(&format!("ip -n {name} addr add {there}/30 dev {far}"));
        run(&format!("ip -n {name} link set {far} up"));
        run(&format!("ip -n {name} link set lo up"));
        Netns {
            name,
            here,
            _watchdog: watchdog,
        }
    }

    /// The command prefix that runs a program inside the namespace.
    pub fn inside(&self) -> Vec<String> {
        let words = ["ip", "netns", "exec", &self.name];
        words.map(str::to_owned).to_vec()
    }

    /// Drops this share of the packets in each direction.
    pub fn lose(&self, share: f64) {
        for chain in ["INPUT", "OUTPUT"] {
            self.iptables(&format!(
                "-A {chain} -m statistic --mode random --probability {share} -j DROP"
            ));
        }
    }

    /// Drops all packets in each direction, without any notice to either side.
    pub fn part(&self) {
        for chain in ["INPUT", "OUTPUT"] {
            self.iptables(&format!("-A {chain} -j DROP"));
        }
    }

    /// Stops dropping packets.
    pub fn heal(&self) {
        self.iptables("-F");
    }

    fn iptables(&self, rule: &str) {
        run(&format!("ip netns exec {} iptables {rule}", self.name));
    }
}

fn run(line: &str) {
    let mut words = line.split(' ');
    let program = words.next().expect("a line has a word");
    let ran = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output();
    let ran = ran.unwrap_or_else(|err| panic!("{NEEDED}\n{line}: {err}"));
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{NEEDED}\n{line}: {said}");
}
