use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::agent::store::{DeviceContext, Labels, OutboxPolicy};
use crate::base::clock::ManualClock;
use crate::contract::alert::ClockState;

/// A clock's time at the start: 1970-01-01T00:16:40Z.
const T0_MS: i64 = 1_000_000;

/// Notes what it is asked, and answers snapshots as it is told.
#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<(String, Command)>>,
    too_much: AtomicBool,
}

impl CommandSink for Fake {
    fn submit(&self, from: &str, command: Command) -> CommandOutcome {
        self.asked.lock().expect("no panic").push((from.to_owned(), command.clone()));
        match command {
            Command::Snapshot { .. } if self.too_much.load(Ordering::Relaxed) => {
                CommandOutcome::done(json!("x".repeat(RESULT_BYTES)))
            }
            Command::Snapshot { .. } => CommandOutcome::done(json!({ "width": 2 })),
            Command::Reload {} => CommandOutcome::Failed { reason: "no file".into() },
            Command::Arm { .. } => CommandOutcome::Rejected { reason: "no such camera".into() },
            _ => CommandOutcome::done(serde_json::Value::Null),
        }
    }
}

struct Rig {
    dir: TempDir,
    clock: Arc<ManualClock>,
    fake: Arc<Fake>,
    desk: Desk,
    store: Store,
    stop: StopToken,
    knows_time: Arc<AtomicBool>,
    receipts: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Rig {
    fn new() -> Rig {
        Rig::over(tempfile::tempdir().expect("a temporary directory"))
    }

    fn over(dir: TempDir) -> Rig {
        let clock = Arc::new(ManualClock::new(Wall::from_unix_ms(T0_MS)));
        let context = DeviceContext {
            site: "harbour".into(),
            device: "d1".into(),
            outbox: OutboxPolicy::LocalOnly,
            labels: Labels::default(),
            clock_state: Arc::new(|| ClockState { synchronised: true, estimated_error_ms: None }),
        };
        let (store, writer) = Store::open(dir.path(), context, clock.clone()).expect("the store opens");
        let writing = std::thread::spawn(move || writer.run(&Beat::detached()).expect("the writer ends well"));
        let (desk, fake, stop) = (Desk::new(store.clone()), Arc::new(Fake::default()), StopToken::new());
        let knows_time = Arc::new(AtomicBool::new(true));
        let clerk = Clerk {
            desk: desk.clone(),
            sink: fake.clone(),
            clock: clock.clone(),
            knows_time_of_day: {
                let knows_time = knows_time.clone();
                Box::new(move || knows_time.load(Ordering::Relaxed))
            },
        };
        let stopped = stop.clone();
        let serving = std::thread::spawn(move || clerk.run(&stopped, &Beat::detached()));
        Rig {
            dir,
            clock,
            fake,
            desk,
            store,
            stop,
            knows_time,
            receipts: Arc::default(),
            threads: vec![serving, writing],
        }
    }

    fn end(mut self) -> TempDir {
        self.stop.stop();
        let writing = self.threads.pop().expect("two threads");
        self.threads.pop().expect("two threads").join().expect("no panic");
        self.store.close();
        writing.join().expect("no panic");
        std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a temporary directory"))
    }

    fn take(&self, id: &str, payload: serde_json::Value) {
        self.take_bytes(id, payload.to_string().as_bytes());
    }

    fn take_bytes(&self, id: &str, payload: &[u8]) {
        let (receipts, id_given) = (self.receipts.clone(), id.to_owned());
        let receipt = move || receipts.lock().expect("no panic").push(id_given);
        self.desk.take(id, payload, Box::new(receipt));
    }

    fn receipts(&self) -> Vec<String> {
        self.receipts.lock().expect("no panic").clone()
    }

    /// Waits until a command has come to this state.
    fn wait_for(&self, id: &str, state: CommandState) -> CommandReport {
        for _ in 0..2000 {
            let row = self.store.reader().command(id).expect("readable");
            if let Some(row) = row.filter(|r| r.report.state == state) {
                return row.report;
            }
            StopToken::new().wait(Duration::from_millis(5));
        }
        panic!("{id} never came to {state:?}: {:?}", self.store.reader().command(id));
    }

    fn asked(&self) -> Vec<(String, Command)> {
        self.fake.asked.lock().expect("no panic").clone()
    }
}

#[test]
fn a_command_is_carried_out_once_however_often_it_comes() {
    let rig = Rig::new();
    let snapshot = json!({"command": "snapshot", "requested_by": "operator 7"});
    rig.take("a", snapshot.clone());
    let done = rig.wait_for("a", CommandState::Succeeded);
    assert_eq!(done.result, Some(json!({ "width": 2 })));
    assert_eq!(rig.asked(), [("mqtt, command a, operator 7".to_owned(), Command::Snapshot { camera: None })]);
    let unsaid = rig.desk.unsaid(9);
    assert_eq!(unsaid, std::slice::from_ref(&done));
    rig.desk.said(&unsaid);
    assert_eq!(rig.desk.unsaid(9), []);
    let mut changed = rig.desk.changed();
    changed.borrow_and_update();
    rig.take("a", snapshot);
    for _ in 0..2000 {
        if rig.desk.unsaid(9).len() == 1 {
            break;
        }
        StopToken::new().wait(Duration::from_millis(5));
    }
    assert_eq!(rig.desk.unsaid(9).len(), 1, "it is said again");
    assert!(changed.has_changed().expect("the desk lives"));
    assert_eq!(rig.asked().len(), 1, "and not done again");
    rig.end();
}

#[test]
fn an_id_stands_for_the_command_that_it_first_came_with() {
    let rig = Rig::new();
    let rejected = || {
        for _ in 0..2000 {
            let unsaid = rig.desk.unsaid(9);
            if let Some(report) = unsaid.iter().find(|r| r.reason.as_deref() == Some(reused::WHY)) {
                return report.clone();
            }
            StopToken::new().wait(Duration::from_millis(5));
        }
        panic!("it is not rejected: {:?}", rig.desk.unsaid(9));
    };
    rig.take("a", json!({"command": "snapshot"}));
    let done = rig.wait_for("a", CommandState::Succeeded);
    rig.desk.said(std::slice::from_ref(&done));
    rig.take("a", json!({"command": "test_alert"}));
    let report = rejected();
    assert_eq!((report.id.as_str(), report.state), ("a", CommandState::Rejected));
    assert_eq!(rig.receipts(), ["a"], "the broker keeps it until the rejection is said");
    rig.desk.said(std::slice::from_ref(&report));
    assert_eq!((rig.receipts().len(), rig.desk.unsaid(9).len()), (2, 0));
    assert_eq!(rig.wait_for("a", CommandState::Succeeded), done, "the stored answer stays");
    // The same command, in other words and later.
    let again = json!({"requested_by": "operator 8", "expires_at": "1970-01-01T00:17:00Z", "command": "snapshot"});
    rig.take("a", again);
    for _ in 0..2000 {
        if !rig.desk.unsaid(9).is_empty() {
            break;
        }
        StopToken::new().wait(Duration::from_millis(5));
    }
    assert_eq!(rig.desk.unsaid(9)[0].result, done.result);
    // One that could not be read is known again too.
    rig.take_bytes("b", b"{\"command\"");
    rig.wait_for("b", CommandState::Rejected);
    rig.take("b", json!({"command": "snapshot"}));
    assert_eq!(rejected().id, "b");
    assert_eq!(rig.asked().len(), 1);
    rig.end();
}

#[test]
fn what_cannot_be_done_says_why() {
    let rig = Rig::new();
    rig.take_bytes("torn", b"{\"command\"");
    assert!(rig.wait_for("torn", CommandState::Rejected).reason.expect("a reason").contains("no JSON object"));
    rig.take("unknown", json!({"command": "dance"}));
    assert!(rig.wait_for("unknown", CommandState::Rejected).reason.expect("a reason").contains("dance"));
    rig.take("late", json!({"command": "snapshot", "expires_at": "1970-01-01T00:16:39Z"}));
    assert!(rig.wait_for("late", CommandState::Rejected).reason.expect("a reason").contains("expired"));
    rig.take("refused", json!({"command": "arm"}));
    assert_eq!(rig.wait_for("refused", CommandState::Rejected).reason.as_deref(), Some("no such camera"));
    rig.take("broken", json!({"command": "reload"}));
    assert_eq!(rig.wait_for("broken", CommandState::Failed).reason.as_deref(), Some("no file"));
    rig.fake.too_much.store(true, Ordering::Relaxed);
    rig.take("large", json!({"command": "snapshot"}));
    assert!(rig.wait_for("large", CommandState::Failed).reason.expect("a reason").contains("too large"));
    assert_eq!(rig.asked().len(), 3, "the first three never reached the device");
    // It may have waited for days at the broker: who does not know the time cannot tell.
    rig.fake.too_much.store(false, Ordering::Relaxed);
    rig.knows_time.store(false, Ordering::Relaxed);
    rig.take("no-clock", json!({"command": "snapshot", "expires_at": "1970-01-01T00:16:41Z"}));
    assert!(rig.wait_for("no-clock", CommandState::Rejected).reason.expect("a reason").contains("time of day"));
    rig.take("whenever", json!({"command": "snapshot"}));
    rig.wait_for("whenever", CommandState::Succeeded);
    rig.end();
}

#[test]
fn a_flood_is_refused_and_said_so() {
    let rig = Rig::new();
    for n in 0..BURST {
        rig.take(&format!("ok-{n}"), json!({"command": "follow_schedule"}));
    }
    rig.wait_for(&format!("ok-{}", BURST - 1), CommandState::Succeeded);
    rig.take("beyond", json!({"command": "follow_schedule"}));
    assert!(rig.wait_for("beyond", CommandState::Rejected).reason.expect("a reason").contains("too many"));
    rig.clock.advance(ONE_IN);
    rig.take("later", json!({"command": "follow_schedule"}));
    rig.wait_for("later", CommandState::Succeeded);
    // Far more than may wait.
    for n in 0..5 * WAITING {
        rig.take(&format!("flood-{n}"), json!({"command": "follow_schedule"}));
    }
    for n in 0..5 * WAITING {
        rig.wait_for(&format!("flood-{n}"), CommandState::Rejected);
    }
    rig.end();
}

#[test]
fn a_broker_may_forget_a_request_once_it_is_stored_and_not_before() {
    let rig = Rig::new();
    rig.take("a", json!({"command": "snapshot"}));
    rig.wait_for("a", CommandState::Succeeded);
    assert_eq!(rig.receipts(), ["a"]);
    // The disk does not take it now: another has the database.
    let blocker = rusqlite::Connection::open(crate::agent::store::database_path(rig.dir.path())).expect("ours");
    blocker.execute_batch("BEGIN IMMEDIATE").expect("nobody else writes");
    rig.take("b", json!({"command": "snapshot"}));
    for _ in 0..200 {
        if rig.store.is_failing() {
            break;
        }
        StopToken::new().wait(Duration::from_millis(50));
    }
    assert!(rig.store.is_failing());
    assert_eq!((rig.receipts().len(), rig.asked().len()), (1, 1), "neither acknowledged nor begun");
    blocker.execute_batch("ROLLBACK").expect("ours");
    rig.wait_for("b", CommandState::Succeeded);
    assert_eq!(rig.receipts(), ["a", "b"]);
    // What comes while the device is going is not acknowledged: the broker has it for the next start.
    let (receipts, desk) = (rig.receipts.clone(), rig.desk.clone());
    rig.end();
    let late = receipts.clone();
    desk.take("c", b"{}", Box::new(move || late.lock().expect("no panic").push("c".into())));
    assert_eq!(*receipts.lock().expect("no panic"), ["a", "b"]);
}

#[test]
fn an_answer_that_a_broker_does_not_take_is_replaced_by_a_short_one() {
    let rig = Rig::new();
    rig.take("a", json!({"command": "snapshot"}));
    let done = rig.wait_for("a", CommandState::Succeeded);
    rig.desk.said(std::slice::from_ref(&done));
    rig.desk.unsayable(&done, "it is larger than the broker takes");
    let unsaid = rig.desk.unsaid(9);
    assert_eq!((unsaid.len(), unsaid[0].state, &unsaid[0].result), (1, CommandState::Failed, &None));
    assert!(unsaid[0].reason.as_ref().is_some_and(|r| r.contains("larger than the broker takes")));
    rig.end();
}

#[test]
fn a_restart_is_done_when_the_device_is_there_again_and_what_was_begun_is_done_then() {
    let rig = Rig::new();
    rig.take("again", json!({"command": "restart"}));
    rig.wait_for("again", CommandState::InProgress);
    let begun = |id: &str, asked: serde_json::Value| CommandRow {
        asked: asked.to_string(),
        received: Wall::from_unix_ms(T0_MS),
        report: CommandReport {
            id: id.into(),
            state: CommandState::InProgress,
            reason: None,
            result: None,
            since: String::new(),
        },
    };
    rig.store.put_command(begun("cut-off", json!({"command": "snapshot"}))).expect("writable");
    let past = json!({"command": "snapshot", "expires_at": "1970-01-01T00:16:40Z"});
    rig.store.put_command(begun("past", past)).expect("writable");
    let rig = Rig::over(rig.end());
    rig.wait_for("again", CommandState::Succeeded);
    rig.wait_for("cut-off", CommandState::Succeeded);
    rig.wait_for("past", CommandState::TimedOut);
    assert_eq!(rig.asked().len(), 1);
    rig.end();
}

proptest! {
    #[test]
    fn no_more_than_the_rate_passes(waits_ms in prop::collection::vec(0_u64..3_000, 1..300)) {
        let mut now = Mono::ZERO;
        let mut bucket = Bucket::full(now);
        let mut passed: Vec<Mono> = Vec::new();
        for wait in waits_ms {
            now = now + Duration::from_millis(wait);
            if bucket.take(now) {
                passed.push(now);
            } else {
                prop_assert!(passed.len() >= BURST as usize);
            }
        }
        for (i, from) in passed.iter().enumerate() {
            for (n, to) in passed[i..].iter().enumerate() {
                let allowed = u64::from(BURST) + to.since(*from).as_secs() + 1;
                prop_assert!((n as u64) < allowed);
            }
        }
    }
}
