//! Pixels on disk, lossless, for training and for looking: one PNG a picture, or one NumPy array a video. `npy` is the
//! array's format; `frames_dir` reads frames back that were written, or altered for training.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

mod frames_dir;
mod npy;

pub use frames_dir::{FramesDir, FramesError, INDEX, INDEX_HEADER, index_row};

use crate::agent::infer::input::ViewSpec;
use npy::NpyWriter;

/// How pixels are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `PREFIX-000000.png` and so on; six channels (a pair) give two pictures, `-now` and `-before`.
    Png,
    /// `PREFIX.npy`: `uint8` of shape [pictures, height, width, channels].
    Npy,
}

/// `height` x `width` x `channels`, as the encoder takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
    /// 3, or 6 for a pair.
    pub channels: usize,
}

impl Shape {
    /// Of the views that this rule makes.
    pub fn of(spec: &ViewSpec) -> Self {
        Shape { height: spec.height as usize, width: spec.width as usize, channels: spec.channels() }
    }
}

/// Writes the pictures of one video.
pub enum PictureWriter {
    /// One file each.
    Png {
        /// Where.
        dir: PathBuf,
        /// First part of each name.
        prefix: &'static str,
        /// Pictures so far.
        written: usize,
    },
    /// One file, made with the first picture, whose shape it has.
    Npy {
        /// Where.
        path: PathBuf,
        /// The open file.
        array: Option<NpyWriter>,
    },
}

impl PictureWriter {
    /// A writer of files called `prefix` in `dir`.
    pub fn new(format: Format, dir: &Path, prefix: &'static str) -> Self {
        match format {
            Format::Png => PictureWriter::Png { dir: dir.to_owned(), prefix, written: 0 },
            Format::Npy => PictureWriter::Npy { path: dir.join(prefix).with_extension("npy"), array: None },
        }
    }

    /// Writes one picture; all of one video have one shape.
    pub fn write(&mut self, shape: Shape, pixels: &[u8]) -> io::Result<()> {
        match self {
            PictureWriter::Png { dir, prefix, written } => {
                let name = |part: &str| dir.join(format!("{prefix}-{written:06}{part}.png"));
                if shape.channels == 6 {
                    for (part, first) in [("-now", 0), ("-before", 3)] {
                        let rgb: Vec<u8> = pixels.chunks_exact(6).flat_map(|p| &p[first..first + 3]).copied().collect();
                        png(&name(part), shape, &rgb)?;
                    }
                } else {
                    png(&name(""), shape, pixels)?;
                }
                *written += 1;
                Ok(())
            }
            PictureWriter::Npy { path, array } => {
                let array = match array {
                    Some(array) => array,
                    None => array.insert(NpyWriter::create(path, shape)?),
                };
                array.write(shape, pixels)
            }
        }
    }

    /// Completes the files.
    pub fn finish(self) -> io::Result<()> {
        match self {
            PictureWriter::Npy { array: Some(array), .. } => array.finish(),
            _ => Ok(()),
        }
    }
}

fn png(path: &Path, shape: Shape, rgb: &[u8]) -> io::Result<()> {
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), shape.width as u32, shape.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(rgb)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: Shape = Shape { height: 1, width: 2, channels: 6 };

    #[test]
    fn a_pair_becomes_two_pictures() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut w = PictureWriter::new(Format::Png, dir.path(), "view");
        w.write(PAIR, &(0..12).collect::<Vec<u8>>()).expect("writable");
        w.finish().expect("nothing to do");
        for (name, expected) in
            [("view-000000-now.png", [0, 1, 2, 6, 7, 8]), ("view-000000-before.png", [3, 4, 5, 9, 10, 11])]
        {
            let file = io::BufReader::new(File::open(dir.path().join(name)).expect("there"));
            let mut reader = png::Decoder::new(file).read_info().expect("a PNG");
            let mut pixels = [0; 6];
            reader.next_frame(&mut pixels).expect("pixels");
            assert_eq!(pixels, expected);
        }
    }
}
