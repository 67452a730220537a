//! Where the files of a clip are: `clips/YYYY/MM/DD/<camera>/<HHMMSS>_<incident>.mp4`, UTC, by the incident's start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::agent::config::CameraId;
use crate::base::atomic_file;
use crate::base::clock::Wall;

/// The names of one clip's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    state_dir: PathBuf,
    /// Without an extension, below the state directory.
    stem: String,
}

impl Paths {
    /// For an incident that began at `label`.
    pub fn new(state_dir: &Path, camera: &CameraId, incident: Uuid, label: Wall) -> Paths {
        // A label out of jiff's years must not cost the clip.
        let at = jiff::Timestamp::from_millisecond(label.unix_ms()).unwrap_or_default();
        let stem = format!("clips/{}/{camera}/{}_{incident}", at.strftime("%Y/%m/%d"), at.strftime("%H%M%S"));
        Paths { state_dir: state_dir.to_path_buf(), stem }
    }

    /// Those of a clip by its path below the state directory; none if that is no clip's.
    pub fn of_clip(state_dir: &Path, below: &str) -> Option<Paths> {
        let stem = below.strip_suffix(".mp4").filter(|s| s.starts_with("clips/"))?;
        Some(Paths { state_dir: state_dir.to_path_buf(), stem: stem.to_owned() })
    }

    /// The clip, below the state directory.
    pub fn clip_below(&self) -> String {
        format!("{}.mp4", self.stem)
    }

    /// The picture of the peak, below the state directory.
    pub fn jpeg_below(&self) -> String {
        format!("{}.jpg", self.stem)
    }

    /// The clip.
    pub fn clip(&self) -> PathBuf {
        self.state_dir.join(self.clip_below())
    }

    /// The fragments it is recorded into.
    pub fn part(&self) -> PathBuf {
        self.state_dir.join(format!("{}.part", self.stem))
    }

    /// The picture of the peak.
    pub fn jpeg(&self) -> PathBuf {
        self.state_dir.join(self.jpeg_below())
    }

    /// Makes the directory of these files, and the names of all that had to be made durable.
    pub fn make_directory(&self) -> io::Result<()> {
        let parents = Path::new(&self.stem).parent().into_iter().flat_map(Path::components);
        let mut dir = self.state_dir.clone();
        for name in parents {
            dir.push(name);
            match fs::create_dir(&dir) {
                Ok(()) => atomic_file::sync_parent(&dir)?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_by_day_and_camera_in_utc() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let label = Wall::from_unix_ms(1_767_225_599_999);
        let paths = Paths::new(dir.path(), &CameraId::new("gate"), Uuid::nil(), label);
        assert_eq!(paths.clip_below(), format!("clips/2025/12/31/gate/235959_{}.mp4", Uuid::nil()));
        paths.make_directory().expect("writable");
        paths.make_directory().expect("twice is no error");
        assert!(paths.clip().parent().is_some_and(Path::is_dir));
    }
}
