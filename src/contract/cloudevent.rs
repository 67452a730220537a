//! An alert as it travels: one CloudEvents 1.0 message in the structured JSON form, on MQTT 5.
//!
//! What is fixed when the alert is stored is in [`super::alert`]; this adds what is known only when it is
//! sent. `source` and `id` together identify it, also when it is sent again, so a consumer can drop what it
//! has seen.
//!
//! Invariant: a rendered message is smaller than [`MAX_MESSAGE_BYTES`], whatever is in the alert.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::alert::{Alert, AlertKind, ClipReport, ClockState, IncidentReport, ModelRef};
use super::topics::DeviceTopics;
use crate::base::clock::Wall;

/// MQTT content type of an alert.
pub const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";

/// Every alert is smaller than this.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// An alert too large to send has its texts cut to so many characters,
const SHORT_TEXT_CHARS: usize = 200;
/// and only so many of its scores kept, the highest.
const SHORT_SCORES: usize = 16;

/// What is known of an alert only when it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sending {
    /// Its number in the outbox; none: it is not stored.
    pub seq: Option<u64>,
    /// The wall clock now.
    pub publish_time: Wall,
    /// It is sent later than it could have been had the way been open.
    pub replayed: bool,
}

/// The version of CloudEvents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SpecVersion {
    /// 1.0
    #[serde(rename = "1.0")]
    V1,
}

/// CloudEvents `type`: what an alert says, and the version of its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AlertType {
    /// The incident has begun.
    #[serde(rename = "org.vedette.alert.opened.v1")]
    Opened,
    /// It is worse, longer, or of another class than was said.
    #[serde(rename = "org.vedette.alert.updated.v1")]
    Updated,
    /// It is over.
    #[serde(rename = "org.vedette.alert.closed.v1")]
    Closed,
    /// Its clip is on the device's disk, whole.
    #[serde(rename = "org.vedette.alert.clip_ready.v1")]
    ClipReady,
    /// Its clip could not be made.
    #[serde(rename = "org.vedette.alert.clip_lost.v1")]
    ClipLost,
    /// Its clip was uploaded: `clip.url`.
    #[serde(rename = "org.vedette.alert.clip_uploaded.v1")]
    ClipUploaded,
}

impl From<AlertKind> for AlertType {
    fn from(kind: AlertKind) -> Self {
        match kind {
            AlertKind::Opened => AlertType::Opened,
            AlertKind::Updated => AlertType::Updated,
            AlertKind::Closed => AlertType::Closed,
            AlertKind::ClipReady => AlertType::ClipReady,
            AlertKind::ClipLost => AlertType::ClipLost,
            AlertKind::ClipUploaded => AlertType::ClipUploaded,
        }
    }
}

/// The whole message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AlertEvent {
    /// CloudEvents version.
    pub specversion: SpecVersion,
    /// UUIDv7 of this message; the same on a resend.
    pub id: Uuid,
    /// `/vedette/{site}/{device}`
    pub source: String,
    /// What it says.
    #[serde(rename = "type")]
    pub kind: AlertType,
    /// The incident's id.
    pub subject: Uuid,
    /// RFC 3339, UTC: capture time of what it reports.
    pub time: String,
    /// `application/json`
    pub datacontenttype: String,
    /// The message's number on this device, from 1, without gaps: decimal, padded with zeros to 20 digits, so
    /// that it also sorts as text (CloudEvents sequence extension). Confirm it as a number. Absent where `durable` is
    /// false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
    /// False: the device's disk refused the alert and it was sent from memory, once. It comes again as a durable one
    /// with the same `id` if the disk comes back.
    pub durable: bool,
    /// RFC 3339, UTC: the device's clock when it was sent (this time).
    pub publishtime: String,
    /// It was queued before the device's present connection, or waited for long: history, not news.
    pub replayed: bool,
    /// What happened.
    pub data: AlertData,
}

/// The data of an alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AlertData {
    /// The incident as it stood then.
    pub incident: IncidentReport,
    /// Its clip, as far as it was known then.
    pub clip: Option<ClipReport>,
    /// The device's clock when the alert was written.
    pub clock: ClockState,
    /// Texts were cut and low scores left out to keep the message below 64 KiB; absent: nothing was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shortened: bool,
}

impl AlertEvent {
    /// The message that says `alert`.
    pub fn new(topics: &DeviceTopics, alert: &Alert, sending: Sending) -> Self {
        AlertEvent {
            specversion: SpecVersion::V1,
            id: alert.id,
            source: topics.source(),
            kind: alert.kind.into(),
            subject: alert.incident.id,
            time: alert.event_time_unix_ms.rfc3339(),
            datacontenttype: "application/json".into(),
            sequence: sending.seq.map(|seq| format!("{seq:020}")),
            durable: sending.seq.is_some(),
            publishtime: sending.publish_time.rfc3339(),
            replayed: sending.replayed,
            data: AlertData {
                incident: alert.incident.clone(),
                clip: alert.clip.clone(),
                clock: alert.clock,
                shortened: false,
            },
        }
    }

    /// The payload, shortened if it must be.
    pub fn render(&self) -> Vec<u8> {
        let whole = to_json(self);
        if whole.len() < MAX_MESSAGE_BYTES {
            return whole;
        }
        let mut short = self.clone();
        short.data.shorten();
        to_json(&short)
    }
}

/// MQTT user properties by which a broker or consumer routes an alert without opening it.
pub fn user_properties(alert: &Alert, seq: Option<u64>) -> Vec<(String, String)> {
    let kind = match alert.kind {
        AlertKind::Opened => "opened",
        AlertKind::Updated => "updated",
        AlertKind::Closed => "closed",
        AlertKind::ClipReady => "clip_ready",
        AlertKind::ClipLost => "clip_lost",
        AlertKind::ClipUploaded => "clip_uploaded",
    };
    let mut class = alert.incident.class.clone();
    shorten_text(&mut class);
    [
        ("class", class),
        ("kind", kind.into()),
        ("camera", alert.incident.camera.clone()),
        ("test", alert.incident.test.to_string()),
        match seq {
            Some(seq) => ("seq", seq.to_string()),
            None => ("durable", "false".to_owned()),
        },
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn to_json<T: Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).expect("structs of texts and numbers with textual keys are always JSON")
}

impl AlertData {
    fn shorten(&mut self) {
        self.shortened = true;
        let AlertData { incident, clip, clock: _, shortened: _ } = self;
        let IncidentReport { site, device, camera, class, start_time, end_time, peak_time, scores, .. } = incident;
        for text in [site, device, camera, class, start_time, peak_time].into_iter().chain(end_time) {
            shorten_text(text);
        }
        incident.close_reason.iter_mut().for_each(shorten_text);
        if let Some(ModelRef { name, version, digest }) = &mut incident.model {
            [name, version, digest].into_iter().for_each(shorten_text);
        }
        let mut highest: Vec<_> = std::mem::take(scores).into_iter().collect();
        highest.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (mut label, score) in highest.into_iter().take(SHORT_SCORES) {
            shorten_text(&mut label);
            scores.insert(label, score);
        }
        if let Some(ClipReport { planned_start, start, path, sha256, peak_jpeg_path, lost_because, url, .. }) = clip {
            for text in [planned_start, start, path, sha256, peak_jpeg_path, lost_because, url] {
                text.iter_mut().for_each(shorten_text);
            }
        }
    }
}

fn shorten_text(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(SHORT_TEXT_CHARS) {
        text.truncate(end);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// An alert with something in every field.
    pub(crate) fn alert(camera: &str, kind: AlertKind) -> Alert {
        Alert {
            id: Uuid::now_v7(),
            kind,
            event_time_unix_ms: Wall::from_unix_ms(1_700_000_000_123),
            clock: ClockState { synchronised: true, estimated_error_ms: Some(1.5) },
            incident: IncidentReport {
                id: Uuid::now_v7(),
                site: "depot".into(),
                device: "gate-1".into(),
                camera: camera.into(),
                test: false,
                class: "Fighting".into(),
                start_time: "2023-11-14T22:13:20.000Z".into(),
                end_time: None,
                peak_score: 0.93,
                peak_time: "2023-11-14T22:13:20.123Z".into(),
                peak_fps: Some(8.0),
                scores: BTreeMap::from([("Fighting".into(), 0.93), ("Normal".into(), 0.07)]),
                threshold: 0.8,
                close_reason: None,
                model: Some(ModelRef { name: "activity-v1".into(), version: "1.0.0".into(), digest: "ab".repeat(32) }),
            },
            clip: Some(ClipReport { event_offset_ms: Some(10_000), ..ClipReport::default() }),
        }
    }

    fn topics() -> DeviceTopics {
        DeviceTopics::new("depot", "gate-1").unwrap()
    }

    #[test]
    fn is_a_cloudevent() {
        let alert = alert("north", AlertKind::ClipReady);
        let sending = Sending { seq: Some(42), publish_time: Wall::from_unix_ms(1_700_000_001_000), replayed: true };
        let event = AlertEvent::new(&topics(), &alert, sending);
        let json: serde_json::Value = serde_json::from_slice(&event.render()).unwrap();
        assert_eq!(json["specversion"], "1.0");
        assert_eq!(json["id"], alert.id.to_string());
        assert_eq!(json["source"], "/vedette/depot/gate-1");
        assert_eq!(json["type"], "org.vedette.alert.clip_ready.v1");
        assert_eq!(json["subject"], alert.incident.id.to_string());
        assert_eq!(json["time"], "2023-11-14T22:13:20.123Z");
        assert_eq!(json["datacontenttype"], "application/json");
        assert_eq!(json["sequence"], "00000000000000000042");
        assert_eq!(json["publishtime"], "2023-11-14T22:13:21.000Z");
        assert_eq!(json["replayed"], true);
        assert_eq!(json["data"]["incident"]["class"], "Fighting");
        assert_eq!(json["data"]["clip"]["event_offset_ms"], 10_000);
        assert_eq!(json["data"]["clock"]["synchronised"], true);
        assert_eq!(json["data"].get("shortened"), None);
        assert_eq!(json["durable"], true);
        assert_eq!(serde_json::from_value::<AlertEvent>(json).unwrap(), event);
    }

    #[test]
    fn one_that_is_not_stored_says_so_and_has_no_number() {
        let alert = alert("north", AlertKind::Opened);
        let sending = Sending { seq: None, publish_time: Wall::from_unix_ms(0), replayed: false };
        let json: serde_json::Value =
            serde_json::from_slice(&AlertEvent::new(&topics(), &alert, sending).render()).unwrap();
        assert_eq!((&json["durable"], json.get("sequence")), (&false.into(), None));
        assert_eq!(user_properties(&alert, None).pop(), Some(("durable".to_owned(), "false".to_owned())));
    }

    #[test]
    fn properties_tell_what_a_router_needs() {
        let properties = user_properties(&alert("north", AlertKind::Opened), Some(7));
        let expected =
            [("class", "Fighting"), ("kind", "opened"), ("camera", "north"), ("test", "false"), ("seq", "7")];
        assert_eq!(properties, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn is_always_below_64_kib(size in 0usize..60_000, scores in 0usize..3_000, filler in prop_oneof![Just('\u{1}'), Just('𝄞'), Just('x')]) {
            let mut big = alert("north", AlertKind::Closed);
            let text: String = std::iter::repeat_n(filler, size).collect();
            for field in [&mut big.incident.class, &mut big.incident.start_time, &mut big.incident.peak_time] {
                *field = text.clone();
            }
            big.incident.scores = (0..scores).map(|i| (format!("{i}{text:.100}"), 1.0 / scores as f32)).collect();
            big.incident.close_reason = Some(text.clone());
            big.clip = Some(ClipReport { path: Some(text.clone()), lost_because: Some(text.clone()), ..ClipReport::default() });
            let sending = Sending { seq: Some(u64::MAX), publish_time: Wall::from_unix_ms(0), replayed: false };
            let payload = AlertEvent::new(&topics(), &big, sending).render();
            prop_assert!(payload.len() < MAX_MESSAGE_BYTES);
            let back: AlertEvent = serde_json::from_slice(&payload).unwrap();
            prop_assert_eq!(back.id, big.id);
            prop_assert!(back.data.shortened || back.data.incident == big.incident);
        }
    }
}
