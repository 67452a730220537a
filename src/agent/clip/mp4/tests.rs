use std::fs;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::finish::Finisher;
use super::index::PartIndex;
use super::part::Part;
use super::*;
use crate::agent::capture::{Rotation, StreamInfo};
use crate::agent::clip::testkit::{Encoding, FPS, decode_errors, later, number, pictures, probed, rendered};
use crate::base::digest;

const LABEL: Wall = Wall::from_unix_ms(1_767_225_600_250);

fn write_part(path: &Path, units: &[AccessUnit]) {
    let mut part = Part::create(path, &units[0], LABEL).expect("writable");
    for unit in units {
        part.push(unit.clone());
        part.write_ready().expect("writable");
    }
    part.write_rest().expect("writable");
}

/// What every player must find in a file made of these units.
fn assert_plays(path: &Path, units: &[AccessUnit]) {
    let probe = probed(path);
    assert_eq!(probe.errors, "");
    assert_eq!(decode_errors(path), "");
    assert_eq!(probe.packets.len(), units.len());
    assert!(probe.packets[0]["flags"].as_str().is_some_and(|f| f.starts_with('K')));
    let shown = units.len() as f64 / FPS as f64;
    assert!((number(&probe.streams[0]["duration"]) - shown).abs() < 0.001, "{:?}", probe.streams[0]);
    assert_eq!(probe.streams[0]["nb_frames"], units.len().to_string());
    let base = number(&probe.packets[0]["pts"]);
    assert_eq!(base, 0.0, "the first picture shows at once");
    for (packet, unit) in probe.packets.iter().zip(units) {
        let ticks = |at: Mono| Timeline::new(units[0].pts).ticks(at) as f64;
        assert_eq!(number(&packet["pts"]), ticks(unit.pts));
        assert_eq!(number(&packet["dts"]), ticks(unit.dts));
        assert_eq!(number(&packet["duration"]), f64::from(TIMESCALE) / FPS as f64);
        assert_eq!(packet["flags"].as_str().is_some_and(|f| f.starts_with('K')), unit.keyframe);
    }
}

fn whole_way(encoding: Encoding) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let units = later(&rendered(encoding, 4), Duration::from_secs(1_000_000));
    let path = dir.path().join("clip.mp4");
    let finished = write_clip(&path, &units, LABEL).expect("writable");
    assert_plays(&path, &units);
    assert_eq!(pictures(&path).len(), units.len());
    assert_eq!(digest::of_file(&path).expect("readable"), (finished.sha256, finished.size_bytes));
    assert_eq!((finished.samples, finished.duration_ms), (units.len(), 4_000));
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1, "neither .part nor temporary file stays");
}

#[test]
fn h264_plays_with_every_picture_in_place() {
    whole_way(Encoding::H264);
}

#[test]
fn h264_with_b_frames_plays_with_every_picture_in_place() {
    whole_way(Encoding::H264BFrames);
}

#[test]
fn h265_plays_with_every_picture_in_place() {
    whole_way(Encoding::H265);
}

#[test]
fn a_clip_may_begin_with_an_open_group_of_pictures() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut units = rendered(Encoding::H265, 3);
    let second = 1 + units[1..].iter().position(|u| u.keyframe).expect("another keyframe");
    let units = units.split_off(second);
    assert!(units.iter().any(|u| u.pts < units[0].pts), "pictures shown before the keyframe need what is not there");
    let path = dir.path().join("clip.mp4");
    write_clip(&path, &units, LABEL).expect("writable");
    let shown = units.iter().filter(|u| u.pts >= units[0].pts).count();
    assert_eq!((decode_errors(&path).as_str(), pictures(&path).len()), ("", shown));
}

#[test]
fn the_index_is_in_front_and_the_clip_can_be_entered_in_its_middle() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let units = rendered(Encoding::H264BFrames, 3);
    let path = dir.path().join("clip.mp4");
    write_clip(&path, &units, LABEL).expect("writable");
    let bytes = fs::read(&path).expect("readable");
    let place = |name: &[u8]| bytes.windows(4).position(|w| w == name).expect("there");
    assert!(place(b"ftyp") < place(b"moov") && place(b"moov") < place(b"mdat"));
    assert!(!bytes.windows(4).any(|w| w == b"moof" || w == b"mvex"));
    let created = probed(&path).format["tags"]["creation_time"].clone();
    assert_eq!(created, "2026-01-01T00:00:00.000000Z");
    let out = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-ss", "2", "-i"])
        .arg(&path)
        .args(["-f", "framemd5", "-"])
        .output()
        .expect("ffmpeg is installed");
    let seen = String::from_utf8(out.stdout).expect("text").lines().filter(|l| !l.starts_with('#')).count();
    assert_eq!((seen, out.stderr.len()), (FPS as usize, 0));
}

#[test]
fn turned_pictures_come_out_upright() {
    let units = rendered(Encoding::H264, 1);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let corner = |rotation| {
        let stream = Arc::new(StreamInfo { rotation, ..(*units[0].stream).clone() });
        let turned: Vec<_> = units.iter().map(|u| AccessUnit { stream: Arc::clone(&stream), ..u.clone() }).collect();
        let path = dir.path().join("turned.mp4");
        write_clip(&path, &turned, LABEL).expect("writable");
        // One pixel for each quadrant of the first picture, as it is shown.
        let out = std::process::Command::new("ffmpeg")
            .args(["-v", "error", "-i"])
            .arg(&path)
            .args(["-frames:v", "1", "-vf", "scale=2:2:flags=area", "-pix_fmt", "gray", "-f", "rawvideo", "-"])
            .output()
            .expect("ffmpeg is installed");
        <[u8; 4]>::try_from(out.stdout).expect("four pixels")
    };
    let near = |a: [u8; 4], b: [u8; 4]| a.iter().zip(b).all(|(&a, b)| a.abs_diff(b) <= 3);
    let [a, b, c, d] = corner(Rotation::None);
    assert!(a.abs_diff(b) > 6 || a.abs_diff(c) > 6, "the quadrants tell apart: {:?}", [a, b, c, d]);
    assert!(near(corner(Rotation::Quarter), [c, a, d, b]));
    assert!(near(corner(Rotation::Half), [d, c, b, a]));
    assert!(near(corner(Rotation::ThreeQuarter), [b, d, a, c]));
}

#[test]
fn a_part_cut_anywhere_plays_up_to_its_last_whole_fragment() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let units = rendered(Encoding::H264BFrames, 4);
    let part = dir.path().join("whole.part");
    write_part(&part, &units);
    let bytes = fs::read(&part).expect("readable");
    let index = PartIndex::read(&fs::File::open(&part).expect("readable"), &part).expect("whole");
    assert_eq!((index.samples.len(), index.whole_bytes), (units.len(), bytes.len() as u64));
    assert_eq!(index.started, Some(LABEL));
    assert!(index.chunks.len() >= 3, "about one a second");
    let played = probed(&part);
    assert_eq!((played.packets.len(), played.errors.as_str()), (units.len(), ""));
    assert_eq!(number(&played.packets[0]["pts"]), 0.0);

    let cut = dir.path().join("cut.part");
    let first = index.chunks[0];
    let end_of_first = first.offset as usize
        + index.samples[..first.samples].iter().map(|s| s.size as usize).sum::<usize>()
        + super::seal::BYTES;
    for at in [end_of_first, end_of_first + 7, (end_of_first + bytes.len()) / 2, bytes.len() - 1] {
        fs::write(&cut, &bytes[..at]).expect("writable");
        let index = PartIndex::read(&fs::File::open(&cut).expect("readable"), &cut).expect("a fragment is whole");
        assert!(index.samples.len() >= first.samples && index.samples.len() < units.len());
        let seen = probed(&cut).packets.len();
        assert!(seen >= index.samples.len(), "{seen} of {}", index.samples.len());
        let path = dir.path().join("saved.mp4");
        let mut finisher = Finisher::begin(&cut, &path, None).expect("a fragment is whole");
        while finisher.step(1).expect("writable").is_none() {}
        assert_plays(&path, &units[..index.samples.len()]);
    }
}

#[test]
fn the_tail_can_be_left_out_when_the_end_becomes_known_late() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let units = rendered(Encoding::H264, 3);
    let part = dir.path().join("clip.part");
    write_part(&part, &units);
    let path = dir.path().join("clip.mp4");
    let until = Timeline::new(units[0].dts).ticks(units[0].dts + Duration::from_millis(1_700));
    let mut finisher = Finisher::begin(&part, &path, Some(until)).expect("readable");
    let finished = finisher.step(usize::MAX).expect("writable").expect("in one step");
    assert_eq!(finished.duration_ms, 1_720, "43 pictures of 40 ms begin before 1,700 ms");
    assert_plays(&path, &units[..43]);
}

#[test]
fn nothing_wanted_is_an_error_and_leaves_no_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let units = rendered(Encoding::H264, 1);
    let part = dir.path().join("clip.part");
    write_part(&part, &units);
    let begun = Finisher::begin(&part, &dir.path().join("clip.mp4"), Some(0));
    assert!(matches!(begun.err(), Some(ClipError::Empty { .. })));
    fs::write(&part, b"not a video").expect("writable");
    let begun = Finisher::begin(&part, &dir.path().join("clip.mp4"), None);
    assert!(matches!(begun.err(), Some(ClipError::Empty { .. })));
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
}

#[test]
fn a_stream_that_lies_about_its_codec_is_an_error() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut unit = rendered(Encoding::H264, 1).remove(0);
    unit.stream = Arc::new(StreamInfo { codec_config: Arc::from([7, 7]), ..(*unit.stream).clone() });
    let made = Part::create(&dir.path().join("clip.part"), &unit, LABEL);
    assert!(matches!(made.err(), Some(ClipError::Format { .. })));
}

#[test]
fn a_pause_in_the_footage_keeps_the_time() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut units = rendered(Encoding::H264, 1);
    units.extend(later(&units.clone(), Duration::from_secs(4)));
    let path = dir.path().join("clip.mp4");
    let finished = write_clip(&path, &units, LABEL).expect("writable");
    assert_eq!(finished.duration_ms, 5_000);
    assert_eq!(decode_errors(&path), "");
    let packets = probed(&path).packets;
    assert_eq!(number(&packets[FPS as usize]["pts"]), 4.0 * f64::from(TIMESCALE));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the units' times and sizes, the `.part` gives back what went in, wherever it is cut.
    #[test]
    fn a_part_gives_back_its_samples(
        steps in prop::collection::vec((0_u64..2_000, 0_u64..300, 0_usize..400, any::<bool>()), 1..60),
        cut in 0.0_f64..1.0,
    ) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let stream = Arc::clone(&h264_stream());
        let mut dts = Mono::from_millis(50_000);
        let units: Vec<_> = steps.iter().map(|&(step_ms, ahead_ms, bytes, keyframe)| {
            dts = dts + Duration::from_millis(step_ms);
            AccessUnit {
                stream: Arc::clone(&stream), pts: dts + Duration::from_millis(ahead_ms), dts, keyframe,
                discontinuity: false, data: vec![1; bytes].into(),
            }
        }).collect();
        let path = dir.path().join("x.part");
        write_part(&path, &units);
        let read = || PartIndex::read(&fs::File::open(&path).expect("readable"), &path);
        let index = read().expect("whole");
        prop_assert_eq!(index.samples.len(), units.len());
        let timeline = Timeline::new(units[0].dts);
        for (i, (sample, unit)) in index.samples.iter().zip(&units).enumerate() {
            prop_assert_eq!(sample.size as usize, unit.data.len());
            prop_assert_eq!(sample.keyframe, unit.keyframe);
            prop_assert_eq!(sample.dts + i64::from(sample.cts), timeline.ticks(unit.pts));
            prop_assert!((0..=i as i64).contains(&(sample.dts - timeline.ticks(unit.dts))), "moved on by a tick at most each");
        }
        for pair in index.samples.windows(2) {
            prop_assert_eq!(pair[0].dts + i64::from(pair[0].duration), pair[1].dts);
        }
        let bytes = fs::read(&path).expect("readable");
        let at = (bytes.len() as f64 * cut) as usize;
        fs::write(&path, &bytes[..at]).expect("writable");
        if let Ok(less) = read() {
            prop_assert!(less.whole_bytes <= at as u64);
            prop_assert_eq!(&less.samples[..], &index.samples[..less.samples.len()]);
            prop_assert_eq!(&less.chunks[..], &index.chunks[..less.chunks.len()]);
        }
    }

    /// No garbage makes the reader panic.
    #[test]
    fn garbage_is_survived(garbage in prop::collection::vec(any::<u8>(), 0..400), at in 0.0_f64..1.0) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let unit = AccessUnit {
            stream: h264_stream(), pts: Mono::ZERO, dts: Mono::ZERO, keyframe: true, discontinuity: false,
            data: vec![1; 100].into(),
        };
        let path = dir.path().join("x.part");
        write_part(&path, &[unit.clone(), AccessUnit { dts: Mono::from_millis(2_000), ..unit }]);
        let mut bytes = fs::read(&path).expect("readable");
        let at = (bytes.len() as f64 * at) as usize;
        for (old, new) in bytes[at..].iter_mut().zip(garbage) {
            *old = new;
        }
        fs::write(&path, &bytes).expect("writable");
        if let Ok(index) = PartIndex::read(&fs::File::open(&path).expect("readable"), &path) {
            prop_assert!(index.whole_bytes <= bytes.len() as u64);
        }
    }
}

/// A made-up but well-formed configuration.
fn h264_stream() -> Arc<StreamInfo> {
    let config = [1, 66, 0, 30, 0xff, 0xe1, 0, 4, 0x67, 66, 0, 30, 1, 0, 2, 0x68, 0xce];
    Arc::new(StreamInfo {
        codec: crate::agent::capture::Codec::H264,
        width: 64,
        height: 48,
        rotation: Rotation::None,
        codec_config: Arc::from(config),
    })
}
