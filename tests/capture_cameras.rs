//! The contract that every kind of camera keeps, and what happens when a camera is lost.

use std::time::Duration;

use vedette::agent::capture::{CameraState, CaptureError, Codec, FrameTap, Rotation, Wants, read_file};
use vedette::agent::config::{CameraId, Pace, Source};
use vedette::base::stop::StopToken;

use crate::common::camera::{ALL, Running, Seen, camera, file, rtsp};
use crate::common::rtsp::RtspServer;
use crate::common::video;

const UNITS: Wants = Wants { access_units: true, frames: None };

/// What holds for everything any camera gives, if it was neither interrupted nor late.
fn keeps_the_contract(what: &str, seen: &Seen, size: (u32, u32), codec: Codec) {
    let first = seen.units.first().unwrap_or_else(|| panic!("{what}: no access units"));
    assert!(first.keyframe, "{what}: the first access unit is a keyframe");
    assert_eq!((first.stream.width, first.stream.height, first.stream.codec), (size.0, size.1, codec), "{what}");
    assert_eq!(first.stream.codec_config[0], 1, "{what}: an avcC or hvcC begins with its version");
    assert!(seen.units.iter().all(|u| u.dts <= u.pts), "{what}: dts is at most pts");
    assert!(seen.units.windows(2).all(|w| w[0].dts <= w[1].dts), "{what}: dts doesn't fall");
    assert!(seen.units.iter().all(|u| !u.discontinuity), "{what}: nothing was interrupted");
    for unit in &seen.units {
        let mut rest = &unit.data[..];
        while let Some((length, units)) = rest.split_first_chunk::<4>() {
            rest = units.get(u32::from_be_bytes(*length) as usize..).unwrap_or_else(|| panic!("{what}: bad length"));
        }
        assert!(rest.is_empty() && !unit.data.is_empty(), "{what}: NAL units fill the access unit");
    }
    assert!(!seen.frames.is_empty(), "{what}: no frames");
    assert!(seen.frames.windows(2).all(|w| w[0].at < w[1].at), "{what}: frames rise");
    for frame in &seen.frames {
        assert_eq!((frame.width, frame.height), (480, 480 * size.1 / size.0), "{what}");
        assert_eq!(frame.rgb.len(), (frame.width * frame.height * 3) as usize, "{what}");
        assert!(frame.rgb.iter().max() > frame.rgb.iter().min(), "{what}: there is something to see");
        assert!(!frame.discontinuity, "{what}: nothing was interrupted");
        assert_eq!(&*frame.camera.0, "gate");
    }
    let units_end = seen.units.iter().map(|u| u.pts).max().expect("units");
    for frame in seen.frames.iter().filter(|f| f.at <= units_end) {
        assert!(seen.units.iter().any(|u| u.pts == frame.at), "{what}: a frame has the time of its access unit");
    }
    assert!(seen.states.contains(&CameraState::Connecting));
}

#[test]
fn files_read_flat_out_give_everything_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mp4 = video::h264(dir.path(), "a.mp4", "640x360", 25, 2);
    let files = [
        (mp4.clone(), Codec::H264),
        (video::convert(&mp4, "a.mkv", "-c copy"), Codec::H264),
        (video::convert(&mp4, "a.ts", "-c copy"), Codec::H264),
        (video::convert(&mp4, "a.avi", "-c copy"), Codec::H264),
        (video::h265(dir.path(), "b.mp4", "640x360", 25, 2), Codec::H265),
        (video::mjpeg(dir.path(), "c.avi", "640x360", 25, 2), Codec::H264),
    ];
    for (path, codec) in files {
        let what = path.display().to_string();
        let running = Running::start(camera(file(&path, Pace::FlatOut, false)), ALL);
        let picture = {
            running.recorder.wait_for("frames", |s| s.frames.len() >= 16);
            running.snapshots.latest(&CameraId::new("gate")).expect("a frame was given")
        };
        let (seen, outcome) = running.finish();
        outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
        keeps_the_contract(&what, &seen, (640, 360), codec);
        assert_eq!((seen.units.len(), seen.frames.len()), (50, 16), "{what}");
        assert!(seen.units.iter().filter(|u| u.keyframe).count() >= 2, "{what}: a keyframe a second");
        let mut shown: Vec<u64> = seen.units.iter().map(|u| u.pts.as_millis()).collect();
        shown.sort_unstable();
        assert_eq!(shown, (0..50).map(|i| i * 40).collect::<Vec<u64>>(), "{what}");
        assert_eq!(seen.states.last(), Some(&CameraState::Ended));

        assert_eq!(picture.at, seen.frames[15].at);
        assert_eq!((picture.width(), picture.height()), (640, 360));
        let jpeg = picture.to_jpeg(80).expect("encodable");
        assert!(jpeg.starts_with(&[0xff, 0xd8, 0xff]) && jpeg.ends_with(&[0xff, 0xd9]));

        // `replay` gets the frames that the daemon gets.
        let mut same = seen.frames.iter();
        let tap = FrameTap { sample_fps: 8.0, region: None };
        read_file(&path, &CameraId::new("gate"), tap, &StopToken::new(), |frame| {
            let other = same.next().expect("as many frames");
            assert_eq!((frame.at, &frame.rgb), (other.at, &other.rgb), "{what}");
            std::ops::ControlFlow::Continue(())
        })
        .expect("it was readable before");
    }
}

#[test]
fn live_cameras_keep_the_contract() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let h264 = video::h264(dir.path(), "a264.mp4", "320x180", 15, 20);
    let h265 = video::h265(dir.path(), "a265.mp4", "320x180", 15, 20);
    let server = RtspServer::start(&["--user", "u", "--password", "p w"], &[("264", &h264), ("265", &h265)]);
    let login = Some(("u", "p w"));
    for (what, source, codec) in [
        ("rtsp, H.264", rtsp(server.url("264"), login), Codec::H264),
        ("rtsp, H.265", rtsp(server.url("265"), login), Codec::H265),
        ("file in real time", file(&h264, Pace::Realtime, false), Codec::H264),
        ("test", Source::Test { width: 320, height: 180, fps: 15 }, Codec::H264),
    ] {
        let running = Running::start_late(camera(source), ALL);
        running.recorder.wait_for(what, |s| s.frames.len() >= 12 && s.units.len() >= 20);
        let (seen, outcome) = running.stop();
        outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
        keeps_the_contract(what, &seen, (320, 180), codec);
        // Nothing waits at the start, so nothing is skipped; skipping goes on to the next keyframe, a second later.
        let missed = seen.frames[0].at.since(seen.units[0].pts);
        assert!(missed < Duration::from_millis(500), "{what}: the first frame is {missed:?} into the stream");
        // Live time is the clock's: what was given spans about the time that it took.
        let (a, b) = (&seen.frames[0], &seen.frames[11]);
        let (shown, arrived) = (b.at.since(a.at), b.arrival.since(a.arrival));
        assert!(shown.abs_diff(arrived) < Duration::from_millis(700), "{what}: {shown:?} and {arrived:?}");
        assert!(matches!(seen.states.get(1), Some(CameraState::Running { .. })), "{what}: {:?}", seen.states);
    }
}

#[test]
fn an_encoded_stream_that_is_only_recorded_is_not_decoded() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = video::rotated(&video::h264(dir.path(), "a.mp4", "320x180", 25, 2), "rotated.mp4");
    let running = Running::start(camera(file(&path, Pace::FlatOut, false)), UNITS);
    let stats = running.stats.clone();
    let (seen, outcome) = running.finish();
    outcome.expect("readable");
    assert_eq!((seen.units.len(), seen.frames.len(), stats.pictures.get()), (50, 0, 0));
    assert_eq!(seen.units[0].stream.rotation, Rotation::ThreeQuarter);
}

#[test]
fn a_repeating_file_runs_on_in_time() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = video::h264(dir.path(), "a.mp4", "320x180", 25, 1);
    let running = Running::start(camera(file(&path, Pace::FlatOut, true)), ALL);
    running.recorder.wait_for("three rounds", |s| s.frames.len() >= 24 && s.units.len() >= 75);
    let seen = running.stop().0;
    assert!(seen.frames.windows(2).all(|w| w[0].at < w[1].at));
    assert!(seen.units.windows(2).all(|w| w[0].dts <= w[1].dts));
    for (i, unit) in seen.units.iter().enumerate() {
        assert_eq!(unit.discontinuity, i > 0 && i % 25 == 0, "access unit {i}");
        assert!(!unit.discontinuity || unit.keyframe);
    }
    let starts: Vec<u64> = seen.frames.iter().filter(|f| f.discontinuity).map(|f| f.at.as_millis()).collect();
    assert_eq!(starts[..2], [1_000, 2_000]);
}

#[test]
fn a_camera_that_went_away_comes_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = video::h264(dir.path(), "a264.mp4", "320x180", 15, 60);
    let server = RtspServer::start(&[], &[("a", &path)]);
    let (url, port) = (server.url("a"), server.port.to_string());
    let running = Running::start(camera(rtsp(url, None)), ALL);
    running.recorder.wait_for("frames", |s| s.frames.len() >= 4);
    drop(server);
    let lost = |s: &Seen| s.states.iter().any(|s| matches!(s, CameraState::Lost { .. }));
    let before = running.recorder.wait_for("loss", lost);
    let _again = RtspServer::start(&["--port", &port], &[("a", &path)]);
    let frames = before.frames.len();
    let seen = running.recorder.wait_for("frames again", |s| s.frames.len() >= frames + 4);
    let breaks: Vec<usize> = seen.frames.iter().enumerate().filter(|(_, f)| f.discontinuity).map(|(i, _)| i).collect();
    assert_eq!(breaks, [frames], "the first frame after the loss, and no other");
    let units: Vec<_> = seen.units.iter().filter(|u| u.discontinuity).collect();
    assert!(units.len() == 1 && units[0].keyframe);
    assert!(seen.frames.windows(2).all(|w| w[0].at < w[1].at));
    assert!(seen.units.windows(2).all(|w| w[0].dts <= w[1].dts));
}

#[test]
fn a_camera_that_freezes_is_started_anew() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = video::h264(dir.path(), "a264.mp4", "320x180", 15, 60);
    let server = RtspServer::start(&["--freeze-after", "3"], &[("a", &path)]);
    let mut frozen = camera(rtsp(server.url("a"), None));
    frozen.frozen_after = Duration::from_secs(2);
    let running = Running::start(frozen, ALL);
    let seen = running.recorder.wait_for("a second session", |s| s.frames.iter().any(|f| f.discontinuity));
    let why = seen.states.iter().find_map(|s| match s {
        CameraState::Lost { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    assert!(why.as_ref().is_some_and(|w| w.contains("has sent no") && w.contains("for 2 s")), "{why:?}");
}

#[test]
fn bad_addresses_and_logins_say_so_without_the_password() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = video::h264(dir.path(), "a264.mp4", "320x180", 15, 2);
    let server = RtspServer::start(&["--user", "u", "--password", "right"], &[("a", &path)]);
    let nobody = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        format!("rtsp://{}/a", free.local_addr().expect("bound"))
    };
    for (source, wanted) in [
        (rtsp(server.url("a"), Some(("u", "secret-but-wrong"))), "refuses the login"),
        (rtsp(server.url("a"), None), "refuses the login"),
        (rtsp(server.url("nowhere"), Some(("u", "right"))), "there is no video at"),
        (rtsp(nobody, Some(("u", "right"))), "can't be reached"),
    ] {
        let running = Running::start(camera(source), ALL);
        let lost = |s: &Seen| s.states.iter().any(|s| matches!(s, CameraState::Lost { .. }));
        let seen = running.recorder.wait_for("loss", lost);
        let said = format!("{:?}", seen.states);
        println!("{said}");
        assert!(said.contains(wanted), "{wanted}: {said}");
        assert!(!said.contains("secret") && !said.contains("right"), "{said}");
        running.stop().1.expect("a network camera is never given up");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_given_up() {
    let running = Running::start(camera(file("/nowhere/a.mp4".as_ref(), Pace::Realtime, true)), ALL);
    let (seen, outcome) = running.finish();
    assert!(matches!(outcome, Err(CaptureError::NotFound { .. })));
    assert!(matches!(seen.states.last(), Some(CameraState::Failed { .. })), "{:?}", seen.states);
}
