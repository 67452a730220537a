//! A repository that `vedette-fleet` wrote, as clients find it: `tough` and python-tuf, at every instant of its making.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use vedette::fleet::release::place::Place;
use vedette::fleet::release::verify::{Depth, verify};
use vedette::fleet::release::{Release, publish};

use crate::common::fleet::{Fleet, block_on, repository_with, tiny, variant};

/// What a fresh `tough` client finds at `dir`.
pub fn seen(dir: &Path, root: &Path) -> Result<Vec<Release>, String> {
    let root = std::fs::read(root).expect("a root");
    let found = block_on(verify(Arc::new(Place::Dir(dir.to_owned())), &root, Depth::Digests));
    found.map_err(|e| vedette::base::error::Chain(&e).to_string())
}

/// What python-tuf's client finds there; none: it is not installed.
#[allow(clippy::print_stderr, reason = "a test that tests nothing must be seen")]
pub fn python(dir: &Path, root: &Path, state: &Path) -> Option<Result<serde_json::Value, String>> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = top.join(".cache/python");
    if !packages.join("tuf").is_dir() {
        eprintln!("SKIPPED: python-tuf is not in .cache/python; deploy/dev/python.sh puts it there");
        return None;
    }
    let done = Command::new("python3")
        .env("PYTHONPATH", &packages)
        .arg(top.join("tests/fixtures/tuf/client.py"))
        .args(["--url", &format!("file://{}", dir.display())])
        .args([Path::new("--root"), root, Path::new("--state"), state])
        .output()
        .expect("python3 is there");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let json: serde_json::Value =
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said} {}", String::from_utf8_lossy(&done.stderr)));
    Some(if done.status.success() { Ok(json) } else { Err(json["error"].to_string()) })
}

#[test]
fn both_clients_find_every_release_and_every_file() {
    let mut fleet = repository_with(&[&tiny()]);
    let newer = variant(&tiny(), &fleet.scratch().join("newer"), &[("1.2.3", "1.3.0"), ("= 0.75", "= 0.8")]);
    assert_eq!(fleet.release(&newer), 2);
    let back = fleet.downgrade(&tiny(), "1.3.0 misses fights at night");
    assert_eq!(back, 3);
    let found = seen(&fleet.published(), &fleet.first_root()).expect("it holds");
    let numbers: Vec<_> = found.iter().map(|r| (r.facts.release, r.facts.version.as_str())).collect();
    assert_eq!(numbers, [(2, "1.3.0"), (3, "1.2.3")]);
    let state = fleet.scratch().join("python");
    if let Some(found) = python(&fleet.published(), &fleet.first_root(), &state) {
        let found = found.expect("it holds");
        assert_eq!(found["releases"].as_array().map(Vec::len), Some(2), "{found}");
        assert_eq!(found["releases"][0]["facts"]["downgrade"], "1.3.0 misses fights at night", "{found}");
    }
}

#[test]
fn a_publication_that_is_cut_off_leaves_what_was_there_or_what_is_new() {
    let mut fleet = repository_with(&[&tiny()]);
    let newer = variant(&tiny(), &fleet.scratch().join("newer"), &[("1.2.3", "1.3.0")]);
    fleet.add(&newer, None);
    assert!(fleet.sign().is_complete());
    let place = Place::Dir(fleet.published());
    let steps = block_on(publish::plan(&fleet.repository, &place)).expect("a plan");
    assert!(steps.len() > 3, "{steps:?}");
    for (n, step) in steps.iter().enumerate() {
        let found = seen(&fleet.published(), &fleet.first_root()).unwrap_or_else(|e| panic!("before {step:?}: {e}"));
        assert_eq!(found.len(), 1, "{n} of {steps:?}");
        block_on(publish::carry_out(&fleet.repository, &place, step)).expect("a step");
    }
    assert_eq!(seen(&fleet.published(), &fleet.first_root()).expect("it holds").len(), 2);
    assert_eq!(fleet.publish(), Vec::<String>::new(), "all is there");
}

#[test]
fn an_empty_repository_is_a_repository() {
    let fleet: Fleet = repository_with(&[]);
    assert_eq!(seen(&fleet.published(), &fleet.first_root()).expect("it holds"), []);
}

/// What the device's tests are given: honest stages are followed, attacked ones are refused by whoever looks at metadata.
#[test]
fn repositories_that_python_tuf_wrote_are_what_they_say() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let newer = variant(&tiny(), &dir.path().join("newer"), &[("1.2.3", "1.3.0")]);
    for attack in
        ["rotated-root", "revoked-key", "below-threshold", "freeze-targets", "mix-and-match-hash", "fast-forward"]
    {
        let out = dir.path().join(attack);
        if !top.join(".cache/python/tuf").is_dir() {
            assert!(python(&out, &out, &out).is_none());
            return;
        }
        let written = Command::new("python3")
            .env("PYTHONPATH", top.join(".cache/python"))
            .arg(top.join("tests/fixtures/tuf/write_repository.py"))
            .args([Path::new("--out"), &out, Path::new("--model"), &tiny(), Path::new("--model"), &newer])
            .args(["--attack", attack])
            .output()
            .expect("python3 is there");
        assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
        let expect = std::fs::read_to_string(out.join("expect.json")).expect("it is written");
        let expect: serde_json::Value = serde_json::from_str(&expect).expect("JSON");
        for stage in expect["stages"].as_array().expect("stages") {
            let at = out.join(stage["dir"].as_str().expect("a name"));
            let followed = python(&at, &out.join("root.json"), &out.join("state")).expect("it is installed");
            assert_eq!(followed.is_ok(), stage["fault"].is_null(), "{attack}: {stage}: {followed:?}");
            // A fresh client knows no before, so a rollback is none to it.
            if stage["fault"] != "rollback" {
                let found = seen(&at, &out.join("root.json"));
                let numbers = found.as_ref().map(|all| all.iter().map(|r| r.facts.release).collect::<Vec<_>>());
                assert_eq!(numbers.is_ok(), stage["fault"].is_null(), "{attack}: {stage}: {found:?}");
                if let Ok(numbers) = numbers {
                    assert_eq!(serde_json::json!(numbers), stage["releases"], "{attack}: {stage}");
                }
            }
        }
    }
}

/// The last signature makes what is staged hold, by some writes: a cut between any two of them is finished by who comes next,
/// and until then the copy is a whole repository.
#[test]
fn a_manager_that_is_cut_off_while_it_makes_a_release_hold_is_finished_for() {
    fn copy(from: &Path, to: &Path) {
        let done = Command::new("cp").arg("-r").args([from, to]).status().expect("cp is there");
        assert!(done.success());
    }
    let mut fleet = repository_with(&[&tiny()]);
    let before = fleet.scratch().join("before");
    copy(fleet.repository.dir(), &before);
    let newer = variant(&tiny(), &fleet.scratch().join("newer"), &[("1.2.3", "1.3.0")]);
    fleet.add(&newer, None);
    assert!(fleet.sign().is_complete());
    let after = fleet.repository.dir().to_owned();
    let writes = ["2.targets.json", "2.snapshot.json", "timestamp.json"];
    for done in 0..=writes.len() {
        let at = fleet.scratch().join(format!("cut-{done}"));
        copy(&before, &at);
        // What add had copied, and what the signers had left.
        for folder in ["files", "targets"] {
            copy(&after.join(folder).join("."), &at.join(folder));
        }
        for (signed, staged) in writes.iter().zip(["targets.json", "snapshot.json", "timestamp.json"]) {
            copy(&after.join("metadata").join(signed), &at.join("staged").join(staged));
        }
        for write in &writes[..done] {
            copy(&after.join("metadata").join(write), &at.join("metadata").join(write));
        }
        let whole = seen(&at, &fleet.first_root()).unwrap_or_else(|e| panic!("after {done} writes: {e}"));
        assert_eq!(whole.len(), if done == writes.len() { 2 } else { 1 }, "after {done} writes");
        let opened = vedette::fleet::release::Repository::open(&at).expect("it opens");
        assert_eq!(opened.signed_releases().len(), 2, "after {done} writes");
        assert!(opened.missing().is_empty());
        assert_eq!(std::fs::read_dir(at.join("staged")).expect("a directory").count(), 0, "after {done} writes");
        assert_eq!(seen(&at, &fleet.first_root()).expect("it holds").len(), 2);
    }
}
