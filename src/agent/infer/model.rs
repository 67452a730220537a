//! The model directory, read and verified. Nothing of a model is used before its size and SHA-256 are what
//! `manifest.toml` says; the digest of `manifest.toml` therefore stands for the whole model.
//!
//! ```text
//!   manifest.toml         see `manifest`
//!   encoder.fp32.onnx     input uint8 [N,height,width,channels]; outputs `features` [N,F], `map` [N,F,h,w]
//!   head.fp32.onnx        input float32 [N,window,F]; output `probabilities` [N,C]
//!   encoder.fp16.onnx     the same in FP16, strongly typed; optional
//!   head.fp16.onnx
//!   golden/               what the networks must give: see `golden`
//!   CARD.md               for people
//! ```
//!
//! A file that the manifest does not list is not part of the model and is never read. What does not belong here:
//! running the networks (engines) and comparing what they give (`golden`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::bounds::{self, Unfit};
use super::manifest::{FileEntry, MANIFEST, Manifest, ManifestError};
use crate::base::digest;
use crate::contract::alert::ModelRef;

/// Why a model directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A listed file is not there.
    #[error("{} is listed in {MANIFEST} and is not there: copy the whole model directory again", path.display())]
    Missing {
        /// Which.
        path: PathBuf,
    },
    /// A file is not the one that the manifest lists.
    #[error("{} is damaged or was changed: it has {found}, and {MANIFEST} says {expected}; copy the model directory again", path.display())]
    Differs {
        /// Which.
        path: PathBuf,
        /// Its size or digest.
        found: String,
        /// What was listed.
        expected: String,
    },
    /// A file that is needed is not part of the model.
    #[error("{} lists no file {file}: this model cannot be used here", path.display())]
    NotListed {
        /// The manifest.
        path: PathBuf,
        /// What was looked for.
        file: String,
    },
    /// No runtime is given this network.
    #[error("{} cannot be used as a network", path.display())]
    Unfit {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Unfit,
    },
}

/// A model directory whose every file was found to be what the manifest says.
#[derive(Debug, Clone)]
pub struct Model {
    dir: PathBuf,
    manifest: Manifest,
    digest: String,
}

impl Model {
    /// Reads the manifest and verifies the size and digest of every file it lists.
    pub fn open(dir: &Path) -> Result<Model, ModelError> {
        let path = dir.join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(|source| ModelError::Read { path: path.clone(), source })?;
        let model = Model {
            manifest: Manifest::parse(&path, &text)?,
            digest: digest::of_bytes(text.as_bytes()),
            dir: dir.into(),
        };
        for entry in &model.manifest.files {
            model.verify(entry)?;
        }
        Ok(model)
    }

    /// What it is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Name, version, and the SHA-256 of `manifest.toml`.
    pub fn reference(&self) -> ModelRef {
        ModelRef {
            name: self.manifest.name.clone(),
            version: self.manifest.version.to_string(),
            digest: self.digest.clone(),
        }
    }

    /// Where a listed file is.
    pub fn path_of(&self, file: &str) -> Result<PathBuf, ModelError> {
        self.entry(file).map(|e| self.dir.join(&e.path))
    }

    /// The bytes of a listed file, verified as they were read: what is used is what was signed.
    pub fn read(&self, file: &str) -> Result<Vec<u8>, ModelError> {
        let entry = self.entry(file)?;
        let path = self.dir.join(&entry.path);
        let bytes = fs::read(&path).map_err(|source| read_error(path.clone(), source))?;
        compare(path, entry, &digest::of_bytes(&bytes), bytes.len() as u64)?;
        Ok(bytes)
    }

    /// A network, as [`Model::read`] reads it, and within the bounds of what a runtime is given.
    pub fn network(&self, file: &str) -> Result<Vec<u8>, ModelError> {
        let entry = self.entry(file)?;
        let unfit = |source| ModelError::Unfit { path: self.dir.join(&entry.path), source };
        // Before it is read: it may be more than the memory that there is.
        bounds::check_size(entry.size_bytes).map_err(unfit)?;
        let bytes = self.read(file)?;
        bounds::check(&bytes).map_err(unfit)?;
        Ok(bytes)
    }

    fn entry(&self, file: &str) -> Result<&FileEntry, ModelError> {
        self.manifest
            .files
            .iter()
            .find(|e| e.path == file)
            .ok_or_else(|| ModelError::NotListed { path: self.dir.join(MANIFEST), file: file.into() })
    }

    fn verify(&self, entry: &FileEntry) -> Result<(), ModelError> {
        let path = self.dir.join(&entry.path);
        // The size alone shows most damage, and costs nothing.
        let size_bytes = fs::metadata(&path).map_err(|source| read_error(path.clone(), source))?.len();
        if size_bytes != entry.size_bytes {
            return compare(path, entry, "", size_bytes);
        }
        let (sha256, size_bytes) = digest::of_file(&path).map_err(|source| read_error(path.clone(), source))?;
        compare(path, entry, &sha256, size_bytes)
    }
}

fn read_error(path: PathBuf, source: io::Error) -> ModelError {
    match source.kind() {
        io::ErrorKind::NotFound => ModelError::Missing { path },
        _ => ModelError::Read { path, source },
    }
}

fn compare(path: PathBuf, entry: &FileEntry, sha256: &str, size_bytes: u64) -> Result<(), ModelError> {
    if size_bytes != entry.size_bytes {
        let (found, expected) = (format!("{size_bytes} bytes"), format!("{} bytes", entry.size_bytes));
        Err(ModelError::Differs { path, found, expected })
    } else if sha256 != entry.sha256 {
        let (found, expected) = (format!("SHA-256 {sha256}"), entry.sha256.clone());
        Err(ModelError::Differs { path, found, expected })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
