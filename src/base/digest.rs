//! SHA-256 of bytes and of files, as lower-case hexadecimal.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

/// SHA-256 that grows as bytes come.
#[derive(Clone, Default)]
pub struct Sha256Hex(Sha256);

impl Sha256Hex {
    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest in hexadecimal.
    pub fn finish(self) -> String {
        self.0.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// SHA-256 of `bytes`.
pub fn of_bytes(bytes: &[u8]) -> String {
    let mut h = Sha256Hex::default();
    h.update(bytes);
    h.finish()
}

/// SHA-256 and size in bytes of a file, read once.
pub fn of_file(path: &Path) -> io::Result<(String, u64)> {
    let mut f = File::open(path)?;
    let mut h = Sha256Hex::default();
    let (mut buf, mut size_bytes) = (vec![0; 1 << 16], 0);
    loop {
        let n = f.read(&mut buf)?;
        if n == 0 {
            return Ok((h.finish(), size_bytes));
        }
        h.update(&buf[..n]);
        size_bytes += n as u64;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn matches_the_published_vector() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(super::of_bytes(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
