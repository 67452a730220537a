//! The one volatile path (DESIGN section 6): an alert (or a notice) that the disk does not take goes out from memory, marked
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
use crate::contract::outbox::Dispatch;

/// Alerts that wait for the uplink.
const CAPACITY: usize = 64;

/// See the module's doc.
#[derive(Default)]
pub(super) struct Volatile(Mutex<VecDeque<Dispatch>>);

impl Volatile {
    pub(super) fn push(&self, message: Dispatch) {
        let mut waiting = self.lock();
        if waiting.len() == CAPACITY {
            waiting.pop_front();
        }
        waiting.push_back(message);
    }

    pub(super) fn take(&self) -> Vec<Dispatch> {
        self.lock().drain(..).collect()
    }

    /// This one is durable by now.
    pub(super) fn forget(&self, message: Uuid) {
        self.lock().retain(|waiting| waiting.id() != message);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Dispatch>> {
        self.0.lock().expect("nothing panics under this lock")
    }
}

/// The id of the message that tells this of an incident. Both ways out give it, so it depends on nothing else: a UUIDv7
/// of the event's time whose random part is a digest. An incident closes once, whenever that is said to have been.
pub(super) fn message_id(incident: Uuid, kind: AlertKind, event: Wall) -> Uuid {
    match kind {
        AlertKind::Closed => derived_id(incident, "Closed"),
        _ => uuid_v7(event, &format!("{incident} {kind:?} {}", event.unix_ms())),
    }
}

/// The id of the one message that says `what` of that which has this id, a UUIDv7.
pub(super) fn derived_id(id: Uuid, what: &str) -> Uuid {
    uuid_v7(begun(id).unwrap_or(Wall::from_unix_ms(0)), &format!("{id} {what}"))
}

fn uuid_v7(time: Wall, content: &str) -> Uuid {
    let digest = digest::of_bytes(content.as_bytes());
    let mut random = [0; 10];
    for (byte, digit) in random.iter_mut().zip(digest.bytes()) {
        *byte = digit;
    }
    let ms = u64::try_from(time.unix_ms()).unwrap_or(0);
    Builder::from_unix_timestamp_millis(ms, &random).into_uuid()
}

/// When an id was made, which is a UUIDv7.
fn begun(id: Uuid) -> Option<Wall> {
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    Some(Wall::from_unix_ms(i64::try_from(seconds).ok()? * 1000 + i64::from(nanos / 1_000_000)))
}

/// The id of the message that tells of a record.
pub(super) fn message_of(record: &IncidentRecord) -> Uuid {
    let (kind, _) = kind_of(&record.transition);
    message_id(record.transition.incident().id, kind, record.times.event)
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
        id: message_of(record),
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
            model: incident.model.clone(),
            later_model: incident.later_model.clone(),
        },
        clip,
    }
}
