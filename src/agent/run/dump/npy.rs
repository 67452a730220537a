//! NumPy's array files (format 1.0: NumPy enhancement proposal 1), as far as pictures need them: `uint8`, C order, of shape
//! [pictures, height, width, channels]. Pictures are written and read one at a time; a video is never held whole.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::Shape;

/// A NumPy array that grows along its first axis (format 1.0: NumPy enhancement proposal 1). The header is written
/// again at the end, when the number of pictures is known; it is padded so that it then has the same length.
pub struct NpyWriter {
    file: BufWriter<File>,
    shape: Shape,
    written: usize,
}

/// Header with magic and length: a multiple of 64, and room for any number of pictures.
const NPY_HEADER_BYTES: usize = 128;

impl NpyWriter {
    pub(super) fn create(path: &Path, shape: Shape) -> io::Result<Self> {
        let mut writer = NpyWriter { file: BufWriter::new(File::create(path)?), shape, written: 0 };
        writer.header()?;
        Ok(writer)
    }

    fn header(&mut self) -> io::Result<()> {
        let Shape { height, width, channels } = self.shape;
        let dict = format!(
            "{{'descr': '|u1', 'fortran_order': False, 'shape': ({}, {height}, {width}, {channels}), }}",
            self.written
        );
        let text_bytes = NPY_HEADER_BYTES - 10;
        self.file.write_all(b"\x93NUMPY\x01\x00")?;
        self.file.write_all(&(text_bytes as u16).to_le_bytes())?;
        writeln!(self.file, "{dict:<width$}", width = text_bytes - 1)
    }

    pub(super) fn write(&mut self, shape: Shape, pixels: &[u8]) -> io::Result<()> {
        if shape != self.shape {
            let message =
                format!("the picture's shape changed from {:?} to {shape:?}; use PNG for such a video", self.shape);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        self.written += 1;
        self.file.write_all(pixels)
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.header()?;
        self.file.flush()
    }
}

/// Reads an array's pictures in their order.
pub(super) struct NpyReader {
    file: BufReader<File>,
    shape: Shape,
    left: usize,
}

/// More is no header of ours or of NumPy's.
const HEADER_BYTES_MOST: usize = 64 << 10;
/// A picture is no larger; a header that says so is wrong.
const PICTURE_BYTES_MOST: usize = 256 << 20;

impl NpyReader {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(path)?);
        let mut start = [0; 8];
        file.read_exact(&mut start)?;
        let header_bytes = match (&start[..6], start[6]) {
            (b"\x93NUMPY", 1) => usize::from(u16::from_le_bytes(read(&mut file)?)),
            (b"\x93NUMPY", 2 | 3) => u32::from_le_bytes(read(&mut file)?) as usize,
            _ => return Err(wrong("it is not a NumPy array".into())),
        };
        if header_bytes > HEADER_BYTES_MOST {
            return Err(wrong(format!("its header is {header_bytes} bytes long")));
        }
        let mut header = vec![0; header_bytes];
        file.read_exact(&mut header)?;
        let header = String::from_utf8_lossy(&header);
        let sizes = sizes(&header).ok_or_else(|| {
            let found = header.trim();
            wrong(format!("it holds {found}; expected '|u1' in C order, of shape (pictures, height, width, channels)"))
        })?;
        let [left, height, width, channels] = sizes;
        let bytes = height.checked_mul(width).and_then(|n| n.checked_mul(channels));
        if bytes.is_none_or(|n| n == 0 || n > PICTURE_BYTES_MOST) {
            return Err(wrong(format!("a picture of {height} x {width} x {channels} bytes is not one")));
        }
        Ok(NpyReader { file, shape: Shape { height, width, channels }, left })
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// How many pictures are to come.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        let mut picture = vec![0; self.shape.height * self.shape.width * self.shape.channels];
        self.file.read_exact(&mut picture)?;
        self.left = left;
        Ok(Some(picture))
    }
}

fn wrong(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

fn read<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The shape that a header's dictionary gives, if the array is one that we read.
fn sizes(header: &str) -> Option<[usize; 4]> {
    let value = |key: &str| Some(header.split_once(key)?.1.trim_start().strip_prefix(':')?.trim_start());
    let bytes = ["'|u1'", "'u1'", "'<u1'"].iter().any(|d| value("'descr'").is_some_and(|v| v.starts_with(d)));
    if !bytes || !value("'fortran_order'")?.starts_with("False") {
        return None;
    }
    let (tuple, _) = value("'shape'")?.strip_prefix('(')?.split_once(')')?;
    let numbers: Option<Vec<usize>> =
        tuple.split(',').map(str::trim).filter(|n| !n.is_empty()).map(|n| n.parse().ok()).collect();
    numbers?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { height: 1, width: 2, channels: 6 };

    #[test]
    fn an_array_has_numpys_header_and_our_bytes_and_is_read_back() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("views.npy");
        let mut w = NpyWriter::create(&path, SHAPE).expect("writable");
        let pictures: [Vec<u8>; 2] = [(0..12).collect(), (12..24).collect()];
        for p in &pictures {
            w.write(SHAPE, p).expect("writable");
        }
        w.finish().expect("writable");
        let bytes = std::fs::read(&path).expect("there");
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let header = std::str::from_utf8(&bytes[10..128]).expect("ASCII");
        assert!(header.starts_with("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1, 2, 6), }"), "{header}");
        assert!(header.ends_with(" \n"));
        assert_eq!(&bytes[128..], (0..24).collect::<Vec<u8>>());

        let mut r = NpyReader::open(&path).expect("an array");
        assert_eq!((r.left(), r.shape()), (2, SHAPE));
        assert_eq!(r.next().expect("there"), Some(pictures[0].clone()));
        assert_eq!(r.next().expect("there"), Some(pictures[1].clone()));
        assert_eq!(r.next().expect("the end"), None);
    }

    #[test]
    fn what_is_no_array_of_pictures_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.npy");
        let refused = |content: &[u8]| {
            std::fs::write(&path, content).expect("writable");
            NpyReader::open(&path).err().expect("refused").to_string()
        };
        let with = |dict: &str| [b"\x93NUMPY\x01\x00\x76\x00", format!("{dict:<117}\n").as_bytes()].concat();
        assert!(refused(b"PNG, or so it says").contains("not a NumPy array"));
        for dict in [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, 2, 6), }",
            "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 1, 2, 6), }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 12), }",
            "{}",
        ] {
            assert!(refused(&with(dict)).contains("expected '|u1' in C order"), "{dict}");
        }
        let vast = "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 99999999999, 99999999999, 3), }";
        assert!(refused(&with(vast)).contains("is not one"));
        std::fs::write(&path, with("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 2, 3), }"))
            .expect("writable");
        assert!(NpyReader::open(&path).expect("a header").next().is_err(), "cut short");
    }
}
