//! A PostgreSQL of a test's own: a throw-away cluster in a temporary directory, on a free port of the loopback interface.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::pki::Pki;
use super::wait_for;

const REMEDY: &str = "these tests need a real database: apt-get install postgresql";

/// A running server; ends with its value.
pub struct Postgres {
    server: Option<Child>,
    dir: TempDir,
    programs: PathBuf,
    port: u16,
}

impl Postgres {
    /// Without encryption.
    pub fn start() -> Postgres {
        Postgres::with(&[], |_| ())
    }

    /// Nobody gets in but by TLS with a client certificate of this authority, by the broker's certificate.
    pub fn with_tls(pki: &Pki) -> Postgres {
        let settings = ["ssl=on", "ssl_cert_file=server.crt", "ssl_key_file=server.key", "ssl_ca_file=ca.crt"];
        Postgres::with(&settings, |data| {
            for file in ["server.crt", "server.key", "ca.crt"] {
                std::fs::copy(pki.file(file), data.join(file)).expect("the cluster's directory");
                let mode = std::fs::Permissions::from_mode(0o600);
                std::fs::set_permissions(data.join(file), mode).expect("our own file");
            }
            let rules = "hostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n";
            std::fs::write(data.join("pg_hba.conf"), rules).expect("the cluster's directory");
        })
    }

    fn with(settings: &[&str], prepare: impl FnOnce(&Path)) -> Postgres {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port();
        let mut postgres = Postgres { server: None, dir, programs: programs(), port };
        postgres.give_away();
        let data = postgres.data();
        run(postgres.program("initdb").args(["-A", "trust", "-U", "vedette", "--no-sync", "-D"]).arg(&data));
        prepare(&data);
        postgres.give_away();
        let mut server = postgres.program("postgres");
        server.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "fsync=off"]);
        server.args([
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            &format!("unix_socket_directories={}", shown(postgres.dir.path())),
        ]);
        server.args(settings.iter().flat_map(|setting| ["-c", setting]));
        let log = std::fs::File::create(postgres.dir.path().join("log")).expect("a writable directory");
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        postgres.server = Some(server.spawn().unwrap_or_else(|e| panic!("{e}: {REMEDY}")));
        wait_for("the database", || {
            let mut asked = postgres.program("pg_isready");
            asked.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
            asked.status().is_ok_and(|s| s.success()).then_some(())
        });
        postgres
    }

    /// How a client finds it.
    pub fn address(&self) -> String {
        format!("host=127.0.0.1 port={} user=vedette dbname=postgres", self.port)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// It does not run as root: its user must own what is here.
    fn give_away(&self) {
        if is_root() {
            run(Command::new("chown").arg("-R").arg("postgres:postgres").arg(self.dir.path()));
        }
    }

    fn program(&self, name: &str) -> Command {
        let path = self.programs.join(name);
        if !is_root() {
            return Command::new(path);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut stop = self.program("pg_ctl");
        stop.args(["stop", "-s", "-m", "immediate", "-D"]).arg(self.data());
        if let (Ok(_), Some(mut server)) = (stop.status(), self.server.take()) {
            server.wait().map(drop).unwrap_or(());
        }
    }
}

fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|v| v.path().join("bin")).filter(|bin| bin.join("initdb").exists()).max();
    found.unwrap_or_else(|| panic!("no /usr/lib/postgresql/*/bin/initdb: {REMEDY}"))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn run(command: &mut Command) {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}: {REMEDY}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("temporary directories have plain names")
}
