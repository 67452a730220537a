//! Notices of trouble, as a SOC hears them from a real broker: each raised once and cleared once, whatever else happens.

use crate::common::agent::Agent;
use crate::common::broker::{Broker, Message};
use crate::common::rtsp::RtspServer;
use crate::common::{video, wait_for};

#[test]
fn a_lost_camera_is_said_once_and_once_that_it_is_back_over_a_kill() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (broker, path) = (Broker::plaintext().start(), video::h264(dir.path(), "a.mp4", "320x180", 10, 150));
    let mut notices = broker.subscribe("vedette/v1/test/unit/alerts/yard");
    let camera = RtspServer::start(&[], &[("a", &path)]);
    let yard = format!(
        "[[camera]]\nid = \"yard\"\nkind = \"rtsp\"\nurl = \"{}\"\nclassify = false\nfrozen_after_s = 2\n",
        camera.url("a")
    );
    let mut agent = Agent::new(&yard, &format!("[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\n", broker.port)).start();
    wait_for("the camera", || (agent.status()["cameras"][0]["status"] == "live").then_some(()));
    camera.stall();
    let is = |kind: &str| {
        let kind = format!("org.vedette.notice.{kind}.v1");
        move |m: &Message| m.payload["type"] == kind.as_str()
    };
    let raised = notices.wait_for("a notice that it is lost", is("raised"));
    assert_eq!(raised.user_properties["trouble"], "camera_lost");
    assert_eq!(raised.payload["data"]["notice"]["camera"], "yard");

    agent.signal("KILL");
    agent.wait();
    agent.restart();
    wait_for("the camera to be missed", || (agent.status()["cameras"][0]["status"] == "lost").then_some(()));
    camera.go_on();
    let cleared = notices.wait_for("a notice that it is back", is("cleared"));
    let [raised, cleared] = [raised, cleared].map(|m| m.payload);
    assert_eq!(raised["data"]["notice"]["since"], cleared["data"]["notice"]["since"], "of the same trouble");
    let number = |event: &serde_json::Value| event["sequence"].as_str().and_then(|s| s.parse::<u64>().ok());
    assert!(number(&raised) < number(&cleared) && raised["epoch"] == cleared["epoch"]);
    let ids: std::collections::BTreeSet<_> = notices.everything().iter().map(|m| m.payload["id"].to_string()).collect();
    assert_eq!(ids.len(), 2, "one of each: {ids:?}");
}
