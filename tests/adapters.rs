//! Other people's formats: what an incident of a running daemon becomes in each, as a subscriber at a real Mosquitto gets it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::agent::Agent;
use crate::common::broker::{Broker, Message, Subscriber};
use crate::common::pki::{NOW, Pki};
use crate::common::wait_for;

const DEVICE: &str = "vedette/v1/test/unit";
const CLIP: &str = "[clip]\npre_roll_s = 1\npost_roll_s = 1\n";
const ALL_ON: &str =
    "[adapters.onvif]\nenabled = true\n[adapters.home_assistant]\nenabled = true\n[adapters.frigate]\nenabled = true\n";

#[test]
fn an_incident_is_told_in_every_format_that_is_on() {
    let broker = Broker::plaintext().start();
    let [mut onvif, mut home_assistant, mut frigate] =
        [&format!("{DEVICE}/onvif-ej/#"), &format!("{DEVICE}/home_assistant/+"), "frigate/#"]
            .map(|f| broker.subscribe(f));
    // Nobody subscribes to the alerts themselves, and nobody has to.
    let mqtt = format!("[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\nheartbeat_s = 1\nconsumers = []\n", broker.port);
    let mut agent = Agent::with_pattern(&format!("{CLIP}\n{mqtt}\n{ALL_ON}")).start();

    let signal = onvif.wait_for("the camera's signal", |m| m.topic.contains("SignalLoss"));
    assert_eq!(signal.topic, format!("{DEVICE}/onvif-ej/VideoSource/SignalLoss/&pattern"));
    assert_eq!(signal.payload["Data"]["State"], false);
    let incident = agent.raise_test();

    let activity = format!("{DEVICE}/onvif-ej/RuleEngine/vedette:Activity/Test/&pattern/Activity");
    for state in [true, false] {
        let event = onvif.wait_for("the activity", |m| m.topic == activity && m.payload["Data"]["State"] == state);
        assert_eq!(event.payload["Data"]["IncidentId"], incident.as_str());
        assert_eq!(event.content_type.as_deref(), Some("application/json"));
    }
    let mut id = None;
    for kind in ["new", "end"] {
        let change = frigate.wait_for(kind, |m| m.topic == "frigate/events" && m.payload["type"] == kind);
        let after = &change.payload["after"];
        assert_eq!((&after["camera"], &after["label"]), (&"pattern".into(), &"test".into()));
        assert_eq!(after["end_time"].is_null(), kind == "new");
        assert_eq!(id.get_or_insert_with(|| after["id"].clone()), &after["id"]);
    }
    let ready = home_assistant.wait_for("the clip", |m| m.payload["clip"] == "ready");
    assert_eq!((&ready.payload["incident"], &ready.payload["open"]), (&incident.as_str().into(), &false.into()));

    // What remains for who comes later: properties, and what Home Assistant reads.
    assert_eq!(retained(&broker, &activity).payload["Data"]["State"], false);
    let discovery = retained(&broker, "homeassistant/device/test/unit/config").payload;
    let components = discovery["components"].as_object().expect("components");
    assert_eq!(components.len(), 4);
    let read_from = components.values().map(|c| &c["state_topic"]).chain([&discovery["availability"][0]["topic"]]);
    let mut states: Vec<_> = read_from.map(|t| retained(&broker, t.as_str().expect("a topic"))).collect();
    assert!(states.iter().all(|m| m.payload.is_object()), "{states:?}");
    states.push(retained(&broker, "homeassistant/device/test/unit/config"));
    home_assistant_reads(&states);
    assert!(agent.terminate().success());
    assert_eq!(retained(&broker, &format!("{DEVICE}/state")).payload["online"], false);
}

#[test]
fn a_broker_that_lets_no_adapter_in_gets_every_alert() {
    let pki = Pki::new();
    // The access rules as they are shipped: ONVIF's topics are below the device's own prefix, the others' are not.
    let broker = Broker::production(&pki).start();
    // One subscriber: with these rules a user has one connection.
    let mut monitor = broker.subscribe(&format!("{DEVICE}/#"));
    let mqtt = format!(
        "[mqtt]\nurl = \"mqtts://127.0.0.1:{}\"\nca_file = \"ca.crt\"\ncert_file = \"unit.crt\"\nkey_file = \"unit.key\"\n",
        broker.port
    );
    let agent = Agent::with_pattern(&format!("{CLIP}\n{mqtt}\n{ALL_ON}"));
    let files = pki.device("test/unit", NOW);
    for (name, from) in [("ca.crt", pki.file("ca.crt")), ("unit.crt", files.cert), ("unit.key", files.key)] {
        // With their modes.
        std::fs::copy(from, agent.config().with_file_name(name)).expect("writable");
    }
    let agent = agent.start();
    let refused = |topic: &str| agent.log().matches(&format!("does not let the device write {topic}")).count();
    wait_for("the complaint", || (refused("homeassistant/device/test/unit/config") > 0).then_some(()));
    agent.raise_test();
    let mut missing = BTreeSet::from(["opened", "closed", "clip_ready", "open", "over"]);
    monitor.wait_for("all of it", |m| {
        if m.topic.contains("/onvif-ej/RuleEngine/") {
            missing.remove(if m.payload["Data"]["State"] == true { "open" } else { "over" });
        } else if let Some(kind) = m.user_properties.get("kind") {
            missing.remove(kind.as_str());
        }
        missing.is_empty()
    });
    wait_for("the complaint", || (refused("frigate/events") > 0).then_some(()));
    // What is refused is not tried again.
    assert_eq!(
        [refused("homeassistant/device/test/unit/config"), refused("frigate/events")],
        [1, 1],
        "{}",
        agent.log()
    );
}

/// Has Home Assistant's own code read its discovery message and the states. Loudly not, where nobody says who has it.
#[allow(clippy::print_stderr, reason = "a test that tests nothing must be seen")]
fn home_assistant_reads(messages: &[Message]) {
    let Some(python) = std::env::var_os("VEDETTE_HOME_ASSISTANT") else {
        return eprintln!("SKIPPED: VEDETTE_HOME_ASSISTANT names no Python that has the package homeassistant");
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (i, message) in messages.iter().enumerate() {
        let content = json!({"topic": message.topic, "payload": message.payload}).to_string();
        std::fs::write(dir.path().join(format!("{i}.json")), content).expect("writable");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract/home_assistant.py");
    let run = Command::new(python).arg(script).arg(dir.path()).output().expect("it runs");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
    for line in ["availability online", "connectivity_pattern ON", "incident_pattern OFF", "last_incident_pattern Test"]
    {
        assert!(said.lines().any(|l| l == line), "no {line}: {said}");
    }
}

/// What is retained there now, or soon.
fn retained(broker: &Broker, topic: &str) -> Message {
    let first = |mut subscriber: Subscriber| subscriber.wait_for(topic, |m| m.payload != Value::Null);
    wait_for(topic, || Some(first(broker.subscribe(topic))).filter(|m| m.retained))
}
