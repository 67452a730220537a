//! Attacks on the way from the fleet to the device, each mounted: what is refused, and by what name it is told. Repositories
//! are written by python-tuf (`fixtures/tuf/write_repository.py`), so that nothing of ours vouches for ours.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use vedette::contract::update::{UpdateFault, UpdateState};

use crate::common::fleet::{tiny, variant};
use crate::common::updating::Updating;
use crate::common::wait_for;

/// An attack that python-tuf has written: its stages, and what each is refused with.
struct Attack {
    name: &'static str,
    dir: tempfile::TempDir,
    expect: Value,
}

/// The writer; none, loudly: python-tuf is not there.
#[allow(clippy::print_stderr, reason = "a test that tests nothing must be seen")]
fn writer() -> Option<Command> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = top.join(".cache/python");
    if !packages.join("tuf").is_dir() {
        eprintln!("SKIPPED: python-tuf is not in .cache/python; deploy/dev/python.sh puts it there");
        return None;
    }
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", &packages).arg(top.join("tests/fixtures/tuf/write_repository.py"));
    Some(python)
}

/// The names after "attacks:" in its help.
fn attack_names() -> Option<Vec<String>> {
    let help = writer()?.arg("--help").output().expect("python3 is there").stdout;
    let help = String::from_utf8(help).expect("UTF-8");
    let (_, list) = help.split_once("\nattacks:\n").expect("a list");
    Some(list.lines().filter_map(|l| l.strip_prefix("    ")?.split_whitespace().next()).map(str::to_owned).collect())
}

fn attack(name: &'static str) -> Option<Attack> {
    let mut writer = writer()?;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let model = |version: &str| {
        variant(&tiny(), &dir.path().join(version), &[("version = \"1.2.3\"", &format!("version = \"{version}\""))])
    };
    let (old, new) = (model("1.3.0"), model("1.4.0"));
    // What no other model has must be fetched.
    for dir in [&old, &new] {
        let card = format!("What {} is", dir.display());
        let entry = format!(
            "\n[[file]]\npath = \"CARD.md\"\nsha256 = \"{}\"\nsize_bytes = {}\n",
            vedette::base::digest::of_bytes(card.as_bytes()),
            card.len()
        );
        std::fs::write(dir.join("CARD.md"), &card).expect("writable");
        let manifest = std::fs::read_to_string(dir.join("manifest.toml")).expect("a manifest");
        std::fs::write(dir.join("manifest.toml"), manifest + &entry).expect("writable");
    }
    let out = dir.path().join("out");
    let done = writer
        .args([Path::new("--out"), &out, Path::new("--model"), &old, Path::new("--model"), &new])
        .args(["--attack", name])
        .output()
        .expect("python3 is there");
    assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
    let expect = std::fs::read(out.join("expect.json")).expect("written");
    Some(Attack { name, dir, expect: serde_json::from_slice(&expect).expect("JSON") })
}

impl Attack {
    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// What the device sees: shows it a stage in the place of the one before.
    fn show(&self, stage: &str) {
        let (shown, next) = (self.dir.path().join("shown"), self.dir.path().join("next"));
        std::os::unix::fs::symlink(self.out().join(stage), &next).expect("writable");
        std::fs::rename(&next, &shown).expect("writable");
    }

    fn device(&self) -> Updating {
        let repository = format!("file://{}", self.dir.path().join("shown").display());
        let state = self.dir.path().join("state");
        Updating::new(&state, &repository, &self.out().join("root.json"), |_| ())
    }

    /// Lets a device see all stages, and asks for the release at each; what becomes of it is what was expected.
    fn mount(&self) {
        let stages = self.expect["stages"].as_array().expect("a list").clone();
        let listed =
            |stage: &Value| -> Vec<u64> { serde_json::from_value(stage["releases"].clone()).expect("numbers") };
        // Where the attack lists one more than was announced, it is that one.
        let announced = self.expect["release"].as_u64().expect("a number");
        let release = stages.iter().flat_map(listed).max().unwrap_or(0).max(announced);
        self.show(stages[0]["dir"].as_str().expect("a name"));
        let device = self.device();
        for stage in &stages {
            let name = stage["dir"].as_str().expect("a name");
            self.show(name);
            let listed = listed(stage);
            let what = format!("{}, {name}", self.name);
            let before = device.status().current;
            let expected: Vec<Option<&str>> = match &stage["fault"] {
                Value::Array(words) => words.iter().map(Value::as_str).collect(),
                word => vec![word.as_str()],
            };
            let is_last = std::ptr::eq(stage, stages.last().expect("there are some"));
            if name == "good" || (expected == [None] && (!is_last || !listed.contains(&release))) {
                look(&device);
                if let Some(older) = listed.iter().copied().filter(|r| *r < release && name == "good").max() {
                    assert_eq!(device.offer(older).state, UpdateState::Committed, "{what}");
                }
            } else if expected == [None] {
                let report = device.offer(release);
                assert_eq!(report.state, UpdateState::Committed, "{what}: {report:#?}");
                assert_eq!(device.status().trouble, None, "{what}: it is over");
            } else if expected.contains(&None) {
                // Somebody keeps a file back: nothing is wrong with the release, and nothing is put in.
                device.updates.offer(release, None, None).expect("taken up");
                device.waits(release);
                device.updates.cancel(None).expect("it is on its way");
                assert_eq!(device.end_of(release).state, UpdateState::Cancelled, "{what}");
                assert_eq!(device.status().current, before, "{what}: what was proven serves");
            } else {
                let report = device.offer(release);
                assert_eq!(report.state, UpdateState::Refused, "{what}: {report:#?}");
                let found = report.reason.as_ref().expect("a reason").fault.as_str();
                assert!(expected.contains(&Some(found)), "expected {expected:?}: {what}: {report:#?}");
                assert_eq!(device.status().current, before, "{what}: what was proven serves");
            }
        }
    }
}

/// Waits until the device has looked at the signed metadata as they are now.
fn look(device: &Updating) {
    let before = device.status().checked;
    wait_for("a look at the metadata", || (device.status().checked != before).then_some(()));
}

fn mount(names: &[&'static str]) {
    for name in names {
        if let Some(attack) = attack(name) {
            attack.mount();
        }
    }
}

#[test]
fn what_others_have_signed_is_refused() {
    mount(&SIGNATURES);
}

#[test]
fn what_goes_back_is_refused() {
    mount(&ROLLBACKS);
}

#[test]
fn what_has_expired_is_a_freeze() {
    mount(&FREEZES);
    let Some(attack) = attack("freeze-timestamp") else { return };
    attack.show("good");
    let device = attack.device();
    look(&device);
    assert_eq!(*device.told.frozen.lock().expect("no panic"), None);
    attack.show("attack");
    assert_eq!(device.trouble().fault, UpdateFault::IndefiniteFreeze);
    let words = wait_for("the alarm", || device.told.frozen.lock().expect("no panic").clone());
    assert!(words.contains("indefinite_freeze"), "{words}");
}

#[test]
fn what_was_not_signed_together_is_refused_and_after_stolen_keys_the_owner_is_followed_again() {
    mount(&MIXES);
}

#[test]
fn what_never_ends_is_broken_off() {
    mount(&ENDLESS);
}

#[test]
fn what_is_damaged_or_kept_back_is_not_put_in() {
    mount(&FILES);
}

#[test]
fn what_is_no_release_for_this_device_is_refused() {
    mount(&RELEASES);
}

/// Every attack that the writer knows is in one of these lists.
#[test]
fn no_attack_is_left_out() {
    let Some(known) = attack_names() else { return };
    let ours: BTreeSet<&str> =
        [&SIGNATURES[..], &ROLLBACKS, &FREEZES, &MIXES, &ENDLESS, &FILES, &RELEASES].concat().into_iter().collect();
    assert_eq!(ours, known.iter().map(String::as_str).collect());
}

const SIGNATURES: [&str; 7] =
    ["none", "wrong-key", "wrong-key-timestamp", "root-wrong-key", "below-threshold", "revoked-key", "rotated-root"];
const ROLLBACKS: [&str; 5] =
    ["rollback", "rollback-snapshot", "rollback-targets", "downgrade", "downgrade-without-reason"];
const FREEZES: [&str; 4] = ["freeze-root", "freeze-targets", "freeze-snapshot", "freeze-timestamp"];
const MIXES: [&str; 3] = ["mix-and-match", "mix-and-match-hash", "fast-forward"];
const ENDLESS: [&str; 6] =
    ["endless-root", "endless-targets", "endless-snapshot", "endless-timestamp", "endless-manifest", "endless-file"];
const FILES: [&str; 5] = ["damaged-manifest", "missing-manifest", "damaged-file", "truncated-file", "missing-file"];
const RELEASES: [&str; 6] =
    ["extraneous-target", "extraneous-duplicate", "lying-facts", "traversal", "wrong-hardware", "agent-too-old"];
