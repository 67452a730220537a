//! Alerts and notices as they travel: CloudEvents 1.0 messages in the structured JSON form, on MQTT 5.
//!
//! What is fixed when one is stored is in [`super::alert`] and [`super::notice`]; this adds what is known only when it is
//! sent. `source` and `id` together identify it, also when it is sent again, so a consumer can drop what it
//! has seen.
//!
//! Invariant: a rendered message is smaller than [`MAX_MESSAGE_BYTES`], whatever is in the alert.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::alert::{Alert, AlertKind, ClipReport, ClockState, IncidentReport, ModelRef, Place, Severity};
use super::notice::{Notice, NoticeKind, TroubleReport};
use super::outbox::Dispatch;
use super::topics::DeviceTopics;
use super::update::{UpdateNotice, UpdateReport};
use crate::base::clock::Wall;

/// MQTT content type of an alert or a notice.
pub const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";

/// Every message is smaller than this.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// An alert too large to send has its texts cut to so many characters,
const SHORT_TEXT_CHARS: usize = 200;
/// and only so many of its scores kept, the highest.
const SHORT_SCORES: usize = 16;

/// A message's place in the order of all that a device says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    /// What it counts within: a device that lost its state has another one.
    pub epoch: Uuid,
    /// From 1, without gaps.
    pub seq: u64,
}

/// What is known of a message only when it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sending {
    /// Its number in the outbox; none: it is not stored.
    pub number: Option<Number>,
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

/// CloudEvents `type` of an alert: what it says, and the version of its data.
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

/// CloudEvents `type` of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NoticeType {
    /// Trouble has begun.
    #[serde(rename = "org.vedette.notice.raised.v1")]
    Raised,
    /// It is over.
    #[serde(rename = "org.vedette.notice.cleared.v1")]
    Cleared,
}

impl From<NoticeKind> for NoticeType {
    fn from(kind: NoticeKind) -> Self {
        match kind {
            NoticeKind::Raised => NoticeType::Raised,
            NoticeKind::Cleared => NoticeType::Cleared,
        }
    }
}

/// CloudEvents `type` of a step of a model release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdateType {
    /// `data.update.state` says which.
    #[serde(rename = "org.vedette.update.v1")]
    Step,
}

/// The whole message: the attributes that all have in common, and the data of its kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "CloudEvent")]
pub struct CloudEvent<T, D> {
    /// CloudEvents version.
    pub specversion: SpecVersion,
    /// UUIDv7 of this message; the same on a resend.
    pub id: Uuid,
    /// `/vedette/{site}/{device}`
    pub source: String,
    /// What it says.
    #[serde(rename = "type")]
    pub kind: T,
    /// The id of the incident, of the trouble, or of the offer of a release.
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
    /// What `sequence` counts within: a device that lost its state begins at 1 in a new epoch. Absent where `sequence`
    /// is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Uuid>,
    /// False: the device's disk refused the alert and it was sent from memory, once. It comes again as a durable one
    /// with the same `id` if the disk comes back.
    pub durable: bool,
    /// RFC 3339, UTC: the device's clock when it was sent (this time).
    pub publishtime: String,
    /// It was queued before the device's present connection, or waited for long: history, not news.
    pub replayed: bool,
    /// What happened.
    pub data: D,
}

/// A message about an incident.
pub type AlertEvent = CloudEvent<AlertType, AlertData>;
/// A message about trouble.
pub type NoticeEvent = CloudEvent<NoticeType, NoticeData>;
/// A message about a model release.
pub type UpdateEvent = CloudEvent<UpdateType, UpdateData>;

/// The data of an alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AlertData {
    /// How bad what it reports would be (CAP 1.2).
    #[serde(default)]
    pub severity: Severity,
    /// Where the camera is; absent where nobody has configured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
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

/// The data of a notice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NoticeData {
    /// What it means for those whom the device guards (CAP 1.2).
    pub severity: Severity,
    /// Where the camera, or the device, is; absent where nobody has configured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// The trouble.
    pub notice: TroubleReport,
    /// The device's clock when the notice was written.
    pub clock: ClockState,
}

/// The data of a step of a model release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateData {
    /// What it means for those whom the device guards (CAP 1.2).
    pub severity: Severity,
    /// Where the device is; absent where nobody has configured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Site.
    pub site: String,
    /// Device.
    pub device: String,
    /// The step.
    pub update: UpdateReport,
    /// The device's clock when the step was written.
    pub clock: ClockState,
}

impl<T, D: Serialize> CloudEvent<T, D> {
    fn with(topics: &DeviceTopics, sending: Sending, of: Of<T>, data: D) -> Self {
        CloudEvent {
            specversion: SpecVersion::V1,
            id: of.id,
            source: topics.source(),
            kind: of.kind,
            subject: of.subject,
            time: of.time.rfc3339(),
            datacontenttype: "application/json".into(),
            sequence: sending.number.map(|n| format!("{:020}", n.seq)),
            epoch: sending.number.map(|n| n.epoch),
            durable: sending.number.is_some(),
            publishtime: sending.publish_time.rfc3339(),
            replayed: sending.replayed,
            data,
        }
    }
}

/// What is in an event's head of what it is about.
struct Of<T> {
    id: Uuid,
    kind: T,
    subject: Uuid,
    time: Wall,
}

impl AlertEvent {
    /// The message that says `alert`.
    pub fn new(topics: &DeviceTopics, alert: &Alert, sending: Sending) -> Self {
        let of =
            Of { id: alert.id, kind: alert.kind.into(), subject: alert.incident.id, time: alert.event_time_unix_ms };
        let data = AlertData {
            severity: alert.severity,
            place: alert.place.clone(),
            incident: alert.incident.clone(),
            clip: alert.clip.clone(),
            clock: alert.clock,
            shortened: false,
        };
        CloudEvent::with(topics, sending, of, data)
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

impl NoticeEvent {
    /// The message that says `notice`.
    pub fn new(topics: &DeviceTopics, notice: &Notice, sending: Sending) -> Self {
        let of =
            Of { id: notice.id, kind: notice.kind.into(), subject: notice.notice.id, time: notice.event_time_unix_ms };
        let Notice { severity, place, notice, clock, .. } = notice.clone();
        CloudEvent::with(topics, sending, of, NoticeData { severity, place, notice, clock })
    }

    /// The payload, shortened if it must be.
    pub fn render(&self) -> Vec<u8> {
        let mut short = self.clone();
        let TroubleReport { site, device, camera, detail, since, .. } = &mut short.data.notice;
        for text in [site, device, detail, since].into_iter().chain(camera) {
            shorten_text(text);
        }
        short.data.place.as_mut().and_then(|p| p.name.as_mut()).map(shorten_text);
        to_json(&short)
    }
}

impl UpdateEvent {
    /// The message that says `step`.
    pub fn new(topics: &DeviceTopics, step: &UpdateNotice, sending: Sending) -> Self {
        let of = Of { id: step.id, kind: UpdateType::Step, subject: step.update.id, time: step.event_time_unix_ms };
        let UpdateNotice { severity, place, site, device, update, clock, .. } = step.clone();
        CloudEvent::with(topics, sending, of, UpdateData { severity, place, site, device, update, clock })
    }

    /// The payload, shortened if it must be.
    pub fn render(&self) -> Vec<u8> {
        let mut short = self.clone();
        let UpdateData { site, device, place, update, .. } = &mut short.data;
        let UpdateReport { model, version, rollout, reason, waiting, from, since, .. } = update;
        let texts = [site, device, since].into_iter();
        texts.chain([model, version, rollout, waiting].into_iter().flatten()).for_each(shorten_text);
        if let Some(reason) = reason {
            shorten_text(&mut reason.words);
        }
        if let Some(ModelRef { name, version, digest }) = from {
            [name, version, digest].into_iter().for_each(shorten_text);
        }
        place.as_mut().and_then(|p| p.name.as_mut()).map(shorten_text);
        to_json(&short)
    }
}

/// The payload of whatever is in the outbox.
pub fn render(topics: &DeviceTopics, dispatch: &Dispatch, sending: Sending) -> Vec<u8> {
    match dispatch {
        Dispatch::Alert(alert) => AlertEvent::new(topics, alert, sending).render(),
        Dispatch::Notice(notice) => NoticeEvent::new(topics, notice, sending).render(),
        Dispatch::Update(step) => UpdateEvent::new(topics, step, sending).render(),
    }
}

/// MQTT user properties by which a broker or consumer routes a message without opening it.
pub fn user_properties(dispatch: &Dispatch, seq: Option<u64>) -> Vec<(String, String)> {
    let mut properties = match dispatch {
        Dispatch::Alert(alert) => {
            let mut class = alert.incident.class.clone();
            shorten_text(&mut class);
            vec![
                ("class", class),
                ("kind", alert.kind.as_str().into()),
                ("camera", alert.incident.camera.clone()),
                ("test", alert.incident.test.to_string()),
                ("severity", alert.severity.as_str().into()),
            ]
        }
        Dispatch::Notice(notice) => {
            let mut properties =
                vec![("trouble", notice.notice.trouble.as_str().to_owned()), ("kind", notice.kind.as_str().into())];
            properties.extend(notice.notice.camera.clone().map(|camera| ("camera", camera)));
            properties.push(("severity", notice.severity.as_str().into()));
            properties
        }
        Dispatch::Update(step) => vec![
            ("update", step.update.state.as_str().to_owned()),
            ("release", step.update.release.to_string()),
            ("severity", step.severity.as_str().into()),
        ],
    };
    properties.push(match seq {
        Some(seq) => ("seq", seq.to_string()),
        None => ("durable", "false".to_owned()),
    });
    properties.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn to_json<T: Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).expect("structs of texts and numbers with textual keys are always JSON")
}

impl AlertData {
    fn shorten(&mut self) {
        self.shortened = true;
        let AlertData { severity: _, place, incident, clip, clock: _, shortened: _ } = self;
        place.as_mut().and_then(|p| p.name.as_mut()).map(shorten_text);
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
        if let Some(ClipReport {
            planned_start,
            start,
            path,
            sha256,
            peak_jpeg_path,
            lost_because,
            url,
            peak_url,
            thumbnail,
            ..
        }) = clip
        {
            *thumbnail = None;
            for text in [planned_start, start, path, sha256, peak_jpeg_path, lost_because, url, peak_url] {
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

    use super::super::notice::Trouble;
    use super::*;

    /// An alert with something in every field.
    pub(crate) fn alert(camera: &str, kind: AlertKind) -> Alert {
        Alert {
            id: Uuid::now_v7(),
            kind,
            event_time_unix_ms: Wall::from_unix_ms(1_700_000_000_123),
            clock: ClockState { synchronised: true, estimated_error_ms: Some(1.5) },
            severity: Severity::Severe,
            place: Some(Place { latitude: 53.54, longitude: 9.98, name: Some("Gate 4".into()) }),
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
                later_model: None,
            },
            clip: Some(ClipReport { event_offset_ms: Some(10_000), ..ClipReport::default() }),
        }
    }

    /// A notice with something in every field.
    pub(crate) fn notice(camera: Option<&str>) -> Notice {
        Notice {
            id: Uuid::now_v7(),
            kind: NoticeKind::Raised,
            event_time_unix_ms: Wall::from_unix_ms(1_700_000_000_123),
            clock: ClockState { synchronised: true, estimated_error_ms: None },
            severity: Severity::Severe,
            place: Some(Place { latitude: -33.9, longitude: 151.2, name: None }),
            notice: TroubleReport {
                id: Uuid::now_v7(),
                site: "depot".into(),
                device: "gate-1".into(),
                camera: camera.map(str::to_owned),
                trouble: Trouble::CameraLost,
                detail: "no route to host".into(),
                since: "2023-11-14T22:13:20.000Z".into(),
            },
        }
    }

    fn number(seq: u64) -> Option<Number> {
        Some(Number { epoch: Uuid::from_u128(9), seq })
    }

    fn topics() -> DeviceTopics {
        DeviceTopics::new("depot", "gate-1").unwrap()
    }

    #[test]
    fn is_a_cloudevent() {
        let alert = alert("north", AlertKind::ClipReady);
        let sending =
            Sending { number: number(42), publish_time: Wall::from_unix_ms(1_700_000_001_000), replayed: true };
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
        assert_eq!(json["epoch"], Uuid::from_u128(9).to_string());
        assert_eq!(json["data"]["severity"], "severe");
        assert_eq!(json["data"]["place"]["latitude"], 53.54);
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
        let sending = Sending { number: None, publish_time: Wall::from_unix_ms(0), replayed: false };
        let json: serde_json::Value =
            serde_json::from_slice(&AlertEvent::new(&topics(), &alert, sending).render()).unwrap();
        assert_eq!((&json["durable"], json.get("sequence"), json.get("epoch")), (&false.into(), None, None));
        assert_eq!(user_properties(&alert.into(), None).pop(), Some(("durable".to_owned(), "false".to_owned())));
    }

    #[test]
    fn properties_tell_what_a_router_needs() {
        let pairs = |dispatch: Dispatch, seq| {
            let properties = user_properties(&dispatch, seq);
            properties.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            pairs(alert("north", AlertKind::Opened).into(), Some(7)),
            "class=Fighting kind=opened camera=north test=false severity=severe seq=7"
        );
        let mut notice = notice(Some("north"));
        assert_eq!(
            pairs(notice.clone().into(), Some(8)),
            "trouble=camera_lost kind=raised camera=north severity=severe seq=8"
        );
        notice.notice.camera = None;
        assert_eq!(pairs(notice.into(), None), "trouble=camera_lost kind=raised severity=severe durable=false");
    }

    #[test]
    fn notices_are_cloudevents_too_however_much_they_say() {
        let mut notice = notice(None);
        let sending = Sending { number: number(3), publish_time: Wall::from_unix_ms(0), replayed: false };
        let event = NoticeEvent::new(&topics(), &notice, sending);
        let json: serde_json::Value = serde_json::from_slice(&event.render()).unwrap();
        assert_eq!(json["type"], "org.vedette.notice.raised.v1");
        assert_eq!(json["subject"], notice.notice.id.to_string());
        assert_eq!(json["data"]["notice"]["trouble"], "camera_lost");
        assert_eq!(json["sequence"], "00000000000000000003");
        notice.notice.detail = "\u{1}".repeat(100_000);
        assert!(render(&topics(), &notice.into(), sending).len() < MAX_MESSAGE_BYTES);
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
            let sending = Sending { number: number(u64::MAX), publish_time: Wall::from_unix_ms(0), replayed: false };
            let payload = AlertEvent::new(&topics(), &big, sending).render();
            prop_assert!(payload.len() < MAX_MESSAGE_BYTES);
            let back: AlertEvent = serde_json::from_slice(&payload).unwrap();
            prop_assert_eq!(back.id, big.id);
            prop_assert!(back.data.shortened || back.data.incident == big.incident);
        }
    }
}
