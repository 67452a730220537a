use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, RwLock};

use uuid::Uuid;

use super::*;
use crate::agent::capture::{AccessUnit, StreamInfo};
use crate::agent::clip::Snapshot;
use crate::agent::clip::testkit::{Encoding, FPS, decode_errors, later, number, probed, rendered};
use crate::agent::clip::{Done, Ending, Recording, Unfinished};
use crate::agent::ring::Bounds;
use crate::base::clock::{ManualClock, Wall};
use crate::base::digest;
use crate::base::error::Retry;
use crate::base::queue::Full;
use crate::base::stage::{Ended, Stage};

const S: Duration = Duration::from_secs(1);
/// 2026-01-01T00:00:00Z, the wall clock at monotonic zero.
const MIDNIGHT: Wall = Wall::from_unix_ms(1_767_225_600_000);

#[derive(Debug, Clone, PartialEq)]
enum Call {
    Recording(Recording),
    Done(Done),
    Lost(Uuid, String),
}

/// A ledger that looks at the disk whenever it is called, and refuses the first `refusals` calls.
struct Book {
    state_dir: PathBuf,
    refusals: AtomicU32,
    calls: Mutex<Vec<Call>>,
}

impl Book {
    fn take(&self, call: Call) -> Result<(), LedgerError> {
        if self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(LedgerError { retry: Retry::Later, source: "the disk is full".into() });
        }
        self.calls.lock().expect("no panic under it").push(call);
        Ok(())
    }

    fn file(&self, path: &str, extension: &str) -> PathBuf {
        self.state_dir.join(path).with_extension(extension)
    }
}

impl Ledger for Book {
    fn recording(&self, clip: &Recording) -> Result<(), LedgerError> {
        for extension in ["part", "mp4.tmp", "mp4", "jpg"] {
            assert!(!self.file(&clip.path, extension).exists(), "a file before its row");
        }
        self.take(Call::Recording(clip.clone()))
    }
    fn done(&self, clip: &Done) -> Result<(), LedgerError> {
        assert!(self.file(&clip.path, "mp4").exists(), "done before the file");
        assert!(!self.file(&clip.path, "part").exists() && !self.file(&clip.path, "mp4.tmp").exists());
        self.take(Call::Done(clip.clone()))
    }
    fn lost(&self, incident: Uuid, reason: &str) -> Result<(), LedgerError> {
        self.take(Call::Lost(incident, reason.into()))
    }
    fn unfinished(&self) -> Result<Vec<Unfinished>, LedgerError> {
        Ok(Vec::new())
    }
}

/// Numbers the pictures that it is asked for.
#[derive(Default)]
struct Pictures(AtomicU32);

impl Snapshots for Pictures {
    fn latest(&self, _: &CameraId) -> Option<Snapshot> {
        let jpeg = format!("picture {}", self.0.fetch_add(1, Ordering::SeqCst)).into_bytes();
        Some(Snapshot { jpeg, thumbnail: None })
    }
}

/// A stage on a clock that the test moves, with a camera that plays one second of real video over and over.
struct Bench {
    dir: tempfile::TempDir,
    worker: ClipWorker,
    book: Arc<Book>,
    clock: Arc<ManualClock>,
    second: Vec<AccessUnit>,
    pushed_s: u64,
}

impl Bench {
    fn new(rules: Rules) -> Bench {
        Bench::with_ring(rules, Duration::from_secs(30))
    }

    fn with_ring(rules: Rules, ring_time: Duration) -> Bench {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let clock = Arc::new(ManualClock::new(MIDNIGHT));
        let book = Arc::new(Book {
            state_dir: dir.path().to_path_buf(),
            refusals: AtomicU32::new(0),
            calls: Mutex::default(),
        });
        let ring = || SharedRing::new(Bounds { max_bytes: 64 << 20, max_time: ring_time });
        let worker = ClipWorker::new(Wiring {
            rings: [(camera(), ring()), (CameraId::new("yard"), ring())].into(),
            ledger: Arc::clone(&book) as Arc<dyn Ledger>,
            snapshots: Arc::new(Pictures::default()),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            state_dir: dir.path().to_path_buf(),
            rules: Arc::new(RwLock::new(rules)),
        });
        Bench { dir, worker, book, clock, second: rendered(Encoding::H264, 1), pushed_s: 0 }
    }

    fn ring(&self) -> SharedRing {
        self.worker.wiring.rings[&camera()].clone()
    }

    /// Lets time pass up to `to_s`, with video that comes as it passes; the stage is not run.
    fn film(&mut self, to_s: u64) {
        while self.pushed_s < to_s {
            for unit in later(&self.second, Duration::from_secs(self.pushed_s)) {
                self.ring().push(unit);
            }
            self.pushed_s += 1;
        }
        self.pass(to_s);
    }

    /// Lets time pass up to `to_s`, without video.
    fn pass(&mut self, to_s: u64) {
        self.pushed_s = self.pushed_s.max(to_s);
        self.clock.advance(at(to_s).since(self.clock.now()));
    }

    fn settle(&mut self) {
        while self.worker.round(Mode::Running, &Beat::detached()) {}
    }

    fn tell(&mut self, kind: OrderKind, id: u128, start_s: u64, end_s: u64) {
        self.worker.order(&order(kind, id, start_s, end_s));
        self.settle();
    }

    fn calls(&self) -> Vec<Call> {
        self.book.calls.lock().expect("no panic under it").clone()
    }

    fn done(&self) -> Vec<Done> {
        let done = |call| if let Call::Done(done) = call { Some(done) } else { None };
        self.calls().into_iter().filter_map(done).collect()
    }

    fn lost(&self) -> Vec<String> {
        let lost = |call| if let Call::Lost(_, reason) = call { Some(reason) } else { None };
        self.calls().into_iter().filter_map(lost).collect()
    }

    /// The clip must play, be what the ledger was told, and show as many pictures as it lasts.
    fn assert_plays(&self, done: &Done) {
        let path = self.dir.path().join(&done.path);
        assert_eq!(decode_errors(&path), "");
        let (sha256, size) = digest::of_file(&path).expect("readable");
        assert_eq!((sha256, size), (done.sha256.clone(), done.size_bytes));
        let duration_s = number(&probed(&path).streams[0]["duration"]);
        assert!((duration_s * 1000.0 - done.duration_ms as f64).abs() < 1.0);
    }
}

fn rules() -> Rules {
    Rules { pre_roll: 10 * S, post_roll: 5 * S, max_open: 3, max_length: 100 * S, silence: 8 * S }
}

fn camera() -> CameraId {
    CameraId::new("gate")
}

fn at(s: u64) -> Mono {
    Mono::from_millis(s * 1000)
}

/// What the wall clock shows `s` seconds after monotonic zero.
fn label(s: u64) -> Wall {
    MIDNIGHT + s as u32 * S
}

fn order(kind: OrderKind, id: u128, start_s: u64, end_s: u64) -> ClipOrder {
    let peak_score = 0.5 + end_s as f32 / 1000.0;
    let (incident, label) = (Uuid::from_u128(id), MIDNIGHT + start_s as u32 * S);
    ClipOrder { kind, incident, camera: camera(), start: at(start_s), label, end: at(end_s), peak_score }
}

#[test]
fn a_clip_is_a_row_then_a_file_then_a_row() {
    let mut bench = Bench::new(rules());
    bench.film(16);
    bench.tell(OrderKind::Opened, 1, 15, 16);
    let Call::Recording(row) = bench.calls().remove(0) else { panic!("the row comes first") };
    assert_eq!(row.planned_start, MIDNIGHT + 5 * S);
    assert_eq!(row.path, format!("clips/2026/01/01/gate/000015_{}.mp4", Uuid::from_u128(1)));
    assert!(bench.dir.path().join(&row.path).with_extension("part").exists(), "recorded while it goes on");
    bench.film(18);
    bench.tell(OrderKind::Updated, 1, 15, 18);
    bench.film(30);
    bench.tell(OrderKind::Closed, 1, 15, 20);

    let done = bench.done().remove(0);
    bench.assert_plays(&done);
    assert_eq!(done.start, MIDNIGHT + 5 * S);
    assert_eq!((done.duration_ms, done.event_offset_ms), (20_000, 10_000));
    assert_eq!((done.ending, done.units_lost, &done.path), (Ending::Planned, 0, &row.path));
    let jpeg = done.peak_jpeg_path.expect("a picture of the peak");
    assert_eq!(fs::read(bench.dir.path().join(jpeg)).expect("readable"), b"picture 1", "the later peak's");
    assert_eq!(bench.calls().len(), 2);
}

#[test]
fn overlapping_incidents_each_get_all_of_their_footage() {
    let mut bench = Bench::new(rules());
    bench.film(12);
    bench.tell(OrderKind::Opened, 1, 11, 12);
    bench.film(16);
    bench.tell(OrderKind::Opened, 2, 15, 16);
    bench.film(30);
    bench.tell(OrderKind::Closed, 2, 15, 22);
    bench.tell(OrderKind::Closed, 1, 11, 18);
    let done = bench.done();
    let spans: Vec<_> = done.iter().map(|d| (d.incident.as_u128(), d.start, d.duration_ms)).collect();
    assert_eq!(spans, [(2, label(5), 22_000), (1, label(1), 22_000)]);
    done.iter().for_each(|d| bench.assert_plays(d));
}

#[test]
fn a_ring_that_began_late_shows_in_the_offset() {
    let mut bench = Bench::new(rules());
    bench.pass(16);
    bench.film(18);
    bench.tell(OrderKind::Opened, 1, 15, 17);
    bench.film(30);
    bench.tell(OrderKind::Closed, 1, 15, 17);
    let done = bench.done().remove(0);
    assert_eq!((done.start, done.event_offset_ms, done.duration_ms), (label(16), -1_000, 6_000));
    bench.assert_plays(&done);
}

#[test]
fn a_stage_that_the_ring_overtook_has_a_hole_and_says_so() {
    let mut bench = Bench::with_ring(rules(), 6 * S);
    bench.film(16);
    bench.tell(OrderKind::Opened, 1, 15, 16);
    bench.film(31);
    bench.tell(OrderKind::Closed, 1, 15, 25);
    let done = bench.done().remove(0);
    assert_eq!(done.ending, Ending::Planned);
    assert!(done.units_lost > 0 && done.units_lost.is_multiple_of(FPS));
    assert_eq!(done.start + Duration::from_millis(done.duration_ms), label(30), "the time within is kept");
    bench.assert_plays(&done);
}

#[test]
fn footage_that_had_left_the_ring_is_a_lost_clip() {
    let mut bench = Bench::with_ring(rules(), 6 * S);
    bench.film(40);
    bench.worker.order(&order(OrderKind::Opened, 1, 15, 16));
    bench.tell(OrderKind::Closed, 1, 15, 16);
    assert_eq!(bench.lost(), ["its footage had left the ring before it was recorded"]);
}

#[test]
fn no_video_no_camera_and_too_many_are_lost_with_their_reason() {
    let mut bench = Bench::new(rules());
    bench.tell(OrderKind::Opened, 1, 0, 0);
    bench.worker.order(&ClipOrder { camera: CameraId::new("moon"), ..order(OrderKind::Opened, 2, 0, 0) });
    bench.tell(OrderKind::Opened, 3, 0, 0);
    bench.tell(OrderKind::Opened, 4, 0, 0);
    bench.tell(OrderKind::Opened, 5, 0, 0);
    bench.tell(OrderKind::Closed, 1, 0, 0);
    bench.pass(9);
    bench.settle();
    let reasons = bench.lost();
    assert!(reasons[0].ends_with("there is no camera moon"));
    assert_eq!(reasons[1], "3 clips are being recorded already");
    assert_eq!(reasons[2], "no video from the camera");
}

#[test]
fn a_camera_that_goes_cuts_the_clip_short_and_stale_footage_is_none() {
    let mut bench = Bench::new(rules());
    bench.film(17);
    bench.tell(OrderKind::Opened, 1, 15, 16);
    bench.tell(OrderKind::Closed, 1, 15, 16);
    bench.pass(30);
    bench.settle();
    let done = bench.done().remove(0);
    assert_eq!((done.ending, done.start, done.duration_ms), (Ending::CameraSilent, label(5), 12_000));
    bench.assert_plays(&done);

    let mut more = later(&bench.second, 17 * S);
    more[0].keyframe = false;
    more.into_iter().for_each(|u| bench.ring().push(u));
    bench.pass(60);
    bench.tell(OrderKind::Opened, 2, 60, 60);
    assert_eq!(walk(bench.dir.path()).len(), 3, "it may still go on");
    bench.tell(OrderKind::Closed, 2, 60, 60);
    bench.pass(70);
    bench.settle();
    assert_eq!(bench.lost(), ["no video from the camera"]);
    let left: Vec<_> = walk(bench.dir.path());
    assert_eq!(left.len(), 2, "one clip and its picture, no part: {left:?}");
}

#[test]
fn a_camera_that_comes_back_begins_the_clip_where_it_came_back() {
    let mut bench = Bench::new(rules());
    bench.film(17);
    bench.pass(60);
    bench.tell(OrderKind::Opened, 1, 60, 60);
    let mut unit = later(&bench.second, 62 * S);
    unit[0].discontinuity = true;
    unit.into_iter().for_each(|u| bench.ring().push(u));
    bench.pass(63);
    bench.film(80);
    bench.tell(OrderKind::Closed, 1, 60, 65);
    let done = bench.done().remove(0);
    assert_eq!((done.start, done.event_offset_ms, done.duration_ms), (label(62), -2_000, 8_000));
    bench.assert_plays(&done);
}

#[test]
fn another_stream_ends_the_clip_or_in_the_pre_roll_begins_it_anew() {
    let mut bench = Bench::new(rules());
    bench.film(10);
    let changed = Arc::new(StreamInfo { width: 322, ..(*bench.second[0].stream).clone() });
    let first = std::mem::take(&mut bench.second);
    bench.second = first.iter().map(|u| AccessUnit { stream: Arc::clone(&changed), ..u.clone() }).collect();
    bench.film(16);
    bench.tell(OrderKind::Opened, 1, 15, 16);
    bench.second = first;
    bench.film(30);
    bench.tell(OrderKind::Closed, 1, 15, 25);
    let done = bench.done().remove(0);
    assert_eq!((done.start, done.duration_ms, done.ending), (label(10), 6_000, Ending::StreamChanged));
    assert_eq!(probed(&bench.dir.path().join(&done.path)).streams[0]["nb_frames"], (6 * FPS).to_string());
}

#[test]
fn a_time_that_falls_ends_the_clip_and_keeps_what_it_has() {
    let mut bench = Bench::new(rules());
    bench.film(18);
    bench.tell(OrderKind::Opened, 1, 15, 18);
    bench.film(19);
    let mut back = later(&bench.second, 2 * S);
    bench.ring().push(AccessUnit { keyframe: false, ..back[1].clone() });
    assert!(!bench.worker.round(Mode::Running, &Beat::detached()), "an emptied ring is nothing to be busy with");
    assert!(bench.done().is_empty(), "the camera may go on");
    back = later(&bench.second, 20 * S);
    back.into_iter().for_each(|u| bench.ring().push(u));
    back = later(&bench.second, 3 * S);
    bench.settle();
    back.into_iter().for_each(|u| bench.ring().push(u));
    bench.settle();
    let done = bench.done().remove(0);
    assert_eq!((done.ending, done.start, done.duration_ms), (Ending::StreamChanged, label(5), 16_000));
    assert_eq!(done.units_lost, FPS, "the last second went before it was read");
    bench.assert_plays(&done);
}

#[test]
fn a_disk_that_fails_one_clip_fails_no_other() {
    let mut bench = Bench::new(rules());
    bench.film(16);
    fs::create_dir_all(bench.dir.path().join("clips/2026/01/01")).expect("writable");
    fs::write(bench.dir.path().join("clips/2026/01/01/yard"), b"in the way").expect("writable");
    for unit in bench.ring().read(bench.ring().locate(at(0)).expect("held").cursor, 1000).units {
        bench.worker.wiring.rings[&CameraId::new("yard")].push(unit);
    }
    bench.worker.order(&ClipOrder { camera: CameraId::new("yard"), ..order(OrderKind::Opened, 1, 15, 16) });
    bench.tell(OrderKind::Opened, 2, 15, 16);
    bench.film(30);
    bench.tell(OrderKind::Closed, 2, 15, 16);
    assert_eq!(bench.done().len(), 1);
    let reason = bench.lost().remove(0);
    assert!(reason.starts_with("could not create") && reason.contains("Not a directory"), "{reason}");
}

#[test]
fn what_the_ledger_refuses_is_offered_again_and_no_file_comes_before_its_row() {
    let mut bench = Bench::new(rules());
    bench.film(16);
    bench.book.refusals.store(2, Ordering::SeqCst);
    bench.tell(OrderKind::Opened, 1, 15, 16);
    assert!(bench.calls().is_empty() && walk(bench.dir.path()).is_empty());
    bench.film(17);
    bench.settle();
    bench.film(18);
    bench.settle();
    assert_eq!((bench.calls().len(), walk(bench.dir.path()).len()), (1, 1));
    bench.film(30);
    bench.book.refusals.store(1, Ordering::SeqCst);
    bench.tell(OrderKind::Closed, 1, 15, 16);
    assert!(bench.done().is_empty());
    bench.film(31);
    bench.settle();
    assert_eq!(bench.done()[0].start, label(5));
}

#[test]
fn a_ledger_that_never_takes_the_row_gets_no_file() {
    let mut bench = Bench::new(rules());
    bench.film(16);
    bench.book.refusals.store(u32::MAX, Ordering::SeqCst);
    bench.tell(OrderKind::Opened, 1, 15, 16);
    bench.tell(OrderKind::Closed, 1, 15, 16);
    bench.film(40);
    bench.settle();
    bench.book.refusals.store(0, Ordering::SeqCst);
    bench.film(42);
    bench.settle();
    assert_eq!(bench.lost(), ["the store did not take its row"]);
    assert!(walk(bench.dir.path()).is_empty());
}

#[test]
fn pictures_are_taken_at_rising_peaks_at_most_once_a_second() {
    let mut bench = Bench::new(rules());
    bench.film(16);
    bench.tell(OrderKind::Opened, 1, 15, 16);
    for end_s in 17..27 {
        bench.tell(OrderKind::Updated, 1, 15, end_s);
    }
    bench.film(17);
    bench.settle();
    bench.settle();
    bench.film(40);
    bench.tell(OrderKind::Closed, 1, 15, 26);
    let jpeg = bench.done().remove(0).peak_jpeg_path.expect("a picture");
    assert_eq!(fs::read(bench.dir.path().join(jpeg)).expect("readable"), b"picture 1");
}

#[test]
fn a_stop_in_mid_clip_finishes_it_short() {
    let mut bench = Bench::new(rules());
    bench.film(16);
    let Bench { worker, book, dir, .. } = bench;
    let orders = Queue::new(8, Full::Refuse);
    orders.push(order(OrderKind::Opened, 1, 15, 16)).expect("room");
    let (stop, from) = (StopToken::new(), orders.clone());
    let told = stop.clone();
    let stage = Stage::spawn("clip", || (), move || worker.run(&from, &told, &Beat::detached())).expect("a thread");
    for _ in 0..1000 {
        if !book.calls.lock().expect("no panic under it").is_empty() {
            break;
        }
        stop.wait(Duration::from_millis(10));
    }
    stop.stop();
    assert_eq!(stage.join(Duration::from_secs(60)), Ended::Done);
    let calls = book.calls.lock().expect("no panic under it").clone();
    let [Call::Recording(_), Call::Done(done)] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!((done.ending, done.start, done.duration_ms), (Ending::Stopped, label(5), 11_000));
    assert_eq!(decode_errors(&dir.path().join(&done.path)), "");
}

/// All files below a directory.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("readable").map(|e| e.expect("readable").path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
