//! A disk that is full while incidents come, full at the start, or read-only; files that run out.

use serde_json::Value;

use crate::common::agent::{Agent, stderr, stdout};
use crate::common::broker::{Broker, Message};
use crate::common::wait_for;

const CAMERA: &str =
    "[[camera]]\nid = \"pattern\"\nkind = \"test\"\nwidth = 160\nheight = 120\nfps = 10\nclassify = false\n";
const SECTIONS: &str = "[clip]\npre_roll_s = 1\npost_roll_s = 0\n[storage]\nmin_free_mb = 0\n";

fn wait_until_live(agent: &Agent) {
    wait_for("the camera", || (agent.status()["cameras"][0]["status"] == "live").then_some(()));
}

#[test]
fn a_disk_that_fills_up_holds_up_no_alert() {
    let broker = Broker::plaintext().start();
    let mut alerts = broker.subscribe("vedette/v1/test/unit/alerts/#");
    let mqtt = format!("[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\nheartbeat_s = 1\n", broker.port);
    let mut agent = Agent::new(CAMERA, &format!("{SECTIONS}{mqtt}"));
    if !agent.on_a_disk_of(32, "") {
        return;
    }
    agent.restart();
    wait_until_live(&agent);
    let opened = |m: &Value, id: &str| m["subject"] == id && m["type"] == "org.vedette.alert.opened.v1";

    // Full, but for what the database keeps for this day: alerts are stored as ever.
    agent.fill_disk("filler");
    let id = wait_for("the reserve to be needed", || {
        let id = agent.raise_test();
        alerts.wait_for("its alert", |m| opened(&m.payload, &id) && m.payload["durable"] == true);
        agent.log().contains("alerts go on from a reserve").then_some(id)
    });
    assert!(agent.incidents().iter().any(|i| i["id"] == id.as_str()));

    // Now that is full too: alerts go out from memory.
    agent.fill_disk("filler-2");
    let message = wait_for("an alert that is not stored", || {
        let id = agent.raise_test();
        let message = alerts.wait_for("its alert", |m| opened(&m.payload, &id));
        (message.payload["durable"] == false).then_some(message)
    });
    assert_eq!(message.payload.get("sequence"), None);
    wait_for("the journal to say so", || agent.log().contains("commits fail").then_some(()));
    // And so does the news of it, while it is so.
    let notice = |m: &Message, kind: &str| {
        m.payload["type"] == kind && m.payload["data"]["notice"]["trouble"] == "storage_failing"
    };
    let mut notices = alerts.everything().to_vec();
    let raised = match notices.drain(..).find(|m| notice(m, "org.vedette.notice.raised.v1")) {
        Some(raised) => raised,
        None => alerts.wait_for("the notice", |m| notice(m, "org.vedette.notice.raised.v1")),
    };
    assert_eq!(raised.payload["durable"], false);

    // There is room again: what waited is written, and comes again as the same message.
    std::fs::remove_file(agent.disk().join("filler")).expect("there");
    std::fs::remove_file(agent.disk().join("filler-2")).expect("there");
    let again =
        alerts.wait_for("its row", |m| m.payload["id"] == message.payload["id"] && m.payload["durable"] == true);
    assert!(again.payload["sequence"].is_string(), "{}", again.payload);
    wait_for("the journal to say so", || agent.log().contains("commits succeed again").then_some(()));
    let cleared = alerts.wait_for("that it is over", |m| notice(m, "org.vedette.notice.cleared.v1"));
    assert_eq!(cleared.payload["subject"], raised.payload["subject"], "of the same trouble");
    let stored = |m: &&Message| notice(m, "org.vedette.notice.raised.v1") && m.payload["durable"] == true;
    let stored = alerts.everything().iter().find(stored).expect("it was stored, too");
    assert_eq!(stored.payload["id"], raised.payload["id"]);
    let drops = agent.status()["health"]["drops"].clone();
    assert_eq!((&drops["records_lost_by_store"], &drops["records_refused_by_store"]), (&0.into(), &0.into()));
    let known = agent.incidents();
    let subject = message.payload["subject"].as_str().expect("an id");
    assert!(known.iter().any(|i| i["id"] == subject), "{subject} is stored");
    // The clip that the full disk took is made of what there is, or said to be lost.
    wait_for("every clip to be over", || {
        let over = |i: &Value| matches!(i["clip"]["state"].as_str(), Some("done" | "lost"));
        agent.incidents().iter().all(over).then_some(())
    });
    assert!(agent.terminate().success());
}

#[test]
fn it_starts_on_a_disk_that_is_full() {
    let mut agent = Agent::new(CAMERA, SECTIONS);
    agent.restart();
    wait_until_live(&agent);
    let id = agent.raise_test();
    agent.wait_for_clip(&id);
    // Its log goes with the end: the next start has to make another, where there is no room.
    assert!(agent.terminate().success());
    let kept = agent.state().with_file_name("kept");
    std::fs::rename(agent.state(), &kept).expect("renamed");
    std::fs::create_dir(agent.state()).expect("made");
    let fill = format!("cp -a {}/. .; dd if=/dev/zero of=filler bs=1k 2>/dev/null || true", kept.display());
    if !agent.on_a_disk_of(24, &fill) {
        return;
    }
    agent.restart();
    wait_until_live(&agent);
    let new = agent.raise_test();
    wait_for("the reserve to be needed", || agent.log().contains("alerts go on from a reserve").then_some(()));
    wait_for("both incidents", || {
        let known = agent.incidents();
        [&id, &new].iter().all(|id| known.iter().any(|i| i["id"] == id.as_str())).then_some(())
    });
    assert!(agent.terminate().success());
}

#[test]
fn a_read_only_disk_is_named_and_refused() {
    let mut agent = Agent::new(CAMERA, SECTIONS);
    let state = agent.state();
    if !agent.on_a_disk_of(8, &format!("cd /; mount -o remount,ro {}", state.display())) {
        return;
    }
    agent.spawn();
    assert_eq!(agent.wait().code(), Some(3));
    let log = agent.log();
    assert!(log.contains("vedette.lock") && log.contains("Read-only file system"), "{log}");
}

#[test]
fn files_that_run_out_end_nothing_and_are_said() {
    let mut agent = Agent::new(CAMERA, SECTIONS);
    agent.restart();
    wait_until_live(&agent);
    let pid = agent.pid().to_string();
    let limit = |n: usize| {
        let set = std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={n}:4096")]).status();
        assert!(set.expect("prlimit (Debian package util-linux)").success());
    };
    // What is open stays open; nothing more can be.
    limit(3);
    let refused = agent.command(&["test-alert"]);
    assert!(!refused.status.success(), "no file is left for the socket: {}", stdout(&refused));
    limit(1024);
    let id = wait_for("the daemon to answer again", || {
        let output = agent.command(&["test-alert", "--json"]);
        let first = output.status.success().then(|| stdout(&output))?;
        serde_json::from_str::<Value>(first.lines().next()?).ok()?["incident"].as_str().map(str::to_owned)
    });
    assert_eq!(agent.wait_for_clip(&id)["clip"]["state"], "done");
    assert!(agent.terminate().success(), "{}", stderr(&refused));
}
