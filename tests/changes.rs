//! Streams that change under way: another size, another rate, another codec. What follows is a new run of access units,
//! frames go on after a discontinuity, and nothing of it is unmasked.

use std::path::{Path, PathBuf};
use std::process::Command;

use vedette::agent::capture::{Codec, StreamInfo};
use vedette::agent::config::{Camera, Mask, Pace, Point};

use crate::common::agent::Agent;
use crate::common::camera::{ALL, Running, Seen, camera, file, rtsp};
use crate::common::rtsp::RtspServer;
use crate::common::{video, wait_for};

/// Two seconds of video of each of these sizes and rates, one after the other in one MPEG transport stream.
fn ts(dir: &Path, name: &str, parts: [(&str, u32); 2], seconds: u32) -> PathBuf {
    let mut from = 0;
    let parts = parts.map(|(size, fps)| {
        let plain = video::h264(dir, &format!("{size}-{fps}.mp4"), size, fps, seconds);
        let at = format!("-c copy -muxdelay 0 -output_ts_offset {from}");
        from += seconds;
        video::convert(&plain, &format!("{size}-{fps}-{from}.ts"), &at)
    });
    video::joined(&[&parts[0], &parts[1]], name)
}

/// The runs of access units: what each is decoded with, and how long it is.
fn runs(seen: &Seen) -> Vec<(StreamInfo, usize)> {
    let mut runs: Vec<(StreamInfo, usize)> = Vec::new();
    for unit in &seen.units {
        match runs.last_mut() {
            Some((stream, units)) if *stream == *unit.stream => *units += 1,
            _ => {
                assert!(unit.keyframe, "a run begins with a keyframe");
                runs.push(((*unit.stream).clone(), 1));
            }
        }
    }
    runs
}

/// What holds whatever changed in the middle of four seconds.
fn goes_on(what: &str, seen: &Seen, sizes: [(u32, u32); 2], frames: [(u32, u32); 2]) {
    let runs = runs(seen);
    assert_eq!(runs.iter().map(|(s, _)| (s.width, s.height)).collect::<Vec<_>>(), sizes, "{what}");
    assert!(seen.units.windows(2).all(|w| w[0].dts <= w[1].dts), "{what}: decode times don't fall");
    assert!(seen.frames.windows(2).all(|w| w[0].at < w[1].at), "{what}: frames rise");
    let change = seen.frames.iter().position(|f| f.discontinuity).unwrap_or_else(|| panic!("{what}: no break"));
    assert_eq!(seen.frames.iter().filter(|f| f.discontinuity).count(), 1, "{what}");
    for (i, frame) in seen.frames.iter().enumerate() {
        assert_eq!((frame.width, frame.height), frames[usize::from(i >= change)], "{what}: frame {i}");
    }
    assert!(change >= 14 && seen.frames.len() - change >= 14, "{what}: {change} of {}", seen.frames.len());
    assert!(seen.units.len() >= 95, "{what}: {}", seen.units.len());
}

/// The left half.
fn masked(camera: Camera) -> Camera {
    let points = [(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)].map(|(x, y)| Point { x, y });
    Camera { masks: vec![Mask { points: points.into() }], ..camera }
}

fn left_half_is_black(what: &str, seen: &Seen) {
    for (i, frame) in seen.frames.iter().enumerate() {
        let rows = frame.rgb.chunks_exact(3 * frame.width as usize);
        let (hidden, shown): (Vec<&[u8]>, Vec<&[u8]>) = rows.map(|r| r.split_at(3 * 237)).unzip();
        assert!(hidden.concat().iter().all(|v| *v <= 18), "{what}: frame {i} shows what is masked");
        assert!(shown.concat().iter().any(|v| *v > 100), "{what}: frame {i} shows what is not");
    }
}

#[test]
fn another_size_begins_a_new_run_and_stays_masked() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let parts = [("640x360", 25), ("320x240", 25)];
    let untouched = ts(dir.path(), "size.ts", parts, 2);
    // Without a container there are only times of decoding, and motion JPEG can't be stored: both are encoded anew.
    let bare = parts.map(|(size, fps)| {
        video::convert(&dir.path().join(format!("{size}-{fps}.mp4")), &format!("{size}.h264"), "-c copy")
    });
    let bare = video::joined(&[&bare[0], &bare[1]], "size.h264");
    let jpegs = parts.map(|(size, fps)| {
        video::convert(&dir.path().join(format!("{size}-{fps}.mp4")), &format!("{size}.mjpeg"), "-c:v mjpeg -q:v 4")
    });
    let jpegs = video::joined(&[&jpegs[0], &jpegs[1]], "size.mjpeg");
    for path in [untouched, bare, jpegs] {
        let what = path.display().to_string();
        let plain = camera(file(&path, Pace::FlatOut, false));
        for (what, camera) in [(what.clone(), plain.clone()), (what + ", masked", masked(plain))] {
            let is_masked = !camera.masks.is_empty();
            let (seen, outcome) = Running::start(camera, ALL).finish();
            outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
            goes_on(&what, &seen, [(640, 360), (320, 240)], [(480, 270), (480, 360)]);
            if is_masked {
                left_half_is_black(&what, &seen);
            }
        }
    }
}

#[test]
fn another_rate_is_another_run_and_no_break() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = ts(dir.path(), "rate.ts", [("320x180", 25), ("320x180", 10)], 2);
    let (seen, outcome) = Running::start(camera(file(&path, Pace::FlatOut, false)), ALL).finish();
    outcome.expect("readable");
    assert_eq!(runs(&seen).iter().map(|(_, units)| *units).collect::<Vec<_>>(), [50, 20]);
    let steps: Vec<u64> = seen.frames.windows(2).map(|w| w[1].at.since(w[0].at).as_millis() as u64).collect();
    assert!(steps.iter().all(|s| (80..=200).contains(s)), "eight a second throughout: {steps:?}");
    assert!(seen.frames.iter().all(|f| !f.discontinuity));
}

#[test]
fn a_network_camera_that_changes_its_size_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = ts(dir.path(), "size.ts", [("640x360", 25), ("320x240", 25)], 4);
    let server = RtspServer::start(&[], &[("a264", &path)]);
    let source = || rtsp(server.url("a264"), None);
    for (what, camera) in [("plain", camera(source())), ("masked", masked(camera(source())))] {
        let is_masked = !camera.masks.is_empty();
        let running = Running::start_late(camera, ALL);
        let both = |s: &Seen| s.units.iter().any(|u| u.stream.width == 320) && s.frames.iter().any(|f| f.height == 360);
        running.recorder.wait_for("the second size", both);
        let (seen, outcome) = running.stop();
        outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
        let runs = runs(&seen);
        assert_eq!(
            runs.iter().map(|(s, _)| (s.width, s.height)).collect::<Vec<_>>(),
            [(640, 360), (320, 240)],
            "{what}"
        );
        let breaks = seen.frames.iter().filter(|f| f.discontinuity).map(|f| f.height);
        assert_eq!(breaks.collect::<Vec<_>>(), [360], "{what}");
        if is_masked {
            left_half_is_black(what, &seen);
        }
    }
}

#[test]
fn a_network_camera_that_comes_back_with_another_codec_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let h264 = video::h264(dir.path(), "a264.mp4", "320x180", 15, 60);
    let h265 = video::h265(dir.path(), "a265.mp4", "320x180", 15, 60);
    let server = RtspServer::start(&[], &[("a", &h264)]);
    let (url, port) = (server.url("a"), server.port.to_string());
    let source = rtsp(url, None);
    let running = Running::start_late(camera(source), ALL);
    let before = running.recorder.wait_for("frames", |s| s.frames.len() >= 8);
    drop(server);
    let _again = RtspServer::start(&["--port", &port], &[("a", &h265)]);
    running.recorder.wait_for("frames again", |s| s.frames.len() >= before.frames.len() + 8);
    let (seen, outcome) = running.stop();
    outcome.expect("a network camera is never given up");
    assert_eq!(runs(&seen).iter().map(|(s, _)| s.codec).collect::<Vec<_>>(), [Codec::H264, Codec::H265]);
    assert!(seen.units.windows(2).all(|w| w[0].dts <= w[1].dts));
    assert_eq!(seen.frames.iter().filter(|f| f.discontinuity).count(), 1);
}

#[test]
fn a_clip_across_a_change_can_be_played() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = ts(dir.path(), "size.ts", [("640x360", 15), ("320x240", 15)], 12);
    let camera = format!("[[camera]]\nid = \"gate\"\nkind = \"file\"\nclassify = false\npath = {path:?}\n");
    let mut agent = Agent::new(&camera, "[clip]\npre_roll_s = 2\npost_roll_s = 20\n").start();
    wait_for("six seconds", || {
        (agent.status()["health"]["cameras"]["gate"]["access_units"].as_u64().unwrap_or(0) > 90).then_some(())
    });
    let id = agent.raise_test();
    let clip = agent.wait_for_clip(&id)["clip"].clone();
    assert_eq!(clip["state"], "done", "{clip}");
    let clip = agent.state().join(clip["path"].as_str().expect("a path"));
    // Every picture of it decodes, and all are of one size: the first one's.
    let shown = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-select_streams", "v:0"])
        .args(["-show_entries", "stream=width,height,nb_read_frames,nb_frames", "-of", "csv=p=0"])
        .arg(&clip)
        .output()
        .expect("ffprobe (Debian package ffmpeg)");
    assert!(shown.status.success() && shown.stderr.is_empty(), "{}", String::from_utf8_lossy(&shown.stderr));
    let said = String::from_utf8(shown.stdout).expect("text");
    let numbers: Vec<u32> = said.trim().split(',').map(|n| n.parse().expect("a number")).collect();
    let [640, 360, announced, decoded] = numbers[..] else { panic!("{said}") };
    // From two seconds before about the sixth second to the change at the twelfth.
    assert!(announced == decoded && (60..=15 * 12).contains(&decoded), "{said}");
}
