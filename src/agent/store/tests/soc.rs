//! What the SOC's side needs: epochs, notices, labels, a bound on the outbox.

use std::time::Duration;

use super::rig::*;
use crate::agent::store::*;
use crate::contract::alert::{Place, Severity};
use crate::contract::command::{CommandReport, CommandState, Verdict};
use crate::contract::notice::{NoticeKind, Trouble};
use crate::contract::outbox::{Dispatch, Outbox};

fn epoch(rig: &Rig) -> Uuid {
    rig.store.status().expect("readable").epoch
}

#[test]
fn an_epoch_lasts_over_restarts_and_a_lost_database_and_ends_with_the_state() {
    let rig = Rig::new(queue_for(&["soc"]));
    let first = epoch(&rig);
    assert!(!first.is_nil());
    rig.open_incident(1);
    let rig = Rig::over(rig.end(), queue_for(&["soc"]));
    assert_eq!(epoch(&rig), first);
    let dir = rig.end();
    std::fs::remove_file(database_path(dir.path())).expect("there");
    let rig = Rig::over(dir, queue_for(&["soc"]));
    assert_eq!(epoch(&rig), first);
    rig.open_incident(2);
    assert!(rig.queued()[0].seq > 1, "no number twice within an epoch");
    assert_ne!(epoch(&Rig::new(queue_for(&["soc"]))), first, "another state directory");
}

#[test]
fn trouble_is_told_once_when_it_comes_and_once_when_it_goes() {
    let rig = Rig::new(queue_for(&["soc"]));
    let told = |rig: &Rig| {
        rig.store.flush().expect("committed");
        let notice = |dispatch: Dispatch| match dispatch {
            Dispatch::Notice(n) => n,
            Dispatch::Alert(a) => panic!("no alert was raised: {a:?}"),
            Dispatch::Update(u) => panic!("no release was offered: {u:?}"),
        };
        rig.queued().into_iter().map(|r| notice(r.dispatch)).collect::<Vec<_>>()
    };
    const AGO: Duration = Duration::from_secs(15);
    let gate = Some("gate");
    let began = rig.store.wall() - AGO;
    assert!(rig.store.trouble(gate, Trouble::CameraLost, None), "nothing to clear");
    assert!(rig.store.trouble(gate, Trouble::CameraLost, Some(("no route", AGO))));
    assert!(rig.store.trouble(gate, Trouble::CameraLost, Some(("no route at all", AGO))), "known");
    assert!(rig.store.trouble(None, Trouble::DiskLow, Some(("3 MB", AGO))));
    assert_eq!(told(&rig).len(), 2);
    let rig = Rig::over(rig.end(), queue_for(&["soc"]));
    let raised = rig.store.reader().troubles().expect("readable");
    assert_eq!(raised, [(Some("gate".to_owned()), Trouble::CameraLost), (None, Trouble::DiskLow)]);
    assert!(rig.store.trouble(gate, Trouble::CameraLost, None));
    let notices = told(&rig);
    let [lost, low, back] = &notices[..] else { panic!("{notices:?}") };
    assert_eq!((lost.kind, back.kind), (NoticeKind::Raised, NoticeKind::Cleared));
    assert_eq!((lost.notice.id, &lost.notice.detail), (back.notice.id, &back.notice.detail));
    assert_ne!(lost.id, back.id);
    assert_eq!((&lost.notice.since, &back.notice.since), (&began.rfc3339(), &began.rfc3339()));
    assert_eq!((lost.notice.camera.as_deref(), low.notice.camera.as_deref()), (gate, None));
    assert_eq!((lost.severity, low.notice.trouble), (Severity::Severe, Trouble::DiskLow));
    assert_eq!(rig.queued().iter().map(|r| r.seq).collect::<Vec<_>>(), [1, 2, 3], "numbers of the same count");
}

#[test]
fn alerts_carry_what_the_installer_knows() {
    let place = |latitude| Place { latitude, longitude: 9.98, name: None };
    let labels = |gate: Option<Place>| Labels {
        severities: [("Fighting".to_owned(), Severity::Minor)].into(),
        places: gate.map(|p| ("gate".to_owned(), p)).into_iter().collect(),
        place: Some(place(1.0)),
    };
    for (own, expected) in [(Some(place(2.0)), 2.0), (None, 1.0)] {
        let rig = Rig::with_labels(queue_for(&["soc"]), labels(own));
        rig.open_incident(1);
        let queued = rig.queued();
        let alert = queued[0].alert();
        assert_eq!(alert.severity, Severity::Minor);
        assert_eq!(alert.place.as_ref().map(|p| p.latitude), Some(expected));
    }
    let rig = Rig::new(queue_for(&["soc"]));
    rig.open_incident(1);
    assert_eq!((rig.queued()[0].alert().severity, &rig.queued()[0].alert().place), (Severity::Severe, &None));
}

#[test]
fn an_outbox_that_grows_too_large_lets_go_of_the_oldest_and_says_which() {
    let small =
        OutboxPolicy::Queue { consumers: vec!["soc".into()], keep: Duration::from_secs(86_400), max_bytes: 6_000 };
    let rig = Rig::new(small);
    for n in 1..=20 {
        rig.open_incident(n);
    }
    rig.clock.advance(Duration::from_secs(3600));
    until("the oldest to go", || rig.queued().len() < 20);
    let (rows, status) = (rig.queued(), rig.store.status().expect("readable"));
    let bytes: usize = rows.iter().map(|r| serde_json::to_string(&r.dispatch).expect("plain data").len()).sum();
    assert!((4_000..=6_000).contains(&bytes), "{bytes} bytes are kept");
    assert_eq!(status.oldest_kept, Some(rows[0].seq));
    assert_eq!(status.given_up, [(1, rows[0].seq - 1)]);
    assert_eq!(rig.store.counters().given_up, rows[0].seq - 1);
    assert_eq!(status.newest, 20);
}

#[test]
fn a_row_tells_what_of_its_incident_has_not_gone_yet() {
    let rig = Rig::new(queue_for(&["soc"]));
    rig.open_incident(1);
    rig.open_incident(2);
    rig.record(closed(1));
    rig.store.flush().expect("committed");
    let after =
        || rig.store.pending(0, 9).expect("readable").into_iter().map(|row| (row.seq, row.after)).collect::<Vec<_>>();
    assert_eq!(after(), [(1, None), (2, None), (3, Some(1))]);
    rig.store.mark_sent(&[1]).expect("writable");
    assert_eq!(after(), [(2, None), (3, None)]);
    rig.store.resend(1, 1).expect("writable");
    assert_eq!(after(), [(1, None), (2, None), (3, Some(1))]);
}

#[test]
fn verdicts_stand_beside_their_incidents_and_are_counted() {
    let rig = Rig::new(queue_for(&["soc"]));
    let say = |n, verdict| {
        let words = Some("seen on the clip".to_owned());
        rig.store.put_verdict(VerdictRow { incident: id(n), verdict, words, who: "operator 7".into() })
    };
    for n in 1..=4 {
        rig.open_incident(n);
    }
    for (n, verdict) in
        [(1, Verdict::Unclear), (1, Verdict::Confirmed), (2, Verdict::FalseAlarm), (3, Verdict::Confirmed)]
    {
        say(n, verdict).expect("written");
    }
    assert!(matches!(say(9, Verdict::Confirmed), Err(StoreError::UnknownIncident(_))));
    let detail = rig.store.reader().incident(id(1)).expect("readable").expect("known");
    let verdict = detail.verdict.expect("the last one");
    assert_eq!((verdict.verdict, verdict.who.as_str()), (Verdict::Confirmed, "operator 7"));
    assert_eq!(rig.store.reader().incident(id(4)).expect("readable").expect("known").verdict, None);
    let counts = rig.store.reader().verdicts(None, None).expect("readable")["gate"]["Fighting"];
    assert_eq!(counts, VerdictCounts { confirmed: 2, false_alarms: 1, unclear: 0 });
    assert_eq!(counts.precision(), Some(2.0 / 3.0));
    assert_eq!(VerdictCounts { unclear: 3, ..VerdictCounts::default() }.precision(), None);
    let later = Some(Wall::from_unix_ms(T0_MS + 86_400_000));
    assert!(rig.store.reader().verdicts(later, None).expect("readable").is_empty());
}

#[test]
fn only_the_newest_commands_are_remembered() {
    let rig = Rig::new(OutboxPolicy::LocalOnly);
    let put = |n: usize, state| {
        let report = CommandReport { id: format!("c{n}"), state, reason: None, result: None, since: String::new() };
        let row = CommandRow { asked: "{}".into(), received: Wall::from_unix_ms(T0_MS), report };
        rig.store.put_command(row).expect("written");
    };
    put(0, CommandState::InProgress);
    (1..=1_001).for_each(|n| put(n, CommandState::Succeeded));
    let known = |n: usize| rig.store.reader().command(&format!("c{n}")).expect("readable").is_some();
    assert!(known(0), "one that is not over is kept");
    assert!(!known(1) && known(2) && known(1_001));
}
