//! Privacy masks, from the camera to the pixels of frames, snapshots and clips: what is under them is flat everywhere,
//! and what is beside them is what the camera showed.

use std::path::{Path, PathBuf};

use vedette::agent::capture::{AccessUnit, Codec, Rotation};
use vedette::agent::config::{Camera, CameraId, Mask, Pace, Point, Source};

use crate::common::agent::{Agent, json_lines, stderr, stdout};
use crate::common::camera::{ALL, Running, Seen, camera, file, rtsp};
use crate::common::rtsp::RtspServer;
use crate::common::{video, wait_for};

/// The hidden part of the upright picture: left, top, right, bottom. On no grid of pixels.
const HIDDEN: [f64; 4] = [0.31, 0.27, 0.73, 0.66];

/// How far coding blurs the edge of what is hidden, in pixels: a block of the codec, and of chroma at half the size.
const CODED: f64 = 8.0;
const JPEG: f64 = 16.0;

fn mask() -> Mask {
    let [left, top, right, bottom] = HIDDEN;
    let points = [(left, top), (right, top), (right, bottom), (left, bottom)];
    Mask { points: points.map(|(x, y)| Point { x, y }).into() }
}

fn masked(source: Source) -> Camera {
    Camera { masks: vec![mask()], encode_kbps: 4_000, ..camera(source) }
}

/// An upright picture in packed RGB.
struct Shown<'a> {
    rgb: &'a [u8],
    width: usize,
    height: usize,
}

impl Shown<'_> {
    /// The pixels at least `margin` inside what is hidden, or at least that far outside of it.
    fn pixels(&self, hidden: bool, margin: f64) -> impl Iterator<Item = (usize, [u8; 3])> + '_ {
        let [left, top, right, bottom] = HIDDEN;
        let (w, h) = (self.width as f64, self.height as f64);
        let margin = if hidden { -margin } else { margin };
        let (across, down) = (left * w - margin..right * w + margin, top * h - margin..bottom * h + margin);
        (0..self.width * self.height).filter_map(move |i| {
            let at = ((i % self.width) as f64 + 0.5, (i / self.width) as f64 + 0.5);
            let inside = across.contains(&at.0) && down.contains(&at.1);
            (inside == hidden).then(|| (i, [self.rgb[3 * i], self.rgb[3 * i + 1], self.rgb[3 * i + 2]]))
        })
    }

    /// The brightest sample of what is hidden.
    fn brightest_hidden(&self, margin: f64) -> u8 {
        self.pixels(true, margin).flat_map(|(_, p)| p).max().expect("something is hidden")
    }

    fn brightest_visible(&self) -> u8 {
        self.pixels(false, 2.0).flat_map(|(_, p)| p).max().expect("something is visible")
    }
}

/// A file's pictures as ffmpeg shows them, upright: packed RGB.
fn pictures(file: &Path, (width, height): (usize, usize)) -> Vec<Vec<u8>> {
    let raw = video::convert(file, "shown.rgb", "-f rawvideo -pix_fmt rgb24");
    let raw = std::fs::read(raw).expect("just rendered");
    assert_eq!(raw.len() % (width * height * 3), 0, "{}: whole pictures of {width} x {height}", file.display());
    raw.chunks_exact(width * height * 3).map(<[u8]>::to_vec).collect()
}

/// H.264 access units as a file of their own.
fn elementary(units: &[AccessUnit], path: PathBuf) -> PathBuf {
    let mut out = Vec::new();
    let mut put = |nal: &[u8]| {
        out.extend([0, 0, 0, 1]);
        out.extend(nal);
    };
    let config = &units[0].stream.codec_config;
    // avcC: five bytes, then (count, (length, unit)...) for each kind of parameter set.
    let mut rest = &config[5..];
    for _ in 0..2 {
        let count = rest[0] & 0x1f;
        rest = &rest[1..];
        for _ in 0..count {
            let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
            put(&rest[2..2 + length]);
            rest = &rest[2 + length..];
        }
    }
    for unit in units {
        let mut rest = &unit.data[..];
        while let Some((length, units)) = rest.split_first_chunk::<4>() {
            let (nal, after) = units.split_at(u32::from_be_bytes(*length) as usize);
            put(nal);
            rest = after;
        }
    }
    std::fs::write(&path, out).expect("writable");
    path
}

/// Everything that came of a masked camera hides what it must; `size` is that of the upright picture.
fn hides(what: &str, dir: &Path, seen: &Seen, rotation: Rotation, size: (usize, usize)) {
    assert!(!seen.frames.is_empty() && !seen.units.is_empty(), "{what}");
    for (i, frame) in seen.frames.iter().enumerate() {
        let shown = Shown { rgb: &frame.rgb, width: frame.width as usize, height: frame.height as usize };
        // The filter that scales reaches two pixels out.
        let brightest = shown.brightest_hidden(2.5);
        assert!(brightest <= 18, "{what}: frame {i} shows {brightest} under the mask");
        assert!(shown.brightest_visible() > 100, "{what}: frame {i} shows what is not masked");
    }
    let stream = &seen.units[0].stream;
    assert_eq!((stream.codec, stream.rotation), (Codec::H264, rotation), "{what}: encoded anew, as it stands");
    let stored = elementary(&seen.units, dir.join("stored.h264"));
    // An elementary stream has no word on its rotation: turned here.
    let turned = match rotation {
        Rotation::None => stored,
        Rotation::ThreeQuarter => video::convert(&stored, "turned.mkv", "-vf transpose=cclock -c:v ffv1"),
        other => panic!("{other:?} is in no test"),
    };
    let pictures = pictures(&turned, size);
    assert!(pictures.len() + 3 >= seen.units.len(), "{what}: {} of {}", pictures.len(), seen.units.len());
    for (i, rgb) in pictures.iter().enumerate() {
        let shown = Shown { rgb, width: size.0, height: size.1 };
        // Coding again blurs the edge of the mask by less than a block; the inside stays flat.
        let brightest = shown.brightest_hidden(CODED);
        assert!(brightest <= 24, "{what}: stored picture {i} shows {brightest} under the mask");
        assert!(shown.brightest_visible() > 100, "{what}: stored picture {i} shows what is not masked");
    }
}

#[test]
fn what_is_masked_is_in_nothing_that_a_camera_gives() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let h264 = video::h264(dir.path(), "a.mp4", "640x360", 25, 2);
    let source = "testsrc2=size=640x360:rate=25:duration=2";
    let files = [
        (video::rotated(&h264, "rotated.mp4"), Rotation::ThreeQuarter),
        (video::h265(dir.path(), "b.mp4", "640x360", 25, 2), Rotation::None),
        (video::convert(&h264, "a.avi", "-c copy"), Rotation::None),
        (video::mjpeg(dir.path(), "c.avi", "640x360", 25, 2), Rotation::None),
        (
            video::render(
                dir.path(),
                "ten_bit.mkv",
                source,
                "-c:v libx265 -x265-params log-level=error -pix_fmt yuv422p10le",
            ),
            Rotation::None,
        ),
        (video::render(dir.path(), "rgb.mkv", source, "-c:v ffv1 -pix_fmt bgr0"), Rotation::None),
        (video::h264(dir.path(), "odd.mp4", "642x362", 25, 2), Rotation::None),
        (h264.clone(), Rotation::None),
    ];
    for (path, rotation) in files {
        let what = path.display().to_string();
        let running = Running::start(masked(file(&path, Pace::FlatOut, false)), ALL);
        let snapshots = running.snapshots.clone();
        let (seen, outcome) = running.finish();
        outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!((seen.units.len(), seen.frames.len()), (50, 16), "{what}");
        let snapshot = snapshots.latest(&CameraId::new("gate")).expect("a frame was given");
        let size = (snapshot.width() as usize, snapshot.height() as usize);
        hides(&what, dir.path(), &seen, rotation, size);

        let jpeg = dir.path().join("snapshot.jpg");
        std::fs::write(&jpeg, snapshot.to_jpeg(90).expect("encodable")).expect("writable");
        let shown = pictures(&jpeg, size);
        let shown = Shown { rgb: &shown[0], width: size.0, height: size.1 };
        assert!(shown.brightest_hidden(JPEG) <= 24 && shown.brightest_visible() > 100, "{what}: the snapshot");
    }
    // Without the mask it would show.
    let (seen, _) = Running::start(camera(file(&h264, Pace::FlatOut, false)), ALL).finish();
    let frame = &seen.frames[0];
    let plain = Shown { rgb: &frame.rgb, width: frame.width as usize, height: frame.height as usize };
    assert!(plain.brightest_hidden(CODED) > 100);
}

#[test]
fn what_is_beside_a_mask_is_as_without_it() {
    // A decoder makes pictures from pictures: were one of those painted on, black would creep over the rest.
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = video::convert(
        &video::h264(dir.path(), "a.mp4", "640x360", 25, 4),
        "long_group.mp4",
        "-c:v libx264 -g 250 -bf 3 -refs 4 -preset medium",
    );
    for path in [&path, &video::h265(dir.path(), "b.mp4", "640x360", 25, 4)] {
        let (plain, _) = Running::start(camera(file(path, Pace::FlatOut, false)), ALL).finish();
        let (masked, _) = Running::start(masked(file(path, Pace::FlatOut, false)), ALL).finish();
        assert_eq!((plain.frames.len(), masked.frames.len()), (32, 32));
        for (plain, masked) in plain.frames.iter().zip(&masked.frames) {
            assert_eq!(plain.at, masked.at, "a picture has its time, whichever way it came");
            let shown = |rgb| Shown { rgb, width: plain.width as usize, height: plain.height as usize };
            let (plain, masked) = (shown(&plain.rgb), shown(&masked.rgb));
            assert!(plain.pixels(false, 3.0).eq(masked.pixels(false, 3.0)));
        }
    }
}

#[test]
fn a_masked_camera_stays_masked_when_it_comes_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let h264 = video::h264(dir.path(), "a264.mp4", "320x180", 15, 60);
    let h265 = video::h265(dir.path(), "a265.mp4", "320x180", 15, 60);
    let server = RtspServer::start(&[], &[("a", &h264)]);
    let (url, port) = (server.url("a"), server.port.to_string());
    let source = rtsp(url, None);
    let running = Running::start_late(masked(source), ALL);
    let before = running.recorder.wait_for("frames", |s| s.frames.len() >= 12);
    drop(server);
    // It comes back with another codec.
    let _again = RtspServer::start(&["--port", &port], &[("a", &h265)]);
    running.recorder.wait_for("frames again", |s| s.frames.len() >= before.frames.len() + 12);
    let (seen, outcome) = running.stop();
    outcome.expect("a network camera is never given up");
    let again = seen.units.iter().position(|u| u.discontinuity).expect("it was interrupted");
    assert!(seen.units[again].keyframe);
    assert_eq!(seen.frames.iter().filter(|f| f.discontinuity).count(), 1);
    assert!(seen.units.windows(2).all(|w| w[0].dts <= w[1].dts));
    let (first, second) = seen.units.split_at(again);
    for (what, units) in [("before", first), ("after", second)] {
        let part = Seen { units: units.to_vec(), ..seen.clone() };
        hides(what, dir.path(), &part, Rotation::None, (320, 180));
    }
}

const CAMERA: &str = "[[camera]]\nid = \"gate\"\nkind = \"file\"\nrepeat = true\nencode_kbps = 4000\n";

fn hidden() -> String {
    let [left, top, right, bottom] = HIDDEN;
    format!("masks = [{{ x = {left}, y = {top}, width = {}, height = {} }}]\n", right - left, bottom - top)
}

#[test]
fn an_incident_of_a_masked_camera_keeps_nothing_of_what_is_masked() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = video::h264(dir.path(), "a.mp4", "640x360", 15, 20);
    let clips = "[clip]\npre_roll_s = 2\npost_roll_s = 1\n";
    let brightest = |camera: &str| {
        let mut agent = Agent::new(&format!("{camera}path = {path:?}\n"), clips).start();
        wait_for("the camera", || {
            (agent.status()["health"]["cameras"]["gate"]["access_units"].as_u64().unwrap_or(0) > 45).then_some(())
        });
        let id = agent.raise_test();
        let clip = agent.wait_for_clip(&id)["clip"].clone();
        assert_eq!(clip["state"], "done", "{clip}");
        let of = |key: &str, margin: f64| {
            let file = agent.state().join(clip[key].as_str().expect("a path"));
            let shown = pictures(&file, (640, 360));
            let shown = shown.iter().map(|rgb| Shown { rgb, width: 640, height: 360 });
            let each: Vec<_> = shown.map(|p| (p.brightest_hidden(margin), p.brightest_visible())).collect();
            let most = each.iter().map(|e| e.0).max().expect("pictures");
            (most, each.iter().map(|e| e.1).min().expect("pictures"))
        };
        (of("path", CODED), of("peak_jpeg_path", JPEG))
    };
    let (clip, jpeg) = brightest(&(CAMERA.to_owned() + &hidden()));
    assert!(clip.0 <= 24 && clip.1 > 100, "the clip: {clip:?}");
    assert!(jpeg.0 <= 24 && jpeg.1 > 100, "the picture: {jpeg:?}");
    let (clip, jpeg) = brightest(CAMERA);
    assert!(clip.0 > 100 && jpeg.0 > 100, "without the mask it shows: {clip:?} {jpeg:?}");
}

#[test]
fn check_says_what_masks_cost() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = video::h264(dir.path(), "a.mp4", "320x180", 15, 1);
    let camera = format!("{CAMERA}path = {path:?}\n");
    let agent = Agent::new(&(camera.clone() + &hidden()), "");
    let check = agent.command(&["check"]);
    assert!(check.status.success(), "{}{}", stdout(&check), stderr(&check));
    let said = stdout(&check);
    assert!(said.contains("camera[gate].masks: 1 mask hides 16 % of the picture"), "{said}");
    assert!(said.contains("encoded anew") && said.contains("4000 kbit/s"), "{said}");
    let json = &json_lines(&agent.command(&["check", "--json"]))[0];
    assert_eq!((&json["valid"], &json["notes"][0]["key"]), (&true.into(), &"camera[gate].masks".into()));
    agent.configure(&camera, "");
    assert!(!stdout(&agent.command(&["check"])).contains("mask"));
}
