//! The shape of Frigate's `{topic_prefix}/events`, as its documentation describes it (0.16), for those who consume that.
//!
//! An incident is a tracked object whose label is its class. What Frigate knows and we do not is said as it says nothing:
//! boxes of zeros, no zones, no speed. `has_clip` and `has_snapshot` are always false: they promise Frigate's own HTTP
//! interface, which is not here. A clip is on the device, and the contract's alerts say where.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::json_message;
use crate::agent::config;
use crate::agent::uplink::line::Message;
use crate::base::clock::Wall;
use crate::contract::alert::{Alert, AlertKind};

/// Incidents whose last state is remembered for `before`; beyond, the oldest goes.
const OPEN_MOST: usize = 256;

pub(super) struct Frigate {
    topic: String,
    /// What `after` said last of each open incident.
    open: BTreeMap<Uuid, Value>,
}

#[derive(Serialize)]
struct Change<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    before: &'a Value,
    after: &'a Value,
}

impl Frigate {
    pub(super) fn new(config: &config::FrigateAdapter) -> Self {
        Frigate { topic: format!("{}/events", config.prefix), open: BTreeMap::new() }
    }

    pub(super) fn alert(&mut self, alert: &Alert) -> Option<Message> {
        let kind = match alert.kind {
            AlertKind::Opened => "new",
            AlertKind::Updated => "update",
            AlertKind::Closed => "end",
            // After its end a tracked object has no more to say.
            AlertKind::ClipReady | AlertKind::ClipLost | AlertKind::ClipUploaded => return None,
        };
        let after = tracked_object(alert);
        let before = self.open.remove(&alert.incident.id);
        let change = Change { kind, before: before.as_ref().unwrap_or(&after), after: &after };
        let message = json_message(self.topic.clone(), false, &change);
        if alert.kind != AlertKind::Closed {
            self.open.insert(alert.incident.id, after);
            if self.open.len() > OPEN_MOST {
                self.open.pop_first();
            }
        }
        Some(message)
    }
}

fn tracked_object(alert: &Alert) -> Value {
    let incident = &alert.incident;
    let frame_time = seconds(alert.event_time_unix_ms);
    let start_time = parsed(&incident.start_time).unwrap_or(frame_time);
    let end_time = incident.end_time.as_deref().and_then(parsed);
    let nowhere = [0, 0, 0, 0];
    let open = end_time.is_none() && alert.kind != AlertKind::Closed;
    json!({
        "id": id(start_time, incident.id),
        "camera": incident.camera,
        "frame_time": frame_time,
        "snapshot": null,
        "label": label(&incident.class),
        "sub_label": null,
        "top_score": incident.peak_score,
        "false_positive": false,
        "start_time": start_time,
        "end_time": if open { None } else { Some(end_time.unwrap_or(frame_time)) },
        "score": incident.peak_score,
        "box": nowhere,
        "area": 0,
        "ratio": 0.0,
        "region": nowhere,
        "active": open,
        "stationary": !open,
        "motionless_count": 0,
        "position_changes": 0,
        "current_zones": [],
        "entered_zones": [],
        "has_clip": false,
        "has_snapshot": false,
        "attributes": {},
        "current_attributes": [],
        "pending_loitering": false,
        "current_estimated_speed": 0,
        "average_estimated_speed": 0,
        "velocity_angle": 0,
        "thumbnail": null,
    })
}

/// The time of its start and six characters, as Frigate's are; the same for all that is said of an incident.
fn id(start_time: f64, incident: Uuid) -> String {
    let random = incident.simple().to_string();
    format!("{start_time:.6}-{}", &random[random.len() - 6..])
}

/// Frigate's labels are lower case.
fn label(class: &str) -> String {
    class.to_lowercase().replace(' ', "_")
}

fn parsed(time: &str) -> Option<f64> {
    let time: jiff::Timestamp = time.parse().ok()?;
    Some(seconds(Wall::from_unix_ms(time.as_millisecond())))
}

/// Since the Unix epoch.
fn seconds(time: Wall) -> f64 {
    time.unix_ms() as f64 / 1000.0
}
