//! Small test videos, rendered by ffmpeg into a temporary directory of the test.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Renders `name` in `dir`: `ffmpeg -i (lavfi source) (args) name`.
pub fn render(dir: &Path, name: &str, source: &str, args: &str) -> PathBuf {
    let path = dir.join(name);
    let mut all = vec!["-f", "lavfi", "-i", source];
    all.extend(args.split_whitespace());
    ffmpeg(&all, &path);
    path
}

/// Rewraps or converts a video: `ffmpeg -i input (args) name`, in the input's directory.
pub fn convert(input: &Path, name: &str, args: &str) -> PathBuf {
    let path = input.with_file_name(name);
    let mut all = vec!["-i", input.to_str().expect("a plain path")];
    all.extend(args.split_whitespace());
    ffmpeg(&all, &path);
    path
}

fn ffmpeg(args: &[&str], out: &Path) {
    // One that hangs is not to be taken for us.
    let run = Command::new("timeout")
        .args(["--kill-after=5", "120", "ffmpeg", "-v", "error", "-y", "-nostdin"])
        .args(args)
        .arg(out)
        .output()
        .expect("timeout is everywhere");
    assert_ne!(run.status.code(), Some(124), "ffmpeg {args:?} did not end within two minutes");
    assert!(run.status.success(), "ffmpeg {args:?}: {}", String::from_utf8_lossy(&run.stderr));
}

/// A moving picture of this size and rate: H.264 in MP4 with a keyframe a second and B-frames.
pub fn h264(dir: &Path, name: &str, size: &str, fps: u32, seconds: u32) -> PathBuf {
    let source = format!("testsrc2=size={size}:rate={fps}:duration={seconds}");
    render(dir, name, &source, &format!("-c:v libx264 -preset veryfast -bf 2 -g {fps} -pix_fmt yuv420p"))
}

/// The same in H.265.
pub fn h265(dir: &Path, name: &str, size: &str, fps: u32, seconds: u32) -> PathBuf {
    let source = format!("testsrc2=size={size}:rate={fps}:duration={seconds}");
    let args = format!(
        "-c:v libx265 -preset ultrafast -x265-params log-level=error:keyint={fps}:bframes=2 -tag:v hvc1 -pix_fmt yuv420p"
    );
    render(dir, name, &source, &args)
}

/// Motion JPEG in AVI: something that can't be stored untouched.
pub fn mjpeg(dir: &Path, name: &str, size: &str, fps: u32, seconds: u32) -> PathBuf {
    let source = format!("testsrc2=size={size}:rate={fps}:duration={seconds}");
    render(dir, name, &source, "-c:v mjpeg -q:v 4 -pix_fmt yuvj420p")
}

/// Sound without pictures.
pub fn audio_only(dir: &Path, name: &str) -> PathBuf {
    render(dir, name, "sine=duration=2", "-c:a aac")
}

/// The first `bytes` bytes of a video, under another name beside it.
pub fn cut(input: &Path, name: &str, bytes: usize) -> PathBuf {
    let whole = std::fs::read(input).expect("a rendered video");
    let path = input.with_file_name(name);
    std::fs::write(&path, &whole[..bytes.min(whole.len())]).expect("a writable directory");
    path
}

/// The first picture of a video as ffmpeg shows it, upright, scaled to this size: packed RGB.
pub fn first_picture(video: &Path, width: u32, height: u32) -> Vec<u8> {
    let filter = format!("-frames:v 1 -vf scale={width}:{height}:flags=bilinear+accurate_rnd+full_chroma_int");
    let raw = convert(video, "reference.rgb", &format!("{filter} -f rawvideo -pix_fmt rgb24"));
    std::fs::read(raw).expect("just rendered")
}

/// A video whose metadata says that it is to be turned by 90 degrees anticlockwise for display.
pub fn rotated(input: &Path, name: &str) -> PathBuf {
    convert(input, name, "-c copy -metadata:s:v rotate=90")
}

/// An FLV of a video (25 frames a second or so) whose time-stamps go back by `back_ms` from the tag of the
/// `from`th picture on.
pub fn times_that_go_back(input: &Path, name: &str, from: usize, back_ms: u32) -> PathBuf {
    let path = convert(input, name, "-an -c:v libx264 -bf 0 -g 10 -f flv");
    let mut flv = std::fs::read(&path).expect("just rendered");
    // Header of 9 bytes, then for each tag the size of the one before it (4), type (1), size (3), time (3 + 1), ...
    let (mut at, mut pictures) = (13, 0);
    while at + 11 <= flv.len() {
        let size = usize::from(flv[at + 1]) << 16 | usize::from(flv[at + 2]) << 8 | usize::from(flv[at + 3]);
        if flv[at] == 9 {
            pictures += 1;
            if pictures > from {
                let time = u32::from_be_bytes([flv[at + 7], flv[at + 4], flv[at + 5], flv[at + 6]]) - back_ms;
                let [high, a, b, c] = time.to_be_bytes();
                flv[at + 4..at + 8].copy_from_slice(&[a, b, c, high]);
            }
        }
        at += 11 + size + 4;
    }
    std::fs::write(&path, flv).expect("a writable directory");
    path
}

/// Videos one after another, byte by byte: what the container allows that is written without an end (TS, elementary
/// streams).
pub fn joined(parts: &[&Path], name: &str) -> PathBuf {
    let path = parts[0].with_file_name(name);
    let whole: Vec<u8> = parts.iter().flat_map(|p| std::fs::read(p).expect("a rendered video")).collect();
    std::fs::write(&path, whole).expect("a writable directory");
    path
}

/// So many seconds of H.264 as it comes from an encoder: 320x180, 15 pictures a second, a keyframe a second, one
/// slice a picture, no B-frames, parameters before each keyframe.
pub fn annex_b(dir: &Path, seconds: u32) -> PathBuf {
    let source = format!("testsrc2=size=320x180:rate=15:duration={seconds}");
    render(dir, "plain.h264", &source, "-c:v libx264 -preset veryfast -bf 0 -g 15 -slices 1 -pix_fmt yuv420p")
}
