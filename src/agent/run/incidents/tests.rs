//! The incident stage with a real store and a clip queue that the test empties, a clock that the test moves.

use std::collections::BTreeMap;
use std::thread::JoinHandle;

use jiff::civil::Time;
use jiff::tz::TimeZone;
use tempfile::TempDir;

use super::*;
use crate::agent::clip::OrderKind;
use crate::agent::config::Span;
use crate::agent::health::Sensors;
use crate::agent::infer::scripted;
use crate::agent::store::{ClipState, DeviceContext, Filter, Labels, OutboxPolicy, StoreError, StoredIncident};
use crate::base::clock::ManualClock;
use crate::contract::alert::{ClockState, ModelRef, NORMAL};

const CLIP_ORDERS: usize = 2;
/// 2023-11-14T22:13:20Z.
const T0_MS: i64 = 1_700_000_000_000;

struct Rig {
    dir: TempDir,
    clock: Arc<ManualClock>,
    worker: Worker,
    inbox: Inbox,
    clips: Queue<ClipOrder>,
    store: Store,
    writer: JoinHandle<Result<(), StoreError>>,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // The config wants one to be there; nothing here opens it.
        let model_dir = dir.path().join("model");
        std::fs::create_dir(&model_dir)
            .and_then(|()| std::fs::write(model_dir.join("manifest.toml"), ""))
            .expect("writable");
        let path = dir.path().join("vedette.toml");
        let cameras: String =
            (0..4).map(|n| format!("[[camera]]\nid = \"c{n}\"\nkind = \"test\"\nclassify = false\n")).collect();
        let text = format!(
            "[device]\nsite = \"harbour\"\nid = \"d1\"\n[paths]\nstate_dir = \"{}\"\n[model]\ndir = \"{}\"\n{cameras}",
            dir.path().join("state").display(),
            model_dir.display()
        );
        std::fs::write(&path, text).expect("writable");
        let config = config::load(&path).expect("a good config");
        let clock = Arc::new(ManualClock::new(Wall::from_unix_ms(T0_MS)));
        let model = ModelRef { name: "m".into(), version: "1.0.0".into(), digest: "ab".into() };
        let context = DeviceContext {
            site: "harbour".into(),
            device: "d1".into(),
            outbox: OutboxPolicy::LocalOnly,
            labels: Labels::default(),
            clock_state: Arc::new(|| ClockState { synchronised: true, estimated_error_ms: None }),
        };
        let (store, writer) = Store::open(&dir.path().join("state"), context, clock.clone()).expect("the store opens");
        let thresholds =
            Thresholds { model: BTreeMap::from([("Fighting".to_string(), 0.6)]), cameras: BTreeMap::new() };
        let clips = Queue::new(CLIP_ORDERS, Full::Refuse);
        let inbox = Inbox::default();
        let sensors = Sensors::under(dir.path(), dir.path());
        let worker = Worker::new(Parts {
            machine: Machine::new(vec!["Fighting".into(), NORMAL.into()], config.incident.clone(), thresholds),
            inbox: inbox.clone(),
            store: store.clone(),
            clips: clips.clone(),
            most_clip_orders: CLIP_ORDERS,
            clip: config.clip.clone(),
            schedules: HashMap::new(),
            wishes: HashMap::new(),
            longest_request: Duration::from_secs(300),
            clock: clock.clone(),
            events: Events::default(),
            health: Arc::new(Health::new(&config, (model, &scripted::manifest()), None, (clock.clone(), sensors))),
        });
        let writer = std::thread::spawn(move || writer.run(&Beat::detached()));
        Rig { dir, clock, worker, inbox, clips, store, writer }
    }

    /// What systemd-timesyncd leaves behind when it has set the clock.
    fn clock_is_set(&self, to: Wall) {
        let timesync = self.dir.path().join("run/systemd/timesync");
        std::fs::create_dir_all(&timesync).expect("writable");
        let file = std::fs::File::create(timesync.join("synchronized")).expect("writable");
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_millis(to.unix_ms() as u64)).expect("our file");
        self.clock.step_wall(to);
    }

    fn score(&mut self, camera: usize, fighting: f32) {
        let end = self.clock.now();
        self.inbox.push(Work::Score(Score {
            camera: CameraId::new(&format!("c{camera}")),
            start: end.back(Duration::from_secs(2)),
            end,
            arrival: end,
            probabilities: Arc::from([fighting, 1.0 - fighting]),
            sample_fps: 8.0,
            padded: false,
        }));
        assert!(self.worker.round().is_continue());
    }

    /// Asks for a test incident as a person does, and does the stage's part.
    fn test(&mut self, camera: usize) -> Result<Uuid, String> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.inbox.push(Work::Test(CameraId::new(&format!("c{camera}")), Arc::default(), answer));
        assert!(self.worker.round().is_continue());
        answered.try_recv().expect("the stage answered")
    }

    fn open(&self) -> usize {
        self.worker.parts.machine.open().count()
    }

    /// Ends stage and store; what is in the store.
    fn end(self) -> Vec<StoredIncident> {
        self.inbox.close();
        self.worker.run(&Beat::detached());
        self.store.flush().expect("the disk is there");
        let rows = self.store.reader().incidents(&Filter::default()).expect("readable");
        self.store.close();
        self.writer.join().expect("no panic").expect("the store is whole");
        rows
    }
}

#[test]
fn a_test_closes_by_the_clock_while_scores_never_stop_coming() {
    let mut rig = Rig::new();
    rig.clock.advance(Duration::from_secs(10));
    rig.test(1).expect("opened");
    assert_eq!(rig.open(), 1);
    let mut took = Duration::ZERO;
    while rig.open() > 0 {
        assert!(took < Duration::from_secs(60), "still open");
        rig.clock.advance(Duration::from_millis(50));
        took += Duration::from_millis(50);
        rig.score(0, 0.1);
    }
    let row = &rig.end()[0];
    assert_eq!((row.report.camera.as_str(), row.state), ("c1", crate::agent::store::IncidentState::Closed));
}

#[test]
fn with_the_clip_queue_full_an_incident_is_stored_with_its_clip_lost_and_the_others_get_their_last_order() {
    let mut rig = Rig::new();
    rig.clock.advance(Duration::from_secs(10));
    for camera in 0..3 {
        rig.test(camera).expect("opened");
    }
    assert_eq!(rig.clips.len(), CLIP_ORDERS, "nobody takes them");
    rig.clock.advance(Duration::from_secs(60));
    rig.score(3, 0.1);
    assert_eq!((rig.open(), rig.clips.len()), (0, CLIP_ORDERS), "all are over, and their last orders wait");
    let mut orders = Vec::new();
    while let Popped::Item(order) = rig.clips.pop(Duration::ZERO) {
        orders.push((order.camera.to_string(), order.kind));
        rig.worker.order_what_waits();
    }
    let of = |camera: &str| -> Vec<_> { orders.iter().filter(|(c, _)| c == camera).map(|(_, kind)| *kind).collect() };
    assert_eq!(of("c0"), [OrderKind::Opened, OrderKind::Closed]);
    assert_eq!(of("c1"), [OrderKind::Opened, OrderKind::Closed]);
    assert!(!of("c2").contains(&OrderKind::Opened), "its clip was never ordered");
    let rows = rig.end();
    let clip = |camera: &str| {
        let row = rows.iter().find(|r| r.report.camera == camera).expect("every incident is stored");
        row.clip.clone().expect("a row for its clip")
    };
    assert_eq!((clip("c0").state, clip("c1").state), (ClipState::Planned, ClipState::Planned));
    assert_eq!(clip("c2").state, ClipState::Lost);
    assert_eq!(clip("c2").report.lost_because.as_deref(), Some("too many clips were being recorded at once"));
}

#[test]
fn a_wall_clock_that_is_stepped_changes_neither_order_nor_length() {
    const YEAR_MS: i64 = 365 * 86_400_000;
    for step_ms in [-50 * YEAR_MS, -3_600_000, -1_500, 700, 3_600_000, 50 * YEAR_MS] {
        let mut rig = Rig::new();
        rig.clock.advance(Duration::from_secs(10));
        for n in 0..12 {
            rig.clock.advance(Duration::from_millis(500));
            if n == 6 {
                let now = rig.clock.wall().unix_ms();
                rig.clock.step_wall(Wall::from_unix_ms(now + step_ms));
            }
            rig.score(0, 0.95);
        }
        let mut labels = Vec::new();
        while let Popped::Item(order) = rig.clips.pop(Duration::ZERO) {
            labels.push((order.start, order.label));
        }
        labels.dedup();
        let start = Wall::from_unix_ms(T0_MS + 8_500);
        assert_eq!(labels, [(Mono::from_millis(8_500), start)], "the clip has the incident's label, whenever it asks");
        let row = &rig.end()[0];
        assert_eq!(row.start_unix_ms, start, "2 s before the first window's end");
        assert_eq!(row.end_unix_ms, Wall::from_unix_ms(T0_MS + 16_000));
        let planned = row.clip.as_ref().and_then(|c| c.report.planned_start.clone());
        assert_eq!(planned, Some((start - Duration::from_secs(10)).rfc3339()), "the pre-roll too");
    }
}

#[test]
fn labels_say_what_was_known_when_they_were_made() {
    let mut rig = Rig::new();
    rig.clock.step_wall(Wall::from_unix_ms(5_000));
    rig.clock.advance(Duration::from_secs(10));
    let score = |rig: &mut Rig, camera, fighting| {
        rig.clock.advance(Duration::from_millis(500));
        rig.score(camera, fighting);
    };
    (0..4).for_each(|_| score(&mut rig, 0, 0.95));
    assert_eq!(rig.open(), 1);
    rig.clock_is_set(Wall::from_unix_ms(T0_MS));
    (0..40).for_each(|_| score(&mut rig, 0, 0.1));
    assert_eq!(rig.open(), 0);
    (0..4).for_each(|_| score(&mut rig, 0, 0.95));
    let mut rows = rig.end();
    rows.sort_by_key(|r| r.start_unix_ms);
    let said: Vec<_> =
        rows.iter().map(|r| (r.start_unix_ms.unix_ms() < T0_MS, r.clock.map(|c| c.synchronised))).collect();
    assert_eq!(said, [(true, Some(false)), (false, Some(true))], "the first is of 1970, and says so to its end");
}

#[test]
fn a_schedule_holds_once_the_time_is_known_and_tests_pass_always() {
    let mut rig = Rig::new();
    // 2023-11-14T22:13:30Z is a Tuesday.
    let day = Span { days: [true; 7], from: Time::constant(8, 0, 0, 0), to: Some(Time::constant(22, 14, 0, 0)) };
    let schedule = Schedule { name: "day".into(), zone: TimeZone::UTC, spans: vec![day] };
    let of_c0 = HashMap::from([(CameraId::new("c0"), schedule)]);
    rig.worker.parts.schedules = of_c0;
    let arming = |rig: &Rig| rig.worker.parts.health.cameras()[0].arming.clone().expect("it has a schedule");
    rig.clock.step_wall(Wall::from_unix_ms(0));
    rig.clock.advance(Duration::from_secs(10));
    rig.score(0, 0.1);
    let unset = arming(&rig);
    assert!(unset.armed && unset.reason.is_some_and(|why| why.contains("clock has not been set")));
    rig.clock_is_set(Wall::from_unix_ms(T0_MS));
    rig.clock.advance(Duration::from_secs(30));
    rig.score(0, 0.95);
    let armed = arming(&rig);
    assert_eq!((armed.armed, armed.until.as_deref()), (true, Some("2023-11-14T22:14:00.000Z")));
    for _ in 0..40 {
        rig.clock.advance(Duration::from_millis(500));
        rig.score(0, if rig.clock.wall().unix_ms() < T0_MS + 40_000 { 0.1 } else { 0.95 });
        rig.score(1, 0.95);
    }
    assert!(!arming(&rig).armed);
    assert_eq!(arming(&rig).until.as_deref(), Some("2023-11-15T08:00:00.000Z"));
    let open: Vec<_> = rig.worker.parts.machine.open().map(|i| i.camera.to_string()).collect();
    assert_eq!(open, ["c1"], "the camera without a schedule");
    rig.test(0).expect("opened");
    assert!(rig.worker.parts.health.report().drops["windows_while_disarmed"] > 0);
    let rows = rig.end();
    assert!(rows.iter().all(|r| r.report.test || r.report.camera == "c1"));
}

#[test]
fn tests_beyond_the_limit_are_refused_in_words() {
    let mut rig = Rig::new();
    for n in 0..MOST_TESTS {
        rig.clock.advance(Duration::from_millis(10));
        rig.test(n % 4).expect("opened");
    }
    let refused = rig.test(0).expect_err("refused");
    assert!(refused.contains("8 test incidents are open already"), "{refused}");
    assert_eq!(rig.end().len(), MOST_TESTS);
}

#[test]
fn a_day_of_four_cameras_and_a_clock_that_is_set_twice_is_stored_fight_by_fight() {
    const DAY_S: u64 = 86_400;
    const FIGHT_S: u64 = 20;
    // They meet now and then, and drift apart again.
    const EVERY_S: [u64; 4] = [2_220, 2_700, 3_540, 4_200];
    let mut rig = Rig::new();
    for half_seconds in 1..=2 * DAY_S {
        rig.clock.advance(Duration::from_millis(500));
        match half_seconds {
            // NTP: a year back after six hours; after eighteen, what it was and an hour more.
            43_200 => rig.clock_is_set(Wall::from_unix_ms(T0_MS - 365 * 86_400_000)),
            129_600 => rig.clock_is_set(Wall::from_unix_ms(T0_MS + 19 * 3_600_000)),
            _ => {}
        }
        for (camera, every) in EVERY_S.into_iter().enumerate() {
            let second = half_seconds / 2;
            rig.score(camera, if second >= every && second % every < FIGHT_S { 0.9 } else { 0.05 });
        }
        while let Popped::Item(_) = rig.clips.pop(Duration::ZERO) {}
    }
    let rows = rig.end();
    for (camera, every) in EVERY_S.into_iter().enumerate() {
        let of = rows.iter().filter(|r| r.report.camera == format!("c{camera}")).collect::<Vec<_>>();
        let fights = (1..).take_while(|n| n * every < DAY_S).count();
        assert_eq!(of.len(), fights, "c{camera}");
        for row in of {
            let ms = row.end_unix_ms.unix_ms() - row.start_unix_ms.unix_ms();
            // From the start of the first window to the end of the last one.
            assert!(
                (19_000..=23_000).contains(&ms) || row.report.close_reason.as_deref() == Some("stopped"),
                "{row:?}"
            );
        }
    }
}
