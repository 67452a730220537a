//! What of the config each stage works by, in that stage's own words.

use std::collections::BTreeMap;

use super::incidents::Settings;
use super::overrides::Overrides;
use crate::agent::config::{Camera, CameraId, Config, Storage};
use crate::agent::incident::Thresholds;
use crate::agent::store::{Labels, Limits, OutboxPolicy};

/// Whether alerts are queued, and for whom.
pub fn outbox_policy(config: &Config) -> OutboxPolicy {
    match &config.mqtt {
        None => OutboxPolicy::LocalOnly,
        Some(mqtt) => {
            OutboxPolicy::Queue { consumers: mqtt.consumers.clone(), keep: mqtt.keep, max_bytes: mqtt.keep_bytes }
        }
    }
}

/// What alerts say beside what was seen.
pub fn labels(config: &Config) -> Labels {
    let place = |c: &Camera| Some((c.id.to_string(), c.place.clone()?));
    Labels {
        severities: config.severity.clone(),
        places: config.cameras.iter().filter_map(place).collect(),
        place: config.device.place.clone(),
    }
}

/// What the store may keep.
pub fn limits(config: &Config) -> Limits {
    let Storage { keep, clips_max_bytes, min_free_bytes, keep_incidents } = config.storage;
    Limits { keep, max_bytes: clips_max_bytes.unwrap_or(u64::MAX), min_free_bytes, keep_rows: keep_incidents }
}

/// What of the config the incident stage works by.
pub fn settings(config: &Config, overrides: &Overrides, model: &BTreeMap<String, f32>) -> Settings {
    let cameras = config.cameras.iter().map(|c| (c.id.clone(), c.thresholds.clone())).collect();
    Settings {
        incident: config.incident.clone(),
        clip: config.clip.clone(),
        thresholds: Thresholds { model: model.clone(), cameras },
        wishes: overrides.arming.iter().map(|(c, wish)| (CameraId::new(c), *wish)).collect(),
        schedules: config.cameras.iter().filter_map(|c| Some((c.id.clone(), c.schedule.clone()?))).collect(),
    }
}
