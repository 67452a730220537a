//! The models on the disk, each in a directory that is named by its digest and never changed once it is whole.
//!
//! ```text
//!   <state>/models/incoming/<digest>/        being filled: files that are right
//!   <state>/models/incoming/<digest>.part/   files on their way
//!   <state>/models/slots/<digest>/           whole: every file was the one that the manifest binds, and is on the disk
//! ```
//!
//! From one to the other it is one rename. Which slot serves is not decided here but in `ledger`. A file that another
//! model has is copied and not fetched; never shared, so that damage to one is not damage to both.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::fault::Trouble;
use crate::agent::infer::manifest::{FileEntry, MANIFEST, Manifest, ManifestError};
use crate::agent::infer::model::Model;
use crate::base::error::Chain;
use crate::base::{atomic_file, digest};
use crate::contract::update::UpdateFault;

/// What stays free on the disk beside the model: video and alerts need it.
const KEEPS_FREE_BYTES: u64 = 100_000_000;

/// See the module's doc.
#[derive(Debug, Clone)]
pub struct Slots {
    dir: PathBuf,
}

/// A model that is being put together.
pub struct Incoming {
    dir: PathBuf,
    slot: PathBuf,
    /// What it is to be.
    pub manifest: Manifest,
}

impl Slots {
    /// Those below this directory.
    pub fn new(dir: &Path) -> Slots {
        Slots { dir: dir.into() }
    }

    /// Where a model is when it is whole.
    pub fn path(&self, digest: &str) -> PathBuf {
        self.dir.join("slots").join(digest)
    }

    /// Opens a slot: every file is verified.
    pub fn open(&self, digest: &str) -> Result<Model, Trouble> {
        let damaged = |words: String| Trouble::fault(UpdateFault::SlotDamaged, words);
        let model = Model::open(&self.path(digest)).map_err(|e| damaged(Chain(&e).to_string()))?;
        match model.reference().digest == digest {
            true => Ok(model),
            false => Err(damaged(format!("{} holds another model than its name says", self.path(digest).display()))),
        }
    }

    /// Begins to put a model together, or goes on with it, after its signed manifest.
    pub fn begin(&self, digest: &str, manifest: &[u8]) -> Result<Incoming, Trouble> {
        let path = Path::new(MANIFEST);
        let text = std::str::from_utf8(manifest)
            .map_err(|_| Trouble::fault(UpdateFault::MalformedManifest, "the manifest is no UTF-8"))?;
        let parsed = Manifest::parse(path, text).map_err(|e| {
            let fault = match e {
                ManifestError::AgentTooOld { .. } => UpdateFault::AgentTooOld,
                ManifestError::Syntax { .. } | ManifestError::Value { .. } => UpdateFault::MalformedManifest,
            };
            Trouble::fault(fault, Chain(&e).to_string())
        })?;
        let dir = self.dir.join("incoming").join(digest);
        fs::create_dir_all(&dir)
            .and_then(|()| atomic_file::write(&dir.join(MANIFEST), manifest))
            .map_err(|e| disk(&dir, &e))?;
        Ok(Incoming { dir, slot: self.path(digest), manifest: parsed })
    }

    /// Deletes every slot but these, and what was begun of others than `incoming`.
    pub fn keep_only(&self, slots: &[&str], incoming: Option<&str>) -> io::Result<()> {
        for (below, keep) in [("slots", slots), ("incoming", incoming.as_slice())] {
            let entries = match fs::read_dir(self.dir.join(below)) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if !keep.contains(&name.trim_end_matches(".part")) {
                    log::info!("{} is not needed any more and is deleted", entry.path().display());
                    fs::remove_dir_all(entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// Where files are that other models have, by digest; `factory` is the model that came with the package.
    pub fn known_files(&self, factory: &Path) -> BTreeMap<String, PathBuf> {
        let slots = fs::read_dir(self.dir.join("slots")).into_iter().flatten().flatten().map(|e| e.path());
        let mut known = BTreeMap::new();
        for dir in slots.chain([factory.to_owned()]) {
            let Ok(text) = fs::read_to_string(dir.join(MANIFEST)) else { continue };
            let Ok(manifest) = Manifest::parse(&dir.join(MANIFEST), &text) else { continue };
            known.extend(manifest.files.iter().map(|f| (f.sha256.clone(), dir.join(&f.path))));
        }
        known
    }
}

impl Incoming {
    /// Where a file goes when it is right.
    pub fn path(&self, entry: &FileEntry) -> PathBuf {
        self.dir.join(&entry.path)
    }

    /// Where it is while it comes: beside the model's directory, where no manifest can name it.
    pub fn part(&self, entry: &FileEntry) -> PathBuf {
        self.dir.with_extension("part").join(&entry.sha256)
    }

    /// Whether a file is there already, right.
    pub fn has(&self, entry: &FileEntry) -> bool {
        is_right(&self.path(entry), entry)
    }

    /// Makes room for what is to be written to `path`.
    pub fn prepare(&self, path: &Path) -> Result<(), Trouble> {
        let parent = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent).map_err(|e| disk(parent, &e))
    }

    /// Takes a file from another model, if it is right there.
    pub fn copy(&self, entry: &FileEntry, from: &Path) -> Result<bool, Trouble> {
        if !is_right(from, entry) {
            return Ok(false);
        }
        let part = self.part(entry);
        self.prepare(&part)?;
        fs::copy(from, &part).map_err(|e| disk(&part, &e))?;
        self.take(entry).map(|()| true)
    }

    /// Takes a file whose `.part` is all there, if it is right; else it is deleted.
    pub fn take(&self, entry: &FileEntry) -> Result<(), Trouble> {
        let (part, path) = (self.part(entry), self.path(entry));
        let (sha256, size_bytes) = digest::of_file(&part).map_err(|e| disk(&part, &e))?;
        if sha256 != entry.sha256 || size_bytes != entry.size_bytes {
            fs::remove_file(&part).map_err(|e| disk(&part, &e))?;
            let words = format!(
                "{} has {size_bytes} bytes and SHA-256 {sha256}; the signed manifest says {} and {}",
                entry.path, entry.size_bytes, entry.sha256
            );
            return Err(Trouble::fault(UpdateFault::DamagedFile, words));
        }
        self.prepare(&path)?;
        let settle = || -> io::Result<()> {
            let file = fs::File::open(&part)?;
            file.set_permissions(fs::Permissions::from_mode(0o444))?;
            file.sync_all()?;
            atomic_file::publish(&part, &path)
        };
        settle().map_err(|e| disk(&path, &e))
    }

    /// Bytes still to come.
    pub fn missing_bytes(&self) -> u64 {
        let missing = self.manifest.files.iter().filter(|e| fs::metadata(self.path(e)).is_err());
        let there = |e: &FileEntry| fs::metadata(self.part(e)).map_or(0, |m| m.len());
        missing.map(|e| e.size_bytes.saturating_sub(there(e))).sum()
    }

    /// Whether the disk has room for what is still to come.
    pub fn has_room(&self) -> Result<(), Trouble> {
        let stat = rustix::fs::statvfs(&self.dir).map_err(|e| disk(&self.dir, &e.into()))?;
        let (free, needs) = (stat.f_bavail * stat.f_frsize, self.missing_bytes() + KEEPS_FREE_BYTES);
        match free >= needs {
            true => Ok(()),
            false => Err(Trouble::Wait(format!(
                "the disk has {} MB free, and the model needs {} MB with what must stay free",
                free / 1_000_000,
                needs.div_ceil(1_000_000)
            ))),
        }
    }

    /// It is whole: makes it a slot.
    pub fn finish(self) -> Result<(), Trouble> {
        let settle = || -> io::Result<()> {
            // The names below it, then its own.
            sync_dirs(&self.dir)?;
            fs::create_dir_all(self.slot.parent().unwrap_or(&self.dir))?;
            if self.slot.exists() {
                fs::remove_dir_all(&self.slot)?;
            }
            atomic_file::publish(&self.dir, &self.slot)?;
            atomic_file::sync_parent(&self.dir)?;
            match fs::remove_dir_all(self.dir.with_extension("part")) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            }
        };
        settle().map_err(|e| disk(&self.slot, &e))
    }
}

fn is_right(path: &Path, entry: &FileEntry) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == entry.size_bytes)
        && digest::of_file(path).is_ok_and(|(sha256, _)| sha256 == entry.sha256)
}

fn sync_dirs(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_dirs(&entry.path())?;
        }
    }
    fs::File::open(dir)?.sync_all()
}

/// What the disk says. A manifest may name files that cannot stand beside each other (`a` and `a/b`).
pub(super) fn disk(path: &Path, e: &io::Error) -> Trouble {
    match e.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists => Trouble::fault(
            UpdateFault::MalformedManifest,
            format!("{}: the manifest names files that cannot stand beside each other", path.display()),
        ),
        _ => Trouble::Wait(format!("{}: {e}", path.display())),
    }
}
