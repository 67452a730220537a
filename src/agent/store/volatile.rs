//! The one volatile path (DESIGN section 6): an alert whose record the disk does not take goes out from memory, marked
//! `durable: false` and without a number. Its row is written when the disk is back, and is then delivered like any other
//! with the same message id, so that who has it already sees that it does.
//!
//! Bounded: beyond, the oldest goes. It is a courtesy: what counts is the record that waits for the disk.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use uuid::{Builder, Uuid};

use super::DeviceContext;
use super::order::{ClipIntent, IncidentRecord};
use crate::agent::incident::{EvidenceSource, Transition};
use crate::base::clock::Wall;
use crate::base::digest;
use crate::contract::alert::{Alert, AlertKind, ClipReport, IncidentReport};

/// Alerts that wait for the uplink.
const CAPACITY: usize = 64;

/// See the module's doc.
#[derive(Default)]
pub(super) struct Volatile(Mutex<VecDeque<Alert>>);

impl Volatile {
    pub(super) fn push(&self, alert: Alert) {
        let mut waiting = self.lock();
        if waiting.len() == CAPACITY {
            waiting.pop_front();
        }
        waiting.push_back(alert);
    }

    pub(super) fn take(&self) -> Vec<Alert> {
        self.lock().drain(..).collect()
    }

    /// What waits is durable by now.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Alert>> {
        self.0.lock().expect("nothing panics under this lock")
    }
}

/// The id of the message that tells this of an incident. Both ways out give it, so it depends on nothing else: a UUIDv7
/// of the event's time whose random part is a digest.
pub(super) fn message_id(incident: Uuid, kind: AlertKind, event: Wall) -> Uuid {
    let digest = digest::of_bytes(format!("{incident} {kind:?} {}", event.unix_ms()).as_bytes());
    let mut random = [0; 10];
    for (byte, digit) in random.iter_mut().zip(digest.bytes()) {
        *byte = digit;
    }
    let ms = u64::try_from(event.unix_ms()).unwrap_or(0);
    Builder::from_unix_timestamp_millis(ms, &random).into_uuid()
}

/// What a transition is told as, with why its incident closed, if it did.
pub(super) fn kind_of(transition: &Transition) -> (AlertKind, Option<&'static str>) {
    match transition {
        Transition::Opened(_) => (AlertKind::Opened, None),
        Transition::Updated(_) => (AlertKind::Updated, None),
        Transition::Closed(_, reason) => (AlertKind::Closed, Some(reason.as_str())),
    }
}

/// The alert of a record, as its row would say it.
pub(super) fn alert_of(record: &IncidentRecord, context: &DeviceContext) -> Alert {
    let (kind, close_reason) = kind_of(&record.transition);
    let (incident, times) = (record.transition.incident(), &record.times);
    let clip = match (&record.clip, kind) {
        (ClipIntent::Planned { start }, AlertKind::Opened) => {
            Some(ClipReport { planned_start: Some(start.rfc3339()), ..ClipReport::default() })
        }
        _ => None,
    };
    Alert {
        id: message_id(incident.id, kind, times.event),
        kind,
        event_time_unix_ms: times.event,
        clock: times.clock,
        severity: context.labels.severity(&incident.class),
        place: context.labels.place(Some(&incident.camera.0)),
        incident: IncidentReport {
            id: incident.id,
            site: context.site.clone(),
            device: context.device.clone(),
            camera: incident.camera.to_string(),
            test: incident.source == EvidenceSource::Test,
            class: incident.class.clone(),
            start_time: times.start.rfc3339(),
            end_time: close_reason.map(|_| times.end.rfc3339()),
            peak_score: incident.peak_score,
            peak_fps: (incident.peak_fps > 0.0).then_some(incident.peak_fps),
            peak_time: times.peak.rfc3339(),
            scores: incident.peak_scores.clone(),
            threshold: incident.threshold,
            close_reason: close_reason.map(str::to_owned),
            model: context.model.clone().filter(|_| incident.source == EvidenceSource::Classifier),
        },
        clip,
    }
}
