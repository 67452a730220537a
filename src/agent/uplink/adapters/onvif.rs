//! ONVIF events with a JSON payload over MQTT (`onvif-ej`; ONVIF Core Specification 25.12, chapter "Event Broker").
//!
//! ```text
//!     {prefix}/onvif-ej/RuleEngine/vedette:Activity/{Class}/&{camera}/Activity   State: an incident of this class is open
//!                      /VideoSource/SignalLoss/&{camera}                         State: no pictures come
//! ```
//!
//! Both are property events: retained, and their `PropertyOperation` is not said. There is no ONVIF topic for what the
//! model sees, so it stands below the rule engine under an alias of our own.
//!
//! Invariant: when an incident has closed, no property says that it is open, whatever classes it went through and whoever
//! was restarted meanwhile.

use std::collections::BTreeMap;

use serde::Serialize;
use uuid::Uuid;

use super::json_message;
use crate::agent::config;
use crate::agent::uplink::line::Message;
use crate::contract::alert::{Alert, AlertKind, NORMAL};
use crate::contract::state::{CameraCondition, CameraStatus};
use crate::contract::topics::DeviceTopics;

/// Incidents that are remembered as open; beyond, the oldest goes, and closes as after a restart.
const OPEN_MOST: usize = 256;
/// The name of the rule, as a VMS lists it.
const RULE: &str = "Activity";

pub(super) struct Onvif {
    /// Up to and with `onvif-ej`.
    prefix: String,
    /// Class last said of each open incident.
    open: BTreeMap<Uuid, String>,
}

/// The order of fields is the specification's: that of the message's items.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Event<S, D> {
    utc_time: String,
    source: S,
    data: D,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RuleSource<'a> {
    video_source: &'a str,
    rule: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Activity<'a> {
    state: bool,
    class: &'a str,
    likelihood: f32,
    incident_id: Uuid,
    test: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct VideoSource<'a> {
    source: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    state: bool,
}

impl Onvif {
    pub(super) fn new(config: &config::OnvifAdapter, topics: &DeviceTopics) -> Self {
        Onvif { prefix: format!("{}/{}/onvif-ej", config.prefix, topics.broker_user()), open: BTreeMap::new() }
    }

    pub(super) fn alert(&mut self, alert: &Alert) -> Vec<Message> {
        let incident = &alert.incident;
        let mut over: Vec<&str> = Vec::new();
        let before = match alert.kind {
            AlertKind::Opened | AlertKind::Updated => {
                let before = self.open.insert(incident.id, incident.class.clone());
                if self.open.len() > OPEN_MOST {
                    self.open.pop_first();
                }
                before.filter(|class| *class != incident.class)
            }
            AlertKind::Closed => {
                over.push(&incident.class);
                let before = self.open.remove(&incident.id);
                if before.is_none() {
                    // It opened before this start: it may have been of any class that the model knows.
                    over.extend(incident.scores.keys().map(String::as_str).filter(|class| *class != NORMAL));
                }
                before
            }
            AlertKind::ClipReady | AlertKind::ClipLost | AlertKind::ClipUploaded => return Vec::new(),
        };
        over.extend(before.as_deref());
        over.sort_unstable();
        over.dedup();
        let mut messages: Vec<_> = over.into_iter().map(|class| self.activity(alert, class, false)).collect();
        if alert.kind != AlertKind::Closed {
            messages.push(self.activity(alert, &incident.class, true));
        }
        messages
    }

    fn activity(&self, alert: &Alert, class: &str, state: bool) -> Message {
        let incident = &alert.incident;
        let topic = format!(
            "{}/RuleEngine/vedette:Activity/{}/&{}/{RULE}",
            self.prefix,
            topic_name(class),
            source_value(&incident.camera)
        );
        let source = RuleSource { video_source: &incident.camera, rule: RULE };
        let (likelihood, incident_id) = (incident.peak_score, incident.id);
        let data = Activity { state, class, likelihood, incident_id, test: incident.test };
        json_message(topic, true, &Event { utc_time: alert.event_time_unix_ms.rfc3339(), source, data })
    }

    pub(super) fn states(&self, cameras: &[CameraCondition]) -> Vec<Message> {
        let known = |camera: &CameraCondition| match camera.status {
            CameraStatus::Starting => None,
            CameraStatus::Live => Some(false),
            CameraStatus::Lost | CameraStatus::Ended => Some(true),
        };
        let said = cameras.iter().filter_map(|camera| {
            let topic = format!("{}/VideoSource/SignalLoss/&{}", self.prefix, source_value(&camera.camera));
            let (source, data) = (VideoSource { source: &camera.camera }, State { state: known(camera)? });
            Some(json_message(topic, true, &Event { utc_time: camera.since.clone(), source, data }))
        });
        said.collect()
    }
}

/// A class as a topic's name: an XML name without colons, "Road Accidents" as "RoadAccidents".
fn topic_name(class: &str) -> String {
    let name: String = class.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.')).collect();
    if name.starts_with(char::is_alphabetic) { name } else { format!("_{name}") }
}

/// A source item's value in a topic: without what means something there.
fn source_value(value: &str) -> String {
    value.chars().filter(|c| !matches!(c, '#' | '+' | '/' | '\0')).collect()
}
