//! The daemon as a whole: from a camera to a clip on the disk and an alert at a real broker, and what its end, a
//! kill and a new config do to it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use vedette::base::digest;

use crate::common::agent::{Agent, PATTERN, json_lines, stderr, stdout};
use crate::common::broker::Broker;
use crate::common::rtsp::RtspServer;
use crate::common::{video, wait_for};

const SHORT_CLIPS: &str = "[clip]\npre_roll_s = 2\npost_roll_s = 1\n";

/// What ffprobe says of a clip: its length in seconds and its packets' flags.
fn probe(clip: &Path) -> (f64, Vec<String>) {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-show_entries", "format=duration:packet=flags", "-of", "json"])
        .arg(clip)
        .output()
        .expect("ffprobe (Debian package ffmpeg)");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let length = said["format"]["duration"].as_str().and_then(|d| d.parse().ok()).expect("a length");
    let flags = said["packets"].as_array().expect("packets").iter();
    (length, flags.map(|p| p["flags"].as_str().unwrap_or_default().to_owned()).collect())
}

fn wait_until_live(agent: &Agent) {
    wait_for("the camera", || {
        let status = agent.status();
        let units = status["health"]["cameras"]["pattern"]["access_units"].as_u64().unwrap_or(0);
        // Enough for the pre-roll.
        (status["cameras"][0]["status"] == "live" && units > 45).then_some(())
    });
}

#[test]
fn a_test_alert_takes_the_whole_way() {
    let broker = Broker::plaintext().start();
    let mut alerts = broker.subscribe("vedette/#");
    let mqtt = format!("[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\nheartbeat_s = 1\n", broker.port);
    let mut agent = Agent::with_pattern(&format!("{SHORT_CLIPS}\n{mqtt}")).start();
    wait_until_live(&agent);

    let id = agent.raise_test();
    let mut last_sequence = 0;
    for kind in ["opened", "closed", "clip_ready"] {
        let message = alerts.wait_for(kind, |m| m.payload["type"].as_str().is_some_and(|t| t.contains(kind)));
        let event = &message.payload;
        assert_eq!(message.topic, "vedette/v1/test/unit/alerts/pattern");
        assert_eq!((&event["specversion"], &event["subject"]), (&"1.0".into(), &Value::from(id.as_str())));
        assert_eq!(event["data"]["incident"]["test"], true);
        assert_eq!(event["data"]["incident"]["class"], "Test");
        let sequence: u64 = event["sequence"].as_str().expect("text").parse().expect("a number");
        assert!(sequence > last_sequence, "in order");
        last_sequence = sequence;
    }

    let incident = agent.wait_for_clip(&id);
    let clip = &incident["clip"];
    assert_eq!(clip["state"], "done", "{incident}");
    let path = agent.state().join(clip["path"].as_str().expect("a path"));
    let (sha256, size_bytes) = digest::of_file(&path).expect("the clip is there");
    assert_eq!((&clip["sha256"], &clip["size_bytes"]), (&sha256.into(), &size_bytes.into()));
    let (length_s, flags) = probe(&path);
    assert!(flags[0].starts_with('K'), "begins with a keyframe: {:?}", &flags[..3]);
    // 2 s before, 3 s of a test incident, 1 s after, and up to a group of pictures more in front.
    assert!((5.5..9.0).contains(&length_s), "{length_s} s");
    let offset_ms = clip["event_offset_ms"].as_i64().expect("an offset");
    assert!((2_000..4_500).contains(&offset_ms), "{offset_ms} ms");
    let jpeg = std::fs::read(agent.state().join(clip["peak_jpeg_path"].as_str().expect("a picture"))).expect("there");
    assert_eq!(&jpeg[..2], [0xff, 0xd8]);

    let check = agent.command(&["store", "check", "--json"]);
    assert!(check.status.success(), "{}", stdout(&check));
    broker.publish("vedette/v1/test/unit/ack/soc", &format!("{{\"seq\":{last_sequence}}}"));
    wait_for("the outbox to empty", || (agent.status()["outbox"]["unconfirmed"] == 0).then_some(()));

    assert!(agent.terminate().success());
    let state = alerts.wait_for("goodbye", |m| m.topic.ends_with("/state") && m.payload["online"] == false);
    assert_eq!(state.payload["reason"], "stopped");
}

#[test]
fn what_the_model_sees_becomes_an_incident_without_any_broker() {
    // No hysteresis and a threshold that every window passes: the way is tested here, not the model.
    let camera = format!("{PATTERN}[camera.thresholds]\nFighting = 0.000001\n");
    let incident = "[incident]\nhysteresis = 0\nmax_length_s = 11\nmerge_within_s = 1\nclose_after_s = 1\n";
    let mut agent = Agent::new(&camera, &format!("{SHORT_CLIPS}\n{incident}")).start();
    let opened = wait_for("an incident", || agent.incidents().pop());
    assert_eq!((&opened["class"], &opened["test"]), (&"Fighting".into(), &false.into()));
    let model = &opened["model"];
    assert!(model["digest"].as_str().is_some_and(|d| d.len() == 64), "{model}");
    // It reaches its maximum length, is closed, and the next one opens at once.
    let id = opened["id"].as_str().expect("an id").to_owned();
    let first = agent.wait_for_clip(&id);
    assert_eq!((&first["close_reason"], &first["clip"]["state"]), (&"max_length".into(), &"done".into()));
    assert!(agent.incidents().len() >= 2);
    // A stop closes the one that is open, and its clip is cut short and kept.
    assert!(agent.terminate().success());
    let last = agent.incidents().swap_remove(0);
    assert_eq!((&last["state"], &last["close_reason"]), (&"closed".into(), &"stopped".into()));
    assert_eq!(last["clip"]["state"], "done", "{last}");
    assert!(stdout(&agent.command(&["store", "check"])).contains("all is well"));
}

#[test]
fn a_killed_daemon_leaves_nothing_open() {
    let mut agent = Agent::with_pattern("[clip]\npre_roll_s = 1\npost_roll_s = 60\n").start();
    wait_until_live(&agent);
    let id = agent.raise_test();
    wait_for("the recording", || {
        let incident = agent.incidents().pop()?;
        (incident["clip"]["state"] == "recording").then_some(())
    });
    let part =
        agent.state().join(agent.incidents()[0]["clip"]["path"].as_str().expect("a path")).with_extension("part");
    wait_for("a fragment", || (part.metadata().ok()?.len() > 20_000).then_some(()));
    agent.signal("KILL");
    agent.wait();
    agent.restart();
    assert!(agent.incidents().iter().any(|i| i["id"] == id.as_str()), "it was committed");
    let incident = agent.wait_for_clip(&id);
    assert_eq!((&incident["state"], &incident["close_reason"]), (&"closed".into(), &"interrupted".into()));
    assert_eq!(incident["clip"]["state"], "done", "with the footage that was on the disk: {incident}");
    let (length_s, flags) = probe(&agent.state().join(incident["clip"]["path"].as_str().expect("a path")));
    assert!(flags[0].starts_with('K') && length_s > 0.5, "{length_s} s");
    wait_until_live(&agent);
    agent.raise_test();
    assert!(agent.terminate().success());
}

#[test]
fn several_cameras_each_keep_their_own_footage() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let h265 = video::h265(dir.path(), "v265.mp4", "320x240", 15, 20);
    let h264 = video::h264(dir.path(), "v.mp4", "320x240", 15, 20);
    let server = RtspServer::start(&["--user", "viewer", "--password", "hidden-word"], &[("gate", &h265)]);
    let login = dir.path().join("login");
    std::fs::write(&login, "viewer\nhidden-word\n").expect("writable");
    std::fs::set_permissions(&login, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("our file");
    let cameras = format!(
        "[[camera]]\nid = \"gate\"\nkind = \"rtsp\"\nurl = {:?}\ncredentials_file = {login:?}\nclassify = false\n\
         [[camera]]\nid = \"yard\"\nkind = \"file\"\npath = {h264:?}\nrepeat = true\nclassify = false\n\
         [[camera]]\nid = \"lost\"\nkind = \"rtsp\"\nurl = \"rtsp://127.0.0.1:9/none\"\n",
        server.url("gate")
    );
    let mut agent = Agent::new(&cameras, SHORT_CLIPS).start();
    wait_for("the two that can be had", || {
        let units = |status: &Value, id: &str| status["health"]["cameras"][id]["access_units"].as_u64().unwrap_or(0);
        let status = agent.status();
        (units(&status, "gate") > 45 && units(&status, "yard") > 45).then_some(())
    });
    for (camera, codec) in [("gate", "hevc"), ("yard", "h264")] {
        let output = agent.command(&["test-alert", "--json", "--camera", camera]);
        let id = json_lines(&output)[0]["incident"].as_str().expect("an id").to_owned();
        let incident = agent.wait_for_clip(&id);
        assert_eq!((&incident["camera"], &incident["clip"]["state"]), (&camera.into(), &"done".into()), "{incident}");
        let path = agent.state().join(incident["clip"]["path"].as_str().expect("a path"));
        assert!(path.to_string_lossy().contains(camera));
        let said = Command::new("ffprobe")
            .args(["-v", "error", "-select_streams", "v:0", "-show_entries", "stream=codec_name", "-of", "csv=p=0"])
            .arg(&path)
            .output()
            .expect("ffprobe (Debian package ffmpeg)");
        assert_eq!(stdout(&said).trim(), codec, "stored as it came");
        let shown = agent.command(&["incidents", "show", &id]);
        assert!(stdout(&shown).contains(&id));
    }
    let refused = agent.command(&["test-alert", "--camera", "roof"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stdout(&refused).contains("gate, yard, lost"), "{}", stdout(&refused));
    let status = agent.status();
    assert!(status["summary"].as_str().is_some_and(|s| s.contains("lost: lost")), "{status}");

    let out = dir.path().join("export");
    let export = agent.command(&["incidents", "export", "--out", out.to_str().expect("UTF-8")]);
    assert!(export.status.success(), "{}", stderr(&export));
    assert_eq!(std::fs::read_to_string(out.join("incidents.jsonl")).expect("a list").lines().count(), 2);
    assert!(out.join("clips").is_dir());
    assert!(agent.terminate().success());
    assert!(!agent.log().contains("hidden-word"));
}

#[test]
fn sighup_applies_what_it_can_and_says_what_it_could_not() {
    let mut agent = Agent::with_pattern(SHORT_CLIPS).start();
    let changed =
        PATTERN.replace("kind = \"test\"", "kind = \"test\"\nwidth = 320\n[camera.thresholds]\nFighting = 0.95");
    agent.configure(&changed, "[clip]\npre_roll_s = 3\npost_roll_s = 1\n");
    agent.signal("HUP");
    for line in ["clip.pre_roll_s: applied", "thresholds.Fighting: applied", "width: needs a restart"] {
        wait_for(line, || agent.log().contains(line).then_some(()));
    }
    agent.configure("[[camera]]\nid = \"pattern\"\nkind = \"tset\"\n", "");
    agent.signal("HUP");
    wait_for("the refusal", || agent.log().contains("is not applied, the old config stays").then_some(()));
    agent.configure(PATTERN, "");
    assert_eq!(agent.status()["cameras"][0]["camera"], "pattern");
    assert!(agent.terminate().success());
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let agent = Agent::with_pattern("").start();
    let second = agent.command(&["run"]);
    assert_eq!(second.status.code(), Some(3));
    let said = stderr(&second);
    assert!(said.contains("another") && said.contains("state"), "{said}");
    assert!(said.contains(&format!("locked by vedette (pid {})", agent.pid())), "it says who: {said}");
    assert!(agent.status()["summary"].is_string());
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let agent = Agent::with_pattern("");
    let text = std::fs::read_to_string(agent.config()).expect("there");
    let broken = agent.state().join("model");
    std::fs::create_dir_all(&broken).expect("writable");
    std::fs::write(broken.join("manifest.toml"), "name = 1\n").expect("writable");
    let at = text.find("dir = \"/").expect("the model's line");
    let end = at + text[at..].find('\n').expect("a line");
    std::fs::write(agent.config(), text.replace(&text[at..end], &format!("dir = {broken:?}"))).expect("writable");
    let output = agent.command(&["run"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("manifest.toml"), "{}", stderr(&output));
    let check = agent.command(&["check"]);
    assert_eq!(check.status.code(), Some(1));
    assert!(stdout(&check).contains("model.dir"), "{}", stdout(&check));

    let absent = agent.command(&["test-alert"]);
    assert_eq!(absent.status.code(), Some(3));
    assert!(!stderr(&absent).is_empty());
}
