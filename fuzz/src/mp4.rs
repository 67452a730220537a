//! Any footage as a clip, against ffprobe where it is installed; and its `.part` cut or damaged anywhere.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use arbitrary::{Arbitrary, Unstructured};
use vedette::agent::capture::AccessUnit;
use vedette::agent::clip::mp4::index::PartIndex;
use vedette::agent::clip::mp4::part::Part;
use vedette::agent::clip::mp4::{Timeline, write_clip};
use vedette::base::clock::{Mono, Wall};

use super::video::{Step, some, stream};

const LABEL: Wall = Wall::from_unix_ms(1_767_225_600_000);

/// See [`super`].
pub fn check(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok((cut, flipped)) = <(u32, u8)>::arbitrary(&mut u) else { return };
    let Ok(mut steps) = some::<Step>(&mut u, 120) else { return };
    let Some(first) = steps.first_mut() else { return };
    first.keyframe = 0;
    let (mut dts, of) = (Mono::from_millis(5_000_000), stream(0));
    let units: Vec<AccessUnit> = steps.iter().map(|s| s.unit(&mut dts, &of)).collect();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("clip.mp4");
    let finished = write_clip(&path, &units, LABEL).expect("what keeps the contract of a stream can be written");
    assert_eq!(finished.samples, units.len());
    assert_eq!(fs::metadata(&path).expect("it is there").len(), finished.size_bytes);
    probe(&path, &units);
    damaged(&dir.path().join("x.part"), &units, cut, flipped);
}

/// A `.part` of the same footage, cut off at `cut` and with one byte changed there: what is read of it is a beginning.
fn damaged(path: &Path, units: &[AccessUnit], cut: u32, flipped: u8) {
    let mut part = Part::create(path, &units[0], LABEL).expect("writable");
    units.iter().for_each(|u| part.push(u.clone()));
    part.write_rest().expect("writable");
    drop(part);
    let index = |path: &Path| PartIndex::read(&File::open(path).expect("readable"), path);
    let whole = index(path).expect("it is whole").samples;
    assert_eq!(whole.len(), units.len());
    let mut bytes = fs::read(path).expect("readable");
    let at = cut as usize % bytes.len();
    fs::write(path, &bytes[..at]).expect("writable");
    if let Ok(found) = index(path) {
        assert!(whole.starts_with(&found.samples), "samples that were never written");
        assert!(found.whole_bytes <= at as u64, "more than there is");
    }
    // A byte that a dying disk changed: anything but a panic, an endless loop or memory without bound.
    bytes[at] ^= flipped;
    fs::write(path, &bytes).expect("writable");
    if let Ok(found) = index(path) {
        assert!(found.whole_bytes <= bytes.len() as u64);
    }
}

/// Every sample as ffprobe reads it: its size, its times, whether it is a keyframe (which it reads off the NAL units).
fn probe(path: &Path, units: &[AccessUnit]) {
    let entries = "packet=pts,dts,size,flags";
    let args = ["-v", "quiet", "-select_streams", "v:0", "-show_entries", entries, "-of", "csv=p=0"];
    let Ok(out) = Command::new("ffprobe").args(args).arg(path).output() else { return };
    let text = String::from_utf8(out.stdout).expect("ffprobe prints text");
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.trim_end_matches(',').split(',').collect()).collect();
    assert_eq!(rows.len(), units.len(), "ffprobe finds another number of samples");
    let base = Timeline::new(units[0].pts);
    let number = |s: &str| s.parse::<i64>().expect("a number");
    let mut last = None;
    for (row, unit) in rows.iter().zip(units) {
        let [pts, dts, size, flags] = row[..] else { panic!("ffprobe printed {row:?}") };
        assert_eq!(number(size), unit.data.len() as i64);
        assert_eq!(flags.starts_with('K'), unit.keyframe);
        // Decode times that stand still are moved on by a tick, and so is what is shown with them.
        let placed = last.map_or(base.ticks(unit.dts), |l: i64| base.ticks(unit.dts).max(l + 1));
        assert_eq!((number(dts), number(pts)), (placed, base.ticks(unit.pts).max(placed)), "{row:?}");
        last = Some(placed);
    }
}
