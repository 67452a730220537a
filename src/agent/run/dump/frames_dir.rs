//! Frames in a directory: `frame.npy` and, one row a frame, `frames.csv`. `vedette frames` writes it; training alters the
//! pixels (or makes its own) and has the views computed by the code that the device runs.

use std::io;
use std::path::{Path, PathBuf};

use super::Shape;
use super::npy::NpyReader;
use crate::agent::capture::Frame;
use crate::agent::config::CameraId;
use crate::agent::infer::view::View;
use crate::base::clock::Mono;

/// The index beside the frames.
pub const INDEX: &str = "frames.csv";
/// Its first line.
pub const INDEX_HEADER: &str = "index,pts_ms,gap,box_left,box_top,box_width,box_height";
const FRAMES: &str = "frame.npy";

/// The index's row of a frame.
pub fn index_row(index: usize, at: Mono, view: &View) -> String {
    let (b, pts_ms) = (view.shows, at.as_nanos() as f64 / 1e6);
    format!("{index},{pts_ms:.3},{},{},{},{},{}", view.restarted, b.left, b.top, b.width, b.height)
}

/// Why frames could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FramesError {
    /// A file could not be read, or is not what it should be.
    #[error("cannot read frames from {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The index cannot be read.
    #[error("cannot read {}", path.display())]
    Index {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: csv::Error,
    },
    /// Frames and index contradict each other, or themselves.
    #[error("{}: {reason}", path.display())]
    Contradiction {
        /// Which file.
        path: PathBuf,
        /// How.
        reason: String,
    },
}

/// What is read of a row; columns go by their names.
#[derive(serde::Deserialize)]
struct Row {
    pts_ms: f64,
    gap: bool,
}

/// An open directory; gives its frames in their order.
pub struct FramesDir {
    dir: PathBuf,
    pixels: NpyReader,
    rows: std::vec::IntoIter<Row>,
    sample_fps: f32,
}

impl FramesDir {
    /// Opens it. The frames were sampled `sample_fps` times a second.
    pub fn open(dir: &Path, sample_fps: f32) -> Result<Self, FramesError> {
        let (pixels_path, index) = (dir.join(FRAMES), dir.join(INDEX));
        let pixels =
            NpyReader::open(&pixels_path).map_err(|source| FramesError::Read { path: pixels_path.clone(), source })?;
        let Shape { channels, .. } = pixels.shape();
        if channels != 3 {
            let reason = format!("a frame has 3 channels, R G B, and these have {channels}");
            return Err(FramesError::Contradiction { path: pixels_path, reason });
        }
        let unreadable = |source| FramesError::Index { path: index.clone(), source };
        let rows = csv::Reader::from_path(&index).and_then(|r| r.into_deserialize().collect::<Result<Vec<Row>, _>>());
        let rows = rows.map_err(unreadable)?;
        let wrong = |reason| Err(FramesError::Contradiction { path: index.clone(), reason });
        if rows.len() != pixels.left() {
            return wrong(format!("it has {} rows, and {FRAMES} has {} frames", rows.len(), pixels.left()));
        }
        if let Some(n) = rows.iter().position(|r| !(r.pts_ms >= 0.0 && r.pts_ms < 1e12)) {
            return wrong(format!("line {}: pts_ms has to be a time in milliseconds, 0 or later", n + 2));
        }
        Ok(FramesDir { dir: dir.to_owned(), pixels, rows: rows.into_iter(), sample_fps })
    }
}

impl Iterator for FramesDir {
    type Item = Result<Frame, FramesError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?;
        let Shape { height, width, .. } = self.pixels.shape();
        let rgb = match self.pixels.next() {
            Ok(pixels) => pixels?,
            Err(source) => {
                self.rows = Vec::new().into_iter();
                return Some(Err(FramesError::Read { path: self.dir.join(FRAMES), source }));
            }
        };
        let at = Mono::from_nanos((row.pts_ms * 1e6).round() as u64);
        Some(Ok(Frame {
            camera: CameraId::new("file"),
            at,
            arrival: at,
            width: width as u32,
            height: height as u32,
            rgb: rgb.into(),
            discontinuity: row.gap,
            sample_fps: self.sample_fps,
        }))
    }
}
