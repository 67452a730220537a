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
