//! Secrets live in files of their own, which nobody but their owner may read.
//!
//! Invariant: what such a file holds goes into [`Credentials`] or [`SecretPem`] and into no message; nor does a
//! value that looks as if the secret itself had been written where its file's path belongs.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::files;
use super::kind::{Fault, Kind};
use super::{Credentials, SecretPem};

/// More than any credentials file or chain of certificates holds.
const LARGEST_BYTES: u64 = 1 << 20;

/// Two lines, user and password.
pub(super) fn credentials(base_dir: &Path) -> Kind<'_, Credentials> {
    Kind::of_text("the path of a file with two lines, user and password, that only its owner may read", |text| {
        let path = path_of(base_dir, text)?;
        let bytes = private(&path)?;
        two_lines(&bytes).map_err(|what| {
            Fault::with_remedy(
                format!("{} {what}", path.display()),
                "write the user on its first line and the password on its second",
            )
        })
    })
}

fn two_lines(bytes: &[u8]) -> Result<Credentials, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not text in UTF-8")?;
    let mut lines = text.lines();
    let (Some(user), Some(password)) = (lines.next(), lines.next()) else {
        return Err("has fewer than two lines");
    };
    if lines.any(|line| !line.is_empty()) {
        return Err("has more than two lines");
    }
    if user.is_empty() {
        return Err("has an empty first line");
    }
    if text.contains(|c: char| c.is_control() && c != '\n' && c != '\r') {
        return Err("has control characters");
    }
    Ok(Credentials { user: user.to_string(), password: password.to_string() })
}

/// Certificates in PEM; no secret.
pub(super) fn certificates(base_dir: &Path) -> Kind<'_, Vec<u8>> {
    Kind::of_text("the path of a PEM file with certificates", |text| {
        let path = path_of(base_dir, text)?;
        let bytes = files::open(&path)
            .and_then(read)
            .map_err(|e| Fault::new(format!("{}: {}", path.display(), files::why(&e))))?;
        match contains(&bytes, "-----BEGIN CERTIFICATE-----") {
            true => Ok(bytes),
            false => Err(Fault::new(format!("{} holds no certificate in PEM", path.display()))),
        }
    })
}

/// A private key in PEM.
pub(super) fn private_key(base_dir: &Path) -> Kind<'_, SecretPem> {
    Kind::of_text("the path of a PEM file with a private key, not encrypted, that only its owner may read", |text| {
        let path = path_of(base_dir, text)?;
        let bytes = private(&path)?;
        if contains(&bytes, "ENCRYPTED") {
            return Err(Fault::with_remedy(
                format!("{} is an encrypted key, and nobody is there to type its passphrase", path.display()),
                "store the key decrypted, readable by its owner only",
            ));
        }
        match contains(&bytes, "PRIVATE KEY-----") {
            true => Ok(SecretPem(bytes)),
            false => Err(Fault::new(format!("{} holds no private key in PEM", path.display()))),
        }
    })
}

fn contains(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|w| w == what.as_bytes())
}

/// The path, unless the text is more likely to be the secret itself.
fn path_of(base_dir: &Path, text: &str) -> Result<PathBuf, Fault> {
    if text.contains([':', '@', '\n', '\r']) || text.starts_with("-----") {
        return Err(Fault::with_remedy(
            "looks like the secret itself, not like the path of a file",
            "store it in a file that only its owner may read and write that file's path here",
        ));
    }
    files::resolve(base_dir, text)
}

/// The content of a file that its owner alone may read.
fn private(path: &Path) -> Result<Vec<u8>, Fault> {
    let unreadable = |e: io::Error| Fault::new(format!("{}: {}", path.display(), files::why(&e)));
    let file = files::open(path).map_err(unreadable)?;
    // Of the file that is open, not of what may stand at its path by then.
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Fault::with_remedy(
            format!("{} is open to others than its owner (mode {mode:04o})", path.display()),
            format!("run chmod 600 {}, and change the secret if others may have read it", path.display()),
        ));
    }
    read(file).map_err(unreadable)
}

fn read(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_BYTES {
        return Err(io::Error::other("is larger than 1 MiB"));
    }
    Ok(bytes)
}
