//! Home Assistant's MQTT discovery, by device (2024.11 and later).
//!
//! ```text
//!     {discovery_prefix}/device/{site}/{device}/config         retained: what there is, and where its state is read
//!     vedette/v1/{site}/{device}/home_assistant/{camera}       retained: the last incident of a camera
//! ```
//!
//! All other state is read from the contract's own retained messages: `state` (whether the device is there, which its will
//! ends), `camera/{camera}` and `heartbeat`. So nothing is said twice, and nothing can be stale that is not stale there.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::json_message;
use crate::agent::config;
use crate::agent::uplink::line::Message;
use crate::contract::alert::{Alert, AlertKind};
use crate::contract::state::{CameraCondition, DeviceFacts};
use crate::contract::topics::{Channel, DeviceTopics, PREFIX};

pub(super) struct HomeAssistant {
    discovery_prefix: String,
    topics: DeviceTopics,
}

/// The last incident of a camera: one entity's state and its attributes.
#[derive(Serialize)]
struct LastIncident<'a> {
    class: &'a str,
    open: bool,
    test: bool,
    peak_score: f32,
    start_time: &'a str,
    end_time: Option<&'a str>,
    /// `pending`, `ready` or `lost`
    clip: &'static str,
    clip_path: Option<&'a str>,
    incident: String,
}

impl HomeAssistant {
    pub(super) fn new(config: &config::HomeAssistantAdapter, topics: &DeviceTopics) -> Self {
        HomeAssistant { discovery_prefix: config.discovery_prefix.clone(), topics: topics.clone() }
    }

    fn incident_topic(&self, camera: &str) -> String {
        format!("{PREFIX}/{}/home_assistant/{camera}", self.topics.broker_user())
    }

    pub(super) fn alert(&self, alert: &Alert) -> Option<Message> {
        let incident = &alert.incident;
        // Its name is part of a topic: a valid config rules out any other.
        self.topics.camera(&incident.camera).ok()?;
        let last = LastIncident {
            class: &incident.class,
            open: incident.end_time.is_none(),
            test: incident.test,
            peak_score: incident.peak_score,
            start_time: &incident.start_time,
            end_time: incident.end_time.as_deref(),
            clip: match alert.kind {
                AlertKind::ClipReady => "ready",
                AlertKind::ClipLost => "lost",
                AlertKind::ClipUploaded => "uploaded",
                AlertKind::Opened | AlertKind::Updated | AlertKind::Closed => "pending",
            },
            clip_path: alert.clip.as_ref().and_then(|clip| clip.path.as_deref()),
            incident: incident.id.to_string(),
        };
        Some(json_message(self.incident_topic(&incident.camera), true, &last))
    }

    /// What Home Assistant is to show.
    pub(super) fn discovery(&self, facts: &DeviceFacts, cameras: &[CameraCondition]) -> Message {
        let id = format!("vedette/{}", self.topics.broker_user());
        let mut components = Map::new();
        let mut add = |name: String, mut component: Value| {
            component["unique_id"] = format!("{id}/{name}").into();
            components.insert(name, component);
        };
        for camera in cameras {
            let name = &camera.camera;
            let Ok(state) = self.topics.camera(name) else { continue };
            add(
                format!("connectivity_{name}"),
                json!({
                    "platform": "binary_sensor", "name": format!("{name} connectivity"), "device_class": "connectivity",
                    "entity_category": "diagnostic", "state_topic": state, "json_attributes_topic": state,
                    "value_template": "{{ 'ON' if value_json.status == 'live' else 'OFF' }}",
                }),
            );
            let last = self.incident_topic(name);
            add(
                format!("incident_{name}"),
                json!({
                    "platform": "binary_sensor", "name": format!("{name} incident"), "device_class": "safety",
                    "state_topic": last, "value_template": "{{ 'ON' if value_json.open else 'OFF' }}",
                }),
            );
            add(
                format!("last_incident_{name}"),
                json!({
                    "platform": "sensor", "name": format!("{name} last incident"), "icon": "mdi:cctv",
                    "state_topic": last, "json_attributes_topic": last, "value_template": "{{ value_json.class }}",
                }),
            );
        }
        add(
            "temperature".into(),
            json!({
                "platform": "sensor", "name": "Temperature", "device_class": "temperature", "unit_of_measurement": "°C",
                "state_class": "measurement", "entity_category": "diagnostic",
                "state_topic": self.topics.topic(&Channel::Heartbeat),
                // "None" is Home Assistant's word for unknown.
                "value_template":
                    "{{ value_json.temperatures_c.values() | max if value_json.temperatures_c else 'None' }}",
            }),
        );
        let config = json!({
            "device": {
                "identifiers": [id], "name": self.topics.device.as_str(), "manufacturer": "Vedette",
                "model": "camera-side agent", "sw_version": facts.agent_version, "suggested_area": self.topics.site.as_str(),
            },
            "origin": { "name": "Vedette", "sw_version": facts.agent_version },
            "availability": [{
                "topic": self.topics.topic(&Channel::State),
                "value_template": "{{ 'online' if value_json.online else 'offline' }}",
            }],
            "components": components,
            "qos": 1,
        });
        let topic = format!("{}/device/{}/config", self.discovery_prefix, self.topics.broker_user());
        json_message(topic, true, &config)
    }
}
