//! The video of incidents: what to cut (`plan`, pure), how it is written (`mp4`), and the worker that does it.

use std::io;
use std::path::{Path, PathBuf};

pub mod mp4;
#[cfg(test)]
mod testkit;

/// Why a clip, or a part of it, could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ClipError {
    /// A file operation failed.
    #[error("could not {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A box could not be made: what the stream says of itself does not fit the format.
    #[error("could not make the MP4 box {what}")]
    Format {
        /// Which box.
        what: &'static str,
        /// What is wrong with it.
        source: mp4_atom::Error,
    },
    /// The stream can't be stored.
    #[error("cannot be stored as MP4: {0}")]
    Stream(String),
    /// There is no footage in it.
    #[error("no footage for {path}")]
    Empty {
        /// The clip, or its `.part`.
        path: PathBuf,
    },
}

impl ClipError {
    fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        ClipError::Io { operation, path: path.to_path_buf(), source }
    }
}
