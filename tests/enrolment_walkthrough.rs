//! `deploy/fleet/enrolment.md`, block by block, as it stands there.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::agent::{stderr, stdout};
use crate::common::broker::Broker;
use crate::common::enrol::Blank;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The commands of a block.
fn block(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/fleet/enrolment.md");
    let text = std::fs::read_to_string(path).expect("it is there");
    let (_, after) = text.split_once(&format!("```sh {name}\n")).unwrap_or_else(|| panic!("no block {name}"));
    after.split_once("```").expect("it ends").0.to_owned()
}

fn program(dir: &Path, name: &str, script: &str) {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("ours");
}

#[test]
fn the_walk_through_works() {
    let (fleet, blank) = (tempfile::tempdir().expect("a temporary directory"), Blank::new());
    let bin = fleet.path().join("bin");
    std::fs::create_dir(&bin).expect("writable");
    let (vedette, manager) = (env!("CARGO_BIN_EXE_vedette"), env!("CARGO_BIN_EXE_vedette-fleet"));
    let (etc, state) = (blank.file("etc"), blank.file("state"));
    program(&bin, "sudo", "exec \"$@\"");
    program(&bin, "systemctl", "exit 0");
    program(&bin, "vedette-fleet", &format!("exec {manager} \"$@\""));
    program(
        &bin,
        "vedette",
        &format!("exec {vedette} \"$@\" --config-dir {} --state-dir {}", etc.display(), state.display()),
    );
    std::fs::copy(blank.config(), fleet.path().join("gate-1.toml")).expect("readable");
    let run = |name: &str, port: Option<u16>| {
        let mut script = block(name);
        if let Some(port) = port {
            script = script.replace("broker.example:8883", &format!("127.0.0.1:{port}"));
        }
        let script = script.replace("broker.example", "127.0.0.1");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a path"));
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &script]).current_dir(fleet.path()).env("PATH", path).stdin(Stdio::null());
        let done = bash.output().expect("bash");
        assert!(done.status.success(), "{name}: {}{}", stdout(&done), stderr(&done));
        format!("{}{}", stdout(&done), stderr(&done))
    };
    run("ca", None);
    run("broker", None);
    let crl = format!("crlfile {}", fleet.path().join("fleet-ca/crl.pem").display());
    let broker = Broker::with_certificates(&fleet.path().join("certs"));
    let mut broker = broker.with("mosquitto.conf", "#crlfile ", &format!("{crl}\n#")).start();
    let port = Some(broker.port);
    assert!(run("bundle", port).contains("harbour/gate-1: expires soon; groups: north"));
    let mut identity = broker.subscribe("vedette/v1/harbour/gate-1/identity");
    assert!(run("device", port).contains("this device is harbour/gate-1"));
    assert!(!fleet.path().join("gate-1.bundle").exists());
    let log = std::fs::File::create(blank.file("log")).expect("writable");
    let mut daemon = Command::new(vedette);
    daemon
        .args(["run", "--config"])
        .arg(etc.join("vedette.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let daemon = Killed(daemon.current_dir(env!("CARGO_MANIFEST_DIR")).spawn().expect("it was built"));
    identity.wait_for("a request", |m| m.payload["state"] == "requested");
    assert!(run("renew", port).contains("is on its way"));
    identity.wait_for("its own certificate", |m| m.payload["state"] == "settled" && m.payload["travelled"] == false);
    let said = run("renew", port);
    assert!(said.contains("the ones before it are revoked") && said.contains("good"), "{said}");
    assert!(run("revoke", port).contains("1 certificates revoked"));
    broker.restart();
    drop(daemon);
    let said = run("wipe", port);
    assert!(said.contains("removes") && said.contains("vedette.db") && !state.join("identity").exists(), "{said}");
    assert!(state.join("vedette.db").exists());
}
