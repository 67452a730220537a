//! Incidents, clips, alerts, audit and the queries.

use super::rig::*;
use crate::agent::incident::{EvidenceSource, Incident, Transition};
use crate::agent::store::*;
use crate::base::clock::Wall;
use crate::contract::alert::AlertKind;
use crate::contract::outbox::Outbox;
use crate::contract::outbox::testing::{Subject, suite};

fn kinds(rig: &Rig) -> Vec<AlertKind> {
    rig.queued().iter().map(|r| r.alert().kind).collect()
}

fn recording(n: u128) -> ClipRecording {
    ClipRecording { incident: id(n), path: format!("clips/{n}.mp4") }
}

fn done(n: u128) -> ClipDone {
    ClipDone {
        incident: id(n),
        start: Wall::from_unix_ms(T0_MS - 1_500),
        event_offset_ms: 11_500,
        duration_ms: 24_000,
        size_bytes: 3,
        sha256: crate::base::digest::of_bytes(b"mp4"),
        peak_jpeg_path: Some(format!("clips/{n}.jpg")),
        thumbnail: None,
    }
}

#[test]
fn the_store_keeps_the_outbox_s_promises() {
    let rigs = std::cell::RefCell::new(Vec::new());
    suite(|consumers| {
        let rig = std::sync::Arc::new(Rig::new(queue_for(consumers)));
        rigs.borrow_mut().push(std::sync::Arc::clone(&rig));
        let (outbox, mut n) = (std::sync::Arc::new(rig.store.clone()), 0);
        let add = Box::new(move || {
            n += 1;
            rig.open_incident(n);
        });
        Subject { outbox, add }
    });
}

#[test]
fn an_incident_is_told_from_its_opening_to_its_clip() {
    let rig = Rig::new(queue_for(&["soc"]));
    rig.open_incident(1);
    rig.store.clip_recording(recording(1)).expect("recorded");
    let worse = Incident { peak_score: 0.96875, ..incident(1) };
    rig.record(Transition::Updated(worse.clone()));
    rig.record(Transition::Closed(worse, crate::agent::incident::CloseReason::Quiet));
    rig.store.clip_done(done(1)).expect("recorded");

    use AlertKind::*;
    assert_eq!(kinds(&rig), [Opened, Updated, Closed, ClipReady]);
    let rows = rig.queued();
    let (first, last) = (rows[0].alert(), rows[3].alert());
    assert_eq!(
        (first.incident.site.as_str(), first.incident.device.as_str(), first.incident.camera.as_str()),
        ("harbour", "d1", "gate")
    );
    assert_eq!((first.incident.start_time.as_str(), &first.incident.end_time), ("2023-11-14T22:13:30.000Z", &None));
    assert_eq!(first.incident.scores["Fighting"], 0.875);
    assert_eq!(first.incident.model, Some(model()));
    assert_eq!(
        first.clip.as_ref().and_then(|c| c.planned_start.as_deref()),
        Some("2023-11-14T22:13:20.000Z"),
        "the opening says where its clip will start"
    );
    assert_eq!(rows[1].alert().incident.peak_score, 0.96875);
    assert_eq!(last.incident.end_time.as_deref(), Some("2023-11-14T22:13:32.000Z"));
    assert_eq!(last.incident.close_reason.as_deref(), Some("quiet"));
    let clip = last.clip.as_ref().expect("a clip");
    assert_eq!(
        (clip.path.as_deref(), clip.event_offset_ms, clip.size_bytes),
        (Some("clips/1.mp4"), Some(11_500), Some(3))
    );
    assert_eq!(last.event_time_unix_ms, Wall::from_unix_ms(T0_MS - 1_500 + 24_000), "the clip's end");
    let mut ids: Vec<_> = rows.iter().map(|r| r.alert().id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 4, "each message has its own id");
}

#[test]
fn what_is_said_twice_is_told_once() {
    let rig = Rig::new(queue_for(&["soc"]));
    for _ in 0..2 {
        rig.open_incident(1);
        rig.store.clip_recording(recording(1)).expect("recorded");
    }
    for _ in 0..2 {
        rig.store.clip_done(done(1)).expect("recorded");
        rig.record(closed(1));
        rig.store.clip_lost(id(1), "too late").expect("a clip that is done stays done");
    }
    rig.record(Transition::Updated(incident(1)));
    assert_eq!(kinds(&rig), [AlertKind::Opened, AlertKind::ClipReady, AlertKind::Closed]);
    let stored = rig.store.reader().incident(id(1)).expect("readable").expect("known").incident;
    assert_eq!((stored.state, stored.clip.map(|c| c.state)), (IncidentState::Closed, Some(ClipState::Done)));
}

#[test]
fn a_clip_that_cannot_be_is_told_with_its_reason() {
    let rig = Rig::new(queue_for(&["soc"]));
    let refused = ClipIntent::Lost { because: "the clip queue is full".into() };
    rig.store.record(IncidentRecord { clip: refused, ..record(Transition::Opened(incident(1))) }).expect("taken");
    rig.open_incident(2);
    rig.store.clip_lost(id(2), "the ring had no keyframe").expect("recorded");
    use AlertKind::*;
    assert_eq!(kinds(&rig), [Opened, ClipLost, Opened, ClipLost]);
    let because = |row: usize| rig.queued()[row].alert().clip.clone().and_then(|c| c.lost_because);
    assert_eq!(because(1).as_deref(), Some("the clip queue is full"));
    assert_eq!(because(3).as_deref(), Some("the ring had no keyframe"));
    assert!(matches!(rig.store.clip_recording(recording(2)), Err(StoreError::ClipState { found: "lost", .. })));
}

#[test]
fn a_clip_of_an_unknown_incident_is_refused_and_harms_nobody_in_its_batch() {
    let rig = Rig::new(queue_for(&["soc"]));
    for n in 1..=50 {
        rig.store.record(record(Transition::Opened(incident(n)))).expect("taken");
    }
    assert!(matches!(rig.store.clip_recording(recording(99)), Err(StoreError::UnknownIncident(_))));
    assert_eq!(rig.queued().len(), 50);
    rig.open_incident(99);
    assert!(matches!(rig.store.clip_done(done(99)), Err(StoreError::ClipState { found: "planned", .. })));
}

#[test]
fn an_incident_whose_opening_was_refused_is_stored_when_it_closes() {
    let rig = Rig::new(queue_for(&["soc"]));
    rig.record(closed(1));
    assert_eq!(kinds(&rig), [AlertKind::Closed]);
    assert_eq!(rig.store.reader().incidents(&Filter::default()).expect("readable").len(), 1);
}

#[test]
fn without_a_broker_everything_stays_on_the_device() {
    let rig = Rig::new(OutboxPolicy::LocalOnly);
    rig.open_incident(1);
    rig.store.clip_lost(id(1), "x").expect("recorded");
    assert_eq!(rig.store.status().expect("readable").newest, 0);
    assert_eq!(rig.store.reader().incidents(&Filter::default()).expect("readable").len(), 1);
}

#[test]
fn queries_filter_and_put_the_newest_first() {
    let rig = Rig::new(OutboxPolicy::LocalOnly);
    for n in 1..=6u128 {
        let i = Incident {
            camera: crate::agent::config::CameraId::new(if n % 2 == 0 { "yard" } else { "gate" }),
            class: if n > 4 { "Test".into() } else { "Fighting".into() },
            source: if n > 4 { EvidenceSource::Test } else { EvidenceSource::Classifier },
            model: (n <= 4).then(model),
            ..incident(n)
        };
        let mut r = record(if n < 4 { closed(n) } else { Transition::Opened(i.clone()) });
        if let Transition::Closed(c, _) = &mut r.transition {
            *c = i;
        }
        let at = Wall::from_unix_ms(T0_MS + n as i64 * 1000);
        r.times = Times { start: at, end: at, peak: at, event: at, ..r.times };
        rig.store.record(r).expect("taken");
    }
    rig.store.flush().expect("committed");
    let find = |f: Filter| -> Vec<u128> {
        let found = rig.store.reader().incidents(&f).expect("readable");
        found.iter().map(|i| i.report.id.as_u128()).collect()
    };
    let at = |n: i64| Some(Wall::from_unix_ms(T0_MS + n * 1000));
    assert_eq!(find(Filter::default()), [6, 5, 4, 3, 2, 1]);
    assert_eq!(find(Filter { camera: Some("yard".into()), ..Filter::default() }), [6, 4, 2]);
    assert_eq!(find(Filter { class: Some("Test".into()), ..Filter::default() }), [6, 5]);
    assert_eq!(find(Filter { since: at(3), until: at(5), ..Filter::default() }), [4, 3]);
    assert_eq!(find(Filter { state: Some(IncidentState::Open), limit: Some(2), ..Filter::default() }), [6, 5]);

    let shown = rig.store.reader().incident(id(5)).expect("readable").expect("known");
    let json = serde_json::to_value(&shown).expect("serialisable");
    assert_eq!((&json["camera"], &json["test"], &json["state"]), (&"gate".into(), &true.into(), &"open".into()));
    assert_eq!((&json["clip"]["state"], &json["model"]), (&"planned".into(), &serde_json::Value::Null));
    assert_eq!(rig.store.reader().incident(id(77)).expect("readable"), None);
}

#[test]
fn the_audit_trail_says_who_did_what_and_when() {
    let rig = Rig::new(OutboxPolicy::LocalOnly);
    rig.store.audit("page", "raised a test alert").expect("written");
    rig.clock.advance(std::time::Duration::from_secs(1));
    rig.store.audit("root", "closed the store").expect("written");
    let trail = rig.store.reader().audit(10).expect("readable");
    assert_eq!(trail[1].who, "page");
    assert_eq!((trail[0].what.as_str(), trail[0].at_unix_ms.unix_ms()), ("closed the store", T0_MS + 1000));
}
