//! What says that a fragment on the disk is what was written. A file system may give a file its length before its
//! bytes: after a power cut a torn fragment then looks whole and holds zeros. So each fragment in a `.part` is followed
//! by a `free` box, which players pass over, with the digest of the fragment. Only the last one need be held against
//! its seal: those before it were on the disk before it was begun.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use mp4_atom::FourCC;

use crate::base::digest::Sha256Hex;

/// The kind of the box.
pub const KIND: FourCC = FourCC::new(b"free");

/// Hexadecimal digits of the digest.
const DIGITS: usize = 64;
/// Header and digits.
pub const BYTES: usize = 8 + DIGITS;

/// The seal of a fragment that consists of these pieces.
pub fn of<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut digest = Sha256Hex::default();
    pieces.for_each(|piece| digest.update(piece));
    let mut seal = Vec::with_capacity(BYTES);
    seal.extend((BYTES as u32).to_be_bytes());
    seal.extend(b"free");
    seal.extend(digest.finish().into_bytes());
    seal
}

/// Whether the bytes of a file in `fragment` are what the seal whose digits begin at `digits` was made of.
pub fn holds(file: &File, fragment: Range<u64>, digits: u64) -> io::Result<bool> {
    let mut sealed = [0; DIGITS];
    file.read_exact_at(&mut sealed, digits)?;
    let mut digest = Sha256Hex::default();
    let mut buffer = vec![0; 64 << 10];
    let mut at = fragment.start;
    while at < fragment.end {
        let n = (fragment.end - at).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..n], at)?;
        digest.update(&buffer[..n]);
        at += n as u64;
    }
    Ok(digest.finish().as_bytes() == sealed)
}
