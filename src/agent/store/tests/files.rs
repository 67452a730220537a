//! `store check`: rows against files.

use std::fs;

use super::rig::*;
use crate::agent::incident::Transition;
use crate::agent::store::*;
use crate::contract::alert::AlertKind;

#[test]
fn a_sound_store_is_clean_and_may_be_looked_at_while_it_works() {
    let rig = Rig::new(queue_for(&["soc"]));
    with_clip(&rig, 1, b"one");
    rig.open_incident(2);
    let report = check(rig.path(), Repair::No).expect("checked");
    assert!(report.is_clean() && report.daemon_running, "{report:?}");
    assert_eq!((report.incidents, report.clips_done, report.outbox_rows), (2, 1, 4));
    let repair = Repair::Yes { context: &rig.context, clock: rig.clock.as_ref() };
    assert!(matches!(check(rig.path(), repair), Err(StoreError::Locked { .. })));
}

#[test]
fn an_empty_directory_is_left_empty() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let rig = Rig::new(OutboxPolicy::LocalOnly);
    let repair = Repair::Yes { context: &rig.context, clock: rig.clock.as_ref() };
    assert!(matches!(check(dir.path(), Repair::No), Err(StoreError::Absent { .. })));
    assert!(matches!(check(dir.path(), repair), Err(StoreError::Absent { .. })));
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
}

#[test]
fn what_disagrees_is_found_and_put_right_without_deleting_anything() {
    let rig = Rig::new(queue_for(&["soc"]));
    for n in 1..=3 {
        with_clip(&rig, n, b"video");
    }
    rig.open_incident(4);
    let clips = rig.path().join("clips/2023-11-14");
    fs::remove_file(clips.join("1.mp4")).expect("removed");
    fs::write(clips.join("2.mp4"), b"vide0").expect("written");
    fs::write(clips.join("9.mp4"), b"?").expect("written");
    fs::write(clips.join("4.mp4.part"), b"?").expect("written");
    // The daemon is killed.
    let cut = rig.power_cut();
    fs::create_dir_all(cut.path().join("clips/2023-11-14")).expect("made");
    for entry in fs::read_dir(&clips).expect("readable") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), cut.path().join("clips/2023-11-14").join(entry.file_name())).expect("copied");
    }

    let report = check(cut.path(), Repair::No).expect("checked");
    assert!(!report.is_clean() && !report.daemon_running);
    assert_eq!(report.integrity, [""; 0]);
    assert!(
        matches!(&report.clip_faults[..], [ClipFault::Missing { incident: a, .. }, ClipFault::Changed { incident: b, .. }]
            if (*a, *b) == (id(1), id(2))),
        "{report:?}"
    );
    assert_eq!(report.orphan_files, ["clips/2023-11-14/9.mp4"]);
    assert_eq!(report.partial_files, ["clips/2023-11-14/4.mp4.part"]);
    assert_eq!((report.open_incidents.clone(), report.unfinished_clips.clone()), (vec![id(4)], vec![id(4)]));
    let again = check(cut.path(), Repair::No).expect("checked");
    assert_eq!(again, report, "looking changes nothing");

    // That is `clip::recovery`'s, which comes before.
    fs::remove_file(cut.path().join("clips/2023-11-14/4.mp4.part")).expect("there");
    let repair = Repair::Yes { context: &rig.context, clock: rig.clock.as_ref() };
    let repaired = check(cut.path(), repair).expect("repaired");
    assert!(repaired.is_clean() && repaired.repaired.len() == 4, "{repaired:?}");
    assert!(cut.path().join("clips/2023-11-14/2.mp4").exists() && cut.path().join("clips/2023-11-14/9.mp4").exists());
    let after = Rig::over(cut, queue_for(&["soc"]));
    let told: Vec<_> = after.queued().into_iter().skip(10).map(|r| (r.alert().kind, r.alert().incident.id)).collect();
    use AlertKind::*;
    assert_eq!(told, [(Closed, id(4)), (ClipLost, id(4)), (ClipLost, id(1)), (ClipLost, id(2))]);
}

#[test]
fn a_damaged_page_is_reported() {
    let rig = Rig::new(queue_for(&["soc"]));
    for n in 1..=200 {
        rig.store.record(record(Transition::Opened(incident(n)))).expect("taken");
    }
    let dir = rig.end();
    let db = database_path(dir.path());
    let mut bytes = fs::read(&db).expect("readable");
    let middle = bytes.len() / 8192 * 4096;
    assert!(middle > 40_000, "the log was folded in");
    bytes[middle..middle + 4096].fill(0xA5);
    fs::write(&db, bytes).expect("writable");
    let report = check(dir.path(), Repair::No).expect("checked");
    assert!(!report.integrity.is_empty() && !report.is_clean(), "{report:?}");
}

#[test]
fn a_rotten_row_in_a_sound_page_is_reported() {
    let rig = Rig::new(queue_for(&["soc"]));
    rig.open_incident(1);
    let dir = rig.end();
    let db = rusqlite::Connection::open(database_path(dir.path())).expect("opens");
    db.execute("UPDATE outbox SET alert = replace(alert, '{', '(')", []).expect("changed");
    drop(db);
    let report = check(dir.path(), Repair::No).expect("checked");
    assert!(report.integrity.len() == 1 && report.integrity[0].contains("an alert"), "{report:?}");
}
