//! Power cuts, failing disks, other daemons, other versions, other consumers, and time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use rusqlite::Connection;

use super::rig::*;
use crate::agent::incident::Transition;
use crate::agent::store::*;
use crate::base::clock::{ManualClock, Wall};
use crate::base::error::Retry;
use crate::base::progress::Beat;
use crate::contract::alert::{Alert, AlertKind};
use crate::contract::outbox::Outbox;

#[test]
fn what_was_answered_survives_a_power_cut_and_many_share_a_commit() {
    let rig = Rig::new(queue_for(&["soc"]));
    let (threads, each) = (8, 5);
    let start = Barrier::new(threads);
    std::thread::scope(|s| {
        for t in 0..threads {
            let (rig, start) = (&rig, &start);
            s.spawn(move || {
                start.wait();
                for i in 0..each {
                    rig.open_incident((t * each + i + 1) as u128);
                }
            });
        }
    });
    let after = Rig::over(rig.power_cut(), queue_for(&["soc"]));
    let rows = after.queued();
    let opened = rows.iter().filter(|r| r.alert().kind == AlertKind::Opened).count();
    assert_eq!(opened, threads * each);
    assert!(rows.iter().zip(1..).all(|(row, seq)| row.seq == seq), "numbers without gaps");
}

#[test]
fn what_a_killed_daemon_left_open_is_closed_and_said_so() {
    let rig = Rig::new(queue_for(&["soc"]));
    for n in 1..=3 {
        rig.open_incident(n);
    }
    rig.record(closed(3));
    let clip = ClipRecording { incident: id(2), path: "clips/2.mp4".into() };
    rig.store.clip_recording(clip).expect("recorded");
    rig.store.clip_lost(id(3), "x").expect("recorded");

    let after = Rig::over(rig.power_cut(), queue_for(&["soc"]));
    let told: Vec<_> = after.queued().into_iter().skip(5).map(|r| (r.alert().kind, r.alert().incident.id)).collect();
    use AlertKind::*;
    assert_eq!(told, [(Closed, id(1)), (Closed, id(2)), (ClipLost, id(1))]);
    let stored = after.store.reader().incident(id(2)).expect("readable").expect("known").incident;
    assert_eq!(stored.report.close_reason.as_deref(), Some("interrupted"));
    assert_eq!(stored.report.end_time.as_deref(), Some("2023-11-14T22:13:32.000Z"), "its last evidence");
    let clip = stored.clip.expect("a clip row");
    assert_eq!((clip.state, clip.report.path.as_deref()), (ClipState::Recording, Some("clips/2.mp4")));
    // Its file decides, see `clip::recovery`; so does that of a clip given up with one.
    let unfinished = after.store.reader().unfinished_clips().expect("readable");
    assert_eq!(unfinished.iter().map(|c| (c.incident, c.lost)).collect::<Vec<_>>(), [(id(2), false)]);
    after.store.clip_lost(id(2), "the disk was full").expect("recorded");
    assert!(after.store.reader().unfinished_clips().expect("readable")[0].lost);
    // Once is enough.
    let again = Rig::over(after.end(), queue_for(&["soc"]));
    assert_eq!(again.queued().len(), 9);
}

#[test]
fn a_second_daemon_is_locked_out_until_the_first_ends() {
    let rig = Rig::new(OutboxPolicy::LocalOnly);
    let open = || Store::open(rig.path(), rig.context.clone(), rig.clock.clone());
    let refused = open().err().expect("the first holds the lock");
    assert!(matches!(refused, StoreError::Locked { .. }), "{refused}");
    assert!(refused.to_string().contains("vedette.lock"));
    let dir = rig.end();
    Rig::over(dir, OutboxPolicy::LocalOnly).open_incident(1);
}

#[test]
fn a_database_that_another_program_holds_is_waited_for_and_then_named() {
    let dir = Rig::new(OutboxPolicy::LocalOnly).end();
    let other = Connection::open(database_path(dir.path())).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let open = || {
        let c = context(OutboxPolicy::LocalOnly, &Arc::new(AtomicBool::new(true)));
        Store::open(dir.path(), c, Arc::new(ManualClock::new(Wall::from_unix_ms(T0_MS))))
    };
    let e = open().err().expect("it is locked");
    assert!(matches!(&e, StoreError::Held { .. }) && e.retry() == Retry::Later, "{e}");
    assert!(e.to_string().contains("vedette.db is locked by") && e.to_string().contains("close that program"), "{e}");
    other.execute_batch("ROLLBACK").expect("unlocked");
    assert!(open().is_ok());
}

#[test]
fn a_disk_that_refuses_is_told_and_what_was_taken_is_kept_for_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let synchronised = Arc::new(AtomicBool::new(true));
    let clock = Arc::new(ManualClock::new(Wall::from_unix_ms(T0_MS)));
    let (store, writer) =
        Store::open(dir.path(), context(queue_for(&["soc"]), &synchronised), clock.clone()).expect("opens");
    writer.impatient();
    // Another connection's write lock stands for the disk: every commit fails, and may succeed later.
    let wall = Connection::open(database_path(dir.path())).expect("opens");
    wall.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let thread = std::thread::spawn(move || writer.run(&Beat::detached()));

    store.record(record(Transition::Opened(incident(1)))).expect("taken: nobody knows yet");
    until("the store notices", || store.is_failing());
    store.record(record(Transition::Opened(incident(2)))).expect("kept until the disk is back");
    let told = store.audit("me", "x").expect_err("not committed");
    assert_eq!(told.retry(), Retry::Later, "{told}");
    assert!(told.to_string().contains("vedette.db is locked by"), "{told}");
    assert_eq!(store.reader().incidents(&Filter::default()).expect("readers go on"), []);

    // Meanwhile they go out from memory, once.
    let passed: Vec<_> = store.take_volatile();
    assert_eq!(passed.iter().map(Dispatch::subject).collect::<Vec<_>>(), [id(1), id(2)]);
    assert_eq!(store.take_volatile(), []);

    wall.execute_batch("ROLLBACK").expect("unlocked");
    until("what was taken is written", || {
        clock.advance(Duration::from_secs(1));
        !store.is_failing()
    });
    store.record(record(closed(1))).expect("taken");
    store.flush().expect("committed");
    let rows = store.range(0, 9, 9).expect("readable");
    let kinds: Vec<_> = rows.iter().map(|r| r.alert().kind).collect();
    assert_eq!(kinds, [AlertKind::Opened, AlertKind::Opened, AlertKind::Closed]);
    let same = |a: &Alert, b: &Alert| (a.id, &a.incident) == (b.id, &b.incident);
    assert!(
        passed.iter().zip(&rows).all(|(a, row)| same(a.alert().expect("an alert"), row.alert())),
        "the same message comes again, as a row"
    );
    let c = store.counters();
    assert!((c.refused, c.lost) == (0, 0) && c.failed_commits > 0, "{c:?}");
    store.close();
    thread.join().expect("no panic").expect("ended well");
    assert!(matches!(store.audit("me", "x"), Err(StoreError::Ended { .. })));
    let back = store.record(record(closed(1))).expect_err("refused");
    assert_eq!(back.because, Refusal::Ended);
}

#[test]
fn records_that_a_full_disk_never_took_are_counted_at_the_end() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let synchronised = Arc::new(AtomicBool::new(true));
    let clock = Arc::new(ManualClock::new(Wall::from_unix_ms(T0_MS)));
    let (store, writer) =
        Store::open(dir.path(), context(OutboxPolicy::LocalOnly, &synchronised), clock).expect("opens");
    writer.full();
    let mut big = incident(1);
    big.peak_scores = (0..20_000).map(|i| (format!("class {i}"), 0.0)).collect();
    store.record(record(Transition::Opened(big))).expect("taken: nobody knows yet");
    let thread = std::thread::spawn(move || writer.run(&Beat::detached()));
    until("the store notices", || store.is_failing());
    // It keeps what comes, up to its bound, and then hands back instead of growing.
    until("the bound", || {
        store.record(record(closed(1))).is_err_and(|back| matches!(back.because, Refusal::Failing | Refusal::Full))
    });
    store.close();
    thread.join().expect("no panic").expect("ended well");
    let c = store.counters();
    assert!(c.lost >= 1_024 && c.refused >= 1, "every one is counted: {c:?}");
}

#[test]
fn a_newer_a_foreign_and_a_damaged_database_are_refused_by_name() {
    let open = |dir: &std::path::Path| {
        let c = context(OutboxPolicy::LocalOnly, &Arc::new(AtomicBool::new(true)));
        Store::open(dir, c, Arc::new(ManualClock::new(Wall::from_unix_ms(T0_MS)))).err().expect("refused")
    };
    let dir = Rig::new(OutboxPolicy::LocalOnly).end();
    let db = database_path(dir.path());
    Connection::open(&db).and_then(|c| c.pragma_update(None, "user_version", 99)).expect("changed");
    let e = open(dir.path());
    assert!(matches!(e, StoreError::Newer { found: 99, known: 7, .. }), "{e}");
    assert!(matches!(Reader::open(dir.path()), Err(StoreError::Newer { .. })));

    let dir = tempfile::tempdir().expect("a temporary directory");
    let db = database_path(dir.path());
    Connection::open(&db).and_then(|c| c.execute_batch("CREATE TABLE t (x)")).expect("made");
    assert!(matches!(open(dir.path()), StoreError::Foreign { .. }));
}

fn files(dir: &std::path::Path, with: &str) -> Vec<String> {
    let names = std::fs::read_dir(dir).expect("readable");
    let names = names.map(|e| e.expect("readable").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains(with)).collect()
}

#[test]
fn what_is_no_database_is_set_aside_and_kept() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(database_path(dir.path()), vec![b'x'; 8192]).expect("written");
    let rig = Rig::over(dir, queue_for(&["soc"]));
    rig.open_incident(1);
    assert_eq!(rig.queued()[0].seq, 1);
    let [aside] = &files(rig.path(), ".damaged-")[..] else { panic!("one file is set aside") };
    assert_eq!(std::fs::read(rig.path().join(aside)).expect("kept"), vec![b'x'; 8192]);
    assert!(files(rig.path(), "db-damaged").is_empty(), "the mark is gone");
    assert!(rig.store.reader().audit(1).expect("readable")[0].what.contains(aside.as_str()));
}

#[test]
fn a_database_of_the_first_version_is_taken_over() {
    let rig = Rig::new(OutboxPolicy::LocalOnly);
    rig.open_incident(1);
    rig.store.clip_lost(id(1), "no video").expect("written");
    let dir = rig.end();
    let old = "DROP TABLE updates; ALTER TABLE incidents DROP COLUMN later_model; DROP INDEX outbox_pending_of; DROP TABLE uploads; DROP TABLE epoch; DROP TABLE troubles; DROP TABLE verdicts; DROP TABLE commands; \
               DROP TRIGGER outbox_grows; DROP TRIGGER outbox_shrinks; ALTER TABLE routes DROP COLUMN bytes; ALTER TABLE routes DROP COLUMN kept; \
               ALTER TABLE incidents DROP COLUMN peak_fps; ALTER TABLE incidents DROP COLUMN clock; \
               DROP INDEX outbox_by_incident; ALTER TABLE outbox DROP COLUMN made_ran_ms; DROP TABLE running; \
               DROP INDEX clips_done; ALTER TABLE clips DROP COLUMN aged_from_ms; \
               ALTER TABLE clips DROP COLUMN made_ran_ms; PRAGMA user_version = 1";
    Connection::open(database_path(dir.path())).and_then(|c| c.execute_batch(old)).expect("changed");
    let rig = Rig::over(dir, OutboxPolicy::LocalOnly);
    rig.open_incident(2);
    let rows = rig.store.reader().incidents(&Filter::default()).expect("readable");
    let of = |n| rows.iter().find(|r| r.report.id == id(n)).map(|r| (r.report.peak_fps, r.clock)).expect("kept");
    assert_eq!(of(1), (None, None));
    assert!(rows.iter().any(|r| r.report.id == id(1) && r.clip.is_some()), "what refers to it is kept");
    assert_eq!(of(2), (Some(8.0), Some(SYNCHRONISED)));
}

#[test]
fn a_damaged_page_is_found_after_an_unclean_end() {
    let rig = Rig::new(queue_for(&["soc"]));
    for n in 1..=200 {
        rig.store.record(record(closed(n))).expect("taken");
    }
    // A clean end folds the log into the database; what the next run writes is in the log again.
    let rig = Rig::over(rig.end(), queue_for(&["soc"]));
    rig.store.audit("me", "x").expect("written");
    let cut = rig.power_cut();
    let db = database_path(cut.path());
    let mut bytes = std::fs::read(&db).expect("readable");
    let middle = bytes.len() / 8192 * 4096;
    assert!(middle > 40_000, "the log was folded in");
    bytes[middle..middle + 4096].fill(0xA5);
    std::fs::write(&db, bytes).expect("writable");
    rig.store.confirm("soc", 50).expect("written");
    let after = Rig::over(cut, queue_for(&["soc"]));
    // All but what stood on that page is there, and what comes is numbered above all that was ever given out.
    let saved = after.store.reader().incidents(&Filter::default()).expect("readable").len();
    assert!((100..=200).contains(&saved), "{saved} of 200");
    let rows = after.queued();
    after.open_incident(999);
    let newest = after.store.status().expect("readable").newest;
    assert!(newest > 1_000, "{newest}");
    // A consumer finds each number in the outbox or among those given up.
    let status = after.store.status().expect("readable");
    let given_up = |seq: u64| status.given_up.iter().any(|(a, b)| (*a..=*b).contains(&seq));
    let held = |seq: u64| rows.iter().any(|r| r.seq == seq);
    assert!((1..newest).all(|seq| given_up(seq) != held(seq)), "{:?}", status.given_up);
    // An old confirmation lets go of nothing that is new.
    after.store.confirm("soc", 200).expect("writable");
    assert_eq!(after.queued().last().map(|r| r.seq), Some(newest));
    let kept = files(after.path(), ".damaged-");
    assert!(kept.iter().any(|name| !name.ends_with("-wal") && !name.ends_with("-shm")), "{kept:?}");
    let again = Rig::over(after.end(), queue_for(&["soc"]));
    assert_eq!(again.store.status().expect("readable").newest, newest + 2, "once is enough; what was open is closed");
}

#[test]
fn damage_that_only_a_reader_meets_ends_the_writer_and_the_next_start_carries_over() {
    let rig = Rig::new(queue_for(&["soc"]));
    for n in 1..=200 {
        rig.store.record(record(closed(n))).expect("taken");
    }
    let dir = rig.end();
    let db = database_path(dir.path());
    let mut bytes = std::fs::read(&db).expect("readable");
    let middle = bytes.len() / 8192 * 4096;
    bytes[middle..middle + 4096].fill(0xA5);
    std::fs::write(&db, bytes).expect("writable");
    // A clean end: nobody looks for damage at the start.
    let mut rig = Rig::over(dir, queue_for(&["soc"]));
    rig.store.reader().incidents(&Filter::default()).err();
    rig.store.range(0, u64::MAX, usize::MAX).err();
    until("the writer to end", || rig.store.flush().is_err());
    let ended = rig.stop().expect_err("it says why");
    assert!(ended.is_corruption() && ended.to_string().contains("sets it aside"), "{ended}");
    let dir = std::mem::replace(&mut rig.dir, tempfile::tempdir().expect("a temporary directory"));
    let after = Rig::over(dir, queue_for(&["soc"]));
    assert!(after.store.reader().incidents(&Filter::default()).expect("readable").len() >= 100);
    after.open_incident(999);
}

#[test]
fn a_database_that_is_gone_takes_no_number_with_it() {
    let rig = Rig::new(queue_for(&["soc"]));
    for n in 1..=5 {
        rig.open_incident(n);
    }
    let dir = rig.end();
    std::fs::remove_file(database_path(dir.path())).expect("there");
    let rig = Rig::over(dir, queue_for(&["soc"]));
    let status = rig.store.status().expect("readable");
    assert!(status.newest >= 5 && status.given_up == [(1, status.newest)], "{status:?}");
    rig.open_incident(6);
    rig.store.confirm("soc", 5).expect("writable");
    assert_eq!(rig.queued().len(), 1, "it was confirmed by nobody");
}

#[test]
fn rows_too_old_are_given_up_and_their_range_is_told() {
    let rig = Rig::new(queue_for(&["soc"]));
    rig.open_incident(1);
    rig.open_incident(2);
    rig.store.mark_sent(&[1]).expect("writable");
    rig.clock.advance(Duration::from_secs(20 * 86_400));
    rig.open_incident(3);
    rig.clock.advance(Duration::from_secs(15 * 86_400));
    until("old rows go", || rig.store.status().expect("readable").oldest_kept == Some(3));
    let status = rig.store.status().expect("readable");
    assert_eq!((status.newest, status.given_up), (3, vec![(1, 2)]));
    rig.clock.advance(Duration::from_secs(20 * 86_400));
    until("more rows go", || rig.store.status().expect("readable").given_up == [(1, 3)]);
    // A consumer that is past it needs to hear of it no longer.
    rig.store.confirm("soc", 3).expect("writable");
    assert_eq!(rig.store.status().expect("readable").given_up, []);
}

#[test]
fn an_alert_says_what_the_clock_was_worth_when_its_incident_opened_and_ages_by_what_it_is_worth_now() {
    let rig = Rig::new(queue_for(&["soc"]));
    rig.open_incident(1);
    // The power fails, the clock begins in 1970, and only then the incident closes.
    rig.synchronised.store(false, Ordering::Relaxed);
    rig.clock.step_wall(Wall::from_unix_ms(5_000));
    rig.record(closed(1));
    assert!(rig.queued().iter().all(|row| row.alert().clock.synchronised), "its times are of the first clock");
    let conn = Connection::open(database_path(rig.path())).expect("opens");
    let ages: Vec<Option<i64>> = conn
        .prepare("SELECT aged_from_ms FROM outbox ORDER BY seq")
        .and_then(|mut s| s.query_map([], |r| r.get(0))?.collect())
        .expect("readable");
    assert_eq!(ages, [Some(T0_MS), None], "56 years old it would be given up as soon as the clock is set");
}

#[test]
fn a_clock_that_was_wrong_throws_nothing_away() {
    let rig = Rig::new(queue_for(&["soc"]));
    // The device boots in 1970, sees an incident, and learns the time.
    rig.synchronised.store(false, Ordering::Relaxed);
    rig.clock.step_wall(Wall::from_unix_ms(0));
    rig.open_incident(1);
    rig.clock.step_wall(Wall::from_unix_ms(T0_MS));
    rig.synchronised.store(true, Ordering::Relaxed);
    rig.clock.advance(Duration::from_secs(3600));
    rig.open_incident(2);
    let ages = || {
        let conn = Connection::open(database_path(rig.path())).expect("opens");
        conn.query_row("SELECT aged_from_ms FROM outbox WHERE seq = 1", [], |r| r.get::<_, Option<i64>>(0))
            .expect("still there")
    };
    until("its age counts from now", || ages().is_some());
    assert!(ages() >= Some(T0_MS));
    assert_eq!(rig.queued().len(), 2);
}

#[test]
fn other_consumers_after_a_restart_release_or_keep() {
    let rig = Rig::new(queue_for(&["soc", "archive"]));
    for n in 1..=4 {
        rig.record(closed(n));
    }
    rig.store.confirm("soc", 3).expect("writable");
    rig.store.mark_sent(&[4]).expect("writable");
    let rig = Rig::over(rig.end(), OutboxPolicy::LocalOnly);
    assert_eq!(rig.queued().len(), 4, "without a broker what is queued waits");
    let rig = Rig::over(rig.end(), queue_for(&["soc", "new"]));
    assert_eq!(rig.queued().len(), 4);
    let rig = Rig::over(rig.end(), queue_for(&["soc"]));
    assert_eq!(rig.queued().iter().map(|r| r.seq).collect::<Vec<_>>(), [4]);
    let rig = Rig::over(rig.end(), queue_for(&[]));
    assert_eq!(rig.queued().len(), 0);
    rig.record(closed(5));
    assert_eq!(rig.queued()[0].seq, 5, "numbers go on over all of it");
}
