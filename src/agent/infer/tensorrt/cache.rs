//! Plans on the disk: what was built, for what, and what came of proving it.
//!
//! ```text
//!   <state_dir>/engines/<id>/plans.json     the key in full, digests, when it was built and how long that took
//!                            encoder.plan
//!                            head.plan
//!                       <id>.part/          while it is built; swept at the next start
//!                       timing-<machine>    TensorRT's timing cache, for the next build
//! ```
//!
//! A plan is good for one model, TensorRT, CUDA, GPU and set of options; `id` is the digest of all that. Whatever is
//! not exactly what `plans.json` says is not used but built anew. A build that failed of itself, or a plan that computes
//! something else, is remembered too, so that it is not tried at every start: `vedette engine build` tries again, and so
//! does another version of the agent. So is what ended the process three times while it was begun to be used (`trials`).
//!
//! Locks, both flock(2), so that the end of a process frees them: `.lock`, exclusively, of who builds or lets go; a key's
//! directory, shared, of who loads or runs its plans, and exclusively, of who removes it to make room. Building a key's
//! plans anew replaces its directory whoever holds it: those have read theirs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use crate::base::clock::Wall;
use crate::base::{atomic_file, digest};

/// The file that says what the others are.
const LISTING: &str = "plans.json";
const PART: &str = ".part";
/// How often a plan was begun to be used without a good end.
const TRIAL: &str = "trials";
/// So many, and it is to blame.
const TRIALS: u32 = 3;
/// What refuses.
const AGENT: &str = env!("CARGO_PKG_VERSION");
/// Room that a build has to have on the disk.
const ROOM_BYTES: u64 = 128 * 1024 * 1024;
/// What a listing may be at most; a larger one is none of ours.
const LISTING_MAX_BYTES: u64 = 64 * 1024;

/// What plans are good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// "name version" of the model.
    pub model: String,
    /// SHA-256 of its manifest, and so of all of it.
    pub model_sha256: String,
    /// "TensorRT 10.3.0".
    pub tensorrt: String,
    /// CUDA's version, of the driver: 12060 is 12.6.
    pub cuda: i32,
    /// Name, compute capability and multiprocessors of the GPU.
    pub gpu: String,
    /// "fp16" or "fp32".
    pub precision: String,
    /// The largest batch.
    pub max_batch: usize,
    /// The batch that it is made fastest for.
    pub likely_batch: usize,
    /// With a deep learning accelerator.
    pub dla_core: Option<u8>,
    /// Largest scratch memory of a layer.
    pub workspace_bytes: u64,
}

impl Key {
    /// Its directory's name.
    pub fn id(&self) -> String {
        digest::of_bytes(&serde_json::to_vec(self).expect("plain data"))[..16].to_owned()
    }

    /// Whether `self` and `other` are of the same machine: plans of another one can never be used here again.
    fn same_machine(&self, other: &Key) -> bool {
        (&self.tensorrt, self.cuda, &self.gpu) == (&other.tensorrt, other.cuda, &other.gpu)
    }
}

/// TensorRT and GPU of a machine, as keys have them.
pub fn names_of(machine: &Machine) -> (String, String) {
    let gpu = &machine.gpu;
    let (major, minor) = gpu.compute_capability;
    (
        format!("{} {}", machine.flavour, machine.version),
        format!("{}, {major}.{minor}, {} multiprocessors", gpu.name, gpu.multiprocessors),
    )
}

/// A file as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// In lower-case hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// `plans.json`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// What it is good for.
    pub key: Key,
    /// Of the encoder; none: see `refused`.
    pub encoder: Option<Written>,
    /// Of the head.
    pub head: Option<Written>,
    /// When it was built, in milliseconds since 1970, by this machine's clock.
    pub built_unix_ms: u64,
    /// How long that took.
    pub build_s: f64,
    /// Why it is not used: the build failed, or what was built did not prove itself.
    pub refused: Option<String>,
    /// The agent that says so: another one may do better.
    pub agent: String,
}

/// What there is for a key.
#[derive(Debug)]
pub enum Found {
    /// Both plans, as they were written.
    Plans {
        /// Of the encoder.
        encoder: Vec<u8>,
        /// Of the head.
        head: Vec<u8>,
    },
    /// It was tried, and this is why it is not used.
    Refused(String),
    /// Nothing, or nothing that can be used, and why.
    Nothing(String),
}

/// Why plans cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("plans cannot be kept: cannot {operation} {}", path.display())]
pub struct CacheError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl CacheError {
    /// Somebody else is at it, or the disk is full: it may be otherwise in a while.
    pub fn may_pass(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::StorageFull)
    }
}

/// Nobody else builds, or lets plans go, while this is held.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "what counts is that it is open")] fs::File);

/// A key's plans are not let go by [`Cache::collect`] while this is held: they are being loaded, or they serve.
#[derive(Debug)]
pub struct InUse(#[expect(dead_code, reason = "what counts is that it is open")] fs::File);

/// One set of plans that is there.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its directory's name.
    pub id: String,
    /// What it says; none where that cannot be read.
    pub listing: Option<Listing>,
    /// What it takes on the disk.
    pub bytes: u64,
}

/// See the module's doc.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// The cache below a state directory. Nothing is made or read yet.
    pub fn new(state_dir: &Path) -> Cache {
        Cache { dir: state_dir.join("engines") }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes the lock of those who build and those who let plans go; does not wait for it.
    pub fn lock(&self) -> Result<Lock, CacheError> {
        fs::create_dir_all(&self.dir).map_err(fail("create", &self.dir))?;
        let path = self.dir.join(".lock");
        let lock = fs::File::create(&path).map_err(fail("write", &path))?;
        let busy = |_| io::Error::new(io::ErrorKind::WouldBlock, "another process is building here; wait for its end");
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(busy).map_err(fail("lock", &path))?;
        Ok(Lock(lock))
    }

    /// Marks a key's plans as in use; none: there are none.
    pub fn hold(&self, key: &Key) -> Option<InUse> {
        let dir = fs::File::open(self.dir.join(key.id())).ok()?;
        // Whoever has it exclusively is about to remove it, which takes no time.
        flock(&dir, FlockOperation::LockShared).ok()?;
        Some(InUse(dir))
    }

    /// Whether it can be written, asked before minutes of building and not after. Sweeps what a build left half done. While
    /// what it gives is held, nobody else builds here.
    pub fn make_ready(&self) -> Result<Lock, CacheError> {
        let lock = self.lock()?;
        let room = rustix::fs::statvfs(&self.dir).map(|s| s.f_bavail.saturating_mul(s.f_frsize));
        if let Ok(bytes) = room
            && bytes < ROOM_BYTES
        {
            let words = format!("{} MB are free, and a build needs {}", bytes / 1_000_000, ROOM_BYTES / 1_000_000);
            return Err(fail("build in", &self.dir)(io::Error::new(io::ErrorKind::StorageFull, words)));
        }
        let probe = self.dir.join(".probe");
        atomic_file::write(&probe, b"").map_err(fail("write", &probe))?;
        fs::remove_file(&probe).map_err(fail("remove", &probe))?;
        for entry in fs::read_dir(&self.dir).map_err(fail("read", &self.dir))?.flatten() {
            if entry.file_name().to_string_lossy().ends_with(PART) {
                fs::remove_dir_all(entry.path()).map_err(fail("remove", &entry.path()))?;
            }
        }
        Ok(lock)
    }

    /// What there is for a key; nothing is trusted that is not as it was written.
    pub fn find(&self, key: &Key) -> Found {
        let dir = self.dir.join(key.id());
        let listing = match read_listing(&dir) {
            Ok(listing) => listing,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Found::Nothing("there is none yet".into()),
            Err(e) => return Found::Nothing(format!("{}: {e}", dir.join(LISTING).display())),
        };
        if listing.key != *key {
            return Found::Nothing(format!("{} is for something else", dir.display()));
        }
        match listing.refused {
            Some(why) if listing.agent == AGENT => return Found::Refused(why),
            Some(_) => return Found::Nothing("it was refused by another version of the agent".into()),
            None => {}
        }
        let trials = self.trials(key);
        if trials >= TRIALS {
            return Found::Refused(format!(
                "{trials} times the agent ended, or lost the GPU, while it began to use it"
            ));
        }
        let plan = |name: &str, written: Option<Written>| {
            let path = dir.join(name);
            let written = written.ok_or_else(|| format!("{} is not listed", path.display()))?;
            let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            if bytes.len() as u64 != written.bytes || digest::of_bytes(&bytes) != written.sha256 {
                return Err(format!("{} is damaged", path.display()));
            }
            Ok(bytes)
        };
        match (plan("encoder.plan", listing.encoder), plan("head.plan", listing.head)) {
            (Ok(encoder), Ok(head)) => Found::Plans { encoder, head },
            (Err(why), _) | (_, Err(why)) => Found::Nothing(why),
        }
    }

    /// An empty directory to build a key's plans in.
    pub fn begin(&self, key: &Key) -> Result<PathBuf, CacheError> {
        self.empty(&format!("{}{PART}", key.id()))
    }

    fn empty(&self, name: &str) -> Result<PathBuf, CacheError> {
        let part = self.dir.join(name);
        let fail = |source| CacheError { operation: "make an empty directory of", path: part.clone(), source };
        match fs::remove_dir_all(&part) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
            _ => {}
        }
        fs::create_dir(&part).map_err(fail)?;
        Ok(part)
    }

    /// Takes over what was built in the directory that `begin` gave.
    pub fn finish(&self, key: &Key, built_at: Wall, build_s: f64) -> Result<(), CacheError> {
        let part = self.dir.join(format!("{}{PART}", key.id()));
        let written = |name: &str| {
            let path = part.join(name);
            let (sha256, bytes) =
                digest::of_file(&path).map_err(|source| CacheError { operation: "read", path, source })?;
            Ok(Some(Written { sha256, bytes }))
        };
        let listing = Listing {
            key: key.clone(),
            encoder: written("encoder.plan")?,
            head: written("head.plan")?,
            built_unix_ms: built_at.unix_ms().cast_unsigned(),
            build_s,
            refused: None,
            agent: AGENT.into(),
        };
        self.publish(&part, &listing)
    }

    /// Remembers that a key's plans are not to be used, and lets them go.
    pub fn refuse(&self, key: &Key, why: &str, at: Wall) -> Result<(), CacheError> {
        // Another name than a build's, which may be going on.
        let part = self.empty(&format!("{}-refused{PART}", key.id()))?;
        let listing = Listing {
            key: key.clone(),
            encoder: None,
            head: None,
            built_unix_ms: at.unix_ms().cast_unsigned(),
            build_s: 0.0,
            refused: Some(why.chars().take(2000).collect()),
            agent: AGENT.into(),
        };
        self.publish(&part, &listing)
    }

    /// Notes, before a plan is used, that it is about to be: should it take the process with it, it is not used for ever.
    pub fn begin_trial(&self, key: &Key) -> Result<(), CacheError> {
        let path = self.dir.join(key.id()).join(TRIAL);
        let text = (self.trials(key) + 1).to_string();
        atomic_file::write(&path, text.as_bytes()).map_err(|source| CacheError { operation: "write", path, source })
    }

    /// It serves well, or was refused in good order.
    pub fn end_trial(&self, key: &Key) {
        let path = self.dir.join(key.id()).join(TRIAL);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => log::warn!("tensorrt: {}: {e}", path.display()),
            _ => {}
        }
    }

    fn trials(&self, key: &Key) -> u32 {
        let text = fs::read_to_string(self.dir.join(key.id()).join(TRIAL)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    fn publish(&self, part: &Path, listing: &Listing) -> Result<(), CacheError> {
        let dir = self.dir.join(listing.key.id());
        let fail = |operation, path: PathBuf| move |source| CacheError { operation, path, source };
        let text = serde_json::to_vec_pretty(listing).expect("plain data");
        let path = part.join(LISTING);
        atomic_file::write(&path, &text).map_err(fail("write", path))?;
        for name in ["encoder.plan", "head.plan"] {
            match fs::File::open(part.join(name)).and_then(|f| f.sync_all()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail("sync", part.join(name))(e)),
                _ => {}
            }
        }
        self.remove(&listing.key.id())?;
        fs::rename(part, &dir).map_err(fail("rename", part.to_path_buf()))?;
        atomic_file::sync_parent(&dir).map_err(fail("sync", dir))
    }

    /// Lets a key's plans go; whether there were any.
    pub fn remove(&self, id: &str) -> Result<bool, CacheError> {
        let dir = self.dir.join(id);
        match fs::remove_dir_all(&dir) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(CacheError { operation: "remove", path: dir, source }),
        }
    }

    /// Everything that is there, newest first.
    pub fn list(&self) -> Vec<Entry> {
        let Ok(read) = fs::read_dir(&self.dir) else { return Vec::new() };
        let is_id = |name: &str| name.len() == 16 && name.chars().all(|c| c.is_ascii_hexdigit());
        let mut entries: Vec<Entry> = read
            .flatten()
            .filter_map(|entry| {
                let id = entry.file_name().to_string_lossy().into_owned();
                is_id(&id).then(|| Entry {
                    listing: read_listing(&entry.path()).ok(),
                    bytes: bytes_below(&entry.path()),
                    id,
                })
            })
            .collect();
        entries.sort_by_key(|e| std::cmp::Reverse(e.listing.as_ref().map_or(0, |l| l.built_unix_ms)));
        entries
    }

    /// Lets go what is not needed: what cannot be read, what is of another machine than `of`, and then the oldest until
    /// no more than `most_bytes` are left. Never what `keep` names, nor what somebody holds. The ids that went.
    pub fn collect(
        &self,
        _lock: &Lock,
        of: Option<&Key>,
        keep: &[String],
        most_bytes: u64,
    ) -> Result<Vec<String>, CacheError> {
        let mut gone = Vec::new();
        for id in to_collect(&self.list(), of, keep, most_bytes) {
            let path = self.dir.join(&id);
            let dir = fs::File::open(&path).map_err(fail("open", &path))?;
            if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
                log::info!("tensorrt: {} is in use, and stays", path.display());
                continue;
            }
            self.remove(&id)?;
            gone.push(id);
        }
        if let Some(key) = of {
            self.forget_timings(&self.timing_path(key));
        }
        Ok(gone)
    }

    /// Lets go the timing caches of other machines.
    fn forget_timings(&self, but: &Path) {
        let Ok(read) = fs::read_dir(&self.dir) else { return };
        let is_timing = |e: &fs::DirEntry| e.file_name().to_string_lossy().starts_with("timing-");
        for entry in read.flatten().filter(is_timing).filter(|e| e.path() != but) {
            if let Err(e) = fs::remove_file(entry.path()) {
                log::debug!("tensorrt: {}: {e}", entry.path().display());
            }
        }
    }

    /// Where the timing cache of a machine is.
    pub fn timing_path(&self, key: &Key) -> PathBuf {
        let machine = format!("{} {} {}", key.tensorrt, key.cuda, key.gpu);
        self.dir.join(format!("timing-{}", &digest::of_bytes(machine.as_bytes())[..16]))
    }
}

fn fail(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> CacheError + use<> {
    let path = path.to_path_buf();
    move |source| CacheError { operation, path: path.clone(), source }
}

/// See [`Cache::collect`]; `entries` newest first.
fn to_collect(entries: &[Entry], of: Option<&Key>, keep: &[String], most_bytes: u64) -> Vec<String> {
    let mut left = most_bytes;
    let mut gone = Vec::new();
    let kept: u64 = entries.iter().filter(|e| keep.contains(&e.id)).map(|e| e.bytes).sum();
    left = left.saturating_sub(kept);
    for entry in entries.iter().filter(|e| !keep.contains(&e.id)) {
        let of_here = match (&entry.listing, of) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(listing), Some(key)) => listing.key.same_machine(key),
        };
        if of_here && entry.bytes <= left {
            left -= entry.bytes;
        } else {
            gone.push(entry.id.clone());
        }
    }
    gone
}

fn read_listing(dir: &Path) -> io::Result<Listing> {
    let path = dir.join(LISTING);
    if fs::metadata(&path)?.len() > LISTING_MAX_BYTES {
        return Err(io::Error::other("too large"));
    }
    serde_json::from_slice(&fs::read(&path)?).map_err(io::Error::other)
}

fn bytes_below(dir: &Path) -> u64 {
    let read = fs::read_dir(dir).into_iter().flatten().flatten();
    read.filter_map(|entry| entry.metadata().ok()).map(|m| m.len()).sum()
}

#[cfg(test)]
mod tests;
