//! Kinds of values that name files and directories. A relative path starts at the directory of the
//! configuration file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::kind::{Fault, Kind};

/// Any path; whether something is there is not looked at.
pub(super) fn path(base_dir: &Path) -> Kind<'_, PathBuf> {
    Kind::of_text("a path", |text| resolve(base_dir, text))
}

/// A regular file that can be read now.
pub(super) fn file(base_dir: &Path) -> Kind<'_, PathBuf> {
    Kind::of_text("the path of a file that can be read", |text| {
        let path = resolve(base_dir, text)?;
        open(&path).map(|_| path.clone()).map_err(|e| Fault::new(format!("{}: {}", path.display(), why(&e))))
    })
}

/// The directory of the daemon's socket. Its path is short enough to bind a Unix socket in it.
pub(super) fn runtime_dir(base_dir: &Path) -> Kind<'_, PathBuf> {
    // `sun_path` holds 108 bytes, the final zero included (unix(7)); the socket's name takes some of them.
    const LONGEST_BYTES: usize = 80;
    Kind::of_text(format!("a path of at most {LONGEST_BYTES} bytes, because a socket goes there"), |text| {
        let path = resolve(base_dir, text)?;
        match path.as_os_str().len() {
            0..=LONGEST_BYTES => Ok(path),
            n => Err(Fault::new(format!("{} is {n} bytes long", path.display()))),
        }
    })
}

/// A directory with a model's manifest in it.
pub(super) fn model_dir(base_dir: &Path) -> Kind<'_, PathBuf> {
    Kind::of_text("a directory that holds manifest.toml and the files named in it", |text| {
        let dir = resolve(base_dir, text)?;
        match open(&dir.join("manifest.toml")) {
            Ok(_) => Ok(dir),
            Err(_) if !dir.exists() => Err(Fault::new(format!("{} does not exist", dir.display()))),
            Err(_) if !dir.is_dir() => Err(Fault::new(format!("{} is not a directory", dir.display()))),
            Err(e) => Err(Fault::new(format!("manifest.toml in {}: {}", dir.display(), why(&e)))),
        }
    })
}

/// A path as it was written, made to start at `base_dir` if it is relative.
pub(super) fn resolve(base_dir: &Path, text: &str) -> Result<PathBuf, Fault> {
    if text.is_empty() || text.contains(char::is_control) {
        return Err(Fault::new("is empty or has control characters"));
    }
    Ok(base_dir.join(text))
}

/// Opens a regular file. Anything else is refused before it is opened: opening a pipe would wait for its other end.
pub(super) fn open(path: &Path) -> io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    File::open(path)
}

/// The system's error in words of the installer.
pub(super) fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "does not exist".into(),
        io::ErrorKind::PermissionDenied => "may not be read by this user".into(),
        _ => error.to_string(),
    }
}
