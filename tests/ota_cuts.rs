//! What happens to an update when the power goes, the disk fills or what proves a model dies: a real daemon, ended at every
//! place at which a step is put on the disk. After each a proven model serves, and what is told is true.

use std::os::unix::process::ExitStatusExt;

use serde_json::Value;

use crate::common::agent::{Agent, stderr};
use crate::common::fleet::{Fleet, repository_with, tiny, variant};
use crate::common::wait_for;
use crate::ota::{device, end_of, offer, serves, states};

const FACTORY: &str = "activity-v1 1.0.0";
const NEW: &str = "tiny 1.2.3";

/// Ends the daemon at a place, starts it anew, and waits for what becomes of release 1.
fn cut(place: &str) -> (Fleet, Agent, Value) {
    let fleet = repository_with(&[&tiny()]);
    let mut agent = device(&fleet, "");
    agent.environment(&[("VEDETTE_FAIL_POINT", place)]);
    agent.restart();
    offer(&agent, 1);
    let ended = wait_for(&format!("the end at {place}"), || agent.ended());
    assert_eq!(ended.signal(), Some(6), "{place}: {}", agent.log());
    agent.environment(&[]);
    agent.restart();
    // It classifies from the start, whatever becomes of the release.
    assert!([FACTORY, NEW].contains(&serves(&agent).as_str()), "{place}");
    let report = end_of(&agent, 1);
    let (model, status) = (agent.model(), agent.status());
    assert_eq!(model["current"]["model"], status["agent"]["model"], "{place}: what is told is true");
    assert_eq!(model["floor"] == 1, report["state"] == "committed", "{place}");
    // What the cut kept back is in the history too.
    let last = report["state"].as_str().map(str::to_owned);
    wait_for("the history", || (states(&agent, 1).last().cloned() == last).then_some(()));
    (fleet, agent, report)
}

fn goes_on(places: &[&str]) {
    for place in places {
        let (_fleet, agent, report) = cut(place);
        assert_eq!(report["state"], "committed", "{place}: {report:#}");
        assert_eq!(serves(&agent), NEW, "{place}");
    }
}

#[test]
fn cut_while_it_is_fetched_it_goes_on() {
    goes_on(&["downloading.before", "downloading.after", "slot.before", "slot.after", "verified.before"]);
}

#[test]
fn cut_while_it_is_proven_it_goes_on() {
    goes_on(&["verified.after", "building.before", "building.after", "proving.before", "proving.after"]);
}

#[test]
fn cut_around_its_trial_it_goes_on_or_what_was_proven_serves() {
    goes_on(&["shadow.before", "shadow.after", "trial.before", "committed.after"]);
    for place in ["trial.after", "committed.before"] {
        let (_fleet, agent, report) = cut(place);
        assert_eq!(
            (&report["state"], &report["reason"]["fault"]),
            (&"rolled_back".into(), &"restarted".into()),
            "{place}"
        );
        assert_eq!(serves(&agent), FACTORY, "{place}");
        // A daemon that died under a model is its fault until somebody says otherwise.
        let again = agent.command(&["model", "update", "1"]);
        assert!(stderr(&again).contains("was refused here"), "{place}: {}", stderr(&again));
    }
}

#[test]
fn cut_while_it_is_given_up_what_was_proven_serves() {
    for place in ["failed.before", "failed.after"] {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let foreign = variant(
            &tiny(),
            &scratch.path().join("foreign"),
            &[("minimum_agent", "hardware = [\"pdp-11\"]\nminimum_agent")],
        );
        let fleet = repository_with(&[&foreign]);
        let mut agent = device(&fleet, "");
        agent.environment(&[("VEDETTE_FAIL_POINT", place)]);
        agent.restart();
        offer(&agent, 1);
        wait_for("the end", || agent.ended());
        agent.environment(&[]);
        agent.restart();
        let report = end_of(&agent, 1);
        assert_eq!((&report["state"], &report["reason"]["fault"]), (&"refused".into(), &"wrong_hardware".into()));
        assert_eq!(serves(&agent), FACTORY, "{place}");
    }
}

#[test]
fn a_model_that_takes_its_proof_with_it_or_hangs_harms_nobody() {
    for (place, words) in [("prove", "died"), ("prove:hang", "hung")] {
        let fleet = repository_with(&[&tiny()]);
        let mut agent = device(&fleet, "proof_within_s = 10");
        agent.environment(&[("VEDETTE_FAIL_POINT", place)]);
        agent.restart();
        offer(&agent, 1);
        let report = end_of(&agent, 1);
        assert_eq!((&report["state"], &report["reason"]["fault"]), (&"refused".into(), &"build_crashed".into()));
        assert!(report["reason"]["words"].as_str().is_some_and(|w| w.contains(words)), "{report:#}");
        assert_eq!(serves(&agent), FACTORY);
        assert!(agent.ended().is_none(), "the daemon goes on");
    }
}

#[test]
fn a_model_that_is_damaged_on_the_disk_is_not_served_and_the_one_before_is() {
    let fleet = repository_with(&[&tiny()]);
    let mut agent = device(&fleet, "").start();
    offer(&agent, 1);
    assert_eq!(end_of(&agent, 1)["state"], "committed");
    agent.terminate();
    let digest = agent_digest(&agent);
    let network = agent.state().join("models/slots").join(digest).join("encoder.fp32.onnx");
    let mut bytes = std::fs::read(&network).expect("a network");
    bytes[50] ^= 4;
    std::fs::remove_file(&network).expect("ours");
    std::fs::write(&network, bytes).expect("writable");
    agent.restart();
    assert_eq!(serves(&agent), FACTORY);
    assert_eq!(agent.model()["floor"], 1, "the floor stays");
    wait_for("the notice", || agent.log().contains("damaged or was changed").then_some(()));
    // A ledger that cannot be read is set aside; the floor comes from the history.
    agent.terminate();
    std::fs::write(agent.state().join("models/ledger.json"), "{").expect("writable");
    agent.restart();
    assert_eq!((serves(&agent).as_str(), &agent.model()["floor"]), (FACTORY, &1.into()));
    // Nor does one that is gone lower it, at this start or the next.
    for _ in 0..2 {
        agent.terminate();
        std::fs::remove_file(agent.state().join("models/ledger.json")).expect("it was written anew");
        agent.restart();
        assert_eq!(agent.model()["floor"], 1);
    }
}

fn agent_digest(agent: &Agent) -> String {
    let ledger = std::fs::read(agent.state().join("models/ledger.json")).expect("a ledger");
    let ledger: Value = serde_json::from_slice(&ledger).expect("JSON");
    ledger["current"]["digest"].as_str().expect("a digest").to_owned()
}

#[test]
fn a_disk_that_is_full_is_waited_for_and_what_serves_goes_on() {
    let fleet = repository_with(&[&tiny()]);
    let mut agent = device(&fleet, "");
    if !agent.on_a_disk_of(200, "true") {
        return;
    }
    agent.restart();
    // Less than must stay free beside a model.
    std::fs::write(agent.disk().join("ballast"), vec![1; 110 << 20]).expect("it fits");
    offer(&agent, 1);
    let waits = wait_for("that it waits", || agent.model()["update"]["waiting"].as_str().map(str::to_owned));
    assert!(waits.contains("the disk has"), "{waits}");
    assert_eq!(serves(&agent), FACTORY);
    std::fs::remove_file(agent.disk().join("ballast")).expect("ours");
    assert_eq!(end_of(&agent, 1)["state"], "committed");
    assert_eq!(serves(&agent), NEW);
}
