//! Other people's message formats, for those who already consume them: ONVIF events, Home Assistant, Frigate. Each is off
//! by default and says less than the contract does.
//!
//! What belongs here: one file for each format, pure, from an alert or from how the device is to messages; and
//! [`passing`], which publishes what alerts become. What is retained and says how the device is goes through `heartbeat`.
//!
//! Invariant: nothing here holds up an alert of the contract, or takes its place in a queue. In particular a topic that the
//! broker refused is not tried again: Mosquitto with the shipped limits ends the connection at every refusal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use super::line::Message;
use crate::agent::config;
use crate::base::clock::Wall;
use crate::contract::alert::{Alert, AlertKind};
use crate::contract::state::{CameraCondition, DeviceFacts};
use crate::contract::topics::DeviceTopics;

mod frigate;
mod home_assistant;
mod onvif;
mod passing;
#[cfg(test)]
mod tests;

pub(super) use passing::Passing;

/// The formats that are switched on.
pub(super) struct Adapters {
    onvif: Option<onvif::Onvif>,
    home_assistant: Option<home_assistant::HomeAssistant>,
    frigate: Option<frigate::Frigate>,
    /// The newest incident of each camera and the time of the last alert about it; tests apart.
    newest: BTreeMap<(String, bool), (Uuid, Wall)>,
    /// Topics that the broker does not let the device write, until the daemon is started again.
    refused: Mutex<BTreeSet<String>>,
}

impl Adapters {
    pub(super) fn new(config: &config::Adapters, topics: &DeviceTopics) -> Self {
        Adapters {
            onvif: config.onvif.as_ref().map(|c| onvif::Onvif::new(c, topics)),
            home_assistant: config.home_assistant.as_ref().map(|c| home_assistant::HomeAssistant::new(c, topics)),
            frigate: config.frigate.as_ref().map(frigate::Frigate::new),
            newest: BTreeMap::new(),
            refused: Mutex::new(BTreeSet::new()),
        }
    }

    /// The broker has refused this topic.
    pub(super) fn give_up(&self, topic: &str) {
        log::error!(
            "the broker does not let the device write {topic}: that adapter is silent until the daemon is restarted"
        );
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned());
    }

    fn may(&self, message: &Message) -> bool {
        !self.refused.lock().unwrap_or_else(PoisonError::into_inner).contains(&message.topic)
    }

    /// None is switched on.
    pub(super) fn are_off(&self) -> bool {
        self.onvif.is_none() && self.home_assistant.is_none() && self.frigate.is_none()
    }

    /// What is retained of device and cameras; the same again while nothing has changed.
    pub(super) fn states(&self, facts: &DeviceFacts, cameras: &[CameraCondition]) -> Vec<Message> {
        let onvif = self.onvif.iter().flat_map(|a| a.states(cameras));
        let home_assistant = self.home_assistant.iter().map(|a| a.discovery(facts, cameras));
        onvif.chain(home_assistant).filter(|message| self.may(message)).collect()
    }

    /// What an alert becomes.
    pub(super) fn alert(&mut self, alert: &Alert) -> Vec<Message> {
        let history = self.is_history(alert);
        let mut messages = Vec::new();
        if let Some(frigate) = &mut self.frigate {
            messages.extend(frigate.alert(alert));
        }
        // These two say how it is now: an older alert that comes late would make it how it was.
        if !history {
            messages.extend(self.onvif.iter_mut().flat_map(|a| a.alert(alert)));
            messages.extend(self.home_assistant.iter().filter_map(|a| a.alert(alert)));
        }
        messages.retain(|message| self.may(message));
        messages
    }

    /// Whether a newer alert of its camera has passed already: live alerts overtake a backlog, and a consumer may ask for
    /// old ones again. Incidents' ids are in the order of their time.
    fn is_history(&mut self, alert: &Alert) -> bool {
        let (incident, time) = (&alert.incident, alert.event_time_unix_ms);
        let newest = self.newest.entry((incident.camera.clone(), incident.test)).or_insert((incident.id, time));
        // A clip is told of by the time of its footage, which is before the incident's end.
        let about_clip = matches!(alert.kind, AlertKind::ClipReady | AlertKind::ClipLost | AlertKind::ClipUploaded);
        let older = incident.id < newest.0 || (incident.id == newest.0 && time < newest.1 && !about_clip);
        if !older {
            *newest = (incident.id, if incident.id == newest.0 { newest.1.max(time) } else { time });
        }
        older
    }
}

/// A JSON message without what only the contract has.
fn json_message(topic: String, retain: bool, content: &impl serde::Serialize) -> Message {
    let payload = serde_json::to_vec(content).expect("structs of texts and numbers with textual keys are always JSON");
    Message { topic, payload, retain, expiry_s: None, content_type: "application/json", user_properties: Vec::new() }
}
