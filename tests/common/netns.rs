//! A network of its own for some programs: a namespace with nothing but a loopback interface, which can be cut or made to
//! lose packets. Nobody has to be root for it where the kernel lets users have namespaces.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A network; gone with its value and the programs in it.
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    /// A new one; none, loudly, where this system does not let anybody make one.
    #[allow(clippy::print_stderr, reason = "a test that tests nothing must be seen")]
    pub fn new() -> Option<Namespace> {
        let script = "ip link set lo up && nft add table inet test && echo ready && exec sleep infinity";
        let mut holder = Command::new("unshare")
            .args(["-Urn", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare (Debian package util-linux)");
        let ready = BufReader::new(holder.stdout.take().expect("piped")).lines().next().is_some();
        let network = Namespace { holder };
        if !ready {
            eprintln!(
                "SKIPPED: no network namespace here (unshare -Urn, iproute2, nftables): bad networks are not tested"
            );
            return None;
        }
        Some(network)
    }

    /// What a command begins with that runs in it.
    pub fn enter(&self) -> Vec<String> {
        let pid = self.holder.id().to_string();
        ["nsenter", "-t", &pid, "-U", "-n", "--preserve-credentials", "--"].map(String::from).into()
    }

    /// Loses so many of a hundred packets, each way.
    pub fn lose(&self, percent: u32) {
        self.nft(&format!(
            "flush table inet test; add chain inet test input {{ type filter hook input priority 0; }}; \
             add rule inet test input numgen random mod 100 < {percent} drop"
        ));
    }

    /// Loses nothing any more.
    pub fn sound(&self) {
        self.nft("flush table inet test");
    }

    /// Takes the interface away, or brings it back.
    pub fn link(&self, up: bool) {
        self.run(&["ip", "link", "set", "lo", if up { "up" } else { "down" }]);
    }

    fn nft(&self, rules: &str) {
        self.run(&["nft", rules]);
    }

    fn run(&self, command: &[&str]) {
        let enter = self.enter();
        let output = Command::new(&enter[0]).args(&enter[1..]).args(command).output().expect("nsenter");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.holder.kill().expect("our child");
        self.holder.wait().expect("our child");
    }
}
