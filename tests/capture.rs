//! Cameras of every kind: what they give, and what they say when they can't.

use std::ops::ControlFlow;
use std::path::Path;

use vedette::agent::capture::{CaptureError, FileSummary, FileWarning, Frame, FrameTap, read_file};
use vedette::agent::config::CameraId;
use vedette::base::stop::StopToken;

use crate::common::video;

const TAP: FrameTap = FrameTap { sample_fps: 8.0, region: None };

fn read(path: &Path) -> Result<(Vec<Frame>, FileSummary), CaptureError> {
    let mut frames = Vec::new();
    let summary = read_file(path, &CameraId::new("file"), TAP, &StopToken::new(), |frame| {
        frames.push(frame);
        ControlFlow::Continue(())
    })?;
    Ok((frames, summary))
}

#[test]
fn containers_and_codecs_give_the_same_times() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mp4 = video::h264(dir.path(), "a.mp4", "640x360", 25, 2);
    let files = [
        mp4.clone(),
        video::convert(&mp4, "a.mkv", "-c copy"),
        video::convert(&mp4, "a.ts", "-c copy"),
        video::convert(&mp4, "a.avi", "-c copy"),
        video::h265(dir.path(), "b.mp4", "640x360", 25, 2),
        video::mjpeg(dir.path(), "c.avi", "640x360", 25, 2),
        video::convert(&mp4, "d.avi", "-c:v msmpeg4 -q:v 3"),
        video::convert(&mp4, "e.mkv", "-c:v vp9 -deadline realtime"),
        video::convert(&mp4, "f.avi", "-c:v rawvideo"),
    ];
    for file in files {
        let (frames, summary) = read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let at: Vec<u64> = frames.iter().map(|f| f.at.as_millis()).collect();
        println!("{} {summary:?} {at:?}", file.display());
        assert_eq!(frames.len(), 16, "{}: {at:?}", file.display());
        assert!(frames.windows(2).all(|w| w[0].at < w[1].at));
        assert!(frames.iter().all(|f| (f.width, f.height) == (480, 270) && f.rgb.len() == 480 * 270 * 3));
        assert!(frames.iter().all(|f| !f.discontinuity));
        assert_eq!((summary.width, summary.height, summary.pictures), (640, 360, 50));
        assert!(summary.warnings.is_empty(), "{:?}", summary.warnings);
    }
}

#[test]
fn bad_files_say_what_is_wrong() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let good = video::h264(dir.path(), "good.mp4", "320x180", 25, 4);
    let write = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).expect("a writable directory");
        path
    };
    for (path, wanted) in [
        (dir.path().join("nowhere.mp4"), "NotFound"),
        (write("empty.mp4", b""), "Empty"),
        (write("short.mp4", b"hello"), "NotVideo"),
        (write("text.mp4", &b"Dear camera, this is a letter.\n".repeat(300)), "NotVideo"),
        (write("noise.mp4", &(0..60_000_u32).map(|i| (i * i / 7 % 251) as u8).collect::<Vec<_>>()), "NotVideo"),
        (dir.path().to_owned(), "NotVideo"),
        (video::cut(&good, "cut.mp4", 30_000), "Truncated"),
        (video::audio_only(dir.path(), "audio.mp4"), "NoPictures"),
        (video::h264(dir.path(), "tiny.mp4", "16x16", 25, 1), "TooSmall"),
        (
            video::render(
                dir.path(),
                "huge.avi",
                "color=size=8256x64:rate=5:duration=1",
                "-c:v mjpeg -pix_fmt yuvj420p",
            ),
            "TooLarge",
        ),
    ] {
        let error = read(&path).map(|(f, s)| (f.len(), s)).expect_err(wanted);
        println!("{}: {error}", path.display());
        assert!(format!("{error:?}").starts_with(wanted), "{}: {error:?}", path.display());
    }
}

#[test]
fn damaged_files_are_read_as_far_as_they_go() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let good = video::h264(dir.path(), "good.mp4", "320x180", 25, 4);
    let fast = video::convert(&good, "fast.mp4", "-c copy -movflags +faststart");
    let size = std::fs::metadata(&fast).expect("just rendered").len() as usize;
    let (frames, summary) = read(&video::cut(&fast, "cut.mp4", size / 2)).expect("its beginning can be decoded");
    println!("{summary:?}");
    assert!((4..30).contains(&frames.len()));
    assert!(matches!(summary.warnings[..], [FileWarning::CutOff { .. }]), "{:?}", summary.warnings);

    let (frames, summary) = read(&video::times_that_go_back(&good, "back.flv", 60, 1_000)).expect("decodable");
    println!("{summary:?} {:?}", frames.iter().map(|f| f.at.as_millis()).collect::<Vec<_>>());
    assert_eq!(summary.pictures, 100);
    assert!(frames.windows(2).all(|w| w[0].at < w[1].at));
    assert_eq!(frames.iter().filter(|f| f.discontinuity).count(), 1);
    assert!(matches!(summary.warnings[..], [FileWarning::TimesGoBack { times: 1 }]), "{:?}", summary.warnings);
}

#[test]
fn unusual_videos_are_read_upright_and_whole() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let plain = video::h264(dir.path(), "plain.mp4", "320x180", 25, 2);
    let (frames, summary) = read(&video::rotated(&plain, "rotated.mp4")).expect("decodable");
    assert_eq!((summary.width, summary.height), (180, 320));
    assert_eq!((frames[0].width, frames[0].height), (480, 854));

    let large = video::h264(dir.path(), "4k.mp4", "3840x2160", 5, 1);
    let (frames, summary) = read(&large).expect("decodable");
    println!("{summary:?}");
    assert_eq!(frames.len(), 5);

    // Every third picture is missing, and then two in three.
    let args = "-vf select='if(lt(t,1),mod(n,3),not(mod(n,3)))' -vsync vfr -c:v libx264 -bf 2";
    let (frames, summary) = read(&video::convert(&plain, "vfr.mp4", args)).expect("decodable");
    println!("{summary:?} {:?}", frames.iter().map(|f| f.at.as_millis()).collect::<Vec<_>>());
    assert!((14..=16).contains(&frames.len()), "{}", frames.len());
}

#[test]
fn pixels_are_those_that_ffmpeg_shows() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let sd = video::h264(dir.path(), "sd.mp4", "640x360", 25, 1);
    let hd = "testsrc2=size=1920x1080:rate=25:duration=1,scale=out_color_matrix=bt709:out_range=tv";
    let bt709 =
        "-c:v libx264 -preset veryfast -pix_fmt yuv420p -color_primaries bt709 -color_trc bt709 -colorspace bt709";
    for (path, turned) in [
        (video::rotated(&sd, "rotated.mp4"), true),
        (sd, false),
        (video::render(dir.path(), "hd.mp4", hd, bt709), false),
        (video::mjpeg(dir.path(), "full_range.avi", "640x360", 25, 1), false),
        (
            video::render(
                dir.path(),
                "ten_bit.mkv",
                "testsrc2=size=640x360:duration=1",
                "-c:v libx265 -x265-params log-level=error -pix_fmt yuv420p10le",
            ),
            false,
        ),
        (video::render(dir.path(), "rgb.mkv", "testsrc2=size=640x360:duration=1", "-c:v ffv1 -pix_fmt bgr0"), false),
    ] {
        println!("{}", path.display());
        let (frames, _) = read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let ours = &frames[0];
        assert_eq!((ours.width, ours.height), if turned { (480, 854) } else { (480, 270) });
        let theirs = video::first_picture(&path, ours.width, ours.height);
        let differences: u64 = ours.rgb.iter().zip(&theirs).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        let mean = differences as f64 / theirs.len() as f64;
        println!("differs by {mean:.2} of 255 on average");
        assert!(mean < 2.0, "{}: differs by {mean:.2} of 255 on average", path.display());
    }
}

#[test]
fn a_consumer_may_break_off() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = video::h264(dir.path(), "a.mp4", "320x180", 25, 10);
    let mut seen = 0;
    let summary = read_file(&file, &CameraId::new("file"), TAP, &StopToken::new(), |_| {
        seen += 1;
        if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .expect("breaking off is no error");
    assert!(summary.broken_off);
    assert_eq!(seen, 3);
}
