//! Commands over a real broker, as a SOC's own client sends them.

use serde_json::{Value, json};
use vedette::contract::schema;

use crate::common::agent::{Agent, stderr, stdout};
use crate::common::broker::{Broker, Message, Subscriber};
use crate::common::wait_for;
use crate::links::{free_port, get};

const CAMERA: &str = "[[camera]]\nid = \"pattern\"\nkind = \"test\"\nwidth = 160\nheight = 120\nfps = 10\n";
const PREFIX: &str = "vedette/v1/test/unit";

struct Site {
    broker: Broker,
    agent: Agent,
    statuses: Subscriber,
    alerts: Subscriber,
}

impl Site {
    fn new() -> Site {
        let broker = Broker::plaintext().start();
        let statuses = broker.subscribe(&format!("{PREFIX}/cmd/+/status"));
        let alerts = broker.subscribe(&format!("{PREFIX}/alerts/+"));
        let mqtt = format!(
            "[clip]\npre_roll_s = 1\npost_roll_s = 0\n[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\n\
             [http]\nlisten = \"127.0.0.1:{}\"\n",
            broker.port,
            free_port()
        );
        let agent = Agent::new(CAMERA, &mqtt).start();
        wait_for("the camera", || (agent.status()["cameras"][0]["status"] == "live").then_some(()));
        Site { broker, agent, statuses, alerts }
    }

    fn ask(&self, id: &str, request: Value) {
        self.broker.publish(&format!("{PREFIX}/cmd/{id}"), &request.to_string());
    }

    /// How a command ends.
    fn outcome(&mut self, id: &str) -> Value {
        let over = |state: &Value| !matches!(state.as_str(), Some("QUEUED" | "IN_PROGRESS"));
        self.statuses.wait_for("its status", |m| m.payload["id"] == id && over(&m.payload["state"])).payload
    }

    fn done(&mut self, id: &str, request: Value) -> Value {
        let command = request["command"].as_str().expect("a command").to_owned();
        self.ask(id, request);
        let status = self.outcome(id);
        assert_eq!(status["state"], "SUCCEEDED", "{status}");
        keeps_to_its_schema(&command, &status["result"]);
        status["result"].clone()
    }
}

fn keeps_to_its_schema(command: &str, result: &Value) {
    let (_, schema) =
        schema::all().into_iter().find(|(name, _)| *name == "command_results.schema.json").expect("there");
    let mut schema = schema.as_value().clone();
    assert!(schema["properties"][command].is_object(), "{command} has no schema of its result");
    schema["required"] = json!([command]);
    if let Err(e) = jsonschema::validate(&schema, &json!({command: result})) {
        panic!("{command}: {e}: {result}");
    }
}

#[test]
fn a_soc_asks_and_hears_what_came_of_it() {
    let mut site = Site::new();
    let raised = site.done("test-1", json!({"command": "test_alert", "requested_by": "integrator"}));
    let id = raised["incident"].as_str().expect("an id").to_owned();
    let opened = site.alerts.wait_for("its alert", |m| m.payload["subject"] == id.as_str()).payload;
    assert_eq!(opened["type"], "org.vedette.alert.opened.v1");
    let epoch = opened["epoch"].as_str().expect("an epoch").to_owned();

    // A verdict is stored beside the incident, and one on an unknown incident is refused.
    let verdict = |incident: &str| json!({"command": "verdict", "incident": incident, "verdict": "false_alarm", "words": "a drill"});
    site.done("verdict-1", verdict(&id));
    let shown = site.agent.command(&["incidents", "show", &id]);
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!(shown["verdict"]["verdict"], "false_alarm", "{shown}");
    assert_eq!(shown["verdict"]["words"], "a drill");
    let counted = site.agent.command(&["incidents", "verdicts"]);
    assert!(stdout(&counted).contains("no operator has said anything"), "it was a test: {}", stdout(&counted));
    assert!(stderr(&counted).contains("test incidents are not counted"), "{}", stderr(&counted));
    site.ask("verdict-2", verdict("00000000-0000-0000-0000-000000000000"));
    assert_eq!(site.outcome("verdict-2")["state"], "REJECTED");

    // Footage of a time that is past, as an incident of its own.
    let at = |seconds: i64| (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds)).to_string();
    wait_for("some footage", || (site.agent.status()["health"]["uptime_s"].as_u64() >= Some(3)).then_some(()));
    let (from, to) = (at(-2), at(0));
    let asked = site.done("clip-1", json!({"command": "clip_range", "camera": "pattern", "from": from, "to": to}));
    let ready = site.alerts.wait_for("its clip", |m| {
        m.payload["subject"] == asked["incident"] && m.payload["type"] == "org.vedette.alert.clip_ready.v1"
    });
    assert_eq!(ready.payload["data"]["incident"]["class"], "Requested");
    assert!(ready.payload["data"]["clip"]["duration_ms"].as_u64() >= Some(1_500), "{}", ready.payload);
    assert_eq!(ready.payload["data"]["incident"]["close_reason"], "requested");
    let to_route_by = ["class", "test", "severity"].map(|key| ready.user_properties[key].as_str());
    assert_eq!(to_route_by, ["Requested", "false", "unknown"]);
    // A link that has expired is had anew with the same command as a clip that is to be uploaded.
    let clip = site.done("clip-3", json!({"command": "clip", "incident": asked["incident"]}));
    assert_eq!(clip.get("upload"), None, "this device sends none");
    let (code, video) = get(clip["links"]["clip"]["url"].as_str().expect("a link"), &[]);
    assert_eq!((code, video.get(4..8)), (200, Some(&b"ftyp"[..])));
    site.ask("clip-2", json!({"command": "clip_range", "camera": "pattern", "from": from, "to": at(60)}));
    let refused = site.outcome("clip-2");
    assert!(refused["reason"].as_str().is_some_and(|r| r.contains("future")), "{refused}");

    // What the broker had comes again, as history.
    let rows = site.done("replay-1", json!({"command": "replay", "from": 1}))["rows"].as_u64();
    assert!(rows >= Some(1), "{rows:?}");
    let again =
        site.alerts.wait_for("its alert, again", |m| m.payload["id"] == opened["id"] && m.payload["replayed"] == true);
    assert_eq!(again.payload["sequence"], opened["sequence"]);

    // Confirmed in another epoch: nothing goes. In this one: all of it.
    let newest = again.payload["sequence"].as_str().and_then(|s| s.parse::<u64>().ok()).expect("a number");
    let ack = |epoch: &str| json!({"seq": newest, "epoch": epoch}).to_string();
    site.broker.publish(&format!("{PREFIX}/ack/soc"), &ack("00000000-0000-0000-0000-000000000009"));
    wait_for("the journal to say so", || site.agent.log().contains("an earlier life of this device").then_some(()));
    assert_eq!(site.agent.status()["outbox"]["oldest_kept"], 1);
    site.broker.publish(&format!("{PREFIX}/ack/soc"), &ack(&epoch));
    wait_for("its rows to go", || (site.agent.status()["outbox"]["oldest_kept"] != 1).then_some(()));
    assert!(site.agent.terminate().success());
}

#[test]
fn pictures_arming_thresholds_and_a_restart_by_command() {
    let mut site = Site::new();
    let mut tries = 0;
    let picture = wait_for("a picture", || {
        tries += 1;
        let id = format!("snapshot-{tries}");
        site.ask(&id, json!({"command": "snapshot", "camera": "pattern"}));
        let status = site.outcome(&id);
        (status["state"] == "SUCCEEDED").then(|| status["result"].clone())
    });
    assert_eq!((&picture["width"], &picture["height"]), (&json!(160), &json!(120)));
    assert!(picture["jpeg_base64"].as_str().is_some_and(|j| j.starts_with("/9j/")), "a JPEG begins with FF D8 FF");

    site.done("off", json!({"command": "disarm"}));
    let arming = |site: &Site| site.agent.status()["cameras"][0]["arming"].clone();
    wait_for("the camera to be disarmed", || (arming(&site)["armed"] == false).then_some(()));
    assert_eq!(arming(&site)["reason"], "a command said so");

    let thresholds =
        |class: &str| json!({"command": "set_thresholds", "camera": "pattern", "thresholds": {class: 0.95}});
    site.done("louder", thresholds("Fighting"));
    site.ask("nonsense", thresholds("Dancing"));
    let refused = site.outcome("nonsense");
    assert_eq!(refused["state"], "REJECTED");
    assert!(refused["reason"].as_str().is_some_and(|r| r.contains("Dancing") && r.contains("Fighting")), "{refused}");

    // What was set holds over a restart; the command is done when the device is there again.
    site.ask("again", json!({"command": "restart"}));
    assert!(site.agent.wait().success());
    site.agent.restart();
    assert_eq!(site.outcome("again")["state"], "SUCCEEDED");
    wait_for("the camera to be disarmed", || (arming(&site)["armed"] == false).then_some(()));
    let diagnosis = site.done("why", json!({"command": "diagnostics"}));
    assert_eq!(diagnosis["overrides"]["thresholds"]["pattern"]["Fighting"].to_string(), "0.95", "{diagnosis}");
    let https = &diagnosis["status"]["https"];
    assert!(https["self_signed"] == true && https["fingerprint_sha256"].is_string(), "{diagnosis}");
    site.done("on", json!({"command": "follow_schedule"}));
    wait_for("the camera to be armed", || (arming(&site)["armed"] != false).then_some(()));
    assert!(site.agent.terminate().success());
}

#[test]
fn nonsense_and_retained_commands_do_nothing_and_say_so() {
    let mut site = Site::new();
    site.broker.publish(&format!("{PREFIX}/cmd/torn"), "{");
    assert_eq!(site.outcome("torn")["state"], "REJECTED");
    site.ask("late", json!({"command": "restart", "expires_at": "2001-01-01T00:00:00Z"}));
    assert_eq!(site.outcome("late")["state"], "REJECTED");
    site.broker.publish(&format!("{PREFIX}/cmd/bad id"), "{}");
    wait_for("a word on the id", || site.agent.log().contains("its id \"bad id\" is not").then_some(()));
    // An id stands for the command that it came with.
    site.ask("torn", json!({"command": "follow_schedule"}));
    let reused = site.outcome("torn");
    assert_eq!(reused["state"], "REJECTED");
    assert!(reused["reason"].as_str().is_some_and(|r| r.contains("used for another command")), "{reused}");
    // It comes once as news; what the broker keeps of it comes with every connection from then on.
    site.broker.publish_retained(&format!("{PREFIX}/cmd/kept"), r#"{"command": "follow_schedule"}"#);
    assert_eq!(site.outcome("kept")["state"], "SUCCEEDED");
    assert!(site.agent.terminate().success());
    site.agent.restart();
    wait_for("the retained command to come", || site.agent.log().contains("command kept is retained").then_some(()));
    site.done("alive", json!({"command": "follow_schedule"}));
    let kept = |m: &&Message| m.payload["id"] == "kept" && m.payload["state"] == "SUCCEEDED";
    let heard = site.statuses.everything();
    assert!(heard.iter().all(|m| m.payload["id"] != "bad id") && heard.iter().filter(kept).count() == 1);
    assert!(site.agent.terminate().success());
}
