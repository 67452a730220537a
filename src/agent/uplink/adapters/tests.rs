use serde_json::Value;
use uuid::Uuid;

use super::*;
use crate::contract::cloudevent::tests::alert;
use crate::contract::state::{ArmingState, CameraStatus};

fn topics() -> DeviceTopics {
    DeviceTopics::new("depot", "gate-1").unwrap()
}

fn all_on() -> Adapters {
    let config = config::Adapters {
        onvif: Some(config::OnvifAdapter { prefix: "vedette/v1".into() }),
        home_assistant: Some(config::HomeAssistantAdapter { discovery_prefix: "homeassistant".into() }),
        frigate: Some(config::FrigateAdapter { prefix: "frigate".into() }),
    };
    Adapters::new(&config, &topics())
}

/// The alerts of one incident, in their order.
fn story(camera: &str) -> Vec<Alert> {
    let incident = Uuid::now_v7();
    let of = |kind, ms: i64| {
        let mut alert = alert(camera, kind);
        alert.incident.id = incident;
        alert.event_time_unix_ms = Wall::from_unix_ms(1_700_000_000_000 + ms);
        alert
    };
    let mut story = vec![
        of(AlertKind::Opened, 2_000),
        of(AlertKind::Updated, 4_000),
        of(AlertKind::Closed, 9_000),
        of(AlertKind::ClipReady, 1_000),
    ];
    for over in &mut story[2..] {
        over.incident.end_time = Some("2023-11-14T22:13:29.000Z".into());
        over.incident.peak_score = 0.97;
    }
    story
}

fn camera(status: CameraStatus) -> CameraCondition {
    CameraCondition {
        camera: "north".into(),
        status,
        since: "2023-11-14T22:13:20.000Z".into(),
        reason: None,
        video: None,
        blind: None,
        arming: Some(ArmingState { armed: true, until: None, reason: None }),
    }
}

fn facts() -> DeviceFacts {
    DeviceFacts { agent_version: "0.1.0".into(), model: None }
}

fn json(message: &Message) -> Value {
    serde_json::from_slice(&message.payload).unwrap()
}

fn below<'a>(messages: &'a [Message], part: &str) -> Vec<&'a Message> {
    messages.iter().filter(|m| m.topic.contains(part)).collect()
}

#[test]
fn what_is_off_says_nothing() {
    let mut off = Adapters::new(&config::Adapters::default(), &topics());
    assert!(off.are_off());
    assert_eq!(off.states(&facts(), &[camera(CameraStatus::Live)]), []);
    assert!(story("north").iter().all(|alert| off.alert(alert).is_empty()));
    assert!(!all_on().are_off());
}

#[test]
fn a_topic_that_was_refused_is_not_tried_again() {
    let (mut adapters, story) = (all_on(), story("north"));
    adapters.give_up("frigate/events");
    adapters.give_up("homeassistant/device/depot/gate-1/config");
    assert_eq!(below(&adapters.alert(&story[0]), "frigate"), Vec::<&Message>::new());
    let states = adapters.states(&facts(), &[camera(CameraStatus::Live)]);
    assert_eq!((below(&states, "homeassistant/").len(), below(&states, "onvif-ej").len()), (0, 1));
}

#[test]
fn what_waits_is_bounded_and_the_oldest_goes() {
    let mut passing = Passing::new(all_on(), true);
    assert!(passing.is_the_audience() && passing.is_idle());
    let all: Vec<_> = (0..700).map(|_| story("north").remove(0)).collect();
    for (seq, alert) in all.iter().enumerate() {
        passing.sent(seq as u64, alert);
        passing.taken(seq as u64);
        passing.taken(seq as u64);
    }
    // Three messages each, and each alert once.
    assert_eq!((passing.waiting().len(), passing.lost()), (1024, 700 * 3 - 1024));
    let last = passing.waiting().back().expect("the newest");
    assert!(String::from_utf8_lossy(&last.payload).contains(&all[699].incident.id.to_string()));
    passing.sent(700, &all[0]);
    passing.begin();
    passing.taken(700);
    assert_eq!(passing.lost(), 700 * 3 - 1024, "what an earlier connection did not get acknowledged comes again");
}

mod onvif_events {
    use super::*;

    const ACTIVITY: &str = "vedette/v1/depot/gate-1/onvif-ej/RuleEngine/vedette:Activity";

    /// Topic below `Activity` and state of what an alert becomes.
    fn said(adapters: &mut Adapters, alert: &Alert) -> Vec<(String, bool)> {
        let messages = adapters.alert(alert);
        let of_onvif = below(&messages, "onvif-ej").into_iter().map(|m| {
            assert!(m.retain, "property events are retained");
            (m.topic.strip_prefix(ACTIVITY).unwrap().to_owned(), json(m)["Data"]["State"].as_bool().unwrap())
        });
        of_onvif.collect()
    }

    #[test]
    fn the_specifications_grammar() {
        let messages = all_on().alert(&story("north")[0]);
        let [event] = below(&messages, "onvif-ej")[..] else { panic!("{messages:?}") };
        assert_eq!(event.topic, format!("{ACTIVITY}/Fighting/&north/Activity"));
        // MESSAGE = "{" TIMEINFO "," SOURCE [ "," DATA ] "}", and items in their order.
        let text = std::str::from_utf8(&event.payload).unwrap();
        let head = r#"{"UtcTime":"2023-11-14T22:13:22.000Z","Source":{"VideoSource":"north","Rule":"Activity"},"Data":{"State":true,"#;
        assert!(text.starts_with(head), "{text}");
        let content = json(event);
        assert!(content.get("PropertyOperation").is_none());
        assert_eq!(content.as_object().unwrap().len(), 3);
        // The values of the source's items are the topic's end.
        let (_, values) = event.topic.split_once("/&").unwrap();
        let source = &content["Source"];
        assert_eq!(values, format!("{}/{}", source["VideoSource"].as_str().unwrap(), source["Rule"].as_str().unwrap()));
    }

    #[test]
    fn a_property_is_true_from_opened_to_closed() {
        let (mut adapters, story) = (all_on(), story("north"));
        let fighting = "/Fighting/&north/Activity".to_owned();
        for (alert, expected) in story.iter().zip([Some(true), Some(true), Some(false), None]) {
            let expected: Vec<_> = expected.map(|state| (fighting.clone(), state)).into_iter().collect();
            assert_eq!(said(&mut adapters, alert), expected, "{:?}", alert.kind);
        }
    }

    #[test]
    fn another_class_ends_the_one_before() {
        let (mut adapters, mut story) = (all_on(), story("north"));
        for alert in &mut story[1..] {
            alert.incident.class = "Road Accidents".into();
        }
        said(&mut adapters, &story[0]);
        let [fighting, accident] = ["/Fighting/&north/Activity", "/RoadAccidents/&north/Activity"].map(String::from);
        assert_eq!(said(&mut adapters, &story[1]), [(fighting.clone(), false), (accident.clone(), true)]);
        assert_eq!(said(&mut adapters, &story[2]), [(accident, false)]);
    }

    #[test]
    fn an_incident_that_opened_before_a_restart_leaves_nothing_true() {
        let mut closed = story("north").remove(2);
        closed.incident.scores.insert("Arson".into(), 0.01);
        let expected = [("/Arson/&north/Activity".to_owned(), false), ("/Fighting/&north/Activity".to_owned(), false)];
        assert_eq!(said(&mut all_on(), &closed), expected);
    }

    #[test]
    fn history_changes_no_state() {
        let mut adapters = all_on();
        let (old, new) = (story("north"), story("north"));
        assert_eq!(said(&mut adapters, &new[0]).len(), 1);
        assert!(old.iter().all(|alert| said(&mut adapters, alert).is_empty()), "it is overtaken");
        assert_eq!(said(&mut adapters, &new[2]).len(), 1);
        assert!(said(&mut adapters, &new[0]).is_empty(), "it was asked for again");
        assert_eq!(said(&mut adapters, &story("south")[0]).len(), 1, "another camera's");
    }

    #[test]
    fn a_camera_without_pictures_is_a_signal_loss() {
        for (status, lost) in
            [(CameraStatus::Live, Some(false)), (CameraStatus::Lost, Some(true)), (CameraStatus::Starting, None)]
        {
            let messages = all_on().states(&facts(), &[camera(status)]);
            let of_onvif = below(&messages, "onvif-ej");
            assert_eq!(of_onvif.len(), usize::from(lost.is_some()));
            for event in of_onvif {
                assert_eq!(event.topic, "vedette/v1/depot/gate-1/onvif-ej/VideoSource/SignalLoss/&north");
                assert!(event.retain);
                assert_eq!(json(event)["Source"]["Source"], "north");
                assert_eq!(json(event)["Data"]["State"].as_bool(), lost);
                assert_eq!(json(event)["UtcTime"], "2023-11-14T22:13:20.000Z");
            }
        }
    }

    #[test]
    fn nothing_that_means_something_to_a_broker_gets_into_a_topic() {
        let mut alert = story("north").remove(0);
        for (class, name) in [("a/b+#c", "abc"), ("Überfall", "Überfall"), ("7", "_7"), ("", "_"), ("x:y", "xy")] {
            alert.incident.class = class.into();
            let messages = all_on().alert(&alert);
            let [event] = below(&messages, "onvif-ej")[..] else { panic!("{messages:?}") };
            assert_eq!(event.topic, format!("{ACTIVITY}/{name}/&north/Activity"));
            assert_eq!(json(event)["Data"]["Class"], class);
        }
    }
}

mod home_assistant_discovery {
    use super::*;

    #[test]
    fn every_entity_reads_a_topic_that_is_written() {
        let messages = all_on().states(&facts(), &[camera(CameraStatus::Live)]);
        let [discovery] = below(&messages, "homeassistant/")[..] else { panic!("{messages:?}") };
        assert_eq!(discovery.topic, "homeassistant/device/depot/gate-1/config");
        assert!(discovery.retain);
        let config = json(discovery);
        assert_eq!(config["availability"][0]["topic"], "vedette/v1/depot/gate-1/state");
        let components = config["components"].as_object().unwrap();
        let expected = [
            ("connectivity_north", "binary_sensor", "camera/north"),
            ("incident_north", "binary_sensor", "home_assistant/north"),
            ("last_incident_north", "sensor", "home_assistant/north"),
            ("temperature", "sensor", "heartbeat"),
        ];
        assert_eq!(components.len(), expected.len());
        for (name, platform, topic) in expected {
            let component = &components[name];
            assert_eq!(component["platform"], platform);
            assert_eq!(component["state_topic"], format!("vedette/v1/depot/gate-1/{topic}"));
            assert_eq!(component["unique_id"], format!("vedette/depot/gate-1/{name}"));
        }
    }

    #[test]
    fn the_last_incident_is_retained() {
        let (mut adapters, story) = (all_on(), story("north"));
        for (alert, open, clip) in [
            (&story[0], true, "pending"),
            (&story[1], true, "pending"),
            (&story[2], false, "pending"),
            (&story[3], false, "ready"),
        ] {
            let messages = adapters.alert(alert);
            let [last] = below(&messages, "home_assistant")[..] else { panic!("{messages:?}") };
            assert_eq!(last.topic, "vedette/v1/depot/gate-1/home_assistant/north");
            assert!(last.retain);
            let content = json(last);
            assert_eq!(
                (&content["class"], &content["open"], &content["clip"]),
                (&"Fighting".into(), &open.into(), &clip.into())
            );
        }
    }
}

mod frigate_events {
    use super::*;

    #[test]
    fn new_update_end_with_before_and_after() {
        let (mut adapters, story) = (all_on(), story("north"));
        let mut last: Option<Value> = None;
        for (alert, kind) in story.iter().zip([Some("new"), Some("update"), Some("end"), None]) {
            let messages = adapters.alert(alert);
            let events = below(&messages, "frigate");
            assert_eq!(events.len(), usize::from(kind.is_some()));
            let (Some(kind), Some(event)) = (kind, events.first()) else { continue };
            assert_eq!((event.topic.as_str(), event.retain), ("frigate/events", false));
            let change = json(event);
            assert_eq!(change["type"], kind);
            let after = &change["after"];
            assert_eq!(&change["before"], last.as_ref().unwrap_or(after));
            assert_eq!((&after["camera"], &after["label"]), (&"north".into(), &"fighting".into()));
            assert_eq!(after["start_time"], 1_700_000_000.0);
            assert_eq!(after["end_time"].as_f64(), (kind == "end").then_some(1_700_000_009.0));
            assert!(after["id"].as_str().unwrap().starts_with("1700000000.000000-"));
            assert!(last.as_ref().is_none_or(|before| before["id"] == after["id"]));
            last = Some(after.clone());
        }
    }

    /// The fields of Frigate's own example, and their kinds.
    #[test]
    fn every_documented_field_is_there_in_its_kind() {
        let documented = r#"{
            "id": "", "camera": "", "frame_time": 0.5, "snapshot": null, "label": "", "sub_label": null, "top_score": 0.5,
            "false_positive": false, "start_time": 0.5, "end_time": null, "score": 0.5, "box": [0], "area": 0, "ratio": 0.5,
            "region": [0], "current_zones": [], "entered_zones": [], "thumbnail": null, "has_snapshot": false,
            "has_clip": false, "active": true, "stationary": false, "motionless_count": 0, "position_changes": 0,
            "attributes": {}, "current_attributes": [], "current_estimated_speed": 0, "average_estimated_speed": 0,
            "velocity_angle": 0, "pending_loitering": false}"#;
        let documented: serde_json::Map<String, Value> = serde_json::from_str(documented).unwrap();
        let messages = all_on().alert(&story("north")[0]);
        let change = json(below(&messages, "frigate")[0]);
        let after = change["after"].as_object().unwrap();
        assert_eq!(after.keys().collect::<Vec<_>>(), documented.keys().collect::<Vec<_>>());
        for (name, value) in documented {
            let same = std::mem::discriminant(&value) == std::mem::discriminant(&after[&name]);
            assert!(same, "{name}: {}", after[&name]);
        }
    }

    #[test]
    fn history_is_told_too() {
        let mut adapters = all_on();
        let (old, new) = (story("north"), story("north"));
        assert_eq!(below(&adapters.alert(&new[0]), "frigate").len(), 1);
        assert_eq!(below(&adapters.alert(&old[2]), "frigate").len(), 1);
    }
}
