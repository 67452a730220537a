//! What the repository's signed metadata say, by TUF, through `tough`: nothing that is installed is decided by anything
//! else.
//!
//! ```text
//!   the pinned root ─► roots/2.root.json ─► ... each signed by the one before ─► timestamp ─► snapshot ─► targets
//!                      (kept here, verified again at every look)
//! ```
//!
//! `tough` does the verifying. Around it stands what it leaves to us:
//!
//! - It begins at the root that it is given and, whenever that root's keys of timestamp and snapshot are not the newest
//!   root's, forgets which versions it has seen. Given the pinned root for ever it would forget at every look: so the
//!   chain that was seen is kept and walked again.
//! - Its files are not written atomically, and one that a power cut has emptied counts as none: it works on a copy, which
//!   is taken over file by file.
//! - After one step of the clock into the future it refuses everything until that time: while the device knows the time of
//!   day, that memory alone is let go. A device that does not know it looks at nothing; one whose clock stands before the
//!   newest signature that it has seen knows that it is wrong.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use tough::schema::{Root, Signed, Target};
use tough::{
    ExpirationEnforcement, Limits, Repository, RepositoryLoader, TargetName, Transport, TransportError,
    TransportErrorKind, TransportStream,
};
use url::Url;

use super::fault::Trouble;
use super::remote::{Remote, RemoteError};
use crate::base::atomic_file;
use crate::base::clock::Wall;
use crate::contract::update::{CUSTOM, ReleaseFacts, UpdateFault};

/// No metadata file has more.
const METADATA_MAX_BYTES: u64 = 8 << 20;
/// Roots from one look to the next: more is an attack, or a device that was away for many years.
const ROOTS_MAX: u64 = 256;
/// The highest number that a release may have: after it there would be none.
pub const RELEASE_MAX: u64 = 1_000_000_000;
/// A manifest has at most so much.
pub const MANIFEST_MAX_BYTES: u64 = 1 << 20;
/// What `tough` keeps, that we keep for it.
const KEPT: [&str; 4] = ["timestamp.json", "snapshot.json", "targets.json", LATEST_TIME];
const LATEST_TIME: &str = "latest_known_time.json";

/// A release as it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// What is said of it.
    pub facts: ReleaseFacts,
    /// SHA-256 of its manifest, lower-case hexadecimal: the model's digest.
    pub digest: String,
    /// Bytes of its manifest.
    pub size_bytes: u64,
}

impl Release {
    /// The name of its target.
    pub fn target(&self) -> String {
        format!("{}-{}.manifest.toml", self.facts.model, self.facts.version)
    }
}

/// What one look found.
pub struct Listing {
    repository: Repository,
    releases: BTreeMap<u64, Result<Release, String>>,
    /// The newest time that something signed was signed at.
    pub newest_signed: Wall,
    /// When the first of the roles expires.
    pub expires: Wall,
}

impl Listing {
    /// A release by its number.
    pub fn release(&self, number: u64) -> Result<&Release, Trouble> {
        match self.releases.get(&number) {
            Some(Ok(release)) => Ok(release),
            Some(Err(why)) => Err(Trouble::fault(UpdateFault::ExtraneousTarget, why.clone())),
            None => {
                let newest = self.newest().map_or("it has none".to_owned(), |n| format!("its newest is {n}"));
                let words = format!("the signed metadata list no release {number}; {newest}");
                Err(Trouble::fault(UpdateFault::ExtraneousTarget, words))
            }
        }
    }

    /// The number of the newest release.
    pub fn newest(&self) -> Option<u64> {
        self.releases.keys().next_back().copied()
    }

    /// A release's manifest, verified.
    pub async fn manifest(&self, release: &Release) -> Result<Vec<u8>, Trouble> {
        use futures_util::TryStreamExt;
        let name = TargetName::new(release.target()).map_err(|e| Trouble::of_tuf(&e))?;
        let stream = self.repository.read_target(&name).await.map_err(|e| Trouble::of_tuf(&e))?;
        let Some(stream) = stream else {
            let words = format!("{} is not among the signed targets", release.target());
            return Err(Trouble::fault(UpdateFault::ExtraneousTarget, words));
        };
        let bytes = stream.try_fold(Vec::new(), |mut all: Vec<u8>, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        });
        bytes.await.map_err(|e| match Trouble::of_tuf(&e) {
            // Of a target this is not about metadata that do not belong together.
            Trouble::Fault(r) if r.fault == UpdateFault::MixAndMatch => {
                Trouble::fault(UpdateFault::DamagedFile, r.words)
            }
            other => other,
        })
    }
}

/// See the module's doc.
pub struct Trust {
    dir: PathBuf,
    pinned: Vec<u8>,
}

impl Trust {
    /// What is kept in `dir` between one look and the next; all trust begins at `pinned`.
    pub fn new(dir: &Path, pinned: Vec<u8>) -> Trust {
        Trust { dir: dir.into(), pinned }
    }

    /// Looks at the repository by the clock, which is known to be right; `newest_signed` is that of the look before.
    pub async fn look(&self, remote: &Remote, now: Wall, newest_signed: Wall) -> Result<Listing, Trouble> {
        if now < newest_signed {
            return Err(Trouble::Wait(format!(
                "the clock says {}, and something that this device has seen was signed at {}: the clock is wrong",
                now.rfc3339(),
                newest_signed.rfc3339()
            )));
        }
        let disk = |e: io::Error| Trouble::Wait(format!("{}: {e}", self.dir.display()));
        let root = self.trusted_root().map_err(disk)?;
        let work = self.dir.join("work");
        self.copy_out(&work, now).map_err(disk)?;
        let seen = Roots::default();
        let transport = Fetch { remote: remote.clone(), roots: seen.clone() };
        let base = |path| remote.place(path);
        let limits = Limits {
            max_root_size: 1 << 20,
            max_targets_size: METADATA_MAX_BYTES,
            max_timestamp_size: 1 << 20,
            max_snapshot_size: 1 << 20,
            max_root_updates: ROOTS_MAX,
        };
        let loaded = RepositoryLoader::new(&root, base("metadata/"), base("targets/"))
            .transport(transport)
            .limits(limits)
            .datastore(&work)
            .expiration_enforcement(ExpirationEnforcement::Safe)
            .load()
            .await;
        // What was verified before something was not is kept: the specification has it so, and an older one would pass later.
        self.keep_roots(&work, &seen).and_then(|()| self.copy_back(&work)).map_err(disk)?;
        if let Some(kept_back) = seen.0.lock().expect("nothing panics under this lock").kept_back.take() {
            return Err(kept_back);
        }
        let repository = loaded.map_err(|e| Trouble::of_tuf(&e))?;
        let releases = releases(repository.targets().signed.targets.iter());
        // One of the future says nothing of the present: a wrong clock of who signed it must not stop devices until then.
        let signed = releases.values().flatten().filter_map(|r| time(&r.facts.published));
        let newest = signed.filter(|t| *t <= now).max();
        let expires = [
            repository.root().signed.expires,
            repository.timestamp().signed.expires,
            repository.snapshot().signed.expires,
            repository.targets().signed.expires,
        ];
        let expires = expires.iter().map(|t| Wall::from_unix_ms(t.as_millisecond())).min().unwrap_or(now);
        Ok(Listing { expires, newest_signed: newest.unwrap_or(newest_signed).max(newest_signed), repository, releases })
    }

    /// The newest root to which a chain leads from the pinned one.
    fn trusted_root(&self) -> io::Result<Vec<u8>> {
        let Ok(mut root) = serde_json::from_slice::<Signed<Root>>(&self.pinned) else {
            // `tough` says what is wrong with it.
            return Ok(self.pinned.clone());
        };
        let mut bytes = self.pinned.clone();
        loop {
            let path = self.root_path(root.signed.version.get() + 1);
            let next = match fs::read(&path) {
                Ok(next) => next,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(bytes),
                Err(e) => return Err(e),
            };
            let verified = serde_json::from_slice::<Signed<Root>>(&next).ok().filter(|next| {
                next.signed.version.get() == root.signed.version.get() + 1
                    && root.signed.verify_role(next).is_ok()
                    && next.signed.verify_role(next).is_ok()
            });
            let Some(verified) = verified else {
                log::warn!("{} is not what was verified: it is fetched again", path.display());
                fs::remove_file(&path)?;
                return Ok(bytes);
            };
            (root, bytes) = (verified, next);
        }
    }

    fn root_path(&self, version: u64) -> PathBuf {
        self.dir.join("roots").join(format!("{version}.root.json"))
    }

    /// Keeps the roots that were fetched and led to the one that `tough` ended at.
    fn keep_roots(&self, work: &Path, seen: &Roots) -> io::Result<()> {
        let newest =
            fs::read(work.join("root.json")).ok().and_then(|b| serde_json::from_slice::<Signed<Root>>(&b).ok());
        let Some(newest) = newest else { return Ok(()) };
        let mut seen = seen.0.lock().expect("nothing panics under this lock");
        for (version, bytes) in std::mem::take(&mut seen.fetched) {
            let path = self.root_path(version);
            if version <= newest.signed.version.get() && !path.exists() {
                atomic_file::write(&path, &bytes)?;
            }
        }
        Ok(())
    }

    fn copy_out(&self, work: &Path, now: Wall) -> io::Result<()> {
        fs::create_dir_all(self.dir.join("roots"))?;
        match fs::remove_dir_all(work) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => fs::create_dir_all(work)?,
        }
        for name in KEPT {
            let bytes = match fs::read(self.dir.join(name)) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let ahead = || serde_json::from_slice::<String>(&bytes).ok().and_then(|t| time(&t)).filter(|t| *t > now);
            if name == LATEST_TIME
                && let Some(ahead) = ahead()
            {
                log::warn!(
                    "the clock was at {} once, and is at {} now that the device knows the time: the earlier one is let go",
                    ahead.rfc3339(),
                    now.rfc3339()
                );
                fs::remove_file(self.dir.join(name))?;
                continue;
            }
            fs::write(work.join(name), bytes)?;
        }
        Ok(())
    }

    fn copy_back(&self, work: &Path) -> io::Result<()> {
        for name in KEPT {
            let (from, to) = (work.join(name), self.dir.join(name));
            match fs::read(&from) {
                Ok(bytes) if fs::read(&to).is_ok_and(|there| there == bytes) => {}
                Ok(bytes) => atomic_file::write(&to, &bytes)?,
                // `tough` lets go of what a rotated key has signed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => match fs::remove_file(&to) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                },
                Err(e) => return Err(e),
            }
        }
        // The copy stays until the next look: `tough` asks it for the time with every target.
        Ok(())
    }
}

fn time(text: &str) -> Option<Wall> {
    text.parse::<jiff::Timestamp>().ok().map(|t| Wall::from_unix_ms(t.as_millisecond()))
}

/// The releases among the targets. A number that two have is nobody's.
fn releases<'a>(targets: impl Iterator<Item = (&'a TargetName, &'a Target)>) -> BTreeMap<u64, Result<Release, String>> {
    let mut found: BTreeMap<u64, Result<Release, String>> = BTreeMap::new();
    for (name, target) in targets {
        // Others may use the same repository.
        let Some(custom) = target.custom.get(CUSTOM) else { continue };
        let Ok(facts) = serde_json::from_value::<ReleaseFacts>(custom.clone()) else { continue };
        let number = facts.release;
        let digest: String = target.hashes.sha256.iter().map(|b| format!("{b:02x}")).collect();
        let release = Release { facts, digest, size_bytes: target.length };
        let wrong = if found.contains_key(&number) {
            Some(format!("two signed targets say that they are release {number}"))
        } else if release.target() != name.raw() {
            Some(format!("release {number} is signed as {:?}, and its name says {:?}", name.raw(), release.target()))
        } else if number == 0 || number > RELEASE_MAX {
            Some(format!("{number} is no release's number: 1 to {RELEASE_MAX}"))
        } else if target.length > MANIFEST_MAX_BYTES {
            Some(format!("the manifest of release {number} has {} bytes", target.length))
        } else {
            None
        };
        found.insert(number, wrong.map_or(Ok(release), Err));
    }
    found
}

/// Roots as they were fetched, by version.
#[derive(Debug, Clone, Default)]
struct Roots(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    fetched: BTreeMap<u64, Vec<u8>>,
    /// A next root that is there and cannot be had: to `tough` it is none, and everything goes on as if nothing were newer.
    kept_back: Option<Trouble>,
}

/// `tough`'s way to the repository.
#[derive(Debug, Clone)]
struct Fetch {
    remote: Remote,
    roots: Roots,
}

#[async_trait]
impl Transport for Fetch {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let file = url.path().rsplit('/').next().unwrap_or_default();
        let bytes = self.remote.whole(&url, METADATA_MAX_BYTES).await.map_err(|e| {
            if file.ends_with(".root.json") && !matches!(e, RemoteError::NotFound { .. }) {
                let mut seen = self.roots.0.lock().expect("nothing panics under this lock");
                seen.kept_back = Some(Trouble::of_remote(&e));
            }
            let kind = match &e {
                RemoteError::NotFound { .. } => TransportErrorKind::FileNotFound,
                _ => TransportErrorKind::Other,
            };
            TransportError::new_with_cause(kind, url.as_str(), e)
        })?;
        if let Some(version) = file.strip_suffix(".root.json").and_then(|v| v.parse().ok()) {
            self.roots.0.lock().expect("nothing panics under this lock").fetched.insert(version, bytes.clone());
        }
        Ok(Box::pin(futures_util::stream::iter([Ok(Bytes::from(bytes))])))
    }
}
