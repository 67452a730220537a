//! Models over the air, as a device and its operator have it: a real daemon, a repository that `vedette-fleet` writes, the
//! real engine. Here: what goes well, and what is taken back; attacks are in `ota_attacks`, power cuts in `ota_cuts`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::agent::{Agent, PATTERN, stderr};
use crate::common::fleet::{Fleet, repository_with, tiny, variant};
use crate::common::wait_for;

/// `[ota]` for this repository: as quick as it may be, with these further keys.
pub fn ota(repository: &Path, root: &Path, keys: &str) -> String {
    format!(
        "[ota]\nrepository = {:?}\nroot_file = {:?}\ntrial_s = 1\nmin_agreement = 0.0\ncheck_every_s = 10\n{}{keys}\n",
        repository,
        root,
        if keys.contains("shadow_s") { "" } else { "shadow_s = 0\n" }
    )
}

/// A device with the test pattern that takes its models from there.
pub fn device(fleet: &Fleet, keys: &str) -> Agent {
    Agent::new(PATTERN, &ota(&fleet.published(), &fleet.first_root(), keys))
}

/// Offers a release.
pub fn offer(agent: &Agent, release: u64) {
    let output = agent.command(&["model", "update", &release.to_string()]);
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Waits until the release has ended; its report.
pub fn end_of(agent: &Agent, release: u64) -> Value {
    wait_for(&format!("the end of release {release}"), || {
        let update = agent.model()["update"].clone();
        let over = ["committed", "rolled_back", "refused", "cancelled"].contains(&update["state"].as_str()?);
        (update["release"] == release && over).then_some(update)
    })
}

/// The states that a release went through, in order.
pub fn states(agent: &Agent, release: u64) -> Vec<String> {
    let output = agent.command(&["model", "history", "--json"]);
    let steps: Vec<Value> = serde_json::from_slice(&output.stdout).expect("a list");
    let of = steps.iter().rev().filter(|s| s["release"] == release);
    of.map(|s| s["state"].as_str().expect("a word").to_owned()).collect()
}

/// What serves: name and version.
pub fn serves(agent: &Agent) -> String {
    let model = &agent.model()["current"]["model"];
    format!("{} {}", model["name"].as_str().expect("a name"), model["version"].as_str().expect("a version"))
}

/// Copies of the tiny model under other versions, in a directory of the test's.
pub fn versions(fleet_dir: &Path, versions: &[&str]) -> Vec<PathBuf> {
    let copy = |version: &&str| {
        let version = format!("version = \"{version}\"");
        let name = version.replace(['"', ' ', '='], "");
        variant(&tiny(), &fleet_dir.join(name), &[("version = \"1.2.3\"", &version)])
    };
    versions.iter().map(copy).collect()
}

/// Runs a script of deploy/fleet, with the program where a package puts it.
fn run_script(agent: &Agent, script: &str) -> std::process::Output {
    let bin = Path::new(env!("CARGO_BIN_EXE_vedette")).parent().expect("a directory");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a path"));
    std::process::Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/fleet").join(script))
        .arg(agent.config())
        .env("PATH", path)
        .output()
        .expect("a script")
}

const ALL_THE_WAY: [&str; 8] =
    ["offered", "downloading", "verified", "building", "proving", "shadow", "trial", "committed"];

#[test]
fn a_release_is_fetched_proven_looks_on_serves_and_is_committed() {
    let mut fleet = repository_with(&[&tiny()]);
    let mut agent = device(&fleet, "shadow_s = 4").start();
    assert_eq!(serves(&agent), "activity-v1 1.0.0");
    offer(&agent, 1);
    let report = end_of(&agent, 1);
    assert_eq!(report["state"], "committed", "{report:#}");
    assert_eq!(states(&agent, 1), ALL_THE_WAY);
    let figures = &report["figures"];
    assert!(figures["shadow_windows"].as_u64() > Some(0), "it saw what the other saw: {figures:#}");
    assert!(figures["frame_ms"].as_f64() < figures["budget_ms"].as_f64(), "{figures:#}");
    assert_eq!(figures["fetched_bytes"], figures["size_bytes"]);
    assert_eq!(serves(&agent), "tiny 1.2.3");
    let status = agent.status();
    assert_eq!(status["agent"]["model"]["name"], "tiny", "everybody says so");

    for script in ["quiet.sh", "healthy.sh"] {
        let done = run_script(&agent, script);
        assert!(done.status.success(), "{script}: {}", stderr(&done));
    }

    // Another one of which only the manifest is new.
    let next = versions(fleet.scratch(), &["1.3.0"]).remove(0);
    let second = fleet.release(&next);
    offer(&agent, second);
    let report = end_of(&agent, second);
    assert_eq!(
        (&report["state"], &report["figures"]["fetched_bytes"]),
        (&"committed".into(), &Value::Null),
        "{report:#}"
    );
    let model = agent.model();
    assert_eq!(
        (&model["current"]["release"], &model["previous"]["release"], &model["floor"]),
        (&2.into(), &1.into(), &2.into())
    );

    // What was committed serves after a start, and what is not needed any more is gone.
    agent.terminate();
    agent.restart();
    assert_eq!(serves(&agent), "tiny 1.3.0");
    let slots = std::fs::read_dir(agent.state().join("models/slots")).expect("slots").count();
    assert_eq!(slots, 2, "current and previous");
}
