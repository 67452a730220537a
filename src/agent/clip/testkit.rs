//! What the tests of clips share: real encoded video, and players' opinions of what was written.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use crate::agent::capture::{AccessUnit, Codec, Rotation, StreamInfo};
use crate::base::clock::Mono;

/// Pictures a second of what is rendered.
pub const FPS: u64 = 25;

/// How the test picture is encoded: with a keyframe about each second (an open group of pictures with H.265).
#[derive(Debug, Clone, Copy)]
pub enum Encoding {
    H264,
    H264BFrames,
    H265,
}

/// `seconds` of a moving test picture, 320x240 at [`FPS`], as a camera's access units, decode time from zero.
pub fn rendered(encoding: Encoding, seconds: u32) -> Vec<AccessUnit> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("rendered.mp4");
    let (codec, options): (_, &[&str]) = match encoding {
        Encoding::H264 => ("libx264", &["-preset", "veryfast", "-bf", "0", "-g", "25"]),
        Encoding::H264BFrames => ("libx264", &["-preset", "veryfast", "-bf", "3", "-g", "25"]),
        Encoding::H265 => {
            ("libx265", &["-preset", "ultrafast", "-x265-params", "keyint=24:bframes=2:open-gop=1:log-level=error"])
        }
    };
    let source = format!("testsrc2=size=320x240:rate={FPS}:duration={seconds}");
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", &source, "-pix_fmt", "yuv420p", "-c:v", codec])
        .args(options)
        .arg(&file)
        .status()
        .expect("ffmpeg is installed");
    assert!(status.success());
    let units = demuxed(&file, matches!(encoding, Encoding::H265));
    let reordered = units.iter().any(|u| u.pts > u.dts);
    assert_eq!(reordered, !matches!(encoding, Encoding::H264), "the fixture is as it should be");
    units
}

fn demuxed(file: &Path, h265: bool) -> Vec<AccessUnit> {
    gst::init().expect("GStreamer is installed");
    let (parse, caps) = if h265 {
        ("h265parse", "video/x-h265,stream-format=hvc1,alignment=au")
    } else {
        ("h264parse", "video/x-h264,stream-format=avc,alignment=au")
    };
    let line = format!("filesrc name=f ! qtdemux ! {parse} ! {caps} ! appsink name=s sync=false");
    let pipeline =
        gst::parse::launch(&line).expect("a valid pipeline").downcast::<gst::Pipeline>().expect("a pipeline");
    pipeline.by_name("f").expect("named").set_property("location", file.to_str().expect("UTF-8"));
    let sink = pipeline.by_name("s").expect("named").downcast::<gst_app::AppSink>().expect("an appsink");
    pipeline.set_state(gst::State::Playing).expect("it plays");
    let (mut units, mut stream) = (Vec::new(), None);
    while let Ok(sample) = sink.pull_sample() {
        let stream = stream.get_or_insert_with(|| {
            let caps = sample.caps().expect("caps").structure(0).expect("one structure").to_owned();
            let config = caps.get::<gst::Buffer>("codec_data").expect("a codec configuration");
            Arc::new(StreamInfo {
                codec: if h265 { Codec::H265 } else { Codec::H264 },
                width: caps.get::<i32>("width").expect("a width") as u32,
                height: caps.get::<i32>("height").expect("a height") as u32,
                rotation: Rotation::None,
                codec_config: Arc::from(config.map_readable().expect("readable").as_slice()),
            })
        });
        let buffer = sample.buffer().expect("a buffer");
        let nanos = |t: Option<gst::ClockTime>| Mono::from_nanos(t.expect("a time").nseconds());
        units.push(AccessUnit {
            stream: Arc::clone(stream),
            pts: nanos(buffer.pts()),
            dts: nanos(buffer.dts()),
            keyframe: !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT),
            discontinuity: false,
            data: Arc::from(buffer.map_readable().expect("readable").as_slice()),
        });
    }
    pipeline.set_state(gst::State::Null).expect("it stops");
    assert!(units.len() > 1 && units[0].keyframe, "the fixture is as it should be");
    units
}

/// The same units, later by `by`.
pub fn later(units: &[AccessUnit], by: Duration) -> Vec<AccessUnit> {
    units.iter().map(|u| AccessUnit { pts: u.pts + by, dts: u.dts + by, ..u.clone() }).collect()
}

/// What ffprobe says of a file.
#[derive(Debug)]
pub struct Probed {
    pub streams: Vec<serde_json::Value>,
    pub packets: Vec<serde_json::Value>,
    pub format: serde_json::Value,
    pub errors: String,
}

/// Asks ffprobe.
pub fn probed(file: &Path) -> Probed {
    let out = Command::new("ffprobe")
        .args(["-v", "error", "-show_streams", "-show_packets", "-show_format", "-of", "json"])
        .arg(file)
        .output()
        .expect("ffprobe is installed");
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).expect("ffprobe prints JSON");
    let list = |key: &str| json[key].as_array().cloned().unwrap_or_default();
    Probed {
        streams: list("streams"),
        packets: list("packets"),
        format: json["format"].clone(),
        errors: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// A number that ffprobe prints as a string or as a number.
pub fn number(value: &serde_json::Value) -> f64 {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(f64::NAN)
}

/// What ffmpeg complains of while it decodes all of a file; empty when nothing is wrong.
pub fn decode_errors(file: &Path) -> String {
    let out = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(file)
        .args(["-f", "null", "-"])
        .output()
        .expect("ffmpeg is installed");
    let mut errors = String::from_utf8_lossy(&out.stderr).into_owned();
    if !out.status.success() {
        errors.push_str("ffmpeg failed");
    }
    errors
}

/// Digest of each decoded picture, as shown, in order.
pub fn pictures(file: &Path) -> Vec<String> {
    let out = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(file)
        .args(["-map", "0:v", "-vsync", "passthrough", "-f", "framemd5", "-"])
        .output()
        .expect("ffmpeg is installed");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let lines = String::from_utf8(out.stdout).expect("text");
    let digest = |l: &str| l.rsplit(',').next().map(|d| d.trim().to_owned());
    lines.lines().filter(|l| !l.starts_with('#')).filter_map(digest).collect()
}
