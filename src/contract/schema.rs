//! The JSON Schemas of everything that crosses the wire, generated from the types; `deploy/contract/` carries
//! them for integrators, and a test keeps the two the same.

use schemars::{Schema, schema_for};

use super::ack::Ack;
use super::cloudevent::{AlertEvent, NoticeEvent, UpdateEvent};
use super::command::{CommandStatus, Request};
use super::heartbeat::{Heartbeat, OutboxState};
use super::identity::IdentityMessage;
use super::result::Results;
use super::state::{CameraState, DeviceState};
use super::update::UpdateMessage;

/// File name and schema of each message.
pub fn all() -> Vec<(&'static str, Schema)> {
    vec![
        ("alert.schema.json", schema_for!(AlertEvent)),
        ("notice.schema.json", schema_for!(NoticeEvent)),
        ("update_step.schema.json", schema_for!(UpdateEvent)),
        ("update.schema.json", schema_for!(UpdateMessage)),
        ("identity.schema.json", schema_for!(IdentityMessage)),
        ("state.schema.json", schema_for!(DeviceState)),
        ("camera.schema.json", schema_for!(CameraState)),
        ("heartbeat.schema.json", schema_for!(Heartbeat)),
        ("outbox.schema.json", schema_for!(OutboxState)),
        ("ack.schema.json", schema_for!(Ack)),
        ("command.schema.json", schema_for!(Request)),
        ("command_status.schema.json", schema_for!(CommandStatus)),
        ("command_results.schema.json", schema_for!(Results)),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use serde::Serialize;
    use uuid::Uuid;

    use super::super::alert::{AlertKind, ClockState, Severity};
    use super::super::cloudevent::{self, Number, Sending};
    use super::super::heartbeat::{
        CameraHealth, CoolingLevel, HealthReport, InferenceHealth, MemoryHealth, Reserve, SamplingHealth, SlowedBy,
        StallHealth, ThrottlingHealth, UploadHealth, WearHealth,
    };
    use super::super::notice::{NoticeKind, Trouble};
    use super::super::outbox::OutboxStatus;
    use super::super::state::{
        ArmingState, CameraCondition, CameraStatus, DeviceFacts, Origin, StateReason, WILL_DELAY_S,
    };
    use super::super::topics::DeviceTopics;
    use super::*;
    use crate::base::clock::Wall;

    #[test]
    fn the_published_schemas_are_the_generated_ones() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/contract");
        for (name, schema) in all() {
            let path = dir.join(name);
            let generated = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
            if std::env::var_os("VEDETTE_REGENERATE").is_some() {
                std::fs::create_dir_all(&dir).unwrap();
                std::fs::write(&path, &generated).unwrap();
            }
            let published = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(published == generated, "{name} is out of date: run this test once with VEDETTE_REGENERATE=1");
        }
    }

    /// The words that a document gives a key, in flow style, each time that it does.
    fn enums_in<'a>(document: &'a str, key: &str) -> Vec<BTreeSet<&'a str>> {
        let start = format!("{key}: {{type: string, enum: [");
        let lists = document.lines().filter_map(|line| line.trim().strip_prefix(&start)?.split(']').next());
        lists.map(|list| list.split(',').map(|word| word.trim().trim_matches('\'')).collect()).collect()
    }

    /// The user properties have no schema of their own: the AsyncAPI document is written by hand.
    #[test]
    fn the_asyncapi_document_knows_every_word_to_route_by() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/contract/asyncapi.yaml");
        let document = std::fs::read_to_string(path).unwrap();
        let alerts = AlertKind::ALL.map(AlertKind::as_str).into();
        assert_eq!(enums_in(&document, "kind"), [alerts, NoticeKind::ALL.map(NoticeKind::as_str).into()]);
        let severities = BTreeSet::from(Severity::ALL.map(|(word, _)| word));
        assert_eq!(enums_in(&document, "severity"), [severities.clone(), severities]);
        // Nor do the lists lack a word that the schemas have.
        let types = |schema: &str| {
            let (_, schema) = all().into_iter().find(|(name, _)| *name == schema).unwrap();
            schema.as_value().to_string().matches("\"org.vedette.").count()
        };
        assert_eq!(types("alert.schema.json"), AlertKind::ALL.len());
        assert_eq!(types("notice.schema.json"), NoticeKind::ALL.len());
        let delay = format!("{WILL_DELAY_S} s after");
        assert!(document.contains(&delay), "asyncapi.yaml does not say that the will comes {delay} the loss");
    }

    fn validate(name: &str, message: &impl Serialize) {
        let (_, schema) = all().into_iter().find(|(n, _)| *n == name).unwrap();
        let json = serde_json::to_value(message).unwrap();
        if let Err(e) = jsonschema::validate(schema.as_value(), &json) {
            panic!("{name}: {e}\n{json:#}");
        }
        for required in schema.as_value()["required"].as_array().unwrap() {
            let mut without = json.clone();
            without.as_object_mut().unwrap().remove(required.as_str().unwrap()).unwrap();
            assert!(!jsonschema::is_valid(schema.as_value(), &without), "{name} is valid without {required}");
        }
    }

    fn origin() -> Origin {
        Origin {
            site: "depot".into(),
            device: "gate-1".into(),
            session: 3,
            publish_time: Wall::from_unix_ms(0).rfc3339(),
            clock: ClockState { synchronised: false, estimated_error_ms: None },
        }
    }

    #[test]
    fn a_command_has_no_field_that_a_device_would_reject() {
        let (_, schema) = all().into_iter().find(|(name, _)| *name == "command.schema.json").unwrap();
        for (fields, fits) in [
            (
                r#"{"command": "disarm", "camera": "gate", "requested_by": "soc", "expires_at": "2026-03-01T12:00:00Z"}"#,
                true,
            ),
            (r#"{"command": "replay", "from": 1}"#, true),
            (r#"{"command": "replay", "from": 1, "camera": "gate"}"#, false),
            (r#"{"command": "restart", "when": "now"}"#, false),
        ] {
            let command: serde_json::Value = serde_json::from_str(fields).unwrap();
            assert_eq!(jsonschema::is_valid(schema.as_value(), &command), fits, "{fields}");
            assert_eq!(super::super::command::Order::parse(fields.as_bytes()).is_ok(), fits, "{fields}");
        }
    }

    #[test]
    fn alerts_keep_to_their_schema() {
        let topics = DeviceTopics::new("depot", "gate-1").unwrap();
        let number = Number { epoch: Uuid::from_u128(9), seq: 1 };
        for (kind, replayed) in AlertKind::ALL.into_iter().zip([true, false].into_iter().cycle()) {
            let alert = cloudevent::tests::alert("north", kind);
            let sending =
                Sending { number: (!replayed).then_some(number), publish_time: Wall::from_unix_ms(5), replayed };
            let payload = AlertEvent::new(&topics, &alert, sending).render();
            validate("alert.schema.json", &serde_json::from_slice::<serde_json::Value>(&payload).unwrap());
        }
    }

    #[test]
    fn notices_keep_to_their_schema() {
        let topics = DeviceTopics::new("depot", "gate-1").unwrap();
        let number = Number { epoch: Uuid::from_u128(9), seq: 1 };
        for (camera, kind) in [(Some("north"), NoticeKind::Raised), (None, NoticeKind::Cleared)] {
            for trouble in Trouble::ALL {
                let mut notice = cloudevent::tests::notice(camera);
                (notice.kind, notice.notice.trouble) = (kind, trouble);
                let sending = Sending { number: Some(number), publish_time: Wall::from_unix_ms(5), replayed: false };
                let payload = NoticeEvent::new(&topics, &notice, sending).render();
                validate("notice.schema.json", &serde_json::from_slice::<serde_json::Value>(&payload).unwrap());
            }
        }
    }

    #[test]
    fn states_keep_to_their_schemas() {
        let facts = DeviceFacts { agent_version: "0.1.0".into(), model: None };
        for (reason, since) in [
            (StateReason::Connected, Some(origin().publish_time)),
            (StateReason::Stopped, Some(origin().publish_time)),
            (StateReason::ConnectionLost, None),
        ] {
            let online = reason == StateReason::Connected;
            let state = DeviceState { origin: origin(), online, reason, since, facts: facts.clone() };
            validate("state.schema.json", &state);
        }
        let condition = CameraCondition {
            camera: "north".into(),
            status: CameraStatus::Lost,
            since: origin().publish_time,
            reason: Some("no route to host".into()),
            video: Some("MJPEG 1280x720 at 15 fps from a USB camera".into()),
            blind: Some("no picture can be decoded".into()),
            arming: Some(ArmingState { armed: false, until: Some(origin().publish_time), reason: None }),
        };
        validate("camera.schema.json", &CameraState { origin: origin(), condition });
        validate("ack.schema.json", &Ack { seq: 9, epoch: Some(Uuid::from_u128(9)) });
    }

    #[test]
    fn heartbeats_keep_to_their_schema() {
        let status = OutboxStatus {
            epoch: Uuid::from_u128(9),
            newest: 9,
            oldest_kept: Some(4),
            pending: 2,
            unconfirmed: 4,
            given_up: vec![(1, 3)],
        };
        validate("outbox.schema.json", &OutboxState { origin: origin(), status: status.clone() });
        let sampling = Some(SamplingHealth {
            model_fps: 8.0,
            aimed_fps: 7.0,
            slowed_by: Some(SlowedBy::Throttling),
            frames_fps: 7.4,
        });
        let throttling = ThrottlingHealth {
            active: true,
            cooling: BTreeMap::from([("cpu-throttle-alert".into(), CoolingLevel { level: 1, most: 1 })]),
            ..ThrottlingHealth::default()
        };
        let health = HealthReport {
            cameras: BTreeMap::from([(
                "north".into(),
                CameraHealth { frames: 9, sampling, ..CameraHealth::default() },
            )]),
            stalls: BTreeMap::from([("io".into(), StallHealth::default())]),
            wear: BTreeMap::from([(
                "mmcblk0".into(),
                WearHealth { life_used_percent: Some(20), reserve: Some(Reserve::Normal) },
            )]),
            throttling: Some(throttling),
            drops: BTreeMap::from([("evidence".into(), 1)]),
            inference: Some(InferenceHealth { engine: "onnxruntime".into(), ..InferenceHealth::default() }),
            memory: Some(MemoryHealth::default()),
            temperatures_c: BTreeMap::from([("cpu".into(), 51.5)]),
            power_w: BTreeMap::from([("VDD_IN".into(), 7.25)]),
            power_mode: Some("MAXN_SUPER".into()),
            uploads: Some(UploadHealth { pending: 2, ..UploadHealth::default() }),
            ..HealthReport::default()
        };
        validate("heartbeat.schema.json", &Heartbeat { origin: origin(), health, outbox: Some(status) });
    }
}
