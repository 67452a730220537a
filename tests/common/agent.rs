//! The program under test as a user has it: its commands, and a daemon with a directory of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::netns::Namespace;
use super::wait_for;

/// The model that tests classify with: the one that the tree ships.
pub fn model_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/activity-v1")
}

/// Runs `vedette` with these arguments to its end.
pub fn vedette<I, S>(args: I) -> Output
where
    I: IntoIterator<Item = S>,
    S: AsRef<std::ffi::OsStr>,
{
    Command::new(env!("CARGO_BIN_EXE_vedette"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .output()
        .expect("the program was built with its tests")
}

/// Standard output, which must be text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8 on standard output")
}

/// Standard error, which must be text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8 on standard error")
}

/// Each line of standard output as JSON.
pub fn json_lines(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e} in {l}"))).collect()
}

/// A device: a configuration, a state directory, and at most one daemon, killed with the value.
pub struct Agent {
    dir: TempDir,
    child: Option<Child>,
    environment: Vec<(String, String)>,
    /// What is run as the superuser of a mount namespace of the daemon's own before it.
    prepare: Option<String>,
    /// What the daemon's command begins with.
    enter: Vec<String>,
}

impl Agent {
    /// A device with these cameras (TOML) and these further sections. Nothing runs yet.
    pub fn new(cameras: &str, sections: &str) -> Agent {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let agent = Agent { dir, child: None, environment: Vec::new(), prepare: None, enter: Vec::new() };
        agent.configure(cameras, sections);
        agent
    }

    /// A device with the moving test pattern as its camera `pattern`.
    pub fn with_pattern(sections: &str) -> Agent {
        Agent::new(PATTERN, sections)
    }

    /// Writes another configuration.
    pub fn configure(&self, cameras: &str, sections: &str) {
        let text = format!(
            "[device]\nsite = \"test\"\nid = \"unit\"\n\n[paths]\nstate_dir = \"state\"\nruntime_dir = \"run\"\n\n\
             [model]\ndir = {model:?}\n\n{cameras}\n\n{sections}\n",
            model = model_dir(),
        );
        std::fs::create_dir_all(self.state()).expect("writable");
        std::fs::write(self.config(), text).expect("writable");
    }

    /// Sets variables of the daemon's environment.
    pub fn environment(&mut self, variables: &[(&str, &str)]) {
        self.environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    }

    /// Runs the daemon in a network of its own. Its commands reach it all the same, by its socket.
    pub fn within(&mut self, network: &Namespace) {
        self.enter = network.enter();
    }

    /// Gives the daemon's next runs a state directory on a file system of their own, so large, which goes with each; the
    /// shell commands `then` are run in it. False, loudly, where this system lets nobody do that.
    #[allow(clippy::print_stderr, reason = "a test that tests nothing must be seen")]
    pub fn on_a_disk_of(&mut self, megabytes: u32, then: &str) -> bool {
        let can = Command::new("unshare").args(["-Urm", "mount", "-t", "tmpfs", "none", "/mnt"]).status();
        if !can.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: no user namespace with mounts here (unshare -Urm): full disks are not tested");
            return false;
        }
        let state = self.state();
        let state = state.to_str().expect("UTF-8");
        self.prepare =
            Some(format!("set -e; mount -t tmpfs -o size={megabytes}m none {state}; cd {state}; {then}\nexec \"$@\""));
        true
    }

    /// The state directory as the running daemon sees it.
    pub fn disk(&self) -> PathBuf {
        let state = self.state();
        Path::new(&format!("/proc/{}/root", self.pid())).join(state.strip_prefix("/").expect("absolute"))
    }

    /// Writes to the daemon's disk until it takes no more.
    pub fn fill_disk(&self, name: &str) {
        let mut file = std::fs::File::create(self.disk().join(name)).expect("an entry is free");
        for block in [1 << 20, 4096, 1] {
            while std::io::Write::write_all(&mut file, &vec![1; block]).is_ok() {}
        }
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("vedette.toml")
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// What the daemon has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Where it logs.
    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Starts the daemon and waits until it answers on its socket.
    pub fn start(mut self) -> Agent {
        self.restart();
        self
    }

    /// Starts the daemon (again).
    pub fn restart(&mut self) {
        self.spawn();
        wait_for("the daemon's socket", || {
            self.must_run();
            self.command(&["status"]).status.success().then_some(())
        });
    }

    /// Starts the daemon without waiting for anything.
    pub fn spawn(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path());
        let daemon = [env!("CARGO_BIN_EXE_vedette"), "run", "--config"];
        let mut command = match &self.prepare {
            None => match self.enter.split_first() {
                None => Command::new(daemon[0]),
                Some((first, rest)) => {
                    let mut enter = Command::new(first);
                    enter.args(rest).arg(daemon[0]);
                    enter
                }
            },
            // Each execs the next: the child is the daemon.
            Some(script) => {
                let mut unshare = Command::new("unshare");
                unshare.args(["-Urm", "sh", "-c", script, "sh", daemon[0]]);
                unshare
            }
        };
        let child = command
            .args(&daemon[1..])
            .arg(self.config())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("writable"))
            .spawn();
        self.child = Some(child.expect("the program was built with its tests"));
    }

    fn must_run(&mut self) {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait().expect("our own child")
        {
            panic!("the daemon ended with {status}; its log:\n{}", self.log());
        }
    }

    /// Sends the daemon a signal, by name.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("kill is everywhere");
        assert!(sent.success());
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a daemon runs").id()
    }

    /// How the daemon ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut().expect("a daemon runs").try_wait().expect("our own child")?;
        self.child = None;
        Some(status)
    }

    /// Gives the daemon's next runs no more address space than this.
    pub fn limit_memory(&mut self, bytes: Option<u64>) {
        let limit = |b| vec!["prlimit".to_owned(), format!("--as={b}")];
        self.enter = bytes.map(limit).unwrap_or_default();
    }

    /// The daemon's address space, in bytes.
    pub fn virtual_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let kib = status.lines().find_map(|l| l.strip_prefix("VmSize:")?.trim().strip_suffix(" kB"));
        kib.and_then(|n| n.parse::<u64>().ok()).expect("a size in KiB") * 1024
    }

    /// Waits for the daemon's end.
    pub fn wait(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("a daemon runs");
        let status = wait_for("the daemon's end", || child.try_wait().expect("our own child"));
        self.child = None;
        status
    }

    /// SIGTERM, and its end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// Runs a command about this device.
    pub fn command(&self, args: &[&str]) -> Output {
        let (name, rest) = args.split_at(match args {
            ["incidents" | "store" | "model", ..] => 2,
            _ => 1,
        });
        let config = self.config();
        let config = [std::ffi::OsStr::new("--config"), config.as_os_str()];
        let args = name.iter().map(std::ffi::OsStr::new).chain(config).chain(rest.iter().map(std::ffi::OsStr::new));
        match (&self.prepare, &self.child) {
            // It sees the daemon's disk.
            (Some(_), Some(daemon)) => Command::new("nsenter")
                .args(["-U", "-m", "--preserve-credentials", "-t", &daemon.id().to_string(), "--"])
                .arg(env!("CARGO_BIN_EXE_vedette"))
                .args(args)
                .stdin(Stdio::null())
                .output()
                .expect("nsenter (Debian package util-linux)"),
            _ => vedette(args),
        }
    }

    /// `vedette status --json`.
    pub fn status(&self) -> Value {
        serde_json::from_slice(&self.command(&["status", "--json"]).stdout).expect("JSON")
    }

    /// `vedette model status --json`.
    pub fn model(&self) -> Value {
        let output = self.command(&["model", "status", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(&output)))
    }

    /// `vedette incidents list --json`, newest first.
    pub fn incidents(&self) -> Vec<Value> {
        json_lines(&self.command(&["incidents", "list", "--json"]))
    }

    /// Raises a test alert on the first camera; its incident's id.
    pub fn raise_test(&self) -> String {
        let output = self.command(&["test-alert", "--json"]);
        assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
        json_lines(&output)[0]["incident"].as_str().expect("an id").to_owned()
    }

    /// Waits until an incident's clip is done, or lost; the incident.
    pub fn wait_for_clip(&mut self, id: &str) -> Value {
        wait_for(&format!("the clip of {id}"), || {
            self.must_run();
            let known = self.incidents();
            let incident = known.into_iter().find(|i| i["id"] == id)?;
            matches!(incident["clip"]["state"].as_str(), Some("done" | "lost")).then_some(incident)
        })
    }
}

#[allow(clippy::print_stderr, reason = "what a failing test needs to be understood")]
impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

/// The moving test pattern.
pub const PATTERN: &str = "[[camera]]\nid = \"pattern\"\nkind = \"test\"\n";
