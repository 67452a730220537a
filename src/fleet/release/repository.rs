//! A manager's copy of a repository: what holds (`metadata/`, itself a whole repository at every instant), what is being
//! made (`staged/`: not yet signed by enough), and the files.
//!
//! Lock: `.lock` in its directory, held from opening to the end (flock; on a network file system as good as that is), so
//! that two managers do not give one number twice. Everything is written whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tough::schema::{Root, Signed, Snapshot, Targets, Timestamp};

use super::layout::{self, FILES, METADATA, STAGED, TARGETS, TIMESTAMP};
use super::listing::{self, Candidate, ListingError, Release};
use crate::agent::infer::manifest::MANIFEST;
use crate::agent::infer::model::{Model, ModelError};
use crate::base::clock::Wall;
use crate::base::{atomic_file, digest};
use crate::fleet::keys::SignError;
use crate::fleet::keys::root::{self, Change, RootError};
use crate::fleet::keys::signatures::{nothing_more, unsigned};

/// Why something could not be done in a repository.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// There is none.
    #[error("{} is no repository: vedette-fleet keys init makes one", dir.display())]
    None {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// There is one.
    #[error("{} is a repository already", dir.display())]
    Exists {
        /// Where.
        dir: PathBuf,
    },
    /// Somebody works on it.
    #[error("{} is in use by {holder}: wait until that is done", dir.display())]
    Locked {
        /// Which.
        dir: PathBuf,
        /// Who said so.
        holder: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is no such metadata", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Metadata cannot be written as JSON.
    #[error("metadata cannot be written as JSON")]
    Json(#[source] serde_json::Error),
    /// A root does not hold.
    #[error("no root holds yet: {missing}; sign it with vedette-fleet keys sign-root")]
    NoRoot {
        /// Who has to sign it.
        missing: String,
    },
    /// A root is being made.
    #[error(
        "version {version} of the root waits for signatures: sign it (keys sign-root), or drop it (keys drop-root)"
    )]
    RootWaits {
        /// Its version.
        version: NonZeroU64,
    },
    /// Nothing waits.
    #[error("no root waits for a signature")]
    NoRootWaits,
    /// The key signs for nothing here.
    #[error("the key {id} has no role here: the root does not name it")]
    NoRole {
        /// The key.
        id: String,
    },
    /// The model cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The release cannot be listed.
    #[error(transparent)]
    Listing(#[from] ListingError),
    /// The root cannot be changed so.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A key did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// Metadata and the bytes that were signed over.
#[derive(Debug, Clone)]
pub struct Held<T> {
    /// As they are on the disk.
    pub bytes: Vec<u8>,
    /// What they say.
    pub metadata: Signed<T>,
}

/// One of each, as far as they are there.
#[derive(Debug, Clone, Default)]
pub struct Set {
    /// The root.
    pub root: Option<Held<Root>>,
    /// The releases.
    pub targets: Option<Held<Targets>>,
    /// Which targets metadata hold.
    pub snapshot: Option<Held<Snapshot>>,
    /// Which snapshot holds, and until when.
    pub timestamp: Option<Held<Timestamp>>,
}

/// See the module's doc.
#[derive(Debug)]
pub struct Repository {
    dir: PathBuf,
    _lock: File,
    /// What holds.
    pub(super) current: Set,
    /// What is being made.
    pub(super) staged: Set,
}

impl Repository {
    /// Makes one with a first root, which waits for signatures, and with no release.
    pub fn create(dir: &Path, first: Root, now: Wall) -> Result<Repository, RepositoryError> {
        if dir.join(METADATA).exists() || dir.join(STAGED).exists() {
            return Err(RepositoryError::Exists { dir: dir.to_owned() });
        }
        for sub in [METADATA, TARGETS, FILES, STAGED] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).map_err(|source| RepositoryError::Write { path, source })?;
        }
        let lock = lock(dir)?;
        let mut repository =
            Repository { dir: dir.to_owned(), _lock: lock, current: Set::default(), staged: Set::default() };
        let expires = root::expiry(now, root::days(&first, tough::schema::RoleType::Targets))?;
        let targets = Targets {
            spec_version: first.spec_version.clone(),
            version: NonZeroU64::MIN,
            expires,
            targets: Default::default(),
            delegations: None,
            _extra: nothing_more(),
        };
        repository.staged.root = Some(hold(unsigned(first))?);
        repository.staged.targets = Some(hold(unsigned(targets))?);
        repository.write_staged()?;
        Ok(repository)
    }

    /// Opens one, and holds its lock.
    pub fn open(dir: &Path) -> Result<Repository, RepositoryError> {
        if !dir.join(METADATA).is_dir() {
            return Err(RepositoryError::None { dir: dir.to_owned() });
        }
        let lock = lock(dir)?;
        let (current, staged) = read(dir)?;
        let mut repository = Repository { dir: dir.to_owned(), _lock: lock, current, staged };
        // Whoever was cut off between the last signature and the last write is finished for.
        repository.settle()?;
        Ok(repository)
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What holds.
    pub fn current(&self) -> &Set {
        &self.current
    }

    /// What is being made.
    pub fn staged(&self) -> &Set {
        &self.staged
    }

    /// The releases: with what is staged, if anything is.
    pub fn releases(&self) -> Vec<Release> {
        let targets = self.staged.targets.as_ref().or(self.current.targets.as_ref());
        targets.map(|t| listing::releases(&t.metadata.signed)).unwrap_or_default()
    }

    /// The releases that hold: what a device finds once this is published.
    pub fn signed_releases(&self) -> Vec<Release> {
        self.current.targets.as_ref().map(|t| listing::releases(&t.metadata.signed)).unwrap_or_default()
    }

    /// Copies a model's files and stages its release. Signatures on what was staged before are gone: it is another list.
    pub fn add(&mut self, model: &Model, downgrade: Option<String>, now: Wall) -> Result<Release, RepositoryError> {
        let path = model.dir().join(MANIFEST);
        let manifest = fs::read(&path).map_err(|source| RepositoryError::Read { path: path.clone(), source })?;
        // The directory was verified under this digest; it may have been changed since.
        let reference = model.reference();
        let found = digest::of_bytes(&manifest);
        if found != reference.digest {
            return Err(ModelError::Differs { path, found, expected: reference.digest }.into());
        }
        let candidate = Candidate {
            model: &model.manifest().name,
            version: &model.manifest().version,
            manifest: &manifest,
            digest: sha2_of(&manifest),
            downgrade,
        };
        let mut targets = self.next_targets(now)?;
        let release = listing::add(&mut targets, candidate, now.rfc3339())?;
        for entry in &model.manifest().files {
            let to = self.dir.join(layout::file(&entry.sha256));
            if !matches!(digest::of_file(&to), Ok((sha256, _)) if sha256 == entry.sha256) {
                let bytes = model.read(&entry.path)?;
                write_whole(&to, &bytes)?;
            }
        }
        write_whole(&self.dir.join(layout::manifest(&release.digest, &release.target)), &manifest)?;
        self.stage_targets(targets)?;
        Ok(release)
    }

    /// Stages a list without a release.
    pub fn remove(&mut self, release: u64, now: Wall) -> Result<Release, RepositoryError> {
        let mut targets = self.next_targets(now)?;
        let removed = listing::remove(&mut targets, release)?;
        self.stage_targets(targets)?;
        Ok(removed)
    }

    /// The root that holds, or that will as soon as what is staged does: the one that says who signs.
    pub fn root(&self) -> Result<&Signed<Root>, RepositoryError> {
        let current = self.current.root.as_ref().map(|r| &r.metadata);
        let Some(staged) = self.staged.root.as_ref().map(|r| &r.metadata) else {
            return current.ok_or_else(|| RepositoryError::None { dir: self.dir.clone() });
        };
        let standings = root::standings(current.map(|c| &c.signed), staged);
        match (standings.iter().all(|s| s.is_complete()), current) {
            (true, _) => Ok(staged),
            (false, Some(current)) => Ok(current),
            (false, None) => {
                let missing: Vec<_> = standings.iter().filter(|s| !s.is_complete()).map(|s| s.words()).collect();
                Err(RepositoryError::NoRoot { missing: missing.join("; ") })
            }
        }
    }

    /// Stages the root with these changes: it holds when enough have signed it. What was staged and unsigned is changed
    /// further.
    pub fn change_root(&mut self, changes: &[Change], now: Wall) -> Result<&Signed<Root>, RepositoryError> {
        if let Some(waiting) = &self.staged.root {
            return Err(RepositoryError::RootWaits { version: waiting.metadata.signed.version });
        }
        let current = self.root()?.signed.clone();
        self.staged.root = Some(hold(unsigned(root::changed(&current, changes, now)?))?);
        self.write_staged()?;
        Ok(&self.staged.root.as_ref().expect("just made").metadata)
    }

    /// Drops a root that waits. The first one cannot be dropped: there is nothing without it.
    pub fn drop_root(&mut self) -> Result<NonZeroU64, RepositoryError> {
        let waiting = self.staged.root.as_ref().filter(|_| self.current.root.is_some());
        let version = waiting.ok_or(RepositoryError::NoRootWaits)?.metadata.signed.version;
        self.staged.root = None;
        self.write_staged()?;
        Ok(version)
    }

    /// The targets metadata as they go on from here: what is staged, or one version more than what holds.
    pub(super) fn next_targets(&self, now: Wall) -> Result<Targets, RepositoryError> {
        let days = root::days(&self.any_root().signed, tough::schema::RoleType::Targets);
        let mut targets = match (&self.staged.targets, &self.current.targets) {
            (Some(staged), _) => staged.metadata.signed.clone(),
            (None, Some(current)) => {
                let mut next = current.metadata.signed.clone();
                next.version = root::next(next.version)?;
                next
            }
            (None, None) => return Err(RepositoryError::None { dir: self.dir.clone() }),
        };
        targets.expires = root::expiry(now, days)?;
        Ok(targets)
    }

    pub(super) fn stage_targets(&mut self, targets: Targets) -> Result<(), RepositoryError> {
        self.staged.targets = Some(hold(unsigned(targets))?);
        self.write_staged()
    }

    /// The newest root that there is, signed or not: for what does not decide about trust.
    pub(super) fn any_root(&self) -> &Signed<Root> {
        let root = self.staged.root.as_ref().or(self.current.root.as_ref());
        &root.expect("a repository has a root from its first moment").metadata
    }

    /// Writes what is staged, and removes what is not.
    pub(super) fn write_staged(&self) -> Result<(), RepositoryError> {
        let dir = self.dir.join(STAGED);
        let one = |name: &str, bytes: Option<&Vec<u8>>| match bytes {
            Some(bytes) => write_whole(&dir.join(name), bytes),
            None => remove_file(&dir.join(name)),
        };
        one("root.json", self.staged.root.as_ref().map(|h| &h.bytes))?;
        one("targets.json", self.staged.targets.as_ref().map(|h| &h.bytes))?;
        one("snapshot.json", self.staged.snapshot.as_ref().map(|h| &h.bytes))?;
        one("timestamp.json", self.staged.timestamp.as_ref().map(|h| &h.bytes))
    }

    pub(super) fn write(&self, path: &str, bytes: &[u8]) -> Result<(), RepositoryError> {
        write_whole(&self.dir.join(path), bytes)
    }
}

/// A repository as it stands, without its lock: for those who only look.
pub fn read(dir: &Path) -> Result<(Set, Set), RepositoryError> {
    let metadata = |name: &str| dir.join(name);
    let mut current = Set::default();
    let versions = versions_of_root(&dir.join(METADATA))?;
    if let Some(newest) = versions.last() {
        current.root = read_one(&metadata(&layout::root(*newest)))?;
    }
    current.timestamp = read_one(&metadata(TIMESTAMP))?;
    if let Some(meta) = current.timestamp.as_ref().and_then(|t| t.metadata.signed.meta.get("snapshot.json")) {
        current.snapshot = read_one(&metadata(&layout::snapshot(meta.version)))?;
    }
    if let Some(meta) = current.snapshot.as_ref().and_then(|s| s.metadata.signed.meta.get("targets.json")) {
        current.targets = read_one(&metadata(&layout::targets(meta.version)))?;
    }
    let mut staged = Set {
        root: read_one(&dir.join(STAGED).join("root.json"))?,
        targets: read_one(&dir.join(STAGED).join("targets.json"))?,
        snapshot: read_one(&dir.join(STAGED).join("snapshot.json"))?,
        timestamp: read_one(&dir.join(STAGED).join("timestamp.json"))?,
    };
    if current.root.is_none() && staged.root.is_none() {
        return Err(RepositoryError::None { dir: dir.to_owned() });
    }
    drop_stale(&current, &mut staged);
    Ok((current, staged))
}

/// What was made to hold before it could be cleared away (a cut in between), or was overtaken.
pub(super) fn drop_stale(current: &Set, staged: &mut Set) {
    fn stale<T>(current: &Option<Held<T>>, staged: &mut Option<Held<T>>, version: impl Fn(&T) -> NonZeroU64) {
        if let (Some(c), Some(s)) = (current, &staged)
            && version(&s.metadata.signed) <= version(&c.metadata.signed)
        {
            *staged = None;
        }
    }
    stale(&current.root, &mut staged.root, |m| m.version);
    stale(&current.targets, &mut staged.targets, |m| m.version);
    stale(&current.snapshot, &mut staged.snapshot, |m| m.version);
    stale(&current.timestamp, &mut staged.timestamp, |m| m.version);
}

/// The versions of the root that are there, ascending.
pub fn versions_of_root(metadata: &Path) -> Result<Vec<NonZeroU64>, RepositoryError> {
    let unreadable = |source| RepositoryError::Read { path: metadata.to_owned(), source };
    let mut versions = Vec::new();
    for entry in fs::read_dir(metadata).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        versions.extend(name.to_str().and_then(|n| n.strip_suffix(".root.json")?.parse::<NonZeroU64>().ok()));
    }
    versions.sort();
    Ok(versions)
}

/// Metadata with the bytes that they will have on the disk.
pub fn hold<T: Serialize>(metadata: Signed<T>) -> Result<Held<T>, RepositoryError> {
    // By way of a value: its keys are sorted, so that the same metadata are the same bytes.
    let value = serde_json::to_value(&metadata).map_err(RepositoryError::Json)?;
    let mut bytes = serde_json::to_vec_pretty(&value).map_err(RepositoryError::Json)?;
    bytes.push(b'\n');
    Ok(Held { bytes, metadata })
}

fn read_one<T: DeserializeOwned>(path: &Path) -> Result<Option<Held<T>>, RepositoryError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RepositoryError::Read { path: path.to_owned(), source }),
    };
    let metadata =
        serde_json::from_slice(&bytes).map_err(|source| RepositoryError::Parse { path: path.to_owned(), source })?;
    Ok(Some(Held { bytes, metadata }))
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), RepositoryError> {
    atomic_file::write(path, bytes).map_err(|source| RepositoryError::Write { path: path.to_owned(), source })
}

fn remove_file(path: &Path) -> Result<(), RepositoryError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RepositoryError::Write { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn sha2_of(bytes: &[u8]) -> Vec<u8> {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).to_vec()
}

fn lock(dir: &Path) -> Result<File, RepositoryError> {
    let path = dir.join(".lock");
    let failed = |source| RepositoryError::Write { path: path.clone(), source };
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Who it is, is only for people.
            let _unreadable = file.read_to_string(&mut holder);
            let holder = if holder.is_empty() { "somebody".into() } else { holder.trim().to_owned() };
            return Err(RepositoryError::Locked { dir: dir.to_owned(), holder });
        }
        Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "process {} on {host}", std::process::id()))
        .map_err(failed)?;
    Ok(file)
}
