//! What is deleted, when, and what is said of it.

use std::time::Duration;

use super::rig::*;
use crate::agent::store::*;
use crate::contract::alert::AlertKind;
use crate::contract::outbox::Outbox;

const DAY: Duration = Duration::from_secs(86_400);

fn clip_state(rig: &Rig, n: u128) -> ClipState {
    let found = rig.store.reader().incident(id(n)).expect("readable").expect("known");
    found.incident.clip.expect("a clip row").state
}

fn files(rig: &Rig) -> Vec<String> {
    let dir = rig.path().join("clips/2023-11-14");
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|e| e.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Lets the writer go round.
fn pass(rig: &Rig, time: Duration) {
    rig.clock.advance(time);
    rig.store.flush().expect("the writer goes round");
    rig.store.flush().expect("the writer goes round");
}

#[test]
fn old_clips_go_and_the_undelivered_wait_for_their_word() {
    let rig = Rig::new(queue_for(&["soc"]));
    rig.store.keep(Limits { keep: 5 * DAY, ..Limits::default() });
    with_clip(&rig, 1, b"one");
    let told = rig.store.status().expect("readable").newest;
    rig.store.confirm("soc", told).expect("writable");
    with_clip(&rig, 2, b"two");
    rig.open_incident(3);
    pass(&rig, 6 * DAY);
    until("the delivered one to go", || clip_state(&rig, 1) == ClipState::Expired);
    assert_eq!(files(&rig), ["2.jpg", "2.mp4"]);
    let gone = rig.store.reader().incident(id(1)).expect("readable").expect("its row stays").incident.clip;
    assert_eq!(
        gone.and_then(|c| c.report.lost_because).as_deref(),
        Some("deleted: older than storage.keep_days"),
        "with its hash and its reason"
    );
    let told = rig.store.status().expect("readable").newest;
    rig.store.confirm("soc", told).expect("writable");
    pass(&rig, DAY);
    until("the other", || clip_state(&rig, 2) == ClipState::Expired);
    assert!(!rig.path().join("clips/2023-11-14").exists(), "and the directory that is empty now");
    assert_eq!((clip_state(&rig, 3), rig.queued().len()), (ClipState::Planned, 0), "nobody hears of it twice");
    let report = check(rig.path(), Repair::No).expect("checked");
    assert!(report.is_clean(), "{report:?}");
    let c = rig.store.counters();
    assert_eq!((c.expired_by_age, c.expired_for_room, c.expired_undelivered), (2, 0, 0));
}

#[test]
fn for_room_the_undelivered_go_last_and_are_told_as_lost() {
    let rig = Rig::new(queue_for(&["soc"]));
    with_clip(&rig, 1, &[0; 100]);
    with_clip(&rig, 2, &[0; 100]);
    let told = rig.store.status().expect("readable").newest;
    rig.store.confirm("soc", told).expect("writable");
    with_clip(&rig, 3, &[0; 100]);
    rig.store.keep(Limits { max_bytes: 250, ..Limits::default() });
    pass(&rig, DAY);
    until("the oldest to go", || clip_state(&rig, 1) == ClipState::Expired);
    assert_eq!((clip_state(&rig, 2), clip_state(&rig, 3)), (ClipState::Done, ClipState::Done));
    // A disk that is full whatever is deleted.
    rig.store.keep(Limits { min_free_bytes: u64::MAX, ..Limits::default() });
    pass(&rig, DAY);
    until("all to go", || files(&rig).is_empty());
    until("their rows", || clip_state(&rig, 3) == ClipState::Expired);
    let last = rig.queued().pop().expect("an alert").alert().clone();
    assert_eq!((last.kind, last.incident.id), (AlertKind::ClipLost, id(3)));
    let because = last.clip.and_then(|c| c.lost_because).expect("a reason");
    assert!(because.contains("storage.min_free_mb"), "{because}");
    let c = rig.store.counters();
    assert_eq!((c.expired_by_age, c.expired_for_room, c.expired_undelivered), (0, 3, 1));
}

#[test]
fn what_a_kill_left_between_file_and_row_is_put_right() {
    let rig = Rig::new(OutboxPolicy::LocalOnly);
    with_clip(&rig, 1, b"one");
    std::fs::remove_file(rig.path().join("clips/2023-11-14/1.mp4")).expect("there");
    rig.store.keep(Limits { keep: DAY, ..Limits::default() });
    pass(&rig, 2 * DAY);
    until("the row to say so", || clip_state(&rig, 1) == ClipState::Expired);
    assert_eq!(files(&rig), [""; 0]);
}

#[test]
fn where_nobody_knows_the_time_the_running_time_counts_over_restarts() {
    let rig = Rig::new(queue_for(&["soc"]));
    rig.synchronised.store(false, std::sync::atomic::Ordering::Relaxed);
    rig.open_incident(1);
    pass(&rig, 20 * DAY);
    // The next run begins with a clock of its own, and for all it knows in 1970.
    let rig = Rig::over(rig.end(), queue_for(&["soc"]));
    rig.synchronised.store(false, std::sync::atomic::Ordering::Relaxed);
    rig.clock.step_wall(crate::base::clock::Wall::from_unix_ms(0));
    pass(&rig, 9 * DAY);
    assert_eq!(rig.queued()[0].seq, 1, "29 days: not yet");
    rig.open_incident(2);
    pass(&rig, 2 * DAY);
    until("the first alert to be given up", || {
        rig.store.status().expect("readable").given_up.first().is_some_and(|g| g.0 == 1)
    });
    assert_eq!(rig.queued().last().map(|r| r.alert().incident.id), Some(id(2)));
}

#[test]
fn rows_of_long_ago_are_forgotten_when_nothing_hangs_on_them() {
    let rig = Rig::new(queue_for(&["soc"]));
    rig.store.keep(Limits { keep: DAY, keep_rows: 10 * DAY, ..Limits::default() });
    with_clip(&rig, 1, b"one");
    rig.store.audit("me", "looked").expect("written");
    let told = rig.store.status().expect("readable").newest;
    rig.store.confirm("soc", told).expect("writable");
    with_clip(&rig, 2, b"two");
    pass(&rig, 11 * DAY);
    until("its clip to go", || {
        rig.store
            .reader()
            .incident(id(1))
            .expect("readable")
            .is_none_or(|i| i.incident.clip.is_some_and(|c| c.state == ClipState::Expired))
    });
    pass(&rig, DAY);
    until("its row", || rig.store.reader().incident(id(1)).expect("readable").is_none());
    assert_eq!(rig.store.reader().audit(9).expect("readable"), []);
    assert_eq!(clip_state(&rig, 2), ClipState::Done, "its alerts wait");
}
