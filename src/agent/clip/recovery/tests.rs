use std::path::PathBuf;
use std::sync::OnceLock;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::agent::capture::AccessUnit;
use crate::agent::clip::mp4::part::Part;
use crate::agent::clip::testkit::{Encoding, FPS, decode_errors, later, probed, rendered};
use crate::agent::clip::{LedgerError, Recording};
use crate::agent::config::CameraId;

/// Rows as an earlier run left them.
struct Rows(Vec<Unfinished>);

impl Ledger for Rows {
    fn recording(&self, _: &Recording) -> Result<(), LedgerError> {
        Ok(())
    }
    fn done(&self, _: &Done) -> Result<(), LedgerError> {
        Ok(())
    }
    fn lost(&self, _: Uuid, _: &str) -> Result<(), LedgerError> {
        Ok(())
    }
    fn unfinished(&self) -> Result<Vec<Unfinished>, LedgerError> {
        Ok(self.0.clone())
    }
}

const BEGAN: Wall = Wall::from_unix_ms(1_767_225_600_123);
const SECONDS: u64 = 4;

/// A state directory with the files of one clip in it.
struct Disk {
    dir: tempfile::TempDir,
    paths: Paths,
}

impl Disk {
    fn new() -> Disk {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let paths = Paths::new(dir.path(), &CameraId::new("gate"), Uuid::from_u128(1), BEGAN);
        paths.make_directory().expect("writable");
        Disk { dir, paths }
    }

    fn row(&self, lost: bool) -> Unfinished {
        Unfinished {
            incident: Uuid::from_u128(1),
            camera: CameraId::new("gate"),
            path: self.paths.clip_below(),
            incident_start: BEGAN + Duration::from_secs(2),
            lost,
        }
    }

    /// A `.part` of four fragments, a second each; the sizes that it had, from its head on.
    fn record(&self) -> Vec<u64> {
        static SECOND: OnceLock<Vec<AccessUnit>> = OnceLock::new();
        let second = SECOND.get_or_init(|| rendered(Encoding::H264, 1));
        let mut part = Part::create(&self.paths.part(), &second[0], BEGAN).expect("writable");
        let mut sizes = vec![self.part_bytes()];
        for n in 0..SECONDS {
            later(second, Duration::from_secs(n)).into_iter().for_each(|unit| part.push(unit));
            part.write_rest().expect("writable");
            sizes.push(self.part_bytes());
        }
        sizes
    }

    fn part_bytes(&self) -> u64 {
        fs::metadata(self.paths.part()).expect("there").len()
    }

    fn cut(&self, bytes: u64) {
        File::options().write(true).open(self.paths.part()).and_then(|f| f.set_len(bytes)).expect("writable");
    }

    /// Starts again; what is told.
    fn restart(&self, rows: Vec<Unfinished>) -> Vec<Outcome> {
        drain(&mut Recovery::scan(self.dir.path(), &Rows(rows)), Mono::ZERO)
    }

    /// Names of the clip's files, without the incident.
    fn files(&self) -> Vec<String> {
        let dir = self.paths.clip().parent().map(PathBuf::from).expect("a directory");
        let name = |e: fs::DirEntry| {
            let name = e.file_name().to_string_lossy().into_owned();
            name.split_once('.').expect("an extension").1.to_owned()
        };
        let mut names: Vec<_> = fs::read_dir(dir).expect("readable").map(|e| name(e.expect("readable"))).collect();
        names.sort();
        names
    }
}

fn drain(recovery: &mut Recovery, now: Mono) -> Vec<Outcome> {
    let mut told = Vec::new();
    loop {
        match recovery.step(now) {
            Step::Idle => return told,
            Step::Busy => {}
            Step::Over(outcome) => told.push(outcome),
        }
    }
}

fn lost_because(outcomes: &[Outcome]) -> &str {
    match outcomes {
        [Outcome::Lost { reason, .. }] => reason,
        other => panic!("{other:?}"),
    }
}

fn the_clip(outcomes: Vec<Outcome>) -> Done {
    match <[Outcome; 1]>::try_from(outcomes) {
        Ok([Outcome::Done(done)]) => done,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_kill_costs_what_was_not_yet_a_fragment() {
    let disk = Disk::new();
    let sizes = disk.record();
    disk.cut(sizes[3] + 100);
    fs::write(disk.paths.clip().with_extension("mp4.tmp"), b"half a copy").expect("writable");
    let done = the_clip(disk.restart(vec![disk.row(false)]));
    assert_eq!((done.start, done.event_offset_ms, done.duration_ms), (BEGAN, 2_000, 3_000));
    assert_eq!((done.ending, done.peak_jpeg_path), (Ending::Interrupted, None));
    assert_eq!(digest::of_file(&disk.paths.clip()).expect("there"), (done.sha256, done.size_bytes));
    assert_eq!((decode_errors(&disk.paths.clip()), disk.files()), (String::new(), vec!["mp4".into()]));
    assert_eq!(disk.restart(Vec::new()), [], "once is enough");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn wherever_a_part_is_torn_its_whole_fragments_become_a_clip(torn in 0.0..1.0_f64, junk: bool) {
        let disk = Disk::new();
        let sizes = disk.record();
        let bytes = (*sizes.last().expect("some") as f64 * torn) as u64;
        disk.cut(bytes);
        if junk {
            // The disk gave room to the file, and lost what was written there.
            disk.cut(bytes + 5_000);
        }
        let whole = sizes.iter().filter(|&&size| size <= bytes).count().saturating_sub(1) as u64;
        let told = disk.restart(vec![disk.row(false)]);
        if whole == 0 {
            prop_assert_eq!(lost_because(&told), NOTHING_WHOLE);
            prop_assert_eq!(disk.files(), [""; 0]);
        } else {
            prop_assert_eq!(the_clip(told).duration_ms, whole * 1000);
            prop_assert_eq!(probed(&disk.paths.clip()).packets.len() as u64, whole * FPS);
            prop_assert_eq!(disk.files(), ["mp4"]);
        }
    }
}

#[test]
fn a_whole_file_that_its_row_does_not_know_is_adopted_with_its_picture() {
    let disk = Disk::new();
    disk.record();
    the_clip(disk.restart(vec![disk.row(false)]));
    fs::write(disk.paths.jpeg(), b"picture").expect("writable");
    // Killed between the file's name and its row.
    let done = the_clip(disk.restart(vec![disk.row(false)]));
    assert_eq!((done.duration_ms, done.start), (4_000, Wall::from_unix_ms(1_767_225_600_000)), "to the second");
    assert!(done.peak_jpeg_path.is_some());
    // With the `.part` still there it is known exactly.
    disk.record();
    let done = the_clip(disk.restart(vec![disk.row(false)]));
    assert_eq!((done.start, disk.files()), (BEGAN, vec!["jpg".to_owned(), "mp4".to_owned()]));
}

#[test]
fn rows_without_files_and_files_without_rows() {
    let disk = Disk::new();
    assert_eq!(lost_because(&disk.restart(vec![disk.row(false)])), NOTHING_WRITTEN);
    assert_eq!(disk.restart(vec![disk.row(true)]), [], "it was said before");

    // Given up when the disk was full: welcome back.
    disk.record();
    assert_eq!(the_clip(disk.restart(vec![disk.row(true)])).duration_ms, 4_000);
    assert_eq!(disk.restart(vec![disk.row(true)]), [], "a file that was found wanting is not believed again");

    // Its row is done: the `.part` is a copy.
    disk.record();
    assert_eq!((disk.restart(Vec::new()), disk.files()), (Vec::new(), vec!["mp4".to_owned()]));
    // No row at all (the database was lost): the footage is kept, as a file that plays.
    fs::remove_file(disk.paths.clip()).expect("there");
    disk.record();
    assert_eq!((disk.restart(Vec::new()), disk.files()), (Vec::new(), vec!["mp4".to_owned()]));
    assert_eq!(decode_errors(&disk.paths.clip()), "");
}

#[test]
fn what_cannot_be_read_and_may_be_footage_is_set_aside() {
    let disk = Disk::new();
    fs::write(disk.paths.part(), vec![0; 100_000]).expect("writable");
    assert_eq!(lost_because(&disk.restart(vec![disk.row(false)])), NO_HEAD);
    assert_eq!(disk.files(), ["part.damaged"]);
    fs::write(disk.paths.part(), vec![0; 1_000]).expect("writable");
    assert_eq!(lost_because(&disk.restart(vec![disk.row(false)])), NOTHING_WHOLE);
    assert_eq!(disk.files(), ["part.damaged"]);
}

#[test]
fn a_disk_that_refuses_is_tried_again() {
    let disk = Disk::new();
    disk.record();
    let in_the_way = disk.paths.clip().with_extension("mp4.tmp");
    let mut recovery = Recovery::scan(disk.dir.path(), &Rows(vec![disk.row(false)]));
    fs::create_dir(&in_the_way).expect("writable");
    assert_eq!((drain(&mut recovery, Mono::ZERO), recovery.left()), (Vec::new(), 1));
    fs::remove_dir(&in_the_way).expect("empty");
    assert_eq!(drain(&mut recovery, Mono::ZERO), [], "not at once");
    assert_eq!(the_clip(drain(&mut recovery, Mono::ZERO + AGAIN_AFTER)).duration_ms, 4_000);
}
